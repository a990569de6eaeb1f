# SPDX-License-Identifier: Apache-2.0
"""Sums that take a part of their steps only stay in the loops that say which."""

from __future__ import annotations

import pytest

from heddle.schedule import Schedule, ScheduleError
from heddle.script import parse
from heddle.tir.nodes import PrimFunc
from tests.schedule.kernels import check_same, matmul

TEXT = """
@T.prim_func
def sums(A: T.Buffer((8, 8), "float32"), C: T.Buffer((8,), "float32")):
    P = T.alloc_buffer((8, 8), "float32")
    S = T.alloc_buffer((8,), "float32")
    for i, k in T.grid(8, 8):
        with T.block("P"):
            vi, vk = T.axis.remap("SS", [i, k])
            P[vi, vk] = A[vi, vk] + 1.0
    for i in T.serial(8):
        for k in T.serial({extent}):
            with T.block("S"):
                vi = T.axis.spatial(8, i)
                vk = T.axis.reduce(8, k)
                T.where({where})
                with T.init():
                    S[vi] = 0.0
                S[vi] = S[vi] + P[vi, vk]
    for i in T.serial(8):
        with T.block("C"):
            vi = T.axis.spatial(8, i)
            C[vi] = S[vi] * 0.5
"""


def sums(extent: str = "8", where: str = "k < 8") -> PrimFunc:
    """Halves of the row sums of `A + 1`."""
    return parse(TEXT.format(extent=extent, where=where))


BOUNDS = r"`vk` of block `S` is bound to `k`, which may not run over all of \[0, 8\)"
WHERE = "takes the steps of its reduction only where `k <= i`"


@pytest.mark.parametrize(
    "func, message", [(sums(extent="i + 1"), BOUNDS), (sums(where="k <= i"), WHERE)]
)
@pytest.mark.parametrize("name, to", [("compute_at", "C"), ("reverse_compute_at", "P")])
def test_a_part_of_the_steps_is_not_moved(func: PrimFunc, message: str, name: str, to: str) -> None:
    sch = Schedule(func)
    with pytest.raises(ScheduleError, match=f"{name}: .*{message}"):
        getattr(sch, name)("S", sch.get_loops(to)[0])
    assert sch.func is func


@pytest.mark.parametrize("factors", [[None, 3], [2, None]])
def test_all_steps_are_moved_however_they_are_split(factors: list[int | None]) -> None:
    func = matmul(4, 6, 7, epilogue=True)
    sch = Schedule(func)
    _, j, k = sch.get_loops("C")
    sch.split(sch.fuse(j, k), factors)
    sch.compute_at("C", sch.get_loops("D")[0])
    check_same(func, sch.func)


def test_a_predicate_that_leaves_nothing_out_does_not_matter() -> None:
    func = sums(where="k < 8")
    sch = Schedule(func)
    sch.compute_at("S", sch.get_loops("C")[0])
    check_same(func, sch.func)
