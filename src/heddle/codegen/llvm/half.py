# SPDX-License-Identifier: Apache-2.0
"""16-bit floats: conversions between their bits in memory (i16) and float32 in registers.

float16 uses the processor's instructions where LLVM has them (F16C, AArch64) and integer
arithmetic elsewhere, so that no helper of a compiler's runtime library is needed. bfloat16 is the
upper half of a float32: LLVM would call a library function or flush subnormals, so it is integer
arithmetic too.
"""

from __future__ import annotations

from heddle.codegen.llvm.builder import FunctionBuilder
from heddle.codegen.llvm.types import vector
from heddle.codegen.llvm.vector_writer import VectorWriter


def _native(b: FunctionBuilder) -> bool:
    return "f16c" in b.module.features or "neon" in b.module.features


def _short(b: FunctionBuilder, word: str, lanes: int) -> str:
    return b.op(f"trunc {vector('i32', lanes)} {word} to {vector('i16', lanes)}")


def _wide(b: FunctionBuilder, short: str, lanes: int) -> str:
    return b.op(f"zext {vector('i16', lanes)} {short} to {vector('i32', lanes)}")


def to_half(b: FunctionBuilder, value: str, lanes: int) -> str:
    """The bits of the nearest float16, ties to even."""
    w = VectorWriter(b, "float", lanes)
    if _native(b):
        narrow = b.op(f"fptrunc {w.kind} {value} to {vector('half', lanes)}")
        return b.op(f"bitcast {vector('half', lanes)} {narrow} to {vector('i16', lanes)}")
    bits = w.bits(value)
    size = w.int_op("and", bits, 0x7FFFFFFF)
    sign = w.int_op("lshr", w.b.op(f"xor {w.word} {bits}, {size}"), 16)
    # normal: rebias the exponent and round by adding half of the last place
    odd = w.int_op("and", w.int_op("lshr", size, 13), 1)
    moved = w.int_op("add", size, ((15 - 127) << 23) + 0xFFF)
    normal = w.int_op("lshr", b.op(f"add {w.word} {moved}, {odd}"), 13)
    # subnormal: adding 0.5 lets the float adder round at the right place
    shifted = w.bits(w.add(w.from_bits(size), w.const(0.5)))
    tiny = w.int_op("sub", shifted, 126 << 23)
    result = w.select_int(w.int_compare("ult", size, 0x38800000), tiny, normal)
    is_nan = w.int_compare("ugt", size, 0x7F800000)
    large = w.select_int(is_nan, w.int_const(0x7E00), w.int_const(0x7C00))
    result = w.select_int(w.int_compare("uge", size, 0x47800000), large, result)
    return _short(b, b.op(f"or {w.word} {result}, {sign}"), lanes)


def from_half(b: FunctionBuilder, short: str, lanes: int) -> str:
    """The float32 of float16 bits."""
    w = VectorWriter(b, "float", lanes)
    if _native(b):
        kind = vector("half", lanes)
        narrow = b.op(f"bitcast {vector('i16', lanes)} {short} to {kind}")
        return b.op(f"fpext {kind} {narrow} to {w.kind}")
    word = _wide(b, short, lanes)
    size = w.int_op("and", word, 0x7FFF)
    sign = w.int_op("shl", b.op(f"xor {w.word} {word}, {size}"), 16)
    scaled = w.mul(w.from_bits(w.int_op("shl", size, 13)), w.const(2.0**112))
    special = w.int_op("or", w.bits(scaled), 0x7F800000)
    result = w.select_int(w.int_compare("uge", size, 0x7C00), special, w.bits(scaled))
    return w.from_bits(b.op(f"or {w.word} {result}, {sign}"))


def _bfloat_bits(b: FunctionBuilder, value: str, lanes: int) -> str:
    """The bits of a float32 whose upper half is the nearest bfloat16, ties to even."""
    w = VectorWriter(b, "float", lanes)
    bits = w.bits(value)
    odd = w.int_op("and", w.int_op("lshr", bits, 16), 1)
    rounded = b.op(f"add {w.word} {bits}, {w.int_op('add', odd, 32767)}")
    is_nan = w.compare("uno", value, value)
    return w.select_int(is_nan, w.int_op("or", bits, 0x400000), rounded)


def to_bfloat(b: FunctionBuilder, value: str, lanes: int) -> str:
    """The bits of the nearest bfloat16, ties to even."""
    w = VectorWriter(b, "float", lanes)
    return _short(b, w.int_op("lshr", _bfloat_bits(b, value, lanes), 16), lanes)


def from_bfloat(b: FunctionBuilder, short: str, lanes: int) -> str:
    """The float32 of bfloat16 bits."""
    w = VectorWriter(b, "float", lanes)
    return w.from_bits(w.int_op("shl", _wide(b, short, lanes), 16))


def round_bfloat(b: FunctionBuilder, value: str, lanes: int) -> str:
    """A float32 rounded to what bfloat16 can hold."""
    w = VectorWriter(b, "float", lanes)
    return w.from_bits(w.int_op("and", _bfloat_bits(b, value, lanes), -65536))


def narrow_to_odd(b: FunctionBuilder, value: str, lanes: int) -> str:
    """A float64 as float32, rounded to odd: rounding the result once more, to 16 bits, then gives
    what rounding the float64 at once would give."""
    w = VectorWriter(b, "float", lanes)
    d = VectorWriter(b, "double", lanes)
    near = b.op(f"fptrunc {d.kind} {value} to {w.kind}")
    back = b.op(f"fpext {w.kind} {near} to {d.kind}")
    bits = w.bits(near)
    even = w.int_compare("eq", w.int_op("and", bits, 1), 0)
    inexact = d.compare("one", back, value)
    adjust = b.op(f"and {w.truth} {even}, {inexact}")
    larger = d.compare("ogt", d.abs(value), d.abs(back))
    up, down = w.int_op("add", bits, 1), w.int_op("sub", bits, 1)
    moved = w.select_int(larger, up, down)
    return w.from_bits(w.select_int(adjust, moved, bits))
