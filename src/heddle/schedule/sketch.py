# SPDX-License-Identifier: Apache-2.0
"""A function in a few lines: its loops and assignments, without declarations and blocks.

    for i, j, k in grid(6, 8, 5):
        with init: C[i, j] = 0.0
        C[i, j] = C[i, j] + A[i, k] * B[k, j]

For documentation and for a first look; `heddle.script.to_text` prints all there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from heddle.arith import Analyzer
from heddle.ir.expr import Expr, as_int
from heddle.ir.walk import rewrite, substitute
from heddle.tir.nodes import (
    Allocate,
    Block,
    Buffer,
    BufferStore,
    For,
    ForKind,
    IfThenElse,
    PrimFunc,
    Seq,
    Stmt,
)

_WORDS = {
    ForKind.SERIAL: "range",
    ForKind.PARALLEL: "parallel",
    ForKind.VECTORIZED: "vectorized",
    ForKind.UNROLLED: "unrolled",
}


def sketch(func: PrimFunc) -> str:
    """The loops and assignments of `func`; iteration variables are replaced by their bindings."""
    return "\n".join(_lines(func.body))


def _lines(stmt: Stmt) -> Iterator[str]:
    if type(stmt) is Seq:
        for child in stmt.stmts:
            yield from _lines(child)
    elif type(stmt) is Block:
        yield from _block(stmt)
    elif type(stmt) is For:
        yield from _loop(stmt)
    elif type(stmt) is Allocate:
        yield _allocation(stmt.buffer)
        yield from _lines(stmt.body)
    elif type(stmt) is IfThenElse:
        yield f"if {stmt.condition}:"
        yield from _indented(stmt.then)
        if stmt.otherwise is not None:
            yield "else:"
            yield from _indented(stmt.otherwise)
    else:
        yield from str(stmt).splitlines()


def _indented(stmt: Stmt) -> Iterator[str]:
    return ("    " + line for line in _lines(stmt))


def _allocation(buffer: Buffer) -> str:
    strides = "" if buffer.strides is None else f", strides={_tuple(buffer.strides)}"
    scope = "" if buffer.scope == "global" else f', scope="{buffer.scope}"'
    return f"{buffer.name} = alloc({_tuple(buffer.shape)}{strides}{scope})"


def _tuple(values: tuple[Expr, ...]) -> str:
    return f"({', '.join(map(str, values))}{',' if len(values) == 1 else ''})"


def _loop(loop: For) -> Iterator[str]:
    nest = [loop]
    while _plain(nest[-1]) and type(nest[-1].body) is For and _plain(nest[-1].body):
        nest.append(nest[-1].body)
    if len(nest) > 1:
        names = ", ".join(item.var.name for item in nest)
        yield f"for {names} in grid({', '.join(str(item.extent) for item in nest)}):"
    else:
        start = "" if as_int(loop.min) == 0 else f"{loop.min}, "
        end = loop.extent if not start else Analyzer().simplify(loop.min + loop.extent)
        told = {k: v for k, v in loop.annotations.items() if not k.endswith("_digest")}
        notes = "".join(f", {key}={value!r}" for key, value in told.items())
        yield f"for {loop.var.name} in {_WORDS[loop.kind]}({start}{end}{notes}):"
    yield from _indented(nest[-1].body)


def _plain(loop: For) -> bool:
    return loop.kind is ForKind.SERIAL and as_int(loop.min) == 0 and not loop.annotations


def _block(block: Block) -> Iterator[str]:
    if not block.iters and not block.writes:
        for buffer in block.alloc_buffers:
            yield _allocation(buffer)
        yield from _lines(block.body)
        return
    analyzer = Analyzer()
    values = {bound.var: bound.binding for bound in block.iters}

    def shown(stmt: Stmt) -> Stmt:
        bound: Any = substitute(stmt, values)
        handlers: dict[type, Callable[[Any], Any]] = {
            BufferStore: lambda s: s.map(analyzer.simplify)
        }
        result: Stmt = rewrite(bound, handlers)
        return result

    lines = [_allocation(buffer) for buffer in block.alloc_buffers]
    if block.init is not None:
        first = list(_lines(shown(block.init)))
        nested = ["with init:", *("    " + line for line in first)]
        lines += [f"with init: {first[0]}"] if len(first) == 1 else nested
    lines += _lines(shown(block.body))
    if block.name not in {region.buffer.name for region in block.writes}:
        lines[0] += f"  # {block.name}"
    lines += [f"# {key}: {value!r}" for key, value in block.annotations.items()]
    if as_int(block.predicate):
        yield from lines
        return
    yield f"if {analyzer.simplify(block.predicate)}:"
    yield from ("    " + line for line in lines)
