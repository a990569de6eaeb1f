# SPDX-License-Identifier: Apache-2.0
"""While a task computes, bring near what the next one reads.

    for t in parallel(64):                     for t in parallel(64):
        for i in range(16):                        for i in range(16):
            for k in range(48):  # annotated  ->       for k in range(48):
                ... w[t * 2304 + k * 48 + ...]             prefetch(w[(t + 1) * 2304 + ...])
                                                           ... w[t * 2304 + k * 48 + ...]

A loop annotated `{"prefetch_next": name}` spreads the cache lines that the next iteration of the
parallel loop around it reads from the buffer over its own iterations and those of the loops
between. Weights that come from memory then arrive while there is work to do.

    for k in range(48):  # annotated           for k in range(48):
        for v in unrolled(2):           ->         prefetch(w[0 + (k + 8) * 16]), prefetch(w[...])
            ... w[v * 768 + k * 16 + lane]         ...

A loop annotated `{"prefetch_ahead": [name, iterations]}` fetches, into the first-level cache, the
lines that it reads so many iterations later.
"""

from __future__ import annotations

import itertools
import math
from typing import Final

from heddle.arith import Analyzer
from heddle.ir.expr import Call, Expr, Var, as_int, const
from heddle.ir.walk import pre_order, rewrite, substitute, uses_var
from heddle.schedule.pipeline import PREFETCH, PREFETCH_AHEAD
from heddle.tir.build import seq
from heddle.tir.intrin import prefetch
from heddle.tir.nodes import BufferLoad, Evaluate, For, ForKind, PrimFunc, Stmt

_LINE_BYTES: Final = 64
_MOST_LINES: Final = 32
"""Lines per iteration that may be fetched; more would be a stream of its own."""

_MOST_ELEMENTS: Final = 1024
"""Elements per iteration whose lines are counted one by one."""


def insert_prefetches(func: PrimFunc) -> PrimFunc:
    """`func` (flat) with the prefetches that its annotations ask for."""
    keys = {key for n in pre_order(func.body) if isinstance(n, For) for key in n.annotations}
    if PREFETCH in keys:
        changes: dict[For, For] = {}
        _collect(func.body, [], changes)
        func = func.replace(body=rewrite(func.body, {}, memo=dict(changes)))
    if PREFETCH_AHEAD in keys:
        func = func.replace(body=rewrite(func.body, {For: _fetching_ahead}))
    return func


def _collect(stmt: Stmt, around: list[For], changes: dict[For, For]) -> None:
    if isinstance(stmt, For):
        if PREFETCH in stmt.annotations:
            changes[stmt] = _with_prefetch(stmt, [*around, stmt])
            return
        around = [*around, stmt]
    for child in stmt.children():
        if isinstance(child, Stmt):
            _collect(child, around, changes)


def _without(loop: For, key: str) -> For:
    rest = {name: value for name, value in loop.annotations.items() if name != key}
    return loop.replace(annotations=rest)  # type: ignore[no-any-return]


def _fetching_ahead(loop: For) -> For:
    """`loop` with the prefetches of what it reads some iterations later."""
    if PREFETCH_AHEAD not in loop.annotations:
        return loop
    name, distance = loop.annotations[PREFETCH_AHEAD]
    plain, place = _without(loop, PREFETCH_AHEAD), _read(loop.body, name)
    offsets = None if place is None else _offsets(place, loop.body)
    if place is None or offsets is None:
        return plain
    inner = {n.var: n.min for n in pre_order(loop.body) if isinstance(n, For)}
    later = substitute(place.indices[0], {loop.var: loop.var + distance, **inner})
    lines = dict.fromkeys(offset * place.buffer.dtype.nbytes // _LINE_BYTES for offset in offsets)
    if len(lines) > _MOST_LINES:
        return plain
    each = _LINE_BYTES // place.buffer.dtype.nbytes
    fetches = [BufferLoad(place.buffer, (later + line * each,)) for line in lines]
    return plain.replace(  # type: ignore[no-any-return]
        body=seq(*(Evaluate(prefetch(fetch, 1)) for fetch in fetches), plain.body)
    )


def _read(body: Stmt, name: str) -> BufferLoad | None:
    """Where the loops of `body` read the buffer `name`; None when they do not."""
    hints = (n.args[0] for n in pre_order(body) if isinstance(n, Call) and n.name == "prefetch")
    skipped = set(map(id, hints))
    loads = (n for n in pre_order(body) if isinstance(n, BufferLoad) and id(n) not in skipped)
    return next((n for n in loads if n.buffer.name == name), None)


def _offsets(place: BufferLoad, body: Stmt) -> list[int] | None:
    """How far from the first each element is that the loops of `body` read; None when that is not
    known, or they are many."""
    loops = [n for n in pre_order(body) if isinstance(n, For)]
    walked = [n for n in loops if uses_var(place.indices[0], n.var)]
    extents = [as_int(n.extent) for n in walked]
    if None in extents or math.prod(e for e in extents if e) > _MOST_ELEMENTS:
        return None
    analyzer = Analyzer()
    start = substitute(place.indices[0], {n.var: n.min for n in loops})
    found: list[int] = []
    for steps in itertools.product(*(range(extent or 0) for extent in extents)):
        moved = {n.var: n.min + step for n, step in zip(walked, steps, strict=True)}
        rest = {n.var: n.min for n in loops if n not in walked}
        offset = as_int(analyzer.simplify(substitute(place.indices[0], {**rest, **moved}) - start))
        if offset is None:
            return None
        found.append(offset)
    return found


def _with_prefetch(loop: For, around: list[For]) -> For:
    """`loop` with prefetches at the start of its body, or as it is when they would not pay."""
    name = loop.annotations[PREFETCH]
    plain = _without(loop, PREFETCH)
    starts = [i for i, outer in enumerate(around) if outer.kind is ForKind.PARALLEL]
    nodes = list(pre_order(loop.body))
    load = _read(loop.body, name)
    extents = [as_int(n.extent) for n in around[starts[-1] + 1 :]] if starts else [None]
    if load is None or None in extents:
        return plain
    task, walked = around[starts[-1]], around[starts[-1] + 1 :]
    inner = [*walked, *(n for n in nodes if isinstance(n, For))]
    first = substitute(load.indices[0], {n.var: n.min for n in inner})
    span = _span(load.indices[0] - first, [*around[: starts[-1] + 1], *inner])
    if span is None:
        return plain
    per_line = _LINE_BYTES // load.buffer.dtype.nbytes
    steps, position = 1, const(0)
    for outer in walked:
        position = position * outer.extent + (outer.var - outer.min)
        steps *= as_int(outer.extent) or 1
    lines = -(-span // (per_line * steps))
    if lines > _MOST_LINES:
        return plain
    start = substitute(first, {task.var: task.var + 1})
    fetches = []
    for line in range(lines):
        place = start + (position * lines + line) * per_line
        fetches.append(Evaluate(prefetch(BufferLoad(load.buffer, (place,)), 2)))
    result: For = plain.replace(body=seq(*fetches, plain.body))
    return result


def _span(offset: Expr, loops: list[For]) -> int | None:
    """One more than the largest value of `offset`, when it starts at 0 and is bounded."""
    analyzer = Analyzer()
    bound: set[Var] = set()
    for loop in loops:
        if loop.var not in bound:
            analyzer.bind(loop.var, loop.min, loop.extent)
            bound.add(loop.var)
    interval = analyzer.bounds(offset)
    if interval.lo != 0 or not isinstance(interval.hi, int):
        return None
    return interval.hi + 1
