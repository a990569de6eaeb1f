# SPDX-License-Identifier: Apache-2.0
"""rfactor, loop_partition and merge: values, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from heddle import target, te
from heddle.ir.expr import as_int
from heddle.passes.tir.lower import lower
from heddle.schedule import Schedule, ScheduleError
from heddle.schedule.compact import compact_buffers
from heddle.schedule.examples import chain, padded, product, row_sum
from heddle.support import UserError
from heddle.tir.interp import run
from heddle.tir.nodes import PrimFunc
from heddle.tir.verify import verify
from tests.schedule.kernels import check_same, inputs_of, matmul, output_of


def check(sch: Schedule, before: PrimFunc) -> None:
    verify(sch.func)
    check_same(before, sch.func)
    check_same(before, compact_buffers(sch.func))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("factors", [[None, 4], [None, 5], [5, 6], [3, 3, None]])
@pytest.mark.parametrize("which", [0, -1])
def test_rfactor(axis: int, factors: list[int | None], which: int) -> None:
    func = matmul(5, 6, 24)
    sch = Schedule(func)
    parts = sch.split(sch.get_loops("C")[2], factors)
    made = sch.rfactor("C", parts[which], axis=axis)
    extent = as_int(sch.loop(parts[which]).extent)
    shape = sch.block(made).writes[0].buffer.static_shape
    assert shape[axis] == extent
    check(sch, func)


def test_rfactor_then_vectorize_and_decompose() -> None:
    func = row_sum(6, 40)
    sch = Schedule(func)
    i, k = sch.get_loops("S")
    k_0, k_1 = sch.split(k, [None, 8])
    sch.rfactor("S", k_1)
    sch.parallel(i)
    sch.decompose_reduction("S_rf", k_0)
    sch.vectorize(k_1)
    check(sch, func)


def test_rfactor_of_a_maximum_with_a_tail() -> None:
    x = te.placeholder((4, 11), name="X")
    r = te.reduce_axis(11, "r")
    func = te.create_prim_func([x, te.compute((4,), lambda i: te.max(x[i, r], axis=r), name="M")])
    sch = Schedule(func)
    _, inner = sch.split(sch.get_loops("M")[1], [None, 4])
    sch.rfactor("M", inner)
    check(sch, func)


def test_rfactor_refuses() -> None:
    sch = Schedule(product(4, 6, 8))
    i, _, k = sch.get_loops("C")
    with pytest.raises(ScheduleError, match="loop `i` carries no reduction variable of block `C`"):
        sch.rfactor("C", i)
    with pytest.raises(ScheduleError, match=r"`axis` must lie in \[0, 2\]"):
        sch.rfactor("C", k, axis=3)
    sch.unroll(k)
    with pytest.raises(ScheduleError, match="loop `k` is unrolled; factor it before"):
        sch.rfactor("C", k)
    sch.serial(k)
    sch.decompose_reduction("C", k)
    with pytest.raises(ScheduleError, match="has no init"):
        sch.rfactor("C", k)


def test_rfactor_refuses_company_and_fused_loops() -> None:
    sch = Schedule(matmul(4, 6, 8, epilogue=True))
    _, j, k = sch.get_loops("C")
    fused = sch.fuse(j, k)
    with pytest.raises(ScheduleError, match="carries spatial and reduction variables of block `C`"):
        sch.rfactor("C", fused)
    sch = Schedule(chain())
    with pytest.raises(ScheduleError, match="block `C` has no init"):
        sch.rfactor("C", sch.get_loops("C")[0])


@pytest.mark.parametrize("factors", [[4, None], [None, 1], [1, 30, 1], [32]])
def test_loop_partition(factors: list[int | None]) -> None:
    func = chain()
    sch = Schedule(func)
    loops = sch.loop_partition(sch.get_loops("C")[0], factors)
    assert sum(as_int(sch.loop(loop).extent) for loop in loops) == 32
    check(sch, func)


def test_loop_partition_of_a_reduction_and_of_a_guarded_loop() -> None:
    func = matmul(5, 6, 10)
    sch = Schedule(func)
    i, _, k = sch.get_loops("C")
    sch.loop_partition(k, [3, None])
    assert sch.block("C_part").init is None
    i_0, _ = sch.split(i, [None, 2])
    sch.loop_partition(i_0, [2, None])
    assert as_int(sch.block("C").predicate) == 1
    assert as_int(sch.block("C_part_1").predicate) != 1
    check(sch, func)


def test_loop_partition_refuses() -> None:
    sch = Schedule(chain())
    (i,) = sch.get_loops("C")
    with pytest.raises(ScheduleError, match="have 34 iterations, they must have exactly its 32"):
        sch.loop_partition(i, [32, 2])
    with pytest.raises(ScheduleError, match="have 32 iterations, they must have fewer than its 32"):
        sch.loop_partition(i, [32, None])


def test_merge_of_nests() -> None:
    func = matmul(4, 6, 5, epilogue=True)
    sch = Schedule(func)
    i = sch.merge(sch.get_loops("C")[0], sch.get_loops("D")[0], sch.get_loops("E")[0])
    assert [block.name for block in sch.blocks_below(i)] == ["C", "D", "E"]
    check(sch, func)


def test_merge_refuses_what_meets_elsewhere() -> None:
    sch = Schedule(padded(8))
    p, _ = sch.loop_partition(sch.get_loops("P")[0], [2, None])
    with pytest.raises(ScheduleError, match="must follow one another directly"):
        sch.merge(p, sch.get_loops("C")[0])
    sch = Schedule(padded(8))
    c, _ = sch.loop_partition(sch.get_loops("C")[0], [7, None])
    _, p = sch.loop_partition(sch.get_loops("P")[0], [3, None])
    with pytest.raises(ScheduleError, match="meet in elements of `P` that belong to different"):
        sch.merge(p, c)


def test_lanes_of_several_sums_cannot_be_combined() -> None:
    sch = Schedule(product(4, 6, 8))
    _, j, k = sch.get_loops("C")
    fused = sch.fuse(j, k)
    sch.decompose_reduction("C", sch.get_loops("C")[0])
    with pytest.raises(ScheduleError, match="carries the reduction variable `vk` of block `C`"):
        sch.vectorize(fused)


def test_bind() -> None:
    func = product(4, 6, 8)
    sch = Schedule(func)
    i, j, k = sch.get_loops("C")
    sch.bind(i, "blockIdx.x")
    sch.bind(j, "threadIdx.x")
    check(sch, func)
    with pytest.raises(ScheduleError, match="loop `k` carries the reduction variable"):
        sch.bind(k, "threadIdx.y")
    with pytest.raises(ScheduleError, match=r"`thread` must be one of .*, got 'warp'"):
        sch.bind(k, "warp")
    with pytest.raises(ScheduleError, match=r"around loop `j` is bound to blockIdx.x already"):
        sch.bind(j, "blockIdx.x")
    with pytest.raises(UserError, match=r"is bound to blockIdx.x, and target"):
        lower(sch.func, target.native())


def test_lanes_under_a_predicate_that_they_share_load_nothing_outside() -> None:
    func = matmul(6, 10, 5, epilogue=True)
    sch = Schedule(func)
    i, j, _ = sch.get_loops("C")
    i = sch.merge(i, sch.get_loops("D")[0])
    i_0, _, _ = sch.split(i, [None, 3, 2])
    j_0, _, _ = sch.split(j, [None, 2, 2])
    sch.decompose_reduction("C", j_0)
    sch.split(i_0, [None, 5, 2])
    sch.vectorize(j_0)
    inputs = inputs_of(func)
    expected = output_of(func, inputs)
    out = np.full(expected.size, np.nan, np.float32)
    lowered = lower(compact_buffers(sch.func), target.native())
    run(lowered, *[array.ravel() for array in inputs], out)  # the interpreter checks every index
    # float32 sums of five terms of size 1.
    np.testing.assert_allclose(out, expected.ravel(), rtol=1e-5, atol=1e-5)
