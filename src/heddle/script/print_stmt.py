# SPDX-License-Identifier: Apache-2.0
"""Printing of loop-level statements and functions, with an explicit stack instead of recursion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from heddle.ir import BOOL, INT64, Node, pre_order
from heddle.ir import expr as E
from heddle.ir.walk import post_order
from heddle.script.names import Names, is_identifier, quote
from heddle.script.print_expr import ExprPrinter, TooLargeError, plan_aliases
from heddle.tir.nodes import (
    Allocate,
    Assert,
    Block,
    Buffer,
    BufferStore,
    Evaluate,
    For,
    ForKind,
    IfThenElse,
    IterKind,
    LetStmt,
    PrimFunc,
    Seq,
    Stmt,
    While,
)

_AXIS: Final = {
    IterKind.SPATIAL: "spatial",
    IterKind.REDUCTION: "reduce",
    IterKind.ORDERED: "ordered",
}
Work = Callable[[], None]


class StmtPrinter:
    """Writes statements into `lines`, indented."""

    def __init__(self, names: Names, lines: list[str], indent: int = 0) -> None:
        self.names = names
        self.expr = ExprPrinter(names)
        self.lines = lines
        self.indent = indent
        self.places: dict[Node, tuple[int, int, int]] = {}
        """Where loops and blocks begin: their line, and the columns between which they stand."""
        self._work: list[Work] = []

    # -- lines -------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        """One line at the current indentation."""
        self.lines.append("    " * self.indent + text)

    def write(self, make: Callable[[], str], roots: Iterable[Node]) -> None:
        """The line that `make` gives; where the expressions `roots` are too large for a line,
        parts of them are named in lines of their own first."""
        self.line(self.fitted(make, roots))

    def fitted(self, make: Callable[[], str], roots: Iterable[Node]) -> str:
        self.expr.bounded = True
        try:
            return make()
        except TooLargeError:
            pass
        finally:
            self.expr.bounded = False
        for node in plan_aliases(roots):
            if self.names.find(node) is None:
                text = self.expr.text(node)
                self.line(f"{self.names.define(node, 't')} = T.alias({text})")
        return make()

    def run(self, *work: Work) -> None:
        """Do `work` and all that it schedules."""
        self._work = list(reversed(work))
        while self._work:
            self._work.pop()()

    def later(self, *work: Work) -> None:
        """Schedule `work` to be done next, in order."""
        self._work.extend(reversed(work))

    def nested(self, *work: Work) -> tuple[Work, ...]:
        """`work` one level deeper, in a scope of its own."""
        return (self._enter, *work, self._leave)

    def _enter(self) -> None:
        self.indent += 1
        self.names.push()

    def _leave(self) -> None:
        self.indent -= 1
        self.names.pop()

    # -- suites ------------------------------------------------------------------------------

    def suite(self, stmt: Stmt) -> None:
        """The statements of one indented suite."""
        if isinstance(stmt, Seq) and len(stmt.stmts) != 1:
            self.elements(stmt.stmts)
        elif isinstance(stmt, Seq):
            self.line("with T.seq():")
            self.later(*self.nested(lambda: self.elements(stmt.stmts)))
        else:
            self.statement(stmt, last=True)

    def elements(self, stmts: Sequence[Stmt]) -> None:
        """Statements in order; a sequence among them is marked as such."""
        if not stmts:
            self.line("pass")
        end = len(stmts) - 1
        self.later(*(self._element(item, last=i == end) for i, item in enumerate(stmts)))

    def _element(self, stmt: Stmt, *, last: bool) -> Work:
        return lambda: self.element(stmt, last=last)

    def element(self, stmt: Stmt, *, last: bool) -> None:
        if not isinstance(stmt, Seq):
            self.statement(stmt, last=last)
        elif not stmt.stmts:
            self.line("pass")
        else:
            self.line("with T.seq():")
            self.later(*self.nested(lambda: self.elements(stmt.stmts)))

    def statement(self, stmt: Stmt, *, last: bool) -> None:
        """One statement; the last of a suite may bind a name for the rest of it."""
        handler = _STATEMENTS.get(type(stmt))
        if handler is None:
            self.line(self.expr.fallback(stmt))
        elif handler in (StmtPrinter.let, StmtPrinter.allocate):
            handler(self, stmt, last)
        else:
            handler(self, stmt)

    # -- statements --------------------------------------------------------------------------

    def store(self, stmt: BufferStore) -> None:
        indices = stmt.indices
        lanes = indices[-1].dtype.lanes if indices else 1
        dtype = stmt.buffer.dtype.with_lanes(lanes)

        def make() -> str:
            target = ", ".join(self.expr.text(index) for index in indices) or "()"
            return f"{self.names.of(stmt.buffer)}[{target}] = {self.expr.text(stmt.value, dtype)}"

        self.write(make, (*indices, stmt.value))

    def evaluate(self, stmt: Evaluate) -> None:
        def make() -> str:
            text = self.expr.text(stmt.value)
            plain = isinstance(stmt.value, E.Call) and self.names.find(stmt.value) is None
            return text if plain else f"T.evaluate({text})"

        self.write(make, (stmt.value,))

    def let(self, stmt: LetStmt, last: bool) -> None:
        value = self.fitted(lambda: self.expr.text(stmt.value), (stmt.value,))
        if last:
            self.line(f"{self.define(stmt.var)} = {value}")
            self.later(lambda: self.suite(stmt.body))
            return
        self.names.push()
        name = self.define(stmt.var)
        self.line(f"with T.let({value}) as {name}:")
        self.later(*self.nested(lambda: self.suite(stmt.body)), self.names.pop)

    def allocate(self, stmt: Allocate, last: bool) -> None:
        text = self.buffer_text(stmt.buffer, "T.allocate")
        if last:
            self.line(f"{self.define(stmt.buffer)} = {text}")
            self.later(lambda: self.suite(stmt.body))
            return
        self.names.push()
        self.line(f"with {text} as {self.define(stmt.buffer)}:")
        self.later(*self.nested(lambda: self.suite(stmt.body)), self.names.pop)

    def check(self, stmt: Assert) -> None:
        def make() -> str:
            return f"assert {self.expr.text(stmt.condition)}, {quote(stmt.message)}"

        self.write(make, (stmt.condition,))

    def branch(self, stmt: IfThenElse, word: str = "if") -> None:
        condition = stmt.condition
        self.write(lambda: f"{word} {self.expr.text(condition)}:", (condition,))
        work = self.nested(lambda: self.suite(stmt.then))
        if stmt.otherwise is not None:
            otherwise = stmt.otherwise
            work += (lambda: self._otherwise(otherwise),)
        self.later(*work)

    def _otherwise(self, stmt: Stmt) -> None:
        if isinstance(stmt, IfThenElse) and self._fits(stmt.condition):
            self.branch(stmt, "elif")
        else:
            self.line("else:")
            self.later(*self.nested(lambda: self.suite(stmt)))

    def _fits(self, condition: E.Expr) -> bool:
        self.expr.bounded = True
        try:
            self.expr.text(condition)
        except TooLargeError:
            return False
        finally:
            self.expr.bounded = False
        return True

    def repeat(self, stmt: While) -> None:
        self.write(lambda: f"while {self.expr.text(stmt.condition)}:", (stmt.condition,))
        self.later(*self.nested(lambda: self.suite(stmt.body)))

    def loop(self, stmt: For) -> None:
        nest = [stmt]
        if _is_plain(stmt):
            while isinstance(nest[-1].body, For) and _is_plain(nest[-1].body):
                variables = {item.var for item in nest}
                inner = nest[-1].body
                if any(node in variables for node in pre_order(inner.extent)):
                    break
                nest.append(inner)
        roots = [root for item in nest for root in (item.min, item.extent)]
        header = self.fitted(lambda: self._loop_range(nest), roots)
        self.names.push()
        names = [self.define(item.var) for item in nest]
        self.line(f"for {', '.join(names)} in {header}:")
        self._place_loops(nest, names)
        self.later(*self.nested(lambda: self.suite(nest[-1].body)), self.names.pop)

    def _place_loops(self, nest: Sequence[For], names: Sequence[str]) -> None:
        """Note that the last line is the header of `nest`: of one loop, or of several in a grid."""
        row, column = len(self.lines) - 1, 4 * self.indent
        if len(nest) == 1:
            self.places.setdefault(nest[0], (row, column, len(self.lines[-1]) - 1))
            return
        column += len("for ")
        for loop, name in zip(nest, names, strict=True):
            self.places.setdefault(loop, (row, column, column + len(name)))
            column += len(name) + len(", ")

    def _loop_range(self, nest: list[For]) -> str:
        if len(nest) > 1:
            return f"T.grid({', '.join(self.expr.text(item.extent) for item in nest)})"
        loop = nest[0]
        dtype = loop.var.dtype
        parts = [self.expr.text(loop.extent, dtype)]
        if not _is_zero(loop.min, dtype):
            parts.append(f"start={self.expr.text(loop.min, dtype)}")
        if dtype is not INT64:
            parts.append(f'dtype="{dtype}"')
        if loop.annotations:
            parts.append(f"annotations={self.expr.value(loop.annotations)}")
        return f"T.{loop.kind.value}({', '.join(parts)})"

    def block(self, stmt: Block) -> None:
        self.line(f"with T.block({quote(stmt.name)}):")
        place = len(self.lines) - 1, 4 * self.indent, len(self.lines[-1]) - 1
        self.places.setdefault(stmt, place)
        self.later(*self.nested(lambda: self.block_body(stmt)))

    def block_body(self, stmt: Block, *, implicit: bool = False) -> None:
        """What stands inside a block; `implicit` for the root that a function need not write."""
        for axis in stmt.iters:
            dtype = axis.var.dtype
            kind = _AXIS[axis.kind]
            suffix = "" if dtype is INT64 else f', dtype="{dtype}"'

            def make(axis: Any = axis, kind: str = kind, suffix: str = suffix) -> str:
                extent, binding = self.expr.text(axis.extent), self.expr.text(axis.binding)
                return f"T.axis.{kind}({extent}, {binding}{suffix})"

            text = self.fitted(make, (axis.extent, axis.binding))
            self.line(f"{self.define(axis.var)} = {text}")
        if not (isinstance(stmt.predicate, E.IntImm) and stmt.predicate.value == 1):
            predicate = stmt.predicate
            self.write(lambda: f"T.where({self.expr.text(predicate)})", (predicate,))
        for buffer in stmt.alloc_buffers:
            text = self.buffer_text(buffer, "T.alloc_buffer")
            self.line(f"{self.define(buffer)} = {text}")
        if not implicit:
            for word, regions in (("reads", stmt.reads), ("writes", stmt.writes)):

                def make(word: str = word, regions: Any = regions) -> str:
                    return f"T.{word}({', '.join(self.expr.region(item) for item in regions)})"

                self.write(make, regions)
        if stmt.annotations:
            self.line(f"T.block_attr({self.expr.value(stmt.annotations)})")
        if stmt.init is not None:
            init = stmt.init
            self.line("with T.init():")
            self.later(*self.nested(lambda: self.suite(init)), lambda: self.suite(stmt.body))
        else:
            self.later(lambda: self.suite(stmt.body))

    # -- definitions -------------------------------------------------------------------------

    def define(self, node: Any) -> str:
        """The name of a variable or buffer that is defined here."""
        declared = self.names.find(node)
        return self.names.define(node, node.name) if declared is None else declared

    def buffer_text(self, buffer: Buffer, head: str) -> str:
        """`T.Buffer((n, 128), "float32")`"""
        parts = [self.expr.shape(buffer.shape), f'"{buffer.dtype}"']
        if buffer.strides is not None:
            parts.append(f"strides={self.expr.shape(buffer.strides)}")
        if buffer.elem_offset is not None:
            parts.append(f"elem_offset={self.expr.text(buffer.elem_offset)}")
        if buffer.scope != "global":
            parts.append(f"scope={quote(buffer.scope)}")
        if buffer.alignment != 64:
            parts.append(f"alignment={buffer.alignment}")
        if not is_identifier(buffer.name):
            parts.append(f"name={quote(buffer.name)}")
        return f"{head}({', '.join(parts)})"

    def declare(self, variables: Iterable[E.Var]) -> None:
        """Lines that declare variables which several binders share."""
        for var in variables:
            if self.names.find(var) is None:
                self.line(f'{self.names.define(var, var.name)} = T.var("{var.dtype}")')

    # -- functions ---------------------------------------------------------------------------

    def function(self, func: PrimFunc, name: str, *, symbol: str | None = None) -> None:
        """A whole function under the Python name `name`; `symbol` is its real name if different."""
        self.names.push()
        root = func.body
        contains_block = any(isinstance(n, Block) for n in post_order(root) if n is not root)
        implicit = (
            isinstance(root, Block)
            and _is_plain_root(root)
            and (contains_block or bool(root.alloc_buffers))
        )
        options = [f"name={quote(symbol)}"] if symbol else []
        explicit = isinstance(root, Block) and root.name == "root" and not root.iters
        if (contains_block or isinstance(root, Block)) and not (implicit or explicit):
            options.append("root=False")
        self.line(f"@T.prim_func({', '.join(options)})" if options else "@T.prim_func")
        self.lines.extend(signature(name, self.parameters(func), "", self.indent))
        self.run(*self.nested(lambda: self._function_body(func, symbol or name, implicit)))
        self.names.pop()

    def parameters(self, func: PrimFunc) -> list[str]:
        """The annotated parameters."""
        scalars = [param for param in func.params if isinstance(param, E.Var)]
        for var in scalars:
            self.define(var)
        for buffer in func.params:
            if isinstance(buffer, Buffer):
                for dim in buffer.layout:
                    self.symbols(dim)
        parts = []
        for param in func.params:
            if isinstance(param, Buffer):
                text = self.buffer_text(param, "T.Buffer")
                parts.append(f"{self.define(param)}: {text}")
            elif isinstance(param, E.Var):
                parts.append(f"{self.define(param)}: T.{param.dtype}")
            else:
                parts.append(self.expr.fallback(param))
        return parts

    def symbols(self, dim: Node) -> None:
        """Name the variables of a dimension; they are declared by being used."""
        for var in pre_order(dim):
            if isinstance(var, E.Var) and self.names.find(var) is None:
                name = self.names.define(var, var.name)
                if var.dtype is not INT64:
                    self.expr.pending[var] = f'T.var("{var.dtype}", "{name}")'

    def _function_body(self, func: PrimFunc, name: str, implicit: bool) -> None:
        attrs = dict(func.attrs)
        if attrs.get("name") == name:
            del attrs["name"]
        elif "name" not in attrs:
            attrs["name"] = None
        if attrs:
            self.line(f"T.func_attr({self.expr.value(attrs)})")
        self.declare(shared_binders(func))
        if implicit and isinstance(func.body, Block):
            self.block_body(func.body, implicit=True)
        else:
            self.suite(func.body)


def signature(name: str, params: Sequence[str], result: str, indent: int) -> list[str]:
    """The lines of a function's head; with one parameter a line when one line is too short."""
    blank = "    " * indent
    line = f"{blank}def {name}({', '.join(params)}){result}:"
    if len(line) <= 100 or not params:
        return [line]
    return [f"{blank}def {name}(", *(f"{blank}    {p}," for p in params), f"{blank}){result}:"]


def _is_zero(value: E.Expr, dtype: Any) -> bool:
    return isinstance(value, E.IntImm) and value.value == 0 and value.dtype is dtype


def _is_plain(loop: For) -> bool:
    return (
        loop.kind is ForKind.SERIAL
        and not loop.annotations
        and loop.var.dtype is INT64
        and _is_zero(loop.min, INT64)
    )


def _is_plain_root(block: Block) -> bool:
    return (
        block.name == "root"
        and not (block.iters or block.reads or block.writes or block.annotations)
        and block.init is None
        and isinstance(block.predicate, E.IntImm)
        and block.predicate.value == 1
        and block.predicate.dtype is BOOL
    )


def shared_binders(func: PrimFunc) -> list[E.Var]:
    """The variables that more than one loop, let or block of `func` binds, in order."""
    order = list(post_order(func.body))
    paths: dict[Node, int] = {func.body: 1}
    counts: dict[Any, int] = {}
    for node in reversed(order):
        paths.setdefault(node, 1)
        for child in node.children():
            paths[child] = paths.get(child, 0) + paths[node]
        if isinstance(node, (For, LetStmt, E.Let)):
            counts[node.var] = counts.get(node.var, 0) + paths[node]
        elif isinstance(node, Block):
            for axis in node.iters:
                counts[axis.var] = counts.get(axis.var, 0) + paths[node]
    return [var for var, count in reversed(counts.items()) if count > 1]


_STATEMENTS: Final[Mapping[type, Callable[..., None]]] = {
    BufferStore: StmtPrinter.store,
    Evaluate: StmtPrinter.evaluate,
    LetStmt: StmtPrinter.let,
    Allocate: StmtPrinter.allocate,
    Assert: StmtPrinter.check,
    IfThenElse: StmtPrinter.branch,
    For: StmtPrinter.loop,
    While: StmtPrinter.repeat,
    Block: StmtPrinter.block,
}
