# SPDX-License-Identifier: Apache-2.0
"""Buffers become one-dimensional, indices become offsets.

    A: Buffer((n, 64))   A[i, j]   ->   A: Buffer((n * 64,))   A[i * 64 + j]

Symbolic dimensions of the parameters become explicit scalar parameters, last and in the order of
`shape_symbols`, so that the signature stays what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from heddle.arith import Analyzer
from heddle.ir.expr import Add, Expr, FloorDiv, FloorMod, Mul, as_int, cast, const
from heddle.ir.walk import pre_order, rewrite
from heddle.passes.tir.ramps import broadcast, widen
from heddle.support import InternalError
from heddle.tir.build import row_major_strides, shape_symbols
from heddle.tir.nodes import Allocate, Buffer, BufferLoad, BufferStore, PrimFunc

SYMBOLS: Final = "symbols"
"""The attribute of a flat function that tells how many of its last parameters are symbolic
dimensions, which are never negative."""


def flatten(func: PrimFunc) -> PrimFunc:
    """`func` with one-dimensional buffers."""
    buffers = [param for param in func.params if isinstance(param, Buffer)]
    flat = {buffer: _flat_buffer(buffer) for buffer in buffers}
    made = [n.buffer for n in pre_order(func.body) if isinstance(n, Allocate)]
    flat.update({buffer: _with_whole_rows(buffer, _flat_buffer(buffer)) for buffer in made})
    buffers += made
    strides = {buffer: strides_of(buffer) for buffer in buffers}
    starts = {buffer: start_of(buffer) for buffer in buffers}

    def index(buffer: Buffer, indices: Sequence[Expr]) -> Expr:
        if buffer not in flat:
            raise InternalError(f"buffer `{buffer.name}` is used but neither parameter nor local")
        return _offset(indices, strides[buffer], starts[buffer])

    def load(found: BufferLoad) -> BufferLoad:
        return BufferLoad(flat[found.buffer], (index(found.buffer, found.indices),))

    def store(found: BufferStore) -> BufferStore:
        offset = index(found.buffer, found.indices)
        value = broadcast(found.value, offset.dtype.lanes)
        return BufferStore(flat[found.buffer], value, (offset,))

    body = rewrite(func.body, {BufferLoad: load, BufferStore: store}, memo=dict(flat))
    scalars = [param for param in func.params if not isinstance(param, Buffer)]
    pointers = [flat[param] for param in func.params if isinstance(param, Buffer)]
    symbols = shape_symbols(func)
    attrs = {**func.attrs, SYMBOLS: len(symbols)}
    return func.replace(params=(*pointers, *scalars, *symbols), body=body, attrs=attrs)


def verify_flat(func: PrimFunc) -> None:
    """Raise `InternalError` when an access has more than one index."""
    for found in pre_order(func.body):
        if isinstance(found, (BufferLoad, BufferStore)) and len(found.indices) != 1:
            raise InternalError(f"access of buffer `{found.buffer.name}` is not flat")


def strides_of(buffer: Buffer) -> tuple[Expr, ...]:
    """Element strides of a buffer."""
    if buffer.strides is not None:
        return tuple(cast(step, "int64") for step in buffer.strides)
    return row_major_strides(buffer.shape)


def _flat_buffer(buffer: Buffer) -> Buffer:
    size: Expr = const(1)
    if buffer.strides is None:
        for dim in buffer.shape:
            size = size * cast(dim, "int64")
    else:
        for dim, step in zip(buffer.shape, strides_of(buffer), strict=True):
            size = size + (cast(dim, "int64") - 1) * step
    return buffer.replace(shape=(start_of(buffer) + size,), strides=None, elem_offset=None)


def _with_whole_rows(buffer: Buffer, flat: Buffer) -> Buffer:
    """`flat`, the memory for `buffer`, with all of the last row where rows are longer than what
    they hold: vectors may be stored beyond that."""
    if buffer.strides is None or buffer.ndim == 0:
        return flat
    sizes = [as_int(dim * step) for dim, step in zip(buffer.shape, buffer.strides, strict=True)]
    held = as_int(flat.shape[0])
    if held is None or None in sizes:
        return flat
    return flat.replace(shape=(const(max(held, *(size or 0 for size in sizes)), "int64"),))  # type: ignore[no-any-return]


def start_of(buffer: Buffer) -> Expr:
    """The offset of the first element of a buffer, in elements."""
    return const(0) if buffer.elem_offset is None else cast(buffer.elem_offset, "int64")


def _offset(indices: Sequence[Expr], strides: Sequence[Expr], start: Expr) -> Expr:
    total = start
    vectors: list[Expr] = []
    for position, step in zip(indices, strides, strict=True):
        if position.dtype.lanes > 1:
            vectors.append(widen(Mul(position, step)))
        else:
            total = total + cast(position, "int64") * step
    total = _without_rows(total)
    for vector in vectors:
        total = widen(Add(vector, total))
    return total


def _without_rows(offset: Expr) -> Expr:
    """Where an axis runs over rows and columns, its quotient and remainder are one offset again:
    `i // 14 * 224 + i % 14 * 16` is `i * 16`."""
    kinds = {type(found) for found in pre_order(offset)}
    return Analyzer().simplify(offset) if {FloorDiv, FloorMod} <= kinds else offset
