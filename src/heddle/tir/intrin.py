# SPDX-License-Identifier: Apache-2.0
"""The intrinsics that expressions may call: `tir.intrin.exp(x)` makes `Call("exp", (x,))`.

Elementary functions of float32 are computed within the error that docs/ir.md states; all are
pure, work lane by lane, and follow IEEE 754 for NaN, infinities and signed zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from heddle.ir.dtype import BOOL, HANDLE, INT32, DType
from heddle.ir.expr import Call, Expr, ExprLike, StringImm, _pair, as_expr
from heddle.support import UserError
from heddle.tir.nodes import BufferLoad


@dataclass(frozen=True, slots=True)
class Intrinsic:
    """A function known to the code generators. `operands` is "float", "int" or "any"."""

    name: str
    arity: int
    operands: str
    result: str
    doc: str


INTRINSICS: dict[str, Intrinsic] = {}


def _declare(name: str, arity: int, operands: str, doc: str, result: str = "same") -> None:
    INTRINSICS[name] = Intrinsic(name, arity, operands, result, doc)


def _check(name: str, value: Expr) -> None:
    wanted = INTRINSICS[name].operands
    dtype = value.dtype
    if (wanted == "float" and not dtype.is_float) or (wanted == "int" and not dtype.is_int):
        raise UserError(f"{name} needs {wanted} operands, got {dtype}", span=value.span)


def _unary(name: str, operands: str, doc: str, result: str = "same") -> Callable[[ExprLike], Expr]:
    _declare(name, 1, operands, doc, result)

    def build(x: ExprLike) -> Expr:
        value = as_expr(x)
        _check(name, value)
        dtype = BOOL.with_lanes(value.dtype.lanes) if result == "bool" else value.dtype
        return Call(name, (value,), dtype)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = doc
    return build


def _binary(name: str, operands: str, doc: str) -> Callable[[ExprLike, ExprLike], Expr]:
    _declare(name, 2, operands, doc)

    def build(a: ExprLike, b: ExprLike) -> Expr:
        left, right = _pair(a, b, name)
        _check(name, left)
        return Call(name, (left, right), left.dtype)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = doc
    return build


exp = _unary("exp", "float", "e to the power x")
exp_normal = _unary(
    "exp_normal", "float", "e to the power x; 0 where that is below the smallest normal number"
)
exp2 = _unary("exp2", "float", "2 to the power x")
log = _unary("log", "float", "natural logarithm; NaN below zero")
log2 = _unary("log2", "float", "logarithm to base 2")
log1p = _unary("log1p", "float", "log(1 + x), accurate near zero")
expm1 = _unary("expm1", "float", "exp(x) - 1, accurate near zero")
sqrt = _unary("sqrt", "float", "square root, correctly rounded")
rsqrt = _unary("rsqrt", "float", "1 / sqrt(x)")
sin = _unary("sin", "float", "sine")
cos = _unary("cos", "float", "cosine")
tan = _unary("tan", "float", "tangent")
asin = _unary("asin", "float", "arc sine")
acos = _unary("acos", "float", "arc cosine")
atan = _unary("atan", "float", "arc tangent")
sinh = _unary("sinh", "float", "hyperbolic sine")
cosh = _unary("cosh", "float", "hyperbolic cosine")
tanh = _unary("tanh", "float", "hyperbolic tangent")
asinh = _unary("asinh", "float", "inverse hyperbolic sine")
acosh = _unary("acosh", "float", "inverse hyperbolic cosine")
atanh = _unary("atanh", "float", "inverse hyperbolic tangent")
erf = _unary("erf", "float", "the Gauss error function")
sigmoid = _unary("sigmoid", "float", "1 / (1 + exp(-x))")
fabs = _unary("fabs", "float", "absolute value of a float")
floor = _unary("floor", "float", "largest integer not above x")
ceil = _unary("ceil", "float", "smallest integer not below x")
trunc = _unary("trunc", "float", "x rounded towards zero")
round = _unary("round", "float", "x rounded to the nearest integer, ties to even")
isnan = _unary("isnan", "float", "whether x is NaN", "bool")
isinf = _unary("isinf", "float", "whether x is an infinity", "bool")
popcount = _unary("popcount", "int", "number of one bits")
bitwise_not = _unary("bitwise_not", "int", "every bit inverted")
pow = _binary("pow", "float", "a to the power b")
fmod = _binary("fmod", "float", "remainder with the sign of a (C fmod)")
atan2 = _binary("atan2", "float", "angle of the point (b, a)")
bitwise_and = _binary("bitwise_and", "int", "bits set in both")
bitwise_or = _binary("bitwise_or", "int", "bits set in either")
bitwise_xor = _binary("bitwise_xor", "int", "bits set in exactly one")
shift_left = _binary("shift_left", "int", "a * 2**b, wrapping; b in [0, bits)")
shift_right = _binary("shift_right", "int", "floor(a / 2**b); b in [0, bits)")
_declare("fma", 3, "float", "a * b + c with one rounding")
_declare("if_then_else", 3, "any", "the second argument if the first holds, else the third; lazy")
_declare("call_extern", -1, "any", "a C function: symbol, then its arguments", "given")
_declare("prefetch", 2, "any", "a hint to bring the place of a load into a cache", "given")
_declare("reinterpret", 1, "any", "the same bits as another dtype", "given")
_declare("address_of", 1, "any", "the address of an element, for C functions", "given")
_declare("call_llvm_intrin", -1, "any", "an LLVM intrinsic: name, then its arguments", "given")

_declare(
    "tile_product", -1, "any", "a product of tiles added to memory; see intrinsics_amx", "given"
)
_declare(
    "transpose_tile", 6, "any", "a square tile, transposed; see codegen.llvm.transpose", "given"
)
for _name in ("config", "release", "zero", "load", "store", "dot"):
    _declare(f"tile_{_name}", -1, "any", "an instruction on tile registers", "given")

LLVM_REFERENCES: dict[str, Callable[..., object]] = {}
"""What LLVM intrinsics compute, on numpy vectors: for the interpreter."""


def fma(a: ExprLike, b: ExprLike, c: ExprLike) -> Expr:
    """`a * b + c` with one rounding."""
    left, right = _pair(a, b, "fma")
    left, last = _pair(left, c, "fma")
    _check("fma", left)
    return Call("fma", (left, right, last), left.dtype)


def call_extern(symbol: str, *args: ExprLike, dtype: str | DType = INT32) -> Expr:
    """A call of the C function `symbol`, which returns `dtype`; it may have side effects."""
    values = (StringImm(symbol), *(as_expr(arg) for arg in args))
    return Call("call_extern", values, DType.of(dtype))


def prefetch(place: Expr, level: int) -> Expr:
    """A hint to bring the cache line of the load `place` into the cache of `level` (1 or 2).
    Nothing is read: the place may lie outside of its buffer."""
    return Call("prefetch", (place, as_expr(level)), INT32)


def reinterpret(x: ExprLike, dtype: str | DType) -> Expr:
    """The bits of `x` read as `dtype`, which must be as wide (all lanes together; the first lane
    holds the lowest bits)."""
    value, wanted = as_expr(x), DType.of(dtype)
    if value.dtype.bits * value.dtype.lanes != wanted.bits * wanted.lanes:
        raise UserError(f"reinterpret: {value.dtype} and {wanted} differ in width")
    return Call("reinterpret", (value,), wanted)


def address_of(element: Expr) -> Expr:
    """The address of `element`, a load of one element, to hand to `call_extern`. The function may
    read and write the buffer from there; it must not keep the address."""
    if not isinstance(element, BufferLoad) or element.dtype.lanes != 1:
        raise UserError(f"address_of needs an element of a buffer, got `{element}`")
    return Call("address_of", (element,), HANDLE)


def call_llvm_intrin(name: str, *args: ExprLike, dtype: str | DType) -> Expr:
    """A call of the LLVM intrinsic `name` ("llvm.x86.avx512.vpdpbusd.512"), which must be free of
    side effects. The types of its signature are those of `args` and `dtype`; 16-bit floats are
    passed as they are."""
    values = (StringImm(name), *(as_expr(arg) for arg in args))
    return Call("call_llvm_intrin", values, DType.of(dtype))


def llvm_reference(name: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Declare what an LLVM intrinsic computes, as a function on numpy vectors."""

    def declare(function: Callable[..., object]) -> Callable[..., object]:
        LLVM_REFERENCES[name] = function
        return function

    return declare


def is_pure(call: Call) -> bool:
    """Whether a call can be moved, repeated or dropped."""
    return call.name not in ("call_extern", "prefetch") and not call.name.startswith("tile_")
