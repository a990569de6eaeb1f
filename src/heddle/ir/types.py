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


@node
class SelfType(Type):
    """In a field of a constructor: the data type itself."""


@node
class Constructor(Node):
    """One form of a data type: its name and the types of its fields, tensors of static shape or
    `SelfType`."""

    name: str
    fields: tuple[Type, ...]


@node
class DataType(Type):
    """An algebraic data type: a value is made by one of the constructors and has its fields."""

    name: str
    constructors: tuple[Constructor, ...]

    def constructor(self, name: str) -> Constructor | None:
        """The constructor of a name, or None."""
        return next((item for item in self.constructors if item.name == name), None)

    def field_types(self, constructor: Constructor) -> tuple[Type, ...]:
        """The types of the fields of a constructor, `SelfType` resolved."""
        return tuple(self if isinstance(f, SelfType) else f for f in constructor.fields)
