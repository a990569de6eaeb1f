# SPDX-License-Identifier: Apache-2.0
"""`select` and the lazy `if_then_else`."""

from heddle.arith.pattern import RuleTable, select, variables

x, y, z, b = variables("x y z b")

RULES = RuleTable(
    select(~b, x, y) >> select(b, y, x),
    select(b, select(b, x, y), z) >> select(b, x, z),
    select(b, x, select(b, y, z)) >> select(b, x, z),
)
