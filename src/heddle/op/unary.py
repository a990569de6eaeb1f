# SPDX-License-Identifier: Apache-2.0
"""Elementwise operators of one tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import DType, TensorType
from heddle.ir.expr import Expr, const, minimum, select
from heddle.ir.expr import cast as cast_expr
from heddle.ir.expr import logical_and as expr_and
from heddle.ir.expr import logical_not as expr_not
from heddle.op.adjoint import cast_like, dtype_of
from heddle.op.common import elementwise, vectorized
from heddle.op.registry import Op, operator, ops
from heddle.op.sample import Sample, bools, case, floats, ints, values
from heddle.support import UserError
from heddle.tir import intrin

Pullback = Callable[[GraphExpr, GraphExpr, GraphExpr], GraphExpr | None]
BOOL: Final = DType.of("bool")
WIDE: Final = (
    case(floats(3, 5)),
    case(
        floats(),
    ),
    case(floats(4, dtype="float64")),
)


def unary(
    name: str,
    doc: str,
    compute: Callable[[Expr], Expr],
    numpy: Callable[..., Any],
    *samples: Sample,
    grad: Pullback | str,
    dtypes: str = "float",
    result: str = "same",
) -> Op:
    """Declare a function of one tensor without attributes; `result` is "same" or "bool".

    grad: from the gradient `d` of the result, x and the result y, the gradient of x (None: zero);
    or the reason why there is none.
    """

    def infer(x: TensorType) -> TensorType:
        return x if result == "same" else TensorType(x.shape, BOOL)

    infer.__doc__ = doc
    op = operator(name, kind="elementwise", dtypes=dtypes)(infer)
    op.rule("compute")(lambda x: elementwise(x, compute, name))
    op.rule("numpy")(numpy)
    if isinstance(grad, str):
        op.not_differentiable(grad)
    else:
        op.rule("grad")(lambda x, *, dout, out: grad(dout, x, out))
    op.samples(*(samples or WIDE))
    return op


def _flat(d: GraphExpr, x: GraphExpr, y: GraphExpr) -> None:
    """The gradient of what is constant but for jumps."""


def number(value: float, like: Expr) -> Expr:
    """A constant of the dtype of `like`."""
    return const(value, like.dtype)


def _positive(low: float = 0.1, high: float = 3.0) -> tuple[Sample, ...]:
    return (case(floats(3, 5, low=low, high=high)),)


SPECIAL: Final = case(values([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.5]))
INTS: Final = case(ints(3, 4, low=-5, high=5, dtype="int32"))
_TRUTH: Final = "the result is a truth value"

# -- functions that code generators know -----------------------------------------------------

exp = unary("exp", "e to the power x.", intrin.exp, np.exp, grad=lambda d, x, y: d * y)
log = unary(
    "log", "Natural logarithm.", intrin.log, np.log, *_positive(), grad=lambda d, x, y: d / x
)
sqrt = unary(
    "sqrt",
    "Square root.",
    intrin.sqrt,
    np.sqrt,
    *_positive(0.0),
    grad=lambda d, x, y: d / (y + y),
)
rsqrt = unary(
    "rsqrt",
    "1 / sqrt(x).",
    intrin.rsqrt,
    lambda x: 1 / np.sqrt(x),
    *_positive(),
    grad=lambda d, x, y: d * y / x * -0.5,
)
sin = unary("sin", "Sine.", intrin.sin, np.sin, grad=lambda d, x, y: d * ops.cos(x))
cos = unary("cos", "Cosine.", intrin.cos, np.cos, grad=lambda d, x, y: -(d * ops.sin(x)))
tan = unary(
    "tan",
    "Tangent.",
    intrin.tan,
    np.tan,
    *_positive(-1.0, 1.0),
    grad=lambda d, x, y: d * (y * y + 1.0),
)
asin = unary(
    "asin",
    "Arc sine.",
    intrin.asin,
    np.arcsin,
    *_positive(-0.9, 0.9),
    grad=lambda d, x, y: d * ops.rsqrt(1.0 - x * x),
)
acos = unary(
    "acos",
    "Arc cosine.",
    intrin.acos,
    np.arccos,
    *_positive(-0.9, 0.9),
    grad=lambda d, x, y: -(d * ops.rsqrt(1.0 - x * x)),
)
atan = unary("atan", "Arc tangent.", intrin.atan, np.arctan, grad=lambda d, x, y: d / (x * x + 1.0))
sinh = unary("sinh", "Hyperbolic sine.", intrin.sinh, np.sinh, grad=lambda d, x, y: d * ops.cosh(x))
cosh = unary(
    "cosh", "Hyperbolic cosine.", intrin.cosh, np.cosh, grad=lambda d, x, y: d * ops.sinh(x)
)
tanh = unary(
    "tanh", "Hyperbolic tangent.", intrin.tanh, np.tanh, grad=lambda d, x, y: d * (1.0 - y * y)
)
asinh = unary(
    "asinh",
    "Inverse hyperbolic sine.",
    intrin.asinh,
    np.arcsinh,
    grad=lambda d, x, y: d * ops.rsqrt(x * x + 1.0),
)
acosh = unary(
    "acosh",
    "Inverse hyperbolic cosine.",
    intrin.acosh,
    np.arccosh,
    *_positive(1.1, 4.0),
    grad=lambda d, x, y: d * ops.rsqrt(x * x - 1.0),
)
atanh = unary(
    "atanh",
    "Inverse hyperbolic tangent.",
    intrin.atanh,
    np.arctanh,
    *_positive(-0.9, 0.9),
    grad=lambda d, x, y: d / (1.0 - x * x),
)
erf = unary(
    "erf",
    "The Gauss error function.",
    intrin.erf,
    vectorized(math.erf),
    grad=lambda d, x, y: d * ops.exp(-(x * x)) * (2 / math.sqrt(math.pi)),
)
# erfc(z) exp(z^2) (2 + z) / 2 as a polynomial of u = (2 - z) / (2 + z), the lowest power first:
# interpolated at the Chebyshev points of degree 11 and 24. Errors stay below 4 units in the last
# place for all z >= 0.
_ERFC: Final = {
    "float32": (
        0.51079136,
        0.34358034,
        0.13973573,
        0.018221237,
        -0.01075157,
        -0.0032410459,
        0.0015289973,
        0.0004251971,
        -0.00029919966,
        -3.1148436e-05,
        4.2087875e-05,
        -1.9773343e-06,
    ),
    "float64": (
        0.5107913526210115,
        0.3435803422069066,
        0.13973604627802544,
        0.018221115753306545,
        -0.010755330944543402,
        -0.0032395925298231458,
        0.0015453060235237155,
        0.0004186479745534702,
        -0.0003315366672107299,
        -1.718527704960807e-05,
        7.223470153006206e-05,
        -1.707654627609044e-05,
        -1.084483047858803e-05,
        8.066868949336902e-06,
        -5.732747032821074e-07,
        -1.8346763716034038e-06,
        1.023671759455035e-06,
        1.5275601479205994e-08,
        -3.190488075769292e-07,
        1.500237317385041e-07,
        3.1237899487983776e-08,
        -5.1579015444001307e-08,
        8.331398320687464e-09,
        6.618547740906227e-09,
        -2.212465381853812e-09,
    ),
}


def _erfc(x: Expr) -> Expr:
    """1 - erf(x) without cancellation. exp(-z^2) would lose what the square rounds away: with h,
    z down to 16ths, it is exp(-h^2) exp(-(z - h) (z + h)), whose squares and difference are exact.
    """
    z = minimum(intrin.fabs(x), number(32.0, x))  # beyond, the result is 0 (and NaN stays NaN)
    t = number(2.0, x) / (z + number(2.0, x))
    u = t + t - number(1.0, x)
    first, *rest = reversed(_ERFC[x.dtype.name])
    value: Expr = number(first, x)
    for coefficient in rest:
        value = value * u + number(coefficient, x)
    h = intrin.floor(z * number(16.0, x)) / number(16.0, x)
    decay = intrin.exp(-(h * h)) * intrin.exp((h - z) * (h + z))
    tail = t * decay * value
    return select(x < number(0.0, x), number(2.0, x) - tail, tail)


erfc = unary(
    "erfc",
    "1 minus the Gauss error function, with all its digits where that is small.",
    _erfc,
    vectorized(math.erfc),
    *WIDE,
    case(values([-8.0, -0.5, 0.0, 0.3, 2.0, 6.5, 9.0])),
    case(values([-8.0, 0.3, 6.5, 20.0, 26.0], "float64")),
    SPECIAL,
    grad=lambda d, x, y: d * ops.exp(-(x * x)) * (-2 / math.sqrt(math.pi)),
)
sigmoid = unary(
    "sigmoid",
    "1 / (1 + exp(-x)).",
    intrin.sigmoid,
    lambda x: 1 / (1 + np.exp(-x)),
    grad=lambda d, x, y: d * y * (1.0 - y),
)
floor = unary("floor", "Largest integer not above x.", intrin.floor, np.floor, grad=_flat)
ceil = unary("ceil", "Smallest integer not below x.", intrin.ceil, np.ceil, grad=_flat)
round_ = unary("round", "Nearest integer, ties to even.", intrin.round, np.rint, grad=_flat)
trunc = unary("trunc", "x rounded towards zero.", intrin.trunc, np.trunc, grad=_flat)
isnan = unary(
    "isnan", "Whether x is NaN.", intrin.isnan, np.isnan, SPECIAL, grad=_TRUTH, result="bool"
)

# -- arithmetic ------------------------------------------------------------------------------

identity = unary(
    "identity",
    "x itself.",
    lambda x: x,
    lambda x: x,
    case(floats(2, 3)),
    case(bools(3)),
    grad=lambda d, x, y: d,
    dtypes="any",
)
negative = unary(
    "negative",
    "-x; integers wrap.",
    lambda x: -x,
    np.negative,
    *WIDE,
    INTS,
    grad=lambda d, x, y: -d,
    dtypes="number",
)


def _abs(x: Expr) -> Expr:
    if x.dtype.is_float:
        return intrin.fabs(x)
    return select(x < 0, -x, x) if x.dtype.is_signed else x


absolute = unary(
    "abs",
    "Absolute value.",
    _abs,
    np.abs,
    *WIDE,
    INTS,
    grad=lambda d, x, y: d * ops.sign(x),
    dtypes="number",
)


def _sign(x: Expr) -> Expr:
    rest = select(x < 0, number(-1, x), x) if x.dtype.is_signed else x
    return select(x > 0, number(1, x), rest)


sign = unary(
    "sign",
    "-1, 0 or 1; NaN of NaN.",
    _sign,
    np.sign,
    *WIDE,
    INTS,
    SPECIAL,
    grad=_flat,
    dtypes="number",
)
reciprocal = unary(
    "reciprocal",
    "1 / x.",
    lambda x: number(1, x) / x,
    lambda x: 1 / x,
    *_positive(0.2),
    grad=lambda d, x, y: -(d * y * y),
)
bitwise_not = unary(
    "bitwise_not",
    "Every bit inverted.",
    intrin.bitwise_not,
    np.invert,
    INTS,
    grad="the result is bits",
    dtypes="int",
)
logical_not = unary(
    "logical_not",
    "not x.",
    expr_not,
    np.logical_not,
    case(bools(3, 4)),
    grad=_TRUTH,
    dtypes="bool",
)


@operator("isinf", kind="elementwise", dtypes="float")
def isinf(
    x: TensorType, *, detect_negative: bool = True, detect_positive: bool = True
) -> TensorType:
    """Whether x is an infinity of a sign that is asked for."""
    return TensorType(x.shape, BOOL)


@isinf.rule("compute")
def _(x: te.Tensor, *, detect_negative: bool, detect_positive: bool) -> te.Tensor:
    def body(v: Expr) -> Expr:
        kept = const(detect_positive and detect_negative, BOOL)
        if detect_positive != detect_negative:
            kept = v > 0 if detect_positive else v < 0
        return expr_and(intrin.isinf(v), kept)

    return elementwise(x, body, "isinf")


@isinf.rule("numpy")
def _(x: np.ndarray, *, detect_negative: bool, detect_positive: bool) -> np.ndarray:
    return (np.isposinf(x) & detect_positive) | (np.isneginf(x) & detect_negative)


isinf.not_differentiable(_TRUTH)
isinf.samples(Sample(SPECIAL.args), Sample(SPECIAL.args, {"detect_negative": False}))


@operator("cast", kind="elementwise")
def cast(x: TensorType, *, dtype: DType) -> TensorType:
    """x converted to `dtype`: floats to integers truncate and saturate (NaN gives 0), integers to
    integers wrap, anything to bool is x != 0."""
    return TensorType(x.shape, dtype)


@cast.rule("compute")
def _(x: te.Tensor, *, dtype: DType) -> te.Tensor:
    return te.compute(x.shape, lambda *i: cast_expr(x[i], dtype), name="cast")


@cast.rule("numpy")
def _(x: np.ndarray, *, dtype: DType) -> np.ndarray:
    if not (np.issubdtype(x.dtype, np.floating) and dtype.is_int):
        return x.astype(dtype.numpy)
    whole = np.where(np.isnan(x), 0, np.trunc(x)).astype(np.float64)
    # float64(max) may round up to 2**bits: compare against the exact power of two.
    above, below = whole >= float(dtype.max_value + 1), whole < float(dtype.min_value)
    kept = np.where(above | below, 0, whole).astype(dtype.numpy)
    kept = np.where(above, dtype.numpy.type(dtype.max_value), kept)
    return np.where(below, dtype.numpy.type(dtype.min_value), kept)


@cast.rule("grad")
def _(x: GraphExpr, *, dout: GraphExpr, out: GraphExpr, dtype: DType) -> GraphExpr | None:
    return cast_like(dout, x) if dtype_of(x).is_float else None


cast.samples(
    case(floats(3, 4, low=-9, high=9), dtype="int32"),
    case(ints(3, 4, low=-300, high=300), dtype="int8"),
    case(ints(5), dtype="float32"),
    case(floats(5), dtype="float16"),
    case(values([0.0, 0.5, math.nan, math.inf, -1e30, 3e9]), dtype="int32"),
    case(ints(6, high=1), dtype="bool"),
    case(bools(6), dtype="float32"),
)


@operator("reinterpret", kind="elementwise")
def reinterpret(x: TensorType, *, dtype: DType) -> TensorType:
    """The bits of the elements of x read as `dtype`, which is as wide. Of bool a byte is 0 or 1;
    read as bool, it says whether it is not 0."""
    if x.dtype.nbytes != dtype.nbytes:
        raise UserError(f"{x.dtype} and {dtype} have different widths")
    return TensorType(x.shape, dtype)


@reinterpret.rule("compute")
def _(x: te.Tensor, *, dtype: DType) -> te.Tensor:
    def read(value: Expr) -> Expr:
        bits = cast_expr(value, "uint8") if value.dtype.is_bool else value
        if dtype.is_bool:
            return cast_expr(intrin.reinterpret(bits, "uint8"), dtype)
        return intrin.reinterpret(bits, dtype)

    return te.compute(x.shape, lambda *i: read(x[i]), name="reinterpret")


@reinterpret.rule("numpy")
def _(x: np.ndarray, *, dtype: DType) -> np.ndarray:
    bits = np.ascontiguousarray(x)
    if dtype.is_bool:
        return bits.view(np.uint8).reshape(x.shape) != 0  # type: ignore[no-any-return]
    return bits.view(dtype.numpy).reshape(x.shape)


reinterpret.not_differentiable("bits are no numbers")


reinterpret.samples(
    case(ints(3, 4, dtype="int64"), dtype="float64"),
    case(floats(3, 4), dtype="int32"),
    case(ints(5, low=-9, high=9, dtype="int8"), dtype="bool"),
    case(bools(6), dtype="uint8"),
    case(floats(), dtype="uint32"),
)
