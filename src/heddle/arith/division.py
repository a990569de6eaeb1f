# SPDX-License-Identifier: Apache-2.0
"""Floor division and remainder of sums, and their recombination.

With `s = d * q + r` and `0 <= r < d`, `s // d` is `q` and `s % d` is `r`. The work is to find the
`q` that makes `r` small enough: terms that `d` divides go to `q`; the others stay, and their
bounds decide. `i * 4 + j` over 8 with j in [0, 4) is `i // 2`, remainder `i % 2 * 4 + j`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from heddle.arith.sums import Sum, accumulate
from heddle.ir.expr import Expr, FloorDiv, FloorMod, IntImm, as_int

if TYPE_CHECKING:
    from heddle.arith.simplify import Simplifier


class _Split(NamedTuple):
    """`factor * high + low`, with `0 <= low < factor`."""

    factor: int
    high: Sum
    low: Sum


def floordiv(s: Simplifier, a: Expr, b: Expr) -> Expr:
    """`a // b` of canonical int64 operands."""
    if type(b) is not IntImm:
        return _symbolic(s, a, b, remainder=False)
    total, divisor = s.sum_of(a), b.value
    if divisor < 0:
        total, divisor = total.scale(-1), -divisor
    if divisor == 0:
        return s.finish(FloorDiv(a, b))  # undefined: kept for whoever reports it
    quotient, rest = _divide(total, divisor)
    bucket = _bucket(s, rest, divisor)
    if bucket is not None:
        return s.build(quotient.shift(bucket))
    split = _find_split(s, rest, divisor)
    if split is not None:
        inner = floordiv(s, s.build(split.high), s.integer(divisor // split.factor))
        return s.build(quotient + s.sum_of(inner))
    last = s.finish(FloorDiv(s.build(rest), s.integer(divisor)))
    return s.build(quotient + s.sum_of(last)) if quotient.terms or quotient.constant else last


def floormod(s: Simplifier, a: Expr, b: Expr) -> Expr:
    """`a % b` of canonical int64 operands."""
    if type(b) is not IntImm:
        return _symbolic(s, a, b, remainder=True)
    total, divisor = s.sum_of(a), b.value
    if divisor == 0:
        return s.finish(FloorMod(a, b))
    if divisor < 0:  # a % -d is -(-a % d)
        inner = floormod(s, s.build(total.scale(-1)), s.integer(-divisor))
        return s.build(s.sum_of(inner).scale(-1))
    _, rest = _divide(total, divisor)
    rest = _divide(_drop_inner_remainders(s, rest, divisor), divisor)[1]
    bucket = _bucket(s, rest, divisor)
    if bucket is not None:
        return s.build(rest.shift(-bucket * divisor))
    known = s.modulus(rest, divisor) if s.facts.divisible else None
    if known is not None:
        return s.integer(known)
    split = _find_split(s, rest, divisor)
    if split is not None:
        inner = floormod(s, s.build(split.high), s.integer(divisor // split.factor))
        return s.build(s.sum_of(inner).scale(split.factor) + split.low)
    return s.finish(FloorMod(s.build(rest), s.integer(divisor)))


def _divide(total: Sum, divisor: int) -> tuple[Sum, Sum]:
    """`total` as `divisor * quotient + rest`; coefficients keep their sign."""
    quotient: dict[Expr, int] = {}
    rest: dict[Expr, int] = {}
    for term, count in total.terms.items():
        times = abs(count) // divisor * (1 if count > 0 else -1)
        if times:
            quotient[term] = times
        if count != times * divisor:
            rest[term] = count - times * divisor
    return (
        Sum(quotient, total.constant // divisor),
        Sum(rest, total.constant % divisor),
    )


def _bucket(s: Simplifier, total: Sum, divisor: int) -> int | None:
    """The one value that `total // divisor` takes, if there is only one."""
    if not total.terms:
        return total.constant // divisor
    interval = s.bounds.of_sum(total)
    if not interval.is_finite or interval.lo > interval.hi:
        return None
    low, high = int(interval.lo) // divisor, int(interval.hi) // divisor
    return low if low == high else None


def _find_split(s: Simplifier, rest: Sum, divisor: int) -> _Split | None:
    """Write `rest` with the largest factor of `divisor` that leaves less than itself over."""
    factors = {math.gcd(count, divisor) for count in rest.terms.values()}
    for factor in sorted(factors, reverse=True):
        found = split_by(s, rest, factor) if factor > 1 else None
        if found is not None:
            return found
    return None


def split_by(s: Simplifier, total: Sum, factor: int) -> _Split | None:
    """`total` as `factor * high + low` with `0 <= low < factor`, if bounds show that."""
    high: dict[Expr, int] = {}
    low: dict[Expr, int] = {}
    for term, count in total.terms.items():
        if count % factor:
            low[term] = count
        else:
            high[term] = count // factor
    rest = Sum(low, total.constant % factor)
    bucket = _bucket(s, rest, factor)
    if bucket is None:
        return None
    upper = Sum(high, total.constant // factor + bucket)
    return _Split(factor, upper, rest.shift(-bucket * factor))


def _drop_inner_remainders(s: Simplifier, rest: Sum, divisor: int) -> Sum:
    """Under `% divisor`, `x % c` may stand as `x` when `divisor` divides its multiples of c."""
    for term, count in rest.terms.items():
        if type(term) is FloorMod and type(term.b) is IntImm:
            if (count * term.b.value) % divisor == 0:
                terms = {other: n for other, n in rest.terms.items() if other is not term}
                inner = s.sum_of(term.a)
                accumulate(terms, inner, count)
                made = Sum(terms, rest.constant + count * inner.constant)
                return _drop_inner_remainders(s, made, divisor)
    return rest


def _symbolic(s: Simplifier, a: Expr, b: Expr, *, remainder: bool) -> Expr:
    """Division by a symbolic divisor, which is never zero where it is evaluated."""
    divisor = s.sum_of(b)
    quotient, rest = _divide_symbolic(s, s.sum_of(a), divisor)
    if not rest.terms and rest.constant == 0:
        return s.integer(0) if remainder else s.build(quotient)
    if s.prover.nonnegative(rest) and s.prover.nonnegative((divisor - rest).shift(-1)):
        return s.build(rest if remainder else quotient)
    if remainder:
        return s.finish(FloorMod(s.build(rest), b))
    last = s.finish(FloorDiv(s.build(rest), b))
    return s.build(quotient + s.sum_of(last))


def _divide_symbolic(s: Simplifier, total: Sum, divisor: Sum) -> tuple[Sum, Sum]:
    """Polynomial division by the leading term of the divisor (the one with most factors)."""
    leading = max(divisor.terms, key=lambda term: len(s.factors.get(term, (term,))))
    count = divisor.terms[leading]
    wanted = s.factors.get(leading, (leading,))
    quotient, rest = Sum({}, 0), total
    for term in total.terms:
        if term not in rest.terms or rest.terms[term] % count:
            continue
        left = _without(s.factors.get(term, (term,)), wanted)
        if left is None:
            continue
        step = Sum({}, rest.terms[term] // count)
        for factor in left:
            step = s.multiply(step, Sum({factor: 1}, 0))
        quotient = quotient + step
        rest = rest - s.multiply(step, divisor)
    return quotient, rest


def _without(factors: tuple[Expr, ...], wanted: tuple[Expr, ...]) -> list[Expr] | None:
    """`factors` with those of `wanted` taken out; None when one is missing."""
    left = list(factors)
    for factor in wanted:
        if factor not in left:
            return None
        left.remove(factor)
    return left


def recombine(s: Simplifier, total: Sum) -> Sum:
    """`x // d * d + x % d` is `x`, and `x - x // d * d` is `x % d`."""
    for term, count in total.terms.items():
        if type(term) is FloorMod:
            found = _join_remainder(s, total, term, count) or _join_congruent(s, total, term, count)
        elif type(term) is FloorDiv and type(term.b) is IntImm:
            found = _make_remainder(s, total, term, count)
        else:
            continue
        if found is not None:
            return recombine(s, found)
    return total


def _join_remainder(s: Simplifier, total: Sum, term: FloorMod, count: int) -> Sum | None:
    quotient = s.sum_of(s.make(FloorDiv, term.a, term.b))
    product = s.multiply(quotient, s.sum_of(term.b))
    if not product.terms:
        return None
    for part, times in product.terms.items():
        if total.terms.get(part) != count * times:
            return None
    terms = dict(total.terms)
    accumulate(terms, product, -count)
    accumulate(terms, Sum({term: 1}, 0), -count)
    whole = s.sum_of(term.a)
    accumulate(terms, whole, count)
    constant = total.constant + count * (whole.constant - product.constant)
    return Sum(terms, constant)


def _join_congruent(s: Simplifier, total: Sum, term: FloorMod, count: int) -> Sum | None:
    """`x // d * d + y % d` is `x` where `x` leaves the remainder that `y` does."""
    if type(term.b) is not IntImm:
        return None
    for part, times in total.terms.items():
        if type(part) is FloorDiv and times == count * term.b.value:
            if as_int(part.b) == term.b.value and s.make(FloorMod, part.a, term.b) is term:
                whole = s.sum_of(part.a)
                terms = dict(total.terms)
                accumulate(terms, Sum({part: 1}, 0), -times)
                accumulate(terms, Sum({term: 1}, 0), -count)
                accumulate(terms, whole, count)
                return Sum(terms, total.constant + count * whole.constant)
    return None


def _make_remainder(s: Simplifier, total: Sum, term: FloorDiv, count: int) -> Sum | None:
    """`k * x - k * d * (x // d)` is `k * (x % d)`."""
    divisor = term.b.value  # type: ignore[attr-defined]
    if count % divisor:
        return None
    times = -count // divisor
    whole = s.sum_of(term.a)
    if any(total.terms.get(part) != times * n for part, n in whole.terms.items()):
        # The dividend is not there; the quotient may still be exact: 4 * (n // 4) is n.
        remainder = s.modulus(whole, divisor)
        if remainder is None:
            return None
        terms = dict(total.terms)
        accumulate(terms, Sum({term: 1}, 0), -count)
        accumulate(terms, whole, -times)
        return Sum(terms, total.constant - times * (whole.constant - remainder))
    rest = s.make(FloorMod, term.a, term.b)
    terms = dict(total.terms)
    accumulate(terms, Sum({term: 1}, 0), -count)
    accumulate(terms, whole, -times)
    part = s.sum_of(rest)
    accumulate(terms, part, times)
    return Sum(terms, total.constant + times * (part.constant - whole.constant))
