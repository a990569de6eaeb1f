# SPDX-License-Identifier: Apache-2.0
"""Indices and comparisons with divisions become as simple as the loops around them allow.

    for i in range(14):                             for i in range(14):
        for j in unrolled(4):                           for j in unrolled(4):
            B[i * 4 + j] = A[(i * 4 + j) // 4]  ->          B[i * 4 + j] = A[i]

A schedule splits an axis by which a block divides. What is left of the division matters to
`unroll`, which asks what variables a register is indexed by, and to the size of the code.
"""

from __future__ import annotations

from typing import Any

from heddle.arith import Analyzer
from heddle.ir.expr import EQ, GE, GT, LE, LT, NE, CompareExpr, Expr, FloorDiv, FloorMod
from heddle.ir.walk import pre_order, rewrite
from heddle.tir.build import shape_symbols
from heddle.tir.nodes import BufferLoad, BufferStore, For, PrimFunc


def simplify_indices(func: PrimFunc) -> PrimFunc:
    """`func` with fewer divisions in indices and comparisons."""
    if not any(isinstance(found, (FloorDiv, FloorMod)) for found in pre_order(func.body)):
        return func
    analyzer = Analyzer()
    for symbol in shape_symbols(func):
        analyzer.bind(symbol, 0)
    for loop in pre_order(func.body):
        if isinstance(loop, For):
            analyzer.bind(loop.var, loop.min, loop.extent)

    def simple(value: Expr) -> Expr:
        return analyzer.simplify(value) if _divides(value) else value

    def access(found: Any) -> Any:
        indices = tuple(simple(index) for index in found.indices)
        same = all(new is old for new, old in zip(indices, found.indices, strict=True))
        return found if same else found.replace(indices=indices)

    def comparison(found: CompareExpr) -> Expr:
        return simple(found)

    handlers = dict.fromkeys((EQ, NE, LT, LE, GT, GE), comparison)
    return func.replace(
        body=rewrite(func.body, {**handlers, BufferLoad: access, BufferStore: access})
    )


def _divides(value: Expr) -> bool:
    """Whether a scalar expression has a division and reads no memory."""
    parts = list(pre_order(value))
    return (
        value.dtype.lanes == 1
        and any(isinstance(part, (FloorDiv, FloorMod)) for part in parts)
        and not any(isinstance(part, BufferLoad) for part in parts)
    )
