# SPDX-License-Identifier: Apache-2.0
"""Blocks out of plain loops.

    for i (data_par):                      for i:
        C[i] = 0.0                             for k:
        for k (reduce):              ->            with block("C"):
            C[i] = C[i] + A[i, k]                      vi spatial = i, vk reduction = k
                                                       init: C[vi] = 0.0
                                                       C[vi] = C[vi] + A[vi, vk]

Loops with an iteration type are axes. In the suite of an axis (or of the function), each longest
run of statements that hold no axis becomes one block over all axes around it. Stores right before a
nest of reduction axes that writes the same elements are the init of its block. A loop without a
type is part of its block; one that has axes inside is an axis whose iterations run in order.
Names whose value changes, and buffers allocated in a suite, live inside the block of the suite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from heddle.arith import Analyzer
from heddle.ir.expr import Expr, Var, add, as_int, const
from heddle.ir.node import Node
from heddle.ir.structural import structural_equal
from heddle.ir.walk import pre_order, rewrite, substitute, uses_var
from heddle.support import UserError
from heddle.tir.access import detect_access_regions
from heddle.tir.build import make_block, seq
from heddle.tir.nodes import (
    Allocate,
    Assert,
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    For,
    ForKind,
    IterKind,
    IterVar,
    LetStmt,
    Seq,
    Stmt,
)

_MARK: Final = "iter_type"
_KINDS: Final = {
    "data_par": (IterKind.SPATIAL, ForKind.SERIAL),
    "reduce": (IterKind.REDUCTION, ForKind.SERIAL),
    "ordered": (IterKind.ORDERED, ForKind.SERIAL),
    "parallel": (IterKind.SPATIAL, ForKind.PARALLEL),
    "vectorized": (IterKind.SPATIAL, ForKind.VECTORIZED),
    "unrolled": (IterKind.SPATIAL, ForKind.UNROLLED),
}
ITER_TYPES: Final = (*_KINDS, "opaque")
"""What `iter_range` takes: "parallel", "vectorized" and "unrolled" are "data_par" that say how."""


def mark(iter_type: str) -> tuple[ForKind, Mapping[str, object]]:
    """Kind and annotations of a raw loop of an iteration type."""
    if iter_type == "opaque":
        return ForKind.SERIAL, {}
    return _KINDS[iter_type][1], {_MARK: iter_type}


@dataclass(frozen=True, slots=True)
class _Axis:
    loop: For
    kind: IterKind


@dataclass
class _Former:
    names: set[str] = field(default_factory=lambda: {"root"})

    def name(self, stem: str) -> str:
        """A block name that is not taken."""
        found, count = stem, 0
        while found in self.names:
            count += 1
            found = f"{stem}_{count}"
        self.names.add(found)
        return found

    def form(self, stmt: Stmt, axes: tuple[_Axis, ...]) -> Stmt:
        """`stmt`, inside of `axes`, with its blocks."""
        made: list[Stmt] = []
        groups = _groups(stmt)
        init: list[BufferStore] = []
        for place, group in enumerate(groups):
            loop = group[0]
            if isinstance(loop, For) and _is_axis(loop):
                made.append(self.axis(loop, axes, init))
                init = []
                continue
            if not axes and all(isinstance(item, Assert) and not _loads(item) for item in group):
                made.extend(group)
                continue
            following = groups[place + 1][0] if place + 1 < len(groups) else None
            init = _init_stores(group, following)
            rest = [item for item in group if item not in init]
            if rest:
                made.append(self.block(seq(*rest), axes, None))
        return seq(*made)

    def axis(self, loop: For, axes: tuple[_Axis, ...], init: Sequence[Stmt]) -> Stmt:
        """A loop that is an axis; `init` belongs to the only block inside."""
        kind = _KINDS[str(loop.annotations.get(_MARK, "ordered"))][0]
        inner = (*axes, _Axis(loop, kind))
        if init:
            chain = isinstance(loop.body, For)
            body = (
                self.axis(loop.body, inner, init)  # type: ignore[arg-type]
                if chain
                else self.block(loop.body, inner, seq(*init))
            )
        else:
            body = self.form(loop.body, inner)
        return For(const(0), loop.extent, loop.kind, loop.var, body, span=loop.span)

    def block(self, body: Stmt, axes: tuple[_Axis, ...], init: Stmt | None) -> Stmt:
        """One block over the axes."""
        local = [found.buffer for found in pre_order(body) if isinstance(found, Allocate)]
        body = rewrite(body, {For: _plain, Allocate: lambda found: found.body})
        body = rewrite(body, {Seq: lambda found: seq(*found.stmts)})
        _check(body, axes, set(local))
        iters = []
        values: dict[Var, Expr] = {}
        for axis in axes:
            loop = axis.loop
            var = Var(f"v{loop.var.name}", span=loop.var.span)
            iters.append(IterVar(loop.extent, axis.kind, loop.var, var, span=loop.span))
            values[loop.var] = add(var, substitute(loop.min, values))
        written = _stores(body)
        stems = [found.buffer.name for found in written if found.buffer not in local]
        block = make_block(
            self.name(stems[0] if stems else "block"),
            iters,
            substitute(body, values),
            reads=(),
            writes=(),
            init=None if init is None else substitute(init, values),
            alloc_buffers=local,
        )
        reads, writes = detect_access_regions(block)
        made: Block = block.replace(reads=reads, writes=writes)
        made.span = body.span
        return made


def form_blocks(body: Stmt) -> Stmt:
    """The statements of a function with their blocks. Raises `UserError` for loops whose
    iterations do not do what their type promises."""
    return _Former().form(body, ())


# -- groups ---------------------------------------------------------------------------------------


def _groups(stmt: Stmt) -> list[list[Stmt]]:
    """Axis loops one by one, and runs of other statements."""
    groups: list[list[Stmt]] = []
    run: list[Stmt] = []
    for item in stmt.stmts if isinstance(stmt, Seq) else (stmt,):
        if isinstance(item, For) and _is_axis(item):
            if run:
                groups.append(run)
            groups.append([item])
            run = []
        else:
            run.append(item)
    if run:
        groups.append(run)
    return groups


def _is_axis(loop: For) -> bool:
    return any(isinstance(found, For) and _MARK in found.annotations for found in pre_order(loop))


def _plain(loop: For) -> For:
    """An axis inside a block is a loop of its body."""
    if _MARK not in loop.annotations:
        return loop
    kept: For = loop.replace(kind=ForKind.SERIAL, annotations={})
    return kept


def _init_stores(run: Sequence[Stmt], following: Stmt | None) -> list[BufferStore]:
    """The stores of `run` that start the reduction which follows; none if they do not cover it."""
    leaf = following
    while isinstance(leaf, For) and leaf.annotations.get(_MARK) == "reduce":
        leaf = leaf.body
    if leaf is None or leaf is following or any(map(_has_axis, pre_order(leaf))):
        return []
    if any(isinstance(found, Allocate) for found in pre_order(leaf)):
        return []
    targets = _stores(leaf)
    init = [item for item in run if isinstance(item, BufferStore) and _among(item, targets)]
    if not targets or not all(_among(target, init) for target in targets):
        return []
    written = {item.buffer for item in init}
    touched = any(
        isinstance(found, BufferLoad) and found.buffer in written
        for item in run
        for found in pre_order(item)
    )
    return [] if touched or len(init) != len(written) else init


def _has_axis(found: Node) -> bool:
    return isinstance(found, For) and _MARK in found.annotations


def _among(store: BufferStore, others: Iterable[BufferStore]) -> bool:
    return any(
        other.buffer is store.buffer and _same(other.indices, store.indices) for other in others
    )


def _same(left: Sequence[Expr], right: Sequence[Expr]) -> bool:
    return all(structural_equal(a, b) for a, b in zip(left, right, strict=True))


def _stores(root: Node) -> list[BufferStore]:
    return [found for found in pre_order(root) if isinstance(found, BufferStore)]


def _loads(root: Node) -> list[BufferLoad]:
    return [found for found in pre_order(root) if isinstance(found, BufferLoad)]


# -- checks ---------------------------------------------------------------------------------------


def _check(body: Stmt, axes: Sequence[_Axis], local: set[Buffer]) -> None:
    """Raise `UserError` where iterations of an axis certainly are not what its type says."""
    stores = [found for found in _stores(body) if found.buffer not in local]
    loads = [found for found in _loads(body) if found.buffer not in local]
    inner = {found.var for found in pre_order(body) if isinstance(found, (For, LetStmt))}
    for place, axis in enumerate(axes):
        if as_int(axis.loop.extent) == 1:
            continue
        if axis.kind is IterKind.SPATIAL:
            changing = inner | {other.loop.var for other in axes[place:]}
            _check_data_par(axis.loop, stores, loads, changing)
        elif axis.kind is IterKind.REDUCTION:
            _check_reduce(axis.loop, stores, loads)


def _check_data_par(
    loop: For,
    stores: Sequence[BufferStore],
    loads: Sequence[BufferLoad],
    changing: set[Var],
) -> None:
    name, var = loop.var.name, loop.var
    for store in stores:
        if not any(uses_var(index, var) for index in store.indices):
            raise UserError(
                f"iterations of the data_par loop `{name}` would all write `{_text(store)}`; a "
                'loop that accumulates is iter_type="reduce", one that runs in order "ordered"',
                span=store.span,
            )
    for load in loads:
        for store in stores:
            if store.buffer is load.buffer and _crosses(var, store, load, changing):
                raise UserError(
                    f"iterations of the data_par loop `{name}` read `{_text(load)}`, which other "
                    f"iterations write (`{_text(store)}`); a loop whose iterations run in order "
                    'is iter_type="ordered"',
                    span=load.span or store.span,
                )


def _crosses(var: Var, store: BufferStore, load: BufferLoad, changing: set[Var]) -> bool:
    """Whether an iteration may read what another one writes. `changing`: the variables that are
    not the same in all iterations."""
    for written, read in zip(store.indices, load.indices, strict=True):
        if uses_var(written, var):
            if structural_equal(written, read):
                return False
        elif not uses_var(written, changing) and not uses_var(read, changing):
            distance = as_int(Analyzer().simplify(read - written))
            if distance:  # another row altogether
                return False
    return True


def _check_reduce(loop: For, stores: Sequence[BufferStore], loads: Sequence[BufferLoad]) -> None:
    name = loop.var.name
    read = {load.buffer for load in loads}
    for store in stores:
        if any(uses_var(index, loop.var) for index in store.indices):
            raise UserError(
                f"the reduce loop `{name}` is an index of what it writes, `{_text(store)}`; "
                'independent iterations are iter_type="data_par"',
                span=store.span,
            )
    if stores and not any(store.buffer in read for store in stores):
        raise UserError(
            f"the reduce loop `{name}` does not accumulate: each iteration overwrites "
            f"`{_text(stores[0])}`",
            span=stores[0].span,
        )


def _text(access: BufferStore | BufferLoad) -> str:
    return f"{access.buffer.name}[{', '.join(str(index) for index in access.indices)}]"


__all__ = ["ITER_TYPES", "form_blocks", "mark"]
