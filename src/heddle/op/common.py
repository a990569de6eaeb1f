# SPDX-License-Identifier: Apache-2.0
"""What the declarations of operators share: shapes, axes, broadcasting, half precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from heddle import te
from heddle.arith import Analyzer
from heddle.graph.dims import same_dim, same_shape, show_dim, show_shape, simplify_dim
from heddle.ir import DType, TensorType
from heddle.ir.expr import Expr, ExprLike, as_expr, as_int, cast, const
from heddle.ir.walk import substitute
from heddle.op.attribute import Dims
from heddle.support import UserError

Shape = tuple[Expr, ...]


# -- dimensions ------------------------------------------------------------------------------


def as_dims(dims: Dims) -> Shape:
    """An attribute of dimensions as expressions."""
    return tuple(as_expr(dim) for dim in dims)


def plain_dims(shape: Iterable[Expr]) -> Dims:
    """A shape as an attribute: integers where known."""
    result = []
    for dim in shape:
        number = as_int(dim)
        result.append(dim if number is None else number)
    return tuple(result)


def product(dims: Iterable[ExprLike]) -> Expr:
    """The product of dimensions, 1 for none."""
    result: Expr = const(1)
    for dim in dims:
        result = result * dim
    return result


def ceil_div(a: ExprLike, b: int) -> Expr:
    """`a / b` rounded up."""
    return as_expr(a) if b == 1 else (as_expr(a) + (b - 1)) // b


# -- axes and ranks --------------------------------------------------------------------------


def normal_axis(axis: int, ndim: int, what: str = "axis") -> int:
    """`axis` counted from the front; `UserError` when there is no such axis."""
    if not -ndim <= axis < ndim:
        raise UserError(f"{what} {axis} is out of range for a tensor of {ndim} dimensions")
    return axis % ndim


def normal_axes(axes: Iterable[int] | None, ndim: int) -> tuple[int, ...]:
    """Axes counted from the front, ascending, each once; None stands for all."""
    if axes is None:
        return tuple(range(ndim))
    normal = [normal_axis(axis, ndim) for axis in axes]
    if len(set(normal)) != len(normal):
        raise UserError(f"axes {tuple(axes)} name an axis twice")
    return tuple(sorted(normal))


def require_ndim(type_: TensorType, name: str, least: int, most: int | None = None) -> None:
    """`UserError` unless the rank lies in [least, most] (no limit for None)."""
    if type_.ndim < least or (most is not None and type_.ndim > most):
        wanted = (
            f"{least}" if most == least else f"{least} to {most}" if most else f"{least} or more"
        )
        raise UserError(
            f"argument `{name}` has shape {show_shape(type_.shape)}, expected {wanted} dimensions"
        )


def require_shape(type_: TensorType, name: str, shape: Sequence[ExprLike]) -> None:
    """`UserError` unless the tensor provably has this shape."""
    wanted = tuple(as_expr(dim) for dim in shape)
    if not same_shape(type_.shape, wanted):
        raise UserError(
            f"argument `{name}` has shape {show_shape(type_.shape)}, expected {show_shape(wanted)}"
        )


def require_same_dtype(first: TensorType, *others: TensorType | None) -> None:
    """`UserError` unless all (present) tensors have one dtype."""
    for other in others:
        if other is not None and other.dtype is not first.dtype:
            raise UserError(
                f"arguments have dtypes {first.dtype} and {other.dtype}, expected equal"
            )


def require_product_dtypes(a: TensorType, b: TensorType, out_dtype: DType | None) -> None:
    """`UserError` unless `a` and `b` have one dtype, or are integers added up in `out_dtype`."""
    if out_dtype is None or not (a.dtype.is_int and b.dtype.is_int):
        require_same_dtype(a, b)


# -- broadcasting ----------------------------------------------------------------------------


def broadcast_shapes(*shapes: Sequence[Expr]) -> Shape:
    """The shape that numpy's broadcasting gives; symbolic dimensions must be provably equal."""
    ndim = max((len(shape) for shape in shapes), default=0)
    result: list[Expr] = []
    for position in range(-ndim, 0):
        dim: Expr = const(1)
        for shape in shapes:
            if len(shape) < -position:
                continue
            other = shape[position]
            if as_int(other) == 1 or same_dim(dim, other):
                continue
            if as_int(dim) != 1:
                shown = " and ".join(show_shape(s) for s in shapes)
                raise UserError(
                    f"shapes {shown} do not broadcast: dimension {position} is "
                    f"{show_dim(dim)} and {show_dim(other)}"
                )
            dim = other
        result.append(dim)
    return tuple(result)


def broadcast_load(tensor: te.Tensor, indices: Sequence[Expr]) -> Expr:
    """The element of `tensor` that broadcasting brings to `indices` (aligned at the end)."""
    own = indices[len(indices) - tensor.ndim :]
    zero = const(0)
    return tensor[
        tuple(
            zero if as_int(dim) == 1 else index
            for dim, index in zip(tensor.shape, own, strict=True)
        )
    ]


# -- precision -------------------------------------------------------------------------------


def is_half(dtype: DType) -> bool:
    """Whether arithmetic in `dtype` is done in float32."""
    return dtype.is_float and dtype.bits == 16


def wide(value: Expr) -> Expr:
    """A half precision value as float32; others pass through."""
    return cast(value, "float32") if is_half(value.dtype) else value


def accumulator_dtype(dtype: DType) -> DType:
    """The dtype in which sums of `dtype` are kept."""
    return DType.of("float32") if is_half(dtype) else dtype


def sum_over(term: Expr, axes: Sequence[te.ReduceAxis]) -> Expr:
    """The sum of `term` over `axes`. An axis of extent one is index 0 and no loop, unless it is the
    only one: the positions of a 1x1 window are then plain indices, which fuse."""
    kept = [axis for axis in axes if as_int(axis.extent) != 1] or list(axes[:1])
    zero = {axis.var: const(0) for axis in axes if axis not in kept}
    return te.sum(Analyzer().simplify(substitute(term, zero)) if zero else term, axis=kept)


def cast_tensor(tensor: te.Tensor, dtype: DType) -> te.Tensor:
    """`tensor` converted to `dtype`; itself when it is that already."""
    if tensor.dtype is dtype:
        return tensor
    return te.compute(tensor.shape, lambda *i: cast(tensor[i], dtype), name=f"{tensor.name}_cast")


def elementwise(tensor: te.Tensor, function: Callable[[Expr], Expr], name: str) -> te.Tensor:
    """`function` of every element, in float32 for half precision; result in the tensor's dtype
    (bool stays bool)."""

    def body(*i: Expr) -> Expr:
        value = function(wide(tensor[i]))
        return value if value.dtype.is_bool else cast(value, tensor.dtype)

    return te.compute(tensor.shape, body, name=name)


__all__ = [
    "accumulator_dtype",
    "as_dims",
    "broadcast_load",
    "broadcast_shapes",
    "cast_tensor",
    "ceil_div",
    "elementwise",
    "is_half",
    "normal_axes",
    "normal_axis",
    "plain_dims",
    "product",
    "require_ndim",
    "require_product_dtypes",
    "require_same_dtype",
    "require_shape",
    "same_dim",
    "same_shape",
    "show_dim",
    "show_shape",
    "simplify_dim",
    "sum_over",
    "vectorized",
    "wide",
]


def vectorized(function: Callable[[float], float]) -> Callable[[np.ndarray], np.ndarray]:
    """A Python function of a float as a reference on arrays."""
    result: Any = np.vectorize(function, otypes=[np.float64])
    return result  # type: ignore[no-any-return]
