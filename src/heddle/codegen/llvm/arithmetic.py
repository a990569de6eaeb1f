# SPDX-License-Identifier: Apache-2.0
"""Arithmetic, comparisons and conversions on operands, as `heddle.ir.expr` defines them.

Where x86 has a cheaper form than LLVM's generic one, it is written out: NaN-propagating `max` is
`cmp+blend` around `maxps` (one `maxps` when one side is a constant), bfloat16 rounding is integer
arithmetic.
"""

from __future__ import annotations

from typing import Final

from heddle.codegen.llvm import half
from heddle.codegen.llvm.builder import FunctionBuilder, literal_int
from heddle.codegen.llvm.types import (
    float_literal,
    mangle,
    register_type,
    splat_literal,
    vector,
)
from heddle.ir.dtype import DType
from heddle.support import InternalError

CONTRACT: Final = "contract "
_COMPARE: Final = {
    # float, signed, unsigned
    "EQ": ("oeq", "eq", "eq"),
    "NE": ("une", "ne", "ne"),
    "LT": ("olt", "slt", "ult"),
    "LE": ("ole", "sle", "ule"),
    "GT": ("ogt", "sgt", "ugt"),
    "GE": ("oge", "sge", "uge"),
}
_PLAIN: Final = {"Add": ("fadd", "add"), "Sub": ("fsub", "sub"), "Mul": ("fmul", "mul")}


def zero(dtype: DType) -> str:
    """The constant zero (all lanes)."""
    if dtype.lanes > 1:
        return "zeroinitializer"
    return "0x0000000000000000" if dtype.is_float else "false" if dtype.is_bool else "0"


def intrinsic(b: FunctionBuilder, name: str, kind: str, *args: str, flags: str = "") -> str:
    """A call of the overloaded LLVM intrinsic `llvm.<name>` whose operands are all of `kind`."""
    symbol = f"@llvm.{name}.{mangle(kind)}"
    b.module.declare(f"{kind} {symbol}({', '.join([kind] * len(args))})")
    operands = ", ".join(f"{kind} {arg}" for arg in args)
    return b.op(f"call {flags}{kind} {symbol}({operands})")


def plain(b: FunctionBuilder, name: str, dtype: DType, x: str, y: str, *, nsw: bool) -> str:
    """`Add`, `Sub` or `Mul`; `nsw` says that it is index arithmetic."""
    kind = register_type(dtype)
    if dtype.is_float:
        return b.op(f"{_PLAIN[name][0]} {CONTRACT}{kind} {x}, {y}")
    if dtype.is_bool:
        return b.op(
            f"{'and' if name == 'Mul' else 'or' if name == 'Add' else 'xor'} {kind} {x}, {y}"
        )
    flags = "nsw " if nsw and dtype.kind == "int" else ""
    if kind == "i64":
        return {"Add": b.add, "Sub": b.sub, "Mul": b.mul}[name](x, y, flags=flags)
    return b.op(f"{_PLAIN[name][1]} {flags}{kind} {x}, {y}")


def divide(b: FunctionBuilder, dtype: DType, x: str, y: str) -> str:
    """`Div` of floats."""
    return b.op(f"fdiv {register_type(dtype)} {x}, {y}")


def integer_division(b: FunctionBuilder, name: str, dtype: DType, x: str, y: str) -> str:
    """`FloorDiv`, `FloorMod`, `TruncDiv`, `TruncMod`."""
    kind = register_type(dtype)
    quotient = name.endswith("Div")
    left, right = literal_int(x), literal_int(y)
    if left is not None and right and name.startswith("Floor"):
        return str(left // right if quotient else left % right)
    if dtype.kind == "uint":
        return b.op(f"{'udiv' if quotient else 'urem'} {kind} {x}, {y}")
    if kind == "i64":
        found = _non_negative_division(b, quotient, x, y)
        if found is not None:
            return found
    floor = name.startswith("Floor")
    if floor and right is not None and right > 0 and right & (right - 1) == 0:
        shift = right.bit_length() - 1
        return b.op(f"ashr {kind} {x}, {shift}" if quotient else f"and {kind} {x}, {right - 1}")
    return _signed_division(b, dtype, x, y, quotient=quotient, floor=floor)


def _non_negative_division(b: FunctionBuilder, quotient: bool, x: str, y: str) -> str | None:
    low, high = b.interval(x), b.interval(y)
    if low is None or high is None or low[0] < 0 or high[0] <= 0:
        return None
    if low[1] is not None and low[1] < high[0]:
        return "0" if quotient else x
    result = b.op(f"{'udiv' if quotient else 'urem'} i64 {x}, {y}")
    if quotient:
        b.ranges[result] = (0, None if low[1] is None else low[1] // high[0])
    else:
        b.ranges[result] = (0, None if high[1] is None else high[1] - 1)
    return result


def _signed_division(
    b: FunctionBuilder, dtype: DType, x: str, y: str, *, quotient: bool, floor: bool
) -> str:
    """General signed division. The processor traps on `lowest / -1`, which wraps here."""
    kind, lanes = register_type(dtype), dtype.lanes
    truth = vector("i1", lanes)
    none = zero(dtype)
    divisor = y
    minus_one = splat_literal(f"i{dtype.bits}", "-1", lanes)
    negate = None
    if literal_int(y) is None and not y.startswith("splat"):
        one = splat_literal(f"i{dtype.bits}", "1", lanes)
        negate = b.op(f"icmp eq {kind} {y}, {minus_one}")
        divisor = b.op(f"select {truth} {negate}, {kind} {one}, {kind} {y}")
    rest = b.op(f"srem {kind} {x}, {divisor}")
    wrong = ""
    if floor:  # the remainder must have the sign of the divisor
        signs = b.op(f"xor {kind} {rest}, {divisor}")
        differ = b.op(f"icmp slt {kind} {signs}, {none}")
        some = b.op(f"icmp ne {kind} {rest}, {none}")
        wrong = b.op(f"and {truth} {differ}, {some}")
    if quotient:
        result = b.op(f"sdiv {kind} {x}, {divisor}")
        if floor:
            step = b.op(f"sext {truth} {wrong} to {kind}")
            result = b.op(f"add {kind} {result}, {step}")
        if negate is None:
            return result
        negative = b.op(f"sub {kind} {none}, {x}")
        return b.op(f"select {truth} {negate}, {kind} {negative}, {kind} {result}")
    if not floor:
        return rest
    moved = b.op(f"add {kind} {rest}, {divisor}")
    return b.op(f"select {truth} {wrong}, {kind} {moved}, {kind} {rest}")


def extremum(b: FunctionBuilder, name: str, dtype: DType, x: str, y: str, *, known: str) -> str:
    """`Min` or `Max`. `known` tells which float operand cannot be NaN: "a", "b" or ""."""
    kind = register_type(dtype)
    if dtype.is_bool:
        return b.op(f"{'and' if name == 'Min' else 'or'} {kind} {x}, {y}")
    if dtype.is_int:
        return intrinsic(b, ("s" if dtype.kind == "int" else "u") + name.lower(), kind, x, y)
    truth = vector("i1", dtype.lanes)
    order = "olt" if name == "Min" else "ogt"
    if known != "a":
        x, y = y, x
    # `x < y ? x : y` gives y when either is NaN, as minps and maxps do
    better = b.op(f"fcmp {order} {kind} {x}, {y}")
    result = b.op(f"select {truth} {better}, {kind} {x}, {kind} {y}")
    if known:
        return result
    # What is NaN is the new operand, not the extremum of those before it: of a chain of extrema,
    # which waits for the latter, the comparison is no part.
    is_nan = b.op(f"fcmp uno {kind} {x}, {x}")
    nan = splat_literal(register_type(dtype.element), "0x7FF8000000000000", dtype.lanes)
    return b.op(f"select {truth} {is_nan}, {kind} {nan}, {kind} {result}")


def compare(b: FunctionBuilder, name: str, dtype: DType, x: str, y: str) -> str:
    """A comparison of operands of `dtype`."""
    as_float, signed, unsigned = _COMPARE[name]
    kind = register_type(dtype)
    if dtype.is_float:
        return b.op(f"fcmp {as_float} {kind} {x}, {y}")
    if kind == "i64" and name == "LT" and dtype.kind == "int":
        return b.compare_lt(x, y)
    return b.op(f"icmp {signed if dtype.kind == 'int' else unsigned} {kind} {x}, {y}")


# -- conversions ---------------------------------------------------------------------------------


def convert(b: FunctionBuilder, value: str, source: DType, dtype: DType) -> str:
    """`Cast` from `source` to `dtype`, which have equal lanes."""
    old, new = register_type(source), register_type(dtype)
    if dtype.is_bool:
        if source.is_bool:
            return value
        word = "fcmp une" if source.is_float else "icmp ne"
        return b.op(f"{word} {old} {value}, {zero(source)}")
    if dtype.is_float:
        return _to_float(b, value, source, dtype)
    if source.is_float and dtype.lanes > 1 and source.bits <= 32 and _fits_int32(dtype):
        return _clamped_to_int(b, value, dtype)
    if source.is_float:
        word = "fptosi" if dtype.kind == "int" else "fptoui"
        symbol = f"@llvm.{word}.sat.{mangle(new)}.{mangle(old)}"
        b.module.declare(f"{new} {symbol}({old})")
        return b.op(f"call {new} {symbol}({old} {value})")
    if old == new:
        return value
    if source.bits > dtype.bits and not source.is_bool:
        return b.op(f"trunc {old} {value} to {new}")
    return _extended(b, value, source, old, new)


def _fits_int32(dtype: DType) -> bool:
    return dtype.bits < 32 or (dtype.bits == 32 and dtype.kind == "int")


def _clamped_to_int(b: FunctionBuilder, value: str, dtype: DType) -> str:
    """float32 lanes rounded towards zero and saturated, NaN being 0. LLVM takes its own operation
    for this apart, lane by lane."""
    lanes = dtype.lanes
    kind, word, truth = vector("float", lanes), vector("i32", lanes), vector("i1", lanes)

    def number(of: float) -> str:
        return splat_literal("float", float_literal(of, DType.of("float32")), lanes)

    # The largest float32 below 2**31 stands in for what int32 holds at most.
    low, high = float(dtype.min_value), min(float(dtype.max_value), 2147483520.0)
    above = b.op(f"fcmp ogt {kind} {value}, {number(low)}")
    inside = b.op(f"select {truth} {above}, {kind} {value}, {kind} {number(low)}")
    below = b.op(f"fcmp olt {kind} {inside}, {number(high)}")
    inside = b.op(f"select {truth} {below}, {kind} {inside}, {kind} {number(high)}")
    result = b.op(f"fptosi {kind} {inside} to {word}")
    if dtype.bits == 32:
        beyond = b.op(f"fcmp oge {kind} {value}, {number(2147483648.0)}")
        most = splat_literal("i32", "2147483647", lanes)
        result = b.op(f"select {truth} {beyond}, {word} {most}, {word} {result}")
    if low < 0:
        odd = b.op(f"fcmp uno {kind} {value}, {value}")
        nothing = splat_literal("i32", "0", lanes)
        result = b.op(f"select {truth} {odd}, {word} {nothing}, {word} {result}")
    return result if dtype.bits == 32 else b.op(f"trunc {word} {result} to {register_type(dtype)}")


def _extended(b: FunctionBuilder, value: str, source: DType, old: str, new: str) -> str:
    word = "sext" if source.kind == "int" else "zext"
    number = literal_int(value) if source.lanes == 1 else None
    if number is not None and number >= 0:
        return str(number)
    result = b.op(f"{word} {old} {value} to {new}")
    if new == "i64" and word == "zext":
        b.ranges[result] = (0, (1 << (1 if source.is_bool else source.bits)) - 1)
    return result


def _to_float(b: FunctionBuilder, value: str, source: DType, dtype: DType) -> str:
    old, new = register_type(source), register_type(dtype)
    short = dtype.bits == 16
    if not source.is_float:
        word = "sitofp" if source.kind == "int" else "uitofp"
        if not short or source.bits < 32:
            return round_to(b, b.op(f"{word} {old} {value} to {new}"), dtype)
        double = vector("double", dtype.lanes)
        value = b.op(f"{word} {old} {value} to {double}")
        return round_to(b, half.narrow_to_odd(b, value, dtype.lanes), dtype)
    if source.bits == 64 and short:
        return round_to(b, half.narrow_to_odd(b, value, dtype.lanes), dtype)
    if old != new:
        value = b.op(f"{'fptrunc' if source.bits == 64 else 'fpext'} {old} {value} to {new}")
    return round_to(b, value, dtype)


def round_to(b: FunctionBuilder, value: str, dtype: DType) -> str:
    """A register value rounded to what `dtype` can hold."""
    if not dtype.is_float or dtype.bits != 16:
        return value
    if dtype.kind == "bfloat":
        return half.round_bfloat(b, value, dtype.lanes)
    return half.from_half(b, half.to_half(b, value, dtype.lanes), dtype.lanes)


def to_memory(b: FunctionBuilder, value: str, dtype: DType) -> str:
    """A register value in its memory type."""
    lanes = dtype.lanes
    if dtype.is_bool:
        return b.op(f"zext {register_type(dtype)} {value} to {vector('i8', lanes)}")
    if dtype.is_float and dtype.bits == 16:
        write = half.to_half if dtype.kind == "float" else half.to_bfloat
        return write(b, value, lanes)
    return value


def from_memory(b: FunctionBuilder, value: str, dtype: DType) -> str:
    """A value of the memory type in its register type."""
    lanes = dtype.lanes
    if dtype.is_bool:
        return b.op(
            f"icmp ne {vector('i8', lanes)} {value}, {'zeroinitializer' if lanes > 1 else 0}"
        )
    if dtype.is_float and dtype.bits == 16:
        read = half.from_half if dtype.kind == "float" else half.from_bfloat
        return read(b, value, lanes)
    return value


def select(b: FunctionBuilder, condition: str, kind: str, x: str, y: str, lanes: int) -> str:
    """`x` where `condition`, else `y`, of LLVM's type `kind`; the condition has `lanes` lanes."""
    if condition in ("true", "false"):
        return x if condition == "true" else y
    return b.op(f"select {vector('i1', lanes)} {condition}, {kind} {x}, {kind} {y}")


def mask_and(b: FunctionBuilder, a: str | None, c: str, lanes: int) -> str:
    """The conjunction of two masks, where None is all lanes."""
    return c if a is None else b.op(f"and {vector('i1', lanes)} {a}, {c}")


def invert(b: FunctionBuilder, value: str, lanes: int) -> str:
    """Logical negation."""
    if lanes == 1 and value in ("true", "false"):
        return "false" if value == "true" else "true"
    return b.op(f"xor {vector('i1', lanes)} {value}, {splat_literal('i1', 'true', lanes)}")


def reduce_lanes(b: FunctionBuilder, how: str, dtype: DType, value: str) -> str:
    """All lanes of `value` (of the vector `dtype`) combined: "sum", "prod", "max" or "min"."""
    kind, element = register_type(dtype), register_type(dtype.element)
    if dtype.is_float and how in ("sum", "prod"):
        name = "fadd" if how == "sum" else "fmul"
        start = "0x8000000000000000" if how == "sum" else "0x3FF0000000000000"
        symbol = f"@llvm.vector.reduce.{name}.{mangle(kind)}"
        b.module.declare(f"{element} {symbol}({element}, {kind})")
        return b.op(f"call reassoc {element} {symbol}({element} {start}, {kind} {value})")
    if dtype.is_float:
        name = "fmaximum" if how == "max" else "fminimum"
    elif dtype.is_bool:
        name = {"sum": "or", "max": "or", "prod": "and", "min": "and"}[how]
    elif how in ("sum", "prod"):
        name = "add" if how == "sum" else "mul"
    elif how in ("max", "min"):
        name = ("s" if dtype.kind == "int" else "u") + how
    else:
        raise InternalError(f"unknown reduction `{how}`")
    symbol = f"@llvm.vector.reduce.{name}.{mangle(kind)}"
    b.module.declare(f"{element} {symbol}({kind})")
    return b.op(f"call {element} {symbol}({kind} {value})")
