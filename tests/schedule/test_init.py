# SPDX-License-Identifier: Apache-2.0
"""Reductions whose `init` is more than a neutral element, or whose loops were fused."""

from __future__ import annotations

import pytest

from heddle.schedule import Schedule, ScheduleError
from heddle.schedule.examples import biased_product
from tests.schedule.kernels import KERNELS, check_same, matmul


@pytest.mark.parametrize("factors", [[None, 4], [None, 5]])
def test_rfactor_adds_a_fused_bias_once(factors: list[int | None]) -> None:
    func = biased_product(4, 6, 8)
    sch = Schedule(func)
    sch.fuse_reduction_epilogue("C", "D")
    _, _, k = sch.get_loops("C")
    _, k_1 = sch.split(k, factors)
    sch.rfactor("C", k_1)
    assert [r.buffer.name for r in sch.block("C").reads] == ["bias", "D_rf"]
    check_same(func, sch.func)


def _fused(sch: Schedule) -> list:
    fused = sch.fuse(*sch.get_loops("C"))
    return sch.split(fused, [None, 5])


def test_fused_reductions_keep_their_order() -> None:
    sch = Schedule(matmul(3, 4, 7))
    first, last = _fused(sch)
    with pytest.raises(ScheduleError, match="might not begin with their `init`"):
        sch.reorder(last, first)


def test_fused_reductions_without_init_are_reordered() -> None:
    func = matmul(3, 4, 7)
    sch = Schedule(func)
    sch.decompose_reduction("C", sch.get_loops("C")[0])
    first, last = _fused(sch)
    sch.reorder(last, first)
    check_same(func, sch.func)


def test_other_iterations_need_loops_that_hold_nothing_else() -> None:
    func = matmul(6, 4, 7)
    sch = Schedule(func)
    sch.pad_einsum("C", [4, 1, 1])
    sch.decompose_padding("A_pad", sch.get_loops("A_pad")[1])
    with pytest.raises(ScheduleError, match="`A_pad_pad` is not alone in its loops"):
        sch.transform_block_layout("A_pad_pad", "lambda i, k: (k, i)")
    check_same(func, sch.func)


def test_a_consumer_of_two_parts_waits_for_neither_alone() -> None:
    func = KERNELS["conv2d"]()
    sch = Schedule(func)
    copy = sch.reindex("P", "write", 0)
    _, v, c = sch.get_loops("P")
    sch.decompose_padding("P", c)
    sch.reverse_compute_at(copy, v)
    check_same(func, sch.func)


def test_the_edge_of_a_padded_copy_is_not_lost() -> None:
    sch = Schedule(KERNELS["conv2d"]())
    sch.cache_read("P", 0, "local")
    loop = sch.get_loops("X_local")[-1]
    with pytest.raises(ScheduleError, match=r"would run over \[1, 8\) instead of \[0, 9\)"):
        sch.reverse_compute_at("P", loop)


def test_an_init_stays_behind_what_it_reads() -> None:
    func = biased_product(4, 6, 8)
    sch = Schedule(func)
    sch.fuse_reduction_epilogue("C", "D")
    copy = sch.cache_read("C", 0, "local")
    i, j, _ = sch.get_loops("C")
    sch.compute_at(copy, i)
    with pytest.raises(
        ScheduleError, match=r"reads `\w+_local`, which block `\w+_local` writes inside loop `i`"
    ):
        sch.decompose_reduction("C", i)
    sch.decompose_reduction("C", j)
    check_same(func, sch.func)
