# SPDX-License-Identifier: Apache-2.0
"""Divisibility: what is known about an expression modulo some number.

`(coefficient, base)` says that the value is a multiple of `coefficient`, plus `base`, with
0 <= base < coefficient; coefficient 0 means the constant `base`, coefficient 1 nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from heddle.arith.sums import Sum
from heddle.ir.expr import Expr, FloorMod, IntImm, Max, Min, Select

if TYPE_CHECKING:
    from heddle.arith.simplify import Simplifier

_UNKNOWN = (1, 0)
_MAX_DEPTH = 16


def modular_of(s: Simplifier, value: Expr, depth: int = 0) -> tuple[int, int]:
    """The divisibility of a canonical expression."""
    if type(value) is IntImm:
        return 0, value.value
    total = s.sums.get(value)
    if total is not None:
        return modular_of_sum(s, total, depth)
    known = s.facts.divisible.get(value)
    if known is not None or depth >= _MAX_DEPTH:
        return known or _UNKNOWN
    factors = s.factors.get(value)
    if factors is not None:
        result = (0, 1)
        for factor in factors:
            result = _times(result, modular_of(s, factor, depth + 1))
        return result
    if type(value) in (Min, Max, Select):
        a, b = value.children()[-2:]
        return _join(modular_of(s, a, depth + 1), modular_of(s, b, depth + 1))  # type: ignore[arg-type]
    if type(value) is FloorMod and type(value.b) is IntImm:
        coefficient, base = modular_of(s, value.a, depth + 1)
        coefficient = math.gcd(coefficient, value.b.value)
        return coefficient, base % coefficient
    return _UNKNOWN


def modular_of_sum(s: Simplifier, total: Sum, depth: int = 0) -> tuple[int, int]:
    """The divisibility of a sum of canonical terms."""
    coefficient, base = 0, total.constant
    for term, count in total.terms.items():
        c, b = modular_of(s, term, depth + 1)
        coefficient = math.gcd(coefficient, c * count)
        base += b * count
    return coefficient, base % coefficient if coefficient else base


def _times(left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
    (c, b), (d, e) = left, right
    coefficient = math.gcd(c * d, c * e, b * d)
    return coefficient, b * e % coefficient if coefficient else b * e


def _join(left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
    coefficient = math.gcd(left[0], right[0], left[1] - right[1])
    return coefficient, left[1] % coefficient if coefficient else left[1]
