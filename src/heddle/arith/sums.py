# SPDX-License-Identifier: Apache-2.0
"""Linear sums: the canonical form of int64 arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping

from heddle.arith.interval import Interval
from heddle.ir.dtype import INT64
from heddle.ir.expr import Add, Expr, IntImm, Mul, Sub
from heddle.support import InternalError


class Sum:
    """`sum(coefficient * term) + constant`; terms are canonical, none a constant or a sum.

    No coefficient is zero. Immutable by rule. Terms keep the order of first occurrence.
    """

    __slots__ = ("constant", "terms")

    def __init__(self, terms: Mapping[Expr, int], constant: int) -> None:
        self.terms = terms
        self.constant = constant

    def __repr__(self) -> str:
        return f"Sum({dict(self.terms)}, {self.constant})"

    def __add__(self, other: Sum) -> Sum:
        return self.plus(other, 1)

    def __sub__(self, other: Sum) -> Sum:
        return self.plus(other, -1)

    def plus(self, other: Sum, factor: int) -> Sum:
        """`self + factor * other`"""
        terms = dict(self.terms)
        accumulate(terms, other, factor)
        return Sum(terms, self.constant + factor * other.constant)

    def scale(self, factor: int) -> Sum:
        """`self * factor`"""
        if factor == 0:
            return Sum({}, 0)
        terms = {term: count * factor for term, count in self.terms.items()}
        return Sum(terms, self.constant * factor)

    def shift(self, offset: int) -> Sum:
        """`self + offset`"""
        return Sum(self.terms, self.constant + offset)

    def gcd(self) -> int:
        """The greatest common divisor of the coefficients; 0 without terms."""
        return math.gcd(*self.terms.values())

    def constant_interval(self) -> Interval:
        """The interval of the constant alone."""
        return Interval(self.constant, self.constant)

    def normal_part(self) -> tuple[frozenset[tuple[Expr, int]], int]:
        """The terms divided by a signed common factor, as a key, and that factor.

        Sums that differ by a constant and a factor have the same key; the sum is
        `factor * part + constant`.
        """
        factor = self.gcd()
        # The sign follows one term that does not depend on the order of the terms.
        lead = min(self.terms, key=id)
        if self.terms[lead] < 0:
            factor = -factor
        return frozenset((term, count // factor) for term, count in self.terms.items()), factor

    def render(self) -> Expr:
        """The sum as an expression: positive terms, then negative ones, then the constant."""
        positive = [(term, count) for term, count in self.terms.items() if count > 0]
        negative = [(term, -count) for term, count in self.terms.items() if count < 0]
        constant = self.constant
        result: Expr | None = None
        for term, count in positive:
            part = _scaled(term, count)
            result = part if result is None else Add(result, part)
        if result is None and (constant > 0 or not negative):
            result, constant = IntImm(constant, INT64), 0
        for term, count in negative:
            if result is None:
                result = Mul(term, IntImm(-count, INT64))
            else:
                result = Sub(result, _scaled(term, count))
        if result is None:
            raise InternalError("a sum without terms and constant has no last operand")
        if constant > 0:
            return Add(result, IntImm(constant, INT64))
        return Sub(result, IntImm(-constant, INT64)) if constant < 0 else result


def _scaled(term: Expr, count: int) -> Expr:
    return term if count == 1 else Mul(term, IntImm(count, INT64))


def accumulate(terms: dict[Expr, int], other: Sum, factor: int) -> None:
    """Add `factor` times the terms of `other` to `terms`, in place; zeros disappear."""
    for term, count in other.terms.items():
        total = terms.get(term, 0) + factor * count
        if total:
            terms[term] = total
        else:
            terms.pop(term, None)
