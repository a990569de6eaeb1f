# SPDX-License-Identifier: Apache-2.0
"""A model of the time that a convolution takes on an image that lies plain: as it lies, with pixels
for lanes, or in blocks of channels.

Blocks leave the lanes of the last one idle, and the image is moved there and back. Pixels leave the
lanes of the last vector of a row idle, and lie across the borders of cache lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from heddle.schedule.rules.machine import MATRIX_ROWS, bytes_per_cycle, choose_tile, tile_cycles
from heddle.schedule.rules.winograd_model import (
    DIRECT_SHARE,
    ConvShape,
    WinogradShape,
    blocked_step,
    winograd_cycles,
    winograd_tile,
)
from heddle.target import Target

_PIXEL_SHARE: Final = 0.6
"""What a convolution of pixels reaches of the cycles that its register tile needs: most vectors lie
in two cache lines, and each row of weights is a stream of its own."""

_MOVE_CYCLES: Final = 1.5
"""Cycles that it takes to move an element into a block or out of it."""

_MOST_PLANES: Final = 48
"""Most output channels: each is written to a plane of its own, and a core follows so many."""

_WORTH: Final = 0.8
"""Predicted share of the time in blocks below which an image stays as it lies."""

_WORTH_IN_GROUPS: Final = 0.65
"""The same where groups share the channels out: tiles of few rows fall short of their cycles by
more."""

_WORTH_WITH_STRIDES: Final = 0.7
"""The same where pixels between are left out: what is loaded and shuffled for nothing."""

_SHUFFLE_CYCLES: Final = 1.0
"""Cycles of one more load of a vector of every second pixel, and of the shuffle that follows."""

_MOST_STRIDE: Final = 4
"""Longest step between pixels of a vector: more of them are loaded one by one."""

_TILES: Final = (2, 4)
"""Winograd tiles that blocks may be computed by."""

_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class PixelShape:
    """A convolution of `images` images of `pixels` pixels to `lines` x `columns` pixels, in each of
    `groups` groups from `inputs` to `outputs` channels, with windows of `window` taps, `spread`
    where these are no neighbours, moved by `strides`. In blocks, `merged` groups are taken as one.
    """

    images: int
    inputs: int
    outputs: int
    window: tuple[int, int]
    spread: bool
    pixels: int
    lines: int
    columns: int
    groups: int = 1
    merged: int = 1
    strides: tuple[int, int] = (1, 1)

    @property
    def taps(self) -> int:
        return self.window[0] * self.window[1]

    @property
    def image(self) -> int:
        """Elements of all images."""
        return self.images * self.groups * self.inputs * self.pixels


def prefers_pixels(conv: PixelShape, target: Target) -> bool:
    """Whether an image that lies plain is best convolved so.

    >>> from heddle.target import parse
    >>> target = parse("llvm -mcpu=skylake-avx512 -cores=2")
    >>> line = PixelShape(1, 200, 8, (1, 1), False, pixels=1000, lines=1, columns=1000)
    >>> prefers_pixels(line, target)
    True
    >>> layer = PixelShape(1, 256, 256, (3, 3), False, pixels=784, lines=28, columns=28)
    >>> prefers_pixels(layer, target)
    False
    """
    if conv.columns < target.vector_lanes(32) or conv.outputs > _MOST_PLANES:
        return False
    strided = {*conv.strides} != {1}
    if strided and (conv.taps == 1 or conv.strides[1] > _MOST_STRIDE):
        return False  # a vector would hold little of what is read
    worth = _WORTH_IN_GROUPS if conv.groups > 1 else _WORTH_WITH_STRIDES if strided else _WORTH
    return pixel_cycles(conv, target) < worth * blocked_cycles(conv, target)


def pixel_cycles(conv: PixelShape, target: Target) -> float:
    """Cycles on the image as it lies, on each core."""
    steps = conv.inputs * conv.taps
    compute = conv.groups * steps * _pixel_step(conv, steps, target) / _PIXEL_SHARE
    result = conv.groups * conv.outputs * conv.images * conv.lines * conv.columns
    traffic = _passed(conv.image, target) + _passed(result, target)
    return (compute + traffic) / target.cores


def _pixel_step(conv: PixelShape, steps: int, target: Target) -> float:
    """Cycles of one of the `steps` steps of the sums of a group: tiles take several vectors of a
    row, or of several short rows."""
    lanes = target.vector_lanes(32)
    times, vectors = conv.images * conv.lines, -(-conv.columns // lanes)
    if conv.columns < 2 * lanes:
        times, vectors = conv.images * vectors, conv.lines
    tile = choose_tile(conv.outputs, vectors, target, depth=steps, max_rows=MATRIX_ROWS)
    tiles = -(-conv.outputs // tile.rows)
    shuffled = _SHUFFLE_CYCLES * (conv.strides[1] - 1) * vectors * tiles
    return times * (tile_cycles(conv.outputs, vectors, tile, target) + shuffled)


def blocked_cycles(conv: PixelShape, target: Target) -> float:
    """Cycles in blocks, moved there and back, on each core."""
    lanes, lines = target.vector_lanes(32), conv.images * conv.lines
    groups, blocks = conv.groups // conv.merged, -(-conv.merged * conv.outputs // lanes)
    steps = conv.merged * conv.inputs * conv.taps
    rows, columns = (1, lines * conv.columns) if conv.taps == 1 else (lines, conv.columns)
    direct = groups * steps * blocked_step(rows, columns, blocks, steps, target) / DIRECT_SHARE
    result = groups * blocks * lanes * lines * conv.columns
    traffic = _passed(2 * conv.image, target) + _passed(2 * result, target)
    moves = _MOVE_CYCLES * (conv.image + result) + traffic
    return min(direct / target.cores, _tiled_cycles(conv, blocks, target)) + moves / target.cores


def _tiled_cycles(conv: PixelShape, blocks: int, target: Target) -> float:
    """Cycles of a convolution by Winograd tiles, infinite where it cannot be done by them."""
    taps, lanes = conv.window[0], target.vector_lanes(32)
    if conv.window[1] != taps or conv.spread or conv.groups > 1 or {*conv.strides} != {1}:
        return float("inf")
    in_blocks = -(-conv.inputs // lanes)
    shape = ConvShape(taps, in_blocks, lanes, blocks, lanes, conv.lines, conv.columns, conv.images)
    tile = winograd_tile(shape, target, tiles=_TILES)
    return winograd_cycles(WinogradShape.of(shape, tile), target) if tile else float("inf")


def _passed(elements: int, target: Target) -> float:
    """Cycles in which so many elements, shared among the cores, pass by."""
    size = elements * _BYTES
    return size / bytes_per_cycle(size // target.cores, target)
