# SPDX-License-Identifier: Apache-2.0
"""Schedule.find: by name, pattern and source text."""

from __future__ import annotations

import pytest

from heddle.schedule import BlockRef, Schedule, ScheduleError
from heddle.schedule.examples import biased_product, chain, product


def test_by_name_pattern_and_source() -> None:
    sch = Schedule(product())
    i, j, k = sch.get_loops("C")
    assert sch.find("C") == BlockRef("C")
    assert sch.find("for j in") == j
    assert sch.find("for k in range(24):") == k
    assert sch.find("i") == i
    assert sch.find("C[vi, vj] = 0.0") == BlockRef("C")
    assert sch.find("A[vi, vk] * B[vk, vj]") == BlockRef("C")
    sch.split(j, [None, 8])
    assert sch.find("j_*", all=True) == sch.get_loops("C")[1:3]
    assert sch.find("for j_? in range(8)") == sch.get_loops("C")[2]
    sch.vectorize(sch.find("j_1"))
    assert sch.find("for j_1 in vectorized(8)").name == "j_1"


def test_nothing_or_several() -> None:
    sch = Schedule(chain())
    with pytest.raises(ScheduleError, match="it matches nothing"):
        sch.find("for z in")
    with pytest.raises(ScheduleError, match="it matches loop `i`, loop `i`"):
        sch.find("for i in")
    assert sch.find("Z*", all=True) == []
    sch = Schedule(biased_product())
    assert sch.find("bias[vj]") == BlockRef("D")


def test_patterns_of_names() -> None:
    sch = Schedule(biased_product())
    assert sch.find("[CD]", all=True) == []  # text with brackets is source
    assert sch.find("?", all=True) == [
        *sch.get_loops("C"),
        BlockRef("C"),
        *sch.get_loops("D"),
        BlockRef("D"),
    ]
    assert sch.find("for k*") == sch.get_loops("C")[2]


def test_source_of_every_kind_of_loop() -> None:
    sch = Schedule(product())
    i, j, k = sch.get_loops("C")
    sch.parallel(i)
    sch.unroll(k)
    assert sch.find("for i in parallel(16):") == sch.find("for i in T.parallel(16)") == i
    assert sch.find("for ? in unrolled(24)") == k
    assert sch.find("for j in range(32)") == sch.find("for  j  in  T.serial(32):") == j
    assert sch.find("for j in range(33)", all=True) == []


def test_handles_survive_what_happens_to_others() -> None:
    """A handle names its loop or block until a primitive consumes that very one."""
    sch = Schedule(biased_product())
    block = sch.find("A[vi, vk] * B[vk, vj]")
    i, j, k = sch.get_loops("C")
    row = sch.get_loops("D")[0]
    j_0, j_1 = sch.split(j, [None, 8])
    sch.reorder(j_0, i, k, j_1)
    sch.cache_read("C", 0, "local")
    sch.reverse_compute_at("D", i)
    assert sch.get_loops(block) == [j_0, i, k, j_1]
    sch.decompose_reduction(block, k)
    sch.vectorize(j_1)
    sch.parallel(j_0)
    assert sch.find("for i in") == i
    assert [sch.loop(loop).extent.value for loop in (j_0, i, k, j_1)] == [4, 16, 24, 8]
    assert sch.block(block).name == "C"
    with pytest.raises(ScheduleError, match="loop `j` does not exist: `split` consumed it"):
        sch.unroll(j)
    with pytest.raises(ScheduleError, match="loop `i` does not exist: it is not a loop of this"):
        sch.unroll(row)
    sch.annotate(k, "note", 1)
    assert sch.loop(k).annotations == {"note": 1}
