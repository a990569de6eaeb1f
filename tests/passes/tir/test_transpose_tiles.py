# SPDX-License-Identifier: Apache-2.0
"""Blocks that read along one axis and write along another, by tiles transposed in registers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from heddle import te
from heddle.codegen import build_kernel
from heddle.ir.expr import Call, Expr, if_then_else
from heddle.ir.walk import pre_order
from heddle.passes.tir import lower
from heddle.schedule.rules import default_schedule
from heddle.target import parse
from heddle.te import Tensor
from heddle.tir.nodes import PrimFunc
from heddle.tir.verify import verify

AVX512 = parse("llvm -mcpu=skylake-avx512 -cores=2")
AVX2 = parse("llvm -mcpu=haswell -cores=2")

Element = Callable[..., Expr]


def _func(
    shape: tuple[int, ...], out: tuple[int, ...], body: Callable[[Tensor], Element]
) -> PrimFunc:
    x = te.placeholder(shape, "float32", name="x")
    return te.create_prim_func([x, te.compute(out, body(x), name="y")])


def _transpose(rows: int, columns: int) -> PrimFunc:
    return _func((rows, columns), (columns, rows), lambda x: lambda i, j: x[j, i] * 2.0 + 1.0)


def _to_blocks(channels: int, height: int, width: int, block: int) -> PrimFunc:
    shape = (-(-channels // block), height, width, block)
    return _func(
        (channels, height, width), shape, lambda x: lambda b, h, w, c: x[b * block + c, h, w]
    )


def _from_blocks(channels: int, height: int, width: int, block: int) -> PrimFunc:
    return _func(
        (-(-channels // block), height, width, block),
        (channels, height, width),
        lambda x: lambda c, h, w: x[c // block, h, w, c % block],
    )


CASES = {
    "square": _transpose(32, 32),
    "tall": _transpose(100, 16),
    "odd": _transpose(37, 53),
    "narrow": _transpose(7, 90),
    "low": _transpose(90, 7),
    "to blocks": _to_blocks(32, 6, 8, 16),
    "to blocks, odd images": _to_blocks(32, 7, 7, 16),
    "from blocks": _from_blocks(32, 5, 16, 16),
    "from blocks, odd images": _from_blocks(16, 7, 7, 16),
    "from padded blocks": _from_blocks(22, 9, 33, 16),
    "from one padded block": _from_blocks(11, 9, 5, 16),
}


def _tiles(func: PrimFunc, target: object) -> int:
    lowered = lower(default_schedule(func, target).func, target)  # type: ignore[arg-type]
    found = pre_order(lowered.body)
    return sum(isinstance(item, Call) and item.name == "transpose_tile" for item in found)


@pytest.mark.parametrize("target", [AVX512, AVX2], ids=["avx512", "avx2"])
@pytest.mark.parametrize("name", CASES)
def test_default_schedules_go_by_tiles(name: str, target: object) -> None:
    assert _tiles(CASES[name], target) >= 1


@pytest.mark.parametrize("name", CASES)
def test_values(name: str) -> None:
    func = CASES[name]
    given, made = func.params
    x = np.random.default_rng(0).standard_normal([int(str(n)) for n in given.shape], "float32")
    want, got = (np.zeros([int(str(n)) for n in made.shape], "float32") for _ in range(2))
    scheduled = default_schedule(func, parse("native")).func
    verify(scheduled)
    build_kernel(func)(x, want)
    build_kernel(scheduled)(x, got)
    np.testing.assert_array_equal(got, want)
    if len(x.shape) == 2:
        np.testing.assert_array_equal(got, x.T * np.float32(2) + np.float32(1))


def test_what_is_read_under_a_condition_stays_there() -> None:
    """Sixteen channels of which ten exist: a whole tile would read what does not."""

    def body(x: Tensor) -> Element:
        return lambda h, w, c: if_then_else(c < 10, x[c, h, w], 0.0)

    func = _func((10, 8, 8), (8, 8, 16), body)
    assert _tiles(func, AVX512) == 0
    x = np.random.default_rng(0).standard_normal((10, 8, 8), "float32")
    y = np.ones((8, 8, 16), "float32")
    build_kernel(default_schedule(func, parse("native")).func)(x, y)
    np.testing.assert_array_equal(y[..., :10], x.transpose(1, 2, 0))
    assert not y[..., 10:].any()


@pytest.mark.parametrize("cpu", ["skylake-avx512", "haswell", "x86-64"])
def test_tiles_have_the_width_of_vectors(cpu: str) -> None:
    assert _tiles(_transpose(64, 64), parse(f"llvm -mcpu={cpu} -cores=2")) == 1
