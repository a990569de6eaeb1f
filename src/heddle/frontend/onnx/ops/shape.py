# SPDX-License-Identifier: Apache-2.0
"""Shapes and the movement of data."""

from __future__ import annotations

from typing import Any

import numpy as np

from heddle.frontend.onnx.node import Node, dtype, normal_axis, rank, shape
from heddle.frontend.onnx.ops.axes import axes_of, with_axes, without_axes
from heddle.frontend.onnx.ops.computed import (
    center_of,
    constant_of_shape,
    even_split_of,
    expand_of,
    eye_of,
    is_computed,
    one_hot_of,
    pad_of,
    range_of,
    reshape_of,
    split_of,
    tile_of,
    trilu_of,
    unique_of,
)
from heddle.frontend.onnx.ops.selection import run_time_slice
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.tensors import dtype_of
from heddle.frontend.onnx.text import of_strings
from heddle.frontend.onnx.values import Symbolic, of_dims, symbolic_array, tensor_type
from heddle.graph import Constant, GraphExpr
from heddle.ir import DType
from heddle.ir.expr import as_int
from heddle.support import UserError

_CONSTANT_LIMIT = 1 << 24
_BIG = 1 << 62


# -- constants -------------------------------------------------------------------------------


@converts("Constant")
def _constant(node: Node) -> Any:
    readers = {
        "value_float": lambda name: np.asarray(node.attr.float(name), np.float32),
        "value_floats": lambda name: np.asarray(node.attr.floats(name), np.float32),
        "value_int": lambda name: np.asarray(node.attr.int(name), np.int64),
        "value_ints": lambda name: np.asarray(node.attr.ints(name), np.int64),
    }
    given = [name for name in node.attr.given if name.startswith(("value", "sparse_value"))]
    if len(given) != 1:
        raise UserError(f"expected one attribute that holds the value, got {len(given)}")
    if given[0] == "value_string":
        return of_strings(node.attr.string("value_string"))
    if given[0] == "value_strings":
        return of_strings(list(node.attr.strings("value_strings")))
    if given[0] == "value":
        return node.attr.value("value")
    if given[0] not in readers:
        raise Unsupported(f"attribute `{given[0]}`")
    return Constant(readers[given[0]](given[0]))


@converts("ConstantOfShape")
def _constant_of_shape(node: Node) -> Any:
    value = node.attr.tensor("value", np.zeros(1, np.float32))
    if value.size != 1:
        raise UserError(f"attribute `value` has {value.size} elements, expected one")
    if is_computed(node.value(0)):
        return constant_of_shape(node, value.reshape(()))
    dims = node.dims(0, "input")
    if any(isinstance(dim, int) and dim < 0 for dim in dims):
        raise UserError(f"the shape {dims} has a negative dimension")
    return node.op.broadcast_to(Constant(value.reshape(())), shape=dims)


@converts("EyeLike")
def _eye_like(node: Node) -> Any:
    x = node.tensor(0)
    number = node.attr.int("dtype", None)
    kind = dtype(x) if number is None else dtype_of(number, "the result of EyeLike")
    if tensor_type(x).static_shape is None:
        return eye_of(node, x, node.attr.int("k", 0), kind)
    rows, columns = node.static_shape(x, "input")
    _check_count(rows * columns)
    return Constant(np.eye(rows, columns, node.attr.int("k", 0), dtype=kind.numpy))


def _check_count(count: int) -> None:
    if count > _CONSTANT_LIMIT:
        raise Unsupported(f"a constant of {count} elements computed by the model")


@converts("Range")
def _range(node: Node) -> Any:
    if any(is_computed(node.value(position)) for position in range(3)):
        return range_of(node)
    ends = [symbolic_array(node.value(position)) for position in range(3)]
    if any(isinstance(node.value(position), Symbolic) for position in range(3)):
        return _symbolic_range(node, ends)
    start, limit, delta = (
        node.constant(position, name).ravel()[0]
        for position, name in enumerate(("start", "limit", "delta"))
    )
    if delta == 0:
        raise UserError("`delta` is 0")
    count = max(0, int(np.ceil((float(limit) - float(start)) / float(delta))))
    _check_count(count)
    return Constant((start + np.arange(count) * delta).astype(start.dtype))


def _symbolic_range(node: Node, ends: list[Any]) -> Any:
    """From a number up to a symbolic dimension."""
    if any(end is None for end in ends):
        return range_of(node)
    start, limit, delta = (end.ravel()[0] for end in ends)
    if as_int(start) is None or as_int(delta) != 1:
        return range_of(node)
    return node.op.range(count=limit - start, start=start, dtype=dtype_of_value(node.value(1)))


def dtype_of_value(value: Any) -> DType:
    """The dtype of a constant or symbolic value."""
    return value.dtype if isinstance(value, Symbolic) else dtype(value)


# -- shapes ----------------------------------------------------------------------------------


@converts("Shape")
def _shape(node: Node) -> Any:
    dims = shape(node.tensor(0))
    return of_dims(dims[slice(node.attr.int("start", 0), node.attr.int("end", None))])


@converts("Size")
def _size(node: Node) -> Any:
    total: Any = 1
    for dim in shape(node.tensor(0)):
        total = total * dim
    return _scalar(of_dims([total]))


def _scalar(value: Any) -> Any:
    if isinstance(value, Constant):
        return Constant(value.data.reshape(()))
    return type(value)(value.data.reshape(()), value.dtype)


@converts("Reshape")
def _reshape(node: Node) -> Any:
    x = node.tensor(0)
    if node.version >= 5 and is_computed(node.value(1)):
        return reshape_of(node, x)
    wanted = node.dims(1, "shape") if node.version >= 5 else node.attr.ints("shape")
    if not node.attr.flag("allowzero"):
        if any(dim == 0 for dim in wanted[rank(x) :] if isinstance(dim, int)):
            raise UserError(f"`shape` is {wanted}, but the input has {rank(x)} dimensions")
        wanted = tuple(
            shape(x)[axis] if isinstance(dim, int) and dim == 0 else dim
            for axis, dim in enumerate(wanted)
        )
    return node.reshape(x, wanted)


@converts("Flatten")
def _flatten(node: Node) -> Any:
    x = node.tensor(0)
    axis = node.attr.int("axis", 1)
    if not -rank(x) <= axis <= rank(x):
        raise UserError(f"axis {axis} is out of range for a tensor of {rank(x)} dimensions")
    return node.op.flatten(x, axis=axis + rank(x) if axis < 0 else axis)


@converts("Squeeze")
def _squeeze(node: Node) -> Any:
    x = node.tensor(0)
    if node.version >= 13 and node.has(1) and is_computed(node.value(1)):
        return without_axes(node, x, axes_of(node, node.value(1), rank(x)))
    return node.op.squeeze(x, axes=node.axes(1, 13))


@converts("Unsqueeze")
def _unsqueeze(node: Node) -> Any:
    if node.version >= 13 and is_computed(node.value(1)):
        return with_axes(node, node.tensor(0), node.value(1))
    axes = node.axes(1, 13)
    if axes is None:
        raise UserError("`axes` is missing")
    return node.op.unsqueeze(node.tensor(0), axes=axes)


@converts("Transpose")
def _transpose(node: Node) -> Any:
    return node.op.transpose(node.tensor(0), permutation=node.attr.ints("perm", None))


@converts("Expand")
def _expand(node: Node) -> Any:
    if is_computed(node.value(1)):
        return expand_of(node, node.tensor(0))
    return node.op.broadcast_to(node.tensor(0), shape=node.dims(1, "shape"))


@converts("Tile")
def _tile(node: Node) -> Any:
    if not isinstance(node.value(1), Constant):
        return tile_of(node, node.tensor(0))
    return node.op.tile(node.tensor(0), repeats=node.ints(1, "repeats"))


# -- joining and cutting ---------------------------------------------------------------------


@converts("Concat")
def _concat(node: Node) -> Any:
    axis = node.attr.int("axis", 1 if node.version < 4 else ...)
    tensors = node.tensors()
    filled = [x for x in tensors if shape(x) != (0,)] or tensors[:1]
    return node.op.concat(*filled, axis=axis)


@converts("Split")
def _split(node: Node) -> Any:
    x = node.tensor(0)
    axis = normal_axis(node.attr.int("axis", 0), rank(x))
    if node.version >= 13 and node.has(1) and not isinstance(node.value(1), Constant):
        return split_of(node, x, axis)
    sizes = node.axes(1, 13, "split")
    if sizes is None:
        count = node.attr.int("num_outputs", len(node.outputs))
        if count < 1:
            raise UserError(f"attribute `num_outputs` is {count}")
        if as_int(shape(x)[axis]) is None:
            return even_split_of(node, x, axis, count)
        total = node.static_dim(x, axis, "input")
        step = -(-total // count)
        sizes = tuple(max(0, min(step, total - at * step)) for at in range(count))
    if any(size < 0 for size in sizes):
        raise UserError(f"`split` is {sizes}, expected sizes that are not negative")
    if len(sizes) == 1:
        return node.op.identity(x)
    return node.op.split(x, sizes=sizes, axis=axis)


@converts("Slice")
def _slice(node: Node) -> Any:
    x = node.tensor(0)
    steps = None
    if node.version < 10:
        starts, ends = node.attr.ints("starts"), node.attr.ints("ends")
        axes = node.attr.ints("axes", None)
    else:
        late = any(node.has(at) and not isinstance(node.value(at), Constant) for at in (3, 4))
        if late or any(is_computed(node.value(at)) for at in (1, 2)):
            return run_time_slice(node, x)
        axes = node.ints(3, "axes") if node.has(3) else None
        steps = node.ints(4, "steps") if node.has(4) else None
        starts, ends = node.dims(1, "starts"), node.dims(2, "ends")
    return node.op.slice(x, starts=_clamped(starts), ends=_clamped(ends), axes=axes, steps=steps)


def _clamped(items: tuple[Any, ...]) -> tuple[Any, ...]:
    """ "To the end" is spelled as some huge number; keep arithmetic with it from overflowing."""
    return tuple(max(-_BIG, min(_BIG, i)) if isinstance(i, int) else i for i in items)


@converts("Pad")
def _pad(node: Node) -> Any:
    x = node.tensor(0)
    mode = node.attr.string("mode", "constant")
    if node.version < 11:
        pads = node.attr.ints("pads" if node.version >= 2 else "paddings")
        value = node.attr.float("value", 0.0)
    elif any(node.has(at) and is_computed(node.value(at)) for at in (1, 2, 3)):
        return pad_of(node, x, mode)
    else:
        pads = node.ints(1, "pads")
        value = node.constant(2, "constant_value").ravel()[0].item() if node.has(2) else 0
    if node.has(3):
        axes = [normal_axis(axis, rank(x)) for axis in node.ints(3, "axes")]
        if len(pads) != 2 * len(axes):
            raise UserError(f"`pads` is {pads}, expected two for each of {len(axes)} axes")
        full = [0] * (2 * rank(x))
        for position, axis in enumerate(axes):
            full[axis], full[axis + rank(x)] = pads[position], pads[position + len(axes)]
        pads = tuple(full)
    if mode != "constant" and min(pads, default=0) < 0 < max(pads):
        # What is cut off goes first, then what is left is repeated.
        cut = tuple(min(size, 0) for size in pads)
        x = node.op.pad(x, pads=cut)
        pads = tuple(max(size, 0) for size in pads)
    return node.op.pad(x, pads=pads, mode=mode, value=value)


@converts("CenterCropPad")
def _center_crop_pad(node: Node) -> Any:
    x = node.tensor(0)
    axes = node.attr.ints("axes", tuple(range(rank(x))))
    late = not isinstance(node.value(1), Constant)
    if late or any(as_int(shape(x)[normal_axis(axis, rank(x))]) is None for axis in axes):
        return center_of(node, x, [normal_axis(axis, rank(x)) for axis in axes])
    wanted = node.ints(1, "shape")
    if len(axes) != len(wanted):
        raise UserError(f"`shape` has {len(wanted)} elements for {len(axes)} axes")
    pads = [0] * (2 * rank(x))
    starts, ends, cut = [], [], []
    for axis, size in zip((normal_axis(a, rank(x)) for a in axes), wanted, strict=True):
        have = node.static_dim(x, axis, "input")
        if size > have:
            pads[axis] = (size - have) // 2
            pads[axis + rank(x)] = size - have - pads[axis]
        elif size < have:
            starts.append((have - size) // 2)
            ends.append(starts[-1] + size)
            cut.append(axis)
    if cut:
        x = node.op.slice(x, starts=tuple(starts), ends=tuple(ends), axes=tuple(cut))
    return node.op.pad(x, pads=tuple(pads)) if any(pads) else node.op.identity(x)


@converts("Trilu")
def _trilu(node: Node) -> Any:
    if node.has(1) and is_computed(node.value(1)):
        return trilu_of(node, node.tensor(0), upper=node.attr.flag("upper", True))
    offset = node.integer(1, "k") if node.has(1) else 0
    return node.op.trilu(
        node.tensor(0), upper=node.attr.flag("upper", True), offset=_clamped((offset,))[0]
    )


# -- by index --------------------------------------------------------------------------------


@converts("Gather")
def _gather(node: Node) -> Any:
    x = node.tensor(0)
    axis = normal_axis(node.attr.int("axis", 0), rank(x))
    return node.op.gather(x, node.tensor(1), axis=axis)


@converts("GatherElements")
def _gather_elements(node: Node) -> Any:
    x = node.tensor(0)
    axis = normal_axis(node.attr.int("axis", 0), rank(x))
    return node.op.gather_elements(x, node.tensor(1), axis=axis)


@converts("GatherND")
def _gather_nd(node: Node) -> Any:
    return node.op.gather_nd(
        node.tensor(0), node.tensor(1), batch_dims=node.attr.int("batch_dims", 0)
    )


@converts("ScatterElements", "Scatter")
def _scatter_elements(node: Node) -> Any:
    x = node.tensor(0)
    return node.op.scatter_elements(
        x,
        node.tensor(1),
        node.tensor(2),
        axis=normal_axis(node.attr.int("axis", 0), rank(x)),
        reduction=node.attr.string("reduction", "none"),
    )


@converts("ScatterND")
def _scatter_nd(node: Node) -> Any:
    return node.op.scatter_nd(
        node.tensor(0),
        node.tensor(1),
        node.tensor(2),
        reduction=node.attr.string("reduction", "none"),
    )


@converts("OneHot")
def _one_hot(node: Node) -> Any:
    indices, values = node.tensor(0), node.tensor(2)
    axis = normal_axis(node.attr.int("axis", -1), rank(indices) + 1)
    if not isinstance(node.value(1), Constant):
        there = node.op.equal(*one_hot_of(node, indices, axis))
        return node.op.where(there, _item(node, values, 1), _item(node, values, 0))
    depth = int(node.constant(1, "depth").ravel()[0])
    if depth < 0:
        raise UserError(f"`depth` is {depth}")
    _check_count(depth)
    hot = node.op.unsqueeze(node.cast(indices, "int64"), axes=(axis,))
    hot = node.op.where(node.op.less(hot, 0), node.op.add(hot, depth), hot)
    positions = np.arange(depth).reshape(-1, *(1,) * (rank(indices) - axis))
    picked = node.op.equal(hot, positions)
    return node.op.where(picked, _item(node, values, 1), _item(node, values, 0))


def _item(node: Node, vector: GraphExpr, position: int) -> GraphExpr:
    cut = node.op.slice(vector, starts=(position,), ends=(position + 1,), axes=(0,))
    return node.reshape(cut, ())


@converts("ReverseSequence")
def _reverse_sequence(node: Node) -> Any:
    """The first elements of each row of time in reverse, as many as the row says."""
    x = node.tensor(0)
    time, batch = node.attr.int("time_axis", 0), node.attr.int("batch_axis", 1)
    if {time, batch} != {0, 1}:
        raise UserError(f"time_axis {time} and batch_axis {batch}, expected 0 and 1")
    count, size = shape(x)[batch], shape(x)[time]
    if isinstance(node.value(1), Constant) and isinstance(size, int):
        wrong = [at for at in node.ints(1, "sequence_lens") if not 0 <= at <= size]
        if wrong:
            raise UserError(f"`sequence_lens` has {wrong[0]}, the time axis has {size}")
    one = [1] * (rank(x) - 2)
    lengths = node.cast(node.tensor(1), "int64")
    ends = node.reshape(lengths, [count, 1, *one] if batch == 0 else [1, count, *one])
    place = node.op.range(count=size, dtype="int64")
    place = node.reshape(place, [1, size, *one] if batch == 0 else [size, 1, *one])
    back = node.op.sub(node.op.sub(ends, 1), place)
    order = node.op.where(node.op.less(place, ends), back, place)
    wide = node.op.broadcast_to(order, shape=shape(x))
    return node.op.gather_elements(x, wide, axis=time)


@converts("Unique")
def _unique(node: Node) -> Any:
    if not isinstance(node.value(0), Constant):
        return unique_of(node, node.tensor(0))
    x = node.constant(0, "X")
    axis = node.attr.int("axis", None)
    values, index, inverse, counts = np.unique(
        x, return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    inverse = inverse.ravel()
    if not node.attr.flag("sorted", True):
        order = np.argsort(index)
        rank_of = np.argsort(order)
        values = np.take(values, order, axis=0 if axis is None else axis)
        index, counts, inverse = index[order], counts[order], rank_of[inverse]
    found = [values, *(item.astype(np.int64) for item in (index, inverse, counts))]
    return tuple(Constant(np.ascontiguousarray(item)) for item in found)[: len(node.outputs)]


@converts("TensorScatter")
def _tensor_scatter(node: Node) -> Any:
    """Write `update` into `cache` from a position per batch on: a cache of keys or values. Of a
    batch of one its rows are copied where they lie, in place when the loop carries the cache."""
    cache, update = node.tensor(0), node.tensor(1)
    axis = normal_axis(node.attr.int("axis", -2), rank(cache))
    size = node.static_dim(cache, axis, "past_cache")
    count = node.static_dim(update, axis, "update")
    batch = node.static_dim(cache, 0, "past_cache")
    starts = node.tensor(2) if node.has(2) else Constant(np.zeros(batch, np.int64))
    rows = node.op.add(node.reshape(starts, (batch, 1)), np.arange(count).reshape(1, count))
    if node.attr.string("mode", "linear") == "circular":
        rows = node.op.floor_mod(rows, size)
    if batch == 1 and axis != 0:
        return node.op.index_copy(cache, node.reshape(rows, (count,)), update, axis=axis)
    shape = (batch, *(count if a == axis else 1 for a in range(1, rank(cache))))
    index = node.op.broadcast_to(
        node.reshape(rows, shape), shape=node.static_shape(update, "update")
    )
    return node.op.scatter_elements(cache, index, update, axis=axis)


@converts("BitCast")
def _bit_cast(node: Node) -> Any:
    to: DType = dtype_of(node.attr.int("to"), "the result of BitCast")
    return node.op.reinterpret(node.tensor(0), dtype=to)


@converts("Col2Im")
def _col2im(node: Node) -> Any:
    """Blocks added up where they overlap: a convolution transposed with the identity."""
    x = node.tensor(0)
    image, block = node.ints(1, "image_shape"), node.ints(2, "block_shape")
    count = len(block)
    strides = node.attr.ints("strides", (1,) * count)
    dilations = node.attr.ints("dilations", (1,) * count)
    pads = node.attr.ints("pads", (0,) * (2 * count))
    taps = int(np.prod(block))
    n, folded, _ = node.static_shape(x, "input")
    positions = [
        (image[a] + pads[a] + pads[count + a] - (block[a] - 1) * dilations[a] - 1) // strides[a] + 1
        for a in range(count)
    ]
    channels = folded // taps
    _check_count(taps * taps)
    moved = node.reshape(x, (n * channels, taps, *positions))
    kernel = np.eye(taps).reshape(taps, 1, *block).astype(dtype(x).numpy)
    spread = node.op.conv_transpose(
        moved,
        kernel,
        strides=strides,
        pads=pads,
        dilations=dilations,
        output_padding=tuple(
            image[a]
            + pads[a]
            + pads[count + a]
            - ((positions[a] - 1) * strides[a] + (block[a] - 1) * dilations[a] + 1)
            for a in range(count)
        ),
    )
    return node.reshape(spread, (n, channels, *image))


@converts("MaxUnpool")
def _max_unpool(node: Node) -> Any:
    x, index = node.tensor(0), node.tensor(1)
    kernel = node.attr.ints("kernel_shape")
    count = len(kernel)
    strides = node.attr.ints("strides", (1,) * count)
    pads = node.attr.ints("pads", (0,) * (2 * count))
    sizes = node.static_shape(x, "X")
    inferred = [
        (sizes[2 + a] - 1) * strides[a] + kernel[a] - pads[a] - pads[count + a]
        for a in range(count)
    ]
    wanted = node.ints(2, "output_shape") if node.has(2) else (*sizes[:2], *inferred)
    if isinstance(index, Constant) and tuple(wanted) != (*sizes[:2], *inferred):
        # Positions are those in the inferred shape.
        where = np.unravel_index(index.data, (*sizes[:2], *inferred))
        index = Constant(np.ravel_multi_index(where, wanted))
    elif tuple(wanted) != (*sizes[:2], *inferred):
        index = _moved_positions(node, index, (*sizes[:2], *inferred), wanted)
    _check_count(int(np.prod(wanted)))
    empty = np.zeros(int(np.prod(wanted)), dtype(x).numpy)
    flat = node.op.scatter_elements(
        Constant(empty), node.reshape(index, (-1,)), node.reshape(x, (-1,)), axis=0
    )
    return node.reshape(flat, wanted)


def _moved_positions(node: Node, index: GraphExpr, old: Any, new: Any) -> GraphExpr:
    """Positions in a flattened tensor of shape `old` as those in one of shape `new`."""
    moved: Any = None
    for axis in range(len(old)):
        step = int(np.prod(old[axis + 1 :], dtype=np.int64))
        along = node.op.floor_mod(node.op.div(index, step), int(old[axis]))
        part = node.op.mul(along, int(np.prod(new[axis + 1 :], dtype=np.int64)))
        moved = part if moved is None else node.op.add(moved, part)
    return moved  # type: ignore[no-any-return]
