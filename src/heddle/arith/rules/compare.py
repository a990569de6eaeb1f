# SPDX-License-Identifier: Apache-2.0
"""Comparisons that bounds do not decide. `heddle.arith.compare` brings them to `<`, `==`, `!=`."""

from heddle.arith.pattern import RuleTable, constants, maximum, minimum, select, variables

x, y, z, b = variables("x y z b")
c1, c2, c3 = constants("c1 c2 c3")

RULES = RuleTable(
    # an integer quotient against an integer
    ((x // c1 < c2) >> (x < c1 * c2), c1 > 0),
    ((x // c1 < y) >> (x < y * c1), c1 > 0),
    ((x < y // c1) >> (x * c1 + (c1 - 1) < y), c1 > 0),
    ((x // c1 == c2) >> ((x < c2 * c1 + c1) & (c2 * c1 <= x)), c1 > 0),
    # a bound on a minimum is two bounds
    (minimum(x, y) < z) >> ((x < z) | (y < z)),
    (maximum(x, y) < z) >> ((x < z) & (y < z)),
    (z < minimum(x, y)) >> ((z < x) & (z < y)),
    (z < maximum(x, y)) >> ((z < x) | (z < y)),
    # a choice between constants
    ((select(b, c1, c2) == c3) >> b, (c1 == c3) & (c2 != c3)),
    ((select(b, c1, c2) == c3) >> ~b, (c1 != c3) & (c2 == c3)),
)
