# SPDX-License-Identifier: Apache-2.0
"""A model of the core: which register tile a contraction should use.

Per step of the reduction, a tile of `rows` x `vectors` accumulators loads `vectors` vectors of one
operand, broadcasts `rows` scalars of the other, and issues `rows * vectors` multiply-adds. The
core starts `fma_per_cycle` of these and as many loads a cycle, and a new multiply-add of the same
accumulator only `fma_latency` cycles after the last.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from heddle.target import Target

_LOADS_PER_CYCLE = 2

_MOST_VECTORS = 8
"""Widest tile, in vectors."""

_MASKED = 1.5
"""What a tile under masks costs, in full tiles."""


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


def tile_cycles(row_count: int, vector_count: int, tile: RegisterTile, target: Target) -> float:
    """Cycles per reduction step over the whole output.

    Rows left over get a tile of their own; columns left over take a whole tile, under masks.
    """
    columns = vector_count // tile.vectors + _MASKED * bool(vector_count % tile.vectors)
    full = row_count // tile.rows * _cycles(tile.rows, tile.vectors, target)
    rest = row_count % tile.rows
    return columns * (full + (_cycles(rest, tile.vectors, target) if rest else 0.0))


def choose_tile(
    row_count: int | None,
    vector_count: int | None,
    target: Target,
    *,
    depth: int | None = None,
    widths: Iterable[int] = range(1, _MOST_VECTORS + 1),
    max_rows: int = 32,
    row_step: int = 1,
) -> RegisterTile:
    """The fastest tile for an output of `row_count` rows by `vector_count` vectors.

    None stands for a symbolic count, which is taken as large. `widths` are the numbers of vectors
    to choose from; rows are a multiple of `row_step`, at most `max_rows`. Accumulators, the loaded
    vectors and one broadcast must fit in the registers, and the vectors of `depth` reduction
    steps, which every tile of rows walks again, in the second-level cache. Ties go to the larger
    tile, which loads less.
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
    return min(tiles, key=lambda tile: _rank(rows_known, vectors_known, tile, target))


def _rank(rows: int, vectors: int, tile: RegisterTile, target: Target) -> float:
    accumulators = tile.rows * tile.vectors
    loads = (tile.rows + tile.vectors) / accumulators
    return tile_cycles(rows, vectors, tile, target) * (1 + 0.02 * loads)


def _panel_bytes(target: Target) -> int:
    """What a panel may take of the second-level cache: the next one arrives in it meanwhile, and
    the rows and the output pass through."""
    caches = target.caches
    return (caches[min(1, len(caches) - 1)].size if caches else 1 << 18) * 3 // 8


def panel_width(
    rows: int | None, columns: int | None, depth: int | None, target: Target, *, bits: int = 32
) -> int:
    """Columns per panel when the right operand of a product of `rows` x `depth` by `depth` x
    `columns` is packed for `target`.

    >>> from heddle.target import parse
    >>> panel_width(128, 768, 768, parse("llvm -mcpu=skylake-avx512"))
    48
    """
    lanes = target.vector_lanes(bits)
    vectors = None if columns is None else -(-columns // lanes)
    tile = choose_tile(rows, vectors, target, depth=depth, max_rows=MATRIX_ROWS)
    return tile.vectors * lanes


MATRIX_ROWS = 12
"""Most rows of a row-major operand that one tile walks: with a power-of-two row pitch they fall
into one set of the first-level cache, which has 8 to 12 ways."""
