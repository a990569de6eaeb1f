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

_WORTH: Final = 0.9
"""Predicted share of the time in blocks below which an image stays as it lies."""

_TILES: Final = (2, 4)
"""Winograd tiles that blocks may be computed by."""

_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class PixelShape:
    """A convolution of stride one of `images` images of `pixels` pixels in `inputs` channels to
    `lines` x `columns` pixels in `outputs` channels, with windows of `window` taps, `spread` where
    these are no neighbours."""

    images: int
    inputs: int
    outputs: int
    window: tuple[int, int]
    spread: bool
    pixels: int
    lines: int
    columns: int

    @property
    def steps(self) -> int:
        """Steps of the sum for one output."""
        return self.inputs * self.window[0] * self.window[1]


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
    return pixel_cycles(conv, target) < _WORTH * blocked_cycles(conv, target)


def pixel_cycles(conv: PixelShape, target: Target) -> float:
    """Cycles on the image as it lies, on each core."""
    lanes, lines = target.vector_lanes(32), conv.images * conv.lines
    vectors = -(-conv.columns // lanes)
    tile = choose_tile(conv.outputs, vectors, target, depth=conv.steps, max_rows=MATRIX_ROWS)
    step = lines * tile_cycles(conv.outputs, vectors, tile, target)
    image = conv.images * conv.inputs * conv.pixels
    result = conv.outputs * lines * conv.columns
    traffic = _passed(image, target) + _passed(result, target)
    return (conv.steps * step / _PIXEL_SHARE + traffic) / target.cores


def blocked_cycles(conv: PixelShape, target: Target) -> float:
    """Cycles in blocks, moved there and back, on each core."""
    lanes, lines = target.vector_lanes(32), conv.images * conv.lines
    blocks = -(-conv.outputs // lanes)
    rows, columns = (1, lines * conv.columns) if conv.window == (1, 1) else (lines, conv.columns)
    direct = conv.steps * blocked_step(rows, columns, blocks, conv.steps, target) / DIRECT_SHARE
    image = conv.images * conv.inputs * conv.pixels
    result = blocks * lanes * lines * conv.columns
    traffic = _passed(2 * image, target) + _passed(2 * result, target)
    moves = _MOVE_CYCLES * (image + result) + traffic
    return min(direct / target.cores, _tiled_cycles(conv, blocks, target)) + moves / target.cores


def _tiled_cycles(conv: PixelShape, blocks: int, target: Target) -> float:
    """Cycles of a convolution by Winograd tiles, infinite where it cannot be done by them."""
    taps, lanes = conv.window[0], target.vector_lanes(32)
    if conv.window[1] != taps or conv.spread:
        return float("inf")
    in_blocks = -(-conv.inputs // lanes)
    shape = ConvShape(taps, in_blocks, lanes, blocks, lanes, conv.lines, conv.columns, conv.images)
    tile = winograd_tile(shape, target, tiles=_TILES)
    return winograd_cycles(WinogradShape.of(shape, tile), target) if tile else float("inf")


def _passed(elements: int, target: Target) -> float:
    """Cycles in which so many elements, shared among the cores, pass by."""
    size = elements * _BYTES
    return size / bytes_per_cycle(size // target.cores, target)
