# SPDX-License-Identifier: Apache-2.0
"""Operators that read where a tensor of indices says.

Negative indices count from the end. Indices outside are clamped to the axis when reading and
ignored when writing (`scattering.py`): no kernel accesses memory that is not its own, whatever
the data.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import TensorType
from heddle.ir.expr import (
    EQ,
    Expr,
    as_expr,
    as_int,
    cast,
    compare,
    const,
    maximum,
    minimum,
    select,
)
from heddle.op.adjoint import dims_of, dtype_of, full_like, in_bounds, ndim_of, positions
from heddle.op.attribute import Dim
from heddle.op.common import (
    normal_axis,
    plain_dims,
    require_ndim,
    require_shape,
    same_dim,
    show_shape,
)
from heddle.op.registry import operator, ops
from heddle.op.sample import case, floats, ints, values
from heddle.support import UserError


def clamped(index: Expr, size: Expr) -> Expr:
    """An index into an axis of `size`: negative ones from the end, then limited to the axis."""
    index = cast(index, "int64")
    counted = select(index < 0, index + size, index)
    return maximum(const(0), minimum(counted, size - 1))


def reference_clamped(index: np.ndarray, size: int) -> np.ndarray:
    """`clamped` on arrays."""
    counted = index.astype(np.int64)
    return np.clip(np.where(counted < 0, counted + size, counted), 0, size - 1)


INDEXED = {"data": "any", "indices": "index", "updates": "any"}


@operator("gather", kind="injective", dtypes=INDEXED)
def gather(data: TensorType, indices: TensorType, *, axis: int = 0) -> TensorType:
    """data[..., indices, ...]: slices of data along an axis; the axes of `indices` take the
    place of `axis`."""
    if as_int(data.shape[axis]) == 0 and all(as_int(dim) != 0 for dim in indices.shape):
        raise UserError(f"axis {axis} of data is empty: there is nothing to gather")
    shape = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
    return TensorType(shape, data.dtype)


def canonical_axis(data: TensorType, *_rest: Any, axis: int, **_attrs: Any) -> dict[str, Any]:
    """The rule "normalise" of operators with an axis of their first tensor."""
    return {"axis": normal_axis(axis, data.ndim)}


gather.rule("normalise")(canonical_axis)


@gather.rule("compute")
def _(data: te.Tensor, indices: te.Tensor, *, axis: int) -> te.Tensor:
    def body(*i: Expr) -> Expr:
        at = clamped(indices[i[axis : axis + indices.ndim]], data.shape[axis])
        return data[(*i[:axis], at, *i[axis + indices.ndim :])]

    shape = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
    return te.compute(shape, body, name="gather")


@gather.rule("numpy")
def _(data: np.ndarray, indices: np.ndarray, *, axis: int) -> np.ndarray:
    return np.take(data, reference_clamped(indices, data.shape[axis]), axis=axis)


@gather.rule("grad")
def _(
    data: GraphExpr, indices: GraphExpr, *, dout: GraphExpr, out: GraphExpr, axis: int
) -> tuple[GraphExpr | None, ...]:
    """Each slice is added where it was read: rows scattered with `axis` in front."""
    rank, rows = ndim_of(data), ndim_of(indices)
    taken = range(axis, axis + rows)
    others = [at for at in range(ndim_of(dout)) if at not in taken]
    updates = ops.transpose(dout, permutation=(*taken, *others)) if axis else dout
    order = (axis, *(at for at in range(rank) if at != axis))
    shape = plain_dims(dims_of(data)[at] for at in order)
    start = ops.full(shape=shape, value=0.0, dtype=dtype_of(data))
    where = ops.unsqueeze(in_bounds(indices, data, axis), axes=(rows,))
    found = ops.scatter_nd(start, where, updates, reduction="add")
    back = tuple(order.index(at) for at in range(rank))
    return ops.transpose(found, permutation=back) if axis else found, None


gather.samples(
    case(floats(5, 3), ints(2, 4, low=-5, high=4)),
    case(floats(2, 5, 3), ints(4, low=-9, high=9, dtype="int32"), axis=1),
    case(floats(2, 5), ints(high=4), axis=1),
)


@operator("gather_elements", kind="injective", dtypes=INDEXED)
def gather_elements(data: TensorType, indices: TensorType, *, axis: int = 0) -> TensorType:
    """At each position of `indices`, the element of data there, but along `axis` where the index
    says."""
    require_ndim(indices, "indices", data.ndim, data.ndim)
    return TensorType(indices.shape, data.dtype)


gather_elements.rule("normalise")(canonical_axis)


@gather_elements.rule("compute")
def _(data: te.Tensor, indices: te.Tensor, *, axis: int) -> te.Tensor:
    def body(*i: Expr) -> Expr:
        # `indices` may be smaller than data along the other axes, never larger; clamp to be safe.
        at = [minimum(k, dim - 1) for k, dim in zip(i, data.shape, strict=True)]
        at[axis] = clamped(indices[i], data.shape[axis])
        return data[tuple(at)]

    return te.compute(indices.shape, body, name="gather_elements")


@gather_elements.rule("numpy")
def _(data: np.ndarray, indices: np.ndarray, *, axis: int) -> np.ndarray:
    inner = tuple(slice(n) if a != axis else slice(None) for a, n in enumerate(indices.shape))
    at = reference_clamped(indices, data.shape[axis])
    return np.take_along_axis(data[inner], at, axis=axis)


@gather_elements.rule("grad")
def _(
    data: GraphExpr, indices: GraphExpr, *, dout: GraphExpr, out: GraphExpr, axis: int
) -> tuple[GraphExpr | None, ...]:
    where = in_bounds(indices, data, axis)
    return ops.scatter_elements(full_like(data, 0.0), where, dout, axis=axis, reduction="add"), None


gather_elements.samples(
    case(floats(3, 4), ints(2, 4, low=-3, high=2)),
    case(floats(3, 4), ints(3, 2, high=3), axis=1),
)


@operator("gather_nd", kind="injective", dtypes=INDEXED)
def gather_nd(data: TensorType, indices: TensorType, *, batch_dims: int = 0) -> TensorType:
    """Slices of data at the index tuples in the last axis of `indices`; the first `batch_dims`
    axes of both go together."""
    depth = tuple_length(data, indices, batch_dims)
    return TensorType((*indices.shape[:-1], *data.shape[batch_dims + depth :]), data.dtype)


def tuple_length(data: Any, indices: Any, batch_dims: int = 0) -> int:
    """How many axes of data an index tuple names; `UserError` when they do not fit."""
    if indices.ndim < 1:
        raise UserError("argument `indices` is a scalar, expected index tuples in its last axis")
    depth = as_int(indices.shape[-1])
    if depth is None or not 0 <= batch_dims < min(data.ndim, indices.ndim):
        raise UserError(
            f"indices of shape {show_shape(indices.shape)} with batch_dims {batch_dims} do not "
            f"index data of shape {show_shape(data.shape)}"
        )
    for a, b in zip(data.shape[:batch_dims], indices.shape[:batch_dims], strict=True):
        if not same_dim(a, b):
            raise UserError("the batch axes of data and indices differ")
    if batch_dims + depth > data.ndim:
        raise UserError(f"index tuples of {depth} are too long for data of {data.ndim} dimensions")
    return depth


@gather_nd.rule("compute")
def _(data: te.Tensor, indices: te.Tensor, *, batch_dims: int) -> te.Tensor:
    depth = tuple_length(data, indices, batch_dims)
    lead = indices.ndim - 1

    def body(*i: Expr) -> Expr:
        at = [
            clamped(indices[(*i[:lead], const(k))], data.shape[batch_dims + k])
            for k in range(depth)
        ]
        return data[(*i[:batch_dims], *at, *i[lead:])]

    shape = (*indices.shape[:-1], *data.shape[batch_dims + depth :])
    return te.compute(shape, body, name="gather_nd")


@gather_nd.rule("numpy")
def _(data: np.ndarray, indices: np.ndarray, *, batch_dims: int) -> np.ndarray:
    depth = indices.shape[-1]
    result = np.empty((*indices.shape[:-1], *data.shape[batch_dims + depth :]), data.dtype)
    for position in np.ndindex(*indices.shape[:-1]):
        at = [
            int(reference_clamped(indices[(*position, k)], data.shape[batch_dims + k]))
            for k in range(depth)
        ]
        result[position] = data[(*position[:batch_dims], *at)]
    return result


@gather_nd.rule("grad")
def _(
    data: GraphExpr, indices: GraphExpr, *, dout: GraphExpr, out: GraphExpr, batch_dims: int
) -> tuple[GraphExpr | None, ...]:
    where = full_tuples(indices, data, batch_dims)
    return ops.scatter_nd(full_like(data, 0.0), where, dout, reduction="add"), None


def full_tuples(indices: GraphExpr, data: GraphExpr, batch_dims: int) -> GraphExpr:
    """Index tuples within the axes of data, with the positions of the batch axes in front."""
    depth = as_int(dims_of(indices)[-1])
    assert depth is not None
    last = ndim_of(indices) - 1
    whole = (*plain_dims(dims_of(indices)[:-1]), 1)
    parts: list[GraphExpr] = [
        ops.broadcast_to(positions(indices, axis, dtype_of(indices).name), shape=whole)
        for axis in range(batch_dims)
    ]
    for k in range(depth):
        column = ops.slice(indices, starts=(k,), ends=(k + 1,), axes=(last,))
        parts.append(in_bounds(column, data, batch_dims + k))
    return ops.concat(*parts, axis=last) if parts else indices


gather_nd.samples(
    case(floats(3, 4, 2), ints(5, 2, low=-3, high=2)),
    case(floats(2, 3, 4), ints(2, 1, high=2), batch_dims=1),
    case(floats(3, 4), ints(2, 2, 2, high=2)),
)

# -- one hot, top k --------------------------------------------------------------------------


def hit(index: Expr, size: Expr, position: Expr) -> Expr:
    """Whether an index into an axis of `size`, negative from the end, is `position`."""
    index = cast(index, "int64")
    return compare(EQ, select(index < 0, index + size, index), position)


@operator("one_hot", kind="injective", dtypes={"indices": "index", "values": "any"})
def one_hot(indices: TensorType, values: TensorType, *, depth: Dim, axis: int = -1) -> TensorType:
    """An axis of `depth` inserted at `axis`: values[1] where its position is the index, else
    values[0] (everywhere, for an index outside)."""
    require_shape(values, "values", [2])
    shape = (*indices.shape[:axis], as_expr(depth), *indices.shape[axis:])
    return TensorType(shape, values.dtype)


@one_hot.rule("normalise")
def _(indices: TensorType, values: TensorType, *, axis: int, **_rest: Any) -> dict[str, Any]:
    return {"axis": normal_axis(axis, indices.ndim + 1)}


@one_hot.rule("compute")
def _(indices: te.Tensor, values: te.Tensor, *, depth: Dim, axis: int) -> te.Tensor:
    size = as_expr(depth)

    def body(*i: Expr) -> Expr:
        found = hit(indices[(*i[:axis], *i[axis + 1 :])], size, i[axis])
        return select(found, values[1], values[0])

    return te.compute((*indices.shape[:axis], size, *indices.shape[axis:]), body, name="one_hot")


@one_hot.rule("numpy")
def _(indices: np.ndarray, values: np.ndarray, *, depth: int, axis: int) -> np.ndarray:
    counted = np.expand_dims(np.where(indices < 0, indices + depth, indices), axis)
    shape = [1] * counted.ndim
    shape[axis] = depth
    return np.where(counted == np.arange(depth).reshape(shape), values[1], values[0])  # type: ignore[no-any-return]


@one_hot.rule("grad")
def _(
    indices: GraphExpr,
    values: GraphExpr,
    *,
    dout: GraphExpr,
    out: GraphExpr,
    depth: Dim,
    axis: int,
) -> tuple[GraphExpr | None, ...]:
    """The sums over where values[0] and where values[1] went."""
    pair = np.asarray([0, 1], dtype_of(values).numpy)
    hits = ops.one_hot(indices, pair, depth=depth, axis=axis)
    sums = [ops.unsqueeze(ops.sum(dout * part), axes=(0,)) for part in (1.0 - hits, hits)]
    return None, ops.concat(*sums, axis=0)


one_hot.samples(
    case(ints(3, low=-4, high=5), values([0.0, 1.0]), depth=4),
    case(ints(2, 3, high=3), values([2, 5], "int32"), depth=4, axis=0),
)
