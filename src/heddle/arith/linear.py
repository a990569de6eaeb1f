# SPDX-License-Identifier: Apache-2.0
"""Linear forms: an index as constant strides of some variables plus the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from heddle.arith.analyzer import Analyzer
from heddle.arith.sums import Sum
from heddle.ir.expr import Expr, Var, as_int


class LinearForm(NamedTuple):
    """`sum(coefficients[v] * v) + base`; `base` mentions none of the variables.

    Variables with coefficient 0 are in the dict too.
    """

    coefficients: dict[Var, int]
    base: Expr

    @property
    def constant(self) -> int | None:
        """The base as an integer; None when it is symbolic."""
        return as_int(self.base)


def linear_form(
    value: Expr, variables: Iterable[Var], *, analyzer: Analyzer | None = None
) -> LinearForm | None:
    """`value` as a linear function of `variables`; None when it is not one, or a stride varies.

    >>> i, j, n = Var("i"), Var("j"), Var("n")
    >>> linear_form((i + n) * 4 + j, [i, j]).coefficients
    {Var(i): 4, Var(j): 1}
    """
    analyzer = analyzer or Analyzer()
    s = analyzer.simplifier
    total = s.sum_of(analyzer.simplify(value))
    wanted = list(variables)
    coefficients = dict.fromkeys(wanted, 0)
    base: dict[Expr, int] = {}
    for term, count in total.terms.items():
        if isinstance(term, Var) and term in coefficients:
            coefficients[term] = count
        elif any(s.mentions(term, var) for var in wanted):
            return None
        else:
            base[term] = count
    return LinearForm(coefficients, s.build(Sum(base, total.constant)))
