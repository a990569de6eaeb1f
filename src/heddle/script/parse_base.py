# SPDX-License-Identifier: Apache-2.0
"""What all script parsers share: source positions, scopes, errors with a caret."""

from __future__ import annotations

import ast
import difflib
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np

from heddle.ir import BaseFunc, DType
from heddle.ir.expr import Expr, Var
from heddle.support import Span, UserError

NAMESPACES = ("T", "G", "I", "op")
_MAX_MACROS = 32


class Source:
    """A script's text, and where it stands: `line` and `column` are added to positions in it."""

    def __init__(
        self, text: str, file: str, *, line: int = 0, column: int = 0, in_file: bool = False
    ) -> None:
        self.lines = text.splitlines()
        self.file = file
        self.line = line
        self.column = column
        self.in_file = in_file

    def span(self, node: ast.AST) -> Span:
        """The range that a syntax tree node covers."""
        first, last = node.lineno, node.end_lineno or node.lineno  # type: ignore[attr-defined]
        start = self._characters(first, node.col_offset)  # type: ignore[attr-defined]
        end = self._characters(last, node.end_col_offset or 0)  # type: ignore[attr-defined]
        return self.at(first, start, last, end)

    def at(self, first: int, start: int, last: int, end: int) -> Span:
        """The span of a range of this text."""
        text = None
        if not self.in_file:
            text = self.lines[first - 1] if 0 < first <= len(self.lines) else ""
        return Span(
            self.file,
            first + self.line,
            start + self.column,
            end_line=last + self.line,
            end_column=end + self.column,
            text=text,
        )

    def _characters(self, line: int, offset: int) -> int:
        """`ast` counts columns in bytes of UTF-8; a caret needs characters."""
        text = self.lines[line - 1] if 0 < line <= len(self.lines) else ""
        if text.isascii():
            return offset
        return len(text.encode()[:offset].decode(errors="ignore"))


@dataclass
class Declared:
    """A variable declared by `T.var`: the binder of that name takes this very variable."""

    var: Var


@dataclass
class Context:
    """What a script is parsed with: its source, the names around it, the module it belongs to."""

    source: Source
    outer: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    functions: dict[str, str] = field(default_factory=dict)
    """Python name -> name of the functions of the module."""
    shared: dict[str, Declared] = field(default_factory=dict)


@dataclass
class Macro:
    """A function with `@T.macro`: its body takes the place of a call."""

    node: ast.FunctionDef
    context: Context

    def body(self) -> list[ast.stmt]:
        """The statements without documentation."""
        first = self.node.body[0]
        documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        return self.node.body[1:] if documented else self.node.body


class ParserBase:
    """Scopes and errors."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.scopes: list[dict[str, Any]] = [dict(context.shared)]
        self.implicit_symbols = False
        self.macro_depth = 0
        """How many macros are being expanded."""
        self._declared: set[Var] = set()

    # -- errors ------------------------------------------------------------------------------

    def span(self, node: ast.AST) -> Span:
        return self.context.source.span(node)

    def fail(self, node: ast.AST, message: str) -> NoReturn:
        """Raise the user's error at `node`."""
        raise UserError(message, span=self.span(node))

    @contextmanager
    def located(self, node: ast.AST) -> Iterator[None]:
        """Errors of builders that know no position get the one of `node`."""
        try:
            yield
        except UserError as error:
            if error.span is not None:
                raise
            raise UserError(error.message, span=self.span(node)) from None

    # -- scopes ------------------------------------------------------------------------------

    @contextmanager
    def scope(self) -> Iterator[None]:
        """A nested scope."""
        self.scopes.append({})
        try:
            yield
        finally:
            self.scopes.pop()

    def lookup(self, name: str) -> Any:
        """What `name` means in the script itself, or None."""
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        return None

    def bind(self, node: ast.AST, name: str, make: Callable[[], Any]) -> Any:
        """Define `name` in the current scope as `make()`, or as the variable declared for it."""
        found = self.lookup(name)
        if isinstance(found, Declared):
            self.scopes[-1][name] = found.var
            self._declared.add(found.var)
            return found.var
        if found in self._declared:
            return found
        if name in NAMESPACES:
            self.fail(node, f"`{name}` is a namespace of the script and cannot be a name")
        if found is not None:
            self.fail(
                node,
                f"`{name}` is already defined here; names are bound once "
                "(a value that changes lives in a buffer)",
            )
        self.scopes[-1][name] = value = make()
        return value

    @contextmanager
    def inside(self, macro: Macro, values: dict[str, Any], call: ast.AST) -> Iterator[None]:
        """Parse in the place where `macro` was written: it sees its parameters, not the caller.
        Errors tell both the macro's line and that of `call`."""
        context, scopes = self.context, self.scopes
        place = (f"in macro `{macro.node.name}`, called here", self.span(call))
        if self.macro_depth >= _MAX_MACROS:
            self.fail(call, f"macro `{macro.node.name}`: macros call each other without an end")
        self.context = replace(
            macro.context,
            constants=context.constants,
            functions=context.functions,
            shared=context.shared,
        )
        self.scopes = [{}, values]
        self.macro_depth += 1
        try:
            yield
        except UserError as error:
            callers = (*error.callers, place)
            raise UserError(error.message, span=error.span, callers=callers) from None
        finally:
            self.macro_depth -= 1
            self.context, self.scopes = context, scopes

    def macro(self, node: ast.AST) -> Macro | None:
        """The macro that a call names, or None."""
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            return None
        if self.lookup(node.func.id) is not None:
            return None
        found = self.context.outer.get(node.func.id)
        return found if isinstance(found, Macro) else None

    def outer_value(self, name: str) -> Any:
        """The value of a name around a decorated script if it is one that scripts may use."""
        value = self.context.outer.get(name)
        if isinstance(value, np.generic):
            value = value.item()
        usable = (bool, int, float, str, Expr, DType, types.ModuleType)
        if isinstance(value, usable) and not isinstance(value, BaseFunc):
            return value
        if isinstance(value, (tuple, list)) and all(isinstance(item, usable) for item in value):
            return tuple(value)
        return None

    def unknown_name(self, node: ast.AST, name: str) -> NoReturn:
        """Raise the error for a name that is defined nowhere, with a near one if there is."""
        known = {key for scope in self.scopes for key in scope}
        self.fail(node, f"`{name}` is not defined{suggestion(name, known)}")

    # -- small pieces of syntax --------------------------------------------------------------

    def namespaced(self, node: ast.AST, namespace: str) -> str | None:
        """The dotted name below `namespace` ("axis.spatial" of `T.axis.spatial`), or None."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id == namespace and parts:
            return ".".join(reversed(parts))
        return None

    def called(self, node: ast.AST, namespace: str = "T") -> str | None:
        """The function of `namespace` that `node` calls, or None."""
        return self.namespaced(node.func, namespace) if isinstance(node, ast.Call) else None

    def arguments(
        self, node: ast.Call, required: tuple[str, ...], optional: tuple[str, ...] = ()
    ) -> dict[str, ast.expr]:
        """The arguments of a call by parameter name."""
        parameters = (*required, *optional)
        what = ast.unparse(node.func)
        if len(node.args) > len(parameters):
            self.fail(
                node.args[len(parameters)],
                f"{what} takes at most {len(parameters)} arguments, got {len(node.args)}",
            )
        given = dict(zip(parameters, node.args, strict=False))
        for keyword in node.keywords:
            name = keyword.arg or "**"
            if name not in parameters:
                self.fail(
                    keyword,
                    f"{what} has no argument `{name}`; it has "
                    + ", ".join(f"`{item}`" for item in parameters),
                )
            if name in given:
                self.fail(keyword, f"{what}: argument `{name}` is given twice")
            given[name] = keyword.value
        for name in required:
            if name not in given:
                self.fail(node, f"{what}: argument `{name}` is missing")
        return given


def suggestion(name: str, known: Any) -> str:
    """`; did you mean ...?` or nothing."""
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean `{near[0]}`?" if near else ""
