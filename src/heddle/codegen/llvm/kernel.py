# SPDX-License-Identifier: Apache-2.0
"""Statements and whole kernels to LLVM IR.

A lowered `PrimFunc` becomes

    define i32 @symbol(ptr noalias %buffer..., T %scalar..., i64 %dimension...)

which returns 0, or another number after `hd_set_error`. The body of a parallel loop becomes two
functions: `symbol.parN(begin, end, env)` unpacks what the loop uses and calls `symbol.bodyN`, whose
parameters are `noalias` again, so that nothing is lost to the detour through memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from heddle.codegen.llvm import arithmetic, memory
from heddle.codegen.llvm.builder import FunctionBuilder, ModuleBuilder, is_literal, literal_int
from heddle.codegen.llvm.expressions import ExpressionEmitter
from heddle.codegen.llvm.tiles import ask_for_tiles, uses_tiles
from heddle.codegen.llvm.types import memory_type, register_type
from heddle.ir.dtype import HANDLE, DType
from heddle.ir.expr import Cast, Var
from heddle.ir.walk import pre_order
from heddle.passes.tir.flatten import SYMBOLS
from heddle.support import InternalError
from heddle.target import Target
from heddle.tir.nodes import (
    Allocate,
    Assert,
    Buffer,
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

_DEPTH: Final = 200_000
"""Python frames that deep expressions may need; pure Python calls do not use the C stack."""


def kernel_ir(func: PrimFunc, symbol: str, target: Target) -> str:
    """The LLVM IR text of a module that defines one lowered function as `symbol`."""
    module = ModuleBuilder(target.triple, target.features, target.vector_bits)
    module.explicit_vectors = uses_vectors(func)
    with _deep_recursion():
        _emit_function(module, func, symbol)
    return module.text()


def uses_vectors(func: PrimFunc) -> bool:
    """Whether some access is a vector: then LLVM's own vectorizers have nothing left to do."""
    for found in pre_order(func.body):
        if isinstance(found, (BufferLoad, BufferStore)) and found.indices[0].dtype.lanes > 1:
            return True
    return False


@contextmanager
def _deep_recursion() -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _DEPTH))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def function_attributes(module: ModuleBuilder) -> str:
    """Attributes of every function: full-width vectors are always worth it."""
    width = module.vector_bits
    return f'nounwind "prefer-vector-width"="{width}" "min-legal-vector-width"="{width}"'


def _emit_function(module: ModuleBuilder, func: PrimFunc, symbol: str) -> None:
    b = FunctionBuilder(module)
    emitter = KernelEmitter(b, symbol, noalias=_noalias(func))
    params = []
    pointers = [param for param in func.params if isinstance(param, Buffer)]
    scalars = [param for param in func.params if isinstance(param, Var)]
    for count, buffer in enumerate(pointers):
        name = f"%b{count}.{_clean(buffer.name)}"
        emitter.expressions.buffers[buffer] = name
        params.append(f"ptr {_noalias(func)}captures(none) align {buffer.dtype.nbytes} {name}")
    symbols = scalars[len(scalars) - _count(func.attrs.get(SYMBOLS)) :]
    for count, var in enumerate(scalars):
        name = f"%s{count}.{_clean(var.name)}"
        emitter.expressions.values[var] = name
        if var in symbols:
            b.ranges[name] = (0, None)
        params.append(f"{register_type(var.dtype)} {name}")
    if uses_tiles(func):
        emitter.leave_if_failed(ask_for_tiles(b))
    emitter.stmt(func.body)
    b.void("ret i32 0")
    attributes = function_attributes(module)
    module.functions.append(
        f"define i32 @{symbol}({', '.join(params)}) {attributes} {{\n{b.body()}\n}}"
    )


def _count(value: object) -> int:
    """An attribute that counts something; 0 where it is missing."""
    return value if isinstance(value, int) else 0


def _noalias(func: PrimFunc) -> str:
    return "noalias " if func.attrs.get("noalias", True) else ""


def _clean(name: str) -> str:
    return "".join(char if char.isascii() and char.isalnum() else "_" for char in name)


def _is_narrowed(stmt: BufferStore) -> bool:
    """Whether a store of several lanes of bytes or 16-bit integers may store what is wider."""
    dtype = stmt.buffer.dtype
    if not dtype.is_int or dtype.bits >= 32 or _lanes(stmt) == 1:
        return False
    return any(
        isinstance(found, Cast) and found.value.dtype.bits > dtype.bits
        for found in pre_order(stmt.value)
    )


class KernelEmitter:
    """Writes statements into one LLVM function; parallel loops start further functions."""

    def __init__(
        self, b: FunctionBuilder, symbol: str, *, noalias: str, parallel: bool = True
    ) -> None:
        self.b = b
        self.symbol = symbol
        self.noalias = noalias  # the attribute of pointers: "noalias " or nothing
        self.parallel = parallel  # whether a parallel loop may still go to the thread pool
        self.expressions = ExpressionEmitter(b)
        self.workspaces: list[str] = []  # to free before every return

    def stmt(self, stmt: Stmt) -> None:
        handler = _HANDLERS.get(type(stmt))
        if handler is None:
            raise InternalError(f"no code for statement {type(stmt).__name__}")
        handler(self, stmt)

    # -- plain statements ------------------------------------------------------------------------

    def sequence(self, stmt: Seq) -> None:
        for part in stmt.stmts:
            self.stmt(part)

    def store(self, stmt: BufferStore) -> None:
        expressions = self.expressions
        value = expressions.stored(stmt.value, stmt.buffer.dtype.with_lanes(_lanes(stmt)))
        place = expressions.place(stmt.buffer, stmt.indices[0])
        if expressions.mask is not None and expressions.is_inside(place, stmt.buffer):
            memory.blend(self.b, place, value, expressions.mask)
        else:
            if expressions.mask is not None and _is_narrowed(stmt):
                value = self._through_memory(value, stmt.buffer.dtype.with_lanes(_lanes(stmt)))
            memory.store(self.b, place, value, expressions.mask)

    def _through_memory(self, value: str, dtype: DType) -> str:
        """`value` out of sight of LLVM 22, which makes of a truncation and a masked store that
        writes one lane a store of the wide lane: three or one bytes too many."""
        kind = memory_type(dtype)
        place = self.b.alloca(f"{kind}, align 64", "narrowed")
        self.b.void(f"store volatile {kind} {value}, ptr {place}, align 64")
        return self.b.instr(f"load volatile {kind}, ptr {place}, align 64")

    def evaluate(self, stmt: Evaluate) -> None:
        self.expressions.value(stmt.value)

    def let(self, stmt: LetStmt) -> None:
        self.expressions.values[stmt.var] = self.expressions.value(stmt.value)
        self.stmt(stmt.body)

    def check(self, stmt: Assert) -> None:
        condition = self.expressions.value(stmt.condition)
        if condition == "true":
            return
        failed, passed = self.b.label("fail"), self.b.label("pass")
        self.b.branch_if(condition, passed, failed)
        self.b.start(failed)
        self.b.module.declare("void @hd_set_error(ptr, ...)")
        form, text = self.b.module.string("%s"), self.b.module.string(stmt.message)
        self.b.void(f"call void (ptr, ...) @hd_set_error(ptr {form}, ptr {text})")
        self.leave("1")
        self.b.start(passed)

    def leave(self, status: str) -> None:
        """Return `status`, giving back the workspaces."""
        for pointer in reversed(self.workspaces):
            self.b.void(f"call void @hd_free(ptr {pointer})")
        self.b.void(f"ret i32 {status}")

    def leave_if_failed(self, status: str) -> None:
        """Return `status` when it is not 0."""
        failed, passed = self.b.label("fail"), self.b.label("pass")
        bad = self.b.op(f"icmp ne i32 {status}, 0")
        self.b.branch_if(bad, failed, passed)
        self.b.start(failed)
        self.leave(status)
        self.b.start(passed)

    # -- conditions ------------------------------------------------------------------------------

    def branch(self, stmt: IfThenElse) -> None:
        condition = self.expressions.value(stmt.condition)
        lanes = stmt.condition.dtype.lanes
        if lanes > 1:
            self._masked(stmt, condition, lanes)
            return
        if condition in ("true", "false"):
            chosen = stmt.then if condition == "true" else stmt.otherwise
            if chosen is not None:
                self.stmt(chosen)
            return
        then, end = self.b.label("if"), self.b.label("endif")
        otherwise = end if stmt.otherwise is None else self.b.label("else")
        self.b.branch_if(condition, then, otherwise)
        arms = [(then, stmt.then)]
        if stmt.otherwise is not None:
            arms.append((otherwise, stmt.otherwise))
        for label, part in arms:
            self.b.start(label)
            with self.b.scope():
                self.stmt(part)
            self.b.branch(end)
        self.b.start(end)

    def _masked(self, stmt: IfThenElse, condition: str, lanes: int) -> None:
        with self.expressions.only_where(condition, lanes):
            self.stmt(stmt.then)
        if stmt.otherwise is not None:
            inverse = arithmetic.invert(self.b, condition, lanes)
            with self.expressions.only_where(inverse, lanes):
                self.stmt(stmt.otherwise)

    # -- loops -----------------------------------------------------------------------------------

    def loop(self, stmt: For) -> None:
        low, extent = self.expressions.value(stmt.min), self.expressions.value(stmt.extent)
        low = self._index_width(low, stmt.min.dtype)
        extent = self._index_width(extent, stmt.extent.dtype)
        count = literal_int(extent)
        if count is not None and count <= 0:
            return
        if count == 1 or (stmt.kind is ForKind.UNROLLED and count is not None):
            for step in range(count):
                self._bind(stmt.var, self.b.add(low, str(step)))
                self.stmt(stmt.body)
            return
        if stmt.kind is ForKind.PARALLEL and self.parallel:
            self._parallel_loop(stmt, low, extent)
        else:
            self._counted_loop(stmt, low, self.b.add(low, extent))

    def _index_width(self, value: str, dtype: DType) -> str:
        return arithmetic.convert(self.b, value, dtype, DType.of("int64"))

    def _bind(self, var: Var, value: str) -> None:
        """Give a loop variable its int64 value."""
        kind = register_type(var.dtype)
        if kind != "i64" and literal_int(value) is None:
            value = self.b.op(f"trunc i64 {value} to {kind}")
        self.expressions.values[var] = value

    def _counted_loop(self, stmt: For, low: str, end: str) -> None:
        b = self.b
        first, head, after = b.block, b.label("loop"), b.label("done")
        if b.compare_lt(low, end) == "true":
            b.branch(head)
        else:
            b.branch_if(b.compare_lt(low, end), head, after)
        b.start(head)
        var = b.fresh(_clean(stmt.var.name))
        position = len(b.lines)
        b.lines.append("")  # the phi, once the last block of the body is known
        start, stop = b.interval(low), b.interval(end)
        if start is not None:
            high = stop[1] - 1 if stop is not None and stop[1] is not None else None
            b.ranges[var] = (start[0], high)
        with b.scope():
            self._bind(stmt.var, var)
            self.stmt(stmt.body)
            following = b.instr(
                f"add nuw nsw i64 {var}, 1" if start and start[0] >= 0 else f"add nsw i64 {var}, 1"
            )
            more = b.instr(f"icmp slt i64 {following}, {end}")
        b.lines[position] = f"  {var} = phi i64 [ {low}, %{first} ], [ {following}, %{b.block} ]"
        note = b.module.loop_metadata(*self._loop_hints(stmt))
        b.void(f"br i1 {more}, label %{head}, label %{after}{note}")
        b.start(after)

    def _loop_hints(self, stmt: For) -> list[str]:
        hints = ['!"llvm.loop.mustprogress"']
        if self.b.module.explicit_vectors:
            hints.append('!"llvm.loop.vectorize.enable", i1 false')
            factor = stmt.annotations.get("unroll")
            if isinstance(factor, int) and factor > 1:
                hints.append(f'!"llvm.loop.unroll.count", i32 {factor}')
            else:
                hints.append('!"llvm.loop.unroll.disable"')
        return hints

    def repeat(self, stmt: While) -> None:
        b = self.b
        head, body, after = b.label("while"), b.label("body"), b.label("done")
        b.branch(head)
        b.start(head)
        with b.scope():
            b.branch_if(self.expressions.value(stmt.condition), body, after)
            b.start(body)
            self.stmt(stmt.body)
            b.branch(head)
        b.start(after)

    # -- memory ----------------------------------------------------------------------------------

    def allocate(self, stmt: Allocate) -> None:
        buffer = stmt.buffer
        count = memory.stack_elements(buffer)
        element = memory_type(buffer.dtype)
        if count is not None:
            align = max(buffer.alignment, 64)
            pointer = self.b.alloca(f"[{count} x {element}], align {align}", _clean(buffer.name))
            self.expressions.buffers[buffer] = pointer
            self.stmt(stmt.body)
            return
        module = self.b.module
        module.declare("noalias ptr @hd_alloc(i64, i64)")
        module.declare("void @hd_free(ptr)")
        elements = self.expressions.value(buffer.shape[0])
        size = self.b.mul(elements, str(buffer.dtype.nbytes))
        pointer = self.b.instr(f"call noalias ptr @hd_alloc(i64 {size}, i64 {buffer.alignment})")
        missing = self.b.op(f"icmp eq ptr {pointer}, null")
        wanted = self.b.op(f"icmp sgt i64 {size}, 0")
        failed = self.b.op(f"and i1 {missing}, {wanted}")
        status = self.b.op(f"zext i1 {failed} to i32")
        self.leave_if_failed(status)
        self.expressions.buffers[buffer] = pointer
        self.workspaces.append(pointer)
        self.stmt(stmt.body)
        self.workspaces.pop()
        self.b.void(f"call void @hd_free(ptr {pointer})")

    # -- parallel loops --------------------------------------------------------------------------

    def _parallel_loop(self, stmt: For, low: str, extent: str) -> None:
        b = self.b
        captured = self._captured(stmt)
        number = sum(1 for text in b.module.functions if " internal i32 @" in text)
        names = (f"{self.symbol}.par{number}", f"{self.symbol}.body{number}")
        passed = [(kind, value) for kind, value, _ in captured if not is_literal(value)]
        if is_literal(low):
            low_inside = low
        else:
            passed.append(("i64", low))
            low_inside = "%low"
        self._outlined_body(stmt, captured, names[1], low_inside)
        env = self._environment(passed)
        _emit_trampoline(b.module, names, [kind for kind, _ in passed])
        b.module.declare("i32 @hd_parallel_for(ptr, ptr, i64)")
        status = b.instr(f"call i32 @hd_parallel_for(ptr @{names[0]}, ptr {env}, i64 {extent})")
        self.leave_if_failed(status)

    def _captured(self, stmt: For) -> list[tuple[str, str, Buffer | Var]]:
        """(type, operand, name) of everything the body uses from outside."""
        expressions = self.expressions
        found: dict[Buffer | Var, None] = {}
        for part in pre_order(stmt.body):
            if isinstance(part, (BufferLoad, BufferStore)) and part.buffer in expressions.buffers:
                found[part.buffer] = None
            elif isinstance(part, Var) and part in expressions.values and part is not stmt.var:
                found[part] = None
            elif isinstance(part, Allocate):
                for var in pre_order(part.buffer.shape[0]):
                    if isinstance(var, Var) and var in expressions.values:
                        found[var] = None
        captured: list[tuple[str, str, Buffer | Var]] = []
        for name in found:
            if isinstance(name, Buffer):
                captured.append((register_type(HANDLE), expressions.buffers[name], name))
            else:
                captured.append((register_type(name.dtype), expressions.values[name], name))
        return captured

    def _environment(self, passed: list[tuple[str, str]]) -> str:
        """Stack memory that holds the captured values."""
        if not passed:
            return "null"
        env_type = f"{{ {', '.join(kind for kind, _ in passed)} }}"
        env = self.b.alloca(env_type, "env")
        for place, (kind, value) in enumerate(passed):
            field = self.b.instr(
                f"getelementptr inbounds {env_type}, ptr {env}, i32 0, i32 {place}"
            )
            self.b.void(f"store {kind} {value}, ptr {field}")
        return env

    def _outlined_body(
        self,
        stmt: For,
        captured: list[tuple[str, str, Buffer | Var]],
        symbol: str,
        low: str,
    ) -> None:
        """`symbol(captured..., begin, end)`: the iterations [begin, end) of the loop."""
        module = self.b.module
        b = FunctionBuilder(module)
        inner = KernelEmitter(b, self.symbol, noalias=self.noalias, parallel=False)
        params = []
        for place, (kind, value, name) in enumerate(captured):
            literal = is_literal(value)
            operand = value if literal else f"%c{place}.{_clean(name.name)}"
            if isinstance(name, Buffer):
                inner.expressions.buffers[name] = operand
                params.append(f"ptr {self.noalias}align {name.dtype.nbytes} {operand}")
                continue
            inner.expressions.values[name] = operand
            interval = self.b.interval(value) if kind == "i64" else None
            if interval is not None and not literal:
                b.ranges[operand] = interval
            if not literal:
                params.append(f"{kind} {operand}")
        if low == "%low":
            params.append("i64 %low")
        b.ranges["%begin"] = (0, None)
        begin, end = b.add(low, "%begin"), b.add(low, "%end")
        inner._counted_loop(stmt, begin, end)
        b.void("ret i32 0")
        params += ["i64 %begin", "i64 %end"]
        module.functions.append(
            f"define internal i32 @{symbol}({', '.join(params)}) noinline "
            f"{function_attributes(module)} {{\n{b.body()}\n}}"
        )


def _emit_trampoline(module: ModuleBuilder, names: tuple[str, str], kinds: list[str]) -> None:
    """`par(begin, end, env)`: unpack the environment and run the body."""
    lines, args = [], []
    env_type = f"{{ {', '.join(kinds)} }}"
    for place, kind in enumerate(kinds):
        lines.append(
            f"  %p{place} = getelementptr inbounds {env_type}, ptr %env, i32 0, i32 {place}"
        )
        lines.append(f"  %v{place} = load {kind}, ptr %p{place}")
        args.append(f"{kind} %v{place}")
    args += ["i64 %begin", "i64 %end"]
    lines.append(f"  %status = call i32 @{names[1]}({', '.join(args)})")
    lines.append("  ret i32 %status")
    body = "\n".join(lines)
    module.functions.append(
        f"define internal i32 @{names[0]}(i64 %begin, i64 %end, ptr %env) "
        f"{function_attributes(module)} {{\n{body}\n}}"
    )


def _lanes(stmt: BufferStore) -> int:
    return stmt.indices[0].dtype.lanes


_HANDLERS: Final[Mapping[type, Callable[[KernelEmitter, Any], None]]] = {
    Seq: KernelEmitter.sequence,
    BufferStore: KernelEmitter.store,
    Evaluate: KernelEmitter.evaluate,
    LetStmt: KernelEmitter.let,
    Assert: KernelEmitter.check,
    IfThenElse: KernelEmitter.branch,
    For: KernelEmitter.loop,
    While: KernelEmitter.repeat,
    Allocate: KernelEmitter.allocate,
}
