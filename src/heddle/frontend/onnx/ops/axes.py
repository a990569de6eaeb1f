# SPDX-License-Identifier: Apache-2.0
"""Axes that are known at run time only.

An axis that may be meant or not is treated both ways, and a scalar of truth decides: of a tensor
with few axes that is little more work than the operator takes anyway. Where axes go or come, the
sizes that are left are computed, and the result has them in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from heddle.frontend.onnx.node import Node, dtype, rank, shape
from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.sizes import dimension_as_scalar, product
from heddle.frontend.onnx.values import Value, tensor_type
from heddle.graph import Constant, GraphExpr
from heddle.ir.expr import Expr, as_expr, as_int, const, maximum


def _whole(value: Any) -> Constant:
    return Constant(np.asarray(value, np.int64))


@dataclass(frozen=True, slots=True)
class Axes:
    """Some of the axes of a tensor: for each whether it is meant (`vector` of bool, and its
    elements `meant`), and [ndim, count] of bool, which of the axes that are listed it is. count:
    of those that are listed, None when that is known at run time only."""

    vector: GraphExpr
    meant: list[GraphExpr]
    table: GraphExpr
    count: int | None

    def spread(self, node: Node, values: GraphExpr, default: int) -> list[GraphExpr]:
        """A value per axis from one per axis that is listed: int64 scalars."""
        row = node.op.unsqueeze(node.cast(values, "int64"), axes=(0,))
        sums = node.op.sum(node.op.where(self.table, row, _whole(0)), axes=(1,))
        return [
            node.op.where(meant, node.op.gather(sums, _whole(at), axis=0), _whole(default))
            for at, meant in enumerate(self.meant)
        ]


def axes_of(node: Node, value: Value, ndim: int) -> Axes:
    """Axes of a tensor of `ndim` dimensions. One that is out of range, or listed twice, makes the
    dimension -1 of what is computed here, which is an error at run time."""
    listed = node.reshape(node.cast(node.as_tensor(value), "int64"), (1, -1))
    front = node.op.add(listed, _whole(ndim))
    listed = node.op.where(node.op.less(listed, _whole(0)), front, listed)
    table = node.op.equal(listed, _whole(np.arange(ndim).reshape(ndim, 1)))
    vector = node.op.any(table, axes=(1,))
    found = node.op.sum(node.cast(vector, "int64"))
    right = node.op.equal(found, dimension_as_scalar(node, shape(listed)[1]))
    size = node.bind_dim(node.op.where(right, _whole(ndim), _whole(-1)), const(ndim))
    vector = node.op.prefix(vector, shape=(size,))
    meant = [node.op.gather(vector, _whole(axis), axis=0) for axis in range(ndim)]
    return Axes(vector, meant, table, as_int(as_expr(shape(listed)[1])))


# -- reductions ------------------------------------------------------------------------------

_STEPS: Final = {
    "sum": ("", "sum", ""),
    "mean": ("", "sum", ""),
    "max": ("", "max", ""),
    "min": ("", "min", ""),
    "prod": ("", "prod", ""),
    "sum_square": ("square", "sum", ""),
    "l1_norm": ("abs", "sum", ""),
    "l2_norm": ("square", "sum", "sqrt"),
    "log_sum": ("", "sum", "log"),
    "logsumexp": ("", "logsumexp", ""),
    "any": ("", "any", ""),
    "all": ("", "all", ""),
}
"""What is done to each element, along each axis, and to each result."""


def reduce_of(node: Node, x: GraphExpr, name: str, *, keepdims: bool, none_is_all: bool) -> Any:
    """A reduction along axes that are input 1, one after the other."""
    axes = axes_of(node, node.value(1), rank(x))
    before, along, after = _STEPS[name]
    kind, meant = dtype(x), axes.meant
    if kind.is_float and kind.bits == 16:  # rounded once, at the end
        x = node.cast(x, "float32")
    if none_is_all and not axes.count:
        none = node.op.logical_not(node.op.any(axes.vector))
        meant = [node.op.logical_or(here, none) for here in meant]
    elements: GraphExpr = _whole(1)
    if before:
        x = node.op.mul(x, x) if before == "square" else node.call(before, x)
    for axis, here in enumerate(meant):
        own = dimension_as_scalar(node, shape(x)[axis])
        elements = node.op.mul(elements, node.op.where(here, own, _whole(1)))
        x = _reduced(node, x, axis, here, along)
    if name == "mean":
        x = node.op.div(x, node.cast(elements, dtype(x)))
    x = node.cast(node.call(after, x) if after else x, kind)
    return node.op.identity(x) if keepdims else without_axes(node, x, axes)


def _reduced(node: Node, x: GraphExpr, axis: int, here: GraphExpr, along: str) -> GraphExpr:
    """x or what it is along an axis: the tail or the head of both in a row."""
    dim = as_expr(shape(x)[axis])
    if as_int(dim) == 1:
        return x
    total = node.call(along, x, axes=(axis,), keepdims=True)
    both = node.op.concat(total, x, axis=axis)
    count = node.op.where(here, _whole(1), dimension_as_scalar(node, dim))
    size = node.bind_dim(count, maximum(dim, const(1)))
    places = node.op.range(count=size, dtype="int64")
    places = node.op.add(places, node.op.where(here, _whole(0), _whole(1)))
    return node.op.gather(both, places, axis=axis)  # type: ignore[no-any-return]


# -- axes that go or come --------------------------------------------------------------------


def without_axes(node: Node, x: GraphExpr, axes: Axes) -> GraphExpr:
    """x without axes of size 1."""
    if axes.count is None:
        raise Unsupported(
            "`axes` must be known when compiling, or at least how many are taken away",
            inputs=node.importer.sources_of(node.tensor(1)),
        )
    left = rank(x) - axes.count
    if left <= 0:
        return _only_element(node, x)
    places, _count = node.op.nonzero(node.op.logical_not(axes.vector))
    kept = node.reshape(node.op.prefix(places, shape=(1, left)), (left,))
    sizes = node.op.gather(node.op.shape_of(x), kept, axis=0)
    dims = [as_expr(dim) for dim in shape(x)]
    rooms = [_most(dims[at : at + axes.count + 1]) for at in range(left)]
    return _resized(node, x, [_item(node, sizes, at) for at in range(left)], rooms)


def _only_element(node: Node, x: GraphExpr) -> GraphExpr:
    """x without dimensions. Where it has not one element, the dimension is -1, an error."""
    total = dimension_as_scalar(node, product(shape(x)))
    right = node.op.equal(total, _whole(1))
    one = node.bind_dim(node.op.where(right, _whole(1), _whole(-1)), const(1))
    flat = node.op.prefix(node.reshape(x, (-1,)), shape=(one,))
    return node.op.gather(flat, _whole(0), axis=0)  # type: ignore[no-any-return]


def with_axes(node: Node, x: GraphExpr, value: Value) -> GraphExpr:
    """x with axes of size 1 that are listed as those of the result."""
    count = as_int(product(tensor_type(value).shape))
    if count is None:
        raise Unsupported(
            "`axes` must be known when compiling, or at least how many are put in",
            inputs=node.importer.sources_of(node.as_tensor(value)),
        )
    ndim = rank(x)
    axes = axes_of(node, value, ndim + count)
    if not ndim:
        return node.reshape(x, (1,) * count)
    before = node.op.cumsum(node.cast(axes.vector, "int64"), axis=0)
    sizes, rooms = [], []
    for at, here in enumerate(axes.meant):
        place = node.op.sub(_whole(at), _item(node, before, at))
        own = node.op.gather(node.op.shape_of(x), node.op.maximum(place, _whole(0)), axis=0)
        sizes.append(node.op.where(here, _whole(1), own))
        near = [as_expr(dim) for dim in shape(x)[max(0, at - count) : at + 1]]
        rooms.append(_most([const(1), *near]))
    return _resized(node, x, sizes, rooms)


def _most(dims: Sequence[Expr]) -> Expr:
    found = dims[0]
    for dim in dims[1:]:
        found = maximum(found, dim)
    return found


def _item(node: Node, vector: GraphExpr, at: int) -> GraphExpr:
    return node.op.gather(vector, _whole(at), axis=0)  # type: ignore[no-any-return]


def _resized(
    node: Node, x: GraphExpr, sizes: Sequence[GraphExpr], rooms: Sequence[Expr]
) -> GraphExpr:
    """x in sizes that are computed; all of them -1 where they are not the number of elements."""
    total: GraphExpr = _whole(1)
    for size in sizes:
        total = node.op.mul(total, size)
    right = node.op.equal(total, dimension_as_scalar(node, product(shape(x))))
    dims = [
        node.bind_dim(node.op.where(right, size, _whole(-1)), room)
        for size, room in zip(sizes, rooms, strict=True)
    ]
    flat = node.op.prefix(node.reshape(x, (-1,)), shape=(product(dims),))
    return node.reshape(flat, dims)
