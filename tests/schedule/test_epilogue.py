# SPDX-License-Identifier: Apache-2.0
"""fuse_reduction_epilogue and storage_align: values, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from heddle import target, te
from heddle.ir.expr import as_int, maximum
from heddle.passes.tir.align_storage import align_storage
from heddle.passes.tir.lower import lower
from heddle.schedule import Schedule, ScheduleError
from heddle.schedule.compact import compact_buffers
from heddle.schedule.examples import biased_product, product
from heddle.tir.build import collect
from heddle.tir.interp import run
from heddle.tir.nodes import Allocate
from tests.schedule.kernels import check_same, conv2d, inputs_of, matmul, output_of


def test_a_bias_is_the_start_of_a_sum() -> None:
    func = biased_product()
    sch = Schedule(func)
    sch.fuse_reduction_epilogue("C", "D")
    assert [block.name for block in sch.get_blocks()] == ["C"]
    assert not sch.func.body.alloc_buffers
    check_same(func, sch.func)
    sch.decompose_reduction("C", sch.get_loops("C")[2])
    check_same(func, sch.func)


def test_a_relu_is_the_start_of_a_maximum() -> None:
    x = te.placeholder((6, 9), name="X")
    r = te.reduce_axis(9, "r")
    m = te.compute((6,), lambda i: te.max(x[i, r], axis=r), name="M")
    func = te.create_prim_func(
        [x, te.compute((6,), lambda i: maximum(m[i], 0.5), name="R")], name="pooled"
    )
    sch = Schedule(func)
    sch.fuse_reduction_epilogue("M", "R")
    check_same(func, sch.func)


def test_refusals() -> None:
    sch = Schedule(matmul(4, 6, 5, epilogue=True))
    sch.fuse_reduction_epilogue("C", "D")
    with pytest.raises(ScheduleError, match=r"must store `D\[...\] \+ something`"):
        sch.fuse_reduction_epilogue("C", "E")
    sch = Schedule(conv2d())
    with pytest.raises(ScheduleError, match=r"must store `Y\[...\] \+ something`"):
        sch.fuse_reduction_epilogue("Y", "Z")
    sch = Schedule(product())
    with pytest.raises(ScheduleError, match="block `C` is a reduction; only element-wise"):
        sch.fuse_reduction_epilogue("C", "C")


def test_rows_are_aligned() -> None:
    func = matmul(8, 20, 6, epilogue=True)
    sch = Schedule(func)
    sch.storage_align("C", 0, 0, 16, 4)
    i = sch.get_loops("E")[0]
    i_0, _ = sch.split(i, [None, 4])
    sch.compute_inline("D")
    sch.compute_at("C", i_0)
    aligned = align_storage(compact_buffers(sch.func))
    (found,) = collect(aligned, Allocate)
    assert [as_int(step) for step in found.buffer.strides] == [20, 1]
    sch.storage_align("C", 0, 0, 16, 0)
    aligned = align_storage(compact_buffers(sch.func))
    (found,) = collect(aligned, Allocate)
    assert [as_int(step) for step in found.buffer.strides] == [32, 1]
    inputs = inputs_of(func)
    expected = output_of(func, inputs)
    out = np.full(expected.size, np.nan, np.float32)
    lowered = lower(sch.func, target.native())
    run(lowered, *[np.ascontiguousarray(array).ravel() for array in inputs], out)
    # float32 sums of six terms of size 1.
    np.testing.assert_allclose(out, expected.ravel(), rtol=1e-5, atol=1e-5)


def test_storage_align_refuses() -> None:
    sch = Schedule(matmul(8, 20, 6, epilogue=True))
    with pytest.raises(ScheduleError, match=r"before its last, in \[0, 1\), got 1"):
        sch.storage_align("C", 0, 1, 16, 0)
    with pytest.raises(ScheduleError, match="`factor` must be positive and `offset` in"):
        sch.storage_align("C", 0, 0, 4, 4)
    with pytest.raises(ScheduleError, match="a parameter of the function: its layout is given"):
        sch.storage_align("E", 0, 0, 16, 0)
