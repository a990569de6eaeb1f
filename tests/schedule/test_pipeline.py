# SPDX-License-Identifier: Apache-2.0
"""software_pipeline and double_buffer: values after lowering, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from heddle import target
from heddle.ir.expr import Var
from heddle.passes.tir.lower import lower
from heddle.passes.tir.lower_blocks import lower_blocks
from heddle.schedule import Schedule, ScheduleError
from heddle.schedule.compact import compact_buffers
from heddle.schedule.examples import chain, product
from heddle.schedule.pipeline import inject_software_pipeline
from heddle.tir.build import collect
from heddle.tir.interp import run
from heddle.tir.nodes import Allocate, PrimFunc
from heddle.tir.verify import verify
from tests.schedule.kernels import check_same, inputs_of, output_of


def check(sch: Schedule, before: PrimFunc) -> None:
    """The pipeline alone, and the whole lowering, compute what `before` does."""
    staged = inject_software_pipeline(lower_blocks(compact_buffers(sch.func)))
    verify(staged)
    check_same(before, staged)
    inputs = inputs_of(before)
    expected = output_of(before, inputs)
    out = np.full(expected.size, np.nan, np.float32)
    lowered = lower(sch.func, target.native())
    verify(lowered)
    run(lowered, *[np.ascontiguousarray(array).ravel() for array in inputs], out)
    # float32 sums of a few dozen terms of size 1: reordering costs some 1e-6.
    np.testing.assert_allclose(out, expected.ravel(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stages", [[0, 1], [0, 2], [0, 0]])
def test_a_chain_in_stages(stages: list[int]) -> None:
    func = chain()
    sch = Schedule(func)
    i_0, i_1 = sch.split(sch.get_loops("C")[0], [None, 8])
    sch.compute_at("B", i_0)
    sch.vectorize(i_1)
    sch.software_pipeline(i_0, stages)
    staged = inject_software_pipeline(lower_blocks(compact_buffers(sch.func)))
    (found,) = collect(staged, Allocate)
    assert found.buffer.static_shape == (stages[1] + 1, 8)
    check(sch, func)


def test_double_buffer_of_a_panel() -> None:
    func = product(8, 16, 12)
    sch = Schedule(func)
    sch.cache_read("C", 1, "local")
    i, j, k = sch.get_loops("C")
    k_0, k_1 = sch.split(k, [None, 4])
    sch.reorder(k_0, i, j, k_1)
    sch.decompose_reduction("C", k_0)
    sch.compute_at("B_local", k_0)
    sch.storage_align("B_local", 0, 0, 8, 4)
    sch.double_buffer("B_local", k_0)
    check(sch, func)


def test_symbolic_extent() -> None:
    func = chain(Var("n"))
    sch = Schedule(func)
    i_0, _ = sch.split(sch.get_loops("C")[0], [None, 4])
    sch.compute_at("B", i_0)
    sch.software_pipeline(i_0, [0, 1])
    staged = inject_software_pipeline(lower_blocks(compact_buffers(sch.func)))
    for size in (1, 4, 11):
        check_same(func, staged, n=size)


def test_refusals() -> None:
    sch = Schedule(chain())
    i_0, i_1 = sch.split(sch.get_loops("C")[0], [None, 8])
    sch.compute_at("B", i_0)
    with pytest.raises(ScheduleError, match="the body has 2 statements, there are 3 stages"):
        sch.software_pipeline(i_0, [0, 1, 2])
    with pytest.raises(ScheduleError, match=r"must not be negative and begin at 0, got \[1, 2\]"):
        sch.software_pipeline(i_0, [1, 2])
    with pytest.raises(ScheduleError, match="statement 1 uses `B` of statement 0, and would run"):
        sch.software_pipeline(i_0, [1, 0])
    with pytest.raises(ScheduleError, match="must lie in one of several statements of loop `i_1`"):
        sch.double_buffer("C", i_1)
    sch.parallel(i_0)
    with pytest.raises(ScheduleError, match="loop `i_0` is parallel; only serial loops"):
        sch.software_pipeline(i_0, [0, 1])
    sch = Schedule(product(4, 6, 8))
    k = sch.get_loops("C")[2]
    sch.decompose_reduction("C", k)
    j = sch.get_loops("C")[1]
    with pytest.raises(ScheduleError, match="share `C`, which carries values from one iteration"):
        sch.software_pipeline(j, [0, 1])
