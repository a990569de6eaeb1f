# SPDX-License-Identifier: Apache-2.0
"""The matrices of fast convolution, and how much convolutions by tiles round."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest

from heddle import op, te
from heddle.codegen.build import build_kernel
from heddle.op.toom_cook import ERRORS, Matrix, toom_cook
from heddle.op.winograd import transform_weights
from heddle.passes.graph import packing
from heddle.schedule.rules import default_schedule
from heddle.support import UserError
from heddle.target import native

BLOCK = 8


def _times(matrix: Matrix, vector: list[Fraction]) -> list[Fraction]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


@pytest.mark.parametrize(
    "outputs, taps", [(m, r) for r in (2, 3, 5) for m in range(1, 7) if m + r <= 9]
)
def test_matrices_compute_a_convolution_exactly(outputs: int, taps: int) -> None:
    made = toom_cook(outputs, taps)
    rng = random.Random(outputs * 10 + taps)
    d = [Fraction(rng.randint(-9, 9)) for _ in range(outputs + taps - 1)]
    g = [Fraction(rng.randint(-9, 9)) for _ in range(taps)]
    products = [a * b for a, b in zip(_times(made.weight, g), _times(made.data, d), strict=True)]
    expected = [sum(d[i + k] * g[k] for k in range(taps)) for i in range(outputs)]
    assert _times(made.output, products) == expected


def test_too_many_outputs_are_refused() -> None:
    with pytest.raises(UserError, match=r"F\(7, 3\): the number of outputs must be from 1 to 6"):
        toom_cook(7, 3)


def test_direct_and_tiles_agree_exactly_in_wide_arithmetic() -> None:
    """In float64 the reference of the operator is the direct convolution to rounding."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 2, 9, 6, 4))
    w = packing.pack_convolution(rng.standard_normal((8, 8, 3, 3)), 4, 4)
    direct = op.get("conv2d_nchwc")
    attrs = {"strides": (1, 1), "pads": (1, 0, 1, 2), "dilations": (1, 1), "groups": 1}
    wanted = direct.evaluate([x, w], attrs)
    for tile in ERRORS:
        u = transform_weights(w, tile)
        got = op.get("winograd_conv2d_nchwc").evaluate([x, u], {"tile": tile, "pads": (1, 0, 1, 2)})
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-11)


def _largest_error(tile: int, channels: int, draw: str, seed: int) -> float:
    """Of a compiled kernel, relative to the largest output: against float64."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1, channels // BLOCK, 12, 12, BLOCK)).astype(np.float32)
    weight = rng.standard_normal((BLOCK, channels, 3, 3)).astype(np.float32)
    if draw == "positive":  # after a relu, or an image
        x = np.abs(x)
    if draw == "uniform":
        x, weight = (rng.uniform(0, 1, a.shape).astype(np.float32) for a in (x, weight))
    w = packing.pack_convolution(weight, BLOCK, BLOCK)
    u = transform_weights(w, tile)
    tensors = [te.placeholder(a.shape, "float32", name=n) for a, n in ((x, "x"), (u, "u"))]
    attrs = {"tile": tile, "pads": (1, 1, 1, 1)}
    made = op.get("winograd_conv2d_nchwc").compute(tensors, attrs)
    func = te.create_prim_func([*tensors, *made], name="winograd")
    got = np.zeros([int(d.value) for d in made[0].shape], np.float32)
    build_kernel(default_schedule(func, native()).func, native())(x, u, got)
    wide = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "groups": 1}
    wanted = op.get("conv2d_nchwc").evaluate([x.astype(np.float64), w.astype(np.float64)], wide)
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("draw", ["normal", "positive", "uniform"])
@pytest.mark.parametrize("channels", [32, 512])
@pytest.mark.parametrize("tile", ERRORS)
def test_error_is_within_what_is_documented(tile: int, channels: int, draw: str) -> None:
    error = _largest_error(tile, channels, draw, seed=channels + tile)
    assert error <= ERRORS[tile]


def test_larger_tiles_round_more() -> None:
    """Or the budget of `heddle.compile` would choose nothing."""
    errors = [_largest_error(tile, 256, "normal", seed=1) for tile in ERRORS]
    assert errors == sorted(errors)
    assert errors[-1] > 10 * errors[0]
