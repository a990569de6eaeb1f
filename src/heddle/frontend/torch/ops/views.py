# SPDX-License-Identifier: Apache-2.0
"""Shapes, and the movement of data. Views are values: the export removes what writes to them."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from heddle.frontend.torch.node import (
    Node,
    dtype,
    normal_axes,
    normal_axis,
    rank,
    same_shape,
    shape,
)
from heddle.frontend.torch.registry import converts
from heddle.frontend.torch.report import Unsupported
from heddle.graph import Constant, GraphExpr
from heddle.ir.expr import Expr

# -- other shapes of the same elements ---------------------------------------------------------


@converts(
    "aten.view.default",
    "aten._unsafe_view.default",
    "aten.reshape.default",
    "aten.flatten.using_ints",
    "aten.view_copy.default",
    "aten._reshape_alias.default",
    "aten.unflatten.int",
)
def _view(node: Node, x: GraphExpr, *_args: Any, **_kwargs: Any) -> Any:
    return node.reshape(x, node.shape)


@converts("aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims")
def _squeeze(node: Node, x: GraphExpr, dim: Any = None) -> Any:
    axes = normal_axes(dim, rank(x)) if dim != [] else ()
    gone = tuple(axis for axis in axes if isinstance(shape(x)[axis], int) and shape(x)[axis] == 1)
    return node.op.squeeze(x, axes=gone) if gone else x


@converts("aten.unsqueeze.default")
def _unsqueeze(node: Node, x: GraphExpr, dim: int) -> Any:
    return node.op.unsqueeze(x, axes=(normal_axis(dim, rank(x) + 1),))


@converts("aten.permute.default")
def _permute(node: Node, x: GraphExpr, dims: Any) -> Any:
    return transposed(node, x, [normal_axis(axis, rank(x)) for axis in dims])


def transposed(node: Node, x: GraphExpr, order: list[int]) -> GraphExpr:
    """x with its axes in this order; x itself when they are."""
    if order == list(range(rank(x))):
        return x
    return node.op.transpose(x, permutation=tuple(order))  # type: ignore[no-any-return]


@converts("aten.transpose.int", "aten.t.default")
def _transpose(node: Node, x: GraphExpr, dim0: int = 0, dim1: int = 1) -> Any:
    if rank(x) < 2:
        return x
    order = list(range(rank(x)))
    first, second = normal_axis(dim0, rank(x)), normal_axis(dim1, rank(x))
    order[first], order[second] = order[second], order[first]
    return transposed(node, x, order)


@converts("aten.expand.default", "aten.expand_copy.default", "aten.broadcast_to.default")
def _expand(node: Node, x: GraphExpr, *_args: Any, **_kwargs: Any) -> Any:
    return node.expand(x, node.shape)


@converts("aten.repeat.default")
def _repeat(node: Node, x: GraphExpr, repeats: Any) -> Any:
    missing = len(repeats) - rank(x)
    wide = node.op.unsqueeze(x, axes=tuple(range(missing))) if missing else x
    if all(isinstance(count, int) for count in repeats):
        return node.op.tile(wide, repeats=tuple(repeats))
    pairs = list(zip(repeats, shape(wide), strict=True))
    apart = node.reshape(wide, [size for _, dim in pairs for size in (1, dim)])
    copies = node.expand(apart, [size for pair in pairs for size in pair])
    return node.reshape(copies, node.shape)


@converts("aten.repeat_interleave.self_int")
def _repeat_interleave(
    node: Node, x: GraphExpr, repeats: Any, dim: int | None = None, *, output_size: Any = None
) -> Any:
    flat = node.op.reshape(x, shape=(-1,)) if dim is None else x
    axis = normal_axis(0 if dim is None else dim, rank(flat))
    dims = list(shape(flat))
    apart = node.op.unsqueeze(flat, axes=(axis + 1,))
    copies = node.expand(apart, [*dims[: axis + 1], repeats, *dims[axis + 1 :]])
    return node.reshape(copies, node.shape)


# -- joining ---------------------------------------------------------------------------------


@converts("aten.cat.default", "aten.concat.default")
def _cat(node: Node, tensors: list[GraphExpr], dim: int = 0) -> Any:
    # torch passes over vectors without elements, whatever the rank of the others.
    filled = [x for x in tensors if shape(x) != (0,)] or tensors[:1]
    filled = [node.cast(x, node.dtype) for x in filled]
    axis = normal_axis(dim, rank(filled[0]))
    if len(filled) == 1:
        return filled[0]
    return node.op.concat(*node.agreeing(filled, node.shape, apart=axis), axis=axis)


@converts("aten.stack.default")
def _stack(node: Node, tensors: list[GraphExpr], dim: int = 0) -> Any:
    axis = normal_axis(dim, rank(tensors[0]) + 1)
    parts = [node.op.unsqueeze(node.cast(x, node.dtype), axes=(axis,)) for x in tensors]
    return parts[0] if len(parts) == 1 else node.op.concat(*parts, axis=axis)


# -- cutting ---------------------------------------------------------------------------------


def cut(node: Node, x: GraphExpr, axis: int, start: Any, count: Any, step: int = 1) -> GraphExpr:
    """`count` elements of an axis from `start` on, which is not negative; nothing is clamped."""
    size = shape(x)[axis]
    if isinstance(start, int) and start == 0 and step == 1 and same_shape([size], [count]):
        return x
    dims = list(shape(x))
    dims[axis] = count
    end = start + (count - 1) * step + 1 if step != 1 else start + count
    if isinstance(count, int) and count == 0:
        end = start
    if step != 1 and isinstance(count, Expr):
        places = node.op.range(count=count, start=0, step=step, dtype="int64")
        return node.op.gather(x, node.op.add(places, node.tensor(start)), axis=axis)  # type: ignore[no-any-return]
    found = node.op.slice(x, starts=(start,), ends=(end,), axes=(axis,), steps=(step,))
    if same_shape(shape(found), dims):
        return found  # type: ignore[no-any-return]
    if isinstance(start, int) and start == 0 and step == 1:
        return node.op.prefix(x, shape=tuple(dims))  # type: ignore[no-any-return]
    if step != 1:
        raise Unsupported("a slice with a step whose length is symbolic")
    # The limits of a slice cannot be proved away; parts that add up have the sizes they are given.
    rest = size - start - count
    sizes = [part for part in (start, count, rest) if not (isinstance(part, int) and part == 0)]
    parts = node.op.split(x, sizes=tuple(sizes), axis=axis)
    return parts[0 if isinstance(start, int) and start == 0 else 1]  # type: ignore[no-any-return]


@converts("aten.slice.Tensor")
def _slice(
    node: Node, x: GraphExpr, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    axis = normal_axis(dim, rank(x))
    first = first_of(x, axis, start)
    return cut(node, x, axis, first, node.shape[axis], step)


def first_of(x: GraphExpr, axis: int, start: Any) -> Any:
    """Where a slice starts, counted from the front."""
    size = shape(x)[axis]
    if start is None:
        return 0
    if isinstance(start, int):
        if start < 0:
            return max(0, size + start) if isinstance(size, int) else size + start
        return min(start, size) if isinstance(size, int) else start
    return start


@converts("aten.select.int")
def _select(node: Node, x: GraphExpr, dim: int, index: Any) -> Any:
    axis = normal_axis(dim, rank(x))
    if isinstance(index, int) and index < 0:
        index = shape(x)[axis] + index
    return node.op.squeeze(cut(node, x, axis, index, 1), axes=(axis,))


@converts("aten.narrow.default")
def _narrow(node: Node, x: GraphExpr, dim: int, start: Any, length: Any) -> Any:
    axis = normal_axis(dim, rank(x))
    return cut(node, x, axis, first_of(x, axis, start), length)


@converts(
    "aten.split.Tensor",
    "aten.split_with_sizes.default",
    "aten.chunk.default",
    "aten.tensor_split.sections",
    "aten.split_with_sizes_copy.default",
    "aten.split.sizes",
)
def _split(node: Node, x: GraphExpr, sizes: Any, dim: int = 0) -> Any:
    axis = normal_axis(dim, rank(x))
    parts = tuple(node.importer.symbols.dim(item.shape[axis]) for item in node.result)
    return (x,) if len(parts) == 1 else node.op.split(x, sizes=parts, axis=axis)


@converts("aten.unbind.int")
def _unbind(node: Node, x: GraphExpr, dim: int = 0) -> Any:
    axis = normal_axis(dim, rank(x))
    return tuple(
        node.op.squeeze(cut(node, x, axis, index, 1), axes=(axis,))
        for index in range(len(node.result))
    )


# -- moving ----------------------------------------------------------------------------------


@converts("aten.flip.default")
def _flip(node: Node, x: GraphExpr, dims: Any) -> Any:
    axes = tuple(normal_axis(axis, rank(x)) for axis in dims)
    if not axes or not rank(x):
        return x
    far = sys.maxsize
    many = len(axes)
    return node.op.slice(
        x, starts=(far,) * many, ends=(-far,) * many, axes=axes, steps=(-1,) * many
    )


@converts("aten.roll.default")
def _roll(node: Node, x: GraphExpr, shifts: Any, dims: Any = ()) -> Any:
    if not dims:
        flat = node.op.reshape(x, shape=(-1,))
        return node.reshape(_rolled(node, flat, 0, shifts[0]), node.shape)
    for shift, axis in zip(shifts, dims, strict=True):
        x = _rolled(node, x, normal_axis(axis, rank(x)), shift)
    return x


def _rolled(node: Node, x: GraphExpr, axis: int, shift: Any) -> GraphExpr:
    size = shape(x)[axis]
    if isinstance(size, Expr) or isinstance(shift, Expr):
        place = node.op.sub(node.op.range(count=size, dtype="int64"), node.tensor(shift, "int64"))
        source = node.op.floor_mod(place, node.tensor(size, "int64"))
        return node.op.gather(x, source, axis=axis)  # type: ignore[no-any-return]
    back = shift % size if size else 0
    if back == 0:
        return x
    tail = cut(node, x, axis, size - back, back)
    return node.op.concat(tail, cut(node, x, axis, 0, size - back), axis=axis)  # type: ignore[no-any-return]


@converts(
    "aten.constant_pad_nd.default",
    "aten.pad.default",
    "aten.reflection_pad1d.default",
    "aten.reflection_pad2d.default",
    "aten.reflection_pad3d.default",
    "aten.replication_pad1d.default",
    "aten.replication_pad2d.default",
    "aten.replication_pad3d.default",
)
def _pad(node: Node, x: GraphExpr, pad: Any, *given: Any, **_kwargs: Any) -> Any:
    mode, value = "constant", 0.0
    if "reflection" in node.target:
        mode = "reflect"
    elif "replication" in node.target:
        mode = "edge"
    elif "constant_pad" in node.target:
        value = given[0] if given else 0.0
    else:
        names = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
        name = given[0] if given else "constant"
        if name not in names:
            raise Unsupported(f"padding of mode `{name}`")
        mode, value = names[name], (given[1] if len(given) > 1 else None) or 0.0
    if any(isinstance(item, Expr) for item in pad):
        return _pad_symbolic(node, x, list(pad), mode, value)
    before, after = [0] * rank(x), [0] * rank(x)
    for position in range(len(pad) // 2):
        axis = rank(x) - 1 - position
        before[axis], after[axis] = pad[2 * position], pad[2 * position + 1]
    if not any(before) and not any(after):
        return x
    return node.op.pad(x, pads=(*before, *after), mode=mode, value=float(value))


@converts(
    "aten.replication_pad1d_backward.default",
    "aten.replication_pad2d_backward.default",
    "aten.replication_pad3d_backward.default",
)
def _replication_backward(node: Node, grad: GraphExpr, x: GraphExpr, padding: Any) -> Any:
    """What lies in the margins goes to the edges."""
    for position in range(len(padding) // 2):
        axis = rank(x) - 1 - position
        before, after = padding[2 * position : 2 * position + 2]
        size = shape(x)[axis]
        if any(isinstance(item, Expr) for item in (before, after, size)) or min(before, after) < 0:
            raise Unsupported("the gradient of a padding that cuts, or of symbolic size")
        if size == 1:
            grad = node.op.sum(grad, axes=(axis,), keepdims=True)
            continue
        first = cut(node, grad, axis, 0, before + 1)
        last = cut(node, grad, axis, before + size - 1, after + 1)
        edges = [node.op.sum(part, axes=(axis,), keepdims=True) for part in (first, last)]
        middle = [cut(node, grad, axis, before + 1, size - 2)] if size > 2 else []
        grad = node.op.concat(edges[0], *middle, edges[1], axis=axis)
    return grad


def _pad_symbolic(node: Node, x: GraphExpr, pad: list[Any], mode: str, value: Any) -> GraphExpr:
    if mode != "constant" or any(isinstance(item, int) and item < 0 for item in pad):
        raise Unsupported(f"padding by symbolic sizes in mode `{mode}`")
    for position in range(len(pad) // 2):
        axis = rank(x) - 1 - position
        parts = []
        for amount in pad[2 * position : 2 * position + 2]:
            dims = [*shape(x)[:axis], amount, *shape(x)[axis + 1 :]]
            parts.append(None if amount == 0 else node.full(dims, value, dtype(x)))
        pieces = [part for part in (parts[0], x, parts[1]) if part is not None]
        x = pieces[0] if len(pieces) == 1 else node.op.concat(*pieces, axis=axis)
    return x


@converts("aten.tril.default", "aten.triu.default")
def _triangle(node: Node, x: GraphExpr, diagonal: Any = 0) -> Any:
    if isinstance(diagonal, Expr):
        raise Unsupported("a triangle whose diagonal is a symbolic size")
    return node.op.trilu(x, upper="triu" in node.target, offset=diagonal)


@converts("aten.unfold.default")
def _unfold(node: Node, x: GraphExpr, dimension: int, size: int, step: int) -> Any:
    """Windows along an axis: it holds their starts, and a last axis their elements."""
    if not rank(x):
        return node.reshape(x, node.shape)
    axis = normal_axis(dimension, rank(x))
    starts = node.op.range(count=node.shape[axis], step=step, dtype="int64")
    index = node.op.add(node.op.unsqueeze(starts, axes=(1,)), Constant(np.arange(size)))
    windows = node.op.gather(x, index, axis=axis)
    order = [a for a in range(rank(windows)) if a != axis + 1] + [axis + 1]
    return transposed(node, windows, order)


@converts("aten.diagonal.default", "aten.diagonal_copy.default")
def _diagonal(node: Node, x: GraphExpr, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    first, second = normal_axis(dim1, rank(x)), normal_axis(dim2, rank(x))
    rest = [axis for axis in range(rank(x)) if axis not in (first, second)]
    moved = transposed(node, x, [first, second, *rest])
    count = node.op.range(count=node.shape[-1], dtype="int64")
    rows = node.op.add(count, max(0, -offset)) if offset < 0 else count
    columns = node.op.add(count, offset) if offset > 0 else count
    index = node.op.concat(
        node.op.unsqueeze(rows, axes=(1,)), node.op.unsqueeze(columns, axes=(1,)), axis=1
    )
    picked = node.op.gather_nd(moved, index)
    return transposed(node, picked, [*range(1, rank(picked)), 0])
