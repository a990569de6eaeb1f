# SPDX-License-Identifier: Apache-2.0
"""One block as the machine meets it: its loops, its register tile, each load and store."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from heddle.ir.expr import (
    Add,
    Call,
    Div,
    Expr,
    Max,
    Min,
    Mul,
    Sub,
    Var,
    as_expr,
    as_int,
    const,
)
from heddle.ir.walk import free_vars, post_order, substitute, uses_var
from heddle.schedule.state import State, statements
from heddle.target import Target
from heddle.tir.build import row_major_strides
from heddle.tir.interp import evaluate
from heddle.tir.nodes import (
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    For,
    ForKind,
    IterKind,
    Stmt,
)

Sizes = Mapping[str, int]
"""Sizes of symbolic dimensions by name."""

_TILE_KINDS: Final = (ForKind.UNROLLED, ForKind.VECTORIZED)
_ARITHMETIC: Final = (Add, Sub, Mul, Div, Min, Max, Call)
_SAMPLES: Final = 3


@dataclass(frozen=True, slots=True)
class Access:
    """One load or store of a block.

    pattern: "contiguous", "strided" (`stride` elements from lane to lane), "broadcast" (one
    element for all lanes), "gather", or "scalar" where no loop is vectorized. lanes: elements per
    instruction. issued: how many such instructions run in a call of the function, after those
    that loops do not change are hoisted out of them; None where a size is not known. resident:
    whether the value stays in a register while the innermost loop runs.
    """

    kind: str
    buffer: str
    text: str
    pattern: str
    stride: int | None
    lanes: int
    issued: int | None
    resident: bool


@dataclass(frozen=True, slots=True)
class Registers:
    """Vector registers of the innermost tile: accumulators, operands that stay in registers while
    the tile is computed, and one more for what is broadcast or used at once."""

    accumulators: int
    operands: int
    passing: int
    available: int

    @property
    def needed(self) -> int:
        """All of them together."""
        return self.accumulators + self.operands + self.passing

    @property
    def spills(self) -> bool:
        """Whether there are not enough: some values then go through memory."""
        return self.needed > self.available


@dataclass(frozen=True)
class Place:
    """A block with everything around it. loops: outermost first; values: the iteration variables
    of the block in terms of these loops; tile: how many of the innermost loops are unrolled or
    vectorized; vector: the vectorized loop; sizes: values of symbolic dimensions."""

    block: Block
    loops: tuple[For, ...]
    values: Mapping[Var, Expr]
    tile: int
    vector: For | None
    sizes: Sizes
    private: Mapping[Buffer, int]
    """Intermediate buffers, with the number of loops around them."""

    @property
    def lanes(self) -> int:
        """Elements that the vectorized loop takes at once."""
        return 1 if self.vector is None else self.number(self.vector.extent) or 1

    def number(self, value: Expr) -> int | None:
        """An expression of constants and symbolic dimensions as an integer, where known."""
        found = as_int(value)
        if found is not None:
            return found
        variables = free_vars(value)
        if any(var.name not in self.sizes for var in variables):
            return None
        return int(evaluate(value)({var: self.sizes[var.name] for var in variables}))

    def product(self, loops: Sequence[For]) -> int | None:
        """How often the innermost of some loops runs its body."""
        sizes = [self.number(loop.extent) for loop in loops]
        return None if None in sizes else math.prod(sizes)  # type: ignore[arg-type]

    def instances(self) -> int | None:
        """How often the block runs in a call."""
        count = self.product(self.loops)
        if as_int(self.block.predicate) or not self.block.iters:
            return count
        sizes = [self.number(axis.extent) for axis in self.block.iters]
        if count is None or None in sizes:
            return None
        return min(count, math.prod(sizes))  # type: ignore[arg-type]


def place_of(state: State, block: Block, sizes: Sizes) -> Place:
    """Look at a block from the loops around it, those around its parent blocks included."""
    loops: list[For] = []
    values: dict[Var, Expr] = {}
    for stmt in state.path(block):
        if isinstance(stmt, For):
            loops.append(stmt)
        elif isinstance(stmt, Block):
            bound = {axis.var: substitute(axis.binding, values) for axis in stmt.iters}
            values.update(bound)
    loops.extend(_loops_inside(block.body))
    tile = 0
    while tile < len(loops) and loops[-1 - tile].kind in _TILE_KINDS:
        tile += 1
    vector = next((loop for loop in reversed(loops) if loop.kind is ForKind.VECTORIZED), None)
    private = _private(state, block, loops)
    return Place(block, tuple(loops), values, tile, vector, sizes, private)


def _private(state: State, block: Block, loops: Sequence[For]) -> dict[Buffer, int]:
    """The intermediate buffers of a block, with how many of its loops all their users share:
    lowering gives such a buffer only the elements that one iteration of these needs."""
    found = {}
    for buffer in dict.fromkeys(region.buffer for region in (*block.reads, *block.writes)):
        if state.is_parameter(buffer):
            continue
        shared = set(loops)
        for user in (*state.readers.get(buffer, ()), *state.writers.get(buffer, ())):
            shared &= {stmt for stmt in state.path(user) if isinstance(stmt, For)}
        found[buffer] = next((n for n, loop in enumerate(loops) if loop not in shared), len(loops))
    return found


def _loops_inside(stmt: Stmt) -> Iterator[For]:
    """The loops of a body that is one nest."""
    while isinstance(stmt, For):
        yield stmt
        stmt = stmt.body


def flops_per_instance(block: Block) -> int:
    """Operations on floats that one run of the block's body does (calls count as one)."""
    return sum(
        isinstance(found, _ARITHMETIC)
        and found.dtype.is_float
        and getattr(found, "name", "") != "if_then_else"
        for store in _stores(block.body)
        for found in post_order(store.value)
    )


def _stores(stmt: Stmt) -> list[BufferStore]:
    if isinstance(stmt, BufferStore):
        return [stmt]
    return [found for child in statements(stmt) for found in _stores(child)]


def accesses_of(place: Place) -> list[Access]:
    """The loads and stores of a block's body, then the stores of its `init`."""
    found: list[Access] = []
    seen: set[tuple[str, str]] = set()
    for store in _stores(place.block.body):
        used: list[BufferLoad | BufferStore] = [
            item for item in post_order(store) if isinstance(item, BufferLoad)
        ]
        for node in (*used, store):
            access = _access(place, node)
            if (access.kind, access.text) not in seen:
                seen.add((access.kind, access.text))
                found.append(access)
    if place.block.init is not None:
        kinds = [axis for axis in place.block.iters if axis.kind is IterKind.REDUCTION]
        steps = [place.number(axis.extent) for axis in kinds]
        for store in _stores(place.block.init):
            access = _access(place, store)
            count = access.issued
            if count is not None and not access.resident and None not in steps:
                count //= max(1, math.prod(steps))  # type: ignore[arg-type]
            row = (access.buffer, access.text, access.pattern, access.stride, access.lanes)
            found.append(Access("init", *row, count, access.resident))
    return found


def _access(place: Place, node: BufferLoad | BufferStore) -> Access:
    address = address_of(place, node)
    outside = place.loops[: len(place.loops) - place.tile]
    kept = len(outside)
    while kept and not uses_var(address, outside[kept - 1].var):
        kept -= 1
    tile = [loop for loop in place.loops[len(outside) :] if loop is not place.vector]
    repeated = [loop for loop in tile if uses_var(address, loop.var)]
    pattern, stride = _pattern(place, address)
    indices = ", ".join(str(index) for index in node.indices)
    return Access(
        kind="load" if isinstance(node, BufferLoad) else "store",
        buffer=node.buffer.name,
        text=f"{node.buffer.name}[{indices}]",
        pattern=pattern,
        stride=stride,
        lanes=1 if pattern in ("scalar", "broadcast") else place.lanes,
        issued=place.product([*outside[:kept], *repeated]),
        resident=kept < len(outside),
    )


def address_of(place: Place, node: BufferLoad | BufferStore) -> Expr:
    """The element that an access touches, counted from the start of its buffer."""
    buffer = node.buffer
    strides = buffer.strides or row_major_strides(buffer.shape)
    total: Expr = const(0)
    for index, stride in zip(node.indices, strides, strict=True):
        total = total + substitute(index, place.values).astype("int64") * as_expr(stride)
    return total


def _pattern(place: Place, address: Expr) -> tuple[str, int | None]:
    """How the lanes of an access lie in memory: seen by trying a few iterations."""
    if place.vector is None:
        return "scalar", None
    if not uses_var(address, place.vector.var):
        return "broadcast", 0
    if any(isinstance(found, BufferLoad) for found in post_order(address)):
        return "gather", None
    steps = {step for sample in range(_SAMPLES) for step in _steps(place, address, sample)}
    if len(steps) != 1:
        return "gather", None
    (stride,) = steps
    names = {0: "broadcast", 1: "contiguous"}
    return names.get(stride, "strided"), stride


def _steps(place: Place, address: Expr, sample: int) -> set[int]:
    """The distances between the lanes in one iteration of the other loops."""
    run = evaluate(address)
    env = {var: place.sizes.get(var.name, 64) for var in free_vars(address)}
    for number, loop in enumerate(place.loops):
        extent = place.number(loop.extent) or 2
        env[loop.var] = (sample * (number + 1)) % max(1, min(extent, 7))
    assert place.vector is not None
    positions = []
    for lane in range(place.lanes):
        env[place.vector.var] = lane
        positions.append(int(run(env)))
    return {after - before for before, after in itertools.pairwise(positions)}


def registers_of(place: Place, target: Target) -> Registers | None:
    """What the innermost tile keeps in registers; None where nothing is vectorized."""
    stores = _stores(place.block.body)
    if place.vector is None or not stores:
        return None
    tile = place.loops[len(place.loops) - place.tile :]
    outside = place.loops[: len(place.loops) - place.tile]

    def vectors(node: BufferLoad | BufferStore) -> int:
        address = address_of(place, node)
        unrolled = [n for n in tile if n is not place.vector and uses_var(address, n.var)]
        each = -(-place.lanes * node.buffer.dtype.bits // target.vector_bits)
        return (place.product(unrolled) or 1) * each

    accumulators = operands = passing = 0
    for store in stores:
        loads = [item for item in post_order(store.value) if isinstance(item, BufferLoad)]
        own = [load for load in loads if load.buffer is store.buffer]
        held = bool(outside) and not uses_var(address_of(place, store), outside[-1].var)
        if held and own:
            accumulators += vectors(store)
        contiguous = [
            load
            for load in loads
            if load not in own and uses_var(address_of(place, load), place.vector.var)
        ]
        # One operand at most walks through the tile vector by vector; the others wait for it.
        operands += sum(vectors(load) if held else 1 for load in contiguous)
        passing = 1
    return Registers(accumulators, operands, passing, target.vector_registers)
