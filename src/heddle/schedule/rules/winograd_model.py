# SPDX-License-Identifier: Apache-2.0
"""A model of the time that a convolution takes, direct and by Winograd tiles.

Work and traffic are counted in cycles of one core, from the target's description: multiply-adds of
the products in register tiles (`machine`), additions of the transforms, and bytes from the level of
memory where they lie. What streams while the products run costs nothing until it is the slower.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from heddle.op.toom_cook import Matrix, toom_cook
from heddle.schedule.rules.machine import (
    MEMORY_BYTES,
    RegisterTile,
    bytes_per_cycle,
    choose_tile,
    tile_cycles,
)
from heddle.target import Target

_TRANSFORM_OVERHEAD: Final = 1.5
"""Instructions of a transform by its additions: its values do not all fit in the registers."""

DIRECT_SHARE: Final = 0.88
"""What a direct convolution reaches of the cycles that its register tile needs."""

_WORTH: Final = 0.9
"""Predicted share of the time of a direct convolution below which tiles are worth their error."""

_MOST_BLOCK: Final = 128
"""Most tiles in a block: more reuse weights no better."""

_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class ConvShape:
    """A convolution of stride one on blocked layouts: `batch` images (None: unknown) of `in_blocks`
    blocks of `in_lanes` channels, to `rows` x `columns` pixels of `out_blocks` blocks of
    `out_lanes`, with square filters of `taps` x `taps`."""

    taps: int
    in_blocks: int
    in_lanes: int
    out_blocks: int
    out_lanes: int
    rows: int
    columns: int
    batch: int | None = 1

    @property
    def images(self) -> int:
        return self.batch or 1

    @property
    def depth(self) -> int:
        return self.in_blocks * self.in_lanes


@dataclass(frozen=True, slots=True)
class WinogradShape:
    """The same by tiles of `tile` x `tile` pixels, of which an image has `rows` x `columns`."""

    tile: int
    points: int
    in_blocks: int
    in_lanes: int
    out_blocks: int
    out_lanes: int
    rows: int
    columns: int
    batch: int | None = 1

    @staticmethod
    def of(conv: ConvShape, tile: int) -> WinogradShape:
        """The tiles of a convolution."""
        return WinogradShape(
            tile,
            tile + conv.taps - 1,
            conv.in_blocks,
            conv.in_lanes,
            conv.out_blocks,
            conv.out_lanes,
            -(-conv.rows // tile),
            -(-conv.columns // tile),
            conv.batch,
        )

    @property
    def tiles(self) -> int:
        return (self.batch or 1) * self.rows * self.columns

    @property
    def depth(self) -> int:
        return self.in_blocks * self.in_lanes

    @property
    def weight_bytes(self) -> int:
        return self.points**2 * self.depth * self.out_blocks * self.out_lanes * _BYTES

    def data_bytes(self, tiles: int) -> int:
        """Bytes of the transformed input of some tiles."""
        return self.points**2 * tiles * self.depth * _BYTES

    def product_bytes(self, tiles: int, blocks: int) -> int:
        """Bytes of the products of some tiles and blocks of output channels."""
        return self.points**2 * tiles * blocks * self.out_lanes * _BYTES


@dataclass(frozen=True, slots=True)
class WinogradPlan:
    """How to run it: stage after stage over the `whole` image, or all stages for blocks of
    `block_rows` x `block_columns` tiles. The products are computed by `register` tiles: one step of
    all sums of a block, or of an image, takes `step_cycles`."""

    whole: bool
    block_rows: int
    block_columns: int
    register: RegisterTile
    step_cycles: float


# -- the choice -----------------------------------------------------------------------------------


def best_plan(shape: WinogradShape, target: Target) -> WinogradPlan:
    """The plan that is predicted to take the fewest cycles."""
    return min(plans(shape, target), key=lambda plan: plan_cycles(shape, plan, target))


def winograd_cycles(shape: WinogradShape, target: Target) -> float:
    """Cycles of the best plan."""
    return plan_cycles(shape, best_plan(shape, target), target)


def winograd_tile(conv: ConvShape, target: Target, *, tiles: Iterable[int]) -> int:
    """The size of the output tiles, out of `tiles`, with which a convolution is fastest; 0 for a
    direct convolution.

    `tiles` are those that are exact enough for 3 x 3 windows. What a tile rounds grows with its
    interpolation points, of which larger windows need more: then only smaller ones will do.

    >>> from heddle.target import parse
    >>> layer = ConvShape(3, 16, 16, 16, 16, rows=56, columns=56)
    >>> winograd_tile(layer, parse("llvm -mcpu=skylake-avx512 -cores=2"), tiles=(2, 4))
    4
    """
    if conv.batch is None or conv.in_lanes < target.vector_lanes(32) or conv.taps < 2:
        return 0
    best, limit = 0, _WORTH * direct_cycles(conv, target)
    allowed = sorted(tiles)
    for tile in allowed:
        if tile + conv.taps - 3 > allowed[-1]:
            break
        cycles = winograd_cycles(WinogradShape.of(conv, tile), target)
        if cycles < limit:
            best, limit = tile, cycles
    return best


def plans(shape: WinogradShape, target: Target) -> Iterator[WinogradPlan]:
    for rows in _divisors(shape.rows):
        for columns in _divisors(shape.columns):
            tiles = rows * columns
            if tiles <= _MOST_BLOCK and (rows == 1 or columns == shape.columns):
                yield WinogradPlan(False, rows, columns, *_register(shape, rows, columns, target))
    if shape.batch is not None:
        register = _register(shape, shape.rows, shape.columns, target)
        yield WinogradPlan(True, shape.rows, shape.columns, *register)


def _register(
    shape: WinogradShape, lines: int, columns: int, target: Target
) -> tuple[RegisterTile, float]:
    """The register tile for the products of `lines` x `columns` tiles, and the cycles of a step of
    their sums: its rows are a part of a line, or whole lines."""
    widths = [n for n in range(1, 9) if shape.out_blocks % n == 0]
    vectors = shape.out_blocks
    best = choose_tile(columns, vectors, target, depth=shape.depth, widths=widths)
    cycles = lines * tile_cycles(columns, vectors, best, target)
    if lines > 1:
        rows = lines * columns
        several = choose_tile(
            rows, vectors, target, depth=shape.depth, widths=widths, row_step=columns
        )
        together = tile_cycles(rows, vectors, several, target)
        if together < cycles and several.rows % columns == 0:
            return several, together
    return best, cycles


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


# -- cycles ---------------------------------------------------------------------------------------


def blocked_step(lines: int, columns: int, blocks: int, depth: int, target: Target) -> float:
    """Cycles of one of the `depth` steps of the sums of a direct convolution to `blocks` blocks of
    channels, for an image of `lines` lines."""
    widths = [n for n in range(1, 9) if blocks % n == 0]
    tile = choose_tile(columns, blocks, target, depth=depth, widths=widths)
    step = lines * tile_cycles(columns, blocks, tile, target)
    if tile.rows == columns:  # short lines are taken several at a time
        pixels = lines * columns
        tile = choose_tile(pixels, blocks, target, depth=depth, widths=widths, row_step=columns)
        step = min(step, tile_cycles(pixels, blocks, tile, target))
    return step


def direct_cycles(conv: ConvShape, target: Target) -> float:
    """Cycles of a direct convolution, on the busiest core."""
    steps, lines = conv.depth * conv.taps**2, conv.images * conv.rows
    step = blocked_step(lines, conv.columns, conv.out_blocks, steps, target)
    compute = steps * step / DIRECT_SHARE
    weights = steps * conv.out_blocks * conv.out_lanes * _BYTES / MEMORY_BYTES
    image = conv.images * conv.depth * conv.rows * conv.columns * _BYTES
    padded = 2 * image / bytes_per_cycle(2 * image // target.cores, target)
    return (max(compute, weights) + padded) / target.cores


def plan_cycles(shape: WinogradShape, plan: WinogradPlan, target: Target) -> float:
    """Cycles of a plan, on the busiest core."""
    if plan.whole:
        return _whole_cycles(shape, plan, target)
    tiles = plan.block_rows * plan.block_columns
    blocks = shape.tiles // tiles
    rounds = math.ceil(blocks / target.cores)
    compute = shape.points**2 * shape.depth * plan.step_cycles
    data = shape.data_bytes(tiles)
    held = data + shape.product_bytes(tiles, plan.register.vectors)
    reread = data * (shape.out_blocks // plan.register.vectors)
    near = bytes_per_cycle(held + shape.weight_bytes // 8, target)
    weights = shape.weight_bytes / bytes_per_cycle(held + shape.weight_bytes, target)
    first = max(compute, weights + shape.weight_bytes / MEMORY_BYTES / target.cores)
    later = max(compute, weights + reread / near)
    return first + (rounds - 1) * later + rounds * tiles * _transform_cycles(shape, near, target)


def _whole_cycles(shape: WinogradShape, plan: WinogradPlan, target: Target) -> float:
    cores = target.cores
    data = shape.data_bytes(shape.tiles)
    held = data + shape.product_bytes(shape.tiles, shape.out_blocks)
    near = bytes_per_cycle(held // cores, target)
    compute = (shape.batch or 1) * shape.points**2 * shape.depth * plan.step_cycles / cores
    weights = shape.weight_bytes / MEMORY_BYTES / cores
    traffic = held / near / cores
    transforms = shape.tiles * _transform_cycles(shape, near, target) / cores
    return max(compute, weights) + traffic + transforms


def _transform_cycles(shape: WinogradShape, near: float, target: Target) -> float:
    """Cycles per tile of the transforms of all channels, there and back: arithmetic, and what they
    write to the products and read from them."""
    points, tile = shape.points, shape.tile
    there, back = _additions(tile, points - tile + 1)
    scale = _TRANSFORM_OVERHEAD / target.fma_per_cycle
    vector = target.vector_bits // 8
    passed = points**2 * (1 + vector / near)
    data = scale * 2 * points * there + passed + tile**2
    output = scale * (points + tile) * back + passed + tile**2
    return shape.in_blocks * data + shape.out_blocks * output


@functools.cache
def _additions(tile: int, taps: int) -> tuple[int, int]:
    """Additions of one pass of the transform of the input, and of that back."""
    made = toom_cook(tile, taps)
    return _sums(made.data), _sums(made.output)


def _sums(matrix: Matrix) -> int:
    return sum(sum(1 for value in row if value) - 1 for row in matrix)
