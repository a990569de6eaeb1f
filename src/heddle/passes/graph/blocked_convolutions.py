# SPDX-License-Identifier: Apache-2.0
"""Convolutions of images in blocks of channels: plain, of low precision, grouped, transposed."""

from __future__ import annotations

from typing import Any

import numpy as np

from heddle import op
from heddle.graph.nodes import Binding, Call, Constant, GraphExpr
from heddle.ir.expr import as_int
from heddle.op.dot import DOT_DEPTH
from heddle.passes.graph import packing
from heddle.passes.graph.anf import dims_attribute, shape_of, tensor_type
from heddle.passes.graph.blocked import (
    Assignment,
    image_channels,
    image_shape,
    image_window,
    plain_attrs,
)

_SHORT_LINE = 8
"""Pixels of a line below which no register tile is filled by one."""


def blocked_convolution(work: Assignment, binding: Binding, call: Call) -> bool:
    x, weight, bias = call.args[0], call.args[1], call.args[2] if len(call.args) > 2 else None
    inputs, outputs = image_channels(x), image_channels(call)
    if inputs is None or outputs is None or tensor_type(x).dtype.name == "int32":  # type: ignore[union-attr]
        return False
    if not isinstance(weight, Constant) or not (bias is None or isinstance(bias, Constant)):
        return False
    if "absent" in call.attrs:
        return False
    block, groups = work.options.block, call.attrs["groups"]
    assert isinstance(groups, int)
    attrs = image_window(plain_attrs(call), len(shape_of(x)))
    kernel = weight.data.reshape(image_shape(weight.data.shape))
    if (
        bias is None
        and (groups == 1 or groups != inputs)
        and _dot_convolution(work, binding, call, kernel)
    ):
        return True
    if groups == 1:
        few = inputs * 2 <= block
        plain = few or not _is_like_winograd(kernel, attrs)
        inner = _even_block(inputs, block) if plain and not work.is_blocked(x) else block
        if plain and not work.has_blocks(x) and _is_little_work(kernel, block):
            inner = 1
        packed = packing.pack_convolution(kernel, inner, block)
    elif groups == inputs == outputs:
        inner = block
        packed = packing.pack_depthwise(kernel, block)
        attrs["groups"] = packed.shape[0] * block
    else:
        return _grouped_convolution(work, binding, call, kernel, attrs)
    data = work.to_blocked(x, inner).value
    if groups == 1 and inner > 1 and _skips_pixels(kernel, attrs, call):
        data, attrs["strides"] = _pixels_read(work, data, attrs["strides"]), (1, 1)
    args: list[GraphExpr] = [data, Constant(packed)]
    if bias is not None:
        args.append(Constant(packing.pack_bias(bias.data, block)))
    return work.bind_blocked(binding, op.conv2d_nchwc(*args, **attrs), outputs, block)


def _skips_pixels(kernel: np.ndarray, attrs: dict[str, Any], call: Call) -> bool:
    """Whether a 1x1 convolution makes short lines of some of the pixels that it is given."""
    if kernel.shape[2:] != (1, 1) or any(attrs["pads"]) or attrs["strides"] == (1, 1):
        return False
    columns = as_int(shape_of(call)[-1])
    return columns is not None and 1 < columns < _SHORT_LINE


def _pixels_read(work: Assignment, image: GraphExpr, strides: tuple[int, int]) -> GraphExpr:
    """The pixels that a 1x1 convolution reads, together: they are rows of a matrix product then,
    and register tiles run over the ends of lines."""
    ends = dims_attribute(shape_of(image)[2:4])
    pixels = op.slice(image, starts=(0, 0), ends=ends, axes=(2, 3), steps=strides)
    return work.emit(pixels, name="pixels")


def _is_like_winograd(kernel: np.ndarray, attrs: dict[str, Any]) -> bool:
    """Whether a convolution may be done by Winograd tiles, which take blocks of vectors."""
    strides, dilations = (attrs.get(name) or (1, 1) for name in ("strides", "dilations"))
    return kernel.shape[2:] == (3, 3) and {*strides, *dilations} == {1}


def _is_little_work(kernel: np.ndarray, block: int) -> bool:
    """Whether an image that lies plain is best left so, in blocks of one channel: to move it would
    take as long as the arithmetic of windows of one tap, few channels or few output channels.
    Else what lies in a block is read together, for many steps from a line of the cache."""
    outputs, inputs, rows, columns = kernel.shape
    return rows * columns == 1 or inputs * 4 <= block or (rows > 1 and outputs <= block)


def _even_block(channels: int, block: int) -> int:
    """Channels in a block of what is put in blocks for one convolution, which multiplies their
    padding: as many blocks as of `block` channels, all of one size.

    >>> [_even_block(channels, 16) for channels in (3, 16, 17, 37, 200)]
    [3, 16, 9, 13, 16]
    """
    return -(-channels // -(-channels // block))


def _dot_convolution(work: Assignment, binding: Binding, call: Call, kernel: np.ndarray) -> bool:
    """A convolution of low precision, where the target has an instruction for it."""
    x, kind = call.args[0], tensor_type(call.args[0])
    inputs, outputs = image_channels(x), image_channels(call)
    assert kind is not None
    assert inputs is not None
    assert outputs is not None
    dtypes = (kind.dtype.name, str(kernel.dtype))
    dots, groups, depth = work.options.dots, call.attrs["groups"], DOT_DEPTH.get(dtypes[0])
    assert isinstance(groups, int)
    if depth is None or dots.panel(*dtypes, None, outputs, inputs) is None:
        return False
    inner, block = (dots.block(*dtypes, size // groups) for size in (inputs, outputs))
    few = not work.is_blocked(x) and groups == 1 and inputs * 2 <= inner
    if few:
        inner = -(-inputs // depth) * depth
    if groups > 1 and ((inputs // groups) % inner or (outputs // groups) % block):
        return False
    data = work.to_blocked(x, inner).value
    attrs = image_window(plain_attrs(call, "out_dtype"), len(shape_of(x)))
    row = dots.row(*dtypes) if few else None
    if row is not None:
        data, kernel, attrs = _rows_of_taps(work, data, kernel, attrs, row)
        inner = kernel.shape[1]
    packed = packing.pack_dot_convolution(kernel, inner, block, depth)
    value = op.conv2d_dot(data, Constant(packed), **attrs)
    return work.bind_blocked(binding, value, outputs, block)


def _rows_of_taps(
    work: Assignment, data: GraphExpr, kernel: np.ndarray, attrs: dict[str, Any], row: int
) -> tuple[GraphExpr, np.ndarray, dict[str, Any]]:
    """A convolution of a few channels (of an image) as one of the taps of a row of its window,
    which fill rows of tiles."""
    taps, channels = kernel.shape[3], as_int(shape_of(data)[4])
    assert channels is not None
    block = -(-taps * channels // row) * row
    (above, left, below, right), (down, along) = attrs["pads"], attrs["strides"]
    fill = attrs.get("pad_value", 0)
    image = op.row_taps(
        data,
        kernel=taps,
        block=block,
        stride=along,
        pads=(left, right),
        dilation=attrs["dilations"][1],
        pad_value=fill,
    )
    window = {
        **attrs,
        "pads": (above, 0, below, 0),
        "strides": (down, 1),
        "dilations": (attrs["dilations"][0], 1),
    }
    return work.emit(image, name="taps"), packing.taps_as_channels(kernel, channels, block), window


def _grouped_convolution(
    work: Assignment, binding: Binding, call: Call, kernel: np.ndarray, attrs: dict[str, Any]
) -> bool:
    """Neighbouring groups together fill the lanes of a block. Their input channels are a block of
    their own; output channels that fill no whole block are padded, and cut out afterwards."""
    block, groups = work.options.block, attrs["groups"]
    inputs, outputs = kernel.shape[1], kernel.shape[0] // groups
    merged = groups_in_a_block(inputs, outputs, groups, block)
    taken, made = merged * inputs, merged * outputs
    dims = dims_attribute(image_shape(shape_of(call)))
    padded = made % block != 0
    if padded and not isinstance(dims[0], int):
        return False
    attrs["groups"] = count = groups // merged
    full = packing.merge_groups(kernel, groups, merged)
    full = packing.pad_each(full, count, block)
    inner = block if taken % block == 0 else taken
    data = work.to_blocked(call.args[0], inner)
    args: list[GraphExpr] = [data.value, Constant(packing.pack_convolution(full, inner, block))]
    if len(call.args) > 2:
        bias = call.args[2]
        assert isinstance(bias, Constant)
        args.append(Constant(packing.pack_bias(packing.pad_each(bias.data, count, block), block)))
    value = op.conv2d_nchwc(*args, **attrs)
    if not padded:
        return work.bind_blocked(binding, value, count * made, block)
    result = work.emit(value.replace(span=call.span), name=f"{binding.var.name}_groups")
    batch, _, *image = dims
    split = op.reshape(result, shape=(batch * count, -(-made // block), *image, block))
    plain = op.layout_transform(
        work.emit(split, name="split"),
        source=f"NCHW{block}c",
        target="NCHW",
        shape=(batch * count, made, *image),
    )
    joined = op.reshape(work.emit(plain, name="plain"), shape=dims_attribute(shape_of(call)))
    work.alias_new(binding.var, work.emit(joined, like=binding.var))
    work.plain.add(binding.var)
    return True


def groups_in_a_block(inputs: int, outputs: int, groups: int, block: int) -> int:
    """How many neighbouring groups of `inputs` to `outputs` channels are best taken as one.

    Taken as one group they multiply zeros. That is no more work as long as their output channels
    fit in the lanes of one block, which are idle otherwise. Whole blocks on both sides, which need
    no padding, win where they are as good.
    """
    sizes = [size for size in range(1, min(groups, block) + 1) if groups % size == 0]
    work = {size: -(-size * outputs // block) for size in sizes}

    def rank(size: int) -> tuple[int, bool, bool, int]:
        whole_in, whole_out = (size * count % block == 0 for count in (inputs, outputs))
        return work[size], not whole_out, not whole_in, -size

    return min(sizes, key=rank)


def blocked_transposed_convolution(work: Assignment, binding: Binding, call: Call) -> bool:
    """Kernel and stride of equal size: every input pixel makes a tile of the output by itself,
    so this is a convolution with a 1x1 kernel to (tile * channels), and a rearrangement."""
    x, weight, bias = call.args[0], call.args[1], call.args[2] if len(call.args) > 2 else None
    inputs, outputs = image_channels(x), image_channels(call)
    block = work.options.block
    if inputs is None or outputs is None or outputs % block or inputs % block:
        return False
    if len(shape_of(x)) != 4:
        return False
    if not isinstance(weight, Constant) or not (bias is None or isinstance(bias, Constant)):
        return False
    strides = call.attrs["strides"]
    plain = (
        call.attrs["groups"] == 1
        and tuple(weight.data.shape[2:]) == strides
        and not any(call.attrs["pads"])  # type: ignore[arg-type]
        and not any(call.attrs["output_padding"])  # type: ignore[arg-type]
        and call.attrs["dilations"] == (1, 1)
    )
    if not plain or "absent" in call.attrs:
        return False
    assert isinstance(strides, tuple)
    rows, columns = strides
    spread = packing.spread_transposed(weight.data)
    data = work.to_blocked(x, block)
    args: list[GraphExpr] = [
        data.value,
        Constant(packing.pack_convolution(spread, block, block)),
    ]
    if bias is not None:
        args.append(Constant(packing.pack_bias(packing.repeat(bias.data, rows * columns), block)))
    tiles = work.emit(op.conv2d_nchwc(*args), name=f"{binding.var.name}_tiles")
    batch, _, height, width = dims_attribute(shape_of(x))
    blocks = outputs // block
    split = op.reshape(tiles, shape=(batch, rows, columns, blocks, height, width, block))
    turned = op.transpose(work.emit(split, name="tiles"), permutation=(0, 3, 4, 1, 5, 2, 6))
    whole = (batch, blocks, height * rows, width * columns, block)
    joined = op.reshape(work.emit(turned, name=f"{binding.var.name}_turned"), shape=whole)
    return work.bind_blocked(binding, joined, outputs, block)
