# SPDX-License-Identifier: Apache-2.0
"""Statements and whole functions to C.

The body of a parallel loop becomes a function of its own, which the program's thread pool runs
where the source is compiled with HEDDLE_RUNTIME, and which is called once where it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from heddle.codegen.c.expressions import LIBM, ExpressionWriter, shared_parts, without_lets
from heddle.codegen.c.lowering import lower_for_c
from heddle.codegen.c.types import memory_type, scalar, value_type
from heddle.ir.expr import Expr, Var, as_int
from heddle.ir.node import Node
from heddle.ir.walk import post_order, pre_order, uses_var
from heddle.script.names import Names
from heddle.support import InternalError
from heddle.tir.build import element_count, shape_symbols, written_buffers
from heddle.tir.nodes import (
    Allocate,
    Assert,
    BufferLoad,
    BufferStore,
    Evaluate,
    For,
    ForKind,
    IfThenElse,
    LetStmt,
    PrimFunc,
    Seq,
    Stmt,
    While,
)

_RESERVED: Final = frozenset(
    [name for plain in LIBM.values() for name in (plain, f"{plain}f")]
    + "auto bool break case char const continue default do double else enum extern false float for "
    "goto if inline int long register restrict return short signed sizeof static struct switch "
    "true typedef union unsigned void volatile while main env begin end status outer abs div gamma "
    "round index signal time free malloc calloc memcpy rand exit "
    "y0 y1 yn j0 j1 jn isnan isinf INFINITY NAN NULL EOF I".split()
)


class KernelWriter:
    """Writes one function; parallel loops put further functions in front of it."""

    def __init__(self, func: PrimFunc, symbol: str) -> None:
        self.func = lower_for_c(func)
        self.symbol = symbol
        self.lines: list[str] = []
        self.outlined: list[str] = []
        self.depth = 1
        self.names = Names()
        self.names.reserve(symbol)
        self.parallel = True
        self.workspaces: list[str] = []  # to free before every return
        self.expressions = ExpressionWriter(self.names.of)
        self.written = written_buffers(self.func.body)
        self.can_fail = False
        for symbol_ in shape_symbols(func):
            self.expressions.analyzer.bind(symbol_, 0)

    # -- functions ---------------------------------------------------------------------------

    def prototype(self) -> str:
        """The declaration of the function."""
        params = []
        for param in self.func.params:
            name = self.define(param)
            params.append(self.declaration(param, name))
        return f"int32_t {self.symbol}({', '.join(params) or 'void'})"

    def declaration(self, name: Any, text: str) -> str:
        """A variable or buffer as a parameter."""
        if isinstance(name, Var):
            return f"{value_type(name.dtype)} {text}"
        const = "" if name in self.written else "const "
        restrict = "restrict " if self.func.attrs.get("noalias", True) else ""
        return f"{const}{memory_type(scalar(name.dtype))} *{restrict}{text}"

    def definition(self) -> str:
        """The functions of the parallel loops, then the function itself."""
        head = self.prototype()
        used = _used_names(self.func.body)
        for param in self.func.params:
            if param not in used:
                self.line(f"(void){self.names.of(param)};")
        self.stmt(self.func.body)
        self.line("return 0;")
        body = "\n".join(self.lines)
        return "\n".join([*self.outlined, f"{head} {{\n{body}\n}}\n"])

    # -- lines and names ---------------------------------------------------------------------

    def line(self, text: str) -> None:
        self.lines.append(f"{'  ' * self.depth}{text}")

    @contextmanager
    def braces(self, head: str, tail: str = "}") -> Iterator[None]:
        """`head {`, what is written inside, and `}`."""
        self.line(f"{head} {{" if head else "{")
        self.depth += 1
        self.names.push()
        yield
        self.names.pop()
        self.depth -= 1
        self.line(tail)

    def define(self, name: Any) -> str:
        """A C name for a variable or buffer in the current scope."""
        stem = name.name
        return self.names.define(name, f"{stem}_" if stem in _RESERVED else stem)

    @contextmanager
    def prepared(self, value: Expr) -> Iterator[Expr]:
        """`value` with names, inside the context, for what it uses more than once."""
        value = without_lets(value)
        known = self.expressions.temporaries
        for part in shared_parts(value):
            text = self.expressions.text(part)
            known[part] = self.names.reserve("t")
            self.line(f"const {value_type(part.dtype)} {known[part]} = {text};")
        yield value
        known.clear()

    def value(self, value: Expr) -> str:
        """The text of a value, after lines that name what it uses more than once."""
        with self.prepared(value) as ready:
            return self.expressions.text(ready)

    # -- statements --------------------------------------------------------------------------

    def stmt(self, stmt: Stmt) -> None:
        handler = _HANDLERS.get(type(stmt))
        if handler is None:
            raise InternalError(f"no C code for statement {type(stmt).__name__}")
        handler(self, stmt)

    def sequence(self, stmt: Seq) -> None:
        for part in stmt.stmts:
            self.stmt(part)

    def store(self, stmt: BufferStore) -> None:
        with self.prepared(stmt.value) as value:
            stored = self.expressions.stored(value, stmt.buffer.dtype)
        self.line(f"{self.expressions.place(stmt)} = {stored};")

    def evaluate(self, stmt: Evaluate) -> None:
        self.line(f"(void){self.value(stmt.value)};")

    def let(self, stmt: LetStmt) -> None:
        text = self.value(stmt.value)
        if uses_var(stmt.body, stmt.var):
            # The name stays taken to the end of the C scope around it.
            self.line(f"const {value_type(stmt.var.dtype)} {self.define(stmt.var)} = {text};")
        else:
            self.line(f"(void)({text});")
        self.stmt(stmt.body)

    def check(self, stmt: Assert) -> None:
        text = self.value(stmt.condition)
        message = _c_string(stmt.message or "an assertion of the function does not hold")
        with self.braces(f"if (!({text}))"):
            self.fail(f"heddle_fail({message});", "1")

    def fail(self, line: str | None, status: str) -> None:
        """Leave the function, giving back the workspaces."""
        if line is not None:
            self.can_fail = True
            self.line(line)
        for name in reversed(self.workspaces):
            self.line(f"free({name});")
        self.line(f"return {status};")

    def branch(self, stmt: IfThenElse) -> None:
        text = self.value(stmt.condition)
        if stmt.otherwise is None:
            with self.braces(f"if ({text})"):
                self.stmt(stmt.then)
            return
        with self.braces(f"if ({text})", "} else {"):
            self.stmt(stmt.then)
        self.depth += 1
        self.names.push()
        self.stmt(stmt.otherwise)
        self.names.pop()
        self.depth -= 1
        self.line("}")

    def repeat(self, stmt: While) -> None:
        with self.braces(f"while ({self.expressions.text(without_lets(stmt.condition))})"):
            self.stmt(stmt.body)

    def loop(self, stmt: For) -> None:
        if stmt.kind is ForKind.PARALLEL and self.parallel:
            self.parallel_loop(stmt)
            return
        # The bounds are evaluated once, and the body may write what they read.
        loads = any(
            isinstance(n, BufferLoad) for n in (*post_order(stmt.min), *post_order(stmt.extent))
        )
        if loads:
            with self.braces(""):
                kind = value_type(stmt.var.dtype)
                first, end = self.names.reserve("first"), self.names.reserve("limit")
                self.line(f"const {kind} {first} = {self.value(stmt.min)};")
                self.line(f"const {kind} {end} = {first} + {self.value(stmt.extent)};")
                self.counted(stmt, first, end)
            return
        first = self.expressions.text(stmt.min)
        self.counted(stmt, first, self.expressions.text(stmt.min + stmt.extent))

    def counted(self, stmt: For, first: str, end: str) -> None:
        kind = value_type(stmt.var.dtype)
        note = (
            "" if stmt.kind in (ForKind.SERIAL, ForKind.PARALLEL) else f" /* {stmt.kind.value} */"
        )
        self.names.push()
        name = self.define(stmt.var)
        self.expressions.analyzer.bind(stmt.var, stmt.min, stmt.extent)
        with self.braces(f"for ({kind} {name} = {first}; {name} < {end}; ++{name}){note}"):
            self.stmt(stmt.body)
        self.names.pop()

    def allocate(self, stmt: Allocate) -> None:
        buffer = stmt.buffer
        if buffer not in _used_names(stmt.body):
            self.stmt(stmt.body)
            return
        kind, count = memory_type(scalar(buffer.dtype)), element_count(buffer.shape)
        if buffer.scope == "local" and count is not None:
            self.line(f"{kind} {self.define(buffer)}[{max(count, 1)}];")
            self.stmt(stmt.body)
            return
        size = self.expressions.emit(buffer.shape[0], index=True).inside(15)
        name = self.define(buffer)
        self.line(f"{kind} *const {name} = malloc((size_t){size} * sizeof(*{name}) + 1);")
        with self.braces(f"if ({name} == NULL)"):
            self.fail('heddle_fail("out of memory");', "1")
        self.workspaces.append(name)
        self.stmt(stmt.body)
        self.workspaces.pop()
        self.line(f"free({name});")

    # -- parallel loops ----------------------------------------------------------------------

    def parallel_loop(self, stmt: For) -> None:
        used = {**_used_names(stmt.min), **_used_names(stmt.body)}
        # Text is found by name in this function: what has a name by now comes from outside.
        captured = [name for name in used if self.names.find(name) is not None]
        number = sum(text.startswith("static int32_t") for text in self.outlined)
        function = f"{self.symbol}_loop{number}"
        fields = [(name, self.names.of(name)) for name in captured]
        self.outline(stmt, function, fields)
        extent = self.expressions.text(stmt.extent)
        with self.braces(""):
            environment = "NULL"
            if fields:
                values = ", ".join(text for _, text in fields)
                self.line(f"struct {function}_env env = {{{values}}};")
                environment = "&env"
            self.line(
                f"const int32_t status = HEDDLE_PARALLEL({function}, {environment}, {extent});"
            )
            with self.braces("if (status != 0)"):
                self.fail(None, "status")

    def outline(self, stmt: For, function: str, fields: list[tuple[Any, str]]) -> None:
        """Write the function of a parallel loop."""
        kept = self.lines, self.depth, self.workspaces
        self.lines, self.depth, self.workspaces, self.parallel = [], 1, [], False
        if fields:
            self.line(f"const struct {function}_env *const outer = env;")
        else:
            self.line("(void)env;")
        for name, text in fields:
            const = "const " if isinstance(name, Var) else ""
            self.line(f"{const}{self.declaration(name, text)} = outer->{text};")
        low = "" if as_int(stmt.min) == 0 else f"{self.value(stmt.min)} + "
        self.counted(stmt, f"{low}begin", f"{low}end")
        self.line("return 0;")
        body = "\n".join(self.lines)
        self.lines, self.depth, self.workspaces = kept
        self.parallel = True
        if fields:
            members = "\n".join(
                f"  {self.declaration(name, text).replace('restrict ', '')};"
                for name, text in fields
            )
            self.outlined.append(f"struct {function}_env {{\n{members}\n}};\n")
        self.outlined.append(
            f"static int32_t {function}(int64_t begin, int64_t end, void *env) {{\n{body}\n}}\n"
        )


def _used_names(root: Node) -> dict[Any, None]:
    """Variables and buffers below `root`, in order of first use."""
    found: dict[Any, None] = {}
    for part in pre_order(root):
        if isinstance(part, (BufferLoad, BufferStore)):
            found[part.buffer] = None
        elif isinstance(part, Var):
            found[part] = None
        elif isinstance(part, Allocate):
            found.update((n, None) for n in pre_order(part.buffer.shape[0]) if isinstance(n, Var))
    return found


def _c_string(text: str) -> str:
    """`text` as a C string; what is not plain ASCII as octal bytes."""
    quoted = ""
    for byte in text.encode():
        char = chr(byte)
        plain = 32 <= byte < 127 and char not in '"\\?'
        quoted += char if plain else f"\\{byte:03o}"
    return f'"{quoted}"'


_HANDLERS: Final[Mapping[type, Callable[[KernelWriter, Any], None]]] = {
    Seq: KernelWriter.sequence,
    BufferStore: KernelWriter.store,
    Evaluate: KernelWriter.evaluate,
    LetStmt: KernelWriter.let,
    Assert: KernelWriter.check,
    IfThenElse: KernelWriter.branch,
    While: KernelWriter.repeat,
    For: KernelWriter.loop,
    Allocate: KernelWriter.allocate,
}
