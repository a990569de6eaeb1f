# SPDX-License-Identifier: Apache-2.0
"""Default schedules: computed from the kernel and the target, with nothing tuned.

`default_schedule` inlines what is cheap, finds what each block does (`analysis`) and applies the
rule for it. The rules use the primitives that users have, so a schedule can be printed, changed
and kept.
"""

from heddle.schedule.rules.default import default_schedule
from heddle.schedule.rules.dot_product import dot_block, dot_panel, dot_row
from heddle.schedule.rules.machine import panel_width, split_depth
from heddle.schedule.rules.pixel_model import prefers_pixels
from heddle.schedule.rules.turned_operand import takes_across

__all__ = [
    "default_schedule",
    "dot_block",
    "dot_panel",
    "dot_row",
    "panel_width",
    "prefers_pixels",
    "split_depth",
    "takes_across",
]
