# SPDX-License-Identifier: Apache-2.0
"""What depends on the order of elements: medians, searches in sorted rows, running extremes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from heddle.frontend.torch.node import Node, dtype, normal_axis, rank, shape
from heddle.frontend.torch.ops.counting import largest_known
from heddle.frontend.torch.ops.indexing import positions
from heddle.frontend.torch.ops.pooling import bin_limits
from heddle.frontend.torch.ops.views import cut, transposed
from heddle.frontend.torch.registry import converts
from heddle.frontend.torch.report import Unsupported
from heddle.graph import Constant, GraphExpr
from heddle.ir import DType
from heddle.ir.expr import Expr

# -- one element of the order ------------------------------------------------------------------


def _nth(node: Node, x: GraphExpr, axis: int, at: Any, keepdim: bool) -> tuple[GraphExpr, Any]:
    """The element at a place, counted from 0, of each row in ascending order; its position."""
    found = node.op.topk(x, k=shape(x)[axis], axis=axis, largest=False)
    picked = [cut(node, part, axis, at, 1) for part in found]
    if keepdim:
        return picked[0], picked[1]
    return tuple(node.op.squeeze(part, axes=(axis,)) for part in picked)  # type: ignore[return-value]


@converts("aten.kthvalue.default")
def _kthvalue(node: Node, x: GraphExpr, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    if not rank(x):
        return x, node.tensor(0)
    return _nth(node, x, normal_axis(dim, rank(x)), k - 1, keepdim)


@converts("aten.median.dim")
def _median_dim(node: Node, x: GraphExpr, dim: int, keepdim: bool = False) -> Any:
    """The lower of two in the middle; not a number where one element is not."""
    if not rank(x):
        return x, node.tensor(0)
    axis = normal_axis(dim, rank(x))
    value, position = _nth(node, x, axis, (shape(x)[axis] - 1) // 2, keepdim)
    if not dtype(x).is_float:
        return value, position
    holes = node.op.isnan(x)
    bad = node.op.any(holes, axes=(axis,), keepdims=keepdim)
    first = node.op.argmax(node.cast(holes, "uint8"), axis=axis, keepdims=keepdim)
    nan = node.scalar(math.nan, value)
    return node.op.where(bad, nan, value), node.op.where(bad, first, position)


@converts("aten.median.default")
def _median(node: Node, x: GraphExpr) -> Any:
    return _median_dim(node, node.op.reshape(x, shape=(-1,)), 0)[0]


@converts("aten.nanmedian.dim")
def _nanmedian_dim(node: Node, x: GraphExpr, dim: int, keepdim: bool = False) -> Any:
    """The median of the numbers of a row: what is none counts as infinite, behind all of them."""
    if not dtype(x).is_float or not rank(x):
        return _median_dim(node, x, dim, keepdim)
    axis = normal_axis(dim, rank(x))
    holes = node.op.isnan(x)
    filled = node.op.where(holes, node.scalar(math.inf, x), x)
    order = node.op.topk(filled, k=shape(x)[axis], axis=axis, largest=False)[1]
    count = node.op.sum(node.cast(node.op.logical_not(holes), "int64"), axes=(axis,), keepdims=True)
    at = node.op.maximum(node.op.div(node.op.sub(count, 1), 2), 0)
    position = node.op.gather_elements(order, at, axis=axis)
    value = node.op.gather_elements(x, position, axis=axis)
    if keepdim:
        return value, position
    return node.op.squeeze(value, axes=(axis,)), node.op.squeeze(position, axes=(axis,))


@converts("aten.nanmedian.default")
def _nanmedian(node: Node, x: GraphExpr) -> Any:
    return _nanmedian_dim(node, node.op.reshape(x, shape=(-1,)), 0)[0]


@converts("aten.mode.default")
def _mode(node: Node, x: GraphExpr, dim: int = -1, keepdim: bool = False) -> Any:
    """The most frequent element of a row, the smallest of several; the last of its places."""
    if not rank(x):
        return x, node.tensor(0)
    axis = normal_axis(dim, rank(x))
    same = node.op.equal(node.op.unsqueeze(x, axes=(axis + 1,)), node.op.unsqueeze(x, axes=(axis,)))
    count = node.op.sum(node.cast(same, "int64"), axes=(axis + 1,))
    often = node.op.equal(count, node.op.max(count, axes=(axis,), keepdims=True))
    most = math.inf if dtype(x).is_float else dtype(x).max_value
    value = node.op.min(node.op.where(often, x, node.scalar(most, x)), axes=(axis,), keepdims=True)
    here = node.cast(node.op.equal(x, value), "uint8")
    position = node.op.argmax(here, axis=axis, keepdims=keepdim, select_last_index=True)
    return value if keepdim else node.op.squeeze(value, axes=(axis,)), position


# -- searches ----------------------------------------------------------------------------------


def _places(node: Node, borders: GraphExpr, values: GraphExpr, right: bool) -> GraphExpr:
    """How many of the borders (the last axis) lie before a value; what is no number is last."""
    beyond = node.op.greater if right else node.op.greater_equal
    before = node.op.logical_not(beyond(borders, values))
    axes = (rank(before) - 1,)
    return node.op.sum(node.cast(before, "int64"), axes=axes)  # type: ignore[no-any-return]


def _alike(node: Node, a: Any, b: Any) -> tuple[GraphExpr, GraphExpr]:
    kind = node.common_dtype()
    return node.tensor(a, kind), node.tensor(b, kind)


@converts("aten.bucketize.Tensor", "aten.bucketize.Scalar")
def _bucketize(
    node: Node, x: Any, boundaries: GraphExpr, *, out_int32: bool = False, right: bool = False
) -> Any:
    values, borders = _alike(node, x, boundaries)
    return _places(node, borders, node.op.unsqueeze(values, axes=(rank(values),)), right)


@converts("aten.searchsorted.Tensor", "aten.searchsorted.Scalar")
def _searchsorted(
    node: Node,
    rows: GraphExpr,
    x: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: GraphExpr | None = None,
) -> Any:
    if sorter is not None:
        rows = node.op.gather_elements(rows, sorter, axis=rank(rows) - 1)
    borders, values = _alike(node, rows, x)
    if rank(borders) > 1:
        borders = node.op.unsqueeze(borders, axes=(rank(borders) - 1,))
    wide = node.op.unsqueeze(values, axes=(rank(values),))
    return _places(node, borders, wide, right or side == "right")


@converts("aten.histc.default")
def _histc(node: Node, x: GraphExpr, bins: int = 100, min: Any = 0, max: Any = 0) -> Any:
    flat = node.op.reshape(x, shape=(-1,))
    if min == max:
        low, high = node.op.min(flat), node.op.max(flat)
        same = node.op.equal(low, high)
        low = node.op.where(same, node.op.sub(low, 1.0), low)
        high = node.op.where(same, node.op.add(high, 1.0), high)
    else:
        low, high = node.scalar(min, flat), node.scalar(max, flat)
    share = node.op.div(node.op.sub(flat, low), node.op.sub(high, low))
    bin_of = node.op.minimum(node.op.floor(node.op.mul(share, float(bins))), float(bins - 1))
    inside = node.op.logical_and(node.op.greater_equal(flat, low), node.op.less_equal(flat, high))
    column = node.op.unsqueeze(node.op.range(count=bins, dtype=dtype(flat)), axes=(1,))
    counted = node.op.logical_and(node.op.equal(column, bin_of), inside)
    return node.op.sum(node.cast(counted, node.dtype), axes=(1,))


# -- running -----------------------------------------------------------------------------------

Merge = Callable[[list[GraphExpr], list[GraphExpr]], list[GraphExpr]]


def running(node: Node, values: list[GraphExpr], axis: int, merge: Merge) -> list[GraphExpr]:
    """Element i of the result merges elements 0 to i of an axis: in as many steps as the size has
    bits, each of which merges what ends 1, 2, 4, ... before (Hillis and Steele, 1986)."""
    size = shape(values[0])[axis]
    if isinstance(size, Expr):
        return _running_symbolic(node, values, axis, merge)
    step = 1
    while step < size:
        before = [cut(node, value, axis, 0, size - step) for value in values]
        late = [cut(node, value, axis, step, size - step) for value in values]
        head = [cut(node, value, axis, 0, step) for value in values]
        merged = merge(before, late)
        pairs = zip(head, merged, strict=True)
        values = [node.op.concat(first, rest, axis=axis) for first, rest in pairs]
        step *= 2
    return values


def _running_symbolic(
    node: Node, values: list[GraphExpr], axis: int, merge: Merge
) -> list[GraphExpr]:
    """As many steps as the largest size has bits; the first elements of each are left alone."""
    place = node.op.range(count=shape(values[0])[axis], dtype="int64")
    rest = tuple(range(1, rank(values[0]) - axis))
    size = next(x for x in node.operands if isinstance(x, torch.Tensor)).shape[axis]
    step = 1
    while step < largest_known(size):
        source = node.op.maximum(node.op.sub(place, step), 0)
        before = [node.op.gather(value, source, axis=axis) for value in values]
        late = node.op.greater_equal(place, node.tensor(step, "int64"))
        late = node.op.unsqueeze(late, axes=rest) if rest else late
        merged = merge(before, values)
        pairs = zip(merged, values, strict=True)
        values = [node.op.where(late, after, value) for after, value in pairs]
        step *= 2
    return values


@converts("aten.cummax.default", "aten.cummin.default")
def _running_extreme(node: Node, x: GraphExpr, dim: int) -> Any:
    """The last of equals counts, and what is not a number stays."""
    if not rank(x):
        return x, node.tensor(0)
    axis = normal_axis(dim, rank(x))
    better = node.op.greater_equal if "cummax" in node.target else node.op.less_equal
    given = node.cast(x, "uint8") if dtype(x).is_bool else x

    def merge(before: list[GraphExpr], late: list[GraphExpr]) -> list[GraphExpr]:
        takes = better(late[0], before[0])
        if dtype(given).is_float:
            takes = node.op.logical_or(takes, node.op.isnan(late[0]))
        return [node.op.where(takes, b, a) for a, b in zip(before, late, strict=True)]

    count = node.op.range(count=shape(x)[axis], dtype="int64")
    rest = tuple(range(1, rank(x) - axis))
    count = node.op.unsqueeze(count, axes=rest) if rest else count
    return tuple(running(node, [given, node.expand(count, shape(x))], axis, merge))


@converts("aten.logcumsumexp.default")
def _logcumsumexp(node: Node, x: GraphExpr, dim: int) -> Any:
    if not rank(x):
        return x
    wide = node.cast(x, "float32") if dtype(x).bits == 16 else x

    def merge(before: list[GraphExpr], late: list[GraphExpr]) -> list[GraphExpr]:
        a, b = before[0], late[0]
        most = node.op.maximum(a, b)
        apart = node.op.where(  # of equals 0: infinities have no difference
            node.op.equal(a, b), node.scalar(0.0, a), node.op.abs(node.op.sub(a, b))
        )
        return [node.op.add(most, node.op.softplus(node.op.negative(apart)))]

    return running(node, [wide], normal_axis(dim, rank(x)), merge)[0]


# -- bins of uneven size -----------------------------------------------------------------------


@converts("aten.adaptive_max_pool2d.default", "aten.adaptive_max_pool3d.default")
def _adaptive_max_pool(node: Node, x: GraphExpr, output_size: Any) -> Any:
    """Bin i runs from floor(i n / m) to ceil((i + 1) n / m); shorter ones repeat their last."""
    count = int(node.target[node.target.index("pool") + 4])
    lead = rank(x) - count
    sizes, outs = shape(x)[lead:], node.shape[lead:]
    taken, flat = x, node.tensor(0)
    widths: list[Any] = []
    for axis, (old, new) in enumerate(zip(sizes, outs, strict=True)):
        index = _bins(node, old, new)
        taken = node.op.gather(taken, index, axis=lead + 2 * axis)
        behind = tuple(range(2, 2 * (count - axis)))
        place = node.op.unsqueeze(index, axes=behind) if behind else index
        flat = node.op.add(node.op.mul(flat, node.tensor(old, "int64")), place)
        widths.append(shape(index)[1])
    evens, odds = range(0, 2 * count, 2), range(1, 2 * count, 2)
    order = [*range(lead), *(lead + a for a in evens), *(lead + a for a in odds)]
    taps = math.prod(widths)
    windows = node.reshape(transposed(node, taken, order), (*shape(x)[:lead], *outs, taps))
    value = node.op.max(windows, axes=(lead + count,))
    if not node.uses(1):
        return value, None
    winner = node.op.argmax(windows, axis=lead + count, keepdims=True)
    places = node.reshape(transposed(node, flat, [*evens, *odds]), (*outs, taps))
    spread = node.expand(places, shape(windows))
    found = node.op.gather_elements(spread, winner, axis=lead + count)
    return value, node.op.squeeze(found, axes=(lead + count,))


def _bins(node: Node, old: Any, new: Any) -> GraphExpr:
    """The places of each bin, [new, the largest width]."""
    if isinstance(old, int) and isinstance(new, int):
        return Constant(_known_bins(old, new))
    starts, ends = bin_limits(node, old, new)
    width = node.op.range(count=(old + new - 1) // new + 1, dtype="int64")
    starts, ends = (node.op.unsqueeze(value, axes=(1,)) for value in (starts, ends))
    return node.op.minimum(node.op.add(starts, width), node.op.sub(ends, 1))  # type: ignore[no-any-return]


def _known_bins(old: int, new: int) -> np.ndarray:
    starts = [i * old // new for i in range(new)]
    ends = [-(-(i + 1) * old // new) for i in range(new)]
    width = max(end - start for start, end in zip(starts, ends, strict=True))
    steps = np.arange(width)
    return np.stack([np.minimum(s + steps, e - 1) for s, e in zip(starts, ends, strict=True)])


@converts("aten.adaptive_max_pool2d_backward.default", "aten.adaptive_max_pool3d_backward.default")
def _adaptive_max_pool_backward(
    node: Node, grad: GraphExpr, x: GraphExpr, indices: GraphExpr
) -> Any:
    count = int(node.target[node.target.index("pool") + 4])
    lead, plane, spots = (
        math.prod(part)  # type: ignore[type-var]
        for part in (shape(x)[:-count], shape(x)[-count:], shape(grad)[-count:])
    )
    start = node.full((lead, plane), 0, dtype(grad))
    places, updates = (node.reshape(value, (lead, spots)) for value in (indices, grad))
    flat = node.op.scatter_elements(start, places, updates, axis=1, reduction="add")
    return node.reshape(flat, node.shape)


# -- elements once -----------------------------------------------------------------------------


@converts("aten._unique2.default")
def _unique(
    node: Node,
    x: GraphExpr,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
) -> Any:
    """The elements in ascending order, each once; which of them each place has; how often each is
    there."""
    flat = node.op.reshape(node.cast(x, "uint8") if dtype(x).is_bool else x, shape=(-1,))
    ordered, places = node.op.topk(flat, k=shape(flat)[0], axis=0, largest=False)
    values, groups, counts = _runs(node, ordered)
    start = node.full(shape(flat), 0, DType.of("int64"))
    inverse = node.op.index_copy(start, places, groups, axis=0)
    whole = node.reshape(inverse, shape(x))
    return values, whole if return_inverse else None, counts if return_counts else None


@converts("aten.unique_consecutive.default")
def _unique_consecutive(
    node: Node,
    x: GraphExpr,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    if dim is not None and rank(x) != 1:
        raise Unsupported("equal neighbours along an axis of several")
    values, groups, counts = _runs(node, node.op.reshape(x, shape=(-1,)))
    whole = node.reshape(groups, shape(x))
    return values, whole if return_inverse else None, counts if return_counts else None


def _runs(node: Node, flat: GraphExpr) -> tuple[GraphExpr, GraphExpr, GraphExpr]:
    """Runs of equal neighbours: the value of each, the number of the run of each place, lengths."""
    size = shape(flat)[0]
    if size == 0:
        raise Unsupported("unique elements of a tensor without elements")
    here = node.op.range(count=size, dtype="int64")
    before = node.op.gather(flat, node.op.maximum(node.op.sub(here, 1), 0), axis=0)
    starts = node.op.logical_or(node.op.equal(here, 0), node.op.not_equal(before, flat))
    groups = node.op.sub(node.op.cumsum(node.cast(starts, "int64"), axis=0), 1)
    places, number = positions(node, starts, node.result[0].shape[0])
    values = node.op.gather(flat, node.op.squeeze(places, axes=(0,)), axis=0)
    lengths = node.op.index_copy(
        node.full((size,), 0, DType.of("int64")),
        groups,
        node.full((size,), 1, DType.of("int64")),
        axis=0,
        reduction="add",
    )
    return values, groups, node.op.prefix(lengths, shape=(number,))
