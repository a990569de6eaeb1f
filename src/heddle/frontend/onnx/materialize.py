# SPDX-License-Identifier: Apache-2.0
"""Symbolic dimensions as data: a model may compute with what `Shape` gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from heddle.frontend.onnx.report import Unsupported
from heddle.graph import Constant, GraphExpr, Var
from heddle.ir import TensorType
from heddle.ir import expr as e

if TYPE_CHECKING:
    from heddle.frontend.onnx.node import Node

_OPERATORS: Final[dict[type[e.Expr], str]] = {
    e.Add: "add",
    e.Sub: "sub",
    e.Mul: "mul",
    e.FloorDiv: "div",  # of dimensions, which are not negative
    e.TruncDiv: "div",
    e.FloorMod: "floor_mod",
    e.Min: "minimum",
    e.Max: "maximum",
}


def materialize(node: Node, data: np.ndarray, params: Sequence[Var]) -> GraphExpr:
    """An int64 tensor of the shape of `data` whose items are these expressions."""
    items = [
        node.op.unsqueeze(scalar(node, e.as_expr(item), params), axes=(0,)) for item in data.ravel()
    ]
    flat = items[0] if len(items) == 1 else node.op.concat(*items, axis=0)
    return node.reshape(flat, data.shape)


def scalar(node: Node, value: e.Expr, params: Sequence[Var]) -> GraphExpr:
    """One expression over dimensions as an int64 scalar."""
    known = e.as_int(value)
    if known is not None:
        return Constant(np.asarray(known, np.int64))
    if isinstance(value, e.Var):
        return _dimension(node, value, params)
    name = _OPERATORS.get(type(value))
    if name is None or not isinstance(value, e.BinaryExpr):
        raise Unsupported("a computed dimension is used as data")
    call: Any = getattr(node.op, name)
    return call(scalar(node, value.a, params), scalar(node, value.b, params))  # type: ignore[no-any-return]


def _dimension(node: Node, symbol: e.Var, params: Sequence[Var]) -> GraphExpr:
    late = node.importer.late.get(symbol)
    if late is not None:
        return late
    for param in params:
        if not isinstance(param.type, TensorType):
            continue
        for axis, dim in enumerate(param.type.shape):
            if dim is symbol:
                sizes = node.op.shape_of(param)
                part = node.op.slice(sizes, starts=(axis,), ends=(axis + 1,), axes=(0,))
                return node.reshape(part, ())
    raise Unsupported("a dimension that no input has is used as data")
