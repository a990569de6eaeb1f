# SPDX-License-Identifier: Apache-2.0
"""The rules of the simplifier, one file per theme.

Sums are not rewritten by rules: `heddle.arith.sums` keeps them canonical. A rule must hold for
all integers that fulfil its condition, and must make the expression smaller, or strictly closer to
the canonical form: `x // c` before `%`, constants on the right, min and max outermost.
"""

from heddle.arith.rules import compare, division, logic, min_max, select

TABLES = (division.RULES, min_max.RULES, compare.RULES, logic.RULES, select.RULES)

__all__ = ["TABLES"]
