# SPDX-License-Identifier: Apache-2.0
"""Iterator maps: indices as digits of loop variables in mixed radix.

Splitting, fusing and reordering loops turn an index into a sum of digits `v // lower % extent *
scale` of the loop variables. When every index is such a number, with each digit of each variable
used exactly once, the map from loops to indices is a bijection, and it can be inverted.

A remainder predicate `fo * 4 + fi < 15` makes the number `fo * 4 + fi` a variable of its own with
extent 15, whose digits may be used in place of those of `fo` and `fi`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from heddle.arith.analyzer import Analyzer
from heddle.arith.int_set import Domain, as_range
from heddle.arith.sums import Sum
from heddle.ir import expr as ir
from heddle.ir.expr import Add, Expr, FloorDiv, FloorMod, IntImm, Mul, Var


@dataclass(frozen=True, slots=True)
class IterSplit:
    """`source // lower % extent * scale`; `source` is a variable or a fused number of several."""

    source: Expr
    lower: Expr
    extent: Expr
    scale: Expr


@dataclass(frozen=True, slots=True)
class IterSum:
    """The number whose digits are `splits` (largest scale first), plus `base`.

    It takes every value of [base, base + extent) once.
    """

    splits: tuple[IterSplit, ...]
    base: Expr
    extent: Expr


@dataclass(frozen=True, slots=True)
class IterMap:
    """What `detect_iter_map` found: one `IterSum` per index, or the reason why there is none.

    True in a condition when the indices are independent and each value is taken at most once;
    `is_bijective` says that no combination is left out either. `fused` tells what the fused
    sources consist of.
    """

    sums: tuple[IterSum, ...] = ()
    reason: str = ""
    is_bijective: bool = False
    fused: Mapping[Expr, IterSum] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return not self.reason


class _NotAMap(Exception):
    """Carries the reason why the indices are no iterator map."""


def detect_iter_map(
    indices: Sequence[Expr],
    domains: Domain,
    predicate: Expr | None = None,
    *,
    analyzer: Analyzer | None = None,
) -> IterMap:
    """Whether `indices` number the iterations of `domains` (where `predicate` holds) uniquely.

    `domains` gives the range of each loop variable; variables that are not in it are constants.

    >>> o, i = Var("o"), Var("i")
    >>> bool(detect_iter_map([o * 4 + i], {o: (0, 8), i: (0, 4)}))
    True
    >>> detect_iter_map([o * 2 + i], {o: (0, 8), i: (0, 4)}).reason
    '...'
    """
    analyzer = analyzer or Analyzer()
    with analyzer.scope():
        try:
            detector = _Detector(analyzer, domains)
            if predicate is not None:
                detector.read_predicate(analyzer.simplify(predicate))
            sums = tuple(detector.parse(analyzer.simplify(index)) for index in indices)
            exact = detector.check_coverage(sums)
        except _NotAMap as failure:
            return IterMap(reason=str(failure))
        return IterMap(sums, "", exact, detector.fused)


def invert_iter_map(found: IterMap, values: Sequence[Expr]) -> dict[Var, Expr]:
    """Each loop variable as an expression of the index values.

    >>> o, i, v = Var("o"), Var("i"), Var("v")
    >>> m = detect_iter_map([o * 4 + i], {o: (0, 8), i: (0, 4)})
    >>> invert_iter_map(m, [v])  # o: v // 4, i: v % 4
    """
    parts: dict[Expr, Expr] = {}
    for value, total in zip(values, found.sums, strict=True):
        _invert_sum(value, total, parts)
    for source in reversed(list(found.fused)):
        if source in parts:
            _invert_sum(parts.pop(source), found.fused[source], parts)
    return {var: value for var, value in parts.items() if isinstance(var, Var)}


def _invert_sum(value: Expr, total: IterSum, parts: dict[Expr, Expr]) -> None:
    for position, split in enumerate(total.splits):
        digit = (value - total.base) // split.scale
        if position:
            digit = digit % split.extent
        part = digit * split.lower
        parts[split.source] = parts[split.source] + part if split.source in parts else part


class _Detector:
    def __init__(self, analyzer: Analyzer, domains: Domain) -> None:
        self.analyzer = analyzer
        self.s = analyzer.simplifier
        self.extents: dict[Expr, Expr] = {}
        self.minima: dict[Expr, Expr] = {}
        self.fused: dict[Expr, IterSum] = {}
        self.inexact = False
        for var, given in domains.items():
            low, extent = as_range(given)
            analyzer.bind(var, low, extent)
            self.minima[var] = self.s.run(low)
            self.extents[var] = self.s.run(extent)

    # -- arithmetic on canonical expressions ---------------------------------------------------

    def multiply(self, a: Expr, b: Expr) -> Expr:
        return self.s.make(Mul, a, b)

    def divides(self, divisor: Expr, value: Expr) -> Expr | None:
        """The exact quotient, or None."""
        rest = self.s.make(FloorMod, value, divisor)
        if isinstance(rest, IntImm) and rest.value == 0:
            return self.s.make(FloorDiv, value, divisor)
        return None

    def same(self, a: Expr, b: Expr) -> bool:
        return a is b or self.analyzer.can_prove_equal(a, b)

    def at_least(self, a: Expr, b: Expr) -> bool:
        return self.s.proves(ir.GE, a, b)

    def is_iter(self, value: Expr) -> bool:
        return any(self.s.mentions(value, var) for var in self.minima if isinstance(var, Var))

    # -- the predicate -------------------------------------------------------------------------

    def read_predicate(self, condition: Expr) -> None:
        if isinstance(condition, ir.And):
            self.read_predicate(condition.a)
            self.read_predicate(condition.b)
        elif isinstance(condition, ir.LT):
            self.read_bound(self.s.sum_of(condition.b) - self.s.sum_of(condition.a))
        elif not (isinstance(condition, IntImm) and condition.value):
            raise _NotAMap(f"the predicate is not a conjunction of upper bounds: {condition!r}")

    def read_bound(self, difference: Sum) -> None:
        """`number < limit`, given as `limit - number`."""
        number: dict[Expr, int] = {}
        limit: dict[Expr, int] = {}
        for term, count in difference.terms.items():
            if self.is_iter(term):
                number[term] = -count
            else:
                limit[term] = count
        if not number:
            return
        total = self.number(Sum(number, 0))
        bound = self.s.build(Sum(limit, difference.constant) - self.s.sum_of(total.base))
        source = self.s.build(Sum(number, 0) - self.s.sum_of(total.base))
        if self.at_least(bound, total.extent):
            return  # always true
        self.fused[source] = total
        self.extents[source] = bound
        self.minima[source] = self.s.integer(0)

    # -- parsing -------------------------------------------------------------------------------

    def parse(self, index: Expr) -> IterSum:
        return self.number(self.s.sum_of(index))

    def number(self, total: Sum) -> IterSum:
        """A sum as a number in mixed radix."""
        splits: list[IterSplit] = []
        base = Sum({}, total.constant)
        for source in reversed(list(self.fused)):
            total, scale = self.take(total, self.s.sum_of(source))
            if scale:
                one = self.s.integer(1)
                splits.append(IterSplit(source, one, self.extents[source], self.s.integer(scale)))
        for term, count in total.terms.items():
            if not self.is_iter(term):
                base = base.plus(Sum({term: 1}, 0), count)
                continue
            split, offset = self.term(term, count)
            base = base + offset
            if not (isinstance(split.extent, IntImm) and split.extent.value == 1):
                splits.append(split)
        return self.arrange(splits, self.s.build(base))

    def take(self, total: Sum, source: Sum) -> tuple[Sum, int]:
        """Take a fused number out of a sum: what is left, and how often it was in."""
        if len(source.terms) == 0:
            return total, 0
        term, count = next(iter(source.terms.items()))
        factor, rest = divmod(total.terms.get(term, 0), count)
        if rest or factor <= 0:
            return total, 0
        if any(total.terms.get(t) != factor * n for t, n in source.terms.items()):
            return total, 0
        return total.plus(source, -factor), factor

    def term(self, term: Expr, count: int) -> tuple[IterSplit, Sum]:
        """One term as a digit times a scale, and the constant it starts at."""
        factors = list(self.s.factors.get(term, (term,)))
        moving = [factor for factor in factors if self.is_iter(factor)]
        if len(moving) != 1:
            raise _NotAMap(f"{term!r} is a product of loop variables")
        factors.remove(moving[0])
        scale = Sum({}, count)
        for factor in factors:
            scale = self.s.multiply(scale, Sum({factor: 1}, 0))
        digit = self.digit(moving[0])
        offset = Sum({}, 0)
        if digit.source is moving[0]:
            offset = self.s.multiply(self.s.sum_of(self.minima[digit.source]), scale)
        made = IterSplit(digit.source, digit.lower, digit.extent, self.s.build(scale))
        return made, offset

    def digit(self, value: Expr) -> IterSplit:
        """A variable, or a quotient or remainder of one, as a digit."""
        one = self.s.integer(1)
        if value in self.extents:
            return IterSplit(value, one, self.extents[value], one)
        if isinstance(value, FloorDiv) and not self.is_iter(value.b):
            inner = self.whole(value.a)
            lower = self.multiply(inner.lower, value.b)
            extent = self.divides(value.b, inner.extent)
            if extent is None:
                self.inexact = True
                up = self.s.make(Add, inner.extent, self.s.make(ir.Sub, value.b, one))
                extent = self.s.make(FloorDiv, up, value.b)
            return IterSplit(inner.source, lower, extent, one)
        if isinstance(value, FloorMod) and not self.is_iter(value.b):
            inner = self.whole(value.a)
            if self.divides(value.b, inner.extent) is None:
                self.inexact = True
            return IterSplit(inner.source, inner.lower, value.b, one)
        raise _NotAMap(f"{value!r} is no quotient or remainder of loop variables")

    def whole(self, value: Expr) -> IterSplit:
        """The dividend of a quotient: a digit itself, or a sum of digits as a new number."""
        if value in self.extents or isinstance(value, (FloorDiv, FloorMod)):
            if value in self.minima and self.s.sum_of(self.minima[value]).terms:
                raise _NotAMap(f"the range of {value!r} does not start at 0")
            if value in self.minima and self.s.sum_of(self.minima[value]).constant:
                raise _NotAMap(f"the range of {value!r} does not start at 0")
            return self.digit(value)
        total = self.parse(value)
        if not isinstance(total.base, IntImm) or total.base.value:
            raise _NotAMap(f"{value!r} does not start at 0")
        if not isinstance(total.splits[-1].scale, IntImm) or total.splits[-1].scale.value != 1:
            raise _NotAMap(f"{value!r} leaves gaps")
        self.fused[value] = total
        self.extents[value] = total.extent
        self.minima[value] = self.s.integer(0)
        return IterSplit(value, self.s.integer(1), total.extent, self.s.integer(1))

    def arrange(self, splits: list[IterSplit], base: Expr) -> IterSum:
        """Order digits by scale; each scale must be the product of what is below it."""
        one = self.s.integer(1)
        left = list(splits)
        ordered: list[IterSplit] = []
        expected = one
        while left:
            found = next((split for split in left if self.same(split.scale, expected)), None)
            if found is None:
                names = ", ".join(f"{split.scale!r}" for split in left)
                raise _NotAMap(f"expected a digit of scale {expected!r}, the scales are {names}")
            left.remove(found)
            ordered.append(found)
            expected = self.multiply(expected, found.extent)
        return IterSum(tuple(reversed(ordered)), base, expected)

    # -- coverage ------------------------------------------------------------------------------

    def check_coverage(self, sums: Sequence[IterSum]) -> bool:
        """Every digit of every variable is used exactly once; whether nothing is left out."""
        digits: dict[Expr, list[IterSplit]] = {}
        queue = list(sums)
        for total in queue:
            for split in total.splits:
                if split.source in self.fused and split.source not in digits:
                    queue.append(self.fused[split.source])
                digits.setdefault(split.source, []).append(split)
        for source, extent in self.extents.items():
            if source in self.fused and source not in digits:
                raise _NotAMap(f"the predicate bounds {source!r}, which no index is made of")
            if isinstance(extent, IntImm) and extent.value == 1:
                continue
            if source not in digits:
                raise _NotAMap(f"no index depends on {source!r}")
            self.check_source(source, extent, digits[source])
        return not self.inexact

    def check_source(self, source: Expr, extent: Expr, splits: list[IterSplit]) -> None:
        left = list(splits)
        expected: Expr = self.s.integer(1)
        while left:
            found = next((split for split in left if self.same(split.lower, expected)), None)
            if found is None:
                raise _NotAMap(f"the digits of {source!r} overlap or leave a gap")
            left.remove(found)
            expected = self.multiply(expected, found.extent)
        if not self.same(expected, extent) and not self.at_least(expected, extent):
            raise _NotAMap(f"the digits of {source!r} do not cover its range")
