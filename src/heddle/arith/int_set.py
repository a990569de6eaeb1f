# SPDX-License-Identifier: Apache-2.0
"""Ranges that index expressions take while some of their variables run over a domain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

from heddle.arith.analyzer import Analyzer
from heddle.arith.modular import modular_of_sum
from heddle.arith.simplify import Simplifier
from heddle.arith.sums import Sum
from heddle.ir.dtype import INT64
from heddle.ir.expr import (
    Call,
    Expr,
    ExprLike,
    FloorDiv,
    FloorMod,
    IntImm,
    Max,
    Min,
    Select,
    Var,
    as_expr,
)


class RangeLike(Protocol):
    """Anything with `min` and `extent`, such as `tir.Range` and `tir.For`."""

    @property
    def min(self) -> Any: ...

    @property
    def extent(self) -> Any: ...


class IntRange(NamedTuple):
    """The half-open interval [min, min + extent)."""

    min: Expr
    extent: Expr


Domain: TypeAlias = Mapping[Var, "RangeLike | tuple[ExprLike, ExprLike]"]


class _Span(NamedTuple):
    """The values from `low` to `low + length`, both included; `low` is attained."""

    low: Sum
    length: Sum


def as_range(value: RangeLike | tuple[ExprLike, ExprLike]) -> IntRange:
    """A pair or a range-like object as an `IntRange`."""
    if isinstance(value, tuple):
        return IntRange(as_expr(value[0]), as_expr(value[1]))
    return IntRange(as_expr(value.min), as_expr(value.extent))


def estimate_range(
    value: Expr, domain: Domain, *, analyzer: Analyzer | None = None
) -> IntRange | None:
    """The range of `value` while the variables of `domain` take all values of their ranges.

    Both ends are in the remaining variables. The range is tight for linear expressions and for
    quotients and remainders of tiled and fused indices; elsewhere it may be too large, never too
    small. None when no range can be given (a loaded index, a product of two domain variables).
    `analyzer` may know about the remaining variables; it is left as it was.

    >>> o, i, k = Var("o"), Var("i"), Var("k")
    >>> estimate_range(o * 8 + i * 2 + k, {i: (0, 4), k: (0, 3)})  # [o * 8, o * 8 + 9)
    """
    analyzer = analyzer or Analyzer()
    with analyzer.scope():
        for var, given in domain.items():
            analyzer.bind(var, *as_range(given))
        for lowest, highest in list(analyzer.simplifier.facts.symbolic.values()):
            reach = highest - lowest  # what runs over a range has one that is not empty
            if reach.terms:
                analyzer.simplifier.facts.learn_part(reach)
        analyzer.simplifier.forget()
        estimator = _Estimator(analyzer.simplifier, set(domain))
        span = estimator.of(analyzer.simplify(value))
        if span is None:
            return None
        s = analyzer.simplifier
        return IntRange(s.build(span.low), s.build(span.length.shift(1)))


def union_range(
    a: RangeLike | tuple[ExprLike, ExprLike],
    b: RangeLike | tuple[ExprLike, ExprLike],
    *,
    analyzer: Analyzer | None = None,
) -> IntRange:
    """The smallest range that holds both.

    >>> union_range((0, 4), (2, 8))  # [0, 10)
    """
    analyzer = analyzer or Analyzer()
    left, right = as_range(a), as_range(b)
    s = analyzer.simplifier
    lows = [s.run(left.min), s.run(right.min)]
    ends = [s.run(left.min + left.extent), s.run(right.min + right.extent)]
    offset = s.sum_of(lows[1]) - s.sum_of(lows[0])
    if not offset.terms:  # the offset is constant: so is the extent of constant extents
        low = lows[0] if offset.constant >= 0 else lows[1]
    else:
        low = s.make(Min, lows[0], lows[1])
    reach = [s.build(s.sum_of(end) - s.sum_of(low)) for end in ends]
    return IntRange(low, s.make(Max, reach[0], reach[1]))


class _Estimator:
    def __init__(self, simplifier: Simplifier, variables: set[Var]) -> None:
        self.s = simplifier
        self.variables = variables

    def depends(self, value: Expr) -> bool:
        return any(self.s.mentions(value, var) for var in self.variables)

    def of(self, value: Expr) -> _Span | None:
        if value.dtype is not INT64:
            return None
        return self.of_sum(self.s.sum_of(value))

    def of_sum(self, total: Sum) -> _Span | None:
        fixed: dict[Expr, int] = {}
        slopes: dict[Var, Sum] = {}
        result = _Span(Sum({}, 0), Sum({}, 0))
        for term, count in total.terms.items():
            if not self.depends(term):
                fixed[term] = count
                continue
            slope = self.slope(term)
            if slope is not None:
                var, factor = slope
                known = slopes.get(var, Sum({}, 0))
                slopes[var] = known.plus(factor, count)
                continue
            span = self.of_term(term)
            if span is None:
                return None
            result = self.add(result, span, count)
        for var, factor in slopes.items():
            span = self.scaled(var, factor)
            if span is None:
                return None
            result = self.add(result, span, 1)
        return _Span(result.low + Sum(fixed, total.constant), result.length)

    def add(self, total: _Span, span: _Span, count: int) -> _Span:
        """`total + count * span`; a negative factor swaps the ends."""
        start = span.low if count >= 0 else span.low + span.length
        return _Span(total.low.plus(start, count), total.length.plus(span.length, abs(count)))

    def slope(self, term: Expr) -> tuple[Var, Sum] | None:
        """A term as one domain variable times factors that do not depend on the domain."""
        factors = list(self.s.factors.get(term, (term,)))
        moving = [factor for factor in factors if self.depends(factor)]
        if len(moving) != 1 or not isinstance(moving[0], Var):
            return None
        factors.remove(moving[0])
        product = Sum({}, 1)
        for factor in factors:
            product = self.s.multiply(product, Sum({factor: 1}, 0))
        return moving[0], product

    def scaled(self, var: Var, factor: Sum) -> _Span | None:
        """`factor * var`, whose sign must be known."""
        span = self.of_var(var)
        if span is None:
            return None
        low, length = self.s.multiply(span.low, factor), self.s.multiply(span.length, factor)
        if self.s.prover.nonnegative(factor):
            return _Span(low, length)
        if self.s.prover.nonnegative(factor.scale(-1)):
            return _Span(low + length, length.scale(-1))
        return None

    def of_var(self, var: Var) -> _Span | None:
        symbolic = self.s.facts.symbolic.get(var)
        if symbolic is not None:
            # The range of a domain variable may depend on another domain variable.
            low, high = (self.of_sum(end) for end in symbolic)
            if low is None or high is None:
                return None
            return _Span(low.low, high.low + high.length - low.low)
        return self.constant(var)

    def constant(self, value: Expr) -> _Span | None:
        interval = self.s.bounds.of(value)
        if not interval.is_finite:
            return None
        return _Span(Sum({}, int(interval.lo)), Sum({}, int(interval.hi) - int(interval.lo)))

    def of_term(self, term: Any) -> _Span | None:
        handler = _TERMS.get(type(term))
        span = handler(self, term) if handler is not None else None
        if span is None and type(term) is Call and term.name == "if_then_else":
            span = _select(self, term)
        return self.constant(term) if span is None else span


def _floordiv(e: _Estimator, term: Any) -> _Span | None:
    span = e.of(term.a)
    if span is None or e.depends(term.b):
        return None
    if type(term.b) is not IntImm:
        return _floordiv_symbolic(e, term, span)
    if term.b.value <= 0:
        return None
    s, divisor = e.s, term.b.value
    low = s.sum_of(s.make(FloorDiv, s.build(span.low), term.b))
    high = s.sum_of(s.make(FloorDiv, s.build(span.low + span.length), term.b))
    length = high - low
    if length.terms and not span.length.terms:
        # The quotient moves by a step more or less, depending on where the dividend starts.
        coefficient, base = modular_of_sum(s, span.low)
        step = coefficient if divisor % coefficient == 0 else 1
        largest = divisor - step + base % step
        length = Sum({}, (largest + span.length.constant) // divisor)
    return _Span(low, length)


def _floordiv_symbolic(e: _Estimator, term: Any, span: _Span) -> _Span | None:
    s = e.s
    if not s.prover.nonnegative(s.sum_of(term.b).shift(-1)):
        return None
    low = s.sum_of(s.make(FloorDiv, s.build(span.low), term.b))
    high = s.sum_of(s.make(FloorDiv, s.build(span.low + span.length), term.b))
    return _Span(low, high - low)


def _floormod(e: _Estimator, term: Any) -> _Span | None:
    span = e.of(term.a)
    s = e.s
    divisor = s.sum_of(term.b)
    if e.depends(term.b) or not s.prover.nonnegative(divisor.shift(-1)):
        return None
    if span is not None:
        low = s.sum_of(s.make(FloorMod, s.build(span.low), term.b))
        if s.prover.nonnegative((divisor - low - span.length).shift(-1)):
            return _Span(low, span.length)
    return _Span(Sum({}, 0), divisor.shift(-1))


def _min_max(e: _Estimator, term: Any) -> _Span | None:
    a, b = e.of(term.a), e.of(term.b)
    if a is None or b is None:
        return None
    low = _join(e, type(term), a.low, b.low)
    length = _join(e, type(term), a.low + a.length, b.low + b.length) - low
    if length.terms and not a.length.terms and not b.length.terms:
        # Neither end moves further than the longer operand: a constant serves callers better.
        length = Sum({}, max(a.length.constant, b.length.constant))
    return _Span(low, length)


def _select(e: _Estimator, term: Any) -> _Span | None:
    a, b = (e.of(part) for part in term.children()[1:])
    if a is None or b is None:
        return None
    low = _join(e, Min, a.low, b.low)
    return _Span(low, _join(e, Max, a.low + a.length, b.low + b.length) - low)


def _join(e: _Estimator, kind: type, a: Sum, b: Sum) -> Sum:
    return e.s.sum_of(e.s.make(kind, e.s.build(a), e.s.build(b)))


_TERMS: dict[type, Callable[[_Estimator, Any], _Span | None]] = {
    FloorDiv: _floordiv,
    FloorMod: _floormod,
    Min: _min_max,
    Max: _min_max,
    Select: _select,
}
