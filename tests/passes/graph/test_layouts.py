# SPDX-License-Identifier: Apache-2.0
"""Blocked layouts and packed weights: where conversions are left, and that values stay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from heddle import op
from heddle.graph import GraphBuilder, GraphExpr
from heddle.passes.graph import packing
from heddle.passes.graph.assign_layouts import AssignLayouts
from heddle.passes.graph.eliminate import eliminate_common_subexpressions
from heddle.target import Target
from tests.passes.graph.support import build, check_values, ops_of, weights

SMALL = AssignLayouts(4, lambda rows, columns, depth: 8)
CONV = "conv2d_nchwc"
IN = OUT = "layout_transform"
GROUPS = [IN, CONV, "reshape", OUT, "reshape"]


def conv(x: GraphExpr, o: int, i: int, k: int = 3, **attrs: object) -> GraphExpr:
    if k == 3:
        attrs.setdefault("pads", (1, 1, 1, 1))
    return op.conv(x, weights(o, i, k, k), weights(o, seed=2), **attrs)


def residual(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
    first = builder.emit(op.relu(conv(x, 8, 8)))
    return op.relu(op.add(conv(first, 8, 8), first))


def squeeze_excite(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
    y = builder.emit(op.silu(conv(x, 12, 8)))
    pooled = op.mean(y, axes=(2, 3), keepdims=True)
    gate = op.sigmoid(conv(op.silu(conv(pooled, 3, 12, 1)), 12, 3, 1))
    return conv(op.mul(y, gate), 8, 12, 1)


def classifier(x: GraphExpr) -> GraphExpr:
    pooled = op.mean(op.relu(conv(x, 8, 8)), axes=(2, 3), keepdims=True)
    return op.matmul(op.flatten(pooled, axis=1), weights(8, 5))


def unet(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
    high = builder.emit(op.relu(conv(x, 8, 8)))
    low = conv(op.max_pool(high, kernel=(2, 2), strides=(2, 2)), 16, 8)
    up = op.conv_transpose(low, weights(16, 8, 2, 2), weights(8, seed=7), strides=(2, 2))
    return op.sigmoid(conv(op.concat(up, high, axis=1), 1, 16, 1))


CASES = [
    ("one convolution", lambda x: op.relu(conv(x, 8, 8)), [IN, CONV, "relu", OUT]),
    ("residual", residual, [IN, CONV, "relu", CONV, "add", "relu", OUT]),
    (
        "squeeze and excite, padded blocks",
        squeeze_excite,
        [IN, CONV, "silu", "mean", CONV, "silu", CONV, "sigmoid", "mul", CONV, OUT],
    ),
    (
        "to a matrix product: a pixel is reshaped, not moved",
        classifier,
        [IN, CONV, "relu", "mean", "reshape", "flatten", "packed_matmul"],
    ),
    (
        "encoder and decoder",
        unet,
        [IN, CONV, "relu", "max_pool2d_nchwc", CONV, CONV, "reshape", "transpose", "reshape"]
        + ["concat", CONV, "sigmoid", OUT],
    ),
    (
        "average pool, padded",
        lambda x: op.avg_pool(
            conv(x, 6, 8), kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1), count_include_pad=True
        ),
        [IN, CONV, "avg_pool2d_nchwc", OUT],
    ),
    (
        "no division on padding",
        lambda x: op.div(conv(x, 6, 8), np.float32(3)),
        [IN, CONV, OUT, "div"],
    ),
    (
        "parts that do not fill blocks are joined in plain layout",
        lambda x: op.concat(conv(x, 6, 8), conv(x, 6, 8, 1), axis=1),
        [IN, CONV, CONV, OUT, OUT, "concat"],
    ),
    (
        "constants per channel",
        lambda x: op.mul(op.add(conv(x, 6, 8), weights(6, 1, 1)), weights(1, 6, 1, 1)),
        [IN, CONV, "add", "mul", OUT],
    ),
    (
        "depthwise",
        lambda x: op.clip(conv(conv(x, 6, 8, 1), 6, 1, groups=6, strides=(2, 2)), min=0.0, max=6.0),
        ["reshape", CONV, CONV, "clip", OUT],
    ),
    (
        "one tap is read from the image as it lies",
        lambda x: op.relu(conv(x, 8, 8, 1, strides=(2, 2))),
        ["reshape", CONV, "relu", OUT],
    ),
    (
        "few output channels are no work to move an image for",
        lambda x: conv(x, 3, 8, strides=(2, 2)),
        ["reshape", CONV, OUT],
    ),
    (
        "what has been moved for one convolution is there for another",
        lambda x: op.add(conv(x, 8, 8), conv(x, 8, 8, 1)),
        [IN, CONV, CONV, "add", OUT],
    ),
    (
        "pixels between those that are read",
        lambda x: op.relu(conv(conv(x, 8, 8), 10, 8, 1, strides=(2, 3))),
        [IN, CONV, "slice", CONV, "relu", OUT],
    ),
    ("groups of blocks", lambda x: conv(x, 16, 4, groups=2), [IN, CONV, OUT]),
    ("groups that fill a block together", lambda x: conv(x, 8, 2, groups=4), [IN, CONV, OUT]),
    (
        "groups that fill no block",
        lambda x: op.relu(conv(x, 6, 4, groups=2)),
        [IN, CONV, "reshape", OUT, "reshape", "relu"],
    ),
    ("groups that are larger than a block", lambda x: conv(x, 10, 4, groups=2), GROUPS),
    ("groups of which two fill a part", lambda x: conv(x, 4, 2, groups=4), [IN, CONV, OUT]),
    ("groups of which one fills a part", lambda x: conv(x, 12, 2, groups=4), GROUPS),
]


@pytest.mark.parametrize("body, expected", [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_layouts(body: Callable[..., GraphExpr], expected: list[str]) -> None:
    before = build(body, (1, 8, 6, 6))
    before = eliminate_common_subexpressions(before)
    after = SMALL(before)
    assert ops_of(after) == expected
    check_values(before, after)


def line(x: GraphExpr, outputs: int, inputs: int, **attrs: object) -> GraphExpr:
    return op.conv(x, weights(outputs, inputs, 3), **{"pads": (2, 0), **attrs})


LINES: list[tuple[str, Callable[[GraphExpr], GraphExpr], list[str]]] = [
    (
        "a stack",
        lambda x: line(op.relu(line(x, 8, 8)), 8, 8, dilations=(2,), strides=(2,)),
        ["reshape", IN, CONV, "relu", CONV, OUT, "reshape"],
    ),
    (
        "what remains blocked",
        lambda x: op.mean(op.mul(line(x, 6, 8), weights(6, 1)), axes=(2,), keepdims=True),
        ["reshape", IN, CONV, "mul", "mean", OUT, "reshape"],
    ),
    (
        "pooling",
        lambda x: op.max_pool(line(x, 8, 8), kernel=(2,), strides=(2,)),
        ["reshape", IN, CONV, "max_pool2d_nchwc", OUT, "reshape"],
    ),
    (
        "a result of another rank",
        lambda x: op.add(line(x, 8, 8), weights(2, 1, 1, 11)),
        ["reshape", IN, CONV, OUT, "reshape", "add"],
    ),
    (
        "depthwise",
        lambda x: line(x, 8, 1, groups=8),
        ["reshape", IN, CONV, OUT, "reshape"],
    ),
]


@pytest.mark.parametrize("body, expected", [c[1:] for c in LINES], ids=[c[0] for c in LINES])
def test_lines_are_images_of_height_one(
    body: Callable[..., GraphExpr], expected: list[str]
) -> None:
    before = eliminate_common_subexpressions(build(body, (1, 8, 11)))
    after = SMALL(before)
    assert ops_of(after) == expected
    check_values(before, after)


def test_an_image_is_a_block_of_its_own() -> None:
    before = build(lambda x: conv(x, 8, 2, strides=(2, 2)), (2, 2, 7, 5))
    after = SMALL(before)
    assert ops_of(after) == [IN, CONV, OUT]
    call = after["main"].bindings[1].value  # type: ignore[attr-defined]
    assert call.args[0].type.static_shape == (2, 1, 7, 5, 2)
    assert call.args[1].type.static_shape == (2, 1, 3, 3, 2, 4)
    check_values(before, after)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("channels", "blocks", "size"), [(5, 2, 3), (9, 3, 3), (7, 2, 4), (6, 2, 3)]
)
def test_the_blocks_of_an_image_are_even(
    channels: int, blocks: int, size: int, stride: int
) -> None:
    before = build(lambda x: conv(x, 8, channels, strides=(stride,) * 2), (2, channels, 7, 5))
    after = SMALL(before)
    call = after["main"].bindings[1].value  # type: ignore[attr-defined]
    block = size if stride == 2 else 4  # Winograd's tiles take whole vectors
    assert call.args[0].type.static_shape == (2, blocks, 7, 5, block)
    check_values(before, after)


def test_a_value_is_converted_once_in_each_direction() -> None:
    def body(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
        y = builder.emit(conv(x, 8, 8))
        a, b = op.transpose(y, permutation=(0, 1, 3, 2)), op.cumsum(y, axis=2)
        return op.add(op.add(a, b), conv(x, 8, 8, 1))

    before = build(body, (1, 8, 5, 5))
    after = SMALL(before)
    assert ops_of(after).count("layout_transform") <= 4
    check_values(before, after, tolerance=1e-5)


@pytest.mark.parametrize("columns", [5, 8, 16, 19])
@pytest.mark.parametrize("transposed", [False, True])
def test_matrix_products(columns: int, transposed: bool) -> None:
    shape = (columns, 6) if transposed else (6, columns)
    before = build(lambda x: op.matmul(x, weights(*shape), transpose_b=transposed), (2, 3, 6))
    after = SMALL(before)
    assert ops_of(after) == ["packed_matmul"]
    check_values(before, after)


@pytest.mark.parametrize("shape, packed", [((2, 3, 6), True), ((4, 6), False), ((1, 6), False)])
def test_a_matrix_that_lies_across_is_packed_at_run_time(
    shape: tuple[int, ...], packed: bool
) -> None:
    """Few rows meet it as it lies: they are dot products with what lies together."""
    before = build(lambda x, w: op.matmul(x, w, transpose_b=True), shape, (19, 6))
    after = SMALL(before)
    assert ops_of(after) == (["pack_panels", "packed_matmul"] if packed else ["matmul"])
    check_values(before, after)


def test_repeating_to_a_shape_is_in_the_plain_layout() -> None:
    """The shape is an attribute, which blocks would not match."""

    def body(x: GraphExpr) -> GraphExpr:
        spread = op.mean(conv(x, 8, 4), axes=(2, 3), keepdims=True)
        return op.relu(conv(op.broadcast_to(spread, shape=(1, 8, 6, 6)), 8, 8))

    module = build(body, (1, 4, 6, 6))
    after = SMALL(module)
    assert "broadcast_to" in ops_of(after)
    check_values(module, after)


def test_product_of_two_values_is_left() -> None:
    before = build(lambda x, y: op.matmul(x, y), (2, 3, 4), (2, 4, 5))
    assert SMALL(before) is before


def test_panel_width_sees_the_product() -> None:
    seen = []

    def width(rows: int | None, columns: int, depth: int) -> int:
        seen.append((rows, columns, depth))
        return 16

    AssignLayouts(16, width)(build(lambda x: op.matmul(x, weights(6, 5)), (2, 3, 6)))
    assert seen == [(6, 5, 6)]


def test_block_is_a_vector_of_the_target() -> None:
    target = Target("llvm", "x86_64-unknown-linux-gnu", "haswell", frozenset(), 256, 16, (), 2)
    made = AssignLayouts.of(target)
    assert made.block == 8
    assert made.panel_width(1, 1000, 1000) == 32


def test_packing_pads_with_zeros() -> None:
    weight = weights(5, 3, 2, 1)
    packed = packing.pack_convolution(weight, 4, 4)
    assert packed.shape == (2, 1, 2, 1, 4, 4)
    assert packed[1, 0, 1, 0, 2, 0] == weight[4, 2, 1, 0]
    assert not packed[1, ..., 1:].any()
    assert not packed[:, :, :, :, 3, :].any()
    panels = packing.pack_panels(weights(3, 10), 4)
    assert panels.shape == (3, 3, 4)
    assert panels[2, 1, 1] == weights(3, 10)[1, 9]
    assert not panels[2, :, 2:].any()
