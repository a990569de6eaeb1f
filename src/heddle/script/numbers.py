# SPDX-License-Identifier: Apache-2.0
"""The rules for numbers in scripts, which the printer and the parser share.

A plain number takes the dtype of the value it is combined with; alone, an integer is int64, a
float is float32 and True or False are bool. Any other constant is spelled `T.float16(1.5)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from heddle.ir import BOOL, FLOAT32, FLOAT64, INT32, INT64, DType
from heddle.ir.expr import Expr, FloatImm, IntImm, StringImm, const
from heddle.tir.intrin import INTRINSICS

NUMBERS: Final = (IntImm, FloatImm)
IMMEDIATES: Final = (IntImm, FloatImm, StringImm)


def number(value: bool | int | float, expected: DType | None) -> Expr:
    """The constant that a plain number means where `expected` is its neighbour's dtype."""
    if isinstance(value, bool):
        return const(value, BOOL)
    if isinstance(value, int):
        fits = expected is not None and (expected.is_int or expected.is_float)
        return const(value, expected if expected is not None and fits else INT64)
    fits = expected is not None and expected.is_float
    return const(value, expected if expected is not None and fits else FLOAT32)


def number_text(imm: IntImm | FloatImm, expected: DType | None) -> str:
    """The text that `number` turns back into `imm`, or its spelling with a dtype."""
    dtype = imm.dtype
    if isinstance(imm, FloatImm):
        if not math.isfinite(imm.value):
            return f'T.{dtype}("{imm.value}")'
        plain = expected is dtype or (dtype is FLOAT32 and not (expected and expected.is_float))
        return repr(float(imm.value)) if plain else f"T.{dtype}({float(imm.value)!r})"
    if dtype is BOOL:
        return str(bool(imm.value))
    numeric = expected is not None and (expected.is_int or expected.is_float)
    plain = dtype is (expected if numeric else INT64)
    return str(imm.value) if plain else f"T.{dtype}({imm.value})"


def typed_text(imm: IntImm | FloatImm) -> str:
    """The constant with its dtype spelled out: an expression, where plain numbers would fold."""
    if isinstance(imm, FloatImm):
        return number_text(imm, FLOAT64 if imm.dtype is not FLOAT64 else FLOAT32)
    return f"T.{imm.dtype}({bool(imm.value) if imm.dtype is BOOL else imm.value})"


def call_context(name: str, args: Sequence[object]) -> DType | None:
    """The dtype that plain numbers among the arguments of an intrinsic take."""
    if name == "call_extern":
        return None
    for arg in args[1:] if name in ("if_then_else", "select") else args:
        if isinstance(arg, Expr) and not isinstance(arg, IMMEDIATES):
            return arg.dtype
    return None


def call_dtype(name: str, args: Sequence[Expr]) -> DType | None:
    """The dtype of a call when the script does not give one; None when it has to."""
    known = INTRINSICS.get(name)
    if known is None or not args:
        return None
    if known.result == "bool":
        return BOOL.with_lanes(args[0].dtype.lanes)
    if known.result == "same":
        return args[-1].dtype
    return INT32 if name == "call_extern" else None
