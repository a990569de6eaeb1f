# SPDX-License-Identifier: Apache-2.0
"""Scatters: elements written, or merged, where a tensor of indices says."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from heddle.frontend.torch.node import Node, dtype, normal_axis, rank, same_shape, shape
from heddle.frontend.torch.ops.indexing import index_of
from heddle.frontend.torch.ops.views import cut, transposed
from heddle.frontend.torch.registry import converts
from heddle.frontend.torch.report import Unsupported
from heddle.graph import Constant, GraphExpr
from heddle.ir.expr import Expr

_MERGES: Final = {"sum": "add", "mean": "add", "prod": "mul", "amax": "max", "amin": "min"}

# -- scatter ---------------------------------------------------------------------------------


@converts("aten.scatter.src", "aten.scatter_add.default")
def _scatter(node: Node, x: GraphExpr, dim: int, index: GraphExpr, src: GraphExpr) -> Any:
    how = "add" if "scatter_add" in node.target else "none"
    return _scattered(node, x, dim, index, src, how)


@converts("aten.scatter.value")
def _scatter_value(node: Node, x: GraphExpr, dim: int, index: GraphExpr, value: Any) -> Any:
    src = node.expand(node.tensor(value, dtype(x)), shape(index))
    return _scattered(node, x, dim, index, src, "none")


@converts("aten.scatter.reduce", "aten.scatter.value_reduce")
def _scatter_reduce(
    node: Node, x: GraphExpr, dim: int, index: GraphExpr, src: Any, *, reduce: str
) -> Any:
    src = node.expand(node.tensor(src, dtype(x)), shape(index)) if "value" in node.target else src
    return _scattered(node, x, dim, index, src, {"multiply": "mul"}.get(reduce, reduce))


@converts("aten.scatter_reduce.two")
def _scatter_reduce_two(
    node: Node,
    x: GraphExpr,
    dim: int,
    index: GraphExpr,
    src: GraphExpr,
    reduce: str,
    *,
    include_self: bool = True,
) -> Any:
    return _merged(node, x, dim, index, src, reduce, include_self)


@converts("aten.index_reduce.default")
def _index_reduce(
    node: Node,
    x: GraphExpr,
    dim: int,
    index: GraphExpr,
    src: GraphExpr,
    reduce: str,
    *,
    include_self: bool = True,
) -> Any:
    if not rank(x):  # one element: as a vector of one
        x, src, index = (node.reshape(value, (1,)) for value in (x, src, index))
        index = index_of(node, index)
        return node.reshape(_merged(node, x, 0, index, src, reduce, include_self), ())
    axis = normal_axis(dim, rank(x))
    later = tuple(range(1, rank(src) - axis))
    rows = node.op.unsqueeze(index, axes=later) if later else index
    return _merged(node, x, dim, node.expand(rows, shape(src)), src, reduce, include_self)


def _merged(
    node: Node,
    x: GraphExpr,
    dim: int,
    index: GraphExpr,
    src: GraphExpr,
    reduce: str,
    include_self: bool,
) -> GraphExpr:
    """Without `include_self`, what is written to starts from the neutral element instead."""
    how = _MERGES[reduce]
    start = x
    if not include_self:
        flags = node.full(shape(x), 0, dtype(node.tensor(0)))
        ones = node.full(shape(index), 1, dtype(flags))
        touched = node.cast(_scattered(node, flags, dim, index, ones, "max"), "bool")
        start = node.op.where(touched, node.scalar(_neutral(x, how), x), x)
    found = _scattered(node, start, dim, index, src, how)
    if reduce != "mean":
        return found
    counts = node.full(shape(x), 1 if include_self else 0, dtype(x))
    ones = node.full(shape(index), 1, dtype(x))
    counts = _scattered(node, counts, dim, index, ones, "add")
    counts = node.op.maximum(counts, node.scalar(1, counts))
    if dtype(x).is_float:
        return node.op.div(found, counts)  # type: ignore[no-any-return]
    rest = node.op.floor_mod(found, counts)
    return node.op.div(node.op.sub(found, rest), counts)  # type: ignore[no-any-return]


def _neutral(x: GraphExpr, how: str) -> float | int:
    kind = dtype(x)
    if how in ("add", "mul"):
        return 0 if how == "add" else 1
    if kind.is_float:
        return -math.inf if how == "max" else math.inf
    return kind.min_value if how == "max" else kind.max_value


def _scattered(
    node: Node, x: GraphExpr, dim: int, index: GraphExpr, src: GraphExpr, how: str
) -> GraphExpr:
    if not rank(x):
        x, index, src = (node.op.unsqueeze(value, axes=(0,)) for value in (x, index, src))
        put = _scattered(node, x, 0, index, src, how)
        return node.op.squeeze(put, axes=(0,))  # type: ignore[no-any-return]
    if not same_shape(shape(index), shape(src)):
        for axis, size in enumerate(shape(index)):  # only that much of src counts
            src = cut(node, src, axis, 0, size)
    axis = normal_axis(dim, rank(x))
    return node.op.scatter_elements(  # type: ignore[no-any-return]
        x, index_of(node, index), node.cast(src, dtype(x)), axis=axis, reduction=how
    )


# -- places in memory --------------------------------------------------------------------------


def strided_places(
    node: Node, x: GraphExpr, size: Any, stride: Any, offset: Any
) -> tuple[GraphExpr, list[int], np.ndarray]:
    """x as it lies in memory, the order of its axes there, and the places of the elements of the
    view."""
    base = node.operands[0]
    if any(isinstance(item, Expr) for item in (*size, *stride, *shape(x))):
        raise Unsupported("as_strided with a symbolic size")
    order = sorted(range(rank(x)), key=lambda axis: -base.stride(axis))
    if not base.permute(order).is_contiguous() or base.storage_offset() != 0:
        raise Unsupported("as_strided of a tensor with gaps in its memory")
    index = np.asarray(offset or 0, np.int64)
    for dim, step in zip(size, stride, strict=True):
        index = index[..., None] + np.arange(dim) * step
    flat = node.op.reshape(transposed(node, x, order), shape=(-1,))
    return flat, order, np.ascontiguousarray(index)


@converts("aten.as_strided.default", "aten.as_strided_copy.default")
def _as_strided(
    node: Node, x: GraphExpr, size: Any, stride: Any, storage_offset: Any = None
) -> Any:
    flat, _, index = strided_places(node, x, size, stride, storage_offset)
    return node.reshape(node.op.gather(flat, Constant(index), axis=0), node.shape)


@converts("aten.as_strided_scatter.default")
def _as_strided_scatter(
    node: Node, x: GraphExpr, src: GraphExpr, size: Any, stride: Any, storage_offset: Any = None
) -> Any:
    flat, order, index = strided_places(node, x, size, stride, storage_offset)
    updates = node.op.reshape(node.cast(src, dtype(x)), shape=(-1,))
    put = node.op.index_copy(flat, Constant(index.reshape(-1)), updates, axis=0)
    moved = node.reshape(put, [shape(x)[axis] for axis in order])
    return transposed(node, moved, [order.index(axis) for axis in range(rank(x))])


@converts("aten.put.default")
def _put(
    node: Node, x: GraphExpr, index: GraphExpr, source: GraphExpr, accumulate: bool = False
) -> Any:
    flat, places, updates = (
        node.op.reshape(value, shape=(-1,))
        for value in (x, index_of(node, index), node.cast(source, dtype(x)))
    )
    how = "add" if accumulate else "none"
    put = node.op.index_copy(flat, places, updates, axis=0, reduction=how)
    return node.reshape(put, shape(x))


@converts("aten.diagonal_scatter.default")
def _diagonal_scatter(
    node: Node, x: GraphExpr, src: GraphExpr, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Any:
    first, second = normal_axis(dim1, rank(x)), normal_axis(dim2, rank(x))
    order = [first, second, *(a for a in range(rank(x)) if a not in (first, second))]
    count = node.op.range(count=shape(src)[-1], dtype="int64")
    rows, columns = (node.op.add(count, max(shift, 0)) for shift in (-offset, offset))
    places = node.op.concat(*(node.op.unsqueeze(p, axes=(1,)) for p in (rows, columns)), axis=1)
    updates = transposed(node, node.cast(src, dtype(x)), [rank(src) - 1, *range(rank(src) - 1)])
    put = node.op.scatter_nd(transposed(node, x, order), places, updates)
    return transposed(node, put, [order.index(axis) for axis in range(rank(x))])
