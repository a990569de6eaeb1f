# SPDX-License-Identifier: Apache-2.0
"""Primitives for reductions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heddle.arith import Analyzer, detect_iter_map
from heddle.arith.enumerate import maps_distinctly
from heddle.ir.expr import Expr, FloorDiv, FloorMod, Var, as_int, const, logical_and
from heddle.ir.walk import pre_order, rewrite, substitute, uses_var
from heddle.schedule.affine import is_injective
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.refs import BlockLike, BlockRef, LoopRef
from heddle.schedule.region import has_loops, point_reads
from heddle.schedule.state import edit
from heddle.tir.access import detect_access_regions
from heddle.tir.build import TRUE, make_block, seq
from heddle.tir.nodes import Block, For, ForKind, IterKind, IterVar, Stmt
from heddle.tir.predicate import conjuncts

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule


@primitive
def decompose_reduction(sch: Schedule, block: BlockLike, loop: LoopRef) -> BlockRef:
    """Move the `init` of a reduction into a block of its own, right before `loop`.

    >>> sch = Schedule(row_sum())
    >>> i, k = sch.get_loops("S")
    >>> sch.decompose_reduction("S", k)
    block `S_init`
    >>> print(sketch(sch.func))
    for i in range(8):
        S[i] = 0.0  # S_init
        for k in range(64):
            S[i] = S[i] + A[i, k]

    All loops of reduction variables must be `loop` or inside it. Returns the new block, named
    `<block>_init`; the block keeps its name for the updates.
    """
    name = "decompose_reduction"
    node = sch.block(block)
    if node.init is None:
        raise fail(
            sch,
            name,
            f"block `{node.name}` has no init: it is no reduction, or is decomposed already",
            node,
        )
    loops = sch.state.loops(node)
    position = next((n for n, found in enumerate(loops) if found.var is loop.var), None)
    if position is None:
        raise fail(sch, name, f"{loop} is not around block `{node.name}`", loop, node)
    spatial = [b for b in node.iters if b.kind is not IterKind.REDUCTION]
    reductions = [b for b in node.iters if b.kind is IterKind.REDUCTION]
    for outer in loops[:position]:
        for bound in reductions:
            if uses_var(bound.binding, outer.var):
                raise fail(
                    sch,
                    name,
                    f"loop `{outer.var.name}` is outside {loop} but carries the reduction "
                    f"variable `{bound.var.name}`: the accumulator would be set to its start "
                    f"value again; choose loop `{outer.var.name}` or one around it",
                    outer,
                )
    inner = loops[position:]
    _check_once(sch, node, loops, position)
    _check_init_reads(sch, node, loops[position])
    kept = [n for n in inner if any(uses_var(b.binding, n.var) for b in spatial)]
    initial = _init_nest(sch, node, spatial, inner, kept)
    site = sch.state.loop(loop.var)
    changed = edit(site, {node: without_init(node)})
    assert changed is not None
    init_name = initial[1].name
    sch.change({site: seq(initial[0], changed)})
    return BlockRef(init_name)


def without_init(node: Block) -> Block:
    """The updates of a reduction alone: they read what they write."""
    reads = (*node.writes, *node.reads) if has_loops(node) else point_reads([node.body], ())
    result: Block = node.replace(init=None, reads=tuple(reads))
    return result


def runs_once(node: Block, loops: list[For], position: int) -> bool:
    """Whether the loops from `position` on certainly run each instance of a block once.

    `loops` are all loops around the block. They do not where compute_at made them recompute.
    """
    bindings = [bound.binding for bound in node.iters]
    inner = {n.var: (n.min, n.extent) for n in loops[position:]}
    if is_injective(bindings, inner):
        return True
    everywhere = {n.var: (n.min, n.extent) for n in loops}
    if any(detect_iter_map(bindings, d, node.predicate) for d in (everywhere, inner)):
        return True
    # What is distinct everywhere is distinct where the predicate holds.
    joined = _joined(node, set(inner))
    if any(detect_iter_map(b, inner) for b in (bindings, joined)):
        return True
    known = {var: (as_int(low), as_int(size)) for var, (low, size) in everywhere.items()}
    domains = {
        var: (low, size)
        for var, (low, size) in known.items()
        if low is not None and size is not None
    }
    if len(domains) < len(everywhere):
        return False
    outer = [n.var for n in loops[:position]]
    return maps_distinctly([*outer, *bindings], domains, conjuncts(node.predicate)) is True


def _joined(node: Block, inner: set[Var]) -> list[Expr]:
    """The bindings, neighbours numbered together where that makes them simpler in the loops
    `inner`: of distinct numbers at least one digit differs.

    (o * 12 + i) // 8, (o * 12 + i) % 8  ->  o * 12 + i
    """
    analyzer = Analyzer()
    found: list[Expr] = []
    for bound in node.iters:
        if found:
            whole = analyzer.simplify(found[-1] * bound.extent + bound.binding)
            apart = _divisions(found[-1], inner) + _divisions(bound.binding, inner)
            if _divisions(whole, inner) < apart:
                found[-1] = whole
                continue
        found.append(bound.binding)
    return found


def _divisions(index: Expr, inner: set[Var]) -> int:
    """How many divisions hold one of `inner`; others are constants there."""
    parts = pre_order(index)
    return sum(isinstance(part, (FloorDiv, FloorMod)) and uses_var(part, inner) for part in parts)


def _check_once(sch: Schedule, node: Block, loops: list[For], position: int) -> None:
    """Raise unless the loops from `position` on run each step of the reduction once, and no other
    block has written the elements before."""
    name = "decompose_reduction"
    order = list(sch.state.block_links)
    for region in node.writes:
        for other in sch.state.writers[region.buffer]:
            if order.index(other.name) < order.index(node.name):
                raise fail(
                    sch,
                    name,
                    f"block `{other.name}` has written `{region.buffer.name}` before, and its "
                    "values would be lost; decompose before splitting with a tail",
                    other,
                )
    if runs_once(node, loops, position):
        return
    raise fail(
        sch,
        name,
        f"loop `{loops[position].var.name}` and those inside it run block `{node.name}` several "
        "times for the same elements, each time from the start value; choose a loop further in",
        loops[position],
    )


def _check_init_reads(sch: Schedule, node: Block, loop: For) -> None:
    """Raise if the init reads what a block inside `loop` writes: it would then run too early."""
    assert node.init is not None
    for region in point_reads([node.init], ()):
        for other in sch.state.writers.get(region.buffer, ()):
            if any(around is loop for around in sch.state.loops(other)):
                raise fail(
                    sch,
                    "decompose_reduction",
                    f"the init of block `{node.name}` reads `{region.buffer.name}`, which "
                    f"block `{other.name}` writes inside loop `{loop.var.name}`; choose a loop "
                    "further in",
                    other,
                )


def _init_nest(
    sch: Schedule, node: Block, spatial: list[IterVar], inner: list[For], kept: list[For]
) -> tuple[Stmt, Block]:
    """Loops like `kept`, with variables of their own, around a block that runs the init."""
    fresh: dict[Var, Expr] = {n.var: Var(n.var.name, n.var.dtype) for n in kept}
    dropped = {n.var for n in inner} - set(fresh)
    # The init runs where all reduction variables are zero, and may mention them.
    values: dict[Var, Expr] = {
        bound.var: const(0, bound.var.dtype)
        for bound in node.iters
        if bound.kind is IterKind.REDUCTION
    }
    iters = []
    for bound in spatial:
        var = Var(bound.var.name, bound.var.dtype)
        values[bound.var] = var
        iters.append(IterVar(bound.extent, bound.kind, substitute(bound.binding, fresh), var))
    guard: Expr = TRUE
    still = {n.var: n.min for n in inner if as_int(n.extent) == 1}
    others = {n.var for n in sch.state.loops(node)} - dropped
    for part in conjuncts(node.predicate):
        if uses_var(part, dropped):
            part = substitute(part, {var: low for var, low in still.items() if var in dropped})
        if not uses_var(part, dropped):
            guard = logical_and(guard, substitute(part, fresh))
        elif uses_var(part, others):
            raise fail(
                sch,
                "decompose_reduction",
                f"the predicate of block `{node.name}` mixes reduction loops with others",
                node,
            )
    assert node.init is not None
    init = rewrite(node.init, {}, memo=dict(values))
    writes = [rewrite(region, {}, memo=dict(values)) for region in node.writes]
    reads = point_reads([init], ())
    name = sch.state.fresh_block_name(f"{node.name}_init")
    made = make_block(name, iters, init, reads=reads, writes=writes, predicate=guard)
    if has_loops(made):
        made = made.replace(reads=detect_access_regions(made)[0])
    body: Stmt = made
    for old in reversed(kept):
        kind = ForKind.SERIAL if old.kind is ForKind.PARALLEL else old.kind
        body = For(
            substitute(old.min, fresh),
            substitute(old.extent, fresh),
            kind,
            fresh[old.var],  # type: ignore[arg-type]
            body,
        )
    return body, made
