# SPDX-License-Identifier: Apache-2.0
"""`Interval`: a closed range of integers whose ends may be infinite."""

from __future__ import annotations

import math
from typing import Final, NamedTuple, TypeAlias

Bound: TypeAlias = int | float
"""An integer, or `math.inf` or `-math.inf`."""

INFINITY: Final = math.inf


class Interval(NamedTuple):
    """The integers from `lo` to `hi`, both included. Empty when `lo > hi`.

    >>> Interval(0, 3) + Interval(10, INFINITY)
    Interval(lo=10, hi=inf)
    """

    lo: Bound
    hi: Bound

    @property
    def is_single(self) -> bool:
        """Whether exactly one integer lies in it."""
        return self.lo == self.hi

    @property
    def is_finite(self) -> bool:
        """Whether both ends are integers."""
        return self.lo != -INFINITY and self.hi != INFINITY

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and self.lo <= value <= self.hi

    def __add__(self, other: object) -> Interval:
        if not isinstance(other, Interval):
            return NotImplemented
        return Interval(self.lo + other.lo, self.hi + other.hi)

    def __neg__(self) -> Interval:
        return Interval(-self.hi, -self.lo)

    def __mul__(self, other: object) -> Interval:
        if not isinstance(other, Interval):
            return NotImplemented
        ends = [_times(a, b) for a in self for b in other]
        return Interval(min(ends), max(ends))

    def scale(self, factor: int) -> Interval:
        """Every value times `factor`."""
        a, b = _times(self.lo, factor), _times(self.hi, factor)
        return Interval(a, b) if factor >= 0 else Interval(b, a)

    def floordiv(self, other: Interval) -> Interval:
        """Every `a // b` with a in `self` and b in `other`, b not zero."""
        if other.lo <= 0 <= other.hi:
            largest = max(abs(self.lo), abs(self.hi))
            if self.lo >= 0 and other.lo >= 0:
                return Interval(0, self.hi)
            return Interval(-largest, largest)
        ends = [_quotient(a, b) for a in self for b in other]
        return Interval(min(ends), max(ends))

    def union(self, other: Interval) -> Interval:
        """The smallest interval that holds both."""
        return Interval(min(self.lo, other.lo), max(self.hi, other.hi))

    def intersect(self, other: Interval) -> Interval:
        """The values that lie in both."""
        return Interval(max(self.lo, other.lo), min(self.hi, other.hi))


EVERYTHING: Final = Interval(-INFINITY, INFINITY)
BOOLEAN: Final = Interval(0, 1)


def _times(a: Bound, b: Bound) -> Bound:
    return 0 if a == 0 or b == 0 else a * b


def _quotient(a: Bound, b: Bound) -> Bound:
    if isinstance(b, float):
        # Towards an infinite divisor the quotient is 0, or -1 when it comes from below.
        if isinstance(a, float):
            return a if (a > 0) == (b > 0) else -INFINITY
        return 0 if a == 0 or (a > 0) == (b > 0) else -1
    if isinstance(a, float):
        return a if b > 0 else -a
    return a // b
