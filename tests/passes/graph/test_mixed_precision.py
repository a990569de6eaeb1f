# SPDX-License-Identifier: Apache-2.0
"""precision="bf16": what is rounded, what is not, and how far results may be off."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

import heddle
from heddle import op
from heddle.graph import GraphBuilder, GraphExpr
from heddle.op.interp import interpret
from heddle.passes.graph.assign_layouts import AssignLayouts
from heddle.passes.graph.blocked import DotLayouts
from heddle.passes.graph.mixed_precision import mixed_precision
from heddle.schedule.rules import dot_block, dot_panel, dot_row
from heddle.support import UserError
from heddle.target import native, parse
from tests.passes.graph.support import build, check_values, draw, main_of, ops_of, weights

ROUNDING = 2.0**-8
"""Of one operand: bfloat16 keeps 8 bits."""


def residual(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
    first = builder.emit(op.relu(op.conv(x, weights(32, 32, 3, 3), weights(32), pads=(1, 1, 1, 1))))
    return op.softmax(op.add(op.conv(first, weights(32, 32, 1, 1, seed=3)), first), axis=1)


def test_products_alone_are_rounded() -> None:
    module = build(residual, (1, 32, 7, 7))
    after = mixed_precision(module)
    found = {b.var.name: b.value for b in main_of(after).bindings}
    dtypes = {
        str(arg.type.dtype) for v in found.values() if v.callee.name == "conv" for arg in v.args
    }
    assert dtypes == {"bfloat16"}
    assert {str(v.type.dtype) for v in found.values() if v.callee.name == "conv"} == {"float32"}
    assert "softmax" in ops_of(after)
    # What two readers share is rounded once: by the cast that the product reads.
    assert ops_of(after).count("cast") == 4
    values = draw(module)
    error = np.abs(interpret(after, values) - interpret(module, values)).max()
    # Logits of about 30 are off by 30 * 2^-8, and no probability by more than its logit.
    assert 0 < error < 30 * ROUNDING


def test_depthwise_convolutions_stay_float32() -> None:
    def body(x: GraphExpr) -> GraphExpr:
        return op.conv(x, weights(8, 1, 3, 3), groups=8)

    module = build(body, (1, 8, 6, 6))
    assert mixed_precision(module) is module


@pytest.mark.parametrize(
    ("channels", "kernel", "attrs"),
    [
        (3, (7, 7), {"strides": (2, 2), "pads": (3, 3, 3, 3)}),
        (1, (3, 5), {"dilations": (1, 2), "pads": (0, 4, 1, 0)}),
        (5, (3, 3), {}),
    ],
)
def test_taps_of_few_channels_fill_tiles(
    channels: int, kernel: tuple[int, int], attrs: dict[str, object]
) -> None:
    w = weights(32, channels, *kernel)
    module = mixed_precision(build(lambda x: op.conv(x, w, **attrs), (2, channels, 12, 13)))
    target = parse("llvm -mcpu=sapphirerapids -mattr=+amx-tile,+amx-int8,+amx-bf16")
    dots = DotLayouts(*(partial(rule, target) for rule in (dot_panel, dot_block, dot_row)))
    after = AssignLayouts.of(target, dots=dots)(module)
    assert "row_taps" in ops_of(after)
    check_values(module, after)


def needs_bfloat16() -> None:
    if not native().has("avx512bf16"):
        pytest.skip("this processor has no bfloat16 products")


@pytest.mark.parametrize("rows", [1, 7, 32, 49])
def test_values(rows: int) -> None:
    """Each product of rounded operands is off by 2^-8 of its magnitude at most, so a sum by that
    of the sum of magnitudes; float32 accumulation adds far less."""
    needs_bfloat16()
    w = weights(64, 48)
    module = build(lambda x: op.matmul(x, w), (rows, 64))
    (x,) = draw(module)
    got = heddle.compile(module, precision="bf16", cache=False)(x).numpy()
    exact = x.astype(np.float64) @ w
    limit = ROUNDING * (np.abs(x).astype(np.float64) @ np.abs(w))
    assert (np.abs(got - exact) <= limit).all()
    assert np.abs(got - exact).max() > 1e-5  # rounded indeed


def test_values_of_images() -> None:
    """The same for a convolution of the three channels of an image."""
    needs_bfloat16()
    w = weights(16, 3, 7, 7)
    attrs = {"strides": (2, 2), "pads": (3, 3, 3, 3)}
    module = build(lambda x: op.conv(x, w, **attrs), (1, 3, 29, 32))
    (x,) = draw(module)
    got = heddle.compile(module, precision="bf16", cache=False)(x).numpy()
    exact = interpret(module, [x])
    sizes = build(lambda x: op.conv(x, np.abs(w), **attrs), (1, 3, 29, 32))
    limit = ROUNDING * interpret(sizes, [np.abs(x)])
    # float32 sums of 147 products, in another order
    assert (np.abs(got - exact) <= limit + 1e-5).all()
    assert np.abs(got - exact).max() > 1e-5  # rounded indeed


def test_never_by_itself() -> None:
    w = weights(64, 48)
    module = build(lambda x: op.matmul(x, w), (16, 64))
    (x,) = draw(module)
    got = heddle.compile(module, cache=False)(x).numpy()
    np.testing.assert_allclose(got, x @ w, rtol=0, atol=1e-5 * np.abs(x @ w).max())


def test_errors() -> None:
    module = build(lambda x: op.relu(x), (2, 3))
    with pytest.raises(UserError, match='precision "int4": expected one of "float32", "bf16"'):
        heddle.compile(module, precision="int4")
    with pytest.raises(UserError, match="has no bfloat16 products"):
        heddle.compile(module, "llvm -mcpu=haswell", precision="bf16")


def test_layer_accuracy(tmp_path: Path) -> None:
    needs_bfloat16()
    from heddle.driver.accuracy import layer_accuracy

    module = build(residual, (1, 32, 7, 7))
    (x,) = draw(module)
    rows = layer_accuracy(module, {"x0": x}, precision="bf16")
    assert [row.operator for row in rows][:2] == ["conv", "conv"]
    assert all(30 < row.sqnr_db < 80 for row in rows[:2])
    same = layer_accuracy(module, {"x0": x})
    assert all(row.max_error < 1e-6 for row in same)
