# SPDX-License-Identifier: Apache-2.0
"""Rows that fill no tiles are copied into whole ones, whatever images they are lines of."""

from __future__ import annotations

import numpy as np
import pytest

from heddle import op, te
from heddle.codegen.build import build_kernel
from heddle.schedule.rules import default_schedule
from heddle.script import to_text
from heddle.target import native, parse
from heddle.tir.interp import run
from heddle.tir.nodes import PrimFunc

TILES = parse("llvm -mcpu=sapphirerapids -mattr=+amx-tile,+amx-int8,+amx-bf16")


def convolution(
    shape: tuple[int, ...], kernel: int, stride: int
) -> tuple[PrimFunc, list[np.ndarray]]:
    """A convolution of an image in blocks of 64 channels to 32, with an epilogue, its arguments
    and what it computes."""
    rng = np.random.default_rng(sum(shape) + kernel)
    pad = kernel // 2
    attrs = {"strides": (stride, stride), "pads": (pad,) * 4, "dilations": (1, 1)}
    attrs |= {"groups": 1, "pad_value": 3}
    x = rng.integers(0, 256, (*shape, 64)).astype(np.uint8)
    w = rng.integers(-128, 128, (1, shape[1], kernel, kernel, 16, 32, 4)).astype(np.int8)
    p0 = te.placeholder(x.shape, dtype="uint8", name="p0")
    p1 = te.placeholder(w.shape, dtype="int8", name="p1")
    (y,) = op.get("conv2d_dot").compute([p0, p1], attrs)
    z = te.compute(y.shape, lambda *i: y[i] + 1, name="z")
    want = np.asarray(op.get("conv2d_dot").evaluate([x, w], attrs)) + 1
    return te.create_prim_func([p0, p1, z], name="k"), [x, w, want]


CASES = [
    ((1, 1, 7, 7), 1, 1, 13),
    ((2, 1, 5, 5), 1, 1, 13),  # of either image
    ((1, 1, 3, 3), 3, 1, 9),
    ((1, 1, 9, 9), 1, 2, 13),
    ((1, 1, 1, 17), 1, 1, 9),
]


@pytest.mark.parametrize(("shape", "kernel", "stride", "rows"), CASES)
def test_small_images(shape: tuple[int, ...], kernel: int, stride: int, rows: int) -> None:
    func, (x, w, want) = convolution(shape, kernel, stride)
    made = default_schedule(func, TILES).func
    assert f'"x86.amx.u8s8.{rows}"' in to_text(made)
    out = np.full(want.shape, -1, np.int32)
    run(made, x, w, out)
    np.testing.assert_array_equal(out, want)
    if TILES.features <= native().features:
        out = np.full(want.shape, -1, np.int32)
        build_kernel(made, TILES)(x, w, out)
        np.testing.assert_array_equal(out, want)


def test_lines_that_fill_tiles_are_read_where_they_lie() -> None:
    func, _ = convolution((1, 1, 16, 16), 3, 1)
    text = to_text(default_schedule(func, TILES).func)
    assert '"x86.amx.u8s8.16"' in text
    assert "_global" not in text
