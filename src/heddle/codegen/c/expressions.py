# SPDX-License-Identifier: Apache-2.0
"""Expressions to C, with no more parentheses than it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from heddle.arith import Analyzer
from heddle.codegen.c.types import (
    compute_dtype,
    float_literal,
    int_literal,
    is_short_float,
    memory_type,
    scalar,
    short_name,
    value_type,
)
from heddle.ir import expr as ir
from heddle.ir.dtype import DType
from heddle.ir.expr import Expr, Var, as_int
from heddle.ir.walk import post_order, rewrite, substitute
from heddle.support import InternalError, UserError
from heddle.tir.nodes import Buffer, BufferLoad, BufferStore

_PRIMARY, _UNARY, _TIMES, _PLUS, _LESS, _EQUAL, _AND, _OR, _CHOICE = 16, 15, 13, 12, 10, 9, 5, 4, 3


class Text(NamedTuple):
    """C text and how tightly it binds."""

    text: str
    binds: int = _PRIMARY

    def inside(self, binds: int) -> str:
        """The text as an operand of an operator that binds that tightly."""
        return self.text if self.binds >= binds else f"({self.text})"


_ARITHMETIC: Final = {"Add": ("+", _PLUS), "Sub": ("-", _PLUS), "Mul": ("*", _TIMES)}
_COMPARE: Final = {
    "LT": ("<", _LESS),
    "LE": ("<=", _LESS),
    "GT": (">", _LESS),
    "GE": (">=", _LESS),
    "EQ": ("==", _EQUAL),
    "NE": ("!=", _EQUAL),
}
LIBM: Final = {
    **{name: name for name in "exp exp2 log log2 log1p expm1 sqrt sin cos tan asin acos".split()},
    **{name: name for name in "atan sinh cosh tanh asinh acosh atanh erf floor ceil".split()},
    **{name: name for name in "trunc fabs pow fmod atan2 fma".split()},
    "round": "rint",
}
_BITS: Final = {"bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^"}


class ExpressionWriter:
    """Expressions of one function. `names` gives the C name of a variable or buffer."""

    def __init__(self, name_of: Callable[[Var | Buffer], str]) -> None:
        self.name_of = name_of
        self.analyzer = Analyzer()
        self.helpers: dict[str, None] = {}
        self.externs: dict[str, str] = {}
        self.temporaries: dict[Expr, str] = {}
        """Shared subexpressions that have a name by now."""

    def text(self, value: Expr) -> str:
        """The C text of a value."""
        return self.emit(value).text

    def emit(self, value: Expr, *, index: bool = False) -> Text:
        """`index`: whether this is index arithmetic, which does not overflow."""
        name = self.temporaries.get(value)
        if name is not None:
            return Text(name)
        scalar(value.dtype)
        handler = _HANDLERS.get(type(value))
        if handler is None:
            raise UserError(f"the C target has no code for {type(value).__name__}", span=value.span)
        made: Text = handler(self, value, index or is_index(value))
        return made

    def helper(self, name: str) -> str:
        """The name of a helper, whose definition the source then holds."""
        self.helpers[name] = None
        return name

    def call(self, function: str, *args: Expr) -> Text:
        return Text(f"{function}({', '.join(self.text(arg) for arg in args)})")

    # -- names and constants -----------------------------------------------------------------

    def var(self, value: Var, index: bool) -> Text:
        return Text(self.name_of(value))

    def integer(self, value: ir.IntImm, index: bool) -> Text:
        return Text(int_literal(value.value, value.dtype), _UNARY if value.value < 0 else _PRIMARY)

    def float(self, value: ir.FloatImm, index: bool) -> Text:
        text = float_literal(value.value, value.dtype)
        return Text(text, _UNARY if text.startswith("-") else _PRIMARY)

    # -- arithmetic --------------------------------------------------------------------------

    def arithmetic(self, value: Any, index: bool) -> Text:
        sign, binds = _ARITHMETIC[type(value).__name__]
        dtype: DType = value.dtype
        if dtype.is_bool:
            word = {"+": "||", "*": "&&", "-": "!="}[sign]
            return self.logic(value, word, {"||": _OR, "&&": _AND, "!=": _EQUAL}[word])
        a, b = self.emit(value.a, index=index), self.emit(value.b, index=index)
        if dtype.is_float or index:
            return Text(f"{a.inside(binds)} {sign} {b.inside(binds + 1)}", binds)
        # Integers wrap, and C leaves it undefined for signed ones: compute with unsigned.
        wide = f"uint{max(dtype.bits, 32)}_t"
        x, y = f"({wide}){a.inside(_UNARY)}", f"({wide}){b.inside(_UNARY)}"
        if dtype.kind == "uint" and dtype.bits >= 32:
            return Text(f"{a.inside(binds)} {sign} {b.inside(binds + 1)}", binds)
        return Text(f"({value_type(dtype)})({x} {sign} {y})", _UNARY)

    def divide(self, value: ir.Div, index: bool) -> Text:
        a, b = self.emit(value.a), self.emit(value.b)
        return Text(f"{a.inside(_TIMES)} / {b.inside(_TIMES + 1)}", _TIMES)

    def integer_division(self, value: Any, index: bool) -> Text:
        kind = type(value).__name__
        dtype: DType = value.dtype
        sign = "/" if kind.endswith("Div") else "%"
        divisor = as_int(value.b)
        plain = dtype.kind == "uint" or (
            divisor is not None and divisor > 0 and kind.startswith("Trunc")
        )
        if plain or (index and self._never_negative(value.a) and self._positive(value.b)):
            a, b = self.emit(value.a, index=index), self.emit(value.b, index=index)
            text = f"{a.inside(_TIMES)} {sign} {b.inside(_TIMES + 1)}"
            if dtype.bits < 32:
                return Text(f"({value_type(dtype)})({text})", _UNARY)
            return Text(text, _TIMES)
        return self.call(self.helper(f"{kind.lower()}_{dtype.name}"), value.a, value.b)

    def _never_negative(self, value: Expr) -> bool:
        return self.analyzer.bounds(value).lo >= 0

    def _positive(self, value: Expr) -> bool:
        return self.analyzer.bounds(value).lo > 0

    def extremum(self, value: Any, index: bool) -> Text:
        dtype = compute_dtype(value.dtype)
        what = type(value).__name__.lower()
        if dtype.is_bool:
            word = "&&" if what == "min" else "||"
            return self.logic(value, word, _AND if what == "min" else _OR)
        word = value_type(dtype) if dtype.is_float else dtype.name
        return self.call(self.helper(f"{what}_{word}"), value.a, value.b)

    def compare(self, value: Any, index: bool) -> Text:
        sign, binds = _COMPARE[type(value).__name__]
        if value.a.dtype.kind == "uint" and as_int(value.b) == 0 and sign in ("<", ">="):
            return Text("true" if sign == ">=" else "false")  # compilers warn of the comparison
        # One step tighter: compilers warn of a comparison as the operand of another.
        a, b = self.emit(value.a).inside(_PLUS), self.emit(value.b).inside(_PLUS)
        return Text(f"{a} {sign} {b}", binds)

    def both(self, value: ir.And, index: bool) -> Text:
        return self.logic(value, "&&", _AND)

    def either(self, value: ir.Or, index: bool) -> Text:
        return self.logic(value, "||", _OR)

    def logic(self, value: Any, word: str, binds: int) -> Text:
        sides = []
        for side in (self.emit(value.a), self.emit(value.b)):
            mixed = side.binds in (_AND, _OR) and side.binds != binds
            sides.append(f"({side.text})" if mixed else side.inside(binds))
        return Text(f"{sides[0]} {word} {sides[1]}", binds)

    def negate(self, value: ir.Not, index: bool) -> Text:
        return Text(f"!{self.emit(value.a).inside(_UNARY)}", _UNARY)

    def select(self, value: ir.Select, index: bool) -> Text:
        return self.choice(value.condition, value.a, value.b)

    def choice(self, condition: Expr, a: Expr, b: Expr) -> Text:
        parts = [self.emit(part).inside(_CHOICE + 1) for part in (condition, a, b)]
        return Text(f"{parts[0]} ? {parts[1]} : {parts[2]}", _CHOICE)

    # -- conversions -------------------------------------------------------------------------

    def cast(self, value: ir.Cast, index: bool) -> Text:
        source, dtype = value.value.dtype, value.dtype
        made = self.emit(value.value)
        if source is dtype:
            return made
        if dtype.is_bool:
            return Text(f"{made.inside(_PLUS)} != 0", _EQUAL)
        if source.is_float and dtype.is_int:
            word = value_type(compute_dtype(source))
            return self.call(self.helper(f"{dtype.name}_of_{word}"), value.value)
        plain = Text(f"({value_type(dtype)}){made.inside(_UNARY)}", _UNARY)
        if not is_short_float(dtype):
            same = value_type(source) == value_type(dtype)
            return made if same else plain
        word = short_name(dtype)
        down, up = self.helper(f"float_to_{word}"), self.helper(f"{word}_to_float")
        return Text(f"{up}({down}({plain.text}))")

    def reinterpret(self, value: ir.Call) -> Text:
        source, dtype = value.args[0].dtype, value.dtype
        inner = self._in_memory(value.args[0])
        old, new = memory_type(source), memory_type(dtype)
        if old != new:
            inner = f"{self.helper(f'bits_{old}_as_{new}')}({inner})"
        return self._from_memory(inner, dtype)

    def _from_memory(self, text: str, dtype: DType) -> Text:
        if is_short_float(dtype):
            return Text(f"{self.helper(f'{short_name(dtype)}_to_float')}({text})")
        return Text(f"{text} != 0", _EQUAL) if dtype.is_bool else Text(text)

    def _in_memory(self, value: Expr) -> str:
        if is_short_float(value.dtype):
            return f"{self.helper(f'float_to_{short_name(value.dtype)}')}({self.text(value)})"
        return self.text(value)

    # -- calls -------------------------------------------------------------------------------

    def intrinsic(self, value: ir.Call, index: bool) -> Text:
        name, args, dtype = value.name, value.args, value.dtype
        if name == "if_then_else":
            return self.choice(*args)
        if name == "call_extern":
            return self.extern(value)
        if name == "reinterpret":
            return self.reinterpret(value)
        if name == "address_of":
            return Text(f"&{self.place(args[0])}", _UNARY)  # type: ignore[arg-type]
        if name in LIBM:
            return self.call(f"{LIBM[name]}{'' if dtype.bits == 64 else 'f'}", *args)
        if name in ("sigmoid", "rsqrt", "exp_normal"):
            return self.call(self.helper(f"{name}_{value_type(compute_dtype(dtype))}"), *args)
        if name in ("isnan", "isinf"):
            return self.call(name, *args)
        if name in _BITS or name in ("shift_left", "shift_right", "bitwise_not"):
            return self.bits(value)
        if name == "popcount":
            source = args[0].dtype
            bits = f"(uint{source.bits}_t){self.emit(args[0]).inside(_UNARY)}"
            call = f"{self.helper('popcount_uint64')}({bits})"
            return Text(f"({value_type(dtype)}){call}", _UNARY)
        raise UserError(f"the C target has no intrinsic `{name}`", span=value.span)

    def bits(self, value: ir.Call) -> Text:
        kind, dtype = value_type(value.dtype), value.dtype
        parts = [self.emit(arg).inside(_UNARY) for arg in value.args]
        if value.name == "bitwise_not":
            return Text(f"({kind})~{parts[0]}", _UNARY)
        if value.name == "shift_left":
            wide = f"uint{max(dtype.bits, 32)}_t"
            return Text(f"({kind})(({wide}){parts[0]} << {parts[1]})", _UNARY)
        sign = ">>" if value.name == "shift_right" else _BITS[value.name]
        return Text(f"({kind})({parts[0]} {sign} {parts[1]})", _UNARY)

    def extern(self, value: ir.Call) -> Text:
        symbol, *args = value.args
        if not isinstance(symbol, ir.StringImm):
            raise InternalError("call_extern without a symbol")
        kinds = ", ".join(value_type(arg.dtype) for arg in args) or "void"
        result = value_type(value.dtype)
        space = "" if result.endswith("*") else " "
        prototype = f"{result}{space}{symbol.value}({kinds});"
        if self.externs.setdefault(symbol.value, prototype) != prototype:
            known = self.externs[symbol.value]
            raise UserError(
                f"the C function `{symbol.value}` is called in two ways: {known} and {prototype}",
                span=value.span,
            )
        return self.call(symbol.value, *args)

    # -- memory ------------------------------------------------------------------------------

    def place(self, access: BufferLoad | BufferStore) -> str:
        """`A[i * 64 + j]`"""
        scalar(access.indices[0].dtype)
        return f"{self.name_of(access.buffer)}[{self.emit(access.indices[0], index=True).text}]"

    def load(self, value: BufferLoad, index: bool) -> Text:
        return self._from_memory(self.place(value), value.dtype)

    def stored(self, value: Expr, dtype: DType) -> str:
        """A value as it is written to memory of `dtype`."""
        raw = isinstance(value, BufferLoad) and value not in self.temporaries
        if raw and (is_short_float(dtype) or dtype.is_bool):
            return self.place(value)  # type: ignore[arg-type]
        return self._in_memory(value)


def is_index(value: Expr) -> bool:
    """Whether integers are made of variables and constants alone, as indices are."""
    if value.dtype.name != "int64":
        return False
    plain = (Var, ir.IntImm, ir.Add, ir.Sub, ir.Mul, ir.FloorDiv, ir.FloorMod, ir.Min, ir.Max)
    return all(isinstance(found, plain) for found in post_order(value))


def without_lets(value: Expr) -> Expr:
    """`value` with the variables of its lets replaced by their values, which it then shares."""
    made: Expr = rewrite(value, {ir.Let: lambda let: substitute(let.body, {let.var: let.value})})
    return made


def shared_parts(value: Expr) -> list[Expr]:
    """The operations that occur more than once in `value` and are evaluated in any case, inner
    ones first."""
    uses: dict[Expr, int] = {}
    for found in post_order(value):
        for child in found.children():
            uses[child] = uses.get(child, 0) + 1  # type: ignore[index]
    eager: set[Expr] = set()
    stack = [value]
    while stack:
        found = stack.pop()
        if found in eager:
            continue
        eager.add(found)
        lazy = isinstance(found, ir.Call) and found.name == "if_then_else"
        stack.extend(found.children()[:1] if lazy else found.children())  # type: ignore[arg-type]
    leaves = (Var, ir.IntImm, ir.FloatImm, ir.StringImm)
    return [
        found
        for found in post_order(value)
        if isinstance(found, Expr)
        and uses.get(found, 0) > 1
        and found in eager
        and not isinstance(found, leaves)
        and not is_index(found)
    ]


_HANDLERS: Final[Mapping[type, Callable[[ExpressionWriter, Any, bool], Text]]] = {
    Var: ExpressionWriter.var,
    ir.IntImm: ExpressionWriter.integer,
    ir.FloatImm: ExpressionWriter.float,
    ir.Add: ExpressionWriter.arithmetic,
    ir.Sub: ExpressionWriter.arithmetic,
    ir.Mul: ExpressionWriter.arithmetic,
    ir.Div: ExpressionWriter.divide,
    **dict.fromkeys(
        (ir.FloorDiv, ir.FloorMod, ir.TruncDiv, ir.TruncMod), ExpressionWriter.integer_division
    ),
    ir.Min: ExpressionWriter.extremum,
    ir.Max: ExpressionWriter.extremum,
    **dict.fromkeys((ir.EQ, ir.NE, ir.LT, ir.LE, ir.GT, ir.GE), ExpressionWriter.compare),
    ir.And: ExpressionWriter.both,
    ir.Or: ExpressionWriter.either,
    ir.Not: ExpressionWriter.negate,
    ir.Select: ExpressionWriter.select,
    ir.Cast: ExpressionWriter.cast,
    ir.Call: ExpressionWriter.intrinsic,
    BufferLoad: ExpressionWriter.load,
}
