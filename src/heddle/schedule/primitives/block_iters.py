# SPDX-License-Identifier: Apache-2.0
"""Primitives that change the iteration variables of a block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from heddle.arith import detect_iter_map
from heddle.arith.iter_map import invert_iter_map
from heddle.ir.expr import Expr, Var, as_int, const
from heddle.ir.structural import structural_equal
from heddle.ir.walk import free_vars, substitute
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.primitives.index_map import extents_of, parse_index_map
from heddle.schedule.refs import BlockLike
from heddle.schedule.simplify import simplify_sums
from heddle.support.names import fresh_name
from heddle.tir.build import TRUE, for_nest
from heddle.tir.nodes import Block, For, ForKind, IterKind, IterVar, Stmt

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule


def plain_nest(sch: Schedule, name: str, node: Block) -> list[For]:
    """The loops of a block whose iteration variables are each bound to a loop of their own, that
    runs over its whole extent, serially, with nothing else inside; an error otherwise."""
    missing = {b.binding: b for b in node.iters if type(b.binding) is Var}
    for bound in node.iters:
        if type(bound.binding) is not Var and as_int(bound.extent) != 1:
            raise fail(
                sch,
                name,
                f"`{bound.var.name}` of block `{node.name}` is bound to `{bound.binding}`, not to "
                f"a loop of its own; call {name} before splitting, fusing or moving",
                node,
            )
    nest: list[For] = []
    inside: Stmt = node
    for loop in reversed(sch.state.loops(node)):
        if loop.body is not inside or loop.var not in missing:
            break
        found = missing.pop(loop.var)
        whole = as_int(loop.min) == 0 and structural_equal(loop.extent, found.extent)
        if not whole or loop.kind is not ForKind.SERIAL:
            raise fail(
                sch,
                name,
                f"loop `{loop.var.name}` must be serial and run over all of `{found.var.name}`",
                loop,
            )
        nest.insert(0, loop)
        inside = loop
    if missing or node.predicate is not TRUE:
        why = "has a predicate" if not missing else "is not alone in its loops"
        raise fail(
            sch, name, f"block `{node.name}` {why}; call {name} before splitting or moving it", node
        )
    return nest


@primitive
def transform_block_layout(sch: Schedule, block: BlockLike, index_map: str) -> None:
    """Give a block other iteration variables, functions of those it has, and a loop for each.

    >>> sch = Schedule(product())
    >>> sch.transform_block_layout("C", "lambda i, j, k: (i * 32 + j, k // 8, k % 8)")
    >>> print(sketch(sch.func))
    for ax0, ax1, ax2 in grid(512, 3, 8):
        with init: C[ax0 // 32, ax0 % 32] = 0.0
        C[ax0 // 32, ax0 % 32] = C[ax0 // 32, ax0 % 32] + A[ax0 // 32, ax1 * 8 + ax2] * B[ax1 * 8 + ax2, ax0 % 32]

    `index_map` must be a bijection, and may mix only variables of one kind. The block must have a
    plain nest of its own.
    """  # noqa: E501 - the output of an example
    name = "transform_block_layout"
    node = sch.block(block)
    nest = plain_nest(sch, name, node)
    parameters, images = parse_index_map(
        sch, name, index_map, len(node.iters), f"iteration variables of block `{node.name}`"
    )
    domain = {p: (const(0), b.extent) for p, b in zip(parameters, node.iters, strict=True)}
    found = detect_iter_map(images, domain)
    if not found.is_bijective:
        why = found.reason or "it leaves values out"
        raise fail(sch, name, f"`{index_map}` is no bijection: {why}")
    kinds = {p: b.kind for p, b in zip(parameters, node.iters, strict=True)}
    names = {
        p: (b.binding.name, b.var.name)
        for p, b in zip(parameters, node.iters, strict=True)
        if type(b.binding) is Var
    }
    taken = {text for pair in names.values() for text in pair}
    iters: list[IterVar] = []
    loops: list[tuple[Var, Expr]] = []
    extents = extents_of(sch, name, index_map, images, domain)
    for number, (image, extent) in enumerate(zip(images, extents, strict=True)):
        mixed = {kinds[var] for var in free_vars(image)} or {IterKind.SPATIAL}
        if len(mixed) > 1 or IterKind.ORDERED in mixed:
            raise fail(
                sch,
                name,
                f"result {number} of `{index_map}` mixes "
                f"{' and '.join(sorted(kind.value for kind in mixed))} variables",
            )
        plain = (fresh_name(f"ax{number}", taken), fresh_name(f"v{number}", taken))
        loop, var = (Var(text) for text in names.get(image, plain))  # type: ignore[call-overload]
        loops.append((loop, extent))
        iters.append(IterVar(extent, mixed.pop(), loop, var))
    inverse = invert_iter_map(found, [bound.var for bound in iters])
    values = {b.var: inverse.get(p, const(0)) for p, b in zip(parameters, node.iters, strict=True)}
    made = simplify_sums(_with_iters(node, iters, values))
    sch.change({nest[0] if nest else node: for_nest(loops, made)})


def _with_iters(node: Block, iters: Sequence[IterVar], values: dict[Var, Expr]) -> Block:
    """`node` over other iteration variables, of which the old ones are functions."""
    result: Block = node.replace(
        iters=tuple(iters),
        reads=tuple(substitute(region, values) for region in node.reads),
        writes=tuple(substitute(region, values) for region in node.writes),
        init=None if node.init is None else substitute(node.init, values),
        body=substitute(node.body, values),
    )
    return result


@primitive
def reorder_block_iter_var(sch: Schedule, block: BlockLike, order: Sequence[int]) -> None:
    """List the iteration variables of a block in another order; the loops stay as they are.

    >>> sch = Schedule(product())
    >>> sch.reorder_block_iter_var("C", [2, 0, 1])
    >>> [bound.var.name for bound in sch.block("C").iters]
    ['vk', 'vi', 'vj']
    >>> print(sketch(sch.func))
    for i, j, k in grid(16, 32, 24):
        with init: C[i, j] = 0.0
        C[i, j] = C[i, j] + A[i, k] * B[k, j]

    The order is what `index_map` of other primitives and tensor intrinsics see.
    """
    node = sch.block(block)
    if sorted(order) != list(range(len(node.iters))):
        raise fail(
            sch,
            "reorder_block_iter_var",
            f"`order` must hold each of 0 to {len(node.iters) - 1} once, got {list(order)}",
        )
    sch.change({node: node.replace(iters=tuple(node.iters[position] for position in order))})
