# SPDX-License-Identifier: Apache-2.0
"""Primitives that overlap iterations: software_pipeline, double_buffer and prefetch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from heddle.schedule.compact import compact_buffers
from heddle.schedule.pipeline import KEY, PREFETCH, PREFETCH_AHEAD, pipeline_conflict
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.primitives.cache import buffer_of
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

    >>> sch = Schedule(chain())
    >>> (i,) = sch.get_loops("C")
    >>> i_0, i_1 = sch.split(i, [None, 8])
    >>> sch.read_at(i_0, "C", 0, "local")
    block `B_local`
    >>> sch.double_buffer("B_local", i_0)
    >>> print(sketch(sch.func))
    B = alloc((32,))
    B_local = alloc((32,), scope="local")
    for i in range(32):
        B[i] = A[i] + 1.0
    for i_0 in range(4, software_pipeline=[0, 1]):
        for ax0 in range(8):
            B_local[i_0 * 8 + ax0] = B[i_0 * 8 + ax0]
        for i_1 in range(8):
            C[i_0 * 8 + i_1] = B_local[i_0 * 8 + i_1] * 2.0

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


@primitive
def prefetch(sch: Schedule, block: BlockLike, read_index: int, loop: LoopRef) -> None:
    """Bring what the next iteration of the parallel loop around reads of a buffer near meanwhile.

    >>> sch = Schedule(product())
    >>> i, j, k = sch.get_loops("C")
    >>> j_0, j_1 = sch.split(j, [None, 16])
    >>> sch.reorder(j_0, i, k, j_1)
    >>> sch.parallel(j_0)
    >>> sch.prefetch("C", 1, k)
    >>> print(sketch(sch.func))
    for j_0 in parallel(2):
        for i in range(16):
            for k in range(24, prefetch_next='B'):
                for j_1 in range(16):
                    with init: C[i, j_0 * 16 + j_1] = 0.0
                    C[i, j_0 * 16 + j_1] = C[i, j_0 * 16 + j_1] + A[i, k] * B[k, j_0 * 16 + j_1]

    When the function is lowered, the iterations of `loop`, and of the loops between it and the
    parallel one, fetch the cache lines of the next panel of B, a few each. It is a hint, and is
    dropped where it would not pay: more than 32 lines per iteration, or no parallel loop around.
    `read_index` counts the distinct buffers that the block reads; no block in a loop around this
    one may write it.
    """
    _fetch(sch, "prefetch", block, read_index, loop, PREFETCH, lambda name: name)


@primitive
def prefetch_ahead(
    sch: Schedule, block: BlockLike, read_index: int, loop: LoopRef, distance: int
) -> None:
    """Bring what later iterations of a loop read of a buffer into the first-level cache.

    >>> sch = Schedule(product())
    >>> sch.prefetch_ahead("C", 1, sch.get_loops("C")[2], 8)
    >>> print(sketch(sch.func))
    for i, j in grid(16, 32):
        for k in range(24, prefetch_ahead=['B', 8]):
            with init: C[i, j] = 0.0
            C[i, j] = C[i, j] + A[i, k] * B[k, j]

    When the function is lowered, each iteration of `loop` fetches the cache lines that it would
    read `distance` iterations on: streams that hardware does not follow, or not far enough, arrive
    in time. It is a hint, and is dropped where an iteration reads more than 32 lines. `read_index`
    counts the distinct buffers that the block reads; no block in a loop around this one may write
    it.
    """
    name = "prefetch_ahead"
    if distance < 1:
        raise fail(sch, name, f"`distance` must be positive, got {distance}")
    _fetch(sch, name, block, read_index, loop, PREFETCH_AHEAD, lambda buffer: [buffer, distance])


def _fetch(
    sch: Schedule,
    name: str,
    block: BlockLike,
    read_index: int,
    loop: LoopRef,
    key: str,
    note: Callable[[str], Any],
) -> None:
    """Annotate `loop` with `note` of a buffer that the block reads."""
    node, around = sch.block(block), sch.state.loop(loop.var)
    buffer = buffer_of(sch, name, node, node.reads, read_index, "reads")
    if around not in sch.state.loops(node):
        raise fail(sch, name, f"{loop} is not around block `{node.name}`", loop, node)
    if around.kind is not ForKind.SERIAL:
        raise fail(
            sch,
            name,
            f"{loop} is {around.kind.value}; choose a serial loop"
            + (" inside the parallel one" if key == PREFETCH else ""),
            loop,
        )
    shared = set(sch.state.loops(node))
    for writer in sch.state.writers.get(buffer, ()):
        if not shared.isdisjoint(sch.state.loops(writer)):
            raise fail(
                sch,
                name,
                f"block `{writer.name}` writes `{buffer.name}`: it is near already, or not ready",
                writer,
            )
    other = around.annotations.get(key)
    if other is not None:
        raise fail(sch, name, f"{loop} fetches `{other}` already; choose another loop", loop)
    annotations = {**around.annotations, key: note(buffer.name)}
    sch.change({around: around.replace(annotations=annotations)})


def _pipeline(sch: Schedule, name: str, loop: LoopRef, stages: list[int]) -> None:
    node = sch.state.loop(loop.var)
    if node.kind is not ForKind.SERIAL:
        raise fail(sch, name, f"{loop} is {node.kind.value}; only serial loops are pipelined")
    if not stages or min(stages) != 0:
        raise fail(sch, name, f"`stages` must not be negative and begin at 0, got {stages}")
    # Buffers of loops further in belong to one of the statements, and others to none of them.
    compacted = State(compact_buffers(sch.func, at=loop.var)).loop(loop.var)
    conflict = pipeline_conflict(compacted, stages)
    if conflict:
        raise fail(sch, name, f"{loop} cannot be pipelined: {conflict}")
    sch.change({node: node.replace(annotations={**node.annotations, KEY: stages})})
