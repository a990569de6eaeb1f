# SPDX-License-Identifier: Apache-2.0
"""Primitives that choose: their decisions are in the trace, and a replay may choose others.

The numbers they return are integers that remember where they come from: given to `split`, they
print as variables in the trace. `replay(trace.with_decisions([...]), func)` repeats the schedule
with other tiles; a decision of None is drawn anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from random import Random
from typing import TYPE_CHECKING

from heddle.ir.expr import as_int
from heddle.schedule.errors import ScheduleError
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.refs import BlockLike, LoopRef

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule


@primitive
def sample_categorical(
    sch: Schedule,
    candidates: Sequence[int],
    probs: Sequence[float],
    *,
    decision: int | None = None,
) -> int:
    """Draw one of some integers. `decision` is its position.

    >>> sch = Schedule(chain(), seed=1)
    >>> width = sch.sample_categorical([4, 8, 16], [0.2, 0.4, 0.4], decision=1)
    >>> _ = sch.split(sch.get_loops("C")[0], [None, width])
    >>> print(sch.trace)
    v0 = sch.sample_categorical(candidates=[4, 8, 16], probs=[0.2, 0.4, 0.4], decision=1)
    i, = sch.get_loops('C')
    i_0, i_1 = sch.split(i, factors=[None, v0])
    """
    name = "sample_categorical"
    if not candidates or len(candidates) != len(probs):
        raise fail(sch, name, f"{len(candidates)} candidates have {len(probs)} probabilities")
    if any(not p >= 0 for p in probs) or not 0 < sum(probs) < float("inf"):
        raise fail(sch, name, f"`probs` must not be negative, nor all zero, got {list(probs)}")
    if decision is None:
        decision = sch.random.choices(range(len(candidates)), weights=probs)[0]
    if not 0 <= decision < len(candidates):
        raise fail(sch, name, f"`decision` {decision} is no position in {list(candidates)}")
    sch.decided = decision
    return candidates[decision]


@primitive
def sample_perfect_tile(
    sch: Schedule,
    loop: LoopRef,
    *,
    n: int,
    max_innermost_factor: int = 16,
    decision: Sequence[int] | None = None,
) -> list[int]:
    """Draw `n` factors of the extent of a loop, the last at most `max_innermost_factor`.

    >>> sch = Schedule(product(), seed=0)
    >>> i, j, k = sch.get_loops("C")
    >>> tiles = sch.sample_perfect_tile(j, n=2, decision=[4, 8])
    >>> _ = sch.split(j, tiles)
    >>> print(sch.trace)
    i, j, k = sch.get_loops('C')
    v0, v1 = sch.sample_perfect_tile(j, n=2, decision=[4, 8])
    j_0, j_1 = sch.split(j, factors=[v0, v1])
    >>> from heddle.schedule import replay
    >>> print(sketch(replay(sch.trace.with_decisions([[2, 16]]), product()).func))
    for i, j_0, j_1, k in grid(16, 2, 16, 24):
        with init: C[i, j_0 * 16 + j_1] = 0.0
        C[i, j_0 * 16 + j_1] = C[i, j_0 * 16 + j_1] + A[i, k] * B[k, j_0 * 16 + j_1]

    The extent must be a constant.
    """
    return _tile(sch, "sample_perfect_tile", loop, n, max_innermost_factor, 1, n - 1, decision)


@primitive
def sample_partitioned_tile(
    sch: Schedule,
    loop: LoopRef,
    *,
    n: int,
    partition_pos: int,
    innerpart_factor: int,
    decision: Sequence[int] | None = None,
) -> list[int]:
    """Draw `n` factors of the extent of a loop; those from `partition_pos` on have a product that
    is a multiple of `innerpart_factor`, for example of the lanes of a vector.

    >>> sch = Schedule(product(), seed=0)
    >>> i, j, k = sch.get_loops("C")
    >>> a, b, c = sch.sample_partitioned_tile(j, n=3, partition_pos=1, innerpart_factor=8)
    >>> a * b * c, b * c % 8
    (32, 0)
    """
    name = "sample_partitioned_tile"
    if not 0 <= partition_pos < n or innerpart_factor < 1:
        raise fail(
            sch,
            name,
            f"`partition_pos` must lie in [0, {n}) and `innerpart_factor` be positive, got "
            f"{partition_pos} and {innerpart_factor}",
        )
    return _tile(sch, name, loop, n, None, innerpart_factor, partition_pos, decision)


def _tile(
    sch: Schedule,
    name: str,
    loop: LoopRef,
    n: int,
    limit: int | None,
    multiple: int,
    position: int,
    decision: Sequence[int] | None,
) -> list[int]:
    extent = as_int(sch.state.loop(loop.var).extent)
    if extent is None:
        raise fail(sch, name, f"the extent of {loop} is not a constant")
    if n < 1 or (limit is not None and limit < 1):
        raise fail(sch, name, f"`n` and `max_innermost_factor` must be positive, got {n}, {limit}")
    if extent % multiple:
        raise fail(sch, name, f"the extent {extent} of {loop} is no multiple of {multiple}")
    if decision is None:
        tile = _random_tile(sch.random, extent // multiple, n, limit)
        tile[position] *= multiple
    else:
        tile = list(decision)
    if len(tile) != n or any(factor < 1 for factor in tile) or prod(tile) != extent:
        raise fail(
            sch, name, f"`decision` {tile} must be {n} factors of the extent {extent} of {loop}"
        )
    if prod(tile[position:]) % multiple:
        raise fail(sch, name, f"the inner part of `decision` {tile} is no multiple of {multiple}")
    sch.decided = list(tile)
    return tile


def _random_tile(random: Random, extent: int, n: int, limit: int | None) -> list[int]:
    tile: list[int] = []
    rest = extent
    for number in range(n - 1):
        most = limit if number == 0 and limit is not None else rest
        factor = random.choice([d for d in range(1, min(rest, most) + 1) if rest % d == 0])
        tile.insert(0, factor)
        rest //= factor
    return [rest, *tile]


@primitive
def sample_compute_location(
    sch: Schedule, block: BlockLike, *, decision: int | None = None
) -> LoopRef:
    """Draw a loop at which a block can be computed: where compute_at is legal.

    `decision` is the position of the loop among those around the first consumer.

    >>> sch = Schedule(biased_product(), seed=3)
    >>> at = sch.sample_compute_location("C", decision=0)
    >>> sch.compute_at("C", at)
    >>> print(sch.trace)
    at = sch.sample_compute_location('C', decision=0)
    sch.compute_at('C', at)
    """
    name = "sample_compute_location"
    consumers = sch.consumers(block)
    if not consumers:
        raise fail(
            sch,
            name,
            f"nothing reads what block `{sch.block(block).name}` writes",
            sch.block(block),
        )
    loops = sch.get_loops(consumers[0])
    if decision is None:
        legal = [number for number, loop in enumerate(loops) if _is_legal(sch, block, loop)]
        if not legal:
            raise fail(
                sch,
                name,
                f"compute_at is legal at no loop of block `{consumers[0].name}`",
                consumers[0],
            )
        decision = sch.random.choice(legal)
    if not 0 <= decision < len(loops):
        raise fail(sch, name, f"`decision` {decision} is no position among {len(loops)} loops")
    sch.decided = decision
    return LoopRef(loops[decision].var, "at")


def _is_legal(sch: Schedule, block: BlockLike, loop: LoopRef) -> bool:
    trial = type(sch)(sch.func)
    try:
        trial.compute_at(block, loop)
    except ScheduleError:
        return False
    return True
