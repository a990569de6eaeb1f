# SPDX-License-Identifier: Apache-2.0
"""A buffer computed element by element from one that is not read again takes its memory.

    scores = allocate(6304), weights = allocate(6304)      scores = allocate(6304)
    ...                                                    ...
    for i in range(6304):                              ->  for i in range(6304):
        weights[i] = exp(scores[i] - top)                      scores[i] = exp(scores[i] - top)
    ... weights ...                                        ... scores ...

Half the memory stays in the nearest cache, and no load waits for a store to an unrelated place
whose address agrees in its low 12 bits, as those of two buffers walked side by side may.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from heddle.arith import linear_form
from heddle.ir import structural_equal
from heddle.ir.expr import Expr, as_int
from heddle.ir.walk import pre_order, rewrite
from heddle.tir.build import collect, replace_buffers
from heddle.tir.nodes import Allocate, Buffer, BufferLoad, BufferStore, For, PrimFunc, Seq, Stmt


def write_in_place(func: PrimFunc) -> PrimFunc:
    """`func` (flat) with the buffers merged that follow each other element by element."""
    while (pair := next(_pairs(func), None)) is not None:
        source, result = pair
        func = _merge(func, source, result)
    return func


def _merge(func: PrimFunc, source: Buffer, result: Buffer) -> PrimFunc:
    drop = {Allocate: lambda found: found.body if found.buffer is result else found}
    return replace_buffers(func.replace(body=rewrite(func.body, drop)), {result: source})


def _pairs(func: PrimFunc) -> Iterator[tuple[Buffer, Buffer]]:
    """Buffers of equal size and lifetime, the first of which is last read where the second is
    computed from it, each element from the one in the same place."""
    for scope in pre_order(func.body):
        if not isinstance(scope, Allocate):
            continue
        buffers, body = [scope.buffer], scope.body
        while isinstance(body, Allocate):
            buffers.append(body.buffer)
            body = body.body
        if isinstance(body, Seq) and len(buffers) > 1:
            yield from _pairs_among(buffers, body.stmts)


def _pairs_among(
    buffers: Sequence[Buffer], stmts: Sequence[Stmt]
) -> Iterator[tuple[Buffer, Buffer]]:
    used = [
        {found.buffer for found in pre_order(stmt) if isinstance(found, BufferLoad | BufferStore)}
        for stmt in stmts
    ]
    for result in buffers:
        places = [at for at, among in enumerate(used) if result in among]
        if not places:
            continue
        first = places[0]
        for source in buffers:
            ends_here = source in used[first] and not any(source in u for u in used[first + 1 :])
            fits = source is not result and ends_here and _alike(source, result)
            if fits and _element_by_element(stmts[first], source, result):
                yield source, result


def _alike(one: Buffer, other: Buffer) -> bool:
    return (
        one.dtype == other.dtype
        and one.scope == other.scope
        and structural_equal(one.shape, other.shape)
        and structural_equal(one.strides, other.strides)
    )


def _element_by_element(stmt: Stmt, source: Buffer, result: Buffer) -> bool:
    """Whether all that `stmt` does with the two is `result[i] = f(source[i])`, once for each i."""
    touched = {source, result}
    stores = [store for store in collect(stmt, BufferStore) if store.buffer in touched]
    loads = [load for load in collect(stmt, BufferLoad) if load.buffer in touched]
    if len(stores) != 1 or stores[0].buffer is not result:
        return False
    index = stores[0].indices[0]
    inside = set(collect(stores[0].value, BufferLoad))
    same = (
        load in inside and load.buffer is source and structural_equal(load.indices[0], index)
        for load in loads
    )
    return all(same) and _one_to_one(index, list(_loops_around(stmt, stores[0])))


def _loops_around(stmt: Stmt, wanted: Stmt) -> Iterator[For]:
    for found in collect(stmt, For):
        if any(inner is wanted for inner in pre_order(found.body)):
            yield found


def _one_to_one(index: Expr, loops: Sequence[For]) -> bool:
    """Whether each step of the loops has an index of its own: every stride is longer than what the
    shorter ones cover together."""
    form = linear_form(index, [loop.var for loop in loops])
    if form is None:
        return False
    covered = 0
    for loop in sorted(loops, key=lambda loop: abs(form.coefficients[loop.var])):
        stride = abs(form.coefficients[loop.var])
        extent = as_int(loop.extent)
        if covered is None or stride <= covered:
            return False
        covered = None if extent is None else covered + stride * (extent - 1)
    return True
