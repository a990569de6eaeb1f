# SPDX-License-Identifier: Apache-2.0
"""Divisors of whole numbers, and bits read as another dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

from heddle.frontend.torch.node import Node, dtype, rank
from heddle.frontend.torch.ops.pointwise import operands
from heddle.frontend.torch.registry import converts
from heddle.graph import Constant, GraphExpr
from heddle.ir import DType


@converts("aten.gcd.default")
def _gcd(node: Node, a: GraphExpr, b: GraphExpr) -> Any:
    return node.op.gcd(*operands(node, a, b))


@converts("aten.lcm.default")
def _lcm(node: Node, a: GraphExpr, b: GraphExpr) -> Any:
    x, y = operands(node, a, b)
    # A quotient by zero is zero here, and so is the multiple of two zeros.
    return node.op.abs(node.op.mul(node.op.div(x, node.op.gcd(x, y)), y))


@converts("aten.polygamma.default")
def _polygamma(node: Node, order: int, x: GraphExpr) -> Any:
    value = node.cast(x, node.dtype)
    return node.op.polygamma(value, order=order) if order else node.op.digamma(value)


# -- bits ------------------------------------------------------------------------------------


def _read_as(node: Node, x: GraphExpr, kind: DType) -> GraphExpr:
    """The bits of x as a dtype that is as wide. A truth value is a byte."""
    if dtype(x) is kind:
        return x
    if dtype(x).is_bool:
        return _read_as(node, node.cast(x, "uint8"), kind)
    if kind.is_bool:
        return node.cast(_read_as(node, x, DType.of("uint8")), kind)
    return node.op.bitcast(x, dtype=kind)  # type: ignore[no-any-return]


def _width(kind: DType) -> int:
    return 8 if kind.is_bool else kind.bits


@converts("aten.view.dtype")
def _view_dtype(node: Node, x: GraphExpr, _dtype: Any) -> Any:
    """Elements that are narrower or wider divide or join along the last axis, the lowest bits
    first."""
    kind = node.dtype
    before, after = _width(dtype(x)), _width(kind)
    if before == after:
        return _read_as(node, x, kind)
    parts = max(before, after) // min(before, after)
    shifts = Constant(np.arange(parts) * min(before, after))
    narrow, wide = (DType.of(f"uint{bits}") for bits in sorted((before, after)))
    words = _read_as(node, x, wide if before > after else narrow)
    shifts = node.cast(shifts, wide)
    if before > after:
        column = node.op.unsqueeze(words, axes=(rank(x),))
        pieces = node.cast(node.op.shift_right(column, shifts), narrow)
        return _read_as(node, node.reshape(pieces, node.shape), kind)
    grouped = node.cast(node.reshape(words, (*node.shape, parts)), wide)
    moved = node.op.shift_left(grouped, shifts)
    joined = node.op.sum(moved, axes=(rank(x),))
    return _read_as(node, joined, kind)
