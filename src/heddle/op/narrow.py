# SPDX-License-Identifier: Apache-2.0
"""Floating-point formats of eight bits and fewer, held as their codes in uint8.

Heddle computes in none of them: `narrow_decode` gives the numbers that codes stand for, and
`narrow_encode` the codes of numbers. The formats are those of ONNX and of the OCP specifications
"8-bit Floating Point" (2023) and "Microscaling Formats" (2023); `fn` has no infinities, `fnuz`
no negative zero either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import ml_dtypes
import numpy as np

from heddle import te
from heddle.ir import DType, TensorType
from heddle.ir.expr import EQ, Expr, cast, compare, const, select
from heddle.op.registry import operator
from heddle.op.sample import case, floats, values
from heddle.support import UserError
from heddle.tir import intrin

UINT8: Final = DType.of("uint8")


@dataclass(frozen=True, slots=True)
class Layout:
    """One format: bits of the code and of the mantissa, exponent bias, largest finite code, code of
    what is too large when it does not saturate, code of NaN; infinite: the code of infinity."""

    bits: int
    mantissa: int
    bias: int
    largest: int
    overflow: int
    nan: int
    signed_zero: bool
    numpy: Any
    infinite: int | None = None

    @property
    def maximum(self) -> float:
        """The largest finite number."""
        return float(np.asarray(self.largest, np.uint8).view(self.numpy))


LAYOUTS: Final[dict[str, Layout]] = {
    "float8e4m3fn": Layout(8, 3, 7, 0x7E, 0x7F, 0x7F, True, ml_dtypes.float8_e4m3fn),
    "float8e4m3fnuz": Layout(8, 3, 8, 0x7F, 0x80, 0x80, False, ml_dtypes.float8_e4m3fnuz),
    "float8e5m2": Layout(8, 2, 15, 0x7B, 0x7C, 0x7E, True, ml_dtypes.float8_e5m2, 0x7C),
    "float8e5m2fnuz": Layout(8, 2, 16, 0x7F, 0x80, 0x80, False, ml_dtypes.float8_e5m2fnuz),
    "float6e2m3": Layout(6, 3, 1, 0x1F, 0x1F, 0x20, True, ml_dtypes.float6_e2m3fn),
    "float6e3m2": Layout(6, 2, 3, 0x1F, 0x1F, 0x20, True, ml_dtypes.float6_e3m2fn),
    "float4e2m1": Layout(4, 1, 1, 0x07, 0x07, 0x08, True, ml_dtypes.float4_e2m1fn),
}


def _bits(value: int) -> Expr:
    return const(value, "uint32")


# -- to numbers ------------------------------------------------------------------------------


@operator("narrow_decode", kind="elementwise")
def narrow_decode(x: TensorType, *, format: str) -> TensorType:
    """The numbers, float32, that codes (uint8) of a format stand for; exact."""
    _require_format(format)
    if x.dtype is not UINT8:
        raise UserError(f"argument `x` has dtype {x.dtype}, expected codes as uint8")
    return TensorType(x.shape, DType.of("float32"))


def _require_format(name: str) -> None:
    if name not in (*LAYOUTS, "float8e8m0"):
        known = ", ".join((*LAYOUTS, "float8e8m0"))
        raise UserError(f"attribute `format` is `{name}`, expected one of {known}")


@narrow_decode.rule("compute")
def _(x: te.Tensor, *, format: str) -> te.Tensor:
    def body(*i: Expr) -> Expr:
        code = cast(x[i], "uint32")
        return _decode_power(code) if format == "float8e8m0" else _decode(code, LAYOUTS[format])

    return te.compute(x.shape, body, name="narrow_decode")


def _decode_power(code: Expr) -> Expr:
    """2 ** (code - 127): the code is the exponent of a float32, 0 is its largest subnormal."""
    normal = intrin.shift_left(code, _bits(23))
    bits = select(compare(EQ, code, _bits(0)), _bits(0x00400000), normal)
    return intrin.reinterpret(
        select(compare(EQ, code, _bits(0xFF)), _bits(0x7FC00000), bits), "float32"
    )


def _decode(code: Expr, layout: Layout) -> Expr:
    m, top = layout.mantissa, 1 << (layout.bits - 1)
    size = intrin.bitwise_and(code, _bits(top - 1))
    sign = intrin.shift_left(intrin.bitwise_and(code, _bits(top)), _bits(32 - layout.bits))
    normal = intrin.shift_left(size, _bits(23 - m)) + _bits((127 - layout.bias) << 23)
    # Below the smallest normal number the code counts steps of equal size.
    small = cast(cast(size, "int32"), "float32") * const(2.0 ** (1 - layout.bias - m), "float32")
    bits = select(size < _bits(1 << m), intrin.reinterpret(small, "uint32"), normal)
    if layout.infinite is not None:
        bits = select(compare(EQ, size, _bits(layout.infinite)), _bits(0x7F800000), bits)
        bits = select(size > _bits(layout.infinite), _bits(0x7FC00000), bits)
    elif layout.bits == 8 and layout.signed_zero:
        bits = select(compare(EQ, size, _bits(layout.nan)), _bits(0x7FC00000), bits)
    bits = intrin.bitwise_or(bits, sign)
    if not layout.signed_zero:
        bits = select(compare(EQ, code, _bits(layout.nan)), _bits(0x7FC00000), bits)
    return intrin.reinterpret(bits, "float32")


@narrow_decode.rule("numpy")
def _(x: np.ndarray, *, format: str) -> np.ndarray:
    kind = ml_dtypes.float8_e8m0fnu if format == "float8e8m0" else LAYOUTS[format].numpy
    bits = 8 if format == "float8e8m0" else LAYOUTS[format].bits
    return (x & ((1 << bits) - 1)).astype(np.uint8).view(kind).astype(np.float32)  # type: ignore[no-any-return]


narrow_decode.not_differentiable("codes are whole numbers")


# -- from numbers ----------------------------------------------------------------------------


@operator("narrow_encode", kind="elementwise", dtypes="float")
def narrow_encode(
    x: TensorType,
    *,
    format: str,
    saturate: bool = True,
    round_mode: Literal["nearest", "up", "down"] = "nearest",
) -> TensorType:
    """The codes (uint8) of numbers, rounded to the nearest and to the even of two.

    What is too large becomes the largest number with `saturate`, else infinity, or NaN in formats
    without one; formats of six and four bits always saturate. `float8e8m0` takes the size of the
    number and rounds by `round_mode`; the others always to the nearest.
    """
    _require_format(format)
    if x.dtype.bits > 32:
        raise UserError(f"argument `x` has dtype {x.dtype}, which would be rounded twice")
    return TensorType(x.shape, UINT8)


@narrow_encode.rule("compute")
def _(
    x: te.Tensor,
    *,
    format: str,
    saturate: bool,
    round_mode: str,
) -> te.Tensor:
    def body(*i: Expr) -> Expr:
        bits = intrin.reinterpret(cast(x[i], "float32"), "uint32")
        if format == "float8e8m0":
            return cast(_encode_power(bits, saturate, round_mode), UINT8)
        return cast(_encode(bits, LAYOUTS[format], saturate), UINT8)

    return te.compute(x.shape, body, name="narrow_encode")


def _encode(bits: Expr, layout: Layout, saturate: bool) -> Expr:
    m = layout.mantissa
    size = intrin.bitwise_and(bits, _bits(0x7FFFFFFF))
    shift = _bits(23 - m)
    odd = intrin.bitwise_and(intrin.shift_right(size, shift), _bits(1))
    rounded = intrin.shift_right(size + _bits((1 << (22 - m)) - 1) + odd, shift)
    # Unsigned numbers wrap; what wraps here is small and takes the other branch.
    normal = rounded - _bits((127 - layout.bias) << m)
    # Adding a number whose last bit is one step of the subnormal numbers rounds to such steps.
    step = const(2.0 ** (24 - layout.bias - m), "float32")
    summed = intrin.reinterpret(intrin.reinterpret(size, "float32") + step, "uint32")
    small = summed - intrin.reinterpret(step, "uint32")
    code = select(size < _bits((128 - layout.bias) << 23), small, normal)
    beyond = layout.largest if saturate else layout.overflow
    code = select(code > _bits(layout.largest), _bits(beyond), code)
    code = select(size > _bits(0x7F800000), _bits(layout.nan), code)
    sign = intrin.shift_left(intrin.shift_right(bits, _bits(31)), _bits(layout.bits - 1))
    if layout.signed_zero:
        is_nan = size > _bits(0x7F800000) if layout.bits < 8 else None
        signed = intrin.bitwise_or(code, sign)
        return signed if is_nan is None else select(is_nan, code, signed)
    return select(compare(EQ, code, _bits(0)), code, intrin.bitwise_or(code, sign))


def _encode_power(bits: Expr, saturate: bool, round_mode: str) -> Expr:
    exponent = intrin.bitwise_and(intrin.shift_right(bits, _bits(23)), _bits(0xFF))
    fraction = intrin.bitwise_and(bits, _bits(0x7FFFFF))
    half = _bits(0x400000)
    up = {
        "up": fraction > _bits(0),
        "down": fraction > _bits(0x7FFFFF),
        "nearest": select(exponent > _bits(0), fraction >= half, fraction > half),
    }[round_mode]
    code = exponent + cast(up, "uint32")
    if saturate:
        code = select(code > _bits(0xFE), _bits(0xFE), code)
    return select(compare(EQ, exponent, _bits(0xFF)), _bits(0xFF), code)


@narrow_encode.rule("numpy")
def _(
    x: np.ndarray,
    *,
    format: str,
    saturate: bool,
    round_mode: str,
) -> np.ndarray:
    if format == "float8e8m0":
        return _power_reference(x, saturate, round_mode)
    layout = LAYOUTS[format]
    if saturate or layout.bits < 8:
        x = np.clip(x, -layout.maximum, layout.maximum)
    codes = x.astype(layout.numpy).view(np.uint8)
    if layout.signed_zero and layout.bits == 8:  # which of the NaN is nobody's business
        codes = np.where(np.isnan(x), layout.nan | (np.signbit(x).astype(np.uint8) << 7), codes)
    return codes.astype(np.uint8)


def _power_reference(x: np.ndarray, saturate: bool, round_mode: str) -> np.ndarray:
    mantissa, exponent = np.frexp(np.abs(x.astype(np.float64)))
    mantissa, power = 2 * mantissa, exponent - 1 + 127  # x = mantissa * 2 ** (power - 127)
    tiny = (power < 1) | (x == 0)  # subnormal as float32: counted in steps of 2 ** -126 from 0
    mantissa = np.where(tiny, 1 + np.abs(x.astype(np.float64)) * 2.0**126, mantissa)
    power = np.where(tiny, 0, power)
    up = {
        "up": mantissa > 1,
        "down": np.zeros(x.shape, bool),
        "nearest": np.where(tiny, mantissa > 1.5, mantissa >= 1.5),
    }[round_mode]
    code = power + up
    code = np.minimum(code, 0xFE if saturate else 0xFF)
    return np.where(np.isfinite(x), code, 0xFF).astype(np.uint8)


narrow_encode.not_differentiable("codes are whole numbers")

_ALL_CODES = values(list(range(256)), "uint8")
_EDGES = values(
    [0.0, -0.0, 1.0, -1.5, 448.0, 464.0, 465.0, 1e6, -1e6, 6.1, 57344.0, 61440.0, 1e-9, -1e-7]
    + [float("inf"), float("-inf"), float("nan"), 2.0**-7, 2.0**-9, 2.0**-10, 2.0**-16, 3e38, 1e-40]
)
for _name in (*LAYOUTS, "float8e8m0"):
    narrow_decode.samples(case(_ALL_CODES, format=_name))
    for _saturate in (True, False):
        narrow_encode.samples(
            case(floats(64, low=-9, high=9), format=_name, saturate=_saturate),
            case(_EDGES, format=_name, saturate=_saturate),
        )
for _mode in ("up", "down"):
    narrow_encode.samples(case(_EDGES, format="float8e8m0", round_mode=_mode))
