# SPDX-License-Identifier: Apache-2.0
"""The tools of a schedule that need the whole compiler: values, times, assembly, the report.

`heddle.schedule.Schedule` finds them here under their names.
"""

from heddle.driver.workbench.assembly import Assembly, asm
from heddle.driver.workbench.bench import BenchResult, bench
from heddle.driver.workbench.report import report, report_page
from heddle.driver.workbench.values import CheckResult, check

__all__ = [
    "Assembly",
    "BenchResult",
    "CheckResult",
    "asm",
    "bench",
    "check",
    "report",
    "report_page",
]
