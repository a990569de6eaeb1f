# SPDX-License-Identifier: Apache-2.0
"""Constant bounds of canonical expressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from heddle.arith.interval import BOOLEAN, EVERYTHING, Interval
from heddle.arith.sums import Sum
from heddle.ir import expr as ir
from heddle.ir.dtype import INT64
from heddle.ir.expr import Call, Cast, Expr, IntImm, Mul, Select, Var

if TYPE_CHECKING:
    from heddle.arith.simplify import Simplifier


class BoundsEvaluator:
    """Computes and remembers the interval of each canonical expression under the current facts."""

    def __init__(self, simplifier: Simplifier) -> None:
        self.simplifier = simplifier
        self.memo: dict[Expr, Interval] = {}

    def of(self, root: Expr) -> Interval:
        """The interval of a canonical expression."""
        memo = self.memo
        found = memo.get(root)
        if found is not None:
            return found
        stack = [root]
        while stack:
            current = stack[-1]
            if current in memo:
                stack.pop()
                continue
            missing = [part for part in self._parts(current) if part not in memo]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            memo[current] = self._evaluate(current)
        return memo[root]

    def of_sum(self, total: Sum) -> Interval:
        """The interval of a sum of canonical terms."""
        result = total.constant_interval()
        for term, count in total.terms.items():
            result = result + self.of(term).scale(count)
        if self.simplifier.facts.parts:
            result = result.intersect(self.simplifier.facts.of_part(total))
        return result

    def _parts(self, value: Expr) -> Any:
        total = self.simplifier.sums.get(value)
        if total is not None:
            return total.terms
        if value.dtype.lanes != 1:
            return ()
        kind = type(value)
        if isinstance(value, Var):
            defined = self.simplifier.let_values.get(value)
            return () if defined is None else (defined,)
        if kind is Mul:
            return self.simplifier.factors.get(value, (value.a, value.b))  # type: ignore[attr-defined]
        if kind in _BINARY:
            return (value.a, value.b)  # type: ignore[attr-defined]
        if kind is Select or (kind is Call and value.name == "if_then_else"):  # type: ignore[attr-defined]
            return value.children()[1:]
        if kind is Cast and value.dtype.is_int and value.value.dtype.is_int:  # type: ignore[attr-defined]
            return (value.value,)  # type: ignore[attr-defined]
        return ()

    def _evaluate(self, value: Expr) -> Interval:
        total = self.simplifier.sums.get(value)
        if total is not None:
            return self.of_sum(total)
        if type(value) is IntImm:
            return Interval(value.value, value.value)
        dtype = value.dtype
        if dtype.lanes != 1 or not (dtype.is_int or dtype.is_bool):
            return EVERYTHING
        whole = BOOLEAN if dtype.is_bool else Interval(dtype.min_value, dtype.max_value)
        if dtype is INT64:
            whole = EVERYTHING
        parts = [self.memo[part] for part in self._parts(value)]
        found = self._combine(value, parts)
        if dtype is not INT64 and not (whole.lo <= found.lo and found.hi <= whole.hi):
            found = whole  # narrow arithmetic may have wrapped
        facts = self.simplifier.facts
        if facts.parts and dtype is INT64:
            found = found.intersect(facts.of_part(Sum({value: 1}, 0)))
        return found

    def _combine(self, value: Expr, parts: list[Interval]) -> Interval:
        kind = type(value)
        if isinstance(value, Var):
            known = self.simplifier.facts.intervals.get(value, EVERYTHING)
            return known.intersect(parts[0]) if parts else known
        if kind is Mul:
            return self._product(value, parts)
        handler = _BINARY.get(kind)
        if handler is not None:
            return handler(parts[0], parts[1])
        if kind is Cast and parts:
            return parts[0]
        if parts:
            return parts[0].union(parts[1])
        return EVERYTHING

    def _product(self, value: Expr, parts: list[Interval]) -> Interval:
        """Equal factors are multiplied first: a square is never negative."""
        factors = self.simplifier.factors.get(value)
        if factors is None:
            return parts[0] * parts[1]
        result = Interval(1, 1)
        by_factor = dict(zip(factors, parts, strict=True))
        for factor, interval in by_factor.items():
            power = interval
            for _ in range(factors.count(factor) - 1):
                power = power * interval
            if factors.count(factor) % 2 == 0:
                power = power.intersect(Interval(0, EVERYTHING.hi))
            result = result * power
        return result


def _floormod(a: Interval, b: Interval) -> Interval:
    if b.lo > 0:
        if a.lo >= 0 and a.hi < b.lo:
            return a
        return Interval(0, min(b.hi - 1, a.hi) if a.lo >= 0 else b.hi - 1)
    if b.hi < 0:
        return Interval(b.lo + 1, 0)
    return Interval(min(b.lo + 1, 0), max(b.hi - 1, 0))


def _truncdiv(a: Interval, b: Interval) -> Interval:
    if a.lo >= 0 and b.lo > 0:
        return a.floordiv(b)
    largest = max(abs(a.lo), abs(a.hi))
    return Interval(-largest, largest)


def _truncmod(a: Interval, b: Interval) -> Interval:
    largest = max(abs(b.lo), abs(b.hi)) - 1
    return Interval(0 if a.lo >= 0 else -largest, 0 if a.hi <= 0 else largest)


def _minimum(a: Interval, b: Interval) -> Interval:
    return Interval(min(a.lo, b.lo), min(a.hi, b.hi))


def _maximum(a: Interval, b: Interval) -> Interval:
    return Interval(max(a.lo, b.lo), max(a.hi, b.hi))


_BINARY: dict[type, Callable[[Interval, Interval], Interval]] = {
    ir.Add: Interval.__add__,
    ir.Sub: lambda a, b: a + -b,
    ir.FloorDiv: Interval.floordiv,
    ir.FloorMod: _floormod,
    ir.TruncDiv: _truncdiv,
    ir.TruncMod: _truncmod,
    ir.Min: _minimum,
    ir.Max: _maximum,
}
