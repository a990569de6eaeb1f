# SPDX-License-Identifier: Apache-2.0
"""How much memory a block touches at each loop level, and what crosses from cache to cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from heddle.ir.expr import Expr
from heddle.ir.walk import substitute, uses_var
from heddle.schedule.affine import Box1, union
from heddle.schedule.boxes import loop_domain, region_box
from heddle.schedule.workbench.accesses import Place
from heddle.target import Cache, Target
from heddle.tir.nodes import Buffer, BufferRegion

MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Level:
    """What a block touches while some of its loops run once.

    where: "all of it", or the loop of which this is one iteration. bytes: by buffer, whole cache
    lines; None where a size is not known. fits: the nearest cache that holds the sum, or "memory".
    """

    where: str
    kind: str
    extent: int | None
    bytes: dict[str, int | None]
    fits: str | None

    @property
    def total(self) -> int | None:
        """Bytes of all buffers."""
        return sum_known(self.bytes.values())


def sum_known(values: object) -> int | None:
    """The sum, or None when a part is not known."""
    parts = list(values)  # type: ignore[call-overload]
    return None if None in parts else sum(parts)


def cache_names(target: Target) -> list[str]:
    """The caches by name from the nearest, then the memory."""
    return [*(f"L{number + 1}" for number in range(len(target.caches))), MEMORY]


def share_of_cache(cache: Cache, cores: int) -> int:
    """The bytes that one core has of a cache when `cores` work."""
    return cache.size // max(1, min(cache.shared_by, cores))


def footprint(place: Place, inner: int, target: Target) -> dict[Buffer, int | None]:
    """Bytes of each buffer that are touched while the loops from number `inner` on run once."""
    boxes: dict[Buffer, list[Box1 | None]] = {}
    for region in (*place.block.reads, *place.block.writes):
        around = max(inner, place.private.get(region.buffer, 0))
        box = region_box(region, dict(place.values), loop_domain(place.loops[around:]))
        known = boxes.get(region.buffer)
        boxes[region.buffer] = box if known is None else list(map(_union, known, box))
    line = target.caches[0].line if target.caches else 64
    return {buffer: _bytes(place, buffer, box, line) for buffer, box in boxes.items()}


def _union(a: Box1 | None, b: Box1 | None) -> Box1 | None:
    return None if a is None or b is None else union(a, b)


def _bytes(place: Place, buffer: Buffer, box: Sequence[Box1 | None], line: int) -> int | None:
    """The size of the cache lines under a box; a private buffer is taken as dense."""
    dims = [place.number(dim) for dim in buffer.shape]
    sizes: list[int] = []
    for part, dim in zip(box, dims, strict=True):
        size = dim if part is None else place.number(part.extent)
        if size is None:
            return None
        sizes.append(size if dim is None else min(size, dim))
    if buffer.scope == "local" or not sizes:
        return math.prod(sizes) * buffer.dtype.nbytes
    run, axis = 1, len(sizes) - 1
    while axis >= 0:
        run *= sizes[axis]
        if sizes[axis] != dims[axis]:
            break
        axis -= 1
    runs = math.prod(sizes[: max(axis, 0)])
    return runs * -(-run * buffer.dtype.nbytes // line) * line


def levels_of(place: Place, target: Target, cores: int) -> list[Level]:
    """The levels of a block from all of it down to its register tile."""
    found = []
    for inner in range(len(place.loops) - place.tile + 1):
        if inner and place.number(place.loops[inner - 1].extent) == 1:
            continue  # as the level before
        touched = {buffer.name: size for buffer, size in footprint(place, inner, target).items()}
        total = sum_known(touched.values())
        loop = place.loops[inner - 1] if inner else None
        found.append(
            Level(
                where="all of it" if loop is None else loop.var.name,
                kind="" if loop is None else loop.kind.value,
                extent=None if loop is None else place.number(loop.extent),
                bytes=touched,
                fits=None if total is None else _fits(total, target, cores),
            )
        )
    return found


def _fits(size: int, target: Target, cores: int) -> str:
    names = cache_names(target)
    for name, cache in zip(names, target.caches, strict=False):
        if size <= share_of_cache(cache, cores):
            return name
    return MEMORY


def traffic_of(place: Place, target: Target, cores: int) -> dict[str, int | None]:
    """Bytes that come into each cache from the one behind it, by the name of the latter.

    The outermost level that fits in a cache is loaded once per iteration of the loops around it; a
    buffer that the nearest of these do not move in stays where it is.
    """
    names = cache_names(target)
    result: dict[str, int | None] = {}
    levels = [footprint(place, n, target) for n in range(len(place.loops) - place.tile + 1)]
    for number, cache in enumerate(target.caches):
        size = share_of_cache(cache, cores)
        inner = _first_that_fits(levels, size)
        result[names[number + 1]] = _loaded(place, levels[inner], inner)
    return result


def _first_that_fits(levels: Sequence[dict[Buffer, int | None]], size: int) -> int:
    for number, level in enumerate(levels):
        total = sum_known(level.values())
        if total is not None and total <= size:
            return number
    return len(levels) - 1


def _loaded(place: Place, level: dict[Buffer, int | None], inner: int) -> int | None:
    total = 0
    for buffer, size in level.items():
        if buffer.scope == "local":
            continue
        around = list(place.loops[:inner])
        starts = _starts(place, buffer)
        while around and not any(uses_var(start, around[-1].var) for start in starts):
            around.pop()
        times = place.product(around)
        if size is None or times is None:
            return None
        total += size * times
    return total


def _starts(place: Place, buffer: Buffer) -> list[Expr]:
    regions: tuple[BufferRegion, ...] = (*place.block.reads, *place.block.writes)
    return [
        substitute(part.min, place.values)
        for region in regions
        if region.buffer is buffer
        for part in region.ranges
    ]
