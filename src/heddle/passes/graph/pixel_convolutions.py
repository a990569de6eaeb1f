# SPDX-License-Identifier: Apache-2.0
"""Convolutions that leave an image as it lies: pixels are their lanes, output channels the rows of
their register tiles, weights are broadcast.

    y = conv(x, w, b)       # 200 -> 8 channels        y = conv(x, w, b)
    z = sigmoid(y)                                ->   z = sigmoid(y)

That is for a convolution on its own, between what lies plain before it and after it: few channels
leave lanes of a block idle, and to move the image takes longer than little arithmetic.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from heddle.graph.nodes import Binding, Call, Constant
from heddle.passes.graph.anf import shape_of, static_shape, tensor_type
from heddle.passes.graph.blocked import Assignment, image_shape, image_window, plain_attrs
from heddle.passes.graph.blocked_convolutions import groups_in_a_block
from heddle.schedule.rules.pixel_model import PixelShape

_IN_BLOCKS: Final = frozenset({"conv", "conv_transpose"})
"""Operators that take their image in blocks."""


def pixel_convolution(work: Assignment, binding: Binding, call: Call) -> bool:
    """Keep a convolution plain where that is predicted to be faster."""
    shape, image = _pixel_shape(call, work.options.block), call.args[0]
    if shape is None or work.has_blocks(image):
        return False
    if work.is_followed_by(binding.var, _IN_BLOCKS) or not work.options.pixels(shape):
        return False
    work.keep_plain(binding)
    return True


def _pixel_shape(call: Call, block: int) -> PixelShape | None:
    """The sizes of a float32 convolution, None for any other. Depthwise ones, whose groups have one
    row each, are not for register tiles."""
    x, weight = call.args[:2]
    kind, image, result = tensor_type(x), static_shape(x), static_shape(call)
    if image is None or result is None or kind is None or len(image) not in (3, 4):
        return None
    if kind.dtype.name != "float32" or "absent" in call.attrs:
        return None
    if not isinstance(weight, Constant) or weight.data.dtype != np.float32:
        return None
    window = image_window(plain_attrs(call), len(shape_of(x)))
    groups = window["groups"]
    batch, channels, lines, columns = image_shape(result)
    inputs, outputs = image[1] // groups, channels // groups
    if groups > 1 and outputs == 1:
        return None
    return PixelShape(
        images=batch,
        inputs=inputs,
        outputs=outputs,
        window=image_shape(weight.data.shape)[2:],
        spread={*window["dilations"]} != {1},
        pixels=math.prod(image[2:]),
        lines=lines,
        columns=columns,
        groups=groups,
        merged=groups_in_a_block(inputs, outputs, groups, block),
        strides=window["strides"],
    )
