# SPDX-License-Identifier: Apache-2.0
"""Output channels of one group are rows of a register tile."""

from __future__ import annotations

import numpy as np
import pytest

from heddle import te
from heddle.schedule import BlockRef, Schedule
from heddle.schedule.rules import default_schedule
from heddle.schedule.rules.group_rows import split_groups
from heddle.schedule.sketch import sketch
from heddle.target import parse
from heddle.tir.nodes import PrimFunc
from tests.schedule.kernels import check_same

WIDE = parse("llvm -mcpu=skylake-avx512 -cores=2")


def grouped(groups: int, outputs: int, inputs: int, taps: int, columns: int) -> PrimFunc:
    """Lines of `columns` positions, in each group from `inputs` to `outputs` channels."""
    x = te.placeholder((groups * inputs, columns + taps - 1), name="X")
    w = te.placeholder((groups * outputs, inputs, taps), name="W")
    c, k = te.reduce_axis(inputs, "c"), te.reduce_axis(taps, "k")
    y = te.compute(
        (groups * outputs, columns),
        lambda o, v: te.sum(x[o // outputs * inputs + c, v + k] * w[o, c, k], axis=[c, k]),
        name="Y",
    )
    return te.create_prim_func([x, w, y])


def with_copy(func: PrimFunc) -> tuple[Schedule, BlockRef, BlockRef]:
    """A schedule whose contraction writes a buffer that a second block copies."""
    sch = Schedule(func)
    (block,) = sch.get_blocks()
    return sch, block, sch.cache_write(block, 0, "local")


def test_channels_of_a_group_are_an_axis() -> None:
    func = grouped(4, 3, 2, 5, 40)
    sch, block, copy = with_copy(func)
    split_groups(sch, block, copy)
    assert sketch(sch.func) == (
        'Y_local = alloc((4, 3, 40), scope="local")\n'
        "for ax0, ax1, v, c, k in grid(4, 3, 40, 2, 5):\n"
        "    with init: Y_local[ax0, ax1, v] = 0.0  # Y\n"
        "    Y_local[ax0, ax1, v] = Y_local[ax0, ax1, v]"
        " + X[ax0 * 2 + c, v + k] * W[ax0 * 3 + ax1, c, k]\n"
        "for ax0_1, ax1_1, ax1 in grid(4, 3, 40):\n"
        "    Y[ax0_1 * 3 + ax1_1, ax1] = Y_local[ax0_1, ax1_1, ax1]  # Y_write"
    )
    check_same(func, sch.func)


def test_a_group_of_one_channel_has_no_rows() -> None:
    sch, block, copy = with_copy(grouped(6, 1, 2, 5, 40))
    before = sch.func
    split_groups(sch, block, copy)
    assert sch.func is before


def test_rows_share_a_register_tile() -> None:
    text = sketch(default_schedule(grouped(4, 3, 2, 5, 400), WIDE).func)
    assert "in unrolled(3):" in text


def test_a_tile_writes_no_channel_of_the_next_group() -> None:
    """Nineteen rows are no whole tiles: what is left over of the last one must not be stored."""
    text = sketch(default_schedule(grouped(2, 19, 18, 3, 40), WIDE).func)
    guards = [line for line in text.splitlines() if line.strip().startswith("if ")]
    assert guards
    assert not any("< 38" in guard for guard in guards)


@pytest.mark.parametrize("seed", range(10))
def test_random_groups(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups, outputs, inputs, taps = (int(n) for n in rng.integers(1, (6, 24, 5, 6)))
    func = grouped(groups, outputs, inputs, taps, int(rng.integers(2, 90)))
    check_same(func, default_schedule(func, WIDE).func)
