# SPDX-License-Identifier: Apache-2.0
"""Primitives that move a block into the loops of its consumers or producers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from heddle.ir.expr import Expr, Var, all_of, as_int, const, logical_and
from heddle.ir.walk import free_vars
from heddle.schedule.affine import Affine, Around, Box1, affine, union
from heddle.schedule.boxes import loop_domain, needed_box
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.primitives.inline import intermediate
from heddle.schedule.primitives.mirror import mirror
from heddle.schedule.primitives.move_checks import (
    Domains,
    check_beside,
    check_complete,
    check_covered,
    check_evaluable,
    check_indices,
    check_needed,
    check_order,
    check_reads_all,
    check_runs,
    check_whole,
    is_whole,
    users,
)
from heddle.schedule.primitives.private import check_stays
from heddle.schedule.primitives.steps import check_all_steps
from heddle.schedule.refs import BlockLike, LoopRef
from heddle.schedule.region import all_reads, expr_key
from heddle.schedule.state import blocks_below
from heddle.tir.build import TRUE, seq, shape_symbols
from heddle.tir.nodes import (
    Block,
    Buffer,
    For,
    ForKind,
    IterKind,
    IterVar,
    Seq,
    Stmt,
)
from heddle.tir.predicate import conjuncts

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule


@primitive
def compute_at(
    sch: Schedule, block: BlockLike, loop: LoopRef, *, preserve_unit_loops: bool = False
) -> None:
    """Move a producer into a loop of its consumers, to compute there what one iteration needs.

    >>> sch = Schedule(chain())
    >>> (i,) = sch.get_loops("C")
    >>> i_0, i_1 = sch.split(i, [None, 8])
    >>> sch.compute_at("B", i_0)
    >>> print(sketch(sch.func))
    B = alloc((32,))
    for i_0 in range(4):
        for ax0 in range(8):
            B[i_0 * 8 + ax0] = A[i_0 * 8 + ax0] + 1.0
        for i_1 in range(8):
            C[i_0 * 8 + i_1] = B[i_0 * 8 + i_1] * 2.0

    All consumers must be inside the loop. Elements that several iterations need are computed
    several times. A predicate keeps the block within its domain where the needed box exceeds it.
    """
    name = "compute_at"
    node = sch.block(block)
    check_stays(sch, name, node)
    check_all_steps(sch, name, node)
    buffers = list(dict.fromkeys(region.buffer for region in node.writes))
    for buffer in buffers:
        intermediate(sch, name, node, buffer)
    inside = {b.name for b in blocks_below(sch.state.loop(loop.var))}
    consumers = users(sch.state.readers, buffers, node)
    if not consumers:
        raise fail(sch, name, f"nothing reads what block `{node.name}` writes", node)
    for consumer in consumers:
        if consumer.name not in inside:
            raise fail(
                sch,
                name,
                f"block `{consumer.name}` reads `{node.name}` outside {loop}; choose a loop around "
                "all consumers",
                consumer,
            )
    sch.change({node: None})
    target = sch.state.loop(loop.var)
    shared = _shared_loops(sch, name, target)
    producers = users(sch.state.writers, [r.buffer for r in all_reads(node)], node)
    check_complete(sch, name, node, producers, shared, loop)
    boxes = {
        buffer: needed_box(
            sch.state, buffer, users(sch.state.readers, [buffer], node), target, "reads"
        )
        for buffer in buffers
    }
    for buffer, box in boxes.items():
        check_evaluable(sch, node, buffer, box, consumers)
    domains = _domains_of_writes(node, boxes)
    nest = _place(
        node,
        domains,
        Around(loop_domain(shared), shape_symbols(sch.func)),
        preserve_unit_loops=preserve_unit_loops,
    )
    children = _children(target.body)
    first = _position(children, {c.name for c in consumers}, first=True)
    after = _position(children, {p.name for p in producers}, first=False)
    if after >= first:
        raise fail(sch, name, f"inside {loop}, a producer of `{node.name}` runs after a consumer")
    sch.change({children[first]: seq(nest, children[first])})


@primitive
def reverse_compute_at(
    sch: Schedule, block: BlockLike, loop: LoopRef, *, preserve_unit_loops: bool = False
) -> None:
    """Move a consumer into a loop of its producer, to run on what one iteration has produced.

    >>> sch = Schedule(chain())
    >>> (i,) = sch.get_loops("B")
    >>> i_0, i_1 = sch.split(i, [None, 8])
    >>> sch.reverse_compute_at("C", i_0)
    >>> print(sketch(sch.func))
    B = alloc((32,))
    for i_0 in range(4):
        for i_1 in range(8):
            B[i_0 * 8 + i_1] = A[i_0 * 8 + i_1] + 1.0
        for ax0 in range(8):
            C[i_0 * 8 + ax0] = B[i_0 * 8 + ax0] * 2.0

    The loop must not carry a reduction of the producer (its sums would be read unfinished), and
    the consumer must read each element with plain iteration variables, or those plus a constant.
    """
    name = "reverse_compute_at"
    node = sch.block(block)
    check_stays(sch, name, node)
    check_all_steps(sch, name, node)
    inside = {b.name for b in blocks_below(sch.state.loop(loop.var))}
    producers = [
        p
        for p in users(sch.state.writers, [r.buffer for r in all_reads(node)], node)
        if p.name in inside
    ]
    if not producers:
        raise fail(sch, name, f"no block inside {loop} writes what `{node.name}` reads")
    written = [region.buffer for region in node.writes]
    for consumer in users(sch.state.readers, written, node):
        if consumer.name in inside:
            raise fail(
                sch,
                name,
                f"block `{consumer.name}` inside {loop} reads what `{node.name}` writes",
                consumer,
            )
    check_whole(sch, name, node, producers, inside, loop)
    check_needed(sch, name, node, producers)
    if node.name not in inside:
        check_order(sch, name, node, producers, loop)
    outside = {n.var for n in sch.state.loops(node)}
    sch.change({node: None})
    target = sch.state.loop(loop.var)
    shared = _shared_loops(sch, name, target)
    check_complete(sch, name, node, producers, shared, loop)
    around = Around(loop_domain(shared), shape_symbols(sch.func))
    mirrored = mirror(sch, node, producers, target)
    if mirrored is not None:
        nest: Stmt = mirrored
    else:
        check_indices(sch, name, node, producers)
        domains = _domains_of_reads(sch, node, producers, target, around)
        check_covered(sch, node, domains, shared)
        guard = _shared_guard(
            sch, node, producers, {*(n.var for n in shared), *shape_symbols(sch.func)}
        )
        nest = _place(node, domains, around, guard=guard, preserve_unit_loops=preserve_unit_loops)
    check_beside(sch, nest, inside, shared, around)
    entered = [n for n in shared if n.var not in outside]
    check_runs(sch, nest, node, entered, around)
    children = _children(target.body)
    last = _position(children, {p.name for p in producers}, first=False)
    sch.change({children[last]: seq(children[last], nest)})


# -- what stands where -------------------------------------------------------------------------


def _shared_loops(sch: Schedule, name: str, target: For) -> list[For]:
    """`target` and the loops around it, outermost first."""
    loops = [stmt for stmt in sch.state.path(target) if type(stmt) is For]
    for loop in loops:
        if loop.kind is ForKind.VECTORIZED and as_int(loop.extent) != 1:
            raise fail(
                sch,
                name,
                f"loop `{loop.var.name}` is vectorized, and lanes cannot run another block; "
                "vectorize after moving blocks",
                loop,
            )
    return loops


def _children(body: Stmt) -> tuple[Stmt, ...]:
    return body.stmts if type(body) is Seq else (body,)


def _position(children: Sequence[Stmt], names: set[str], *, first: bool) -> int:
    """The first or last child that holds one of the blocks; -1 when none does."""
    found = [
        n
        for n, child in enumerate(children)
        if any(block.name in names for block in blocks_below(child))
    ]
    return -1 if not found else found[0] if first else found[-1]


# -- boxes ---------------------------------------------------------------------------------------


def _domains_of_writes(node: Block, boxes: dict[Buffer, list[Box1 | None]]) -> Domains:
    """The box of each iteration variable that writes a needed box."""
    domains: dict[Var, Box1] = {}
    open_: set[Var] = set()
    for region in node.writes:
        for part, box in zip(region.ranges, boxes[region.buffer], strict=True):
            if type(part.min) is not Var:
                continue
            var = part.min
            if box is None or as_int(part.extent) != 1:
                open_.add(var)
                continue
            merged = box if var not in domains else union(domains[var], box)
            if merged is None:
                open_.add(var)
            else:
                domains[var] = merged
    return {var: box for var, box in domains.items() if var not in open_}


def _domains_of_reads(
    sch: Schedule, node: Block, producers: list[Block], target: For, around: Around
) -> Domains:
    """The box of each iteration variable of a consumer that reads what `producers` have written."""
    name = "reverse_compute_at"
    produced = {region.buffer for p in producers for region in p.writes}
    iters = {bound.var: bound for bound in node.iters}
    domains: Domains = {}
    for region in node.reads:
        if region.buffer not in produced:
            continue
        writers = [p for p in producers if any(r.buffer is region.buffer for r in p.writes)]
        box = needed_box(sch.state, region.buffer, writers, target, "writes")
        for dim, (part, found) in enumerate(zip(region.ranges, box, strict=True)):
            size = region.buffer.shape[dim]
            if found is None or is_whole(found, size, around):
                continue
            index = affine(part.min)
            variables = [(atom, count) for atom, count in index.terms.values() if atom in iters]
            if not variables:
                continue
            atom, count = variables[0]
            if len(index.terms) != 1 or count != 1 or as_int(part.extent) != 1:
                raise fail(
                    sch,
                    name,
                    f"block `{node.name}` reads dimension {dim} of `{region.buffer.name}` with an "
                    "index that is not an iteration variable plus a constant, while one iteration "
                    "of the loop produces only a part of it",
                    node,
                )
            moved = Box1(found.low.plus(Affine({}, index.constant), -1), found.extent)
            _constrain(sch, name, node, domains, iters[atom], moved, around)
            if as_int(iters[atom].extent) is None or as_int(found.extent) is None:
                check_reads_all(sch, node, iters[atom], index.constant, size, around)
    return domains


def _constrain(
    sch: Schedule,
    name: str,
    node: Block,
    domains: Domains,
    bound: IterVar,
    box: Box1,
    around: Around,
) -> None:
    if bound.kind is not IterKind.SPATIAL:
        raise fail(
            sch,
            name,
            f"`{bound.var.name}` of block `{node.name}` is a {bound.kind.value} variable, and one "
            "iteration of the loop produces only a part of what it runs over; choose a loop "
            "further out",
            node,
        )
    known = domains.get(bound.var)
    if known is not None:
        distance = box.low.plus(known.low, -1)
        same = not distance.terms and distance.constant == 0
        if not same or not around.analyzer.can_prove_equal(known.extent, box.extent):
            raise fail(
                sch,
                name,
                f"block `{node.name}` reads different parts of what the loop produces",
                node,
            )
    domains[bound.var] = box


# -- the block in its new place ----------------------------------------------------------------


def _shared_guard(sch: Schedule, node: Block, producers: list[Block], shared: set[Var]) -> Expr:
    """The conditions on the loops around both under which the producers run at all.

    Of several producers of one buffer any may have written: only what all of them wait for counts.
    """
    conditions: dict[object, Expr] = {}
    waiting: dict[str, set[object]] = {}
    for producer in producers:
        used = {
            var
            for bound in producer.iters
            if bound.kind is IterKind.SPATIAL
            for var in free_vars(bound.binding)
        }
        waiting[producer.name] = set()
        for part in conjuncts(producer.predicate):
            variables = set(free_vars(part))
            if variables <= shared:
                conditions[expr_key(part)] = part
                waiting[producer.name].add(expr_key(part))
            elif variables & shared and not variables - shared <= used:
                raise fail(
                    sch,
                    "reverse_compute_at",
                    f"block `{producer.name}` runs in a part of the iterations that block "
                    f"`{node.name}` cannot follow (its predicate is on loops that it does not use)",
                    producer,
                )
    needed: set[object] = set()
    for buffer in dict.fromkeys(region.buffer for p in producers for region in p.writes):
        writers = [p for p in producers if any(r.buffer is buffer for r in p.writes)]
        needed |= set.intersection(*(waiting[p.name] for p in writers))
    return all_of(*(part for key, part in conditions.items() if key in needed))


def _place(
    node: Block,
    domains: Domains,
    around: Around,
    *,
    guard: Expr = TRUE,
    preserve_unit_loops: bool,
) -> Stmt:
    """Loops over the boxes (the whole domain where there is none) around `node`."""
    loops: list[tuple[Var, Expr]] = []
    iters: list[IterVar] = []
    for position, bound in enumerate(node.iters):
        box = domains.get(bound.var)
        low, extent = Affine({}, 0), bound.extent
        if box is not None and not _covers_more(box, bound.extent, around):
            low, extent = box.low, box.extent
            after_start, before_end = around.inside(low, extent, bound.extent)
        else:
            after_start, before_end = True, True
        binding = low.expr()
        if as_int(extent) != 1 or preserve_unit_loops:
            var = Var(f"ax{position}")
            loops.append((var, extent))
            binding = binding + var if low.terms or low.constant else var
        if not after_start:
            guard = logical_and(guard, binding >= 0)
        if not before_end:
            guard = logical_and(guard, binding < bound.extent)
        iters.append(IterVar(bound.extent, bound.kind, binding, bound.var))
    body: Stmt = node.replace(iters=tuple(iters), predicate=guard)
    for var, extent in reversed(loops):
        body = For(const(0), extent, ForKind.SERIAL, var, body)
    return body


def _covers_more(box: Box1, extent: Expr, around: Around) -> bool:
    """Whether a box is at least as long as the whole domain, so that the domain is shorter."""
    wide, whole = as_int(box.extent), as_int(extent)
    if wide is not None and whole is not None:
        return wide >= whole
    if wide is not None:
        return False
    return around.nonnegative(affine(box.extent).plus(affine(extent), -1))
