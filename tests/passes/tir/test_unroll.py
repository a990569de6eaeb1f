# SPDX-License-Identifier: Apache-2.0
"""Which loops become copies of their body."""

from __future__ import annotations

from heddle.ir.walk import pre_order
from heddle.passes.tir import lower
from heddle.schedule import Schedule
from heddle.target import parse
from heddle.tir.nodes import For, ForKind, PrimFunc
from tests.schedule.kernels import matmul
from tests.schedule.test_random import random_schedule

TARGET = parse("llvm -mcpu=haswell")


def _unrolled(func: PrimFunc) -> list[str]:
    loops = [n for n in pre_order(lower(func, TARGET).body) if isinstance(n, For)]
    return [n.var.name for n in loops if n.kind is ForKind.UNROLLED]


def test_nested_copies_have_a_limit() -> None:
    """16 x 16 x 16 steps are 4096 copies, and 32 x 16 x 16 would be 8192: the outermost stays a
    loop."""
    for rows, expected in ((16, ["i", "j", "k"]), (32, ["j", "k"])):
        sch = Schedule(matmul(rows, 16, 16))
        sch.decompose_reduction("C", sch.get_loops("C")[0])
        i, j, k = sch.get_loops("C")
        for loop in (i, j, k):
            sch.unroll(loop)
        assert _unrolled(sch.func) == expected


def test_loops_over_a_local_buffer_are_not_copied_without_end() -> None:
    """Registers are worth 24 copies of two hundred stores and loops to nobody."""
    assert "ax0_ax2_fused" not in _unrolled(random_schedule("depthwise", 5124).func)
