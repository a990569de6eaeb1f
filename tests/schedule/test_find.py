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
