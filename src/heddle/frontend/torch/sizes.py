# SPDX-License-Identifier: Apache-2.0
"""Symbolic dimensions as data: a program may compute with the sizes of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from heddle.frontend.torch.report import Unsupported
from heddle.graph import Constant, GraphExpr, Var
from heddle.ir import TensorType
from heddle.ir import expr as e

if TYPE_CHECKING:
    from heddle.frontend.torch.node import Node

_OPERATORS: Final[dict[type[e.Expr], str]] = {
    e.Add: "add",
    e.Sub: "sub",
    e.Mul: "mul",
    e.FloorMod: "floor_mod",
    e.Min: "minimum",
    e.Max: "maximum",
}


def size_tensor(
    node: Node, value: e.Expr, params: Sequence[Var], known_sizes: Mapping[e.Expr, GraphExpr]
) -> GraphExpr:
    """An expression of dimensions as an int64 scalar of the graph. `known_sizes` has those that are
    bound at run time."""
    if value in known_sizes:
        return known_sizes[value]
    known = e.as_int(value)
    if known is not None:
        return Constant(np.asarray(known, np.int64))
    if isinstance(value, e.Var):
        return _dimension(node, value, params)
    if not isinstance(value, e.BinaryExpr):
        raise Unsupported("a computed size is used as data")
    a, b = (size_tensor(node, part, params, known_sizes) for part in (value.a, value.b))
    if isinstance(value, e.FloorDiv):  # div truncates: (a - a mod b) / b floors
        return node.op.div(node.op.sub(a, node.op.floor_mod(a, b)), b)  # type: ignore[no-any-return]
    name = _OPERATORS.get(type(value))
    if name is None:
        raise Unsupported("a computed size is used as data")
    call: Any = getattr(node.op, name)
    return call(a, b)  # type: ignore[no-any-return]


def _dimension(node: Node, symbol: e.Var, params: Sequence[Var]) -> GraphExpr:
    for param in params:
        if not isinstance(param.type, TensorType):
            continue
        for axis, dim in enumerate(param.type.shape):
            if dim is symbol:
                sizes = node.op.shape_of(param)
                part = node.op.slice(sizes, starts=(axis,), ends=(axis + 1,), axes=(0,))
                return node.reshape(part, ())
    raise Unsupported("a size that no input has is used as data")
