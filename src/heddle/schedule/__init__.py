# SPDX-License-Identifier: Apache-2.0
"""Schedules: primitives that reshape the loops of a function, and the trace of what was done."""

from heddle.schedule.auto_tensorize import auto_tensorize
from heddle.schedule.compact import compact_buffers
from heddle.schedule.errors import ScheduleError
from heddle.schedule.refs import BlockRef, LoopRef
from heddle.schedule.schedule import Schedule, replay
from heddle.schedule.trace import Step, Trace

__all__ = [
    "BlockRef",
    "LoopRef",
    "Schedule",
    "ScheduleError",
    "Step",
    "Trace",
    "auto_tensorize",
    "compact_buffers",
    "replay",
]
