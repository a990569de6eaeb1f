# SPDX-License-Identifier: Apache-2.0
"""Software pipelines: the parts of a loop body run for different iterations at the same time.

    for i in range(8):                        for i in range(9):
        L = allocate((64,))                       (L = allocate((2, 64)) outside)
        L[:] = A[i, :]           # stage 0        if i < 8: L[i % 2, :] = A[i, :]
        B[i] = sum(L[:])         # stage 1        if i >= 1: B[i - 1] = sum(L[(i - 1) % 2, :])

Buffers that live in one iteration get a copy for each iteration under way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from heddle.ir.expr import Expr, const, logical_and
from heddle.ir.walk import pre_order, rewrite, substitute
from heddle.tir.build import load, seq, store
from heddle.tir.nodes import (
    Allocate,
    Buffer,
    BufferLoad,
    BufferStore,
    For,
    ForKind,
    IfThenElse,
    PrimFunc,
    Seq,
    Stmt,
)

KEY = "software_pipeline"
PREFETCH = "prefetch_next"
"""The annotation of a loop that fetches what the next task reads of the buffer named there."""
PREFETCH_AHEAD = "prefetch_ahead"
"""The annotation of a loop that fetches what it will read of a buffer: [name, iterations]."""


def pipeline_parts(loop: For) -> tuple[list[Buffer], tuple[Stmt, ...]]:
    """The buffers that live in one iteration of a loop, and the statements of its body."""
    private: list[Buffer] = []
    body = loop.body
    while type(body) is Allocate:
        private.append(body.buffer)
        body = body.body
    return private, body.stmts if type(body) is Seq else (body,)


def pipeline_conflict(loop: For, stages: Sequence[int]) -> str:
    """Why the parts of `loop` (after `compact_buffers`) cannot run at these stages; empty when
    they can."""
    private, parts = pipeline_parts(loop)
    if len(parts) != len(stages):
        return f"the body has {len(parts)} statements, there are {len(stages)} stages"
    touched = [_touched(part) for part in parts]
    for number, later in enumerate(touched):
        for before, earlier in enumerate(touched[:number]):
            for buffer in earlier.keys() & later.keys():
                if stages[before] == stages[number] or not (earlier[buffer] or later[buffer]):
                    continue
                if buffer not in private:
                    return (
                        f"statements {before} and {number} of different stages share "
                        f"`{buffer.name}`, which carries values from one iteration to another"
                    )
                if stages[before] > stages[number]:
                    return (
                        f"statement {number} uses `{buffer.name}` of statement {before}, and would "
                        "run before it"
                    )
    return ""


def _touched(stmt: Stmt) -> dict[Buffer, bool]:
    """The buffers that a statement accesses, and whether it writes them."""
    found: dict[Buffer, bool] = {}
    for node in pre_order(stmt):
        if type(node) is BufferStore:
            found[node.buffer] = True
        elif type(node) is BufferLoad:
            found.setdefault(node.buffer, False)
    return found


def inject_software_pipeline(func: PrimFunc) -> PrimFunc:
    """`func` (without blocks) with the loops annotated by the primitive run as pipelines."""
    body: Stmt = rewrite(func.body, {For: _pipelined})
    result: PrimFunc = func.replace(body=body)
    return result


def _pipelined(loop: For) -> Stmt:
    stages: Any = loop.annotations.get(KEY)
    if stages is None:
        return loop
    rest = {key: value for key, value in loop.annotations.items() if key != KEY}
    plain: For = loop.replace(annotations=rest)
    # A later primitive may have changed the body: then the loop runs as it is.
    if loop.kind is not ForKind.SERIAL or pipeline_conflict(loop, stages):
        return plain
    private, parts = pipeline_parts(loop)
    outer: list[Buffer] = []
    versions: dict[Buffer, Buffer] = {}
    for buffer in private:
        used = [s for s, part in zip(stages, parts, strict=True) if buffer in _touched(part)]
        count = max(used) - min(used) + 1 if used else 1
        shape = (const(count), *buffer.shape)
        versions[buffer] = buffer.replace(shape=shape, strides=_strides(buffer))
        outer.append(versions[buffer])
    last = max(stages)
    made = [_part(loop, part, stage, versions) for part, stage in zip(parts, stages, strict=True)]
    body: Stmt = plain.replace(extent=loop.extent + last, min=const(0), body=seq(*made))
    for buffer in reversed(outer):
        body = Allocate(buffer, body)
    return body


def _strides(buffer: Buffer) -> tuple[Expr, ...] | None:
    if buffer.strides is None:
        return None
    return (buffer.strides[0] * buffer.shape[0], *buffer.strides)


def _part(loop: For, part: Stmt, stage: int, versions: dict[Buffer, Buffer]) -> Stmt:
    """`part` for the iteration that it runs `stage` steps late."""
    number = loop.var - stage

    def slot(buffer: Buffer) -> Expr:
        return number % versions[buffer].shape[0]

    moved: Any = substitute(part, {loop.var: loop.min + number})
    moved = rewrite(
        moved,
        {
            BufferLoad: lambda n: (
                load(versions[n.buffer], (slot(n.buffer), *n.indices))
                if n.buffer in versions
                else n
            ),
            BufferStore: lambda n: (
                store(versions[n.buffer], n.value, (slot(n.buffer), *n.indices))
                if n.buffer in versions
                else n
            ),
        },
    )
    condition = logical_and(number >= 0, number < loop.extent) if stage else number < loop.extent
    return IfThenElse(condition, moved)
