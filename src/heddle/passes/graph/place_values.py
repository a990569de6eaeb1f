# SPDX-License-Identifier: Apache-2.0
"""Offsets for values in the arena, and for constants among the constants."""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from heddle.ir.expr import Expr, IntImm, as_int, maximum
from heddle.ir.structural import structural_equal
from heddle.passes.graph.anf import nominal_value
from heddle.passes.graph.host_plan import ALIGNMENT, MemoryReport, PlanConstant, Storage

_SAMPLE: Final = 64


@dataclass(slots=True, eq=False)
class ArenaValue:
    """One piece of memory in the arena, alive during the steps [start, end]."""

    size: Expr
    start: int
    end: int
    offset: Expr | None = None


# -- the constants --------------------------------------------------------------------------------


class Constants:
    """The constants, equal ones once."""

    def __init__(self) -> None:
        self.items: list[PlanConstant] = []
        self.size = 0
        self._by_identity: dict[int, Storage] = {}
        self._by_sample: dict[object, list[tuple[np.ndarray, Storage]]] = {}
        self._keep_alive: list[np.ndarray] = []

    def place(self, data: np.ndarray) -> Storage:
        """Where `data` is among the constants."""
        found = self._by_identity.get(id(data))
        if found is None:
            found = self._by_identity[id(data)] = self._add(data)
            self._keep_alive.append(data)
        return found

    def _add(self, data: np.ndarray) -> Storage:
        dense = np.ascontiguousarray(data)
        raw = dense.reshape(-1).view(np.uint8)
        # A sample tells most constants apart, so that only likely twins are compared in full.
        step = max(1, raw.size // _SAMPLE)
        twins = self._by_sample.setdefault((raw.size, raw[::step].tobytes()), [])
        for other, storage in twins:
            if np.array_equal(other, raw):
                return storage
        storage = Storage("constant", 0, IntImm(self.size))
        twins.append((raw, storage))
        self.items.append(PlanConstant(self.size, dense))
        self.size += -(-raw.size // ALIGNMENT) * ALIGNMENT
        return storage


# -- placement ------------------------------------------------------------------------------------


def place_values(values: Sequence[ArenaValue]) -> tuple[MemoryReport, Expr]:
    """Give every value an offset; returns the report and the size of the arena."""
    fixed = [value for value in values if as_int(value.size) is not None]
    symbolic = [value for value in values if as_int(value.size) is None]
    end = _place_fixed(fixed)
    arena = _place_symbolic(symbolic, IntImm(end))
    nominal = {id(value): nominal_value(value.size) for value in values}
    report = MemoryReport(
        arena=nominal_value(arena) if symbolic else end,
        live_peak=_live_peak(values, nominal),
        unshared=sum(nominal.values()),
    )
    return report, arena


def _place_fixed(values: Sequence[ArenaValue]) -> int:
    """Largest first, each at the lowest free offset; returns the end of all."""
    placed: list[tuple[int, int, ArenaValue]] = []  # offset, end, value; sorted by offset
    for value in sorted(values, key=lambda v: (-_known(v.size), v.start)):
        size, offset = _known(value.size), 0
        for low, high, other in placed:
            if other.start > value.end or value.start > other.end:
                continue
            if low - offset >= size:
                break
            offset = max(offset, high)
        value.offset = IntImm(offset)
        insort(placed, (offset, offset + size, value), key=lambda item: item[0])
    return max((high for _, high, _ in placed), default=0)


def _known(size: Expr) -> int:
    number = as_int(size)
    assert number is not None
    return number


@dataclass(slots=True, eq=False)
class _Slot:
    size: Expr
    nominal: int
    end: int
    values: list[ArenaValue]


def _place_symbolic(values: Sequence[ArenaValue], start: Expr) -> Expr:
    """Values share slots; a dead slot of the nearest nominal size is taken. Returns the end."""
    slots: list[_Slot] = []
    for value in sorted(values, key=lambda v: v.start):
        size = nominal_value(value.size)
        free = [slot for slot in slots if slot.end < value.start]
        best = min(free, key=lambda slot: abs(slot.nominal - size), default=None)
        if best is None:
            best = _Slot(value.size, size, value.end, [])
            slots.append(best)
        elif not structural_equal(best.size, value.size):
            best.size = maximum(best.size, value.size)
            best.nominal = max(best.nominal, size)
        best.end = value.end
        best.values.append(value)
    offset = start
    for slot in slots:
        for value in slot.values:
            value.offset = offset
        offset = offset + slot.size
    return offset


def _live_peak(values: Sequence[ArenaValue], nominal: Mapping[int, int]) -> int:
    changes: dict[int, int] = {}
    for value in values:
        size = nominal[id(value)]
        changes[value.start] = changes.get(value.start, 0) + size
        changes[value.end + 1] = changes.get(value.end + 1, 0) - size
    peak = live = 0
    for when in sorted(changes):
        live += changes[when]
        peak = max(peak, live)
    return peak
