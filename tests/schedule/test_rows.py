# SPDX-License-Identifier: Apache-2.0
"""Neighbouring row axes of a contraction become one axis, whatever their lengths."""

from __future__ import annotations

import pytest

from heddle import te
from heddle.schedule import Schedule
from heddle.schedule.rules.rows import flatten_rows
from heddle.schedule.sketch import sketch
from heddle.tir.nodes import PrimFunc
from tests.schedule.kernels import check_same


def pointwise(height: int, width: int, *, step: int = 1) -> PrimFunc:
    """A 1x1 convolution and a bias over `height` x `width` positions, `step` apart in the input."""
    a = te.placeholder((height * step, width * step, 3), name="A")
    b = te.placeholder((3, 4), name="B")
    bias = te.placeholder((4,), name="bias")
    r = te.reduce_axis(3, "c")
    y = te.compute(
        (height, width, 4),
        lambda h, w, k: te.sum(a[h * step, w * step, r] * b[r, k], axis=r),
        name="Y",
    )
    z = te.compute((height, width, 4), lambda h, w, k: y[h, w, k] + bias[k], name="Z")
    return te.create_prim_func([a, b, bias, z])


def test_lines_of_an_image_become_one_axis() -> None:
    func = pointwise(5, 7)
    sch = Schedule(func)
    flatten_rows(sch, *sch.get_blocks())
    assert sketch(sch.func) == (
        "Y = alloc((35, 4))\n"
        "for ax0, k, c in grid(35, 4, 3):\n"
        "    with init: Y[ax0, k] = 0.0\n"
        "    Y[ax0, k] = Y[ax0, k] + A[ax0 // 7, ax0 % 7, c] * B[c, k]\n"
        "for ax0, k in grid(35, 4):\n"
        "    Z[ax0 // 7, ax0 % 7, k] = Y[ax0, k] + bias[k]"
    )
    check_same(func, sch.func)


@pytest.mark.parametrize("func", [pointwise(5, 7, step=2), pointwise(1, 7)])
def test_rows_that_do_not_follow_one_another_stay(func: PrimFunc) -> None:
    sch = Schedule(func)
    flatten_rows(sch, *sch.get_blocks())
    assert sch.func is func
