# SPDX-License-Identifier: Apache-2.0
"""Reading and writing where tensors of indices say.

Where torch raises an error for an index that is out of range, compiled code reads the nearest
element and writes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from heddle.frontend.torch.node import Node, dtype, normal_axis, rank, shape
from heddle.frontend.torch.ops.views import cut, first_of, transposed
from heddle.frontend.torch.registry import converts
from heddle.frontend.torch.report import Unsupported
from heddle.graph import Constant, GraphExpr
from heddle.ir.expr import Expr


def index_of(node: Node, indices: GraphExpr) -> GraphExpr:
    return indices if dtype(indices).name in ("int32", "int64") else node.cast(indices, "int64")


@converts("aten.index_select.default")
def _index_select(node: Node, x: GraphExpr, dim: int, index: GraphExpr) -> Any:
    if not rank(x):
        return x
    flat = index if rank(index) else node.op.unsqueeze(index, axes=(0,))
    return node.op.gather(x, index_of(node, flat), axis=normal_axis(dim, rank(x)))


@converts("aten.gather.default")
def _gather(
    node: Node, x: GraphExpr, dim: int, index: GraphExpr, *, sparse_grad: bool = False
) -> Any:
    if not rank(x):
        return node.expand(x, node.shape)
    if any(isinstance(dim, int) and dim == 0 for dim in node.shape):  # of whatever rank
        return node.full(node.shape, 0, dtype(x))
    if not rank(index):
        found = node.op.gather_elements(
            x, node.op.unsqueeze(index_of(node, index), axes=(0,)), axis=0
        )
        return node.op.squeeze(found, axes=(0,))
    return node.op.gather_elements(x, index_of(node, index), axis=normal_axis(dim, rank(x)))


# -- x[i, j, ...] ----------------------------------------------------------------------------


@converts("aten.index.Tensor", "aten._unsafe_index.Tensor")
def _index_tensor(node: Node, x: GraphExpr, indices: list[GraphExpr | None]) -> Any:
    masks = [index for index in indices if index is not None and dtype(index).is_bool]
    if masks:
        return _picked_by_mask(node, x, indices, masks)
    given = _expanded(node, indices)
    axes = [axis for axis, index in enumerate(given) if index is not None]
    found = [index for index in given if index is not None]
    if len(found) == 1:
        return node.op.gather(x, found[0], axis=axes[0])
    moved, index = _in_front(node, x, axes, found)
    picked = node.op.gather_nd(moved, index)
    return transposed(node, picked, _home(axes, rank(index) - 1, rank(picked)))


def positions(node: Node, mask: GraphExpr, size: Any) -> tuple[GraphExpr, Any]:
    """Where a mask holds, a column for each place, and how many there are."""
    room: Any = 1
    for dim in shape(mask):
        room = room * dim
    found, count = node.op.nonzero(mask)
    number = node.bind_dim(count, room, size)
    return node.op.prefix(found, shape=(rank(mask), number)), number


def _picked_by_mask(
    node: Node, x: GraphExpr, indices: list[GraphExpr | None], masks: list[GraphExpr]
) -> GraphExpr:
    """x[..., mask, ...]: what the mask picks lies along one axis in place of the mask's."""
    if len(masks) != 1 or sum(index is not None for index in indices) != 1:
        raise Unsupported("indexing by a mask together with other indices")
    mask = masks[0]
    at = next(axis for axis, index in enumerate(indices) if index is not None)
    if not rank(mask):
        raise Unsupported("indexing by a truth value")
    places, _ = positions(node, mask, node.result.shape[at])
    taken = list(range(at, at + rank(mask)))
    moved = transposed(node, x, [*taken, *(axis for axis in range(rank(x)) if axis not in taken)])
    picked = node.op.gather_nd(moved, node.op.transpose(places, permutation=(1, 0)))
    order = [*range(1, at + 1), 0, *range(at + 1, rank(picked))]
    return transposed(node, picked, order)


@converts("aten.nonzero.default")
def _nonzero(node: Node, x: GraphExpr) -> Any:
    places, _ = positions(node, node.cast(x, "bool"), node.result.shape[0])
    return node.op.transpose(places, permutation=(1, 0))


@converts("aten.masked_select.default")
def _masked_select(node: Node, x: GraphExpr, mask: GraphExpr) -> Any:
    room = node.importer.symbols.shape(torch.broadcast_shapes(*(o.shape for o in node.operands)))
    spread = node.expand(x, room)
    places, _ = positions(node, node.expand(mask, room), node.result.shape[0])
    return node.op.gather_nd(spread, node.op.transpose(places, permutation=(1, 0)))


def _expanded(node: Node, indices: list[GraphExpr | None]) -> list[GraphExpr | None]:
    """The indices as integers; masks have a result whose size depends on data."""
    for index in indices:
        if index is not None and dtype(index).name in ("bool", "uint8"):
            raise Unsupported("indexing by a mask: the size of the result depends on data")
    return [None if index is None else index_of(node, index) for index in indices]


def _in_front(
    node: Node, x: GraphExpr, axes: list[int], indices: list[GraphExpr]
) -> tuple[GraphExpr, GraphExpr]:
    """x with the indexed axes in front, and the indices side by side in a last axis."""
    rest = [axis for axis in range(rank(x)) if axis not in axes]
    moved = transposed(node, x, [*axes, *rest])
    sizes = _broadcast(indices)
    kinds = {dtype(index) for index in indices}
    parts = []
    for index in indices:
        wide = node.cast(index, "int64") if len(kinds) > 1 else index
        parts.append(node.op.unsqueeze(node.expand(wide, sizes), axes=(len(sizes),)))
    joined = parts[0] if len(parts) == 1 else node.op.concat(*parts, axis=len(sizes))
    return moved, joined


def _broadcast(indices: list[GraphExpr]) -> list[Any]:
    """The common shape of indices."""
    count = max(rank(index) for index in indices)
    sizes: list[Any] = [1] * count
    for index in indices:
        for position, dim in enumerate(reversed(shape(index))):
            if not (isinstance(dim, int) and dim == 1):
                sizes[count - 1 - position] = dim
    return sizes


def _home(axes: list[int], lead: int, total: int) -> list[int]:
    """The order of axes that puts the axes of the indices, which are the first `lead`, where the
    indexed axes were, when those were neighbours."""
    if axes != list(range(axes[0], axes[0] + len(axes))):
        return list(range(total))
    before = list(range(lead, lead + axes[0]))
    return [*before, *range(lead), *range(lead + axes[0], total)]


@converts("aten.index_put.default", "aten._unsafe_index_put.default")
def _index_put(
    node: Node,
    x: GraphExpr,
    indices: list[GraphExpr | None],
    values: GraphExpr,
    accumulate: bool = False,
) -> Any:
    masks = [index for index in indices if index is not None and dtype(index).is_bool]
    if masks:
        return _put_where(node, x, indices, values, accumulate)
    given = _expanded(node, indices)
    axes = [axis for axis, index in enumerate(given) if index is not None]
    found = [i for i in given if i is not None]
    how = "add" if accumulate else "none"
    if len(found) == 1 and rank(found[0]) == 1:  # where it lies: x may be a large cache
        sizes = list(shape(x))
        sizes[axes[0]] = shape(found[0])[0]
        updates = node.expand(node.cast(values, dtype(x)), sizes)
        return node.op.index_copy(x, found[0], updates, axis=axes[0], reduction=how)
    moved, index = _in_front(node, x, axes, found)
    lead = rank(index) - 1
    sizes = [*shape(index)[:-1], *shape(moved)[len(axes) :]]
    home = _home(axes, lead, len(sizes))
    updates = node.expand(node.cast(values, dtype(x)), [sizes[axis] for axis in home])
    back = [home.index(axis) for axis in range(len(home))]
    updates = transposed(node, updates, back)
    put = node.op.scatter_nd(moved, index, updates, reduction=how)
    order = [*axes, *(axis for axis in range(rank(x)) if axis not in axes)]
    return transposed(node, put, [order.index(axis) for axis in range(rank(x))])


def _put_where(
    node: Node, x: GraphExpr, indices: list[GraphExpr | None], values: GraphExpr, accumulate: bool
) -> Any:
    """Values put where a mask holds, one after the other: a choice, with no size that depends on
    data."""
    at = next(axis for axis, index in enumerate(indices) if index is not None)
    if sum(index is not None for index in indices) != 1:
        raise Unsupported("writing through a mask together with other indices")
    mask = indices[at]
    assert mask is not None
    taken = range(at, at + rank(mask))
    order = [*taken, *(axis for axis in range(rank(x)) if axis not in taken)]
    moved = transposed(node, x, order)
    updates = node.cast(values, dtype(x))
    rest = rank(x) - rank(mask)
    if at:  # the axis of what the mask picks comes first
        wide = rank(x) - rank(mask) + 1
        updates = node.op.unsqueeze(updates, axes=tuple(range(wide - rank(updates))))
        updates = transposed(node, updates, [at, *(a for a in range(wide) if a != at)])
    if rank(updates) > rest and shape(updates)[0] != 1:
        holds = node.op.reshape(mask, shape=(-1,))
        number = node.op.sub(node.op.cumsum(node.cast(holds, "int64"), axis=0), 1)
        rows = node.op.gather(updates, node.op.maximum(number, 0), axis=0)
        updates = node.reshape(rows, (*shape(mask), *shape(rows)[1:]))
    elif rank(updates) > rest:
        updates = node.op.squeeze(updates, axes=(0,))
    wide_mask = node.op.unsqueeze(mask, axes=tuple(range(rank(mask), rank(x)))) if rest else mask
    both = "logical_or" if dtype(x).is_bool else "add"
    added = node.call(both, moved, updates) if accumulate else updates
    put = node.expand(node.op.where(wide_mask, added, moved), shape(moved))
    return transposed(node, put, [order.index(axis) for axis in range(rank(x))])


@converts("aten.masked_scatter.default")
def _masked_scatter(node: Node, x: GraphExpr, mask: GraphExpr, source: GraphExpr) -> Any:
    """The elements of `source`, one after the other, go where the mask holds."""
    x = node.expand(x, node.shape)
    holds = node.op.reshape(node.expand(mask, shape(x)), shape=(-1,))
    order = node.op.cumsum(node.cast(holds, "int64"), axis=0)
    flat = node.op.reshape(node.cast(source, dtype(x)), shape=(-1,))
    taken = node.op.gather(flat, node.op.sub(order, 1), axis=0)
    kept = node.op.reshape(x, shape=(-1,))
    return node.reshape(node.op.where(holds, taken, kept), shape(x))


@converts("aten.masked_scatter_backward.default")
def _masked_scatter_backward(node: Node, grad: GraphExpr, mask: GraphExpr, _sizes: Any) -> Any:
    """The elements where the mask holds, one after the other, then zeros."""
    holds = node.op.reshape(node.expand(mask, shape(grad)), shape=(-1,))
    place = node.op.sub(node.op.cumsum(node.cast(holds, "int64"), axis=0), 1)
    nowhere = node.tensor(int(np.iinfo(np.int64).max))
    at = node.op.unsqueeze(node.op.where(holds, place, nowhere), axes=(1,))
    flat = node.op.reshape(grad, shape=(-1,))
    start = node.op.reshape(node.full(node.shape, 0.0, dtype(grad)), shape=(-1,))
    return node.reshape(node.op.scatter_nd(start, at, flat), node.shape)


# -- writing to a part -----------------------------------------------------------------------


@converts("aten.slice_scatter.default")
def _slice_scatter(
    node: Node,
    x: GraphExpr,
    src: GraphExpr,
    dim: int = 0,
    start: Any = None,
    end: Any = None,
    step: int = 1,
) -> Any:
    axis = normal_axis(dim, rank(x))
    first = first_of(x, axis, start)
    return _replaced(node, x, node.cast(src, dtype(x)), axis, first, step)


@converts("aten.select_scatter.default")
def _select_scatter(node: Node, x: GraphExpr, src: GraphExpr, dim: int, index: Any) -> Any:
    axis = normal_axis(dim, rank(x))
    if isinstance(index, int) and index < 0:
        index = shape(x)[axis] + index
    part = node.op.unsqueeze(node.cast(src, dtype(x)), axes=(axis,))
    return _replaced(node, x, part, axis, index, 1)


def _replaced(
    node: Node, x: GraphExpr, part: GraphExpr, axis: int, start: Any, step: int
) -> GraphExpr:
    """x with `part` in place of as many elements of an axis, `step` apart."""
    count = shape(part)[axis]
    size = shape(x)[axis]
    if step != 1:
        if any(isinstance(item, Expr) for item in (count, size, start)):
            places = node.op.range(count=count, start=0, step=step, dtype="int64")
            places = node.op.add(places, node.tensor(start, "int64"))
            return node.op.index_copy(x, places, part, axis=axis)  # type: ignore[no-any-return]
        source = np.arange(size)  # type: ignore[arg-type]
        source[start : start + (count - 1) * step + 1 : step] = size + np.arange(count)  # type: ignore[arg-type, operator]
        both = node.op.concat(x, part, axis=axis)
        return node.op.gather(both, Constant(source), axis=axis)  # type: ignore[no-any-return]
    after = size - start - count
    pieces = [part]
    if not (isinstance(start, int) and start == 0):
        pieces.insert(0, cut(node, x, axis, 0, start))
    if not (isinstance(after, int) and after == 0):
        pieces.append(cut(node, x, axis, start + count, after))
    return part if len(pieces) == 1 else node.op.concat(*pieces, axis=axis)  # type: ignore[no-any-return]
