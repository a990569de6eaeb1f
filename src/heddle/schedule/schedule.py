# SPDX-License-Identifier: Apache-2.0
"""`Schedule`: a function, and the primitives that reshape its loops without changing its values.

sch = Schedule(func)
i, j, k = sch.get_loops("C")
i_0, i_1 = sch.split(i, factors=[None, 6])
sch.reorder(i_0, j, k, i_1)
sch.parallel(i_0)
func = sch.func
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from heddle.schedule import primitives, workbench
from heddle.schedule.errors import ScheduleError
from heddle.schedule.find import find
from heddle.schedule.primitives.base import PRIMITIVES
from heddle.schedule.refs import BlockLike, BlockRef, LoopRef, Sampled
from heddle.schedule.region import all_reads
from heddle.schedule.state import State, blocks_below
from heddle.schedule.trace import LoopName, Trace, ValueName
from heddle.support import UserError
from heddle.tir.nodes import Block, For, PrimFunc, Stmt

__all__ = ["BlockLike", "BlockRef", "LoopRef", "Schedule", "replay"]


class Schedule:
    """A `PrimFunc` under transformation. `func` is the present one; each primitive replaces it.

    Loops are named by `LoopRef`, blocks by `BlockRef` or simply their name; both stay valid while
    what they name exists. A primitive that cannot be applied raises `ScheduleError` and changes
    nothing. `trace` holds what was done.
    """

    def __init__(self, func: PrimFunc, *, seed: int = 0) -> None:
        if not isinstance(func, PrimFunc) or not isinstance(func.body, Block):
            raise UserError(f"Schedule needs a PrimFunc with a root block, got {func!r}")
        self._func = func
        self._state: State | None = None
        self.trace = Trace()
        self.random = Random(seed)
        """Where sampling primitives draw from."""
        self.decided: object = None
        """What the sampling primitive that runs has decided."""
        self.original = func
        """The function that the schedule was made from."""
        self.before_step: PrimFunc | None = None
        """The function before the last primitive."""
        self.shown: PrimFunc | None = None
        """What `show` printed last."""

    @property
    def func(self) -> PrimFunc:
        """The function as it is now."""
        return self._func

    @property
    def state(self) -> State:
        """The index of the present function."""
        if self._state is None:
            self._state = State(self._func)
        return self._state

    def take_decision(self) -> object:
        """What the sampling primitive that ran last has decided, once (primitives only)."""
        decision, self.decided = self.decided, None
        return decision

    # -- looking around ----------------------------------------------------------------------

    def get_block(self, name: str) -> BlockRef:
        """The block called `name`; `ScheduleError` when there is none."""
        if name not in self.state.block_links:
            known = ", ".join(f"`{block.name}`" for block in self.get_blocks())
            raise ScheduleError(f"get_block: there is no block `{name}`; there are {known}")
        return BlockRef(name)

    def get_blocks(self) -> list[BlockRef]:
        """All blocks but the root, in program order."""
        root = self.state.root.name
        return [BlockRef(name) for name in self.state.block_links if name != root]

    def get_loops(self, block: BlockLike) -> list[LoopRef]:
        """The loops around a block, outermost first."""
        return [LoopRef(loop.var) for loop in self.state.loops(self._named(block))]

    def find(self, pattern: str, *, all: bool = False) -> Any:
        """The loop or block that a text describes; `ScheduleError` unless there is exactly one.

        `"C"` is the block or loop of that name, `"C_*"` a pattern of names; `"for j in"` finds a
        loop by its source text and `"C[vi, vj] = "` a block by a line of its body. `all=True` gives
        the list of everything that matches, perhaps empty, in program order.

            sch.split(sch.find("for j in"), [None, 8])
        """
        found = find(self.state, pattern)
        if all:
            return found
        if len(found) != 1:
            what = ", ".join(map(str, found)) or "nothing"
            raise ScheduleError(
                f"find: {pattern!r} must match one loop or block, it matches {what}",
                func=self._func,
            )
        return found[0]

    def producers(self, block: BlockLike) -> list[BlockRef]:
        """The blocks that write what `block` reads."""
        state, node = self.state, self._named(block)
        found = {
            writer.name: None
            for region in all_reads(node)
            for writer in state.writers.get(region.buffer, ())
            if writer.name != node.name
        }
        return [BlockRef(name) for name in found]

    def consumers(self, block: BlockLike) -> list[BlockRef]:
        """The blocks that read what `block` writes."""
        state, node = self.state, self._named(block)
        found = {
            reader.name: None
            for region in node.writes
            for reader in state.readers.get(region.buffer, ())
            if reader.name != node.name
        }
        return [BlockRef(name) for name in found]

    def blocks_below(self, loop: LoopRef) -> list[BlockRef]:
        """The blocks inside a loop, in program order."""
        return [BlockRef(block.name) for block in blocks_below(self.loop(loop))]

    def loop(self, loop: LoopRef) -> For:
        """The loop node itself (its `extent`, `kind`, `annotations`)."""
        if loop.var not in self.state.loop_links:
            raise ScheduleError(f"loop `{loop.name}` does not exist (any more)")
        return self.state.loop(loop.var)

    def block(self, block: BlockLike) -> Block:
        """The block node itself (its `iters`, `reads`, `writes`, `annotations`)."""
        return self._named(block)

    def node(self, target: LoopRef | BlockLike) -> For | Block:
        """The node of a handle."""
        return self.loop(target) if isinstance(target, LoopRef) else self._named(target)

    def _named(self, block: BlockLike) -> Block:
        name = block if isinstance(block, str) else block.name
        return self.state.block(self.get_block(name).name)

    # -- for the primitives ------------------------------------------------------------------

    def set_func(self, func: PrimFunc) -> None:
        """Go on with `func` (primitives only: nothing is recorded)."""
        if func is not self._func:
            self._func = func
            self._state = None

    def change(self, changes: Mapping[Stmt, Stmt | None]) -> None:
        """Replace statements of the function (primitives only)."""
        self.set_func(self.state.edited(changes))

    def name_loops_of(self, arguments: Mapping[str, Any], state: State) -> None:
        """Record where the loops among `arguments` come from, unless the trace knows them.

        `state` is the one that the arguments belong to."""
        for value in arguments.values():
            for item in value if isinstance(value, (tuple, list)) else (value,):
                if (
                    isinstance(item, LoopRef)
                    and item.alias is None
                    and item.var not in self.trace.names
                ):
                    block = blocks_below(state.loop(item.var))[0]
                    loops = [LoopRef(node.var) for node in state.loops(block)]
                    self.trace.add("get_loops", {"block": block.name}, loops)

    # -- the workbench -----------------------------------------------------------------------

    show = workbench.show
    explain = workbench.explain
    check = workbench.check
    bench = workbench.bench
    asm = workbench.asm
    report = workbench.report

    # -- the primitives ----------------------------------------------------------------------

    split = primitives.split
    fuse = primitives.fuse
    reorder = primitives.reorder
    parallel = primitives.parallel
    bind = primitives.bind
    vectorize = primitives.vectorize
    unroll = primitives.unroll
    serial = primitives.serial
    add_unit_loop = primitives.add_unit_loop
    annotate = primitives.annotate
    unannotate = primitives.unannotate
    compute_at = primitives.compute_at
    reverse_compute_at = primitives.reverse_compute_at
    compute_inline = primitives.compute_inline
    reverse_compute_inline = primitives.reverse_compute_inline
    cache_index = primitives.cache_index
    cache_inplace = primitives.cache_inplace
    cache_read = primitives.cache_read
    cache_write = primitives.cache_write
    set_scope = primitives.set_scope
    decompose_reduction = primitives.decompose_reduction
    rfactor = primitives.rfactor
    loop_partition = primitives.loop_partition
    merge = primitives.merge
    fuse_reduction_epilogue = primitives.fuse_reduction_epilogue
    read_at = primitives.read_at
    write_at = primitives.write_at
    storage_align = primitives.storage_align
    software_pipeline = primitives.software_pipeline
    double_buffer = primitives.double_buffer
    prefetch = primitives.prefetch
    prefetch_ahead = primitives.prefetch_ahead
    rolling_buffer = primitives.rolling_buffer
    sample_categorical = primitives.sample_categorical
    sample_perfect_tile = primitives.sample_perfect_tile
    sample_partitioned_tile = primitives.sample_partitioned_tile
    sample_compute_location = primitives.sample_compute_location
    reindex = primitives.reindex
    reindex_cache_read = primitives.reindex_cache_read
    reindex_cache_write = primitives.reindex_cache_write
    decompose_padding = primitives.decompose_padding
    pad_einsum = primitives.pad_einsum
    skip_padding = primitives.skip_padding
    transform_block_layout = primitives.transform_block_layout
    reorder_block_iter_var = primitives.reorder_block_iter_var
    transform_layout = primitives.transform_layout
    blockize = primitives.blockize
    tensorize = primitives.tensorize
    shift_to_unsigned = primitives.shift_to_unsigned


def replay(trace: Trace, func: PrimFunc, *, seed: int = 0) -> Schedule:
    """Apply the steps of a trace to a function like the one it was recorded on.

    Sampling steps repeat their decisions; those without one (see `Trace.with_decisions`) are drawn
    from `seed`.

    Raises `ScheduleError` when a step does not apply, `UserError` when the trace names a primitive
    or loop that does not exist.
    """
    sch = Schedule(func, seed=seed)
    loops: dict[str, LoopRef] = {}
    drawn: dict[str, Sampled] = {}

    def decode(value: Any) -> Any:
        if isinstance(value, LoopName):
            if value.name not in loops:
                raise UserError(f"trace: no earlier step names a loop `{value.name}`")
            return loops[value.name]
        if isinstance(value, ValueName):
            if value.name not in drawn:
                raise UserError(f"trace: no earlier step names a number `{value.name}`")
            return drawn[value.name]
        if isinstance(value, list):
            return [decode(item) for item in value]
        return value

    for step in trace:
        arguments = {name: decode(value) for name, value in step.arguments.items()}
        if step.primitive == "get_loops":
            result: Any = sch.get_loops(arguments["block"])
        else:
            known = PRIMITIVES.get(step.primitive)
            if known is None:
                raise UserError(f"trace: there is no primitive `{step.primitive}`")
            variadic = [decode(item) for item in arguments.pop(known.variadic or "", ())]
            result = known.call(sch, *variadic, **arguments)
        results = result if isinstance(result, list) else [result]
        found = [item for item in results if isinstance(item, (LoopRef, Sampled))]
        for name, item in zip(step.results, found, strict=False):
            if isinstance(item, LoopRef):
                loops[name] = item
            else:
                drawn[name] = item
    return sch
