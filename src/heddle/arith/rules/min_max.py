# SPDX-License-Identifier: Apache-2.0
"""Minimum and maximum.

The prover knows that `min(x, y)` is at most x and at most y, so the first rule of each half covers
`min(x, x)`, `min(max(x, y), x)` and their like.
"""

from heddle.arith.pattern import RuleTable, constants, maximum, minimum, variables

x, y, z = variables("x y z")
c1, c2 = constants("c1 c2")

RULES = RuleTable(
    (minimum(x, y) >> x, x <= y),
    (minimum(minimum(x, y), z) >> minimum(x, z), z <= y),
    minimum(maximum(x, y), maximum(x, z)) >> maximum(x, minimum(y, z)),
    (minimum(x // c1, y // c1) >> minimum(x, y) // c1, c1 > 0),
    (minimum(x // c1, c2) >> minimum(x, c2 * c1) // c1, c1 > 0),
    (minimum(x * c1, y * c1) >> minimum(x, y) * c1, c1 > 0),
    (minimum(x * c1, y * c1) >> maximum(x, y) * c1, c1 < 0),
    (maximum(x, y) >> x, y <= x),
    (maximum(maximum(x, y), z) >> maximum(x, z), y <= z),
    maximum(minimum(x, y), minimum(x, z)) >> minimum(x, maximum(y, z)),
    (maximum(x // c1, y // c1) >> maximum(x, y) // c1, c1 > 0),
    (maximum(x // c1, c2) >> maximum(x, c2 * c1) // c1, c1 > 0),
    (maximum(x * c1, y * c1) >> maximum(x, y) * c1, c1 > 0),
    (maximum(x * c1, y * c1) >> minimum(x, y) * c1, c1 < 0),
)
