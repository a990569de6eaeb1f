# SPDX-License-Identifier: Apache-2.0
"""Loads and stores of flat buffers: scalars, vectors, strided and scattered vectors, masks.

    index                      without mask                    with mask
    Ramp(b, 1, n)              one vector load                 masked.load
    Ramp(b, s, n), s <= 4      s vector loads, shuffled        s masked.loads, shuffled
    Ramp(b, -1, n)             vector load and reverse         masked.gather
    Ramp(b, other, n)          n scalar loads                  masked.gather
    Broadcast(i, n), scalar    scalar load and splat           scalar load if any lane is on
    any vector                 masked.gather                   masked.gather

Pointers are only known to be aligned to their elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from heddle.codegen.llvm.builder import FunctionBuilder
from heddle.codegen.llvm.types import mangle, memory_type, vector
from heddle.ir.dtype import DType
from heddle.tir.build import element_count
from heddle.tir.nodes import Buffer

_SMALL_STRIDES: Final = frozenset({"2", "3", "4"})
"""Strides by which whole vectors are loaded, with the elements between."""

_LINE: Final = 64
"""Bytes to which buffers on the stack are rounded up: a vector that holds their last element."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an access goes: element offsets from `pointer`, as `base + lane * stride` (a scalar
    has one lane), or one offset per lane in `offsets`."""

    pointer: str
    dtype: DType  # of one element
    lanes: int
    base: str
    stride: str
    offsets: str | None = None


def address(b: FunctionBuilder, place: Place, offset: str) -> str:
    """The address of element `offset`."""
    if offset == "0":
        return place.pointer
    element = memory_type(place.dtype)
    return b.op(f"getelementptr inbounds {element}, ptr {place.pointer}, i64 {offset}")


def stack_elements(buffer: Buffer) -> int | None:
    """The elements that a buffer takes on the stack, in whole lines; None when it is not there."""
    count = element_count(buffer.shape)
    if buffer.scope != "local" or count is None:
        return None
    per_line = max(1, _LINE // buffer.dtype.nbytes)
    return -(-count // per_line) * per_line


def load(b: FunctionBuilder, place: Place, mask: str | None, mask_lanes: int) -> str:
    """The value in its memory type; lanes that the mask turns off are zero."""
    if place.lanes == 1 or (place.stride == "0" and place.offsets is None):
        value = _load_scalar(b, place, mask, mask_lanes)
        return b.splat(memory_type(place.dtype), value, place.lanes)
    if place.offsets is not None:
        return _gather(b, place, mask)
    if place.stride == "1":
        return _load_vector(b, place, place.base, mask)
    if place.stride in _SMALL_STRIDES and int(place.stride) < place.lanes:
        return _load_strided(b, place, int(place.stride), mask)
    if mask is not None:
        return _gather(b, place, mask)
    if place.stride == "-1":
        lowest = b.sub(place.base, str(place.lanes - 1))
        value = _load_vector(b, place, lowest, None)
        return _shuffle(b, place, value, value, range(place.lanes - 1, -1, -1))
    return _load_each(b, place)


def _align(place: Place) -> int:
    return place.dtype.nbytes


def _load_scalar(b: FunctionBuilder, place: Place, mask: str | None, mask_lanes: int) -> str:
    pointer = address(b, place, place.base)
    element = memory_type(place.dtype)
    if mask is not None and mask != "true":
        # the place may be out of bounds when no lane wants it
        anyone = mask
        if mask_lanes > 1:
            symbol = f"@llvm.vector.reduce.or.v{mask_lanes}i1"
            b.module.declare(f"i1 {symbol}(<{mask_lanes} x i1>)")
            anyone = b.op(f"call i1 {symbol}(<{mask_lanes} x i1> {mask})")
        nowhere = _zeros(b)
        pointer = b.op(f"select i1 {anyone}, ptr {pointer}, ptr {nowhere}")
    return b.instr(f"load {element}, ptr {pointer}, align {_align(place)}")


def _zeros(b: FunctionBuilder) -> str:
    name = "@.zeros"
    text = f"{name} = private unnamed_addr constant [8 x i8] zeroinitializer, align 8"
    if text not in b.module.globals:
        b.module.globals.append(text)
    return name


def _load_vector(b: FunctionBuilder, place: Place, offset: str, mask: str | None) -> str:
    pointer = address(b, place, offset)
    kind = vector(memory_type(place.dtype), place.lanes)
    align = _align(place)
    if mask is None:
        return b.instr(f"load {kind}, ptr {pointer}, align {align}")
    truth = vector("i1", place.lanes)
    symbol = f"@llvm.masked.load.{mangle(kind)}.p0"
    b.module.declare(f"{kind} {symbol}(ptr, {truth}, {kind})")
    arguments = f"ptr align {align} {pointer}, {truth} {mask}, {kind} zeroinitializer"
    return b.instr(f"call {kind} {symbol}({arguments})")


def _shuffle(b: FunctionBuilder, place: Place, x: str, y: str, lanes: Sequence[int]) -> str:
    kind = vector(memory_type(place.dtype), place.lanes)
    picks = ", ".join(f"i32 {lane}" for lane in lanes)
    return b.op(f"shufflevector {kind} {x}, {kind} {y}, <{len(lanes)} x i32> <{picks}>")


def _load_strided(b: FunctionBuilder, place: Place, stride: int, mask: str | None) -> str:
    """Every `stride`-th element, from `stride` vectors that overlap by one: the last of them ends
    with the last element, not beyond it."""
    lanes, step = place.lanes, place.lanes - 1
    wanted = [divmod(stride * lane, step) for lane in range(lanes - 1)] + [(stride - 1, step)]
    value = ""
    for at in range(stride):
        start = b.add(place.base, str(at * step))
        part = _load_vector(b, place, start, _mask_of_part(b, wanted, at, mask))
        picks = [
            lanes + offset if source == at else lane for lane, (source, offset) in enumerate(wanted)
        ]
        value = _shuffle(b, place, value or part, part, picks)
    return value


def _mask_of_part(
    b: FunctionBuilder, wanted: list[tuple[int, int]], part: int, mask: str | None
) -> str | None:
    """Which elements of a part are wanted, where `mask` tells which lanes of the whole are;
    `wanted` are the part and the element there of each lane."""
    if mask is None:
        return None
    lanes = {offset: lane for lane, (source, offset) in enumerate(wanted) if source == part}
    count = len(wanted)
    picks = ", ".join(f"i32 {lanes.get(offset, count)}" for offset in range(count))
    kind = vector("i1", count)
    return b.op(f"shufflevector {kind} {mask}, {kind} zeroinitializer, <{count} x i32> <{picks}>")


def _load_each(b: FunctionBuilder, place: Place) -> str:
    element = memory_type(place.dtype)
    kind = vector(element, place.lanes)
    value = "poison"
    for lane in range(place.lanes):
        pointer = address(b, place, _lane_offset(b, place, lane))
        one = b.instr(f"load {element}, ptr {pointer}, align {_align(place)}")
        value = b.op(f"insertelement {kind} {value}, {element} {one}, i64 {lane}")
    return value


def _lane_offset(b: FunctionBuilder, place: Place, lane: int) -> str:
    return b.add(place.base, b.mul(place.stride, str(lane)))


def _offsets(b: FunctionBuilder, place: Place) -> str:
    """One offset per lane, as a vector of int64."""
    if place.offsets is not None:
        return place.offsets
    return ramp(b, place.base, place.stride, place.lanes)


def ramp(b: FunctionBuilder, base: str, stride: str, lanes: int, element: str = "i64") -> str:
    """The vector `base + lane * stride`."""
    kind = vector(element, lanes)
    count = ", ".join(f"{element} {lane}" for lane in range(lanes))
    steps = f"<{count}>"
    if stride != "1":
        steps = b.op(f"mul {kind} {steps}, {b.splat(element, stride, lanes)}")
    return b.op(f"add {kind} {steps}, {b.splat(element, base, lanes)}")


def _pointers(b: FunctionBuilder, place: Place) -> str:
    element, offsets = memory_type(place.dtype), _offsets(b, place)
    return b.op(
        f"getelementptr inbounds {element}, ptr {place.pointer}, <{place.lanes} x i64> {offsets}"
    )


def _gather(b: FunctionBuilder, place: Place, mask: str | None) -> str:
    lanes = place.lanes
    kind, truth = vector(memory_type(place.dtype), lanes), vector("i1", lanes)
    symbol = f"@llvm.masked.gather.{mangle(kind)}.v{lanes}p0"
    b.module.declare(f"{kind} {symbol}(<{lanes} x ptr>, {truth}, {kind})")
    where = f"<{lanes} x ptr> align {_align(place)} {_pointers(b, place)}"
    on = mask or "splat (i1 true)"
    return b.instr(f"call {kind} {symbol}({where}, {truth} {on}, {kind} zeroinitializer)")


def blend(b: FunctionBuilder, place: Place, value: str, mask: str) -> None:
    """Store the lanes of `mask` by writing the others back: a buffer on the stack that is only
    accessed so stays in registers, and a masked store would not let it."""
    kind, truth = vector(memory_type(place.dtype), place.lanes), vector("i1", place.lanes)
    old = _load_vector(b, place, place.base, None)
    mixed = b.op(f"select {truth} {mask}, {kind} {value}, {kind} {old}")
    store(b, place, mixed, None)


def store(b: FunctionBuilder, place: Place, value: str, mask: str | None) -> None:
    """Store a value of the memory type."""
    element, align = memory_type(place.dtype), _align(place)
    if place.lanes == 1:
        pointer = address(b, place, place.base)
        b.void(f"store {element} {value}, ptr {pointer}, align {align}")
        return
    kind, truth = vector(element, place.lanes), vector("i1", place.lanes)
    if place.offsets is None and place.stride == "1":
        pointer = address(b, place, place.base)
        if mask is None:
            b.void(f"store {kind} {value}, ptr {pointer}, align {align}")
            return
        symbol = f"@llvm.masked.store.{mangle(kind)}.p0"
        b.module.declare(f"void {symbol}({kind}, ptr, {truth})")
        b.void(f"call void {symbol}({kind} {value}, ptr align {align} {pointer}, {truth} {mask})")
        return
    if mask is None and place.offsets is None:
        for lane in range(place.lanes):
            one = b.op(f"extractelement {kind} {value}, i64 {lane}")
            pointer = address(b, place, _lane_offset(b, place, lane))
            b.void(f"store {element} {one}, ptr {pointer}, align {align}")
        return
    lanes = place.lanes
    symbol = f"@llvm.masked.scatter.{mangle(kind)}.v{lanes}p0"
    b.module.declare(f"void {symbol}({kind}, <{lanes} x ptr>, {truth})")
    where = f"<{lanes} x ptr> align {align} {_pointers(b, place)}"
    b.void(f"call void {symbol}({kind} {value}, {where}, {truth} {mask or 'splat (i1 true)'})")
