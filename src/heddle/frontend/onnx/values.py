# SPDX-License-Identifier: Apache-2.0
"""What a name of an ONNX graph can stand for while it is imported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from heddle.graph import Constant, GraphExpr
from heddle.ir import INT64, DType, TensorType
from heddle.ir.expr import Expr, as_expr, as_int


@dataclass(frozen=True, slots=True, eq=False)
class Symbolic:
    """A small integer tensor computed from symbolic dimensions: an object array of expressions."""

    data: np.ndarray
    dtype: DType = INT64


@dataclass(frozen=True, slots=True, eq=False)
class Narrow:
    """A tensor of an element type of few bits (see `narrow.py`), as the bytes that hold it."""

    bytes: GraphExpr
    kind: str


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """A tensor of strings (see `text.py`): int64 positions in a table of distinct strings."""

    codes: GraphExpr
    table: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Poison:
    """The output of a node that could not be imported; what reads it is passed over."""


@dataclass(frozen=True, slots=True, eq=False)
class Sequence_:
    """A sequence of tensors whose length is known."""

    items: tuple[GraphExpr, ...]
    dtype: DType | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Optional_:
    """An optional value: known to hold something, or known to hold nothing (None)."""

    value: Any = field(default=None)


Value: TypeAlias = GraphExpr | Symbolic | Narrow | Text | Poison | Sequence_ | Optional_ | None


def fold(data: np.ndarray, dtype: DType) -> Constant | Symbolic:
    """An object array of expressions and integers, as a constant when all are known."""
    known = [as_int(item) if isinstance(item, Expr) else item for item in data.ravel()]
    if all(item is not None for item in known):
        return Constant(np.asarray(known, dtype=dtype.numpy).reshape(data.shape))
    return Symbolic(data, dtype)


def of_dims(dims: Iterable[Expr | int]) -> Constant | Symbolic:
    """A shape as a value: a vector of int64."""
    items = list(dims)
    data = np.empty(len(items), dtype=object)
    data[:] = items
    return fold(data, DType.of("int64"))


def symbolic_array(value: Value) -> np.ndarray | None:
    """A constant or symbolic integer value as an object array, or None when it is neither."""
    if isinstance(value, Symbolic):
        return value.data
    if isinstance(value, Constant) and value.data.dtype.kind in "iub":
        return value.data.astype(object)
    return None


def same_dim_value(a: Any, b: Any) -> bool:
    """Whether two items of object arrays are known to be equal."""
    left = as_int(a) if isinstance(a, (Expr, int)) else None
    right = as_int(b) if isinstance(b, (Expr, int)) else None
    return a is b or (left is not None and left == right)


def tensor_type(value: GraphExpr) -> TensorType:
    """The tensor type of a value of the graph."""
    assert isinstance(value.type, TensorType)
    return value.type


def as_dims(data: Iterable[Any]) -> tuple[Any, ...]:
    """Items of an object array as dimensions: integers where known."""
    dims = []
    for item in data:
        known = as_int(item) if isinstance(item, Expr) else int(item)
        dims.append(as_expr(item) if known is None else known)
    return tuple(dims)
