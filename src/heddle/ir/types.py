# SPDX-License-Identifier: Apache-2.0
"""Types of the graph level. A dimension is an integer expression, so both levels share it."""

from __future__ import annotations

from collections.abc import Iterable

from heddle.ir.dtype import DType
from heddle.ir.expr import Expr, ExprLike, as_expr, as_int
from heddle.ir.node import Node, node


class Type(Node):
    """Base of all types."""

    __slots__ = ()


@node
class TensorType(Type):
    """A dense tensor: `shape` (a tuple of integer expressions) and element `dtype`."""

    shape: tuple[Expr, ...]
    dtype: DType

    @staticmethod
    def of(shape: Iterable[ExprLike], dtype: str | DType) -> TensorType:
        """The tensor type of a shape of integers and expressions.

        >>> TensorType.of((1, 3), "float32").static_shape
        (1, 3)
        """
        return TensorType(tuple(as_expr(dim) for dim in shape), DType.of(dtype))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def static_shape(self) -> tuple[int, ...] | None:
        """The shape as Python integers, or None when a dimension is symbolic."""
        dims = tuple(as_int(dim) for dim in self.shape)
        return None if None in dims else dims  # type: ignore[return-value]


@node
class TupleType(Type):
    """A tuple of values."""

    fields: tuple[Type, ...]


@node
class FunctionType(Type):
    """A function from `params` to `result`."""

    params: tuple[Type, ...]
    result: Type
