# SPDX-License-Identifier: Apache-2.0
"""The gamma function's family and the inverse of the error function.

Formulas: NIST Digital Library of Mathematical Functions, chapter 5 (5.5.3 and 5.5.4 reflection,
5.11.1 and 5.11.2 large arguments, 5.15 polygamma); the form of erfinv as a function of
-log(1 - x^2) is that of M. Giles, "Approximating the erfinv function", GPU Computing Gems 2, 2011.
The polynomials are in `special_tables`. Errors, in units in the last place: `tests/op/
test_special.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, Final

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import TensorType
from heddle.ir.expr import EQ, Expr, Let, Var, compare, select
from heddle.op import special_tables as tables
from heddle.op.common import elementwise, vectorized
from heddle.op.registry import operator, ops
from heddle.op.sample import case, floats, values
from heddle.op.unary import number, unary
from heddle.support import UserError
from heddle.tir import intrin

# B_2, B_4, ...: Bernoulli's numbers. Of the series for large arguments float32 needs fewer terms.
_BERNOULLI: Final = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)
_TERMS: Final = {"float32": 3, "float64": 8}
_LARGE: Final = 8.0
"""From here on the series hold to the last digit."""

# The zero of digamma, less 2, as the sum of two numbers of the dtype.
_ROOT: Final = {
    "float32": (-0.5383678674697876, 1.243815006546356e-08),
    "float64": (-0.5383678550316376, -1.5522348162858677e-17),
}


def named(value: Expr, body: Callable[[Expr], Expr], name: str = "y") -> Expr:
    """`body` of a variable that stands for `value`."""
    variable = Var(name, value.dtype)
    return Let(value, variable, body(variable))


def _polynomial(coefficients: Sequence[float], t: Expr) -> Expr:
    first, *rest = reversed(coefficients)
    value: Expr = number(first, t)
    for coefficient in rest:
        value = value * t + number(coefficient, t)
    return value


def _fit(table: Mapping[str, tuple[float, ...]], t: Expr) -> Expr:
    return _polynomial(table[t.dtype.name], t)


def _is(x: Expr, value: float) -> Expr:
    return compare(EQ, x, number(value, x))


def _near_two(y: Expr) -> Expr:
    """y - 2 for y in [1, 3), y - 1 for y in [0, 1): exact but for y below a half."""
    return select(y < number(1, y), y - number(1, y), y - number(2, y))


def _near_middle(y: Expr) -> Expr:
    """[3, 8) to [-1, 1)."""
    return (y - number(5.5, y)) * number(0.4, y)


def _from_integer(z: Expr) -> Expr:
    """z less the nearest integer: sin(pi z) and tan(pi z) are those of pi times this, but for the
    sign of the sine."""
    return z - intrin.round(z)


# -- log |gamma| -----------------------------------------------------------------------------


def _lgamma_large(y: Expr) -> Expr:
    """(y - 1/2) (log y - 1) + (log(2 pi) - 1) / 2 + sum of B_2k / (2k (2k - 1) y^(2k - 1))"""
    inverse = number(1, y) / y
    count = _TERMS[y.dtype.name]
    terms = [b / (2 * k * (2 * k - 1)) for k, b in enumerate(_BERNOULLI[:count], 1)]
    series = inverse * _polynomial(terms, inverse * inverse)
    main = (y - number(0.5, y)) * (intrin.log(y) - number(1, y))
    return main + (number((math.log(2 * math.pi) - 1) / 2, y) + series)


def _lgamma_positive(y: Expr) -> Expr:
    """For y >= 0. Up to 3, gamma(y + 1) = y gamma(y) brings y to [1, 3), where the logarithm is
    (y - 1) (y - 2) times a polynomial: it keeps its digits beside the zeros."""
    t = _near_two(y)
    below = y < number(1, y)
    low = t * select(below, y, y - number(1, y)) * _fit(tables.LGAMMA_LOW, t)
    low = select(below, low - intrin.log(y), low)
    middle = (y - number(1, y)) * (y - number(2, y))
    middle = middle * _fit(tables.LGAMMA_MIDDLE, _near_middle(y))
    large = _lgamma_large(y)
    return select(y < number(3, y), low, select(y < number(_LARGE, y), middle, large))


def _lgamma(x: Expr) -> Expr:
    """For x < 0, gamma(x) gamma(1 - x) = pi / sin(pi x)."""

    def whole(y: Expr) -> Expr:
        value = _lgamma_positive(y)
        sine = intrin.fabs(intrin.sin(_from_integer(x) * number(math.pi, x)))
        reflected = intrin.log(number(math.pi, x) / sine) - value
        infinite = _is(x, -math.inf)
        reflected = select(infinite, number(math.inf, x), reflected)
        return select(x < number(0, x), reflected, value)

    return named(select(x < number(0, x), number(1, x) - x, x), whole)


def _lgamma_reference(x: float) -> float:
    if x == -math.inf or (x <= 0 and x == math.floor(x)):
        return math.inf
    try:
        return math.lgamma(x)
    except OverflowError:
        return math.inf


_POSITIVE: Final = case(floats(3, 5, low=0.1, high=12.0))
_NEGATIVE: Final = case(floats(3, 5, low=-3.9, high=-3.1))
lgamma = unary(
    "lgamma",
    "The logarithm of the absolute value of the gamma function.",
    _lgamma,
    vectorized(_lgamma_reference),
    _POSITIVE,
    _NEGATIVE,
    case(values([0.5, 1.0, 1.5, 2.0, 2.75, 3.2, 7.5, 30.0])),
    case(values([0.5, 1.25, 2.0, 3.5, 9.0, -0.5, -6.7], "float64")),
    case(values([math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, 1e30, 1e-30])),
    grad=lambda d, x, y: d * ops.digamma(x),
)

# -- digamma ---------------------------------------------------------------------------------


def _digamma_large(y: Expr) -> Expr:
    """log y - 1 / (2 y) - sum of B_2k / (2k y^(2k))"""
    inverse = number(1, y) / y
    square = inverse * inverse
    count = _TERMS[y.dtype.name]
    terms = [b / (2 * k) for k, b in enumerate(_BERNOULLI[:count], 1)]
    series = number(0.5, y) * inverse + square * _polynomial(terms, square)
    return intrin.log(y) - series


def _digamma_positive(y: Expr) -> Expr:
    """For y >= 0; below 1, digamma(y) = digamma(y + 1) - 1 / y. The polynomial up to 3 is times the
    distance from the zero."""
    t = _near_two(y)
    high, rest = _ROOT[y.dtype.name]
    low = ((t - number(high, y)) - number(rest, y)) * _fit(tables.DIGAMMA_LOW, t)
    low = select(y < number(1, y), low - number(1, y) / y, low)
    middle = _fit(tables.DIGAMMA_MIDDLE, _near_middle(y))
    large = _digamma_large(y)
    return select(y < number(3, y), low, select(y < number(_LARGE, y), middle, large))


def _digamma(x: Expr) -> Expr:
    """For x < 0, digamma(x) = digamma(1 - x) - pi / tan(pi x); NaN at the poles below 0."""

    def whole(y: Expr) -> Expr:
        rest = _from_integer(x)
        tangent = intrin.tan(rest * number(math.pi, x))
        pole = _is(rest, 0.0)
        reflected = _digamma_positive(y) - number(math.pi, x) / tangent
        reflected = select(pole, number(math.nan, x), reflected)
        return select(x < number(0, x), reflected, _digamma_positive(y))

    return named(select(x < number(0, x), number(1, x) - x, x), whole)


def _digamma_reference(x: np.ndarray) -> np.ndarray:
    """In float64: by the recurrence to 16 and beyond, there by the series."""
    x = np.asarray(x, np.float64)
    y = np.where(x < 0, 1 - x, x)
    steps = np.zeros_like(y)
    for _ in range(16):
        steps, y = steps + np.where(y < 16, 1 / y, 0), np.where(y < 16, y + 1, y)
    series = sum(b / (2 * k * y ** (2 * k)) for k, b in enumerate(_BERNOULLI, 1))
    value = np.log(y) - 0.5 / y - series - steps
    rest = x - np.rint(x)
    reflected = np.where(rest == 0, np.nan, value - np.pi / np.tan(np.pi * rest))
    return np.where(x < 0, reflected, value)


digamma = unary(
    "digamma",
    "The derivative of lgamma.",
    _digamma,
    _digamma_reference,
    _POSITIVE,
    _NEGATIVE,
    case(values([0.5, 1.0, 1.46, 1.5, 2.0, 2.75, 3.0, 7.5, 30.0, 1e30])),
    case(values([0.5, 1.25, 2.0, 3.5, 9.0, -0.5, -6.7, 1e30], "float64")),
    case(values([math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, -2.0])),
    grad=lambda d, x, y: d * ops.polygamma(x, order=1),
)

# -- polygamma -------------------------------------------------------------------------------


def _cotangent_derivative(order: int) -> tuple[float, ...]:
    """d^n/dz^n cot z as a polynomial of c = cot z, by c' = -(1 + c^2); the lowest power first."""
    found = [0.0, 1.0]
    for _ in range(order):
        slope = [k * value for k, value in enumerate(found)][1:]
        padded = [*slope, 0.0, 0.0]
        found = [-(value + (padded[k - 2] if k >= 2 else 0.0)) for k, value in enumerate(padded)]
    return tuple(found)


def _series_terms(order: int) -> list[float]:
    """B_2k (2k + n - 1)! / ((2k)! n!) for k = 1, 2, ..."""
    return [
        b * math.factorial(2 * k + order - 1) / math.factorial(2 * k) / math.factorial(order)
        for k, b in enumerate(_BERNOULLI, 1)
    ]


def _times(value: Any, count: int) -> Any:
    """value to the power `count`, at least 1."""
    return functools.reduce(lambda a, b: a * b, [value] * count)


def _hurwitz(y: Any, order: int, steps: int, number_of: Callable[[float], Any]) -> Any:
    """The sum of 1 / (y + k)^(n + 1) over k >= 0, for y >= 0: `steps` terms, and of the rest the
    sum by Euler and Maclaurin."""
    one = number_of(1.0)
    total = number_of(0.0)
    for k in range(steps):
        total = total + _times(one / (y + number_of(float(k))), order + 1)
    inverse = one / (y + number_of(float(steps)))
    lead = _times(inverse, order)
    square = inverse * inverse
    series = number_of(0.0)
    for term in reversed(_series_terms(order)):
        series = series * square + number_of(term)
    rest = number_of(1.0 / order) + inverse * number_of(0.5) + square * series
    return total + lead * rest


def _polygamma(x: Expr, order: int) -> Expr:
    """(-1)^(n+1) n! times the sum of 1 / (x + k)^(n+1); below zero by the reflection that follows
    from digamma's, n times differentiated."""
    sign = 1.0 if order % 2 else -1.0
    scale = sign * math.factorial(order)
    steps = 8 if x.dtype.bits == 32 else 12

    def whole(y: Expr) -> Expr:
        value = number(scale, x) * _hurwitz(y, order, steps, lambda v: number(v, x))
        rest = _from_integer(x)
        cotangent = number(1, x) / intrin.tan(rest * number(math.pi, x))
        turned = _polynomial(_cotangent_derivative(order), cotangent)
        reflected = number(-sign, x) * value - number(math.pi ** (order + 1), x) * turned
        reflected = select(_is(rest, 0.0), number(sign * math.inf, x), reflected)
        return select(x < number(0, x), reflected, value)

    return named(select(x < number(0, x), number(1, x) - x, x), whole)


@operator("polygamma", kind="elementwise", dtypes="float")
def polygamma(x: TensorType, *, order: int) -> TensorType:
    """The derivative of digamma of this order, from 1 on; at the poles the infinity of the side
    where the sum over k of (x + k)^(-order - 1) goes."""
    if not 1 <= order <= 20:
        raise UserError(f"attribute `order` is {order}, expected from 1 to 20")
    return x


@polygamma.rule("compute")
def _(x: te.Tensor, *, order: int) -> te.Tensor:
    return elementwise(x, lambda value: _polygamma(value, order), "polygamma")


@polygamma.rule("numpy")
def _(x: np.ndarray, *, order: int) -> np.ndarray:
    x = np.asarray(x, np.float64)
    sign = 1.0 if order % 2 else -1.0
    value = _hurwitz(np.where(x < 0, 1 - x, x), order, 20, np.float64)
    value = sign * math.factorial(order) * value
    rest = x - np.rint(x)
    cotangent = 1 / np.tan(np.pi * rest)
    turned = sum(c * cotangent**k for k, c in enumerate(_cotangent_derivative(order)))
    reflected = -sign * value - np.pi ** (order + 1) * turned
    reflected = np.where(rest == 0, sign * math.inf, reflected)
    return np.where(x < 0, reflected, value)


@polygamma.rule("grad")
def _(x: GraphExpr, *, dout: GraphExpr, out: GraphExpr, order: int) -> GraphExpr:
    return dout * ops.polygamma(x, order=order + 1)


polygamma.samples(
    case(floats(3, 5, low=0.3, high=12.0), order=1),
    case(floats(3, 5, low=-0.8, high=-0.2), order=1),
    case(floats(7, low=0.5, high=9.0), order=2),
    case(floats(4, low=-3.7, high=-3.2, dtype="float64"), order=3),
)

# -- the inverse of erf ----------------------------------------------------------------------


def _erfinv(x: Expr) -> Expr:
    """x times a polynomial of w = -log(1 - x^2) where that is below 5, else of its root."""

    def parts(w: Expr) -> Expr:
        centre = _fit(tables.ERFINV_CENTRE, (w - number(2.5, w)) * number(0.4, w))
        root = intrin.sqrt(w)
        if x.dtype.bits == 32:
            tail = _fit(tables.ERFINV_TAIL, (root - number(3.15, w)) / number(0.95, w))
        else:
            near = _fit(tables.ERFINV_TAIL_NEAR, (root - number(3.1, w)) / number(0.9, w))
            far = _fit(tables.ERFINV_TAIL_FAR, (root - number(5.1, w)) / number(1.1, w))
            tail = select(w < number(16, w), near, far)
        value = x * select(w < number(5, w), centre, tail)
        return select(_is(w, math.inf), x * number(math.inf, x), value)

    one = number(1, x)
    return named(-intrin.log((one - x) * (one + x)), parts, "w")


def _erfinv_reference(x: float) -> float:
    """By Newton's method on erfc, from the quantile of the normal distribution."""
    size = abs(x)
    if not size < 1:
        return math.copysign(math.inf, x) if size == 1 else math.nan
    if size < 1e-8:
        return x * math.sqrt(math.pi) / 2
    y = -NormalDist().inv_cdf((1 - size) / 2) / math.sqrt(2)
    for _ in range(2):
        error = math.erf(y) - size if size < 0.5 else (1 - size) - math.erfc(y)
        y -= error * math.sqrt(math.pi) / 2 * math.exp(y * y)
    return math.copysign(y, x)


erfinv = unary(
    "erfinv",
    "The inverse of the Gauss error function; infinite at -1 and 1, NaN beyond.",
    _erfinv,
    vectorized(_erfinv_reference),
    case(floats(3, 5, low=-0.9, high=0.9)),
    case(values([0.0, -0.0, 1e-20, -0.9999, 1.0, -1.0, 1.5, math.nan])),
    case(values([0.1, -0.5, 0.97, -0.99], "float64")),
    case(values([0.999999, -0.999999999999, 0.99999999999999, 1.0], "float64")),
    grad=lambda d, x, y: d * ops.exp(y * y) * (math.sqrt(math.pi) / 2),
)
