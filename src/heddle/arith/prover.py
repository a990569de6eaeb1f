# SPDX-License-Identifier: Apache-2.0
"""Proofs that a sum is never negative, with symbolic ranges and assumed inequalities.

A variable with range [lowest, highest] in which the sum is linear is replaced by the end at which
the sum is smallest; what remains is looked at again. The last bound variable goes first, since its
range may depend on earlier ones. A quotient `x // d` that stands in the way is replaced by
`(x - x % d) / d`, all else being multiplied by d. That a variable has a value at all means that
its range is not empty, and this serves as an assumption.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heddle.arith.sums import Sum, accumulate
from heddle.ir.expr import Expr, FloorDiv, FloorMod, IntImm, Max, Min, Var

if TYPE_CHECKING:
    from heddle.arith.simplify import Simplifier

MAX_STEPS = 12
"""Replacements tried along one line of proof."""
MAX_WORK = 48
"""Sums looked at in one proof."""
MAX_DEPTH = 3
"""Proofs within proofs (a proof may simplify, and a simplification may ask for a proof)."""


class Prover:
    """Proves inequalities under the current facts of a simplifier."""

    def __init__(self, simplifier: Simplifier) -> None:
        self.simplifier = simplifier
        self.depth = 0
        self.work = 0
        self.memo: dict[tuple[int, frozenset[tuple[Expr, int]]], bool] = {}

    def nonnegative(self, total: Sum) -> bool:
        """Whether `total >= 0` is shown; False means "not shown"."""
        if self.simplifier.bounds.of_sum(total).lo >= 0:
            return True
        facts = self.simplifier.facts
        if not total.terms or self.depth >= MAX_DEPTH:
            return False
        if not (facts.symbolic or facts.nonnegative or _may_transform(total)):
            return False
        key = (total.constant, frozenset(total.terms.items()))
        found = self.memo.get(key)
        if found is None:
            self.depth += 1
            outer, self.work = self.work, MAX_WORK
            try:
                found = self._search(total, list(facts.nonnegative), MAX_STEPS)
            finally:
                self.depth -= 1
                self.work = outer
            if found or self.depth == 0:
                self.memo[key] = found
        return found

    def _search(self, total: Sum, known: list[Sum], steps: int) -> bool:
        if self.simplifier.bounds.of_sum(total).lo >= 0:
            return True
        self.work -= 1
        if steps <= 0 or self.work <= 0 or not total.terms:
            return False
        if self._follows(total, known):
            return True
        if self._by_min_max(total, known, steps):
            return True
        replaced = self._eliminate(total, known, steps)
        if replaced is not None:
            return self._search(replaced[0], replaced[1], steps - 1)
        scaled = self._clear_quotient(total)
        return scaled is not None and self._search(scaled, known, steps - 1)

    def _follows(self, total: Sum, known: list[Sum]) -> bool:
        """Whether `total` is a known non-negative sum times a factor plus something >= 0."""
        bounds = self.simplifier.bounds
        for depth, fact in enumerate(known):
            for factor in _ratios(total, fact):
                rest = total.plus(fact, -factor)
                if bounds.of_sum(rest).lo >= 0:
                    return True
                for other in known[depth + 1 :]:
                    for second in _ratios(rest, other):
                        if bounds.of_sum(rest.plus(other, -second)).lo >= 0:
                            return True
        return False

    def _by_min_max(self, total: Sum, known: list[Sum], steps: int) -> bool:
        """`-min(a, b)` is at least `-a` and `-b`; `min(a, b)` must hold for both."""
        s = self.simplifier
        for term, count in total.terms.items():
            if type(term) not in (Min, Max):
                continue
            rest = Sum({t: n for t, n in total.terms.items() if t is not term}, total.constant)
            sides = (rest.plus(s.sum_of(side), count) for side in (term.a, term.b))  # type: ignore[attr-defined]
            either = (type(term) is Min) == (count < 0)
            results = (self._search(side, known, steps - 5) for side in sides)
            return any(results) if either else all(results)
        return False

    def _eliminate(self, total: Sum, known: list[Sum], steps: int) -> tuple[Sum, list[Sum]] | None:
        """Replace one variable by the end of its range at which `total` is smallest."""
        s = self.simplifier
        facts = s.facts
        for var in reversed(facts.symbolic):
            parts = self._linear_in(total, var)
            if parts is None:
                continue
            slope, rest = parts
            lowest, highest = facts.symbolic[var]
            wider = [*known, highest - lowest]
            if self._search(slope, wider, min(3, steps - 1)):
                end = lowest
            elif self._search(slope.scale(-1), wider, min(3, steps - 1)):
                end = highest
            else:
                continue
            replaced = rest + s.multiply(slope, end)
            return s.sum_of(s.build(replaced)), wider
        return None

    def _linear_in(self, total: Sum, var: Var) -> tuple[Sum, Sum] | None:
        """`total` as `slope * var + rest`; None when it is not of that form, or var is absent."""
        s = self.simplifier
        slope: dict[Expr, int] = {}
        constant = 0
        rest: dict[Expr, int] = {}
        for term, count in total.terms.items():
            factors = s.factors.get(term, (term,))
            if var not in factors:
                if s.mentions(term, var):
                    return None
                rest[term] = count
                continue
            others = list(factors)
            others.remove(var)
            if var in others or any(s.mentions(other, var) for other in others):
                return None
            if not others:
                constant += count
                continue
            product = Sum({}, 1)
            for other in others:
                product = s.multiply(product, Sum({other: 1}, 0))
            accumulate(slope, product, count)
        if not slope and not constant:
            return None
        return Sum(slope, constant), Sum(rest, total.constant)

    def _clear_quotient(self, total: Sum) -> Sum | None:
        """`total` times d, with `d * (x // d)` written as `x - x % d`."""
        s = self.simplifier
        for term, count in total.terms.items():
            if type(term) is FloorDiv and type(term.b) is IntImm and term.b.value > 0:
                from_quotient = s.sum_of(term.a) - s.sum_of(s.make(FloorMod, term.a, term.b))
                rest = Sum({t: n for t, n in total.terms.items() if t is not term}, total.constant)
                return rest.scale(term.b.value).plus(from_quotient, count)
        return None


def _may_transform(total: Sum) -> bool:
    return any(type(term) in (FloorDiv, Min, Max) for term in total.terms)


def _ratios(total: Sum, fact: Sum) -> list[int]:
    """Positive factors that make a term of `fact` cancel one of `total`."""
    found = []
    for term, count in fact.terms.items():
        factor, rest = divmod(total.terms.get(term, 0), count)
        if factor > 0 and rest == 0 and factor not in found:
            found.append(factor)
    return found
