# SPDX-License-Identifier: Apache-2.0
"""While a task computes, bring near what the next one reads.

    for t in parallel(64):                     for t in parallel(64):
        for i in range(16):                        for i in range(16):
            for k in range(48):  # annotated  ->       for k in range(48):
                ... w[t * 2304 + k * 48 + ...]             prefetch(w[(t + 1) * 2304 + ...])
                                                           ... w[t * 2304 + k * 48 + ...]

A loop annotated `{"prefetch_next": name}` spreads the cache lines that the next iteration of the
parallel loop around it reads from the buffer over its own iterations and those of the loops
between. Weights that come from memory then arrive while there is work to do.
"""

from __future__ import annotations

from typing import Final

from heddle.arith import Analyzer
from heddle.ir.expr import Expr, Var, as_int, const
from heddle.ir.walk import pre_order, rewrite, substitute
from heddle.schedule.pipeline import PREFETCH
from heddle.tir.build import seq
from heddle.tir.intrin import prefetch
from heddle.tir.nodes import BufferLoad, Evaluate, For, ForKind, PrimFunc, Stmt

_LINE_BYTES: Final = 64
_MOST_LINES: Final = 32
"""Lines per iteration that may be fetched; more would be a stream of its own."""


def insert_prefetches(func: PrimFunc) -> PrimFunc:
    """`func` (flat) with the prefetches that its annotations ask for."""
    if not any(isinstance(n, For) and PREFETCH in n.annotations for n in pre_order(func.body)):
        return func
    changes: dict[For, For] = {}
    _collect(func.body, [], changes)
    return func.replace(body=rewrite(func.body, {}, memo=dict(changes)))


def _collect(stmt: Stmt, around: list[For], changes: dict[For, For]) -> None:
    if isinstance(stmt, For):
        if PREFETCH in stmt.annotations:
            changes[stmt] = _with_prefetch(stmt, [*around, stmt])
            return
        around = [*around, stmt]
    for child in stmt.children():
        if isinstance(child, Stmt):
            _collect(child, around, changes)


def _with_prefetch(loop: For, around: list[For]) -> For:
    """`loop` with prefetches at the start of its body, or as it is when they would not pay."""
    name = loop.annotations[PREFETCH]
    rest = {key: value for key, value in loop.annotations.items() if key != PREFETCH}
    plain: For = loop.replace(annotations=rest)
    starts = [i for i, outer in enumerate(around) if outer.kind is ForKind.PARALLEL]
    nodes = list(pre_order(loop.body))
    loads = [n for n in nodes if isinstance(n, BufferLoad) and n.buffer.name == name]
    extents = [as_int(n.extent) for n in around[starts[-1] + 1 :]] if starts else [None]
    if not loads or None in extents:
        return plain
    task, walked = around[starts[-1]], around[starts[-1] + 1 :]
    inner = [*walked, *(n for n in nodes if isinstance(n, For))]
    first = substitute(loads[0].indices[0], {n.var: n.min for n in inner})
    span = _span(loads[0].indices[0] - first, [*around[: starts[-1] + 1], *inner])
    if span is None:
        return plain
    per_line = _LINE_BYTES // loads[0].buffer.dtype.nbytes
    steps, position = 1, const(0)
    for outer in walked:
        position = position * outer.extent + (outer.var - outer.min)
        steps *= as_int(outer.extent) or 1
    lines = -(-span // (per_line * steps))
    if lines > _MOST_LINES:
        return plain
    start = substitute(first, {task.var: task.var + 1})
    fetches = []
    for line in range(lines):
        place = start + (position * lines + line) * per_line
        fetches.append(Evaluate(prefetch(BufferLoad(loads[0].buffer, (place,)))))
    result: For = plain.replace(body=seq(*fetches, plain.body))
    return result


def _span(offset: Expr, loops: list[For]) -> int | None:
    """One more than the largest value of `offset`, when it starts at 0 and is bounded."""
    analyzer = Analyzer()
    bound: set[Var] = set()
    for loop in loops:
        if loop.var not in bound:
            analyzer.bind(loop.var, loop.min, loop.extent)
            bound.add(loop.var)
    interval = analyzer.bounds(offset)
    if interval.lo != 0 or not isinstance(interval.hi, int):
        return None
    return interval.hi + 1
