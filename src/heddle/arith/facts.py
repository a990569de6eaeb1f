# SPDX-License-Identifier: Apache-2.0
"""What is known while simplifying: ranges of variables and assumed conditions."""

from __future__ import annotations

from heddle.arith.interval import EVERYTHING, INFINITY, Interval
from heddle.arith.sums import Sum
from heddle.ir.expr import Expr, Var


class Facts:
    """The knowledge of one scope.

    intervals: constant ranges of variables. symbolic: inclusive symbolic ranges `(lowest,
    highest)` of variables whose range is not constant, in the order they were bound (so a
    later one may depend on an earlier one). values: definitions of variables. truths: boolean
    expressions and their assumed value. parts: the range of the variable part of a sum, by its
    normal form. nonnegative: sums known to be >= 0. divisible: a term is a
    multiple of the first number plus the second.
    """

    __slots__ = (
        "divisible",
        "intervals",
        "nonnegative",
        "parts",
        "symbolic",
        "truths",
        "values",
    )

    def __init__(self) -> None:
        self.intervals: dict[Var, Interval] = {}
        self.symbolic: dict[Var, tuple[Sum, Sum]] = {}
        self.values: dict[Var, Expr] = {}
        self.truths: dict[Expr, bool] = {}
        self.parts: dict[frozenset[tuple[Expr, int]], Interval] = {}
        self.nonnegative: list[Sum] = []
        self.divisible: dict[Expr, tuple[int, int]] = {}

    def copy(self) -> Facts:
        """An independent copy, to extend within a scope."""
        made = Facts()
        for name in self.__slots__:
            setattr(made, name, getattr(self, name).copy())
        return made

    def of_part(self, total: Sum) -> Interval:
        """The assumed range of a sum; everything when nothing is known about it."""
        if not self.parts or not total.terms:
            return EVERYTHING
        key, factor = total.normal_part()
        found = self.parts.get(key)
        return EVERYTHING if found is None else found.scale(factor) + total.constant_interval()

    def learn_part(self, total: Sum) -> None:
        """Remember that `total >= 0`."""
        self.nonnegative.append(total)
        key, factor = total.normal_part()
        # factor * part + constant >= 0 bounds the part on one side.
        if factor > 0:
            known = Interval(-(total.constant // factor), INFINITY)
        else:
            known = Interval(-INFINITY, total.constant // -factor)
        self.parts[key] = self.parts.get(key, EVERYTHING).intersect(known)
