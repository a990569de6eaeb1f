# SPDX-License-Identifier: Apache-2.0
"""Elementwise operators of one tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np

from heddle import te
from heddle.ir import DType, TensorType
from heddle.ir.expr import Expr, const, maximum, minimum, select
from heddle.ir.expr import cast as cast_expr
from heddle.ir.expr import logical_and as expr_and
from heddle.ir.expr import logical_not as expr_not
from heddle.op.common import elementwise, vectorized
from heddle.op.registry import Op, operator
from heddle.op.sample import Sample, bools, case, floats, ints, values
from heddle.tir import intrin

BOOL: Final = DType.of("bool")
_WIDE: Final = (
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
    dtypes: str = "float",
    result: str = "same",
) -> Op:
    """Declare a function of one tensor without attributes; `result` is "same" or "bool"."""

    def infer(x: TensorType) -> TensorType:
        return x if result == "same" else TensorType(x.shape, BOOL)

    infer.__doc__ = doc
    op = operator(name, kind="elementwise", dtypes=dtypes)(infer)
    op.rule("compute")(lambda x: elementwise(x, compute, name))
    op.rule("numpy")(numpy)
    op.samples(*(samples or _WIDE))
    return op


def number(value: float, like: Expr) -> Expr:
    """A constant of the dtype of `like`."""
    return const(value, like.dtype)


def _positive(low: float = 0.1, high: float = 3.0) -> tuple[Sample, ...]:
    return (case(floats(3, 5, low=low, high=high)),)


_SPECIAL: Final = case(values([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.5]))
_INTS: Final = case(ints(3, 4, low=-5, high=5, dtype="int32"))

# -- functions that code generators know -----------------------------------------------------

exp = unary("exp", "e to the power x.", intrin.exp, np.exp)
log = unary("log", "Natural logarithm.", intrin.log, np.log, *_positive())
sqrt = unary("sqrt", "Square root.", intrin.sqrt, np.sqrt, *_positive(0.0))
rsqrt = unary("rsqrt", "1 / sqrt(x).", intrin.rsqrt, lambda x: 1 / np.sqrt(x), *_positive())
sin = unary("sin", "Sine.", intrin.sin, np.sin)
cos = unary("cos", "Cosine.", intrin.cos, np.cos)
tan = unary("tan", "Tangent.", intrin.tan, np.tan, *_positive(-1.0, 1.0))
asin = unary("asin", "Arc sine.", intrin.asin, np.arcsin, *_positive(-0.9, 0.9))
acos = unary("acos", "Arc cosine.", intrin.acos, np.arccos, *_positive(-0.9, 0.9))
atan = unary("atan", "Arc tangent.", intrin.atan, np.arctan)
sinh = unary("sinh", "Hyperbolic sine.", intrin.sinh, np.sinh)
cosh = unary("cosh", "Hyperbolic cosine.", intrin.cosh, np.cosh)
tanh = unary("tanh", "Hyperbolic tangent.", intrin.tanh, np.tanh)
asinh = unary("asinh", "Inverse hyperbolic sine.", intrin.asinh, np.arcsinh)
acosh = unary("acosh", "Inverse hyperbolic cosine.", intrin.acosh, np.arccosh, *_positive(1.1, 4.0))
atanh = unary(
    "atanh", "Inverse hyperbolic tangent.", intrin.atanh, np.arctanh, *_positive(-0.9, 0.9)
)
erf = unary("erf", "The Gauss error function.", intrin.erf, vectorized(math.erf))
sigmoid = unary("sigmoid", "1 / (1 + exp(-x)).", intrin.sigmoid, lambda x: 1 / (1 + np.exp(-x)))
floor = unary("floor", "Largest integer not above x.", intrin.floor, np.floor)
ceil = unary("ceil", "Smallest integer not below x.", intrin.ceil, np.ceil)
round_ = unary("round", "Nearest integer, ties to even.", intrin.round, np.rint)
trunc = unary("trunc", "x rounded towards zero.", intrin.trunc, np.trunc)
isnan = unary("isnan", "Whether x is NaN.", intrin.isnan, np.isnan, _SPECIAL, result="bool")

# -- arithmetic ------------------------------------------------------------------------------

identity = unary(
    "identity",
    "x itself.",
    lambda x: x,
    lambda x: x,
    case(floats(2, 3)),
    case(bools(3)),
    dtypes="any",
)
negative = unary(
    "negative", "-x; integers wrap.", lambda x: -x, np.negative, *_WIDE, _INTS, dtypes="number"
)


def _abs(x: Expr) -> Expr:
    if x.dtype.is_float:
        return intrin.fabs(x)
    return select(x < 0, -x, x) if x.dtype.is_signed else x


absolute = unary("abs", "Absolute value.", _abs, np.abs, *_WIDE, _INTS, dtypes="number")


def _sign(x: Expr) -> Expr:
    rest = select(x < 0, number(-1, x), x) if x.dtype.is_signed else x
    return select(x > 0, number(1, x), rest)


sign = unary(
    "sign", "-1, 0 or 1; NaN of NaN.", _sign, np.sign, *_WIDE, _INTS, _SPECIAL, dtypes="number"
)
reciprocal = unary(
    "reciprocal", "1 / x.", lambda x: number(1, x) / x, lambda x: 1 / x, *_positive(0.2)
)
bitwise_not = unary(
    "bitwise_not", "Every bit inverted.", intrin.bitwise_not, np.invert, _INTS, dtypes="int"
)
logical_not = unary(
    "logical_not", "not x.", expr_not, np.logical_not, case(bools(3, 4)), dtypes="bool"
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


isinf.samples(Sample(_SPECIAL.args), Sample(_SPECIAL.args, {"detect_negative": False}))


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


cast.samples(
    case(floats(3, 4, low=-9, high=9), dtype="int32"),
    case(ints(3, 4, low=-300, high=300), dtype="int8"),
    case(ints(5), dtype="float32"),
    case(floats(5), dtype="float16"),
    case(values([0.0, 0.5, math.nan, math.inf, -1e30, 3e9]), dtype="int32"),
    case(ints(6, high=1), dtype="bool"),
    case(bools(6), dtype="float32"),
)

# -- activations -----------------------------------------------------------------------------

relu = unary(
    "relu",
    "Rectified linear unit: max(x, 0).",
    lambda x: maximum(x, number(0, x)),
    lambda x: np.maximum(x, 0),
    *_WIDE,
    _INTS,
    _SPECIAL,
    dtypes="number",
)
silu = unary(
    "silu", "x * sigmoid(x).", lambda x: x * intrin.sigmoid(x), lambda x: x / (1 + np.exp(-x))
)
softsign = unary(
    "softsign",
    "x / (1 + |x|).",
    lambda x: x / (number(1, x) + intrin.fabs(x)),
    lambda x: x / (1 + np.abs(x)),
)


def _softplus(x: Expr) -> Expr:
    return maximum(x, number(0, x)) + intrin.log1p(intrin.exp(-intrin.fabs(x)))


softplus = unary("softplus", "log(1 + exp(x)).", _softplus, lambda x: np.logaddexp(x, 0))
mish = unary(
    "mish",
    "x * tanh(softplus(x)).",
    lambda x: x * intrin.tanh(_softplus(x)),
    lambda x: x * np.tanh(np.logaddexp(x, 0)),
)


def activation(
    infer: Callable[..., TensorType],
    compute: Callable[..., Expr],
    numpy: Callable[..., Any],
    *samples: Sample,
) -> Op:
    """Declare an elementwise function of floats with attributes, named as `infer`."""
    op = operator(infer.__name__, kind="elementwise", dtypes="float")(infer)
    op.rule("compute")(
        lambda x, **attrs: elementwise(x, lambda v: compute(v, **attrs), infer.__name__)
    )
    op.rule("numpy")(numpy)
    op.samples(*samples)
    return op


def leaky_relu(x: TensorType, *, alpha: float = 0.01) -> TensorType:
    """x where x >= 0, else alpha * x."""
    return x


leaky_relu = activation(  # type: ignore[assignment]
    leaky_relu,
    lambda x, alpha: select(x < 0, x * number(alpha, x), x),
    lambda x, alpha: np.where(x < 0, x * alpha, x),
    case(floats(3, 5)),
    case(floats(3, 5), alpha=0.2),
)


def elu(x: TensorType, *, alpha: float = 1.0) -> TensorType:
    """x where x >= 0, else alpha * (exp(x) - 1)."""
    return x


elu = activation(  # type: ignore[assignment]
    elu,
    lambda x, alpha: select(x < 0, intrin.expm1(x) * number(alpha, x), x),
    lambda x, alpha: np.where(x < 0, alpha * np.expm1(x), x),
    case(floats(3, 5)),
    case(floats(3, 5), alpha=0.2),
)


def celu(x: TensorType, *, alpha: float = 1.0) -> TensorType:
    """x where x >= 0, else alpha * (exp(x / alpha) - 1)."""
    return x


celu = activation(  # type: ignore[assignment]
    celu,
    lambda x, alpha: select(x < 0, intrin.expm1(x / number(alpha, x)) * number(alpha, x), x),
    lambda x, alpha: np.where(x < 0, alpha * np.expm1(x / alpha), x),
    case(floats(3, 5), alpha=2.0),
)


def selu(x: TensorType, *, alpha: float = 1.67326319, gamma: float = 1.05070102) -> TensorType:
    """gamma * x where x > 0, else gamma * alpha * (exp(x) - 1)."""
    return x


selu = activation(  # type: ignore[assignment]
    selu,
    lambda x, alpha, gamma: number(gamma, x) * select(x > 0, x, number(alpha, x) * intrin.expm1(x)),
    lambda x, alpha, gamma: gamma * np.where(x > 0, x, alpha * np.expm1(x)),
    case(floats(3, 5)),
)


def hard_sigmoid(x: TensorType, *, alpha: float = 0.2, beta: float = 0.5) -> TensorType:
    """alpha * x + beta, clipped to [0, 1]."""
    return x


def _hard_sigmoid(x: Expr, alpha: float, beta: float) -> Expr:
    line = x * number(alpha, x) + number(beta, x)
    return minimum(maximum(line, number(0, x)), number(1, x))


hard_sigmoid = activation(  # type: ignore[assignment]
    hard_sigmoid,
    _hard_sigmoid,
    lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    case(floats(3, 5, low=-4, high=4)),
)
hard_swish = unary(
    "hard_swish",
    "x * min(max(x / 6 + 1/2, 0), 1).",
    lambda x: x * _hard_sigmoid(x, 1 / 6, 0.5),
    lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    case(floats(3, 5, low=-5, high=5)),
)


def gelu(x: TensorType, *, approximate: Literal["none", "tanh"] = "none") -> TensorType:
    """x * Phi(x), Phi the normal distribution function: by erf, or "tanh" for the approximation
    0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    return x


def _gelu(x: Expr, approximate: str) -> Expr:
    half, one = number(0.5, x), number(1, x)
    if approximate == "none":
        return half * x * (one + intrin.erf(x * number(math.sqrt(0.5), x)))
    inner = x * (number(1, x) + number(0.044715, x) * x * x) * number(math.sqrt(2 / math.pi), x)
    return half * x * (one + intrin.tanh(inner))


def _gelu_reference(x: np.ndarray, approximate: str) -> np.ndarray:
    if approximate == "none":
        return 0.5 * x * (1 + vectorized(math.erf)(x / math.sqrt(2)))  # type: ignore[no-any-return]
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))  # type: ignore[no-any-return]


gelu = activation(  # type: ignore[assignment]
    gelu, _gelu, _gelu_reference, case(floats(3, 5)), case(floats(3, 5), approximate="tanh")
)


def thresholded_relu(x: TensorType, *, alpha: float = 1.0) -> TensorType:
    """x where x > alpha, else 0."""
    return x


thresholded_relu = activation(  # type: ignore[assignment]
    thresholded_relu,
    lambda x, alpha: select(x > number(alpha, x), x, number(0, x)),
    lambda x, alpha: np.where(x > alpha, x, 0),
    case(floats(3, 5)),
)


def shrink(x: TensorType, *, bias: float = 0.0, lambd: float = 0.5) -> TensorType:
    """x + bias where x < -lambd, x - bias where x > lambd, else 0."""
    return x


shrink = activation(  # type: ignore[assignment]
    shrink,
    lambda x, bias, lambd: select(
        x < number(-lambd, x),
        x + number(bias, x),
        select(x > number(lambd, x), x - number(bias, x), number(0, x)),
    ),
    lambda x, bias, lambd: np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0)),
    case(floats(3, 5), bias=0.25),
)


@operator("clip", kind="elementwise", dtypes="number")
def clip(x: TensorType, *, min: float | None = None, max: float | None = None) -> TensorType:
    """x limited to [min, max]; None leaves a side open. NaN stays NaN."""
    return x


@clip.rule("compute")
def _(x: te.Tensor, *, min: float | None, max: float | None) -> te.Tensor:
    def body(v: Expr) -> Expr:
        if min is not None:
            v = maximum(v, _limit(min, v.dtype))
        return v if max is None else minimum(v, _limit(max, v.dtype))

    return elementwise(x, body, "clip")


def _limit(value: float, dtype: DType) -> Expr:
    if dtype.is_int:
        value = sorted((dtype.min_value, dtype.max_value, _whole(value, dtype)))[1]
    return const(value, dtype)


def _whole(value: float, dtype: DType) -> int:
    if math.isinf(value):
        return dtype.max_value if value > 0 else dtype.min_value
    return int(value)


@clip.rule("numpy")
def _(x: np.ndarray, *, min: float | None, max: float | None) -> np.ndarray:
    return x if min is None and max is None else np.clip(x.astype(np.float64), min, max)


clip.samples(
    case(floats(3, 5), min=-0.5, max=1.0),
    case(floats(3, 5), max=0.5),
    case(ints(3, 5, low=-9), min=-2, max=4),
    Sample(_SPECIAL.args, {"min": 0.0, "max": 6.0}),
)
