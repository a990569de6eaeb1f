# SPDX-License-Identifier: Apache-2.0
"""Minimum and maximum."""

from heddle.arith.pattern import RuleTable, constants, maximum, minimum, variables

x, y, z = variables("x y z")
c1, c2 = constants("c1 c2")

RULES = RuleTable(
    minimum(x, x) >> x,
    (minimum(x, y) >> x, x <= y),
    minimum(minimum(x, c1), c2) >> minimum(x, minimum(c1, c2)),
    minimum(minimum(x, y), x) >> minimum(x, y),
    minimum(maximum(x, y), x) >> x,
    (minimum(minimum(x, y), z) >> minimum(x, z), z <= y),
    minimum(maximum(x, y), maximum(x, z)) >> maximum(x, minimum(y, z)),
    minimum(minimum(x, y), minimum(x, z)) >> minimum(minimum(x, y), z),
    (minimum(maximum(x, c1), c2) >> c2, c1 >= c2),
    (minimum(x // c1, y // c1) >> minimum(x, y) // c1, c1 > 0),
    (minimum(x // c1, c2) >> minimum(x, c2 * c1) // c1, c1 > 0),
    (minimum(x * c1, y * c1) >> minimum(x, y) * c1, c1 > 0),
    (minimum(x * c1, y * c1) >> maximum(x, y) * c1, c1 < 0),
    maximum(x, x) >> x,
    (maximum(x, y) >> x, y <= x),
    maximum(maximum(x, c1), c2) >> maximum(x, maximum(c1, c2)),
    maximum(maximum(x, y), x) >> maximum(x, y),
    maximum(minimum(x, y), x) >> x,
    (maximum(maximum(x, y), z) >> maximum(x, z), y <= z),
    maximum(minimum(x, y), minimum(x, z)) >> minimum(x, maximum(y, z)),
    maximum(maximum(x, y), maximum(x, z)) >> maximum(maximum(x, y), z),
    (maximum(minimum(x, c1), c2) >> c2, c1 <= c2),
    (maximum(x // c1, y // c1) >> maximum(x, y) // c1, c1 > 0),
    (maximum(x // c1, c2) >> maximum(x, c2 * c1) // c1, c1 > 0),
    (maximum(x * c1, y * c1) >> maximum(x, y) * c1, c1 > 0),
    (maximum(x * c1, y * c1) >> minimum(x, y) * c1, c1 < 0),
)
