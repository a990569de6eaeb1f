# SPDX-License-Identifier: Apache-2.0
"""Loads that stride along the lanes, and lie together along an unrolled loop around them, go
through a tile that is transposed in registers.

    for u in unrolled(16):                         transpose_tile(tile, A[16 * i], 100, 16, 16, 16)
        for v in vectorized(16):                   for u in unrolled(16):
            B[100 * u + v] = A[100 * v + u]   ->       for v in vectorized(16):
                                                           B[100 * u + v] = tile[16 * u + v]

Sixteen vector loads and 64 shuffles take the place of 256 scalar loads. Where a guard leaves out
some `u` or `v`, a full tile gets a copy of the nest without it, and others load under masks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from heddle.ir.dtype import INT32
from heddle.ir.expr import LT, And, Call, Expr, Min, Or, Var, all_of, as_int, const
from heddle.ir.walk import post_order, rewrite, substitute, uses_var
from heddle.schedule.affine import Affine, affine
from heddle.target import Target
from heddle.tir.build import decl_buffer, load, seq
from heddle.tir.intrin import address_of
from heddle.tir.nodes import (
    Allocate,
    Buffer,
    BufferLoad,
    BufferStore,
    Evaluate,
    For,
    ForKind,
    IfThenElse,
    PrimFunc,
    Stmt,
)
from heddle.tir.predicate import conjuncts

TILE_BITS: Final = 32
"""Bits of an element that can be transposed."""

_MOST_TILES: Final = 2

_LEAST_MASKED: Final = 8
"""Lanes of vectors that can be loaded under a mask; shorter ones would be loaded one by one."""


def transpose_tiles(func: PrimFunc, target: Target) -> PrimFunc:
    """`func` (flat, before vectors) with such loads replaced."""
    lanes = target.vector_lanes(TILE_BITS)
    if lanes not in (4, 8, 16):
        return func

    def handle(loop: For) -> Stmt:
        nest = _nest_of(loop, lanes)
        return loop if nest is None else nest.transposed() or loop

    return func.replace(body=rewrite(func.body, {For: handle}))


@dataclass
class _Nest:
    """`outer` and `inner` around one store, and how far a guard lets each of them run."""

    outer: For
    inner: For
    store: BufferStore
    lanes: int
    guard: list[Expr] = field(default_factory=list)
    limits: dict[Var, list[Affine]] = field(default_factory=dict)
    elsewhere: list[Expr] = field(default_factory=list)
    """The parts of the guard that are about neither loop."""

    def read_guard(self) -> bool:
        """Take the guard apart; false where a part is no bound of one of the loops."""
        self.limits = {self.outer.var: [], self.inner.var: []}
        for part in self.guard:
            if not uses_var(part, set(self.limits)):
                self.elsewhere.append(part)
                continue
            if type(part) is not LT:
                return False
            rest = affine(part.b).plus(affine(part.a), -1)
            counts = [(_count(rest, var), var) for var in self.limits]
            bounded = [var for count, var in counts if count]
            if len(bounded) != 1 or _count(rest, bounded[0]) != -1:
                return False
            self.limits[bounded[0]].append(rest.plus(affine(bounded[0])))
        return True

    def transposed(self) -> Stmt | None:
        """The nest by way of tiles, or None when there is nothing to transpose."""
        if not self.read_guard() or _may_not_load(self.store.value):
            return None
        found: dict[BufferLoad, int] = {}
        for access in post_order(self.store.value):
            if type(access) is BufferLoad and access.buffer is not self.store.buffer:
                pitch = self._pitch(access)
                if pitch is not None:
                    found[access] = pitch
        if not 0 < len(found) <= _MOST_TILES:
            return None
        loops = (self.inner, self.outer)
        short = any(as_int(loop.extent) != self.lanes for loop in loops)
        if self.lanes < _LEAST_MASKED and (short or any(self.limits.values())):
            return None
        full = self._through_tiles(found, [loop.extent for loop in loops], guarded=False)
        if any(self.limits.values()):
            bounds = [n.expr() >= loop.extent for loop in loops for n in self.limits[loop.var]]
            part = self._through_tiles(found, [self._count(loop) for loop in loops], guarded=True)
            full = IfThenElse(all_of(*bounds), full, part)
        return IfThenElse(all_of(*self.elsewhere), full, None) if self.elsewhere else full

    def _count(self, loop: For) -> Expr:
        """How many iterations of a loop take part; below zero: none."""
        count = loop.extent
        for limit in self.limits[loop.var]:
            count = Min(count, limit.expr())
        return count

    def _through_tiles(
        self, found: dict[BufferLoad, int], counts: list[Expr], *, guarded: bool
    ) -> Stmt:
        """The nest with its loads from tiles, which are filled before it."""
        lanes, place = self.lanes, self.outer.var * self.lanes + self.inner.var
        tiles = {
            access: decl_buffer((lanes * lanes,), access.buffer.dtype, "tile", scope="local")
            for access in found
        }

        def swap(access: BufferLoad) -> Expr:
            tile = tiles.get(access)
            return access if tile is None else load(tile, (place,))

        value = rewrite(self.store.value, {BufferLoad: swap})
        body: Stmt = self.store.replace(value=value)
        if guarded:
            mine = [part for part in self.guard if part not in self.elsewhere]
            body = IfThenElse(all_of(*mine), body, None)
        nest: Stmt = self.outer.replace(body=self.inner.replace(body=body))
        for access, pitch in found.items():
            filled = self._fill(tiles[access], access, pitch, counts)
            nest = Allocate(tiles[access], seq(filled, nest))
        return nest

    def _fill(self, tile: Buffer, access: BufferLoad, pitch: int, counts: list[Expr]) -> Stmt:
        zero = const(0)
        start = substitute(access.indices[0], {self.outer.var: zero, self.inner.var: zero})
        places = address_of(load(tile, (0,))), address_of(BufferLoad(access.buffer, (start,)))
        args = (*places, const(pitch), const(self.lanes), *counts)
        return Evaluate(Call("transpose_tile", args, INT32))

    def _pitch(self, access: BufferLoad) -> int | None:
        """How far apart the lanes of a load are, if its elements lie together along `outer`."""
        if access.buffer.dtype.bits != TILE_BITS or len(access.indices) != 1:
            return None
        index = affine(access.indices[0])
        variables = {self.outer.var, self.inner.var}
        for atom, _ in index.terms.values():
            if type(atom) is not Var and uses_var(atom, variables):
                return None
        pitch = _count(index, self.inner.var)
        return pitch if _count(index, self.outer.var) == 1 and pitch > 1 else None


def _nest_of(outer: For, lanes: int) -> _Nest | None:
    """The nest of an unrolled loop around a vectorized one around a store, with guards between."""
    if outer.kind is not ForKind.UNROLLED or not _fits(outer, lanes):
        return None
    guard: list[Expr] = []
    inner: For | None = None
    stmt: Stmt = outer.body
    while type(stmt) is not BufferStore:
        if type(stmt) is IfThenElse and stmt.otherwise is None:
            guard += conjuncts(stmt.condition)
            stmt = stmt.then
        elif type(stmt) is For and inner is None and stmt.kind is ForKind.VECTORIZED:
            inner, stmt = stmt, stmt.body
        else:
            return None
    if inner is None or not _fits(inner, lanes):
        return None
    return _Nest(outer, inner, stmt, lanes, guard)


def _fits(loop: For, lanes: int) -> bool:
    """Whether a loop is one side of a tile, a quarter of it at least."""
    return as_int(loop.min) == 0 and lanes // 4 <= (as_int(loop.extent) or 0) <= lanes


def _may_not_load(value: Expr) -> bool:
    """Whether parts of an expression are evaluated under a condition only."""
    return any(
        isinstance(found, (And, Or)) or (type(found) is Call and found.name == "if_then_else")
        for found in post_order(value)
    )


def _count(index: Affine, var: Var) -> int:
    """The coefficient of a variable."""
    return next((count for atom, count in index.terms.values() if atom is var), 0)
