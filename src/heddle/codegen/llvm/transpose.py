# SPDX-License-Identifier: Apache-2.0
"""Square tiles of 32-bit elements, transposed in registers.

transpose_tile(to, from, pitch, n, rows, columns)

    to[i * n + j] = from[j * pitch + i]     for j < rows and i < columns; n = 4, 8 or 16

reads no other elements; the other elements of `to` are undefined.

Two rounds of interleaving give each quarter of a vector (128 bits) four elements of one column; the
quarters are then exchanged between vectors. Every shuffle is one instruction on x86, and on Arm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from heddle.codegen.llvm.types import mangle, memory_type, vector
from heddle.ir.expr import Call, as_int
from heddle.support import InternalError
from heddle.tir.nodes import BufferLoad

if TYPE_CHECKING:
    from heddle.codegen.llvm.expressions import ExpressionEmitter

Shuffle = Callable[[str, str, Sequence[int]], str]


def emit_transpose(emitter: ExpressionEmitter, found: Call) -> str:
    """The loads, shuffles and stores of one `transpose_tile`; there is no value."""
    b = emitter.b
    element = found.args[0].args[0]  # type: ignore[attr-defined]
    pitch, lanes = as_int(found.args[2]), as_int(found.args[3])
    if type(element) is not BufferLoad or pitch is None or lanes not in (4, 8, 16):
        raise InternalError(f"transpose_tile: {found}")
    to, source = emitter.emit(found.args[0]), emitter.emit(found.args[1])
    name = memory_type(element.buffer.dtype)
    kind = vector(name, lanes)

    def shuffle(x: str, y: str, picks: Sequence[int]) -> str:
        mask = ", ".join(f"i32 {pick}" for pick in picks)
        return b.op(f"shufflevector {kind} {x}, {kind} {y}, <{lanes} x i32> <{mask}>")

    def place(first: str, offset: int) -> str:
        return b.op(f"getelementptr inbounds {name}, ptr {first}, i64 {offset}")

    masks = _masks(emitter, found, lanes)
    align = element.buffer.dtype.nbytes
    symbol = f"@llvm.masked.load.{mangle(kind)}.p0"
    if masks:
        b.module.declare(f"{kind} {symbol}(ptr, <{lanes} x i1>, {kind})")
    rows = []
    for row in range(lanes):
        start = place(source, row * pitch)
        if masks:
            mask = f"<{lanes} x i1> {masks[row]}"
            arguments = f"ptr align {align} {start}, {mask}, {kind} zeroinitializer"
            rows.append(b.instr(f"call {kind} {symbol}({arguments})"))
        else:
            rows.append(b.instr(f"load {kind}, ptr {start}, align {align}"))
    for row, value in enumerate(transposed(rows, shuffle)):
        b.void(f"store {kind} {value}, ptr {place(to, row * lanes)}, align {align}")
    return "0"


def _masks(emitter: ExpressionEmitter, found: Call, lanes: int) -> list[str]:
    """Which lanes of each row to load; empty for all of all."""
    if all(as_int(count) == lanes for count in found.args[4:]):
        return []
    b = emitter.b
    rows, columns = (emitter.emit(arg) for arg in found.args[4:])
    numbers = ", ".join(f"i64 {lane}" for lane in range(lanes))
    kind = vector("i64", lanes)
    masks = []
    for row in range(lanes):
        taken = b.op(f"icmp sgt i64 {rows}, {row}")
        count = b.op(f"select i1 {taken}, i64 {columns}, i64 0")
        wide = b.splat("i64", count, lanes)
        masks.append(b.op(f"icmp slt {kind} <{numbers}>, {wide}"))
    return masks


def transposed(rows: Sequence[str], shuffle: Shuffle) -> list[str]:
    """The columns of a square of 4, 8 or 16 rows. `shuffle(x, y, picks)` picks lanes out of `x`
    and, from `len(rows)` on, out of `y`.

    >>> transposed(["abcd", "efgh", "ijkl", "mnop"], lambda x, y, p: "".join((x + y)[i] for i in p))
    ['aeim', 'bfjn', 'cgko', 'dhlp']
    """
    lanes = len(rows)
    quads = range(0, lanes, 4)
    low = [q + i + lanes * (n % 2) for q in quads for n, i in enumerate((0, 0, 1, 1))]
    high = [pick + 2 for pick in low]
    pairs_low = [q + i for q in quads for i in (0, 1, lanes, lanes + 1)]
    pairs_high = [pick + 2 for pick in pairs_low]
    groups: list[list[str]] = []  # of four rows: four vectors, whose quarters are columns
    for first in quads:
        a, b, c, d = rows[first : first + 4]
        ab, cd = shuffle(a, b, low), shuffle(c, d, low)
        left = [shuffle(ab, cd, pairs_low), shuffle(ab, cd, pairs_high)]
        ab, cd = shuffle(a, b, high), shuffle(c, d, high)
        groups.append([*left, shuffle(ab, cd, pairs_low), shuffle(ab, cd, pairs_high)])
    columns = [_exchanged([group[n] for group in groups], shuffle, lanes) for n in range(4)]
    return [columns[n % 4][n // 4] for n in range(lanes)]


def _exchanged(vectors: list[str], shuffle: Shuffle, lanes: int) -> list[str]:
    """A square of quarters, transposed: 1, 2 or 4 vectors of as many quarters each."""
    if len(vectors) == 1:
        return vectors

    def quarters(x: str, y: str, picks: Sequence[int]) -> str:
        return shuffle(x, y, [4 * pick + i for pick in picks for i in range(4)])

    if len(vectors) == 2:
        return [quarters(*vectors, (0, 2)), quarters(*vectors, (1, 3))]
    a, b, c, d = vectors
    even = [quarters(a, b, (0, 2, 4, 6)), quarters(c, d, (0, 2, 4, 6))]
    odd = [quarters(a, b, (1, 3, 5, 7)), quarters(c, d, (1, 3, 5, 7))]
    first, third = (quarters(*even, (0, 2, 4, 6)), quarters(*even, (1, 3, 5, 7)))
    second, fourth = (quarters(*odd, (0, 2, 4, 6)), quarters(*odd, (1, 3, 5, 7)))
    return [first, second, third, fourth]
