# SPDX-License-Identifier: Apache-2.0
"""cache_index: index arithmetic is looked up, values stay."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

import heddle
from heddle import te
from heddle.ir import first_mismatch
from heddle.ir.expr import Var
from heddle.schedule import BlockRef, Schedule, ScheduleError, Trace, replay
from heddle.schedule.compact import compact_buffers
from heddle.schedule.examples import chain, resized, windows
from heddle.script import parse, to_text
from heddle.tir.nodes import PrimFunc
from heddle.tir.verify import verify
from tests.schedule.kernels import check_same, conv2d, inputs_of, output_of


def twice() -> PrimFunc:
    """`C[i, j] = A[i * 5 % 8 + j] + A[i * 5 % 8 + j * 2]`"""
    a = te.placeholder((20,), name="A")
    c = te.compute((8, 6), lambda i, j: a[i * 5 % 8 + j] + a[i * 5 % 8 + j * 2], name="C")
    return te.create_prim_func([a, c])


def by_a_size() -> PrimFunc:
    """The divisor of an index is a size that may be 0."""
    n = Var("n")
    a = te.placeholder((n,), name="A")
    c = te.compute((n,), lambda i: a[i // n], name="C")
    return te.create_prim_func([a, c])


def check(sch: Schedule, before: PrimFunc) -> None:
    verify(sch.func)
    check_same(before, sch.func)
    check_same(before, compact_buffers(sch.func))
    assert first_mismatch(parse(to_text(sch.func)), sch.func, map_free_vars=True) is None
    again = replay(Trace.from_json(sch.trace.to_json()), before)
    assert first_mismatch(again.func, sch.func, map_free_vars=True) is None


def test_whole_indices() -> None:
    func = twice()
    sch = Schedule(func)
    assert sch.cache_index("C", "global") == [BlockRef("C_index"), BlockRef("C_index_1")]
    assert "C[vi, vj] = A[C_index[vi, vj]] + A[C_index_1[vi, vj]]" in to_text(sch.func)
    check(sch, func)


def test_repeated_parts() -> None:
    func = twice()
    sch = Schedule(func)
    assert sch.cache_index("C", "local", repeats=2) == [BlockRef("C_index")]
    assert sch.block("C_index").writes[0].buffer.static_shape == (8,)
    assert "A[C_index[vi] + vj] + A[C_index[vi] + vj * 2]" in to_text(sch.func)
    check(sch, func)


def test_moves_and_inlines_like_any_block() -> None:
    func = conv2d()
    sch = Schedule(func)
    rows, columns = sch.cache_index("Y", "local")
    h, v, *_ = sch.get_loops("Y")
    sch.compute_at(rows, h)
    sch.compute_at(columns, v)
    sch.compute_at("P", h)  # the regions still tell which rows are needed
    assert len(sch.get_loops("P")) == 4
    check(sch, func)
    sch.compute_inline(rows)
    sch.decompose_reduction("Y", sch.get_loops("Y")[3])
    check(sch, func)


@pytest.mark.parametrize("target", ["native", "c"])
def test_compiled(target: str) -> None:
    func = twice()
    sch = Schedule(func)
    sch.cache_index("C", "global", repeats=1)
    sch.vectorize(sch.get_loops("C")[1])
    inputs = inputs_of(func)
    out = np.full((8, 6), np.nan, np.float32)
    heddle.build(sch.func, target)(*inputs, out)
    np.testing.assert_array_equal(out, output_of(func, inputs))


def blockized(sch: Schedule) -> None:
    sch.blockize(sch.get_loops("C")[1])
    sch.cache_index("C_o", "global")


CASES: dict[str, tuple[Callable[[], PrimFunc], Callable[[Schedule], object], str]] = {
    "plain": (
        chain,
        lambda s: s.cache_index("C", "global"),
        (
            "cache_index: block `C` computes nothing in its indices that could be looked up: that "
            "takes a product, quotient, remainder or sum of its iteration variables"
        ),
    ),
    "not so often": (
        windows,
        lambda s: s.cache_index("C", "global", repeats=2),
        "cache_index: block `C` computes nothing 2 times in its indices",
    ),
    "division by 0": (
        by_a_size,
        lambda s: s.cache_index("C", "global"),
        "cache_index: block `C` computes nothing in its indices",
    ),
    "scope": (
        resized,
        lambda s: s.cache_index("C", "shared"),
        "cache_index: `scope` must be one of ['global', 'local'], got \"shared\"",
    ),
    "repeats": (
        resized,
        lambda s: s.cache_index("C", "global", repeats=0),
        "cache_index: `repeats` must be positive, got 0",
    ),
    "loops inside": (
        resized,
        blockized,
        "cache_index: block `C_o` accesses buffers in loops of its own",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str) -> None:
    build, act, message = CASES[case]
    sch = Schedule(build())
    with pytest.raises(ScheduleError, match="^" + re.escape(message)):
        act(sch)
