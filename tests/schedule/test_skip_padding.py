# SPDX-License-Identifier: Apache-2.0
"""Taps of a window that meet nothing but padding are left out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from heddle import op, te
from heddle.driver.api import compile
from heddle.driver.pipeline import graph_pipeline
from heddle.ir import IRModule
from heddle.ir.expr import if_then_else, logical_and
from heddle.op.interp import interpret
from heddle.schedule import Schedule, ScheduleError
from heddle.schedule.examples import padded_windows
from heddle.schedule.rules import default_schedule
from heddle.schedule.sketch import sketch
from heddle.target import parse
from heddle.tir.nodes import PrimFunc
from tests.passes.graph.support import build, draw, weights
from tests.schedule.kernels import check_same

WIDE = parse("llvm -mcpu=skylake-avx512 -cores=2")


def tiled(factor: int, func: PrimFunc | None = None, *, decomposed: bool = True) -> Schedule:
    """Windows whose positions are taken `factor` at a time, inside the loop over taps."""
    sch = Schedule(func or padded_windows())
    i, k = sch.get_loops("C")
    outer, inner = sch.split(i, [None, factor])
    sch.reorder(outer, k, inner)
    if decomposed:
        sch.decompose_reduction("C", k)
    return sch


@pytest.mark.parametrize("factor", [1, 3, 8, 32])
def test_values_stay(factor: int) -> None:
    sch = tiled(factor)
    sch.skip_padding("C", 1, sch.get_loops("C")[1])
    assert "if not (" in sketch(sch.func)
    check_same(padded_windows(), sch.func)


def windows(rows: int, taps: int, stride: int, step: int, before: int, after: int) -> PrimFunc:
    """Windows over `rows` rows of 16 between margins of their own."""
    count = (rows + before + after - (taps - 1) * step - 1) // stride + 1
    a = te.placeholder((rows, 16), name="A")
    w = te.placeholder((taps, 16, 32), name="W")
    padded = te.compute(
        (rows + before + after, 16),
        lambda i, c: if_then_else(
            logical_and(i >= before, i < rows + before), a[i - before, c], 0.0
        ),
        name="P",
    )
    k, c = te.reduce_axis(taps, "k"), te.reduce_axis(16, "c")
    out = te.compute(
        (count, 32),
        lambda i, o: te.sum(padded[i * stride + k * step, c] * w[k, c, o], axis=[k, c]),
        name="C",
    )
    return te.create_prim_func([a, w, out])


@pytest.mark.parametrize("seed", range(12))
def test_default_schedules_of_random_windows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    taps, stride, step = (int(n) for n in rng.integers((2, 1, 1), (8, 4, 5)))
    before, after = (int(n) for n in rng.integers(0, taps * step + 3, 2))
    rows = int(rng.integers(1, 20)) + max(0, taps * step - before - after)
    func = windows(rows, taps, stride, step, before, after)
    check_same(func, default_schedule(func, WIDE).func)


@pytest.mark.parametrize(
    ("size", "kernel", "attrs", "skipped"),
    [
        ((24, 40), (7, 1), {"pads": (3, 0, 3, 0)}, True),  # 12 of 168 rows of products
        ((24, 40), (7, 1), {"pads": (0, 0, 0, 0)}, False),
        ((90, 40), (3, 1), {"pads": (1, 0, 1, 0)}, False),  # 2 of 270
        ((90, 40), (3, 1), {"pads": (9, 0, 9, 0), "dilations": (9, 1)}, True),
        ((8, 8), (4, 4), {"pads": (4, 4, 4, 4), "dilations": (2, 2)}, True),
    ],
)
def test_margins_that_pay_are_skipped(
    size: tuple[int, int], kernel: tuple[int, int], attrs: dict[str, Any], skipped: bool
) -> None:
    module = build(lambda x: op.conv(x, weights(64, 32, *kernel), **attrs), (1, 32, *size))
    functions = graph_pipeline(WIDE).run(module).functions.values()
    texts = [sketch(found) for found in functions if isinstance(found, PrimFunc)]
    assert any("if not (" in text for text in texts) is skipped


def convolution(rng: np.random.Generator) -> IRModule:
    """A convolution of a line or an image whose windows reach far into wide margins."""
    rank = int(rng.integers(1, 3))
    kernel, dilations = rng.integers(1, 8, rank), rng.integers(1, 5, rank)
    spans = dilations * (kernel - 1) + 1
    pads = tuple(int(n) for n in rng.integers(0, [*spans, *spans], endpoint=True))
    most = np.array([pads[axis] + pads[axis + rank] for axis in range(rank)])
    size = np.maximum(rng.integers(1, 20, rank), spans - most)
    inputs, outputs = (int(n) for n in rng.integers(1, 40, 2))
    attrs = {
        "pads": pads,
        "dilations": tuple(int(n) for n in dilations),
        "strides": tuple(int(n) for n in rng.integers(1, 4, rank)),
    }
    return build(
        lambda x: op.relu(op.conv(x, weights(outputs, inputs, *kernel), weights(outputs), **attrs)),
        (1, inputs, *(int(n) for n in size)),
    )


@pytest.mark.parametrize("target", ["native", "llvm -mcpu=haswell"])
@pytest.mark.parametrize("seed", range(4))
def test_compiled_convolutions(seed: int, target: str) -> None:
    module = convolution(np.random.default_rng(seed))
    inputs = draw(module, seed)
    actual = compile(module, target, cache=False)(*inputs).numpy()
    expected = interpret(module, inputs)
    assert isinstance(expected, np.ndarray)
    scale = float(np.abs(expected).max(initial=1e-6))
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5 * scale)


def ones_around() -> PrimFunc:
    """`padded_windows` between ones."""
    a, w = te.placeholder((32,), name="A"), te.placeholder((9,), name="W")
    inside = lambda i: logical_and(i >= 4, i < 36)  # noqa: E731
    p = te.compute((40,), lambda i: if_then_else(inside(i), a[i - 4], 1.0), name="P")
    k = te.reduce_axis(9, "k")
    return te.create_prim_func(
        [a, w, te.compute((32,), lambda i: te.sum(p[i + k] * w[k], axis=k), name="C")]
    )


@pytest.mark.parametrize(
    ("make", "act", "message"),
    [
        (tiled, lambda s: s.skip_padding("C", 3, s.get_loops("C")[1]), "index 3 does not exist"),
        (tiled, lambda s: s.skip_padding("C", 2, s.get_loops("C")[1]), "`W` is not written with"),
        (
            tiled,
            lambda s: s.skip_padding("C", 1, s.get_loops("C_init")[1]),
            "is not around block `C`",
        ),
        (
            lambda n: tiled(n, decomposed=False),
            lambda s: s.skip_padding("C", 0, s.get_loops("C")[1]),
            "must add products with `P`, without its init",
        ),
        (
            lambda n: tiled(n, ones_around()),
            lambda s: s.skip_padding("C", 1, s.get_loops("C")[1]),
            "`P` is not written with zeros around it",
        ),
        (
            tiled,
            lambda s: [
                s.unroll(s.get_loops("C")[1]),
                s.skip_padding("C", 1, s.get_loops("C")[1]),
            ],
            "is unrolled; choose a serial loop",
        ),
    ],
)
def test_refuses(
    make: Callable[[int], Schedule], act: Callable[[Schedule], object], message: str
) -> None:
    with pytest.raises(ScheduleError, match=re.escape(message)):
        act(make(8))


def test_a_loop_that_moves_along_no_margin() -> None:
    func = windows(8, 3, 1, 1, 1, 1)
    sch = Schedule(func)
    *_, k, c = sch.get_loops("C")
    sch.decompose_reduction("C", k)
    with pytest.raises(ScheduleError, match="does not move `P` along a padded axis"):
        sch.skip_padding("C", 1, c)
