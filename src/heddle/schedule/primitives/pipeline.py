# SPDX-License-Identifier: Apache-2.0
"""Primitives that overlap iterations: software_pipeline and double_buffer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from heddle.schedule.compact import compact_buffers
from heddle.schedule.pipeline import KEY, pipeline_conflict
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.refs import BlockLike, LoopRef
from heddle.schedule.state import State, blocks_below
from heddle.tir.nodes import ForKind, Seq

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule


@primitive
def software_pipeline(sch: Schedule, loop: LoopRef, stages: Sequence[int]) -> None:
    """Run the statements of a loop's body for different iterations: each `stage` steps late.

    >>> sch = Schedule(chain())
    >>> (i,) = sch.get_loops("C")
    >>> i_0, i_1 = sch.split(i, [None, 8])
    >>> sch.compute_at("B", i_0)
    >>> sch.software_pipeline(i_0, [0, 1])
    >>> print(sketch(sch.func))
    B = alloc((32,))
    for i_0 in range(4, software_pipeline=[0, 1]):
        for ax0 in range(8):
            B[i_0 * 8 + ax0] = A[i_0 * 8 + ax0] + 1.0
        for i_1 in range(8):
            C[i_0 * 8 + i_1] = B[i_0 * 8 + i_1] * 2.0

    When the function is lowered, the first statement runs for iteration i while the second runs for
    iteration i - 1; B gets two slots. Statements of different stages may share only buffers that
    live in one iteration (and what nobody writes). The loop must be serial.
    """
    _pipeline(sch, "software_pipeline", loop, list(stages))


@primitive
def double_buffer(sch: Schedule, block: BlockLike, loop: LoopRef) -> None:
    """Run the statement that holds a block one iteration ahead of the rest of a loop.

        for i_0 in range(4):                for i_0 in range(5):
            load(i_0)              ->           if i_0 < 4: load(i_0)
            compute(i_0)                        if i_0 >= 1: compute(i_0 - 1)

    The buffer that the block writes gets two slots, which take turns. It is `software_pipeline`
    with the stages 0 for the block and 1 for the others; `block` is usually a `cache_read`.
    """
    node = sch.block(block)
    body = sch.state.loop(loop.var).body
    parts = body.stmts if type(body) is Seq else (body,)
    stages = [0 if node in blocks_below(part) else 1 for part in parts]
    if stages.count(0) != 1 or len(stages) < 2:
        raise fail(
            sch,
            "double_buffer",
            f"block `{node.name}` must lie in one of several statements of {loop}",
            node,
        )
    _pipeline(sch, "double_buffer", loop, stages)


def _pipeline(sch: Schedule, name: str, loop: LoopRef, stages: list[int]) -> None:
    node = sch.state.loop(loop.var)
    if node.kind is not ForKind.SERIAL:
        raise fail(sch, name, f"{loop} is {node.kind.value}; only serial loops are pipelined")
    if not stages or min(stages) != 0:
        raise fail(sch, name, f"`stages` must not be negative and begin at 0, got {stages}")
    compacted = State(compact_buffers(sch.func)).loop(loop.var)
    conflict = pipeline_conflict(compacted, stages)
    if conflict:
        raise fail(sch, name, f"{loop} cannot be pipelined: {conflict}")
    sch.change({node: node.replace(annotations={**node.annotations, KEY: stages})})
