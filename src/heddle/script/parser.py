# SPDX-License-Identifier: Apache-2.0
"""`parse`: Python text to IR. The text is never executed: its syntax tree is walked."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from heddle.graph import nodes as graph
from heddle.ir import BaseFunc, ExternFunc, IRModule
from heddle.ir.expr import Var
from heddle.script.parse_base import Context, Declared, ParserBase, Source
from heddle.script.parse_graph import GraphParser
from heddle.script.parse_stmt import StmtParser
from heddle.support import UserError
from heddle.tir.nodes import PrimFunc

Parsed: TypeAlias = "IRModule | PrimFunc | graph.Function"
_DECORATORS = ("T.prim_func", "G.function", "I.ir_module")


def parse(
    text: str, *, constants: Mapping[str, np.ndarray] | None = None, file: str = "<script>"
) -> Parsed:
    """The module or function that `text` describes.

    A class with `@I.ir_module`, or several functions, give an `IRModule`; one function gives a
    `PrimFunc` or a graph `Function`. `constants` is the table that `to_text` filled.

    Raises `UserError`, with line, column and a caret, for anything that is not such a script.
    """
    source = Source(text, file)
    context = Context(source, constants=constants or {})
    tree = syntax_tree(source, text)
    items = [node for node in tree.body if not _is_ignored(node)]
    result: Parsed = guarded(context, lambda: _parse_items(context, items))
    return result


def syntax_tree(source: Source, text: str) -> ast.Module:
    """The syntax tree of a script; Python's complaints become ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.parse(text)
    except SyntaxError as error:
        line, column = error.lineno or 1, max(0, (error.offset or 1) - 1)
        end = column + 1
        if error.end_lineno == error.lineno and error.end_offset:
            end = max(end, error.end_offset - 1)
        span = source.at(line, column, line, end)
        raise UserError(f"not Python syntax: {error.msg}", span=span) from None
    except ValueError as error:
        raise UserError(f"not Python text: {error}", span=source.at(1, 0, 1, 1)) from None
    except (RecursionError, MemoryError):
        span = source.at(1, 0, 1, 1)
        raise UserError("the script is nested too deeply to be parsed", span=span) from None


def guarded(context: Context, work: Callable[[], Any]) -> Any:
    """The result of `work`; nesting that exhausts Python's stack is the script's mistake."""
    try:
        return work()
    except RecursionError:
        span = context.source.at(1, 0, 1, 1)
        raise UserError("the script is nested too deeply to be parsed", span=span) from None


def _is_ignored(node: ast.stmt) -> bool:
    """Imports and documentation around a script mean nothing to it."""
    documentation = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return documentation or isinstance(node, (ast.Import, ast.ImportFrom))


def _parse_items(context: Context, items: Sequence[ast.stmt]) -> Parsed:
    if not items:
        raise UserError("the script is empty", span=context.source.at(1, 0, 1, 1))
    if len(items) == 1 and isinstance(items[0], ast.ClassDef):
        return parse_module(context, items[0])
    if len(items) == 1 and isinstance(items[0], ast.FunctionDef):
        return parse_function(context, items[0])
    return _parse_members(context, items)


def parse_module(context: Context, node: ast.ClassDef) -> IRModule:
    """The module that a class describes."""
    base = ParserBase(context)
    names = [_decorator(base, item)[0] for item in node.decorator_list]
    if names != ["I.ir_module"]:
        base.fail(node, f"class `{node.name}` needs the decorator @I.ir_module")
    module = _parse_members(context, [item for item in node.body if not _is_ignored(item)])
    module.span = context.source.span(node)
    return module


def _parse_members(context: Context, items: Sequence[ast.stmt]) -> IRModule:
    parser = StmtParser(context)
    for item in items:
        _declare_name(parser, item)
    functions: dict[str, BaseFunc] = {}
    attrs: dict[str, Any] = {}
    for item in items:
        if isinstance(item, ast.Pass):
            continue
        if isinstance(item, ast.FunctionDef):
            functions[context.functions[item.name]] = parse_function(context, item)
        elif isinstance(item, ast.Assign):
            _member(parser, item, functions)
        else:
            call = item.value if isinstance(item, ast.Expr) else item
            if parser.called(call, "I") != "module_attrs" or not isinstance(call, ast.Call):
                parser.fail(item, "expected a function, I.extern(...) or I.module_attrs(...)")
            attrs.update(parser.attribute_dict(parser.arguments(call, ("attrs",))["attrs"]))
    return IRModule(functions, attrs)


def _declare_name(parser: StmtParser, item: ast.stmt) -> None:
    """Note the functions and the shared variables of a module before any body is parsed."""
    context = parser.context
    real: str | None = None
    if isinstance(item, ast.FunctionDef):
        name = item.name
        _, keywords = _function_decorator(parser, item)
        real = keywords.get("name")
    elif isinstance(item, ast.Assign) and isinstance(item.value, ast.Call):
        name = parser.target(item)
        if parser.called(item.value) == "var":
            dtype = parser.dtype(parser.arguments(item.value, ("dtype",))["dtype"])
            context.shared[name] = Declared(Var(name, dtype))
            return
        for keyword in item.value.keywords:
            if keyword.arg == "name":
                real = parser.string(keyword.value, "a name")
    else:
        return
    if name in context.functions:
        parser.fail(item, f"the module has two functions `{name}`")
    context.functions[name] = real or name


def _member(parser: StmtParser, item: ast.Assign, functions: dict[str, BaseFunc]) -> None:
    """`f = I.extern("symbol")`, `f = I.same(g)`, `n = T.var("int64")`."""
    call, name = item.value, parser.target(item)
    form = parser.called(call, "I")
    if not isinstance(call, ast.Call) or parser.called(call) == "var":
        if not isinstance(call, ast.Call):
            parser.fail(item, 'expected I.extern(...), I.same(...) or T.var("int64")')
        return
    real = parser.context.functions[name]
    if form == "extern":
        given = parser.arguments(call, ("symbol",), ("name",))
        symbol = parser.string(given["symbol"], "a symbol")
        functions[real] = ExternFunc(symbol, span=parser.span(item))
    elif form == "same":
        other = parser.arguments(call, ("function",), ("name",))["function"]
        known = parser.context.functions.get(getattr(other, "id", ""), "")
        if known not in functions:
            parser.fail(other, f"there is no function `{ast.unparse(other)}` above")
        functions[real] = functions[known]
    else:
        parser.fail(item, 'expected I.extern(...), I.same(...) or T.var("int64")')


def parse_function(context: Context, node: ast.FunctionDef) -> PrimFunc | graph.Function:
    """The function that a `def` with its decorator describes."""
    parser = StmtParser(context)
    kind, options = _function_decorator(parser, node)
    name = options.get("name", node.name)
    if kind == "G.function":
        return GraphParser(context).function(node)
    return parser.function(node, name=name, root=options.get("root", True))


def _function_decorator(parser: ParserBase, node: ast.FunctionDef) -> tuple[str, dict[str, Any]]:
    found = [_decorator(parser, item) for item in node.decorator_list]
    if len(found) != 1 or found[0][0] not in ("T.prim_func", "G.function"):
        parser.fail(
            node, f"function `{node.name}` needs one decorator: @T.prim_func or @G.function"
        )
    return found[0]


def _decorator(parser: ParserBase, node: ast.expr) -> tuple[str, dict[str, Any]]:
    """Name and keyword arguments of a decorator."""
    call = node if isinstance(node, ast.Call) else None
    name = ast.unparse(call.func if call is not None else node)
    if name not in _DECORATORS:
        parser.fail(node, f"`@{name}` is not one of @{', @'.join(_DECORATORS)}")
    options: dict[str, Any] = {}
    for keyword in [] if call is None else call.keywords:
        if keyword.arg not in ("name", "root") or not isinstance(keyword.value, ast.Constant):
            parser.fail(keyword, f"@{name} has no option `{ast.unparse(keyword)}`")
        options[keyword.arg] = keyword.value.value
    return name, options
