# SPDX-License-Identifier: Apache-2.0
"""The workbench of a schedule: what changed, what it costs, and the tools that run it."""

from heddle.schedule.workbench.explain import BlockReport, Explanation, explain
from heddle.schedule.workbench.show import script_diff, show
from heddle.schedule.workbench.tools import asm, bench, check, find_tool, report, tool

__all__ = [
    "BlockReport",
    "Explanation",
    "asm",
    "bench",
    "check",
    "explain",
    "find_tool",
    "report",
    "script_diff",
    "show",
    "tool",
]
