# SPDX-License-Identifier: Apache-2.0
"""`reverse_compute_at` where what one iteration produces is no box: the consumer runs through the
same points as its producer, in copies of its loops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from heddle.ir.expr import Expr, Var, as_int, const, logical_and
from heddle.ir.structural import structural_equal
from heddle.ir.walk import substitute, uses_var
from heddle.schedule.affine import affine, is_product
from heddle.schedule.boxes import loop_domain, loops_between, region_box, region_points
from heddle.schedule.primitives.base import fail
from heddle.schedule.region import expr_key
from heddle.tir.build import TRUE
from heddle.tir.nodes import Block, BufferRegion, For, ForKind, IterKind, IterVar, Stmt
from heddle.tir.predicate import conjuncts

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule

_NAME = "reverse_compute_at"


def mirror(sch: Schedule, node: Block, producers: list[Block], target: For) -> Stmt | None:
    """`node` at the points that one iteration of `target` produces; None when they are a box.

    for fo in range(12):                      for fo in range(12):
        for fi in range(4):                       for fi in range(4):
            B[(fo*4 + fi) // 6,       ->              B[(fo*4 + fi) // 6, ...] = ...
              (fo*4 + fi) % 6] = ...              for fi in range(4):
                                                      C[(fo*4 + fi) // 6, ...] = B[...]
    """
    for producer in reversed(producers):
        values: dict[Var, Expr] = {bound.var: bound.binding for bound in producer.iters}
        loops = loops_between(sch.state, target, producer)
        inner = loop_domain(loops)
        for region in producer.writes:
            read = [r for r in node.reads if r.buffer is region.buffer]
            points, domain = region_points(region, values, inner)
            indices = [index for index in points if index is not None]
            if not read or is_product(indices, region_box(region, values, inner), domain):
                continue
            if len(domain) > len(inner):
                raise fail(
                    sch,
                    _NAME,
                    f"block `{producer.name}` writes boxes of `{region.buffer.name}`, and what one "
                    "iteration of the loop writes is none; move the block before blockize",
                    producer,
                )
            if len({r.buffer for p in producers for r in p.writes}) > 1:
                raise fail(
                    sch,
                    _NAME,
                    f"block `{node.name}` reads several buffers that the loop produces, and "
                    f"its part of `{region.buffer.name}` is no box",
                    node,
                )
            _check_same_part(sch, node, region, producers, target)
            return _mirrored(sch, node, read, producer, region, loops, indices)
    return None


def _check_same_part(
    sch: Schedule, node: Block, region: BufferRegion, producers: list[Block], target: For
) -> None:
    """Raise when the blocks that write the buffer of `region` write different parts of it: they
    must run through the same points, loop by loop."""
    parts: list[Any] = []
    names: dict[int, Var] = {}
    for producer in producers:
        loops = loops_between(sch.state, target, producer)
        values: dict[Var, Expr] = {bound.var: bound.binding for bound in producer.iters}
        for written in producer.writes:
            if written.buffer is region.buffer:
                points, _ = region_points(written, values, loop_domain(loops))
                used = [n for n in loops if any(p is None or uses_var(p, n.var) for p in points)]
                alike: dict[Var, Expr] = {
                    n.var: names.setdefault(at, Var(f"loop{at}")) for at, n in enumerate(used)
                }
                sizes = [expr for n in used for expr in (n.min, n.extent)]
                items = [*sizes, *(p for p in points if p is not None)]
                parts.append([expr_key(substitute(item, alike)) for item in items])
    if any(part != parts[0] for part in parts):
        raise fail(
            sch,
            _NAME,
            f"several blocks write parts of `{region.buffer.name}`, which `{node.name}` reads, and "
            "the parts are no boxes; move the block before splitting the loop that writes",
        )


def _mirrored(
    sch: Schedule,
    node: Block,
    read: list[BufferRegion],
    producer: Block,
    written: BufferRegion,
    loops: list[For],
    indices: list[Expr],
) -> Stmt:
    kept = [loop for loop in loops if any(uses_var(index, loop.var) for index in indices)]
    fresh: dict[Var, Expr] = {n.var: Var(n.var.name, n.var.dtype) for n in kept}
    bindings = _bindings(sch, node, read, [substitute(index, fresh) for index in indices])
    guard = _guard(sch, node, producer, loops, fresh)
    iters: list[IterVar] = []
    whole: list[tuple[Var, Expr]] = []
    alike = _alike(node, read, producer, written)
    for position, bound in enumerate(node.iters):
        binding = bindings.get(bound.var)
        if binding is None:
            binding = Var(f"ax{position}")
            whole.append((binding, bound.extent))
        elif bound.var not in alike:
            guard = logical_and(guard, logical_and(binding >= 0, binding < bound.extent))
        iters.append(IterVar(bound.extent, bound.kind, binding, bound.var))
    body: Stmt = node.replace(iters=tuple(iters), predicate=guard)
    for var, extent in reversed(whole):
        body = For(const(0), extent, ForKind.SERIAL, var, body)
    for old in reversed(kept):
        bounds = (substitute(old.min, fresh), substitute(old.extent, fresh))
        body = For(*bounds, ForKind.SERIAL, fresh[old.var], body)  # type: ignore[arg-type]
    return body


def _bindings(
    sch: Schedule, node: Block, read: list[BufferRegion], places: list[Expr]
) -> dict[Var, Expr]:
    """The value of each iteration variable at which `node` reads the element at `places`."""
    kinds = {bound.var: bound.kind for bound in node.iters}
    found: dict[Var, Expr] = {}
    for region in read:
        for dim, (part, place) in enumerate(zip(region.ranges, places, strict=True)):
            if as_int(region.buffer.shape[dim]) == 1:
                continue  # there is one place only, however it is written
            index = affine(part.min)
            atoms = [(a, c) for a, c in index.terms.values() if type(a) is Var and a in kinds]
            if len(index.terms) != 1 or len(atoms) != 1 or atoms[0][1] != 1:
                raise fail(
                    sch,
                    _NAME,
                    f"block `{node.name}` reads dimension {dim} of `{region.buffer.name}` with an "
                    "index that is not an iteration variable plus a constant, while one iteration "
                    "of the loop produces only a part of it",
                    node,
                )
            var = atoms[0][0]
            value = place - index.constant
            if kinds[var] is not IterKind.SPATIAL:
                raise fail(
                    sch,
                    _NAME,
                    f"`{var.name}` of block `{node.name}` is a {kinds[var].value} variable, and "
                    "one iteration of the loop produces only a part of what it runs over",
                    node,
                )
            if var in found and not structural_equal(found[var], value):
                raise fail(
                    sch,
                    _NAME,
                    f"block `{node.name}` reads different parts of what the loop makes",
                    node,
                )
            found[var] = value
    return found


def _guard(
    sch: Schedule, node: Block, producer: Block, loops: list[For], fresh: dict[Var, Expr]
) -> Expr:
    """The producer's predicate on the copied loops."""
    dropped = {loop.var for loop in loops} - set(fresh)
    guard: Expr = TRUE
    for part in conjuncts(producer.predicate):
        if not uses_var(part, dropped):
            guard = logical_and(guard, substitute(part, fresh))
        elif any(uses_var(part, var) for var in fresh):
            raise fail(
                sch,
                _NAME,
                f"the predicate of block `{producer.name}` mixes reduction loops in",
                producer,
            )
    return guard


def _alike(
    node: Block, read: list[BufferRegion], producer: Block, written: BufferRegion
) -> set[Var]:
    """The variables of `node` that read what a variable of the producer with the same extent has
    written: its values are theirs, and none of them is outside."""
    wide = {bound.var: bound.extent for bound in producer.iters}
    needed = {bound.var: bound.extent for bound in node.iters}
    found: set[Var] = set()
    for region in read:
        for place, index in zip(written.ranges, region.ranges, strict=True):
            if type(place.min) is not Var or type(index.min) is not Var:
                continue
            extents = wide.get(place.min), needed.get(index.min)
            if extents[0] is not None and structural_equal(*extents):
                found.add(index.min)
    return found
