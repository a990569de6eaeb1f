# SPDX-License-Identifier: Apache-2.0
"""Expressions to LLVM IR: one method per node class, reached through a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from heddle.codegen.llvm import arithmetic, memory
from heddle.codegen.llvm.builder import FunctionBuilder
from heddle.codegen.llvm.intrinsics import INTRINSIC_EMITTERS
from heddle.codegen.llvm.tiles import TILE_CALLS, emit_tile_call
from heddle.codegen.llvm.transpose import emit_transpose
from heddle.codegen.llvm.types import (
    argument_type,
    extension,
    float_literal,
    int_literal,
    memory_type,
    register_type,
    value_type,
)
from heddle.ir import expr as ir
from heddle.ir.dtype import FLOAT32, INT64, DType
from heddle.ir.expr import Expr, Var, as_int
from heddle.ir.walk import pre_order
from heddle.support import InternalError
from heddle.tir.nodes import Buffer, BufferLoad


class ExpressionEmitter:
    """Writes expressions into the current block of a function.

    `values` holds the operands of variables, `buffers` the pointers of buffers. While `mask` is
    set (one bit per lane), loads touch only the lanes that it turns on.
    """

    def __init__(self, b: FunctionBuilder) -> None:
        self.b = b
        self.values: dict[Var, str] = {}
        self.buffers: dict[Buffer, str] = {}
        self.mask: str | None = None
        self.mask_lanes = 1
        self.indexing = False
        self._memo: dict[tuple[Expr, bool], str] = {}

    # -- entry points ----------------------------------------------------------------------------

    def value(self, root: Expr) -> str:
        """The operand of `root`, computed now (memory may have changed since the last call)."""
        self._memo = {}
        return self.emit(root)

    def emit(self, root: Expr) -> str:
        """The operand of a part of the expression being written."""
        key = (root, self.indexing)
        found = self._memo.get(key)
        if found is None:
            handler = _HANDLERS.get(type(root))
            if handler is None:
                raise InternalError(f"no code for expression {type(root).__name__}")
            found = self._memo[key] = handler(self, root)
        return found

    def index(self, root: Expr) -> str:
        """The operand of an index: int64 arithmetic that does not overflow."""
        before, self.indexing = self.indexing, True
        try:
            operand = self.emit(root)
        finally:
            self.indexing = before
        if root.dtype.element is not INT64:
            operand = arithmetic.convert(
                self.b, operand, root.dtype, INT64.with_lanes(root.dtype.lanes)
            )
        return operand

    @contextmanager
    def only_where(self, condition: str, lanes: int) -> Iterator[None]:
        """Code for the lanes of `condition` only."""
        before, memo, width = self.mask, self._memo, self.mask_lanes
        self.mask = arithmetic.mask_and(self.b, before, condition, lanes)
        self.mask_lanes = lanes
        self._memo = {}
        try:
            yield
        finally:
            self.mask, self._memo, self.mask_lanes = before, memo, width

    @contextmanager
    def branch_scope(self) -> Iterator[None]:
        """Code in a block that does not dominate what follows."""
        memo = self._memo
        self._memo = dict(memo)
        with self.b.scope():
            yield
        self._memo = memo

    # -- leaves ----------------------------------------------------------------------------------

    def var(self, found: Var) -> str:
        operand = self.values.get(found)
        if operand is None:
            raise InternalError(f"variable `{found.name}` is used where it has no value")
        return operand

    def int_imm(self, found: ir.IntImm) -> str:
        return int_literal(found.value, found.dtype)

    def float_imm(self, found: ir.FloatImm) -> str:
        return float_literal(found.value, found.dtype)

    def ramp(self, found: ir.Ramp) -> str:
        base, stride = self.emit(found.base), self.emit(found.stride)
        element = register_type(found.dtype.element)
        return memory.ramp(self.b, base, stride, found.lanes, element)

    def broadcast(self, found: ir.Broadcast) -> str:
        element = register_type(found.value.dtype)
        return self.b.splat(element, self.emit(found.value), found.lanes)

    # -- operators -------------------------------------------------------------------------------

    def plain(self, found: ir.BinaryExpr) -> str:
        x, y = self.emit(found.a), self.emit(found.b)
        name = type(found).__name__
        return arithmetic.plain(self.b, name, found.dtype, x, y, nsw=self.indexing)

    def divide(self, found: ir.Div) -> str:
        x, y = self.emit(found.a), self.emit(found.b)
        return arithmetic.divide(self.b, found.dtype, x, y)

    def integer_division(self, found: ir.BinaryExpr) -> str:
        x, y = self.emit(found.a), self.emit(found.b)
        dtype, name = found.dtype, type(found).__name__
        if self.mask is not None and dtype.lanes > 1:
            # lanes that are off hold zeros, and dividing by zero would trap
            kind = f"i{dtype.bits}"
            one = self.b.splat(kind, "1", dtype.lanes)
            y = arithmetic.select(self.b, self.mask, register_type(dtype), y, one, dtype.lanes)
        return arithmetic.integer_division(self.b, name, dtype, x, y)

    def extremum(self, found: ir.BinaryExpr) -> str:
        x, y = self.emit(found.a), self.emit(found.b)
        known = "b" if _never_nan(found.b) else "a" if _never_nan(found.a) else ""
        name = type(found).__name__
        return arithmetic.extremum(self.b, name, found.dtype, x, y, known=known)

    def compare(self, found: ir.CompareExpr) -> str:
        x, y = self.emit(found.a), self.emit(found.b)
        return arithmetic.compare(self.b, type(found).__name__, found.a.dtype, x, y)

    def logical(self, found: ir.BinaryExpr) -> str:
        x, y = self.emit(found.a), self.emit(found.b)
        word = "and" if isinstance(found, ir.And) else "or"
        if (word == "and" and "false" in (x, y)) or (word == "or" and "true" in (x, y)):
            return "false" if word == "and" else "true"
        if x in ("true", "false"):
            return y
        if y in ("true", "false"):
            return x
        return self.b.op(f"{word} {register_type(found.dtype)} {x}, {y}")

    def negate(self, found: ir.Not) -> str:
        return arithmetic.invert(self.b, self.emit(found.a), found.dtype.lanes)

    def select(self, found: ir.Select, *, raw: bool = False) -> str:
        operand, kind = self._form(found.dtype, raw=raw)
        condition = self.emit(found.condition)
        x, y = operand(found.a), operand(found.b)
        return arithmetic.select(self.b, condition, kind, x, y, found.condition.dtype.lanes)

    def cast(self, found: ir.Cast) -> str:
        source = found.value.dtype
        operand = self.emit(found.value)
        if source.is_float and source.bits == 16 and not isinstance(found.value, BufferLoad):
            operand = arithmetic.round_to(self.b, operand, source)
        return arithmetic.convert(self.b, operand, source, found.dtype)

    def let(self, found: ir.Let) -> str:
        self.values[found.var] = self.emit(found.value)
        return self.emit(found.body)

    # -- calls -----------------------------------------------------------------------------------

    def call(self, found: ir.Call) -> str:
        if found.name == "if_then_else":
            return self.if_then_else(found)
        if found.name == "call_extern":
            return self.call_extern(found)
        if found.name == "prefetch":
            return self.prefetch(found)
        if found.name == "call_llvm_intrin":
            return self.call_llvm_intrin(found)
        if found.name == "address_of":
            return self.address_of(found)
        if found.name in TILE_CALLS:
            return emit_tile_call(self, found)
        if found.name == "transpose_tile":
            return emit_transpose(self, found)
        if found.name == "reinterpret":
            return arithmetic.from_memory(self.b, self.bits(found), found.dtype)
        operands = []
        for arg in found.args:
            operands.append(self.emit(arg))
        if found.name.startswith("vector_reduce_"):
            how = found.name.removeprefix("vector_reduce_")
            return arithmetic.reduce_lanes(self.b, how, found.args[0].dtype, operands[0])
        emitter = INTRINSIC_EMITTERS.get(found.name)
        if emitter is None:
            raise InternalError(f"no code for intrinsic `{found.name}`")
        return emitter(self.b, found, operands)

    def call_extern(self, found: ir.Call) -> str:
        symbol, *args = found.args
        assert isinstance(symbol, ir.StringImm)
        kinds = [argument_type(arg.dtype) for arg in args]
        operands = []
        for kind, arg in zip(kinds, args, strict=True):
            operands.append(f"{kind} {self.emit(arg)}")
        result = f"{extension(found.dtype)} {register_type(found.dtype)}".lstrip()
        self.b.module.declare(f"{result} @{symbol.value}({', '.join(kinds)})")
        return self.b.instr(f"call {result} @{symbol.value}({', '.join(operands)})")

    def prefetch(self, found: ir.Call) -> str:
        place, level = found.args[0], as_int(found.args[1])
        assert isinstance(place, BufferLoad)
        locality = 3 if level == 1 else 2
        pointer, offset = self.buffers[place.buffer], self.emit(place.indices[0])
        element = memory_type(place.buffer.dtype)
        where = self.b.op(f"getelementptr {element}, ptr {pointer}, i64 {offset}")
        self.b.module.declare("void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        self.b.void(f"call void @llvm.prefetch.p0(ptr {where}, i32 0, i32 {locality}, i32 1)")
        return "0"

    def call_llvm_intrin(self, found: ir.Call) -> str:
        symbol, *args = found.args
        assert isinstance(symbol, ir.StringImm)
        kinds = [value_type(arg.dtype) for arg in args]
        operands = []
        for kind, arg in zip(kinds, args, strict=True):
            if kind == register_type(arg.dtype):
                operands.append(f"{kind} {self.emit(arg)}")
                continue
            # 16-bit floats: in the type that memory has, seen as LLVM's type for them
            raw = self.bits(arg)
            cast = self.b.op(f"bitcast {memory_type(arg.dtype)} {raw} to {kind}")
            operands.append(f"{kind} {cast}")
        result = value_type(found.dtype)
        self.b.module.declare(f"{result} @{symbol.value}({', '.join(kinds)})")
        made = self.b.op(f"call {result} @{symbol.value}({', '.join(operands)})")
        if result == register_type(found.dtype):
            return made
        raw = self.b.op(f"bitcast {result} {made} to {memory_type(found.dtype)}")
        return arithmetic.from_memory(self.b, raw, found.dtype)

    def address_of(self, found: ir.Call) -> str:
        element = found.args[0]
        assert isinstance(element, BufferLoad)
        place = self.place(element.buffer, element.indices[0])
        return memory.address(self.b, place, place.base)

    def bits(self, value: Expr) -> str:
        """A value in its memory type; bits from memory, and reinterpreted ones, are kept."""
        if isinstance(value, BufferLoad):
            return self.load_raw(value)
        if isinstance(value, ir.Select):
            return self.select(value, raw=True)
        if isinstance(value, ir.Call) and value.name == "if_then_else":
            return self.if_then_else(value, raw=True)
        if isinstance(value, ir.Call) and value.name == "reinterpret":
            old, new = memory_type(value.args[0].dtype), memory_type(value.dtype)
            raw = self.bits(value.args[0])
            return raw if old == new else self.b.op(f"bitcast {old} {raw} to {new}")
        dtype = value.dtype
        if isinstance(value, ir.Cast) and value.value.dtype.element is FLOAT32:
            value = value.value if dtype.is_float else value  # rounded once, on the way to memory
        return arithmetic.to_memory(self.b, self.emit(value), dtype)

    def _form(self, dtype: DType, *, raw: bool) -> tuple[Callable[[Expr], str], str]:
        """How to write values of `dtype`, and their type: as in memory where they are `raw`."""
        return (self.bits, memory_type(dtype)) if raw else (self.emit, register_type(dtype))

    def if_then_else(self, found: ir.Call, *, raw: bool = False) -> str:
        condition, a, b = found.args
        form = self._form(found.dtype, raw=raw)
        operand, kind = form
        truth = self.emit(condition)
        if truth in ("true", "false"):
            return operand(a if truth == "true" else b)
        lanes = condition.dtype.lanes
        if lanes > 1:
            with self.only_where(truth, lanes):
                x = operand(a)
            with self.only_where(arithmetic.invert(self.b, truth, lanes), lanes):
                y = operand(b)
            return arithmetic.select(self.b, truth, kind, x, y, lanes)
        if _speculatable(a) and _speculatable(b):
            return arithmetic.select(self.b, truth, kind, operand(a), operand(b), 1)
        return self._branch(truth, form, a, b)

    def _branch(
        self, condition: str, form: tuple[Callable[[Expr], str], str], a: Expr, b: Expr
    ) -> str:
        operand, kind = form
        writer = self.b
        then, otherwise, end = (writer.label(stem) for stem in ("if", "else", "endif"))
        writer.branch_if(condition, then, otherwise)
        arms = []
        for label, part in ((then, a), (otherwise, b)):
            writer.start(label)
            with self.branch_scope():
                value = operand(part)
            arms.append(f"[ {value}, %{writer.block} ]")
            writer.branch(end)
        writer.start(end)
        return writer.instr(f"phi {kind} {', '.join(arms)}")

    # -- memory ----------------------------------------------------------------------------------

    def place(self, buffer: Buffer, index: Expr) -> memory.Place:
        """Where `buffer[index]` is."""
        pointer = self.buffers.get(buffer)
        if pointer is None:
            raise InternalError(f"buffer `{buffer.name}` is used where it has no memory")
        lanes = index.dtype.lanes
        dtype = buffer.dtype
        if isinstance(index, ir.Ramp):
            base, stride = self.index(index.base), self.index(index.stride)
            return memory.Place(pointer, dtype, lanes, base, stride)
        if isinstance(index, ir.Broadcast):
            return memory.Place(pointer, dtype, lanes, self.index(index.value), "0")
        if lanes == 1:
            return memory.Place(pointer, dtype, 1, self.index(index), "0")
        return memory.Place(pointer, dtype, lanes, "0", "0", self.index(index))

    def load(self, found: BufferLoad) -> str:
        raw = self.load_raw(found)
        return arithmetic.from_memory(self.b, raw, found.dtype)

    def load_raw(self, found: BufferLoad) -> str:
        """A load in the memory type."""
        place = self.place(found.buffer, found.indices[0])
        mask = self.mask
        if mask is not None and place.lanes > 1 and place.lanes != self.mask_lanes:
            raise InternalError(
                f"load of {place.lanes} lanes from `{found.buffer.name}` under a mask of "
                f"{self.mask_lanes}"
            )
        if mask is not None and place.lanes > 1 and self.is_inside(place, found.buffer):
            mask = None  # what the other lanes hold does no harm, and the buffer stays in registers
        return memory.load(self.b, place, mask, self.mask_lanes)

    def is_inside(self, place: memory.Place, buffer: Buffer) -> bool:
        """Whether all lanes of a vector lie in a stack buffer, the masked ones too."""
        count = memory.stack_elements(buffer)
        if count is None or place.offsets is not None or place.stride != "1":
            return False
        known = self.b.interval(place.base)
        return (
            known is not None
            and known[0] >= 0
            and known[1] is not None
            and known[1] + place.lanes <= count
        )

    def stored(self, value: Expr, dtype: DType) -> str:
        """A value in the memory type of `dtype`, which may be as it came from memory."""
        self._memo = {}
        if memory_type(dtype) != register_type(dtype) and value.dtype is dtype:
            return self.bits(value)
        return arithmetic.to_memory(self.b, self.emit(value), dtype)


def _never_nan(value: Expr) -> bool:
    if isinstance(value, ir.Broadcast):
        return _never_nan(value.value)
    return isinstance(value, ir.FloatImm) and value.value == value.value


def _speculatable(value: Expr) -> bool:
    """Whether an expression can be evaluated although its value is not wanted."""
    divisions = (ir.FloorDiv, ir.FloorMod, ir.TruncDiv, ir.TruncMod)
    for count, found in enumerate(pre_order(value)):
        if count > 16 or isinstance(found, BufferLoad):
            return False
        if isinstance(found, divisions) and not isinstance(found.b, ir.IntImm):
            return False
        if isinstance(found, ir.Call) and found.name == "call_extern":
            return False
    return True


_HANDLERS: Final[Mapping[type, Callable[[ExpressionEmitter, Any], str]]] = {
    Var: ExpressionEmitter.var,
    ir.IntImm: ExpressionEmitter.int_imm,
    ir.FloatImm: ExpressionEmitter.float_imm,
    ir.Ramp: ExpressionEmitter.ramp,
    ir.Broadcast: ExpressionEmitter.broadcast,
    ir.Add: ExpressionEmitter.plain,
    ir.Sub: ExpressionEmitter.plain,
    ir.Mul: ExpressionEmitter.plain,
    ir.Div: ExpressionEmitter.divide,
    ir.FloorDiv: ExpressionEmitter.integer_division,
    ir.FloorMod: ExpressionEmitter.integer_division,
    ir.TruncDiv: ExpressionEmitter.integer_division,
    ir.TruncMod: ExpressionEmitter.integer_division,
    ir.Min: ExpressionEmitter.extremum,
    ir.Max: ExpressionEmitter.extremum,
    ir.EQ: ExpressionEmitter.compare,
    ir.NE: ExpressionEmitter.compare,
    ir.LT: ExpressionEmitter.compare,
    ir.LE: ExpressionEmitter.compare,
    ir.GT: ExpressionEmitter.compare,
    ir.GE: ExpressionEmitter.compare,
    ir.And: ExpressionEmitter.logical,
    ir.Or: ExpressionEmitter.logical,
    ir.Not: ExpressionEmitter.negate,
    ir.Select: ExpressionEmitter.select,
    ir.Cast: ExpressionEmitter.cast,
    ir.Call: ExpressionEmitter.call,
    ir.Let: ExpressionEmitter.let,
    BufferLoad: ExpressionEmitter.load,
}
