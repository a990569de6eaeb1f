# SPDX-License-Identifier: Apache-2.0
"""Boxes of indices: the range an index takes while some loops run and others stand still.

Schedules ask this for every access of every block they move, nearly always of sums of loop
variables, so that case is answered here by one pass over the sum; `heddle.arith` is asked only
for proofs that need more than intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from heddle.arith import Analyzer
from heddle.ir.expr import (
    Add,
    Expr,
    FloorDiv,
    FloorMod,
    IntImm,
    Mul,
    Sub,
    Var,
    as_expr,
    as_int,
    const,
)
from heddle.ir.walk import free_vars, uses_var
from heddle.schedule.region import expr_key

Domain = Mapping[Var, tuple[Expr, Expr]]
"""Loop variables with their minimum and extent."""

_INFINITY: Final = float("inf")


class Affine:
    """`sum(coefficient * atom) + constant`; atoms are variables or expressions kept whole."""

    __slots__ = ("constant", "terms")

    def __init__(self, terms: dict[Any, tuple[Expr, int]], constant: int) -> None:
        self.terms = terms
        self.constant = constant

    def plus(self, other: Affine, factor: int = 1) -> Affine:
        """`self + factor * other`"""
        terms = dict(self.terms)
        for key, (atom, count) in other.terms.items():
            total = terms.get(key, (atom, 0))[1] + factor * count
            if total:
                terms[key] = (atom, total)
            else:
                terms.pop(key, None)
        return Affine(terms, self.constant + factor * other.constant)

    def divided(self, divisor: int) -> Affine | None:
        """The exact quotient of the terms, the constant rounded down; None when not exact."""
        if any(count % divisor for _, count in self.terms.values()):
            return None
        terms = {key: (atom, count // divisor) for key, (atom, count) in self.terms.items()}
        return Affine(terms, self.constant // divisor)

    def expr(self) -> Expr:
        """The sum as an expression."""
        result: Expr = const(0)
        for atom, count in self.terms.values():
            result = result + atom * count if count > 0 else result - atom * -count
        return result + self.constant if self.constant >= 0 else result - -self.constant


def affine(value: Expr) -> Affine:
    """`value` as a sum; what is not a sum becomes an atom."""
    kind = type(value)
    if kind is IntImm:
        return Affine({}, value.value)  # type: ignore[attr-defined]
    if kind is Var:
        return Affine({value: (value, 1)}, 0)
    if kind is Add or kind is Sub:
        sign = 1 if kind is Add else -1
        return affine(value.a).plus(affine(value.b), sign)  # type: ignore[attr-defined]
    if kind is Mul:
        for side, other in ((value.a, value.b), (value.b, value.a)):  # type: ignore[attr-defined]
            factor = as_int(other)
            if factor is not None:
                return Affine({}, 0).plus(affine(side), factor)
    return Affine({expr_key(value): (value, 1)}, 0)


class Box1:
    """The interval [low, low + extent) of one index; `exact` when every value in it is taken."""

    __slots__ = ("exact", "extent", "low")

    def __init__(self, low: Affine, extent: Expr, exact: bool = True) -> None:
        self.low = low
        self.extent = extent
        self.exact = exact


def estimate(value: Expr, inner: Domain) -> Box1 | None:
    """The values of `value` while the variables of `inner` run; None when not known.

    Exact for sums of loops that tile an interval; division and remainder by a constant are
    covered, rounded up where they have to be.
    """
    total = affine(value)
    low = Affine({}, total.constant)
    extent: Expr = const(1)
    parts: list[tuple[int, Box1]] = []
    for key, (atom, count) in total.terms.items():
        if type(atom) is Var and atom in inner:
            found = _running(*inner[atom], inner)
            if found is None:
                return None
            part = found
        elif not uses_var(atom, set(inner)):
            low = low.plus(Affine({key: (atom, 1)}, 0), count)
            continue
        else:
            found = _divided(atom, inner)
            if found is None:
                return None
            part = found
        parts.append((abs(count), part))
        low = low.plus(part.low, count)
        if count < 0:
            low = low.plus(affine(part.extent - 1), count)
        extent = extent + (part.extent - 1) * abs(count)
    return Box1(low, affine(extent).expr(), _is_contiguous(parts))


def _running(start: Expr, size: Expr, inner: Domain) -> Box1 | None:
    """The values of a loop variable; where its bounds depend on other loops (a triangle), the
    smallest interval around all of them."""
    if not (uses_var(start, set(inner)) or uses_var(size, set(inner))):
        return Box1(affine(start), size)
    first, end = estimate(start, inner), estimate(start + size, inner)
    if first is None or end is None:
        return None
    length = end.low.plus(affine(end.extent)).plus(first.low, -1).expr() - 1
    return Box1(first.low, affine(length).expr(), False)


def _is_contiguous(parts: list[tuple[int, Box1]]) -> bool:
    """Whether steps of these sizes and counts reach every number up to their sum."""
    reach: int | None = 1
    for step, part in sorted(parts, key=lambda item: item[0]):
        size = as_int(part.extent)
        if size == 1:
            continue
        if not part.exact or reach is None or step > reach:
            return False
        reach = None if size is None else reach + step * (size - 1)
    return True


def _divided(atom: Expr, inner: Domain) -> Box1 | None:
    """The range of `x // c` or `x % c` with a positive constant c."""
    kind = type(atom)
    divisor = as_int(atom.b) if kind in (FloorDiv, FloorMod) else None  # type: ignore[attr-defined]
    if divisor is None or divisor <= 0:
        return None
    inside = estimate(atom.a, inner)  # type: ignore[attr-defined]
    if inside is None:
        return None
    size = as_int(inside.extent)
    quotient = inside.low.divided(divisor)
    offset = inside.low.constant % divisor
    if kind is FloorDiv:
        if size == 1 or quotient is None:
            low = affine(inside.low.expr() // divisor)
            # Wherever it starts, `size` numbers touch at most so many multiples.
            return Box1(low, (inside.extent + (2 * divisor - 2)) // divisor, size == 1)
        extent = (inside.extent + (offset + divisor - 1)) // divisor
        return Box1(quotient, extent, inside.exact)
    if size == 1:
        return Box1(affine(inside.low.expr() % divisor), const(1))
    if quotient is not None and size is not None and offset + size <= divisor:
        return Box1(Affine({}, offset), const(size), inside.exact)
    whole = size is not None and size >= divisor and inside.exact
    return Box1(Affine({}, 0), const(divisor), whole)


def union(a: Box1, b: Box1) -> Box1 | None:
    """The smallest interval around both; None when their distance is not a constant."""
    distance = b.low.plus(a.low, -1)
    if distance.terms:
        return None
    first, second = (a, b) if distance.constant >= 0 else (b, a)
    step = abs(distance.constant)
    exact = a.exact and b.exact
    size_a, size_b = as_int(first.extent), as_int(second.extent)
    if size_a is not None and size_b is not None:
        return Box1(first.low, const(max(size_a, size_b + step)), exact and step <= size_a)
    if step == 0 and expr_key(first.extent) == expr_key(second.extent):
        return Box1(first.low, first.extent, exact)
    return None


def is_product(indices: Sequence[Expr], box: Sequence[Box1 | None], inner: Domain) -> bool:
    """Whether the points `indices` that `inner` runs through are all the points of `box`."""
    used: dict[Var, int] = {}
    for index in indices:
        for found in set(free_vars(index)):
            if found in inner:
                used[found] = used.get(found, 0) + 1
    if any(part is None or not part.exact for part in box):
        return False
    if all(count == 1 for count in used.values()):
        return True
    points, places = 1, 1
    for var in used:
        size = as_int(inner[var][1])
        if size is None:
            return False
        points *= size
    for part in box:
        size = None if part is None else as_int(part.extent)
        if size is None:
            return False
        places *= size
    return points >= places


def is_injective(indices: Sequence[Expr], inner: Domain) -> bool:
    """Whether different iterations of `inner` surely give different `indices`: each loop occurs
    once, with a step no smaller than what the steps below it reach. False means "not seen"."""
    missing = {var for var, (_, size) in inner.items() if as_int(size) != 1}
    for index in indices:
        steps: list[tuple[int, int | None]] = []
        for atom, count in affine(index).terms.values():
            if type(atom) is not Var:
                if uses_var(atom, set(inner)):
                    return False
            elif atom in inner and as_int(inner[atom][1]) != 1:  # of one iteration: a constant
                if atom not in missing:
                    return False
                missing.discard(atom)
                steps.append((abs(count), as_int(inner[atom][1])))
        reach: int | None = 1
        for step, size in sorted(steps, key=lambda item: item[0]):
            if reach is None or step < reach:
                return False
            reach = None if size is None else reach + step * (size - 1)
    return not missing


def constant_bounds(value: Affine, ranges: Mapping[Var, tuple[int, int]]) -> tuple[float, float]:
    """The least and greatest value, given inclusive ranges of variables."""
    low: float = value.constant
    high: float = value.constant
    for atom, count in value.terms.values():
        part_low, part_high = _atom_bounds(atom, ranges)
        if count < 0:
            part_low, part_high = part_high, part_low
        low += count * part_low
        high += count * part_high
    return low, high


def _atom_bounds(atom: Expr, ranges: Mapping[Var, tuple[int, int]]) -> tuple[float, float]:
    kind = type(atom)
    if kind is Var:
        return ranges.get(atom, (-_INFINITY, _INFINITY))  # type: ignore[call-overload,no-any-return]
    divisor = as_int(atom.b) if kind in (FloorDiv, FloorMod) else None  # type: ignore[attr-defined]
    if divisor is None or divisor <= 0:
        return -_INFINITY, _INFINITY
    low, high = constant_bounds(affine(atom.a), ranges)  # type: ignore[attr-defined]
    if kind is FloorMod:
        return (low, high) if 0 <= low and high < divisor else (0, divisor - 1)
    return _floor(low, divisor), _floor(high, divisor)


def _floor(value: float, divisor: int) -> float:
    return value if abs(value) == _INFINITY else int(value) // divisor


class Around:
    """What is known about the loops around a place; proves that indices stay in bounds."""

    __slots__ = ("_analyzer", "domain", "ranges", "symbols")

    def __init__(self, domain: Domain, symbols: Iterable[Var] = ()) -> None:
        self.domain = domain
        self.symbols = tuple(symbols)
        """Symbolic dimensions: never negative."""
        self.ranges: dict[Var, tuple[int, int]] = {}
        for var, (start, size) in domain.items():
            low, extent = constant_bounds(affine(start), self.ranges), as_int(size)
            if extent is not None and abs(low[0]) != _INFINITY and abs(low[1]) != _INFINITY:
                self.ranges[var] = (int(low[0]), int(low[1]) + extent - 1)
        self._analyzer: Analyzer | None = None

    def nonnegative(self, value: Expr | Affine) -> bool:
        """Whether `value >= 0` is certain."""
        total = affine(value) if isinstance(value, Expr) else value
        if constant_bounds(total, self.ranges)[0] >= 0:
            return True
        if not total.terms or all(
            type(a) is Var and a in self.ranges for a, _ in total.terms.values()
        ):
            return False  # the interval of such a sum is exact
        return self.analyzer.can_prove(total.expr() >= 0)

    @property
    def analyzer(self) -> Analyzer:
        """An analyzer that knows the loops (made when first needed)."""
        if self._analyzer is None:
            self._analyzer = Analyzer()
            for symbol in self.symbols:
                self._analyzer.bind(symbol, 0)
            for var, (start, size) in self.domain.items():
                self._analyzer.bind(var, start, size)
        return self._analyzer

    def inside(self, low: Affine, extent: Expr, size: Expr) -> tuple[bool, bool]:
        """Whether [low, low + extent) starts at 0 or later, and ends at `size` or earlier."""
        end = affine(as_expr(size)).plus(low, -1).plus(affine(extent), -1)
        return self.nonnegative(low), self.nonnegative(end)
