# SPDX-License-Identifier: Apache-2.0
"""And, or, not."""

from heddle.arith.pattern import RuleTable, constants, integer, maximum, minimum, variables

x, y, z = variables("x y z")
c1, c2 = constants("c1 c2")

RULES = RuleTable(
    (x & x) >> x,
    (x & ~x) >> False,
    ((x & y) & x) >> (x & y),
    ((x & y) & ~x) >> False,
    ((x | y) & x) >> x,
    ((x | y) & ~x) >> (y & ~x),
    (((x < y) & (y < x + c1)) >> False, c1 <= 1),
    ((x < c1) & (x < c2)) >> (x < minimum(c1, c2)),
    ((c1 < x) & (c2 < x)) >> (maximum(c1, c2) < x),
    (((x < c1) & (c2 < x)) >> False, c2 + 1 >= c1),
    (((x < y) & (x < z)) >> (x < y), y <= z),
    (((x == c1) & (x == c2)) >> False, c1 != c2),
    (((x == c1) & (x < c2)) >> (x == c1), c1 < c2),
    (((x == c1) & (x < c2)) >> False, c1 >= c2),
    (((x == c1) & (c2 < x)) >> (x == c1), c2 < c1),
    (((x == c1) & (c2 < x)) >> False, c2 >= c1),
    (x | x) >> x,
    (x | ~x) >> True,
    ((x | y) | x) >> (x | y),
    ((x | y) | ~x) >> True,
    ((x & y) | x) >> x,
    ((x & y) | ~x) >> (y | ~x),
    (((x < y) | (y < x + c1)) >> True, c1 >= 1),
    ((x < c1) | (x < c2)) >> (x < maximum(c1, c2)),
    ((c1 < x) | (c2 < x)) >> (minimum(c1, c2) < x),
    (((x < c1) | (c2 < x)) >> True, c2 < c1),
    (((x < y) | (x < z)) >> (x < z), y <= z),
    # floats are left alone: a comparison with NaN and its opposite are both false
    (~(x < y) >> (y <= x), integer(x)),
    (~(x <= y) >> (y < x), integer(x)),
    (~(x > y) >> (x <= y), integer(x)),
    (~(x >= y) >> (x < y), integer(x)),
    ~(x == y) >> (x != y),
    ~(x != y) >> (x == y),
    ~(x & y) >> (~x | ~y),
    ~(x | y) >> (~x & ~y),
)
