# SPDX-License-Identifier: Apache-2.0
"""`to_text`: any node as Python text, and what `str(node)` and `node.show()` print."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from heddle.graph import nodes as graph
from heddle.ir import BaseFunc, ExternFunc, GlobalVar, IRModule, Node, Type, pre_order
from heddle.ir import expr as E
from heddle.ir.node import set_printer
from heddle.script.names import Names, identifier, is_identifier, quote
from heddle.script.print_graph import GraphPrinter
from heddle.script.print_stmt import StmtPrinter
from heddle.tir.nodes import Buffer, BufferRegion, IterVar, PrimFunc, Range, Stmt


def to_text(
    root: Any,
    *,
    constants: dict[str, np.ndarray] | None = None,
    underline: Sequence[Stmt] = (),
) -> str:
    """`root` as Python text.

    An `IRModule`, a `PrimFunc` or a graph `Function` gives text that `parse` turns back into an
    equal one. Graph constants of more than 16 elements print as `G.constants["c0"]` and are added
    to `constants`, which `parse` takes again. Statements, expressions, buffers and types print
    as they stand in such text.

    underline: loops and blocks of the `PrimFunc` `root` to point at, by a line of carets below
    the header of each, for people to read.

    >>> from heddle.ir.expr import Var
    >>> to_text((Var("i") * 16 + 1) // 4)
    '(i * 16 + 1) // 4'
    """
    table = {} if constants is None else constants
    lines: list[str] = []
    names = Names()
    if isinstance(root, IRModule):
        _module(root, names, lines, table)
    elif isinstance(root, BaseFunc):
        stem = root.attrs.get("name") if isinstance(root, PrimFunc) else None
        name = stem if isinstance(stem, str) and is_identifier(stem) else "main"
        if underline and isinstance(root, PrimFunc):
            writer = StmtPrinter(names, lines)
            writer.function(root, name)
            return "\n".join(_underlined(lines, [writer.places.get(n) for n in underline]))
        _function(root, name, None, names, lines, table, 0)
    elif isinstance(root, graph.Binding):
        GraphPrinter(names, lines, table).binding(root)
    elif isinstance(root, graph.Branch):
        GraphPrinter(names, lines, table).branch(root, "result", root.result.type)
    elif isinstance(root, graph.GraphExpr):
        lines.append(GraphPrinter(names, lines, table).value(root))
    else:
        _fragment(root, names, lines)
    return "\n".join(lines)


def _underlined(lines: list[str], places: Iterable[tuple[int, int, int] | None]) -> Iterator[str]:
    """`lines`, each followed by the carets below its `places`."""
    marks: dict[int, str] = {}
    for row, start, end in filter(None, places):
        mark = marks.get(row, "").ljust(end)
        marks[row] = mark[:start] + "^" * (end - start) + mark[end:]
    for row, line in enumerate(lines):
        yield line
        if row in marks:
            yield marks[row]


def _fragment(root: Any, names: Names, lines: list[str]) -> None:
    writer = StmtPrinter(names, lines)
    if isinstance(root, Stmt):
        writer.run(lambda: writer.suite(root))
    elif isinstance(root, E.Expr):
        writer.write(lambda: writer.expr.text(root), (root,))
    elif isinstance(root, Buffer):
        lines.append(f"{writer.define(root)}: {writer.buffer_text(root, 'T.Buffer')}")
    elif isinstance(root, BufferRegion):
        lines.append(writer.expr.region(root))
    elif isinstance(root, Range):
        lines.append(f"{writer.expr.text(root.min)} +: {writer.expr.text(root.extent)}")
    elif isinstance(root, IterVar):
        extent, binding = writer.expr.text(root.extent), writer.expr.text(root.binding)
        lines.append(f"{writer.define(root.var)} = T.axis.{root.kind.value}({extent}, {binding})")
    elif isinstance(root, Type):
        lines.append(writer.expr.type(root))
    elif isinstance(root, GlobalVar):
        lines.append(root.name)
    else:
        lines.append(writer.expr.fallback(root))


def _function(
    func: BaseFunc,
    name: str,
    symbol: str | None,
    names: Names,
    lines: list[str],
    constants: dict[str, np.ndarray],
    indent: int,
) -> None:
    if isinstance(func, PrimFunc):
        StmtPrinter(names, lines, indent).function(func, name, symbol=symbol)
    elif isinstance(func, graph.Function):
        GraphPrinter(names, lines, constants, indent).function(func, name, symbol=symbol)
    elif isinstance(func, ExternFunc):
        lines.append("    " * indent + f"{name} = {_extern(func, symbol)}")
    else:
        lines.append("    " * indent + StmtPrinter(names, lines).expr.fallback(func))


def _extern(func: ExternFunc, symbol: str | None) -> str:
    suffix = f", name={quote(symbol)}" if symbol else ""
    return f"I.extern({quote(func.symbol)}{suffix})"


def _module(
    module: IRModule, names: Names, lines: list[str], constants: dict[str, np.ndarray]
) -> None:
    lines += ["@I.ir_module", "class Module:"]
    for name in module:
        if is_identifier(name):
            names.reserve(name)
    python_names = {n: n if is_identifier(n) else names.reserve(identifier(n)) for n in module}
    header = StmtPrinter(names, lines, 1)
    if module.attrs:
        header.line(f"I.module_attrs({header.expr.value(module.attrs)})")
    header.declare(_shared_vars(module.functions))
    count = len(lines)
    first: dict[BaseFunc, str] = {}
    for name, func in module.functions.items():
        if len(lines) > 2:
            lines.append("")
        python_name = python_names[name]
        symbol = None if python_name == name else name
        if func in first:
            suffix = f", name={quote(symbol)}" if symbol else ""
            header.line(f"{python_name} = I.same({first[func]}{suffix})")
            continue
        first[func] = python_name
        _function(func, python_name, symbol, names, lines, constants, 1)
    if len(lines) == count == 2:
        header.line("pass")


def _shared_vars(functions: Mapping[str, BaseFunc]) -> list[E.Var]:
    """The variables that occur in more than one function, in order."""
    owners: dict[E.Var, set[BaseFunc]] = {}
    for func in functions.values():
        for var in _vars(func):
            owners.setdefault(var, set()).add(func)
    return [var for var, users in owners.items() if len(users) > 1]


def _vars(func: Node) -> Iterable[E.Var]:
    for node in pre_order(func):
        if isinstance(node, E.Var):
            yield node
        elif isinstance(node, Buffer):
            for dim in node.layout:
                yield from (found for found in pre_order(dim) if isinstance(found, E.Var))


def show(root: Node) -> None:
    """Print `root`; with colours when standard output is a terminal and `rich` is installed."""
    text = to_text(root)
    if sys.stdout.isatty():
        try:
            from rich.console import Console  # optional, and slow to import
            from rich.syntax import Syntax
        except ImportError:
            pass
        else:
            syntax = Syntax(text, "python", background_color="default", word_wrap=True)
            Console().print(syntax)
            return
    print(text)


set_printer(to_text, show)
