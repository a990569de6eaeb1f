# SPDX-License-Identifier: Apache-2.0
"""`fuse_reduction_epilogue`: what is added to a sum becomes its start value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heddle.ir.expr import Add, BinaryExpr, Expr, FloatImm, IntImm, Max, Min, Mul, Var, const
from heddle.ir.structural import structural_equal
from heddle.ir.walk import post_order, substitute
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.primitives.inline import (
    drop_buffers,
    intermediate,
    inverse_of,
    single_store,
)
from heddle.schedule.primitives.rfactor import Reduction, reduction_of
from heddle.schedule.refs import BlockLike
from heddle.schedule.region import point_reads
from heddle.tir.build import TRUE, load, point, store
from heddle.tir.nodes import Block, BufferLoad, BufferStore, IterKind, Stmt

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule

_NAME = "fuse_reduction_epilogue"
_SIGNS = {Add: "+", Mul: "*", Max: "max", Min: "min"}


@primitive
def fuse_reduction_epilogue(sch: Schedule, block: BlockLike, epilogue: BlockLike) -> None:
    """Start a reduction from what a later block would combine it with, and drop that block.

    >>> sch = Schedule(biased_product())
    >>> sch.fuse_reduction_epilogue("C", "D")
    >>> print(sketch(sch.func))
    for i, j, k in grid(16, 32, 24):
        with init: D[i, j] = bias[j]  # C
        D[i, j] = D[i, j] + A[i, k] * B[k, j]

    The epilogue must combine the result with something else by the operation of the reduction: add
    to a sum, multiply a product, take the maximum of a maximum (a ReLU after max-pooling) or the
    minimum of a minimum. It must be all that reads the result.
    """
    node, last = sch.block(block), sch.block(epilogue)
    what = reduction_of(sch, _NAME, node)
    stored = single_store(sch, _NAME, last)
    intermediate(sch, _NAME, node, what.buffer)
    others = [b.name for b in sch.state.readers.get(what.buffer, ()) if b is not last]
    if others:
        raise fail(sch, _NAME, f"`{what.buffer.name}` is also read by {others}")
    access, rest = _split(sch, last, stored, what)
    _check_order(sch, node, last, stored, rest)
    spatial = node.replace(iters=tuple(b for b in node.iters if b.kind is IterKind.SPATIAL))
    inverse_of(sch, _NAME, spatial, what.indices, "writes")
    where = inverse_of(sch, _NAME, last, access.indices, f"reads `{what.buffer.name}`")
    inverse_of(sch, _NAME, last, stored.indices, "writes")
    for bound in last.iters:
        dim = where.get(bound.var)
        if dim is not None and not structural_equal(bound.extent, what.buffer.shape[dim]):
            raise fail(
                sch,
                _NAME,
                f"block `{last.name}` uses a part of `{what.buffer.name}` only: `{bound.var.name}` "
                f"runs over {bound.extent}, the dimension is {what.buffer.shape[dim]}",
                last,
            )
    values: dict[Var, Expr] = {
        b.var: what.indices[where[b.var]] if b.var in where else const(0) for b in last.iters
    }
    place = tuple(substitute(index, values) for index in stored.indices)
    start = substitute(rest, values)
    if not _is_identity(what):
        start = what.combiner(what.start, start)
    init = store(stored.buffer, start, place)
    body = store(stored.buffer, what.combiner(load(stored.buffer, place), what.value), place)
    merged = node.replace(
        init=init,
        body=body,
        reads=tuple(point_reads([init, store(stored.buffer, what.value, place)], ())),
        writes=(point(stored.buffer, place),),
    )
    changes: dict[Stmt, Stmt | None] = {node: merged, last: None}
    sch.set_func(drop_buffers(sch.state.edited(changes), {what.buffer}))


def _split(
    sch: Schedule, last: Block, stored: BufferStore, what: Reduction
) -> tuple[BufferLoad, Expr]:
    """The access to the result in `combiner(result, rest)`, and the rest."""
    terms = _terms(stored.value, what.combiner)
    results = [t for t in terms if type(t) is BufferLoad and t.buffer is what.buffer]
    loads = [
        n for n in post_order(stored.value) if type(n) is BufferLoad and n.buffer is what.buffer
    ]
    if len(results) != 1 or len(loads) != 1 or len(terms) < 2:
        raise fail(
            sch,
            _NAME,
            f"block `{last.name}` must store `{what.buffer.name}[...] {_SIGNS[what.combiner]} "
            f"something`, the operation of the reduction; it stores `{stored.value}`",
            last,
        )
    others = [t for t in terms if t is not results[0]]
    rest = others[0]
    for term in others[1:]:
        rest = what.combiner(rest, term)
    return results[0], rest


def _terms(value: Expr, combiner: type[BinaryExpr]) -> list[Expr]:
    if type(value) is combiner:
        return [*_terms(value.a, combiner), *_terms(value.b, combiner)]
    return [value]


def _is_identity(what: Reduction) -> bool:
    start = what.start.value if isinstance(what.start, (FloatImm, IntImm)) else None
    if start is None:
        return False
    return bool(start == what.identity.value)  # type: ignore[attr-defined]


def _check_order(sch: Schedule, node: Block, last: Block, stored: BufferStore, rest: Expr) -> None:
    """Raise unless the epilogue may run at the place of the reduction."""
    order = {name: number for number, name in enumerate(sch.state.block_links)}
    if last.predicate is not TRUE:
        raise fail(
            sch,
            _NAME,
            f"block `{last.name}` has a predicate; call {_NAME} before splitting it",
            last,
        )
    read = {n.buffer for n in post_order(rest) if type(n) is BufferLoad}
    for buffer in read:
        for writer in sch.state.writers.get(buffer, ()):
            if order[writer.name] > order[node.name]:
                raise fail(
                    sch,
                    _NAME,
                    f"block `{last.name}` also reads `{buffer.name}`, which block `{writer.name}` "
                    f"writes after `{node.name}` has begun",
                    last,
                )
    users = [
        *sch.state.writers.get(stored.buffer, ()),
        *(b for b in sch.state.readers.get(stored.buffer, ()) if order[b.name] < order[last.name]),
    ]
    for user in users:
        if user is not last:
            raise fail(
                sch,
                _NAME,
                f"block `{user.name}` also uses `{stored.buffer.name}`, which `{last.name}` writes",
                user,
            )
