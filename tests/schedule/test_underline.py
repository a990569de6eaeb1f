# SPDX-License-Identifier: Apache-2.0
"""The text of a refused primitive: the script, the loop or block at fault underlined."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from heddle.schedule import Schedule, ScheduleError
from heddle.tir.nodes import PrimFunc
from tests.schedule.kernels import chain, matmul

OUTSIDE = """\
compute_at: block `C` reads `B` outside loop `i`; choose a loop around all consumers

The function at this point:
@T.prim_func
def chain(A: T.Buffer((24,), "float32"), C: T.Buffer((24,), "float32")):
    B = T.alloc_buffer((24,), "float32")
    for i in T.serial(24):
        with T.block("B"):
            vi = T.axis.spatial(24, i)
            T.reads(A[vi])
            T.writes(B[vi])
            B[vi] = A[vi] + 1.0
    for i in T.serial(24):
        with T.block("C"):
        ^^^^^^^^^^^^^^^^^
            vi = T.axis.spatial(24, i)
            T.reads(B[vi])
            T.writes(C[vi])
            C[vi] = B[vi] * 2.0"""

FACTORS = """\
split: factors [2, 3] of loop `i` cover 6 iterations of 24; make one factor None

The function at this point:
@T.prim_func
def chain(A: T.Buffer((24,), "float32"), C: T.Buffer((24,), "float32")):
    B = T.alloc_buffer((24,), "float32")
    for i in T.serial(24):
        with T.block("B"):
            vi = T.axis.spatial(24, i)
            T.reads(A[vi])
            T.writes(B[vi])
            B[vi] = A[vi] + 1.0
    for i in T.serial(24):
    ^^^^^^^^^^^^^^^^^^^^^
        with T.block("C"):
            vi = T.axis.spatial(24, i)
            T.reads(B[vi])
            T.writes(C[vi])
            C[vi] = B[vi] * 2.0"""

SUMS = """\
parallel: loop `k` carries the reduction variable `vk` of block `C`: its iterations update the \
same elements of `C`; only loops of spatial variables can be run in parallel

The function at this point:
@T.prim_func
def matmul(
    A: T.Buffer((3, 5), "float32"),
    B: T.Buffer((5, 4), "float32"),
    C: T.Buffer((3, 4), "float32"),
):
    for i, j, k in T.grid(3, 4, 5):
              ^
        with T.block("C"):
        ^^^^^^^^^^^^^^^^^
            vi = T.axis.spatial(3, i)
            vj = T.axis.spatial(4, j)
            vk = T.axis.reduce(5, k)
            T.reads(A[vi, vk], B[vk, vj])
            T.writes(C[vi, vj])
            with T.init():
                C[vi, vj] = 0.0
            C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]"""

INDEX = """\
cache_read: block `C` reads 1 buffers ['B']: index 1 does not exist

The function at this point:
@T.prim_func
def chain(A: T.Buffer((24,), "float32"), C: T.Buffer((24,), "float32")):
    B = T.alloc_buffer((24,), "float32")
    for i in T.serial(24):
        with T.block("B"):
            vi = T.axis.spatial(24, i)
            T.reads(A[vi])
            T.writes(B[vi])
            B[vi] = A[vi] + 1.0
    for i in T.serial(24):
        with T.block("C"):
        ^^^^^^^^^^^^^^^^^
            vi = T.axis.spatial(24, i)
            T.reads(B[vi])
            T.writes(C[vi])
            C[vi] = B[vi] * 2.0"""

CASES: dict[str, tuple[Callable[[], PrimFunc], Callable[[Schedule], object]]] = {
    OUTSIDE: (chain, lambda s: s.compute_at("B", s.get_loops("B")[0])),
    FACTORS: (chain, lambda s: s.split(s.get_loops("C")[0], [2, 3])),
    SUMS: (lambda: matmul(3, 4, 5), lambda s: s.parallel(s.get_loops("C")[2])),
    INDEX: (chain, lambda s: s.cache_read("C", 1, "local")),
}


@pytest.mark.parametrize("text", CASES, ids=["outside", "factors", "sums", "index"])
def test_the_culprit_is_underlined(text: str) -> None:
    make, act = CASES[text]
    with pytest.raises(ScheduleError) as caught:
        act(Schedule(make()))
    assert str(caught.value) == text


def test_an_error_half_way_shows_the_function_as_it_was() -> None:
    """compute_at takes the block out before it looks where to put it."""
    sch = Schedule(matmul(4, 6, 5, epilogue=True))
    sch.vectorize(sch.get_loops("E")[1])
    with pytest.raises(ScheduleError, match="is vectorized") as caught:
        sch.compute_at("D", sch.get_loops("E")[1])
    assert caught.value.func is sch.func
    assert 'with T.block("D")' in str(caught.value)
    marked = str(caught.value).splitlines()
    line = next(n for n, text in enumerate(marked) if set(text.strip()) == {"^"})
    assert "T.vectorized(6)" in marked[line - 1]
