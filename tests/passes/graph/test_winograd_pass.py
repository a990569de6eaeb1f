# SPDX-License-Identifier: Apache-2.0
"""Which convolutions the pass winograd computes by tiles, and that values stay."""

from __future__ import annotations

import numpy as np
import pytest

import heddle
from heddle import op
from heddle.graph import GraphBuilder, GraphExpr
from heddle.passes.graph.assign_layouts import AssignLayouts
from heddle.passes.graph.winograd import Winograd
from heddle.schedule.rules.winograd_model import ConvShape
from heddle.script import to_text
from heddle.support import UserError
from heddle.target import parse
from tests.passes.graph.support import build, check_values, ops_of, weights

BY_TILES = Winograd(lambda conv: 4)
LAYOUTS = AssignLayouts(4, lambda rows, columns, depth: 8)
PADS = (1, 1, 1, 1)


def conv(x: GraphExpr, o: int, i: int, k: int = 3, **attrs: object) -> GraphExpr:
    return op.conv(x, weights(o, i, k, k), weights(o, seed=2), **attrs)


def test_before_and_after() -> None:
    before = LAYOUTS(build(lambda x: op.relu(conv(x, 4, 8, pads=PADS)), (1, 8, 6, 6)))
    after = BY_TILES(before)
    assert ops_of(before) == ["layout_transform", "conv2d_nchwc", "relu", "layout_transform"]
    assert ops_of(after) == [
        "layout_transform",
        "winograd_conv2d_nchwc",
        "relu",
        "layout_transform",
    ]
    assert "tile=4" in to_text(after)
    call = next(b.value for b in after["main"].bindings if "winograd" in b.value.callee.name)
    assert call.args[1].data.shape == (1, 6, 6, 2, 4, 4)  # F(4, 3) takes 6 x 6 points
    assert call.args[1].data.dtype == np.float32


def test_values_stay() -> None:
    def block(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
        first = builder.emit(op.relu(conv(x, 8, 8, pads=PADS)))
        return op.add(conv(first, 8, 8, pads=PADS), first)

    module = LAYOUTS(build(block, (2, 8, 7, 9)))
    after = BY_TILES(module)
    assert ops_of(after).count("winograd_conv2d_nchwc") == 2
    check_values(module, after)


@pytest.mark.parametrize(
    "attrs",
    [
        {"strides": (2, 2), "pads": PADS},
        {"dilations": (2, 2)},
        {"groups": 2},
        {"k": 1},
    ],
    ids=str,
)
def test_what_tiles_cannot_compute_is_left_alone(attrs: dict) -> None:
    k = attrs.pop("k", 3)
    inputs = 8 // attrs.get("groups", 1)
    module = LAYOUTS(build(lambda x: conv(x, 8, inputs, k, **attrs), (1, 8, 9, 9)))
    assert BY_TILES(module) is module or ops_of(BY_TILES(module)) == ops_of(module)


def test_the_choice_sees_the_sizes() -> None:
    seen: list[ConvShape] = []

    def never(shape: ConvShape) -> int:
        seen.append(shape)
        return 0

    module = LAYOUTS(build(lambda x: conv(x, 12, 8, pads=PADS), (2, 8, 6, 10)))
    assert ops_of(Winograd(never)(module)) == ops_of(module)
    assert seen == [ConvShape(3, 2, 4, 3, 4, rows=6, columns=10, batch=2)]


def test_the_budget_bounds_the_tiles() -> None:
    target = parse("llvm -mcpu=skylake-avx512 -cores=2")
    shape = ConvShape(3, 16, 16, 16, 16, rows=56, columns=56)
    chosen = [Winograd.of(target, error=e).choose(shape) for e in (0.0, 1e-6, 2e-6, 1e-5, 1.0)]
    assert chosen[:4] == [0, 0, 2, 4]
    assert chosen[4] in (4, 6)


def one_layer() -> object:
    return build(lambda x: conv(x, 64, 64, pads=PADS), (1, 64, 56, 56))


def test_compile_takes_a_budget() -> None:
    kernels = {}
    for error in (0, 1e-5):
        module = heddle.optimize(one_layer(), "haswell", winograd_error=error)
        kernels[error] = any("winograd" in name for name in module)
    assert kernels == {0: False, 1e-5: True}


@pytest.mark.parametrize("error", [-1e-5, float("nan"), float("inf")])
def test_a_budget_must_be_a_number(error: float) -> None:
    with pytest.raises(UserError, match="winograd_error must be a number of at least 0, got"):
        heddle.compile(one_layer(), winograd_error=error)
