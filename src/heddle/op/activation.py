# SPDX-License-Identifier: Apache-2.0
"""Activation functions: elementwise, with kinks and attributes of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import DType, TensorType
from heddle.ir.expr import Expr, const, maximum, minimum, select
from heddle.op.adjoint import full_like
from heddle.op.common import elementwise, vectorized
from heddle.op.registry import Op, operator, ops
from heddle.op.sample import Sample, case, floats, ints
from heddle.op.unary import INTS, SPECIAL, WIDE, number, unary
from heddle.tir import intrin


def _where(condition: GraphExpr, d: GraphExpr, otherwise: GraphExpr | float = 0.0) -> GraphExpr:
    return ops.where(condition, d, otherwise)


relu = unary(
    "relu",
    "Rectified linear unit: max(x, 0).",
    lambda x: maximum(x, number(0, x)),
    lambda x: np.maximum(x, 0),
    *WIDE,
    INTS,
    SPECIAL,
    grad=lambda d, x, y: _where(ops.greater(x, 0.0), d),
    dtypes="number",
)


def _silu_grad(d: GraphExpr, x: GraphExpr, y: GraphExpr) -> GraphExpr:
    s = ops.sigmoid(x)
    return d * (s + y * (1.0 - s))


silu = unary(
    "silu",
    "x * sigmoid(x).",
    lambda x: x * intrin.sigmoid(x),
    lambda x: x / (1 + np.exp(-x)),
    grad=_silu_grad,
)


def _softsign_grad(d: GraphExpr, x: GraphExpr, y: GraphExpr) -> GraphExpr:
    below = ops.abs(x) + 1.0
    return d / (below * below)


softsign = unary(
    "softsign",
    "x / (1 + |x|).",
    lambda x: x / (number(1, x) + intrin.fabs(x)),
    lambda x: x / (1 + np.abs(x)),
    grad=_softsign_grad,
)


def _softplus(x: Expr) -> Expr:
    return maximum(x, number(0, x)) + intrin.log1p(intrin.exp(-intrin.fabs(x)))


softplus = unary(
    "softplus",
    "log(1 + exp(x)).",
    _softplus,
    lambda x: np.logaddexp(x, 0),
    grad=lambda d, x, y: d * ops.sigmoid(x),
)


def _mish_grad(d: GraphExpr, x: GraphExpr, y: GraphExpr) -> GraphExpr:
    bent = ops.tanh(ops.softplus(x))
    return d * (bent + x * (1.0 - bent * bent) * ops.sigmoid(x))


mish = unary(
    "mish",
    "x * tanh(softplus(x)).",
    lambda x: x * intrin.tanh(_softplus(x)),
    lambda x: x * np.tanh(np.logaddexp(x, 0)),
    grad=_mish_grad,
)


def activation(
    infer: Callable[..., TensorType],
    compute: Callable[..., Expr],
    numpy: Callable[..., Any],
    *samples: Sample,
    grad: Callable[..., GraphExpr],
) -> Op:
    """Declare an elementwise function of floats with attributes, named as `infer`; `grad` is as
    for `unary`, and takes the attributes too."""
    op = operator(infer.__name__, kind="elementwise", dtypes="float")(infer)
    op.rule("compute")(
        lambda x, **attrs: elementwise(x, lambda v: compute(v, **attrs), infer.__name__)
    )
    op.rule("numpy")(numpy)
    op.rule("grad")(lambda x, *, dout, out, **attrs: grad(dout, x, out, **attrs))
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
    grad=lambda d, x, y, alpha: _where(ops.less(x, 0.0), d * alpha, d),
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
    grad=lambda d, x, y, alpha: _where(ops.less(x, 0.0), d * (y + alpha), d),
)


def celu(x: TensorType, *, alpha: float = 1.0) -> TensorType:
    """x where x >= 0, else alpha * (exp(x / alpha) - 1)."""
    return x


celu = activation(  # type: ignore[assignment]
    celu,
    lambda x, alpha: select(x < 0, intrin.expm1(x / number(alpha, x)) * number(alpha, x), x),
    lambda x, alpha: np.where(x < 0, alpha * np.expm1(x / alpha), x),
    case(floats(3, 5), alpha=2.0),
    grad=lambda d, x, y, alpha: _where(ops.less(x, 0.0), d * (y * (1 / alpha) + 1.0), d),
)


def selu(x: TensorType, *, alpha: float = 1.67326319, gamma: float = 1.05070102) -> TensorType:
    """gamma * x where x > 0, else gamma * alpha * (exp(x) - 1)."""
    return x


selu = activation(  # type: ignore[assignment]
    selu,
    lambda x, alpha, gamma: number(gamma, x) * select(x > 0, x, number(alpha, x) * intrin.expm1(x)),
    lambda x, alpha, gamma: gamma * np.where(x > 0, x, alpha * np.expm1(x)),
    case(floats(3, 5)),
    grad=lambda d, x, y, alpha, gamma: _where(
        ops.greater(x, 0.0), d * gamma, d * (y + alpha * gamma)
    ),
)


def hard_sigmoid(x: TensorType, *, alpha: float = 0.2, beta: float = 0.5) -> TensorType:
    """alpha * x + beta, clipped to [0, 1]."""
    return x


def _hard_sigmoid(x: Expr, alpha: float, beta: float) -> Expr:
    line = x * number(alpha, x) + number(beta, x)
    return minimum(maximum(line, number(0, x)), number(1, x))


def _between(x: GraphExpr, low: float, high: float) -> GraphExpr:
    return ops.logical_and(ops.greater(x, low), ops.less(x, high))


def _hard_sigmoid_grad(
    d: GraphExpr, x: GraphExpr, y: GraphExpr, alpha: float, beta: float
) -> GraphExpr:
    return _where(_between(x * alpha + beta, 0.0, 1.0), d * alpha)


hard_sigmoid = activation(  # type: ignore[assignment]
    hard_sigmoid,
    _hard_sigmoid,
    lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    case(floats(3, 5, low=-4, high=4)),
    grad=_hard_sigmoid_grad,
)
hard_swish = unary(
    "hard_swish",
    "x * min(max(x / 6 + 1/2, 0), 1).",
    lambda x: x * _hard_sigmoid(x, 1 / 6, 0.5),
    lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    case(floats(3, 5, low=-5, high=5)),
    grad=lambda d, x, y: _where(
        ops.greater(x, 3.0),
        d,
        _where(ops.less(x, -3.0), full_like(d, 0.0), d * (x * (1 / 3) + 0.5)),
    ),
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


def _gelu_grad(d: GraphExpr, x: GraphExpr, y: GraphExpr, approximate: str) -> GraphExpr:
    if approximate == "none":
        below = (ops.erf(x * math.sqrt(0.5)) + 1.0) * 0.5
        density = ops.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
        return d * (below + x * density)
    bent = ops.tanh((x * x * 0.044715 + 1.0) * x * math.sqrt(2 / math.pi))
    slope = (x * x * (3 * 0.044715) + 1.0) * math.sqrt(2 / math.pi)
    return d * 0.5 * (bent + 1.0 + x * (1.0 - bent * bent) * slope)


gelu = activation(  # type: ignore[assignment]
    gelu,
    _gelu,
    _gelu_reference,
    case(floats(3, 5)),
    case(floats(3, 5), approximate="tanh"),
    grad=_gelu_grad,
)


def thresholded_relu(x: TensorType, *, alpha: float = 1.0) -> TensorType:
    """x where x > alpha, else 0."""
    return x


thresholded_relu = activation(  # type: ignore[assignment]
    thresholded_relu,
    lambda x, alpha: select(x > number(alpha, x), x, number(0, x)),
    lambda x, alpha: np.where(x > alpha, x, 0),
    case(floats(3, 5)),
    grad=lambda d, x, y, alpha: _where(ops.greater(x, alpha), d),
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
    grad=lambda d, x, y, bias, lambd: _where(
        ops.logical_or(ops.less(x, -lambd), ops.greater(x, lambd)), d
    ),
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


@clip.rule("grad")
def _(
    x: GraphExpr, *, dout: GraphExpr, out: GraphExpr, min: float | None, max: float | None
) -> GraphExpr:
    """At a limit itself, the gradient passes."""
    if min is not None:
        dout = _where(ops.greater_equal(x, min), dout)
    return dout if max is None else _where(ops.less_equal(x, max), dout)


clip.samples(
    case(floats(3, 5), min=-0.5, max=1.0),
    case(floats(3, 5), max=0.5),
    case(ints(3, 5, low=-9), min=-2, max=4),
    Sample(SPECIAL.args, {"min": 0.0, "max": 6.0}),
)
