# SPDX-License-Identifier: Apache-2.0
"""`reorder`: the order of loops, and which orders keep the meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from heddle.ir.expr import Expr, FloorMod, Var, as_int
from heddle.ir.walk import pre_order, uses_var
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.primitives.private import is_rolling
from heddle.schedule.primitives.reduce import runs_once
from heddle.schedule.refs import LoopRef
from heddle.schedule.state import blocks_below, with_body
from heddle.tir.nodes import Block, For, IterKind, Seq

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule


@primitive
def reorder(sch: Schedule, *loops: LoopRef) -> None:
    """Put loops of one nest into the given order; other loops between them stay where they are.

    >>> sch = Schedule(product())
    >>> i, j, k = sch.get_loops("C")
    >>> sch.reorder(k, i)
    >>> print(sketch(sch.func))
    for k, j, i in grid(24, 32, 16):
        with init: C[i, j] = 0.0
        C[i, j] = C[i, j] + A[i, k] * B[k, j]
    """
    if len({ref.var for ref in loops}) != len(loops):
        raise fail(sch, "reorder", "a loop is given twice")
    if len(loops) < 2:
        return
    wanted = {ref.var for ref in loops}
    chain = _chain(sch, loops, wanted)
    replacement = iter(sch.state.loop(ref.var) for ref in loops)
    order = [next(replacement) if node.var in wanted else node for node in chain]
    outside: set[Var] = {node.var for node in chain}
    for node in order:
        for bound in (node.min, node.extent):
            if uses_var(bound, outside):
                raise fail(
                    sch,
                    "reorder",
                    f"the bounds of loop `{node.var.name}` depend on an inner loop",
                    node,
                )
        outside.discard(node.var)
    _check_ordered_iters(sch, chain, order)
    _check_first_steps(sch, chain, order)
    body = chain[-1].body
    for node in reversed(order):
        body = with_body(node, body)
    sch.change({chain[0]: body})


def _chain(sch: Schedule, loops: Sequence[LoopRef], wanted: set[Var]) -> list[For]:
    """The loops from the outermost to the innermost of `wanted`, each the only child above it."""
    start = min((sch.state.loop(ref.var) for ref in loops), key=lambda n: len(sch.state.path(n)))
    chain: list[For] = []
    missing = set(wanted)
    node: Any = start
    while type(node) is For:
        chain.append(node)
        missing.discard(node.var)
        if not missing:
            return chain
        node = node.body
    names = ", ".join(f"`{var.name}`" for var in missing)
    below = "several statements" if type(node) is Seq else f"a {type(node).__name__}"
    raise fail(
        sch,
        "reorder",
        f"loop {names} is not in the same nest as `{start.var.name}`: below "
        f"`{chain[-1].var.name}` there is {below}",
    )


def _check_ordered_iters(sch: Schedule, chain: list[For], order: list[For]) -> None:
    for block in blocks_below(chain[-1]):
        ordered = [bound for bound in block.iters if bound.kind is IterKind.ORDERED]
        if not any(uses_var(b.binding, n.var) for b in ordered for n in chain):
            continue
        if is_rolling(block):  # the window moves with every loop that its rows depend on
            places = [p.min for region in block.writes for p in region.ranges if _wraps(p.min)]
            ordered += [b for b in block.iters if any(uses_var(p, b.var) for p in places)]
        used = [n.var for n in chain if any(uses_var(b.binding, n.var) for b in ordered)]
        after = [n.var for n in order if n.var in used]
        if used != after:
            raise fail(
                sch,
                "reorder",
                f"block `{block.name}` runs in the order of {[v.name for v in used]}: "
                "loops of ordered iteration variables keep their order",
                block,
            )


def _wraps(index: Expr) -> bool:
    return any(type(found) is FloorMod for found in pre_order(index))


def _check_first_steps(sch: Schedule, chain: list[For], order: list[For]) -> None:
    """Raise where a reduction might no longer begin with the step that runs its `init`.

    That takes loops that carry spatial and reduction variables at once: they were fused."""
    for block in blocks_below(chain[-1]):
        if block.init is None:
            continue
        spatial = [b.binding for b in block.iters if b.kind is IterKind.SPATIAL]
        reduced = [b.binding for b in block.iters if b.kind is not IterKind.SPATIAL]
        mixed = {
            n.var
            for n in chain
            if any(uses_var(e, n.var) for e in spatial) and any(uses_var(e, n.var) for e in reduced)
        }
        before = [n.var.name for n in chain if n.var in mixed]
        if before != [n.var.name for n in order if n.var in mixed]:
            raise fail(
                sch,
                "reorder",
                f"loops {before} each carry spatial and reduction variables of block "
                f"`{block.name}`, which were fused: in another order its sums might not begin "
                "with their `init`; use decompose_reduction first",
                block,
            )
        around = sch.state.loops(block)
        if not runs_once(block, around, around.index(chain[0])):
            _check_repeated_sums(sch, block, reduced, chain, order)


def _check_repeated_sums(
    sch: Schedule, block: Block, reduced: list[Expr], chain: list[For], order: list[For]
) -> None:
    """Raise where a block that its loops run several times, each time from its `init`, would take
    a step of its sum several times instead."""
    sums = [n for n in chain if any(uses_var(e, n.var) for e in reduced)]
    others = [n for n in chain if n not in sums and as_int(n.extent) != 1]
    for outer in others:
        for inner in sums:
            if (chain.index(outer) < chain.index(inner)) != (
                order.index(outer) < order.index(inner)
            ):
                raise fail(
                    sch,
                    "reorder",
                    f"the loops run block `{block.name}` several times for the same elements, and "
                    f"with `{inner.var.name}` on the other side of `{outer.var.name}` would add "
                    "each term as often; move the block out of the loops that repeat it first",
                    block,
                )
