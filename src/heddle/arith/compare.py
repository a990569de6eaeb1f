# SPDX-License-Identifier: Apache-2.0
"""Comparisons of int64 expressions: decided by bounds, else brought to one of `<`, `==`, `!=`.

The canonical form has positive terms on the left and negated negative ones on the right; the
constant stands where it is positive, alone if it can: `i < 4`, `3 < i`, `i + 1 < n`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heddle.arith import division
from heddle.arith.sums import Sum
from heddle.ir.expr import EQ, GE, GT, LE, LT, NE, Expr

if TYPE_CHECKING:
    from heddle.arith.simplify import Simplifier


def shown(s: Simplifier, kind: type, difference: Sum) -> bool:
    """Whether `difference kind 0` is shown to hold always."""
    if kind is LT:
        return s.prover.nonnegative(difference.scale(-1).shift(-1))
    if kind is LE:
        return s.prover.nonnegative(difference.scale(-1))
    if kind is GT:
        return s.prover.nonnegative(difference.shift(-1))
    if kind is GE:
        return s.prover.nonnegative(difference)
    zero = _is_zero(s, difference)
    return zero is (kind is EQ)


def _is_negative(s: Simplifier, total: Sum) -> bool | None:
    interval = s.bounds.of_sum(total)
    if interval.hi < 0:
        return True
    if interval.lo >= 0:
        return False
    if s.prover.nonnegative(total.scale(-1).shift(-1)):
        return True
    return False if s.prover.nonnegative(total) else None


def _is_zero(s: Simplifier, total: Sum) -> bool | None:
    if not total.terms:
        return total.constant == 0
    if total.constant % total.gcd():
        return False
    interval = s.bounds.of_sum(total)
    if interval.lo > 0 or interval.hi < 0:
        return False
    if interval.lo == interval.hi == 0:
        return True
    if s.prover.nonnegative(total.shift(-1)) or s.prover.nonnegative(total.scale(-1).shift(-1)):
        return False
    return None


def less(s: Simplifier, a: Expr, b: Expr) -> Expr:
    """`a < b`"""
    return _less_than_zero(s, s.sum_of(a) - s.sum_of(b))


def less_equal(s: Simplifier, a: Expr, b: Expr) -> Expr:
    """`a <= b`, as `a < b + 1`"""
    return _less_than_zero(s, (s.sum_of(a) - s.sum_of(b)).shift(-1))


def greater(s: Simplifier, a: Expr, b: Expr) -> Expr:
    """`a > b`, as `b < a`"""
    return _less_than_zero(s, s.sum_of(b) - s.sum_of(a))


def greater_equal(s: Simplifier, a: Expr, b: Expr) -> Expr:
    """`a >= b`, as `b < a + 1`"""
    return _less_than_zero(s, (s.sum_of(b) - s.sum_of(a)).shift(-1))


def equal(s: Simplifier, a: Expr, b: Expr) -> Expr:
    """`a == b`"""
    return _equal_zero(s, EQ, s.sum_of(a) - s.sum_of(b))


def not_equal(s: Simplifier, a: Expr, b: Expr) -> Expr:
    """`a != b`"""
    return _equal_zero(s, NE, s.sum_of(a) - s.sum_of(b))


def _less_than_zero(s: Simplifier, total: Sum) -> Expr:
    total = _divide_out(s, total)
    known = _is_negative(s, total)
    if known is not None:
        return s.boolean(known)
    left, right = _sides(total)
    return s.finish(LT(s.build(left), s.build(right)))


def _divide_out(s: Simplifier, total: Sum) -> Sum:
    """A smaller sum that is negative exactly where `total` is.

    `g * h + low < 0` with low in [0, g) is `h < 0`: io * 4 + ii < 16 becomes io < 4.
    """
    for factor in sorted({abs(count) for count in total.terms.values()} - {1}, reverse=True):
        split = division.split_by(s, total, factor)
        if split is not None:
            return _divide_out(s, split.high)
    common = total.gcd()
    if common > 1:
        terms = {term: count // common for term, count in total.terms.items()}
        return Sum(terms, total.constant // common)
    return total


def _equal_zero(s: Simplifier, kind: type, total: Sum) -> Expr:
    known = _is_zero(s, total)
    if known is not None:
        return s.boolean(known if kind is EQ else not known)
    common = total.gcd()
    if next(iter(total.terms.values())) < 0:
        common = -common
    terms = {term: count // common for term, count in total.terms.items()}
    left, right = _sides(Sum(terms, total.constant // common))
    if not left.terms:
        left, right = right, left
    return s.finish(kind(s.build(left), s.build(right)))


def _sides(total: Sum) -> tuple[Sum, Sum]:
    """`left - right == total`, with no negative coefficient on either side."""
    left = {term: count for term, count in total.terms.items() if count > 0}
    right = {term: -count for term, count in total.terms.items() if count < 0}
    constant = total.constant
    if not right:
        return Sum(left, 0), Sum(right, -constant)
    if not left:
        return Sum(left, constant), Sum(right, 0)
    return Sum(left, max(constant, 0)), Sum(right, max(-constant, 0))
