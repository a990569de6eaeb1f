# SPDX-License-Identifier: Apache-2.0
"""Sampling: decisions are recorded, repeated, replaced; bad ones are refused."""

from __future__ import annotations

from math import prod

import pytest

from heddle.ir import first_mismatch
from heddle.schedule import Schedule, ScheduleError, Trace, replay
from heddle.schedule.examples import biased_product, chain, product
from heddle.support import UserError
from tests.schedule.kernels import check_same


def tiled(seed: int) -> Schedule:
    """A schedule of a product all of whose numbers are drawn."""
    sch = Schedule(biased_product(), seed=seed)
    at = sch.sample_compute_location("C")
    sch.compute_at("C", at)
    loops = sch.get_loops("D")
    i, j = loops[0], loops[1]
    i_0, i_1 = sch.split(i, sch.sample_perfect_tile(i, n=2))
    tile = sch.sample_partitioned_tile(j, n=3, partition_pos=1, innerpart_factor=4)
    sch.split(j, tile)
    sch.annotate(i_1, "unroll", sch.sample_categorical([0, 16, 64], [1, 1, 1]))
    sch.parallel(i_0)
    return sch


@pytest.mark.parametrize("seed", range(5))
def test_decisions_replay(seed: int) -> None:
    sch = tiled(seed)
    check_same(biased_product(), sch.func)
    again = replay(Trace.from_json(sch.trace.to_json()), biased_product(), seed=99)
    assert first_mismatch(sch.func, again.func, map_free_vars=True) is None
    assert str(again.trace) == str(sch.trace)
    other = Schedule(biased_product())
    exec(str(sch.trace), {"sch": other})
    assert first_mismatch(sch.func, other.func, map_free_vars=True) is None
    assert str(other.trace) == str(sch.trace)


def test_the_seed_decides() -> None:
    assert str(tiled(3).trace) == str(tiled(3).trace)
    assert len({str(tiled(seed).trace) for seed in range(6)}) > 1


def test_other_decisions() -> None:
    sch = tiled(0)
    _, rows, columns, _ = sch.trace.decisions()
    assert prod(rows) == 16
    assert prod(columns) == 32
    func = biased_product()
    other = replay(sch.trace.with_decisions([0, [2, 8], [1, 4, 8], 2]), func)
    assert other.trace.decisions() == [0, [2, 8], [1, 4, 8], 2]
    check_same(func, other.func)
    drawn = replay(sch.trace.with_decisions([0, None, None, None]), func, seed=5)
    assert None not in drawn.trace.decisions()
    check_same(func, drawn.func)
    with pytest.raises(UserError, match="the trace has 4 sampling steps, got 1 decisions"):
        sch.trace.with_decisions([1])
    with pytest.raises(ScheduleError, match=r"`decision` \[3, 5\] must be 2 factors of the extent"):
        replay(sch.trace.with_decisions([0, [3, 5], None, None]), func)


def test_drawn_numbers_are_integers() -> None:
    sch = Schedule(product(), seed=2)
    i, _, _ = sch.get_loops("C")
    tile = sch.sample_perfect_tile(i, n=3, max_innermost_factor=4)
    assert all(isinstance(factor, int) for factor in tile)
    assert prod(tile) == 16
    assert tile[-1] <= 4
    assert sch.split(i, [None, tile[-1]])


def test_refusals() -> None:
    sch = Schedule(chain())
    (i,) = sch.get_loops("C")
    with pytest.raises(ScheduleError, match="2 candidates have 1 probabilities"):
        sch.sample_categorical([1, 2], [1.0])
    with pytest.raises(ScheduleError, match="`probs` must not be negative, nor all zero"):
        sch.sample_categorical([1, 2], [0, 0])
    with pytest.raises(ScheduleError, match="the extent 32 of loop `i` is no multiple of 5"):
        sch.sample_partitioned_tile(i, n=2, partition_pos=1, innerpart_factor=5)
    with pytest.raises(ScheduleError, match=r"the inner part of `decision` \[16, 2\]"):
        sch.sample_partitioned_tile(i, n=2, partition_pos=1, innerpart_factor=4, decision=[16, 2])
    with pytest.raises(ScheduleError, match="nothing reads what block `C` writes"):
        sch.sample_compute_location("C")
    assert len(sch.trace) == 0
