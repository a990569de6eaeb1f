# SPDX-License-Identifier: Apache-2.0
"""Boxes of buffers: what blocks touch while the loops below some loop run."""

from __future__ import annotations

from collections.abc import Iterable

from heddle.ir.expr import Expr, Var, as_int, const
from heddle.ir.walk import substitute, uses_var
from heddle.schedule.affine import Box1, estimate, union
from heddle.schedule.region import all_reads
from heddle.schedule.state import State
from heddle.tir.nodes import Block, Buffer, BufferRegion, For, Stmt


def loop_domain(loops: Iterable[Stmt]) -> dict[Var, tuple[Expr, Expr]]:
    """The domains of the loops among some statements."""
    return {loop.var: (loop.min, loop.extent) for loop in loops if type(loop) is For}


def loops_between(state: State, target: For, block: Block) -> list[For]:
    """The loops below `target` and around `block`, outermost first; empty when it is not inside."""
    path = state.path(block)
    start = next((n for n, stmt in enumerate(path) if stmt is target), len(path))
    return [stmt for stmt in path[start + 1 :] if type(stmt) is For]


def needed_box(
    state: State, buffer: Buffer, users: Iterable[Block], target: For, what: str
) -> list[Box1 | None]:
    """For each dimension, what `users` touch of `buffer` in one iteration of `target`; None where
    that is not known (then it is the whole dimension). `what` is "reads" or "writes"."""
    result: list[Box1 | None] | None = None
    for user in users:
        inner = loop_domain(loops_between(state, target, user))
        values: dict[Var, Expr] = {bound.var: bound.binding for bound in user.iters}
        for region in all_reads(user) if what == "reads" else user.writes:
            if region.buffer is buffer:
                box = region_box(region, values, inner)
                result = box if result is None else _merge(result, box)
    return [None] * buffer.ndim if result is None else result


def region_box(
    region: BufferRegion, values: dict[Var, Expr], inner: dict[Var, tuple[Expr, Expr]]
) -> list[Box1 | None]:
    """A region of a block, with its iteration variables bound, while `inner` loops run."""
    points, domain = region_points(region, values, inner)
    return [None if index is None else estimate(index, domain) for index in points]


def region_points(
    region: BufferRegion, values: dict[Var, Expr], inner: dict[Var, tuple[Expr, Expr]]
) -> tuple[list[Expr | None], dict[Var, tuple[Expr, Expr]]]:
    """The indices that a region stands for and the loops that they run through: `inner`, and one
    more for each dimension in which it is longer than one element. An index is None where that
    length depends on `inner`."""
    points: list[Expr | None] = []
    domain = dict(inner)
    for part in region.ranges:
        index: Expr | None = substitute(part.min, values)
        if index is not None and as_int(part.extent) != 1:
            size = substitute(part.extent, values)
            step = Var("step")
            domain[step] = (const(0), size)
            index = None if uses_var(size, set(inner)) else index + step
        points.append(index)
    return points, domain


def _merge(a: list[Box1 | None], b: list[Box1 | None]) -> list[Box1 | None]:
    return [None if x is None or y is None else union(x, y) for x, y in zip(a, b, strict=True)]
