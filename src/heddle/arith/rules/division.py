# SPDX-License-Identifier: Apache-2.0
"""Nested divisions and remainders. Splitting sums over a divisor is in `heddle.arith.division`."""

from heddle.arith.pattern import RuleTable, constants, truncdiv, truncmod, variables

x, y, z = variables("x y z")
c1, c2, c3 = constants("c1 c2 c3")

RULES = RuleTable(
    # floor(floor(x / y) / z) is floor(x / (y z)) when z is positive
    ((x // c1) // c2 >> x // (c1 * c2), c2 > 0),
    ((x // c1 + c3) // c2 >> (x + c3 * c1) // (c1 * c2), (c1 > 0) & (c2 > 0)),
    ((x // y) // z >> x // (y * z), z > 0),
    # the digits of a number in mixed radix: divide first, then take the remainder
    ((x % c1) // c2 >> (x // c2) % (c1 // c2), (c1 > 0) & (c2 > 0) & (c1 % c2 == 0)),
    (x % y) % y >> x % y,
    # rounding does not matter where nothing is negative
    (truncdiv(x, y) >> x // y, (x >= 0) & (y > 0)),
    (truncmod(x, y) >> x % y, (x >= 0) & (y > 0)),
)
