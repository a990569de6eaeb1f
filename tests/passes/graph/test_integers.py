# SPDX-License-Identifier: Apache-2.0
"""Quantised graphs become integer operators: which ones, and that values stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from heddle import op
from heddle.graph import GraphBuilder, GraphExpr
from heddle.ir import IRModule
from heddle.passes.graph.integers import integers
from tests.passes.graph.support import as_tuple, build, draw, main_of, ops_of

S = np.float32


def quantise(x: GraphExpr, scale: float, zero: int, dtype: str = "uint8") -> GraphExpr:
    return op.quantize(x, S(scale), np.asarray(zero, dtype), dtype=dtype)


def dequantise(q: GraphExpr, scale: float, zero: int, dtype: str = "uint8") -> GraphExpr:
    return op.dequantize(q, S(scale), np.asarray(zero, dtype))


def weights(*shape: int) -> GraphExpr:
    data = np.random.default_rng(1).integers(-128, 128, shape).astype(np.int8)
    scale = np.linspace(0.01, 0.02, shape[0]).astype(np.float32).reshape(-1, 1, 1, 1)
    return op.dequantize(data, scale)


def emitted(builder: GraphBuilder, *steps: Callable[[GraphExpr], GraphExpr]) -> Callable[..., Any]:
    def run(x: GraphExpr) -> GraphExpr:
        for step in steps:
            x = builder.emit(step(x))
        return x

    return run


def conv_block(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
    w = builder.emit(weights(8, 4, 3, 3))
    return emitted(
        builder,
        lambda v: quantise(v, 0.02, 100),
        lambda v: dequantise(v, 0.02, 100),
        lambda v: op.conv(v, w, pads=(1, 1, 1, 1)),
        op.relu,
        lambda v: quantise(v, 0.05, 30),
        lambda v: dequantise(v, 0.05, 30),
    )(x)


def signed_conv(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
    w = builder.emit(weights(8, 4, 1, 1))
    return emitted(
        builder,
        lambda v: quantise(v, 0.02, -4, "int8"),
        lambda v: dequantise(v, 0.02, -4, "int8"),
        lambda v: op.conv(v, w),
        lambda v: quantise(v, 0.05, 3, "int8"),
        lambda v: dequantise(v, 0.05, 3, "int8"),
    )(x)


def moved(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
    return emitted(
        builder,
        lambda v: quantise(v, 0.02, 9),
        lambda v: dequantise(v, 0.02, 9),
        lambda v: op.max_pool(v, kernel=(2, 2)),
        lambda v: quantise(v, 0.02, 9),
        lambda v: dequantise(v, 0.02, 9),
        lambda v: op.transpose(v, permutation=(0, 2, 3, 1)),
        lambda v: quantise(v, 0.02, 9),
        lambda v: dequantise(v, 0.02, 9),
    )(x)


def mean(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
    return emitted(
        builder,
        lambda v: quantise(v, 0.02, 9),
        lambda v: dequantise(v, 0.02, 9),
        lambda v: op.mean(v, axes=(2, 3), keepdims=True),
        lambda v: quantise(v, 0.01, 40),
        lambda v: dequantise(v, 0.01, 40),
    )(x)


ROUND = ["requantize", "dequantize"]
CASES = [
    # scale by an inverse, then the convolution and what zero points add, then one rounding; the
    # ReLU is a bound on bytes
    (conv_block, ["requantize", "conv", "add", "requantize", "maximum", "dequantize"]),
    # signed activations become unsigned ones 128 further on
    (signed_conv, ["requantize", "conv", "add", *ROUND]),
    (moved, ["requantize", "max_pool", "transpose", "dequantize"]),
    (mean, ["requantize", "cast", "sum", "add", *ROUND]),
]


@pytest.mark.parametrize(("body", "names"), CASES, ids=[row[0].__name__ for row in CASES])
def test_before_and_after(body: Callable[..., GraphExpr], names: list[str]) -> None:
    module = build(body, (1, 4, 6, 6))
    after = integers(module)
    assert ops_of(after) == names
    _check_quanta(module, after)


def _check_quanta(before: IRModule, after: IRModule) -> None:
    """Results differ by one quantum at most, and few do: the scales are rounded at other places."""
    from heddle.op.interp import interpret

    values = draw(before)
    for got, want in zip(
        as_tuple(interpret(after, values)), as_tuple(interpret(before, values)), strict=True
    ):
        assert np.abs(got - want).max() <= 0.05 + 1e-6
        assert np.mean(np.abs(got - want) > 1e-6) < 0.01


def test_products_of_bytes_are_unsigned_times_signed() -> None:
    after = integers(build(signed_conv, (1, 4, 6, 6)))
    conv = next(b.value for b in main_of(after).bindings if b.value.callee.name == "conv")
    assert [str(item.type.dtype) for item in conv.args] == ["uint8", "int8"]
    assert conv.attrs["pad_value"] == -4 + 128


def test_a_float_network_is_left_alone() -> None:
    module = build(lambda x: op.relu(x), (2, 3))
    assert integers(module) is module
