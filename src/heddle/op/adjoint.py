# SPDX-License-Identifier: Apache-2.0
"""What gradient rules share: the adjoints of broadcasting and of mixing along an axis, masks.

Everything here takes and returns graph expressions, built of operators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from heddle.graph.nodes import Constant, GraphExpr
from heddle.ir import DType, TensorType
from heddle.ir.expr import Expr, as_int
from heddle.op.attribute import Ints
from heddle.op.common import is_half, plain_dims, same_dim, show_shape
from heddle.op.registry import ops
from heddle.support import UserError

FLOAT32 = DType.of("float32")


def dims_of(x: GraphExpr) -> tuple[Expr, ...]:
    """The dimensions of a tensor."""
    return _type(x).shape


def dtype_of(x: GraphExpr) -> DType:
    """The dtype of a tensor."""
    return _type(x).dtype


def ndim_of(x: GraphExpr) -> int:
    """The rank of a tensor."""
    return _type(x).ndim


def _type(x: GraphExpr) -> TensorType:
    assert isinstance(x.type, TensorType)
    return x.type


def is_number(x: GraphExpr) -> bool:
    """Whether x is a constant: it needs no gradient."""
    return isinstance(x, Constant)


def full_like(x: GraphExpr, value: float) -> GraphExpr:
    """A tensor of x's type that is `value` everywhere."""
    return ops.full(shape=plain_dims(dims_of(x)), value=value, dtype=dtype_of(x))


def sum_to(value: GraphExpr, like: GraphExpr) -> GraphExpr:
    """The adjoint of broadcasting `like` to the shape of `value`: sums over what was repeated."""
    return sum_to_shape(value, dims_of(like))


def sum_to_shape(value: GraphExpr, shape: Sequence[Expr]) -> GraphExpr:
    """`sum_to` for a shape."""
    whole = dims_of(value)
    lead = len(whole) - len(shape)
    units = [
        axis
        for axis, dim in enumerate(shape)
        if as_int(dim) == 1 and as_int(whole[lead + axis]) != 1
    ]
    axes = (*range(lead), *(lead + axis for axis in units))
    if not axes:
        return value
    total = ops.sum(value, axes=axes)
    return ops.unsqueeze(total, axes=tuple(units)) if units else total


def expand(reduced: GraphExpr, like: GraphExpr, axes: Ints, *, keepdims: bool) -> GraphExpr:
    """A reduction's result repeated along the `axes` of `like` that were reduced."""
    if not keepdims and axes:
        reduced = ops.unsqueeze(reduced, axes=axes)
    return broadcast_like(reduced, like)


def kept(reduced: GraphExpr, axes: Ints, *, keepdims: bool) -> GraphExpr:
    """A reduction's result with the reduced `axes` as axes of size 1."""
    return reduced if keepdims or not axes else ops.unsqueeze(reduced, axes=axes)


def broadcast_like(x: GraphExpr, like: GraphExpr) -> GraphExpr:
    """x broadcast to the shape of `like`."""
    same = len(dims_of(x)) == len(dims_of(like)) and all(
        same_dim(a, b) for a, b in zip(dims_of(x), dims_of(like), strict=True)
    )
    return x if same else ops.broadcast_to(x, shape=plain_dims(dims_of(like)))


def reshape_like(x: GraphExpr, like: GraphExpr) -> GraphExpr:
    """x in the shape of `like`, which has as many elements."""
    return ops.reshape(x, shape=plain_dims(dims_of(like)))


def mask(condition: GraphExpr, like: GraphExpr) -> GraphExpr:
    """1 where the condition holds, else 0, in the dtype of `like`."""
    return ops.cast(condition, dtype=dtype_of(like))


def per_channel(x: GraphExpr, ndim: int) -> GraphExpr:
    """x[C] shaped to broadcast along axis 1 of `ndim` axes."""
    return ops.unsqueeze(x, axes=(0, *range(2, ndim))) if ndim > 1 else x


def channel_sum(x: GraphExpr) -> GraphExpr:
    """The adjoint of `per_channel` and broadcasting: sums over all axes but 1."""
    return ops.sum(x, axes=(0, *range(2, ndim_of(x))))


def widened(x: GraphExpr) -> GraphExpr:
    """x in float32 where it is in half precision: statistics are computed there."""
    return ops.cast(x, dtype=FLOAT32) if is_half(dtype_of(x)) else x


def cast_like(x: GraphExpr, like: GraphExpr) -> GraphExpr:
    """x in the dtype of `like`."""
    return x if dtype_of(x) is dtype_of(like) else ops.cast(x, dtype=dtype_of(like))


def count_value(x: GraphExpr, axes: Ints, dtype: DType) -> GraphExpr:
    """The number of elements along `axes` of x as a scalar: a constant where it is known."""
    sizes = [as_int(dims_of(x)[axis]) for axis in axes]
    known = math.prod(size for size in sizes if size is not None)
    total: GraphExpr = Constant(np.asarray(known, dtype.numpy))
    for axis, size in zip(axes, sizes, strict=True):
        if size is None:
            found = ops.slice(ops.shape_of(x), starts=(axis,), ends=(axis + 1,))
            total = total * ops.cast(ops.squeeze(found, axes=(0,)), dtype=dtype)
    return total


def scalar(value: Expr, dtype: DType) -> GraphExpr:
    """An integer expression of dimensions as a tensor: a constant where it is known."""
    known = as_int(value)
    if known is not None:
        return Constant(np.asarray(known, dtype.numpy))
    return ops.range(count=1, start=value, dtype=dtype)


def positions(x: GraphExpr, axis: int, dtype: str = "int64") -> GraphExpr:
    """0, 1, ... along `axis`, shaped to broadcast with x."""
    line = ops.range(count=plain_dims(dims_of(x))[axis], dtype=dtype)
    others = tuple(at for at in range(ndim_of(x)) if at != axis)
    return ops.unsqueeze(line, axes=others) if others else line


def in_bounds(indices: GraphExpr, data: GraphExpr, axis: int) -> GraphExpr:
    """`indices` as positions along an axis of data: negative ones counted from the end, then
    limited to the axis, as operators that read by index do."""
    count = count_value(data, (axis,), dtype_of(indices))
    counted = ops.where(ops.less(indices, 0), ops.add(indices, count), indices)
    return ops.maximum(ops.minimum(counted, ops.sub(count, 1)), 0)


def mix(x: GraphExpr, matrix: np.ndarray, axis: int) -> GraphExpr:
    """Along `axis`, element k of the result is the sum of x[i] * matrix[i, k]."""
    weights = Constant(np.ascontiguousarray(matrix, dtype=dtype_of(x).numpy))
    last = ndim_of(x) - 1
    if axis == last:
        return ops.matmul(x, weights)
    order = (*(at for at in range(last + 1) if at != axis), axis)
    back = tuple(order.index(at) for at in range(last + 1))
    mixed = ops.matmul(ops.transpose(x, permutation=order), weights)
    return ops.transpose(mixed, permutation=back)


def static_shape(x: GraphExpr, owner: str) -> tuple[int, ...]:
    """The shape in numbers; `UserError` where a dimension is symbolic."""
    shape = _type(x).static_shape
    if shape is None:
        raise UserError(
            f"the gradient of op.{owner} needs a shape that is known, got {show_shape(dims_of(x))}"
        )
    return shape


__all__ = [
    "broadcast_like",
    "cast_like",
    "channel_sum",
    "count_value",
    "dtype_of",
    "expand",
    "full_like",
    "in_bounds",
    "is_number",
    "kept",
    "mask",
    "mix",
    "ndim_of",
    "per_channel",
    "positions",
    "reshape_like",
    "scalar",
    "dims_of",
    "static_shape",
    "sum_to",
    "sum_to_shape",
    "widened",
]
