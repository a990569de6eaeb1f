# SPDX-License-Identifier: Apache-2.0
"""The matrices of fast convolution: F(m, r) computes m outputs of a filter of r taps with
m + r - 1 products.

    y = A^T [(G g) * (B^T d)]

The method is Toom-Cook interpolation (Winograd, Arithmetic Complexity of Computations, 1980), as
Lavin and Gray use it (Fast Algorithms for Convolutional Neural Networks, 2015): the m + r - 1
products are values of a polynomial product at as many points, one of them infinity. Points of small
and balanced size round least (Barabasz et al., Error Analysis and Improving the Accuracy of
Winograd Convolution for Deep Neural Networks, 2018). Everything here is exact.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Final, TypeAlias

from heddle.support import UserError

Matrix: TypeAlias = tuple[tuple[Fraction, ...], ...]

_POINTS: Final = tuple(Fraction(p) for p in ("0", "1", "-1", "1/2", "-2", "-1/2", "2"))
"""Interpolation points in the order in which larger tiles take them. For F(4, 3), 1/2 and -2 give a
third of the error of the usual 2 and -2."""

ERRORS: Final[Mapping[int, float]] = MappingProxyType({2: 2e-6, 4: 1e-5, 6: 5e-5})
"""What convolutions F(m x m, 3 x 3) round at most in float32, by m: the largest error relative to
the largest output of a layer, for random values and up to 512 input channels. Measured, with a
margin of two (tests/op/test_toom_cook.py); direct convolutions are at 2e-7 to 5e-7."""


@dataclass(frozen=True, slots=True)
class ToomCook:
    """The matrices of F(m, r): `output` is A^T [m, a], `weight` G [a, r], `data` B^T [a, a], with
    a = m + r - 1."""

    output: Matrix
    weight: Matrix
    data: Matrix


@functools.cache
def toom_cook(outputs: int, taps: int) -> ToomCook:
    """The matrices of F(outputs, taps).

    Raises `UserError` when there are not enough interpolation points.

    >>> [int(value) for value in toom_cook(2, 3).data[1]]
    [0, 1, 1, 0]
    """
    count = outputs + taps - 1
    if outputs < 1 or taps < 1 or count - 1 > len(_POINTS):
        most = len(_POINTS) + 2 - taps
        raise UserError(f"F({outputs}, {taps}): the number of outputs must be from 1 to {most}")
    points = _POINTS[: count - 1]
    output = [[point**i for point in points] + [Fraction(i == outputs - 1)] for i in range(outputs)]
    data, weight = [], []
    for at, point in enumerate(points):
        others = points[:at] + points[at + 1 :]
        scale = Fraction(1)
        for other in others:
            scale *= point - other
        data.append([*_polynomial(others), Fraction(0)])
        weight.append([point**k / scale for k in range(taps)])
    data.append(_polynomial(points))
    weight.append([Fraction(k == taps - 1) for k in range(taps)])
    return ToomCook(_frozen(output), _frozen(weight), _frozen(data))


def _polynomial(roots: tuple[Fraction, ...]) -> list[Fraction]:
    """The coefficients of the product of (x - root), lowest power first."""
    found = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *found]
        found = [
            high - root * low for high, low in zip(shifted, [*found, Fraction(0)], strict=True)
        ]
    return found


def _frozen(rows: list[list[Fraction]]) -> Matrix:
    return tuple(tuple(row) for row in rows)
