# SPDX-License-Identifier: Apache-2.0
"""`@heddle.hybrid`: plain Python loops as a loop-level function.

    @heddle.hybrid
    def add_one(a, b):
        n = var("n")
        A = bind_buffer(a, shape=[n])
        B = bind_buffer(b, shape=[n])
        for i in iter_range(n, iter_type="data_par"):
            B[i] = A[i] + 1

The function is never run: its syntax tree is walked twice. This module turns statements into loops,
stores and local names; `hybrid_blocks` then finds the blocks. docs/tutorials/hybrid.md teaches it.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from heddle.ir import INT64, DType
from heddle.ir import expr as E
from heddle.ir.expr import Expr, Var
from heddle.ir.walk import post_order
from heddle.script.dialect import parse_here
from heddle.script.hybrid_blocks import ITER_TYPES, form_blocks, mark
from heddle.script.parse_base import Context
from heddle.script.parse_expr import ExprParser
from heddle.tir.build import load, make_block, shape_symbols, store
from heddle.tir.intrin import INTRINSICS
from heddle.tir.nodes import (
    Allocate,
    Assert,
    Buffer,
    BufferLoad,
    BufferStore,
    Evaluate,
    For,
    IfThenElse,
    LetStmt,
    PrimFunc,
    Seq,
    Stmt,
    While,
)
from heddle.tir.verify import verify

_DTYPES: Final = (
    *("bool", "bfloat16", "float16", "float32", "float64", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64"),
)
_BARE: Final = frozenset((*INTRINSICS, *_DTYPES, "cast", "select", "truncdiv", "truncmod"))
_DECLARE: Final = ("var", "bind_buffer", "alloc_buffer")


def hybrid(func: Any = None, *, name: str | None = None) -> Any:
    """Decorator: the loops of a Python function as a `PrimFunc`.

    In the function, `n = var("n")` is a symbolic dimension, `A = bind_buffer(a, shape=[n, 4],
    dtype="float32")` gives a parameter its shape, `iter_range(n, iter_type="data_par")` is a loop.
    `name` is the symbol of the function if it is not the name of the `def`.

    Raises `UserError`, with line, column and a caret, for what is not such a function.
    """
    frame = sys._getframe(1)

    def decorate(target: Any) -> PrimFunc:
        made: PrimFunc = parse_here(
            target, frame, lambda context, node: HybridParser(context).function(node, name=name)
        )
        return made

    return decorate if func is None else decorate(func)


class _Bare(ast.NodeTransformer):
    """`exp(x)` -> `T.exp(x)`: intrinsics, conversions and dtypes need no namespace."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Rewrite one call."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in _BARE:
            space = ast.copy_location(ast.Name("T", ast.Load()), node.func)
            node.func = ast.copy_location(ast.Attribute(space, node.func.id, ast.Load()), node.func)
        return node


class HybridParser(ExprParser):
    """Statements of a hybrid function."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.params: dict[str, Buffer | Var | None] = {}
        self.symbols: dict[Var, ast.AST] = {}
        self.changing: set[str] = set()
        """Names that are assigned more than once: they live in a buffer of one element."""
        self.root: list[Buffer] = []
        self.depth = 0
        """Loops, conditions and so on around the statement; 0 directly in the function."""

    # -- functions ---------------------------------------------------------------------------

    def function(self, node: ast.FunctionDef, *, name: str | None = None) -> PrimFunc:
        """The loop-level function that a `def` describes."""
        node = _Bare().visit(node)
        assigned = Counter(_assigned_names(node))
        self.changing = {key for key, count in assigned.items() if count > 1}
        with self.scope():
            self.parameters(node)
            raw = self.fold(self.elements(node.body))
        for arg in node.args.args:
            if self.params[arg.arg] is None:
                self.fail(
                    arg,
                    f"parameter `{arg.arg}` is not bound: write "
                    f"A = bind_buffer({arg.arg}, shape=[...]), or give a scalar its dtype, "
                    f'{arg.arg}: "float32"',
                )
        body = form_blocks(raw)
        root = make_block("root", (), body, reads=(), writes=(), alloc_buffers=self.root)
        params = tuple(param for param in self.params.values() if param is not None)
        attrs = {"name": node.name if name is None else name}
        func = PrimFunc(params, root, attrs, span=self.span(node))
        known = {*shape_symbols(func), *params}
        for symbol, place in self.symbols.items():
            if symbol not in known:
                self.fail(place, f"no buffer parameter has a dimension `{symbol.name}`")
        verify(func)
        return func

    def parameters(self, node: ast.FunctionDef) -> None:
        arguments = node.args
        extra = (*arguments.posonlyargs, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
        for item in extra:
            if item is not None:
                self.fail(item, "a hybrid function takes plain parameters only")
        for arg in arguments.args:
            self.params[arg.arg] = None
            if arg.annotation is None:
                continue
            note = arg.annotation
            if isinstance(note, ast.Name) and note.id in _DTYPES:
                note = ast.copy_location(ast.Constant(note.id), note)
            dtype = self.dtype(note)
            var = Var(arg.arg, dtype, span=self.span(arg))
            self.params[arg.arg] = self.bind(arg, arg.arg, lambda var=var: var)

    # -- suites ------------------------------------------------------------------------------

    def suite(self, body: Sequence[ast.stmt]) -> Stmt:
        """The statements of one indented suite, in a scope of their own."""
        self.depth += 1
        with self.scope():
            made = self.fold(self.elements(body))
        self.depth -= 1
        return made

    def fold(self, stmts: list[Stmt]) -> Stmt:
        return stmts[0] if len(stmts) == 1 else Seq(tuple(stmts))

    def elements(self, body: Sequence[ast.stmt]) -> list[Stmt]:
        """Statements in order; what follows a definition becomes its body."""
        levels: list[tuple[list[Stmt], Callable[[Stmt], Stmt] | None]] = [([], None)]
        for node in body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue  # documentation
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and _name_of(node) is not None:
                wrapper, first = self.define(node, str(_name_of(node)))
                if wrapper is not None:
                    levels.append(([], wrapper))
                if first is not None:
                    levels[-1][0].append(first)
                continue
            levels[-1][0].append(self.statement(node))
        while len(levels) > 1:
            stmts, wrapper = levels.pop()
            if wrapper is not None:
                levels[-1][0].append(wrapper(self.fold(stmts)))
        return levels[0][0]

    def statement(self, node: ast.stmt) -> Stmt:
        """One statement."""
        handler = _STATEMENTS.get(type(node))
        if handler is None:
            self.fail(node, f"a `{type(node).__name__}` statement is not part of a hybrid function")
        made: Stmt = handler(self, node)
        if made.span is None:
            made.span = self.span(node)
        return made

    # -- definitions ---------------------------------------------------------------------------

    def define(
        self, node: ast.Assign | ast.AnnAssign, name: str
    ) -> tuple[Callable[[Stmt], Stmt] | None, Stmt | None]:
        """An assignment to a name: what wraps the rest of the suite, and a statement to run."""
        if node.value is None:
            self.fail(node, f"`{name}` needs a value")
        declared = node.value.func if isinstance(node.value, ast.Call) else None
        if isinstance(declared, ast.Name) and declared.id in _DECLARE:
            return self.declare(node, node.value, declared.id, name), None
        dtype = self.dtype(node.annotation) if isinstance(node, ast.AnnAssign) else None
        value = self.value(node.value)
        found = self.lookup(name)
        if name in self.changing and isinstance(found, BufferLoad):
            return None, self.assign(node, found, value)
        changes = name in self.changing
        if not changes and not isinstance(value, Expr) and dtype is None:
            self.bind(node, name, lambda: value)  # a Python value: a name for it
            return None, None
        made = self.to_expr(node.value, value, dtype)
        if dtype is not None and made.dtype is not dtype:
            self.fail(node.value, f"`{name}` is {dtype}, its value {made.dtype}; cast it")
        reads = any(isinstance(part, BufferLoad) for part in post_order(made))
        if not changes and not reads:
            self.bind(node, name, lambda: made)
            return None, None
        if not changes and self.depth:
            var = self.bind(node, name, lambda: Var(name, made.dtype, span=self.span(node)))
            return (lambda body: LetStmt(made, var, body, span=self.span(node))), None
        return self.local(node, name, made)

    def local(
        self, node: ast.stmt, name: str, value: Expr
    ) -> tuple[Callable[[Stmt], Stmt] | None, Stmt]:
        """A name whose value changes: an element of memory, private to the iteration."""
        scope = "local" if self.depth else "global"
        buffer = Buffer(name, (E.const(1),), value.dtype, None, scope, span=self.span(node))
        element = load(buffer, [0])
        self.bind(node, name, lambda: element)
        first = store(buffer, value, [0])
        first.span = self.span(node)
        if not self.depth:
            self.root.append(buffer)
            return None, first
        return (lambda body: Allocate(buffer, body, span=self.span(node))), first

    def declare(
        self, node: ast.stmt, call: ast.Call, kind: str, name: str
    ) -> Callable[[Stmt], Stmt] | None:
        """`var`, `bind_buffer` and `alloc_buffer`."""
        if kind == "alloc_buffer":
            return self.allocation(node, call, name)
        if self.depth:
            self.fail(node, f"{kind}(...) stands directly in the function")
        if kind == "var":
            given = self.arguments(call, ("name",))
            symbol = Var(self.string(given["name"], "a name"), INT64, span=self.span(node))
            self.symbols[self.bind(node, name, lambda: symbol)] = call
            return None
        given = self.arguments(call, ("parameter", "shape"), ("dtype", "strides"))
        parameter = given["parameter"]
        if not isinstance(parameter, ast.Name) or parameter.id not in self.params:
            self.fail(parameter, "bind_buffer: the first argument is a parameter of the function")
        if self.params[parameter.id] is not None:
            self.fail(parameter, f"parameter `{parameter.id}` is bound twice")
        buffer = self.buffer(call, given, name, "global")
        self.params[parameter.id] = self.bind(node, name, lambda: buffer)
        return None

    def allocation(
        self, node: ast.stmt, call: ast.Call, name: str
    ) -> Callable[[Stmt], Stmt] | None:
        given = self.arguments(call, ("shape",), ("dtype", "scope"))
        scope = "local" if self.depth else "global"
        if "scope" in given:
            scope = self.string(given["scope"], "a scope")
        buffer = self.buffer(call, given, name, scope)
        self.bind(node, name, lambda: buffer)
        if not self.depth:
            self.root.append(buffer)
            return None
        return lambda body: Allocate(buffer, body, span=self.span(node))

    def buffer(
        self, call: ast.Call, given: Mapping[str, ast.expr], name: str, scope: str
    ) -> Buffer:
        shape = self.shape(given["shape"])
        dtype = self.dtype(given["dtype"]) if "dtype" in given else DType.of("float32")
        strides = self.shape(given["strides"]) if "strides" in given else None
        if strides is not None and len(strides) != len(shape):
            message = f"buffer `{name}`: {len(shape)} dimensions but {len(strides)} strides"
            self.fail(given["strides"], message)
        return Buffer(name, shape, dtype, strides, scope, span=self.span(call))

    # -- statements --------------------------------------------------------------------------

    def nothing(self, node: ast.Pass) -> Stmt:
        return Seq(())

    def store(self, node: ast.Assign) -> Stmt:
        target = node.targets[0]
        if len(node.targets) != 1 or not isinstance(target, ast.Subscript):
            self.fail(target, "expected an element of a buffer or a name on the left of `=`")
        return self.store_to(node, target, self.value(node.value))

    def store_to(self, node: ast.stmt, target: ast.Subscript, value: Any) -> BufferStore:
        buffer = self.value(target.value)
        if not isinstance(buffer, Buffer):
            self.fail(target.value, f"`{ast.unparse(target.value)}` is not a buffer")
        indices = self.indices(target, buffer)
        stored = self.to_expr(node, value, buffer.dtype)
        with self.located(node):
            return store(buffer, stored, indices)

    def assign(self, node: ast.stmt, element: BufferLoad, value: Any) -> Stmt:
        """A new value for a name."""
        made = self.to_expr(node, value, element.dtype)
        name = element.buffer.name
        if made.dtype is not element.dtype:
            self.fail(
                node,
                f"`{name}` is {element.dtype} since its first assignment, the value is "
                f"{made.dtype}; cast it, or start with {made.dtype}(...)",
            )
        return BufferStore(element.buffer, made, element.indices, span=self.span(node))

    def update(self, node: ast.AugAssign) -> Stmt:
        """`C[i] += x`, `s += x`"""
        left: Any = ast.parse(ast.unparse(node.target), mode="eval").body
        for part in ast.walk(left):
            ast.copy_location(part, node.target)
        value = self.value(ast.copy_location(ast.BinOp(left, node.op, node.value), node))
        if isinstance(node.target, ast.Subscript):
            return self.store_to(node, node.target, value)
        found = self.lookup(getattr(node.target, "id", ""))
        if not isinstance(found, BufferLoad):
            self.fail(node.target, f"`{ast.unparse(node.target)}` cannot be changed")
        return self.assign(node, found, value)

    def expression(self, node: ast.Expr) -> Stmt:
        if self.called(node.value) != "call_extern":
            self.fail(node, "an expression that stands alone has no effect")
        return Evaluate(self.scalar(node.value))

    def check(self, node: ast.Assert) -> Stmt:
        message = "" if node.msg is None else self.string(node.msg, "the message of an assertion")
        return Assert(self.condition(node.test), message)

    def branch(self, node: ast.If) -> Stmt:
        condition = self.condition(node.test)
        then = self.suite(node.body)
        return IfThenElse(condition, then, self.suite(node.orelse) if node.orelse else None)

    def repeat(self, node: ast.While) -> Stmt:
        if node.orelse:
            self.fail(node, "a loop has no `else`")
        return While(self.condition(node.test), self.suite(node.body))

    def loop(self, node: ast.For) -> Stmt:
        call = node.iter
        if node.orelse:
            self.fail(node, "a loop has no `else`")
        function = call.func if isinstance(call, ast.Call) else None
        if not isinstance(call, ast.Call) or not isinstance(function, ast.Name):
            self.fail(call, "a loop runs over iter_range(...) or range(...)")
        if function.id not in ("iter_range", "range"):
            self.fail(function, "a loop runs over iter_range(...) or range(...)")
        if not isinstance(node.target, ast.Name):
            self.fail(node.target, "expected one loop variable")
        iter_type = self.iter_type(call)
        low, extent = self.bounds(call)
        name = node.target.id
        with self.scope():
            made = Var(name, INT64, span=self.span(node.target))
            var = self.bind(node.target, name, lambda: made)
            body = self.suite(node.body)
        kind, notes = mark(iter_type)
        return For(low, extent, kind, var, body, notes, span=self.span(node))

    def iter_type(self, call: ast.Call) -> str:
        """The iteration type of a loop; one without is "opaque"."""
        found = "opaque"
        for keyword in call.keywords:
            if keyword.arg != "iter_type" or getattr(call.func, "id", "") == "range":
                self.fail(keyword, f"{ast.unparse(call.func)} has no argument `{keyword.arg}`")
            found = self.string(keyword.value, "iter_type")
            if found not in ITER_TYPES:
                known = ", ".join(f'"{item}"' for item in ITER_TYPES)
                self.fail(keyword.value, f'there is no iter_type "{found}"; there are {known}')
        return found

    def bounds(self, call: ast.Call) -> tuple[Expr, Expr]:
        """Start and extent of `(stop)` or `(start, stop)`."""
        if len(call.args) not in (1, 2):
            self.fail(call, f"{ast.unparse(call.func)} takes (stop) or (start, stop)")
        values = []
        for item in call.args:
            value = self.scalar(item)
            if not value.dtype.is_int:
                self.fail(item, f"the bound of a loop must be an integer, got {value.dtype}")
            values.append(E.cast(value, "int64"))
        if len(values) == 1:
            return E.const(0), values[0]
        return values[0], E.sub(values[1], values[0])


def _name_of(node: ast.Assign | ast.AnnAssign) -> str | None:
    """The name that an assignment defines, or None."""
    if isinstance(node, ast.AnnAssign):
        target: ast.expr = node.target
    elif len(node.targets) == 1:
        target = node.targets[0]
    else:
        return None
    return target.id if isinstance(target, ast.Name) else None


def _assigned_names(node: ast.FunctionDef) -> list[str]:
    names: list[str] = []
    for part in ast.walk(node):
        if isinstance(part, (ast.Assign, ast.AnnAssign)):
            found = _name_of(part)
        elif isinstance(part, ast.AugAssign):
            found = part.target.id if isinstance(part.target, ast.Name) else None
        else:
            continue
        if found is not None:
            names.append(found)
    return names


_STATEMENTS: Final[Mapping[type, Callable[..., Stmt]]] = {
    ast.Pass: HybridParser.nothing,
    ast.Assign: HybridParser.store,
    ast.AugAssign: HybridParser.update,
    ast.Expr: HybridParser.expression,
    ast.Assert: HybridParser.check,
    ast.If: HybridParser.branch,
    ast.While: HybridParser.repeat,
    ast.For: HybridParser.loop,
}

__all__ = ["HybridParser", "hybrid"]
