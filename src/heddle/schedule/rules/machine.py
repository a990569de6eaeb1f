# SPDX-License-Identifier: Apache-2.0
"""A model of the core: which register tile a contraction should use.

Per step of the reduction, a tile of `rows` x `vectors` accumulators loads `vectors` vectors of one
operand, broadcasts `rows` scalars of the other, and issues `rows * vectors` multiply-adds. The
core starts `fma_per_cycle` of these and as many loads a cycle, and a new multiply-add of the same
accumulator only `fma_latency` cycles after the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from heddle.target import Target

_LOADS_PER_CYCLE = 2

_STREAM_BYTES = 192
"""Bytes from the second-level cache that delay a core by a cycle: it delivers a line of 64 in that
time, and two thirds of the wait are hidden behind arithmetic."""

_MOST_VECTORS = 8
"""Widest tile, in vectors."""


@dataclass(frozen=True, slots=True)
class RegisterTile:
    """`rows` x `vectors` vector accumulators."""

    rows: int
    vectors: int


def _cycles(rows: int, vectors: int, target: Target) -> float:
    """Cycles of one reduction step of a tile."""
    issue = rows * vectors / target.fma_per_cycle
    loads = (rows + vectors) / _LOADS_PER_CYCLE
    return max(issue, loads, float(target.fma_latency)) + 0.25


def step_cycles(tile: RegisterTile, target: Target) -> float:
    """Cycles of one reduction step of a tile."""
    return _cycles(tile.rows, tile.vectors, target)


def _stream_cycles(rows: int, vectors: int, target: Target) -> float:
    """Cycles that operands from the second-level cache add to one reduction step."""
    return (vectors * target.vector_bits // 8 + rows * 4) / _STREAM_BYTES


def tile_cycles(row_count: int, vector_count: int, tile: RegisterTile, target: Target) -> float:
    """Cycles per reduction step over the whole output.

    Rows and vectors left over get tiles of their own.
    """

    def cycles(vectors: int) -> float:
        full = row_count // tile.rows * _cycles(tile.rows, vectors, target)
        rest = row_count % tile.rows
        return full + (_cycles(rest, vectors, target) if rest else 0.0)

    rest = vector_count % tile.vectors
    return vector_count // tile.vectors * cycles(tile.vectors) + (cycles(rest) if rest else 0.0)


def choose_tile(
    row_count: int | None,
    vector_count: int | None,
    target: Target,
    *,
    depth: int | None = None,
    widths: Iterable[int] = range(1, _MOST_VECTORS + 1),
    max_rows: int = 32,
    row_step: int = 1,
    streamed: bool = False,
) -> RegisterTile:
    """The fastest tile for an output of `row_count` rows by `vector_count` vectors.

    None stands for a symbolic count, which is taken as large. `widths` are the numbers of vectors
    to choose from; rows are a multiple of `row_step`, at most `max_rows`. Accumulators, the loaded
    vectors and one broadcast must fit in the registers, and the vectors of `depth` reduction
    steps, which every tile of rows walks again, in the second-level cache. With `streamed` they do
    not fit in the first one, and what they cost on the way counts. Ties go to the larger tile,
    which loads less.
    """
    rows_known = row_count or 1 << 10
    vectors_known = vector_count or 1 << 10
    widest = vectors_known
    if rows_known > 1 and depth is not None:
        widest = min(widest, max(1, _panel_bytes(target) // (depth * target.vector_bits // 8)))
    tiles = [
        RegisterTile(rows, vectors)
        for vectors in widths
        if vectors <= widest
        for rows in range(row_step, min(rows_known, max_rows) + 1, row_step)
        if rows * vectors + vectors + 1 <= target.vector_registers
    ]
    if not tiles:
        return RegisterTile(1, min(widths))
    return min(tiles, key=lambda tile: _rank(rows_known, vectors_known, tile, target, streamed))


def _rank(rows: int, vectors: int, tile: RegisterTile, target: Target, streamed: bool) -> float:
    accumulators = tile.rows * tile.vectors
    loads = (tile.rows + tile.vectors) / accumulators
    cycles = tile_cycles(rows, vectors, tile, target) * (1 + 0.02 * loads)
    if streamed:
        tiles = -(-rows // tile.rows) * -(-vectors // tile.vectors)
        cycles += tiles * _stream_cycles(tile.rows, tile.vectors, target)
    return cycles


def choose_matrix_tile(
    row_count: int | None,
    vector_count: int | None,
    depth: int | None,
    target: Target,
    *,
    widths: Iterable[int] = range(1, _MOST_VECTORS + 1),
) -> RegisterTile:
    """`choose_tile` for a row-major operand times panels of `depth` steps.

    Rows that are a multiple of 4 KiB apart fall into one set of the first-level cache.
    """
    return choose_tile(
        row_count,
        vector_count,
        target,
        depth=depth,
        widths=widths,
        max_rows=matrix_rows(depth or 1, target),
        streamed=(row_count or MATRIX_ROWS) > 1,
    )


def matrix_rows(pitch: int, target: Target) -> int:
    """Most rows, `pitch` elements apart, of a row-major operand that one tile walks."""
    return max(1, min(MATRIX_ROWS, _rows_in_cache(pitch, target)))


def _rows_in_cache(pitch: int, target: Target) -> int:
    """How many rows, `pitch` elements apart, a tile may walk: those that share a set of the
    first-level cache take two thirds of its ways."""
    first = target.caches[0].size if target.caches else 32 << 10
    apart = math.gcd(pitch * 4, _WAY_BYTES)
    return first // _WAY_BYTES * 2 // 3 * _WAY_BYTES // apart


def split_depth(rows: int, columns: int, depth: int, target: Target) -> tuple[int, ...]:
    """Into which depths to split a product of `rows` x `depth` with a constant matrix, so that the
    sum of the parts takes less time; (depth,) where none does.

    The second-level cache keeps for each part a block of rows, the panel that they walk over, and
    the next panel, on its way. Parts whose rows would evict one another from the first-level cache
    are a vector deeper. A sum reads and writes the output once more, and columns of the rows may
    have to be copied: few rows or columns are not worth that.
    """
    caches = target.caches
    second = caches[min(1, len(caches) - 1)].size if caches else 1 << 18
    panels = 2 * 2 * target.vector_bits // 8
    parts = -(-depth * (min(rows, _ROW_BLOCK) * 4 + panels) // (second * 3 // 4))
    lanes = target.vector_lanes(32)
    each = -(-depth // (parts * lanes)) * lanes
    if _rows_in_cache(each, target) < _ENOUGH_ROWS:
        each += lanes
    worth = rows >= _LEAST_SPLIT_ROWS and min(columns, each) >= _LEAST_SPLIT_SIZE
    if parts == 1 or not worth:
        return (depth,)
    last = depth - (parts - 1) * each
    return (*(parts - 1) * (each,), last) if last > 0 else (depth,)


_LEAST_SPLIT_ROWS = 32
_LEAST_SPLIT_SIZE = 256
"""Rows of a product, and columns and depth of its parts, below which a sum does not pay."""

_ROW_BLOCK = 128
"""Rows that meet a panel of weights while it stays in the second-level cache: at so many
multiply-adds a weight, the next one has time to come from memory."""

_ENOUGH_ROWS = 8
"""Rows that must fit side by side in the first-level cache, lest loads bound a tile."""


def _panel_bytes(target: Target) -> int:
    """What a panel may take of the second-level cache: the next one arrives in it meanwhile, and
    the rows and the output pass through."""
    caches = target.caches
    return (caches[min(1, len(caches) - 1)].size if caches else 1 << 18) * 3 // 8


def shares_rows(rows_bytes: int, weight_bytes: int, target: Target) -> bool:
    """Whether each core should walk its own rows of a product: when they are the larger operand, or
    fit in the caches of the cores together only. All weights then go by on every core."""
    caches = target.caches
    half = (caches[min(1, len(caches) - 1)].size if caches else 32 << 10) // 2
    return rows_bytes > weight_bytes or half < rows_bytes <= half * target.cores


def panel_width(
    rows: int | None, columns: int | None, depth: int | None, target: Target, *, bits: int = 32
) -> int:
    """Columns per panel when the right operand of a product of `rows` x `depth` by `depth` x
    `columns` is packed for `target`.

    >>> from heddle.target import parse
    >>> panel_width(128, 768, 768, parse("llvm -mcpu=skylake-avx512"))
    32
    """
    lanes = target.vector_lanes(bits)
    vectors = None if columns is None else -(-columns // lanes)
    if rows is not None and columns is not None and depth is not None:
        element = bits // 8
        if shares_rows(rows * depth * element, depth * columns * element, target):
            rows = -(-rows // target.cores)
    return choose_matrix_tile(rows, vectors, depth, target).vectors * lanes


_CACHE_BYTES = (128.0, 48.0, 12.0)
"""Bytes that a core reads per cycle from its first, second and third cache."""

MEMORY_BYTES = 5.0
"""Bytes that a core reads per cycle from memory while the others read too."""


def bytes_per_cycle(size: int, target: Target) -> float:
    """Bytes per cycle from where data of `size` bytes lies."""
    for cache, rate in zip(target.caches, _CACHE_BYTES, strict=False):
        if 2 * size <= cache.size:
            return rate
    return MEMORY_BYTES


_FORK_CYCLES = 4000
"""Cycles of work on one core below which waking another, and waiting for it, costs more than its
help is worth: about a microsecond."""


def worth_threads(cycles: float | None) -> bool:
    """Whether work of so many cycles, None where that is not known, should be shared by cores."""
    return cycles is None or cycles >= _FORK_CYCLES


MATRIX_ROWS = 12
"""Most rows of a row-major operand that one tile walks."""

_WAY_BYTES = 4096
"""Bytes of one way of a first-level cache: addresses this far apart share a set."""
