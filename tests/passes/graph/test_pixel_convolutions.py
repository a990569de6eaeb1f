# SPDX-License-Identifier: Apache-2.0
"""Convolutions of images as they lie: which ones stay plain, and that values stay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from heddle import op
from heddle.driver import pipeline
from heddle.driver.api import compile
from heddle.graph import GraphExpr
from heddle.ir import IRModule
from heddle.op.interp import interpret
from heddle.passes.graph.assign_layouts import AssignLayouts
from heddle.schedule.rules.pixel_model import PixelShape, prefers_pixels
from heddle.target import parse
from tests.passes.graph.support import build, check_values, draw, ops_of, weights

WIDE = "llvm -mcpu=skylake-avx512 -cores=2"
IN = OUT = "layout_transform"
BLOCKED = "conv2d_nchwc"


def pass_that(prefers: Callable[[PixelShape], bool]) -> AssignLayouts:
    return AssignLayouts(4, lambda rows, columns, depth: 8, pixels=prefers)


EAGER = pass_that(lambda shape: shape.strides[-1] < 3)


def conv(x: GraphExpr, outputs: int, inputs: int, k: int = 3, **attrs: object) -> GraphExpr:
    return op.conv(x, weights(outputs, inputs, k, k), weights(outputs, seed=2), **attrs)


CASES = [
    ("alone", lambda x: conv(x, 3, 8), ["conv"]),
    ("with work on it", lambda x: op.sigmoid(op.relu(conv(x, 3, 8))), ["conv", "relu", "sigmoid"]),
    ("strided", lambda x: conv(x, 8, 8, strides=(2, 2)), ["conv"]),
    ("in groups", lambda x: conv(x, 6, 4, groups=2), ["conv"]),
    ("in groups of one row", lambda x: conv(x, 4, 2, groups=4), [IN, BLOCKED, OUT]),
    (
        "before another",
        lambda x: conv(op.relu(conv(x, 4, 8)), 3, 4),
        [IN, BLOCKED, "relu", BLOCKED, OUT],
    ),
    (
        "of what is in blocks",
        lambda x: conv(op.relu(conv(x, 8, 8, strides=(3, 3))), 3, 8, 1),
        [IN, BLOCKED, "relu", BLOCKED, OUT],
    ),
    (
        "beside one that moves the image",
        lambda x: op.add(
            op.mean(conv(x, 8, 8, strides=(3, 3)), axes=(2, 3), keepdims=True), conv(x, 8, 8)
        ),
        [IN, BLOCKED, "mean", BLOCKED, "add", OUT],
    ),
]


@pytest.mark.parametrize("body, expected", [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_which_stay_plain(body: Callable[..., GraphExpr], expected: list[str]) -> None:
    before = build(body, (1, 8, 7, 7))
    after = EAGER(before)
    assert ops_of(after) == expected
    check_values(before, after)


def test_the_model_is_asked_for_the_sizes() -> None:
    asked: list[PixelShape] = []
    layouts = pass_that(lambda shape: bool(asked.append(shape)))
    layouts(build(lambda x: conv(x, 3, 8, pads=(1, 0, 0, 0), dilations=(1, 2)), (2, 8, 7, 9)))
    layouts(build(lambda x: op.conv(x, weights(5, 4, 2), strides=(3,)), (1, 4, 20)))
    layouts(build(lambda x: conv(x, 16, 4, 1, groups=4), (1, 16, 5, 6)))
    assert asked == [
        PixelShape(2, 8, 3, (3, 3), True, pixels=63, lines=6, columns=5),
        PixelShape(1, 4, 5, (1, 2), False, pixels=20, lines=1, columns=7, strides=(1, 3)),
        PixelShape(1, 4, 4, (1, 1), False, pixels=30, lines=5, columns=6, groups=4),
    ]


@pytest.mark.parametrize(
    "shape, plain",
    [
        (PixelShape(1, 200, 8, (1, 1), False, 1000, 1, 1000), True),  # idle lanes, moves
        (PixelShape(1, 3, 16, (3, 3), True, 40000, 196, 196), True),  # moves
        (PixelShape(1, 128, 128, (3, 3), False, 3136, 56, 56), False),  # arithmetic
        (PixelShape(1, 64, 8, (3, 3), True, 196, 10, 10), False),  # rows that fill no vector
        (PixelShape(1, 8, 512, (1, 1), False, 40000, 200, 200), False),  # many planes
        (PixelShape(1, 64, 40, (5, 5), True, 1600, 36, 33), False),  # idle lanes of rows
        (PixelShape(1, 16, 3, (5, 5), True, 1664, 104, 16, 32, 4), True),  # zeros between groups
        (PixelShape(1, 8, 8, (5, 5), True, 480, 24, 20, 8, 2), False),  # few zeros
        (PixelShape(1, 32, 8, (3, 3), True, 4080, 24, 43, strides=(2, 2)), True),  # idle lanes
        (PixelShape(1, 64, 48, (3, 3), False, 1728, 18, 24, strides=(2, 2)), False),  # shuffles
        (PixelShape(1, 240, 21, (1, 1), False, 9984, 32, 35, strides=(3, 3)), False),  # one tap
        (PixelShape(1, 3, 8, (5, 5), False, 40000, 40, 40, strides=(5, 5)), False),  # far apart
    ],
)
def test_the_choice(shape: PixelShape, plain: bool) -> None:
    assert prefers_pixels(shape, parse(WIDE)) is plain


def _random_convolution(rng: np.random.Generator) -> IRModule:
    """Of a line or an image of random sizes, most of which leave lanes of a vector over."""
    rank = int(rng.integers(1, 3))
    groups = int(rng.choice((1, 1, 2, 3)))
    inputs, outputs = (int(dim) for dim in rng.integers((1, 2), (24 // groups, 40 // groups)))
    kernel, dilations = rng.integers(1, 5, rank), rng.integers(1, 3, rank)
    spans = dilations * (kernel - 1) + 1
    size = spans + rng.integers((1, 6)[-rank:], (12, 100)[-rank:])
    pads = tuple(int(rng.integers(0, span)) for span in [*spans, *spans])
    strides = tuple(int(n) for n in rng.integers(1, 6, rank))
    bias = [weights(groups * outputs, seed=3)] if rng.random() < 0.7 else []

    def body(x: GraphExpr) -> GraphExpr:
        attrs = {"pads": pads, "groups": groups, "strides": strides}
        attrs["dilations"] = tuple(int(n) for n in dilations)
        y = op.conv(x, weights(groups * outputs, inputs, *kernel), *bias, **attrs)
        return op.tanh(y) if rng.random() < 0.5 else y

    return build(body, (int(rng.integers(1, 3)), groups * inputs, *(int(dim) for dim in size)))


@pytest.mark.parametrize("target", ["native", "llvm -mcpu=haswell", "llvm -mcpu=x86-64"])
@pytest.mark.parametrize("seed", range(4))
def test_compiled_values(seed: int, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "prefers_pixels", lambda shape, target: True)
    module = _random_convolution(np.random.default_rng(seed))
    inputs = draw(module, seed)
    actual = compile(module, target, cache=False)(*inputs)
    expected = interpret(module, inputs)
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(actual.numpy(), expected, rtol=2e-5, atol=2e-5 * scale)
