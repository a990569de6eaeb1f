# SPDX-License-Identifier: Apache-2.0
"""Primitives about where data is: prefetch and cache_inplace."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from heddle import target
from heddle.ir.expr import Call
from heddle.ir.walk import pre_order
from heddle.passes.tir.lower import lower
from heddle.schedule import Schedule, ScheduleError, Trace, replay
from heddle.schedule.compact import compact_buffers
from heddle.schedule.rules import default_schedule
from heddle.script import to_text
from heddle.tir.interp import run
from heddle.tir.nodes import For, PrimFunc
from tests.schedule.kernels import chain, check_same, inputs_of, matmul, output_of


def panels() -> Schedule:
    """A product whose tasks are panels of B."""
    sch = Schedule(matmul(6, 32, 24))
    i, j, k = sch.get_loops("C")
    j_0, j_1 = sch.split(j, [None, 16])
    sch.reorder(j_0, i, k, j_1)
    sch.parallel(j_0)
    return sch


def check_lowered(lowered: PrimFunc) -> None:
    """The lowered form of `panels` computes the product."""
    func = matmul(6, 32, 24)
    inputs = inputs_of(func)
    expected = output_of(func, inputs)
    out = np.full(expected.size, np.nan, np.float32)
    run(lowered, *[array.ravel() for array in inputs], out)
    # float32 sums of 24 terms of size 1, in the same order.
    np.testing.assert_allclose(out, expected.ravel(), rtol=1e-5, atol=1e-5)


def test_prefetch_reaches_the_lowered_function() -> None:
    sch = panels()
    sch.prefetch("C", 1, sch.get_loops("C")[2])
    lowered = lower(compact_buffers(sch.func), target.native())
    assert "prefetch" in to_text(lowered)
    check_lowered(lowered)


def test_prefetch_ahead_fetches_each_line_once() -> None:
    sch = panels()
    loop = sch.get_loops("C")[2]
    sch.prefetch_ahead("C", 1, loop, 4)
    lowered = lower(compact_buffers(sch.func), target.native())
    fetched = {str(n.args[0]) for n in pre_order(lowered.body) if is_prefetch(n)}
    # A step reads 16 floats of a row of B: one line, four rows on.
    assert len(fetched) == 1
    assert "k + 4" in fetched.pop()
    check_lowered(lowered)


def test_both_prefetches_of_one_loop() -> None:
    sch = panels()
    loop = sch.get_loops("C")[2]
    sch.prefetch("C", 1, loop)
    sch.prefetch_ahead("C", 1, loop, 4)
    lowered = lower(compact_buffers(sch.func), target.native())
    levels = {n.args[1].value for n in pre_order(lowered.body) if is_prefetch(n)}
    assert levels == {1, 2}


def test_default_products_fetch_ahead() -> None:
    text = to_text(default_schedule(matmul(64, 256, 512), target.native()).func)
    assert "prefetch_ahead" in text
    text = to_text(default_schedule(matmul(64, 64, 16), target.native()).func)
    assert "prefetch_ahead" not in text  # its panels stay in the nearest cache


def is_prefetch(node: object) -> bool:
    return isinstance(node, Call) and node.name == "prefetch"


def test_prefetch_replays() -> None:
    sch = panels()
    sch.prefetch("C", 1, sch.get_loops("C")[2])
    again = replay(Trace.from_json(sch.trace.to_json()), matmul(6, 32, 24))
    notes = [n.annotations for n in pre_order(again.func.body) if isinstance(n, For)]
    assert {"prefetch_next": "B"} in notes


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda s: s.prefetch("C", 2, s.get_loops("C")[2]), "index 2 does not exist"),
        (lambda s: s.prefetch("C", 1, s.get_loops("C")[0]), "loop `j_0` is parallel; choose a"),
        (lambda s: s.prefetch_ahead("C", 1, s.get_loops("C")[2], 0), "must be positive, got 0"),
        (
            lambda s: s.prefetch_ahead("C", 1, s.get_loops("C")[0], 4),
            "is parallel; choose a serial",
        ),
        (lambda s: [s.prefetch("C", n, s.get_loops("C")[2]) for n in (1, 0)], "fetches `B` alre"),
    ],
)
def test_prefetch_refuses(act: Callable[[Schedule], object], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        act(panels())


def test_prefetch_of_an_intermediate() -> None:
    sch = Schedule(chain())
    with pytest.raises(ScheduleError, match="loop `i` is not around block `B`"):
        sch.prefetch("B", 0, sch.get_loops("C")[0])
    sch.prefetch("C", 0, sch.get_loops("C")[0])  # all of B is there
    near = Schedule(chain())
    near.compute_at("B", near.get_loops("C")[0])
    with pytest.raises(ScheduleError, match="block `B` writes `B`: it is near already"):
        near.prefetch("C", 0, near.get_loops("C")[0])


def test_cache_inplace_keeps_values() -> None:
    func = matmul(5, 6, 7, epilogue=True)
    sch = Schedule(func)
    sch.decompose_reduction("C", sch.get_loops("C")[0])
    fill, keep = sch.cache_inplace("C", 0, "local")
    check_same(func, sch.func)
    sch.split(sch.get_loops("C")[0], [None, 2])
    check_same(func, compact_buffers(sch.func))
    assert [str(fill), str(keep)] == ["block `C_local`", "block `C_write`"]
    assert sch.block(keep).reads[0].buffer.scope == "local"


def test_cache_inplace_refuses() -> None:
    sch = Schedule(matmul(3, 4, 5, epilogue=True))
    with pytest.raises(ScheduleError, match="begins each element with its init; use cache_write"):
        sch.cache_inplace("C", 0, "local")
    with pytest.raises(ScheduleError, match="block `D` writes `D` but does not read it"):
        sch.cache_inplace("D", 0, "local")
    i = sch.get_loops("C")[0]
    sch.reverse_compute_at("D", sch.get_loops("C")[1])
    sch.decompose_reduction("C", i)
    with pytest.raises(ScheduleError, match="block `D`, which uses `C`, shares a loop nest"):
        sch.cache_inplace("C", 0, "local")
