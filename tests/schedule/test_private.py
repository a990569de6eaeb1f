# SPDX-License-Identifier: Apache-2.0
"""Parts of a loop get buffers of their own only where nothing passes between iterations."""

from __future__ import annotations

import pytest

from heddle.schedule import Schedule
from heddle.script import parse
from heddle.tir.nodes import PrimFunc
from tests.schedule.kernels import chain, check_same, softmax

LATE = """
@T.prim_func
def late(A: T.Buffer((12,), "float32"), C: T.Buffer((12,), "float32")):
    B = T.alloc_buffer((13,), "float32")
    for i in T.serial(12):
        with T.block("B"):
            vi = T.axis.spatial(12, i)
            T.reads(A[vi])
            T.writes(B[vi])
            B[vi] = A[vi] * 3.0
        with T.block("C"):
            vi = T.axis.spatial(12, i)
            T.reads(B[vi - 1])
            T.writes(C[vi])
            C[vi] = T.if_then_else(vi >= 1, B[vi - 1], 0.0)
"""
"""An iteration reads what the one before wrote."""

EARLY = LATE.replace("B[vi - 1]", "B[vi]").replace("vi >= 1", "vi >= 0")
"""An iteration reads what it wrote itself."""


def _names(sch: Schedule) -> list[str]:
    return [buffer.name for buffer in sch.state.root.alloc_buffers]


def _function(text: str) -> PrimFunc:
    func = parse(text)
    assert isinstance(func, PrimFunc)
    return func


@pytest.mark.parametrize(("text", "buffers"), [(LATE, ["B"]), (EARLY, ["B", "B_part1"])])
def test_partition_shares_what_passes_between_iterations(text: str, buffers: list[str]) -> None:
    func = _function(text)
    sch = Schedule(func)
    sch.loop_partition(sch.get_loops("C")[0], [5, None])
    assert _names(sch) == buffers
    check_same(func, sch.func)


@pytest.mark.parametrize(("text", "buffers"), [(LATE, ["B"]), (EARLY, ["B", "B_tail"])])
def test_peeled_tail_shares_what_passes_between_iterations(text: str, buffers: list[str]) -> None:
    func = _function(text)
    sch = Schedule(func)
    sch.split(sch.get_loops("C")[0], [None, 5], tail="peel")
    assert _names(sch) == buffers
    check_same(func, sch.func)


def test_predicated_tiles_stay_private() -> None:
    """A predicate that keeps a tile within the domain leaves nothing to earlier iterations."""
    func = chain(30)
    sch = Schedule(func)
    outer, _ = sch.split(sch.get_loops("C")[0], [None, 8])
    sch.compute_at("B", outer)
    sch.loop_partition(outer, [2, None])
    assert _names(sch) == ["B", "B_part1"]
    check_same(func, sch.func)


def test_reductions_within_an_iteration_stay_private() -> None:
    func = softmax(5, 9)
    sch = Schedule(func)
    rows = sch.get_loops("O")[0]
    for block in ("S", "E", "M"):
        sch.compute_at(block, rows)
    sch.split(rows, [None, 2], tail="peel")
    assert _names(sch) == ["M", "E", "S", "M_tail", "E_tail", "S_tail"]
    check_same(func, sch.func)
