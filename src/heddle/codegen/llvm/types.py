# SPDX-License-Identifier: Apache-2.0
"""LLVM types and constants as text.

An element has one type in memory and one in registers: 16-bit floats are computed with as float32
and rounded when they are stored or cast, booleans are `i1` in registers and a byte in memory.
"""

from __future__ import annotations

import struct

from heddle.ir.dtype import DType
from heddle.support import InternalError

_FLOATS = {64: "double", 32: "float", 16: "float"}


def vector(element: str, lanes: int) -> str:
    """The LLVM vector type, or the element itself for one lane."""
    return element if lanes == 1 else f"<{lanes} x {element}>"


def register_type(dtype: DType) -> str:
    """The LLVM type that values of `dtype` have while computing."""
    if dtype.is_float:
        element = _FLOATS[dtype.bits]
    elif dtype.is_bool:
        element = "i1"
    elif dtype.is_int:
        element = f"i{dtype.bits}"
    else:
        element = "ptr"
    return vector(element, dtype.lanes)


def extension(dtype: DType) -> str:
    """How C widens a value of `dtype` that it hands over: the compilers of C rely on it."""
    if dtype.is_bool or (dtype.kind == "uint" and dtype.bits < 32):
        return "zeroext"
    return "signext" if dtype.kind == "int" and dtype.bits < 32 else ""


def argument_type(dtype: DType) -> str:
    """The LLVM type of a scalar argument of a C function, with the attribute that C asks for."""
    return f"{register_type(dtype)} {extension(dtype)}".rstrip()


def memory_type(dtype: DType) -> str:
    """The LLVM type that values of `dtype` have in memory."""
    if dtype.is_bool:
        return vector("i8", dtype.lanes)
    if dtype.is_float and dtype.bits == 16:
        return vector("i16", dtype.lanes)
    return register_type(dtype)


def value_type(dtype: DType) -> str:
    """The LLVM type that means `dtype` to intrinsics: 16-bit floats are `half` and `bfloat`."""
    if dtype.is_float and dtype.bits == 16:
        return vector("half" if dtype.kind == "float" else "bfloat", dtype.lanes)
    return register_type(dtype)


def float_literal(value: float, dtype: DType) -> str:
    """A scalar float constant, rounded to what registers hold for `dtype`."""
    if dtype.kind == "bfloat" or dtype.bits == 16:
        value = float(dtype.numpy.type(value))
    if dtype.bits < 64:
        value = _to_float32(value)
    bits: int = struct.unpack("<Q", struct.pack("<d", value))[0]
    return f"0x{bits:016X}"


def _to_float32(value: float) -> float:
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    return rounded


def int_literal(value: int, dtype: DType) -> str:
    """A scalar integer or boolean constant; LLVM's integers are written signed."""
    if dtype.is_bool:
        return "true" if value else "false"
    if not dtype.is_int:
        raise InternalError(f"integer constant of {dtype}")
    half = 1 << (dtype.bits - 1)
    return str(value - 2 * half if value >= half else value)


def splat_literal(scalar_type: str, literal: str, lanes: int) -> str:
    """A constant with every lane equal to `literal`."""
    return literal if lanes == 1 else f"splat ({scalar_type} {literal})"


def mangle(dtype: str) -> str:
    """The suffix of overloaded intrinsics for a register type: `<16 x float>` is `v16f32`.

    >>> mangle("<16 x float>"), mangle("i64")
    ('v16f32', 'i64')
    """
    if dtype.startswith("<"):
        lanes, element = dtype[1:-1].split(" x ")
        return f"v{lanes}{mangle(element)}"
    return {"float": "f32", "double": "f64", "half": "f16", "ptr": "p0"}.get(dtype, dtype)
