# SPDX-License-Identifier: Apache-2.0
"""Intrinsic calls to LLVM IR: a table from intrinsic name to the function that writes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from heddle.codegen.llvm import arithmetic
from heddle.codegen.llvm.builder import FunctionBuilder
from heddle.codegen.llvm.math import elementary
from heddle.codegen.llvm.types import register_type, splat_literal
from heddle.ir.expr import Call

Emitter = Callable[[FunctionBuilder, Call, list[str]], str]


def _llvm(name: str) -> Emitter:
    """The LLVM intrinsic `name` on operands of one type."""

    def emit(b: FunctionBuilder, call: Call, args: list[str]) -> str:
        return arithmetic.intrinsic(b, name, register_type(call.dtype), *args)

    return emit


def _instruction(word: str) -> Emitter:
    def emit(b: FunctionBuilder, call: Call, args: list[str]) -> str:
        return b.op(f"{word} {register_type(call.dtype)} {args[0]}, {args[1]}")

    return emit


def _elementary(name: str) -> Emitter:
    def emit(b: FunctionBuilder, call: Call, args: list[str]) -> str:
        kind = register_type(call.dtype)
        element = register_type(call.dtype.element)
        symbol = elementary(b.module, name, element, call.dtype.lanes)
        operands = ", ".join(f"{kind} {arg}" for arg in args)
        return b.op(f"call {kind} {symbol}({operands})")

    return emit


def _rsqrt(b: FunctionBuilder, call: Call, args: list[str]) -> str:
    kind = register_type(call.dtype)
    root = arithmetic.intrinsic(b, "sqrt", kind, args[0])
    one = splat_literal(register_type(call.dtype.element), "1.0", call.dtype.lanes)
    return b.op(f"fdiv {kind} {one}, {root}")


def _isnan(b: FunctionBuilder, call: Call, args: list[str]) -> str:
    kind = register_type(call.args[0].dtype)
    return b.op(f"fcmp uno {kind} {args[0]}, {args[0]}")


def _isinf(b: FunctionBuilder, call: Call, args: list[str]) -> str:
    dtype = call.args[0].dtype
    kind = register_type(dtype)
    value = arithmetic.round_to(b, args[0], dtype)
    size = arithmetic.intrinsic(b, "fabs", kind, value)
    infinity = splat_literal(register_type(dtype.element), "0x7FF0000000000000", dtype.lanes)
    return b.op(f"fcmp oeq {kind} {size}, {infinity}")


def _shift_right(b: FunctionBuilder, call: Call, args: list[str]) -> str:
    word = "ashr" if call.dtype.kind == "int" else "lshr"
    return b.op(f"{word} {register_type(call.dtype)} {args[0]}, {args[1]}")


def _bitwise_not(b: FunctionBuilder, call: Call, args: list[str]) -> str:
    dtype = call.dtype
    ones = splat_literal(f"i{dtype.bits}", "-1", dtype.lanes)
    return b.op(f"xor {register_type(dtype)} {args[0]}, {ones}")


def _fma(b: FunctionBuilder, call: Call, args: list[str]) -> str:
    return arithmetic.intrinsic(b, "fma", register_type(call.dtype), *args)


def _popcount(b: FunctionBuilder, call: Call, args: list[str]) -> str:
    kind = register_type(call.args[0].dtype)
    count = arithmetic.intrinsic(b, "ctpop", kind, args[0])
    return arithmetic.convert(b, count, call.args[0].dtype, call.dtype)


ELEMENTARY: Final = (
    *("exp", "exp2", "log", "log2", "log1p", "expm1", "sin", "cos", "tan", "asin", "acos"),
    *("atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "sigmoid", "exp_normal"),
    *("pow", "fmod", "atan2"),
)

INTRINSIC_EMITTERS: Final[dict[str, Emitter]] = {
    **{name: _elementary(name) for name in ELEMENTARY},
    **{name: _llvm(name) for name in ("sqrt", "fabs", "floor", "ceil", "trunc")},
    "round": _llvm("roundeven"),
    "rsqrt": _rsqrt,
    "isnan": _isnan,
    "isinf": _isinf,
    "popcount": _popcount,
    "bitwise_not": _bitwise_not,
    "bitwise_and": _instruction("and"),
    "bitwise_or": _instruction("or"),
    "bitwise_xor": _instruction("xor"),
    "shift_left": _instruction("shl"),
    "shift_right": _shift_right,
    "fma": _fma,
}
