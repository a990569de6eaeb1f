# SPDX-License-Identifier: Apache-2.0
"""Tensor expressions: what a kernel computes, element by element, before any loop exists.

A = te.placeholder((n, k), "float32", name="A")
B = te.placeholder((k, m), "float32", name="B")
r = te.reduce_axis(k, name="r")
C = te.compute((n, m), lambda i, j: te.sum(A[i, r] * B[r, j], axis=r), name="C")
func = te.create_prim_func([A, B, C], name="matmul")
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import overload

from heddle.ir.dtype import DType
from heddle.ir.expr import Expr, ExprLike, Var, as_expr, cast
from heddle.ir.node import derived, node
from heddle.support import UserError
from heddle.tir.nodes import Buffer, Stmt


class Tensor:
    """An n-dimensional value of a tensor expression; `tensor[i, j]` is one element of it.

    Element `axis` of the tensor is `body`; one of several results that are computed together has
    a `group` instead, and a placeholder has neither.
    """

    __slots__ = ("axis", "body", "dtype", "group", "name", "shape")

    def __init__(
        self,
        shape: Iterable[ExprLike],
        dtype: str | DType,
        name: str,
        axis: tuple[Var, ...] = (),
        body: Expr | None = None,
        *,
        group: Group | None = None,
    ) -> None:
        self.shape = tuple(as_expr(dim) for dim in shape)
        self.dtype = DType.of(dtype)
        self.name = name
        self.axis = axis
        self.body = body
        self.group = group

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def is_placeholder(self) -> bool:
        """Whether the tensor is an input."""
        return self.body is None and self.group is None

    def __getitem__(
        self, indices: ExprLike | ReduceAxis | tuple[ExprLike | ReduceAxis, ...]
    ) -> Expr:
        given = indices if isinstance(indices, tuple) else (indices,)
        if len(given) != self.ndim:
            raise UserError(
                f"tensor `{self.name}` has {self.ndim} dimensions, got {len(given)} indices"
            )
        return TensorElement(self, tuple(_index(index) for index in given))

    def __call__(self, *indices: ExprLike | ReduceAxis) -> Expr:
        return self[indices]

    def __repr__(self) -> str:
        kind = "placeholder" if self.is_placeholder else "compute"
        return f"te.{kind}({self.name}, ndim={self.ndim}, {self.dtype})"


class Group(ABC):
    """Tensors that one piece of code computes together."""

    tensors: tuple[Tensor, ...]

    @abstractmethod
    def sources(self) -> list[Tensor]:
        """The tensors that the group reads."""

    @abstractmethod
    def lower(self, buffers: Mapping[Tensor, Buffer]) -> Stmt:
        """Statements that write the buffers of `tensors`; blocks are named after them."""


class ReduceAxis:
    """An axis that a reduction runs over: [0, extent). Usable as an index."""

    __slots__ = ("extent", "var")

    def __init__(self, extent: ExprLike, name: str) -> None:
        self.extent = as_expr(extent)
        self.var = Var(name)

    def __as_expr__(self) -> Expr:
        return self.var

    def __add__(self, other: ExprLike) -> Expr:
        return self.var + other

    __radd__ = __add__

    def __mul__(self, other: ExprLike) -> Expr:
        return self.var * other

    __rmul__ = __mul__

    def __sub__(self, other: ExprLike) -> Expr:
        return self.var - other

    def __rsub__(self, other: ExprLike) -> Expr:
        return other - self.var

    def __floordiv__(self, other: ExprLike) -> Expr:
        return self.var // other

    def __mod__(self, other: ExprLike) -> Expr:
        return self.var % other


def _index(index: ExprLike | ReduceAxis) -> Expr:
    value = index.var if isinstance(index, ReduceAxis) else as_expr(index)
    if not value.dtype.is_int:
        raise UserError(f"an index must be an integer, got {value.dtype}", span=value.span)
    return cast(value, "int64")


@node
class TensorElement(Expr):
    """`tensor[indices]`"""

    tensor: Tensor
    indices: tuple[Expr, ...]
    dtype: DType = derived()

    def _derive(self) -> None:
        self.dtype = self.tensor.dtype


@node
class Reduce(Expr):
    """`source` combined over `axes` by "sum", "prod", "max" or "min"; the outermost expression
    of a compute."""

    combiner: str
    source: Expr
    axes: tuple[ReduceAxis, ...]
    dtype: DType = derived()

    def _derive(self) -> None:
        self.dtype = self.source.dtype


class Grouped(ABC):
    """What a function of `compute` may give instead of an expression."""

    @abstractmethod
    def compute(
        self, shape: tuple[Expr, ...], axis: tuple[Var, ...], name: str
    ) -> tuple[Tensor, ...]:
        """The tensors of `shape` whose elements at `axis` it describes."""


def placeholder(
    shape: Iterable[ExprLike], dtype: str | DType = "float32", name: str = "placeholder"
) -> Tensor:
    """An input tensor."""
    return Tensor(shape, dtype, name)


def reduce_axis(extent: ExprLike, name: str = "r") -> ReduceAxis:
    """An axis to reduce over."""
    return ReduceAxis(extent, name)


@overload
def compute(
    shape: Iterable[ExprLike], function: Callable[..., Grouped], name: str = "compute"
) -> tuple[Tensor, ...]: ...


@overload
def compute(
    shape: Iterable[ExprLike], function: Callable[..., ExprLike], name: str = "compute"
) -> Tensor: ...


def compute(
    shape: Iterable[ExprLike],
    function: Callable[..., ExprLike | Grouped],
    name: str = "compute",
) -> Tensor | tuple[Tensor, ...]:
    """The tensor of `shape` whose element at `indices` is `function(*indices)`.

    The loops are named after the parameters of `function`. Where `function` gives a reduction by a
    reducer of several values (`te.argmax`, `te.reducer`), the result is a tuple of tensors.
    """
    dims = tuple(as_expr(dim) for dim in shape)
    axis = tuple(Var(axis_name) for axis_name in _axis_names(function, len(dims), name))
    value = function(*axis)
    if isinstance(value, Grouped):
        return value.compute(dims, axis, name)
    body = as_expr(value)
    return Tensor(dims, body.dtype, name, axis, body)


def _axis_names(function: Callable[..., ExprLike], ndim: int, name: str) -> list[str]:
    parameters = list(inspect.signature(function).parameters.values())
    named = [p.name for p in parameters if p.kind is not p.VAR_POSITIONAL]
    variadic = [p.name for p in parameters if p.kind is p.VAR_POSITIONAL]
    if variadic:
        stem = variadic[0]
        return named + [f"{stem}{position}" for position in range(len(named), ndim)]
    if len(named) != ndim:
        raise UserError(f"te.compute `{name}`: {ndim} dimensions, but {len(named)} parameters")
    return named


def _reduce(combiner: str, source: ExprLike, axis: ReduceAxis | Sequence[ReduceAxis]) -> Expr:
    axes = (axis,) if isinstance(axis, ReduceAxis) else tuple(axis)
    value = as_expr(source)
    if isinstance(value, Reduce):
        raise UserError("a reduction of a reduction: compute the inner one as its own tensor")
    return Reduce(combiner, value, axes) if axes else value


def sum(source: ExprLike, axis: ReduceAxis | Sequence[ReduceAxis]) -> Expr:
    """The sum of `source` over `axis`, in any order."""
    return _reduce("sum", source, axis)


def prod(source: ExprLike, axis: ReduceAxis | Sequence[ReduceAxis]) -> Expr:
    """The product of `source` over `axis`, in any order."""
    return _reduce("prod", source, axis)


def max(source: ExprLike, axis: ReduceAxis | Sequence[ReduceAxis]) -> Expr:
    """The largest `source` over `axis`; NaN if any is NaN."""
    return _reduce("max", source, axis)


def min(source: ExprLike, axis: ReduceAxis | Sequence[ReduceAxis]) -> Expr:
    """The smallest `source` over `axis`; NaN if any is NaN."""
    return _reduce("min", source, axis)
