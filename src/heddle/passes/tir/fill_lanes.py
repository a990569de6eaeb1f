# SPDX-License-Identifier: Apache-2.0
"""Local buffers are computed by whole vectors: a mask stays on what leaves memory of others alone.

    acc = allocate((32,))                         acc = allocate((32,))
    for lane in vectorized(16):                   for lane in vectorized(16):
        if block * 32 + lane < 197:                   if block * 32 + 0 < 197:
            acc[lane] = x[block * 32 + lane]  ->          acc[lane] = x[...] if ... < 197 else 0
    for lane in vectorized(16):                   for lane in vectorized(16):
        if block * 32 + lane < 197:                   if block * 32 + 0 < 197:
            acc[lane] = acc[lane] * w[0]                  acc[lane] = acc[lane] * w[0]

A lane that every store to a buffer leaves out is never read for its value. Kept, it costs an
instruction that merges it into each result, and what it holds by chance may be a denormal number,
which takes an arithmetic unit a hundred cycles. Filled, it holds zero and what follows from zero.

Only conditions on the place itself count: `rest + index < bound`, alike in all stores to the
buffer, where the allocation has room for the whole vector. It runs before buffers are flattened,
while an index still says which axis it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from heddle.arith import Analyzer
from heddle.ir import structural_equal
from heddle.ir.expr import (
    LT,
    Call,
    Expr,
    FloorDiv,
    FloorMod,
    TruncDiv,
    TruncMod,
    Var,
    all_of,
    as_int,
    const,
)
from heddle.ir.walk import pre_order, rewrite, substitute, uses_var
from heddle.tir.nodes import (
    Allocate,
    Buffer,
    BufferLoad,
    BufferStore,
    For,
    ForKind,
    IfThenElse,
    PrimFunc,
    Stmt,
)
from heddle.tir.predicate import conjuncts

_DIVISIONS = (FloorDiv, FloorMod, TruncDiv, TruncMod)


@dataclass(frozen=True)
class _Limit:
    """The condition `rest + indices[axis] < bound`; `part` is how a store says it."""

    axis: int
    rest: Expr
    bound: Expr
    part: LT

    def agrees(self, other: _Limit) -> bool:
        return (
            self.axis == other.axis
            and structural_equal(self.rest, other.rest)
            and structural_equal(self.bound, other.bound)
        )


@dataclass(frozen=True)
class _Site:
    """A store, the branch that it alone is under (or None), and the loops around it: all of them
    and those inside of the allocation."""

    store: BufferStore
    branch: IfThenElse | None
    loops: tuple[For, ...]
    inside: tuple[For, ...]

    @property
    def lanes(self) -> tuple[Var, ...]:
        return tuple(loop.var for loop in self.inside if loop.kind is ForKind.VECTORIZED)


def fill_lanes(func: PrimFunc) -> PrimFunc:
    """`func` (with buffers of several axes) whose local buffers are stored by whole vectors."""
    sites: dict[Buffer, list[_Site]] = {}
    _collect(func.body, (), {}, sites)
    changes: dict[IfThenElse, IfThenElse] = {}
    for found in sites.values():
        if any(site.lanes for site in found):
            changes.update(_filled(found))
    if not changes:
        return func
    return func.replace(body=rewrite(func.body, {}, memo=dict(changes)))


def _collect(
    stmt: Stmt, loops: tuple[For, ...], depth: dict[Buffer, int], sites: dict[Buffer, list[_Site]]
) -> None:
    branch = None
    if isinstance(stmt, Allocate):
        depth = {**depth, stmt.buffer: len(loops)}
    elif isinstance(stmt, For):
        loops = (*loops, stmt)
    elif isinstance(stmt, IfThenElse) and stmt.otherwise is None:
        branch, stmt = (stmt, stmt.then) if isinstance(stmt.then, BufferStore) else (None, stmt)
    if isinstance(stmt, BufferStore):
        if stmt.buffer in depth:
            site = _Site(stmt, branch, loops, loops[depth[stmt.buffer] :])
            sites.setdefault(stmt.buffer, []).append(site)
        return
    for child in stmt.children():
        if isinstance(child, Stmt):
            _collect(child, loops, depth, sites)


def _filled(sites: Sequence[_Site]) -> Iterator[tuple[IfThenElse, IfThenElse]]:
    """The branches of all stores to one buffer, with the conditions that they share by vectors."""
    first, *others = ([*_limits(site)] for site in sites)
    for limit in first:
        alike = [next((x for x in found if x.agrees(limit)), None) for found in others]
        limits = [limit, *(x for x in alike if x is not None)]
        if len(limits) == len(sites):
            for site, found in zip(sites, limits, strict=True):
                assert site.branch is not None
                yield site.branch, _by_vectors(site, found)
            return


def _limits(site: _Site) -> Iterator[_Limit]:
    """The conditions of a store that only say how far one of its indices goes."""
    if site.branch is None or not _harmless(site.store.value):
        return
    analyzer = _analyzer(site.loops)
    for part in conjuncts(site.branch.condition):
        if type(part) is not LT or not any(uses_var(part, lane) for lane in site.lanes):
            continue
        for axis, index in enumerate(site.store.indices):
            if not any(uses_var(index, lane) for lane in site.lanes):
                continue
            rest = analyzer.simplify(part.a - index)
            inner = {loop.var for loop in site.inside}
            invariant = not uses_var(rest, inner) and not uses_var(part.b, inner)
            if invariant and _inside(index, _room(site.store.buffer, axis), analyzer, ()):
                yield _Limit(axis, rest, part.b, part)


def _room(buffer: Buffer, axis: int) -> Expr:
    """Elements along an axis that a buffer has memory for: a row may be longer than it says."""
    strides = buffer.strides
    if strides is not None and 0 < axis == buffer.ndim - 1 and as_int(strides[axis]) == 1:
        return strides[axis - 1]
    return buffer.shape[axis]


def _harmless(value: Expr) -> bool:
    """Whether a value may be computed from any operands: nothing divides integers by what may be
    zero in the lanes that no one asked for, or calls what could do anything."""
    for found in pre_order(value):
        if isinstance(found, _DIVISIONS) and as_int(found.b) is None:
            return False
        if isinstance(found, Call) and found.name == "call_extern":
            return False
    return True


def _analyzer(loops: Sequence[For]) -> Analyzer:
    analyzer = Analyzer()
    for loop in loops:
        analyzer.bind(loop.var, loop.min, loop.extent)
    return analyzer


def _by_vectors(site: _Site, limit: _Limit) -> IfThenElse:
    """The branch of a site, whose condition asks for the first lane; a value that would read out of
    bounds in the other lanes is zero there."""
    assert site.branch is not None
    starts = {loop.var: loop.min for loop in site.inside if loop.kind is ForKind.VECTORIZED}
    parts = conjuncts(site.branch.condition)
    others = [part for part in parts if part is not limit.part]
    value, lanes = site.store.value, set(site.lanes)
    if not _in_bounds(value, lanes, _analyzer(site.loops), others):
        value = Call("if_then_else", (limit.part, value, const(0, value.dtype)), value.dtype)
    asked = [substitute(part, starts) if part is limit.part else part for part in parts]
    store = site.store.replace(value=value)
    return site.branch.replace(condition=all_of(*asked), then=store)  # type: ignore[no-any-return]


def _in_bounds(value: Expr, lanes: set[Var], analyzer: Analyzer, known: Sequence[Expr]) -> bool:
    """Whether what `value` reads in any lane lies in its buffer, as far as lanes decide it."""
    for load in pre_order(value):
        if not isinstance(load, BufferLoad):
            continue
        for index, extent in zip(load.indices, load.buffer.shape, strict=True):
            if uses_var(index, lanes) and not _inside(index, extent, analyzer, known):
                return False
    return True


def _inside(index: Expr, extent: Expr, analyzer: Analyzer, known: Sequence[Expr]) -> bool:
    with analyzer.assume(all_of(*known)):
        return analyzer.can_prove(index >= 0) and analyzer.can_prove(index < extent)
