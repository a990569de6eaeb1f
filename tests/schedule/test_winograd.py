# SPDX-License-Identifier: Apache-2.0
"""The schedules of Winograd convolutions: values of both plans, shapes at random, the choice."""

from __future__ import annotations

import random

import numpy as np
import pytest

from heddle import op, te
from heddle.codegen.build import build_kernel
from heddle.ir import structural_equal
from heddle.ir.expr import const, maximum
from heddle.ir.walk import pre_order
from heddle.op.winograd import transform_weights
from heddle.schedule import Schedule, replay
from heddle.schedule.rules import default_schedule
from heddle.schedule.rules.winograd import schedule_winograd, winograd_stages
from heddle.schedule.rules.winograd_model import (
    ConvShape,
    WinogradShape,
    best_plan,
    direct_cycles,
    plans,
    winograd_cycles,
    winograd_tile,
)
from heddle.script import parse, to_text
from heddle.target import Target, native
from heddle.target import parse as parse_target
from heddle.tir.nodes import For, ForKind, PrimFunc

BLOCK = 4
TOLERANCE = {2: 2e-6, 4: 1e-5, 6: 5e-5}


def winograd(
    shape: tuple[int, ...],
    outputs: int,
    tile: int,
    pads: tuple[int, ...],
    *,
    residual: bool = False,
) -> PrimFunc:
    """relu(conv(x) + bias [+ residual]) of x[N, C, H, W], blocked."""
    n, channels, h, w = shape
    points = tile + 2
    x = te.placeholder((n, channels // BLOCK, h, w, BLOCK), "float32", name="x")
    u = te.placeholder(
        (outputs // BLOCK, points, points, channels // BLOCK, BLOCK, BLOCK), "float32", name="u"
    )
    bias = te.placeholder((outputs // BLOCK, BLOCK), "float32", name="bias")
    attrs = {"tile": tile, "pads": pads}
    (y,) = op.get("winograd_conv2d_nchwc").compute([x, u, bias], attrs)
    params = [x, u, bias]
    if residual:
        r = te.placeholder(y.shape, "float32", name="r")
        params.append(r)
        total = te.compute(y.shape, lambda *i: y[i] + r[i], name="add")
    else:
        total = y
    z = te.compute(y.shape, lambda *i: maximum(total[i], const(0, "float32")), name="relu")
    return te.create_prim_func([*params, z], name="winograd")


def check(
    func: PrimFunc, scheduled: PrimFunc, target: Target, tile: int, pads: tuple[int, ...]
) -> None:
    """The values of a scheduled function against a direct convolution in float64."""
    rng = np.random.default_rng(tile)
    shapes = {buffer.name: buffer.static_shape for buffer in func.params}
    x = rng.standard_normal(shapes["x"]).astype(np.float32)
    ob, _, _, ib, ci, co = shapes["u"]
    w = rng.standard_normal((ob, ib, 3, 3, ci, co)).astype(np.float32)
    bias = rng.standard_normal(shapes["bias"]).astype(np.float32)
    attrs = {"strides": (1, 1), "pads": pads, "dilations": (1, 1), "groups": 1}
    wide = [a.astype(np.float64) for a in (x, w, bias)]
    wanted = op.get("conv2d_nchwc").evaluate(wide, attrs)
    args = [x, transform_weights(w, tile), bias]
    if "r" in shapes:
        args.append(rng.standard_normal(shapes["r"]).astype(np.float32))
        wanted = wanted + args[-1]
    scale = np.abs(wanted).max()
    got = np.full(shapes["relu"], np.nan, np.float32)
    build_kernel(scheduled, target)(*args, got)
    np.testing.assert_allclose(got, np.maximum(wanted, 0), rtol=0, atol=TOLERANCE[tile] * scale)


def scheduled_by(func: PrimFunc, target: Target, number: int) -> Schedule:
    """By one of the plans: `number` counts them modulo their number."""
    sch = Schedule(func)
    stages = winograd_stages(sch)
    assert stages is not None
    choices = list(plans(stages.shape, target))
    schedule_winograd(sch, stages, target, choices[number % len(choices)])
    return sch


@pytest.mark.parametrize("seed", range(12))
def test_random_shapes_and_plans(seed: int) -> None:
    rng = random.Random(seed)
    tile = rng.choice([2, 4, 6])
    pads = tuple(rng.randint(0, 2) for _ in range(4))
    size = [rng.randint(3, 19) for _ in range(2)]
    shape = (rng.randint(1, 2), BLOCK * rng.randint(1, 3), *size)
    outputs = BLOCK * rng.choice([1, 2, 3, 4])
    func = winograd(shape, outputs, tile, pads, residual=rng.random() < 0.5)
    target = rng.choice([native(), *map(parse_target, ("haswell", "x86-64"))])
    sch = scheduled_by(func, target.with_cores(2), rng.randint(0, 99))
    check(func, sch.func, target, tile, pads)


@pytest.mark.parametrize("number", [0, -1], ids=["blocks", "whole"])
def test_one_tile_of_one_block(number: int) -> None:
    func = winograd((1, 4, 3, 2), 4, 4, (0, 1, 0, 1))
    check(func, scheduled_by(func, native(), number).func, native(), 4, (0, 1, 0, 1))


@pytest.mark.parametrize("number", [0, -1], ids=["blocks", "whole"])
def test_both_plans_replay_and_print(number: int) -> None:
    func = winograd((1, 8, 10, 8), 8, 4, (1, 1, 1, 1))
    sch = scheduled_by(func, native(), number)
    assert structural_equal(replay(sch.trace, func).func, sch.func)
    assert structural_equal(parse(to_text(sch.func)), sch.func)
    loops = [n for n in pre_order(sch.func.body) if isinstance(n, For)]
    assert sum(loop.kind is ForKind.PARALLEL for loop in loops) == (3 if number else 1)


def test_the_default_schedule_recognises_it() -> None:
    func = winograd((1, 8, 8, 8), 8, 2, (1, 1, 1, 1))
    made = default_schedule(func, native()).func
    sch = Schedule(func)
    stages = winograd_stages(sch)
    assert stages is not None
    assert stages.shape == WinogradShape(2, 4, 2, 4, 2, 4, 4, 4, batch=1)
    schedule_winograd(sch, stages, native(), best_plan(stages.shape, native()))
    assert structural_equal(made, sch.func)


def test_other_products_are_not_taken_for_it() -> None:
    a = te.placeholder((2, 3, 8, 8), "float32", name="a")
    b = te.placeholder((2, 3, 8, 8), "float32", name="b")
    k = te.reduce_axis(8, "k")
    c = te.compute((2, 3, 8, 8), lambda n, h, i, j: te.sum(a[n, h, i, k] * b[n, h, k, j], axis=k))
    assert winograd_stages(Schedule(te.create_prim_func([a, b, c]))) is None


# -- the model ------------------------------------------------------------------------------------

AVX512 = parse_target("llvm -mcpu=skylake-avx512 -cores=2")
AVX2 = parse_target("llvm -mcpu=haswell -cores=2")


def layer(channels: int, outputs: int, size: int, lanes: int = 16) -> ConvShape:
    return ConvShape(3, channels // lanes, lanes, outputs // lanes, lanes, size, size)


@pytest.mark.parametrize("target, lanes", [(AVX512, 16), (AVX2, 8)])
def test_images_with_many_channels_go_by_tiles(target: Target, lanes: int) -> None:
    conv = layer(256, 256, 56, lanes)
    assert winograd_tile(conv, target, tiles=(2, 4)) == 4
    assert winograd_tile(conv, target, tiles=(2,)) == 2
    assert winograd_tile(conv, target, tiles=()) == 0
    by_tiles = winograd_cycles(WinogradShape.of(conv, 4), target)
    assert 0.2 < by_tiles / direct_cycles(conv, target) < 0.6


def test_what_gains_nothing_stays_direct() -> None:
    few_channels = ConvShape(3, 1, 3, 4, 16, 224, 224)
    one_pixel = layer(512, 512, 1)
    unknown_batch = ConvShape(3, 4, 16, 4, 16, 56, 56, batch=None)
    for conv in (few_channels, one_pixel, unknown_batch):
        assert winograd_tile(conv, AVX512, tiles=(2, 4, 6)) == 0


def test_small_images_do_not_pay_for_large_weights() -> None:
    """7 x 7 pixels of 512 channels: the weights of F(4 x 4) are 38 MB for 4 tiles."""
    assert winograd_tile(layer(512, 512, 7), AVX512, tiles=(2, 4)) != 4


@pytest.mark.parametrize("taps, largest", [(2, 6), (3, 6), (5, 4), (7, 2), (9, 0), (15, 0)])
def test_larger_windows_take_smaller_tiles(taps: int, largest: int) -> None:
    """The interpolation points of a tile decide its error, and there are few."""
    conv = ConvShape(taps, 16, 16, 16, 16, 56, 56)
    assert winograd_tile(conv, AVX512, tiles=(2, 4, 6)) <= largest
    assert winograd_tile(conv, AVX512, tiles=(2,)) <= (2 if taps <= 3 else 0)


def test_plans_fit_the_registers() -> None:
    for target, lanes in ((AVX512, 16), (AVX2, 8)):
        for size in (7, 13, 28, 50, 112):
            shape = WinogradShape.of(layer(64, 96, size, lanes), 4)
            for plan in plans(shape, target):
                tile = plan.register
                assert (tile.rows + 1) * tile.vectors + 1 <= target.vector_registers
                assert shape.out_blocks % tile.vectors == 0
                assert shape.rows % plan.block_rows == shape.columns % plan.block_columns == 0
