# SPDX-License-Identifier: Apache-2.0
"""`sch.explain()`: where the time of a kernel must go, from its loops and the target alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heddle.schedule.state import State, blocks_below
from heddle.schedule.workbench.accesses import (
    Access,
    Place,
    Registers,
    accesses_of,
    flops_per_instance,
    place_of,
    registers_of,
)
from heddle.schedule.workbench.footprint import (
    MEMORY,
    Level,
    cache_names,
    footprint,
    levels_of,
    share_of_cache,
    sum_known,
    traffic_of,
)
from heddle.schedule.workbench.roofline import Machine, machine_of
from heddle.schedule.workbench.table import aligned, bytes_text, count_text
from heddle.support import UserError
from heddle.target import Target, native
from heddle.tir.build import shape_symbols
from heddle.tir.nodes import Block, Buffer, For, ForKind, PrimFunc

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule


@dataclass(frozen=True, slots=True)
class BlockReport:
    """One block. instances: runs of its body in a call. vector: the vectorized loop, `lanes` its
    elements. traffic: bytes that come from each level behind the first cache, by its name.
    bounds: milliseconds that each resource needs at least; empty where the machine is not known.
    """

    name: str
    kind: str
    loops: tuple[str, ...]
    instances: int | None
    flops: int | None
    vector: str | None
    lanes: int
    accesses: tuple[Access, ...]
    levels: tuple[Level, ...]
    registers: Registers | None
    traffic: dict[str, int | None]
    bounds: dict[str, float]

    @property
    def bound(self) -> str | None:
        """The resource that the block waits for when all else is right; None when it needs none."""
        if not any(self.bounds.values()):
            return None
        return max(self.bounds, key=lambda name: self.bounds[name])

    def __str__(self) -> str:
        return "\n".join(_block_lines(self))


@dataclass(frozen=True, slots=True)
class Explanation:
    """A kernel. bytes: what its parameters hold as far as it touches them, each once. intensity:
    operations per such byte. source: the nearest level that holds all it touches. cores: those that
    it can use. attainable_gflops: the roof over the kernel; None where the machine is not known.
    """

    name: str
    target: str
    cores: int
    blocks: tuple[BlockReport, ...]
    flops: int | None
    bytes: int | None
    source: str | None
    machine: Machine | None

    @property
    def intensity(self) -> float | None:
        """Operations on floats per byte of its parameters."""
        return None if self.flops is None or not self.bytes else self.flops / self.bytes

    @property
    def attainable_gflops(self) -> float | None:
        """The most that the roofline allows."""
        if self.machine is None or self.intensity is None or self.source is None:
            return None
        return self.machine.attainable(self.intensity, self.source)

    @property
    def bound(self) -> str | None:
        """ "arithmetic", or the level whose bandwidth is the roof."""
        roof = self.attainable_gflops
        if roof is None or self.machine is None:
            return None
        return "arithmetic" if roof == self.machine.peak_gflops else self.source

    def block(self, name: str) -> BlockReport:
        """The report of one block; `UserError` when there is none of this name."""
        for found in self.blocks:
            if found.name == name:
                return found
        known = ", ".join(f"`{found.name}`" for found in self.blocks)
        raise UserError(f"explain: there is no block `{name}`; there are {known}")

    def __str__(self) -> str:
        lines = [f"{self.name} for {self.target}, {self.cores} core{'s' * (self.cores != 1)}"]
        lines.append(
            f"  {count_text(self.flops)} float operations, {bytes_text(self.bytes)} of parameters"
            + ("" if self.intensity is None else f": {self.intensity:.3g} per byte")
        )
        if self.attainable_gflops is not None and self.machine is not None:
            share = self.attainable_gflops / self.machine.peak_gflops
            lines.append(
                f"  all of it fits in {self.source}; bound by {self.bound}: at most "
                f"{self.attainable_gflops:.3g} GFLOP/s, {share:.0%} of the peak "
                f"of {self.machine.peak_gflops:.3g}"
            )
        return "\n\n".join(["\n".join(lines), *map(str, self.blocks)])


def explain(
    sch: Schedule,
    *,
    target: Target | None = None,
    sizes: Mapping[str, int] | None = None,
    measure: bool = True,
) -> Explanation:
    """What the present schedule asks of the machine, block by block.

    target: the device, this machine by default. sizes: of symbolic dimensions, by name; without
    them, figures that depend on them are None. measure: whether to compare with the measured
    limits of this machine (measured on the first call, a second or two, then remembered).

    Counts follow from the loops; that values which no inner loop changes stay in registers, and
    that caches keep what was used last, is assumed.

    >>> print(sch.explain())                             # doctest: +SKIP
    """
    device = native() if target is None else target
    given = dict(sizes or {})
    _check_sizes(sch.func, given)
    state = sch.state
    blocks = [block for name in sch.get_blocks() if _is_leaf(block := sch.block(name))]
    places = [place_of(state, block, given) for block in blocks]
    parallel = any(loop.kind is ForKind.PARALLEL for place in places for loop in place.loops)
    cores = device.cores if parallel else 1
    machine = machine_of(device, cores) if measure else None
    reports = tuple(_report(place, device, cores, machine) for place in places)
    touched = _touched(state, places, device)
    total = sum_known(touched.values())
    params = [size for buffer, size in touched.items() if buffer in sch.func.params]
    return Explanation(
        name=str(sch.func.attrs.get("name", "main")),
        target=device.cpu,
        cores=cores,
        blocks=reports,
        flops=sum_known(report.flops for report in reports),
        bytes=sum_known(params),
        source=None if total is None else _source(total, device, cores),
        machine=machine,
    )


def _check_sizes(func: PrimFunc, sizes: Mapping[str, int]) -> None:
    known = [var.name for var in shape_symbols(func)]
    for name in sizes:
        if name not in known:
            text = ", ".join(f"`{item}`" for item in known) or "none"
            raise UserError(f"explain: `{name}` is no symbolic dimension; there are {text}")


def _is_leaf(block: Block) -> bool:
    """Whether no block is inside `block`."""
    return len(blocks_below(block)) == 1


def _touched(state: State, places: list[Place], target: Target) -> dict[Buffer, int | None]:
    """Bytes of each buffer that the function touches; private buffers are not memory."""
    found: dict[Buffer, int | None] = {}
    for place in places:
        for buffer, size in footprint(place, 0, target).items():
            if buffer.scope == "local" and not state.is_parameter(buffer):
                continue
            known = found.get(buffer, 0)
            found[buffer] = None if size is None or known is None else max(size, known)
    return found


def _source(size: int, target: Target, cores: int) -> str:
    for name, cache in zip(cache_names(target), target.caches, strict=False):
        # What several cores touch lies spread over their caches.
        if size <= share_of_cache(cache, cores) * max(1, cores // cache.shared_by):
            return name
    return MEMORY


def _report(place: Place, target: Target, cores: int, machine: Machine | None) -> BlockReport:
    from heddle.schedule.rules.analysis import block_kind  # written with schedules: above this

    instances = place.instances()
    flops = None if instances is None else instances * flops_per_instance(place.block)
    accesses = tuple(accesses_of(place))
    traffic = traffic_of(place, target, cores)
    return BlockReport(
        name=place.block.name,
        kind=block_kind(place.block).value,
        loops=tuple(_loop_text(place, loop) for loop in place.loops),
        instances=instances,
        flops=flops,
        vector=None if place.vector is None else place.vector.var.name,
        lanes=place.lanes,
        accesses=accesses,
        levels=tuple(levels_of(place, target, cores)),
        registers=registers_of(place, target),
        traffic=traffic,
        bounds=_bounds(place, flops, traffic, machine),
    )


def _loop_text(place: Place, loop: For) -> str:
    size = place.number(loop.extent)
    return f"{loop.var.name} {loop.kind.value} {'?' if size is None else size}"


def _bounds(
    place: Place, flops: int | None, traffic: Mapping[str, int | None], machine: Machine | None
) -> dict[str, float]:
    if machine is None or flops is None or None in traffic.values():
        return {}
    wide = any(region.buffer.dtype.bits > 32 for region in place.block.writes)
    bounds = {"arithmetic": flops * (2 if wide else 1) / machine.peak_gflops / 1e6}
    for name, size in traffic.items():
        bounds[name] = (size or 0) / machine.bandwidth[name] / 1e6
    return bounds


def _block_lines(report: BlockReport) -> list[str]:
    lines = [
        (
            f"block {report.name}: {report.kind}, {count_text(report.instances)} instances, "
            f"{count_text(report.flops)} float operations"
        )
    ]
    lines.append(f"  loops      {', '.join(report.loops) or 'none'}")
    if report.vector is None:
        lines.append("  vectors    none is scheduled: LLVM looks for them")
    else:
        lines.append(f"  vectors    {report.lanes} lanes along {report.vector}")
    if report.registers is not None:
        found = report.registers
        lines.append(
            f"  registers  {found.needed} of {found.available}: {found.accumulators} accumulators, "
            f"{found.operands} operands, {found.passing} passing"
            + ("; SPILLS" if found.spills else "")
        )
    rows = [
        [
            f"    {access.kind}",
            access.text,
            f"{access.pattern} {access.stride}" if access.pattern == "strided" else access.pattern,
            f"x{count_text(access.issued)}",
            "in a register" if access.resident else "",
        ]
        for access in report.accesses
    ]
    lines += ["  accesses", *aligned(rows)]
    rows = [
        [
            f"    {'' if number == 0 else 'one '}{level.where}",
            "" if level.extent is None else f"of {level.extent}",
            bytes_text(level.total),
            "" if level.fits is None else f"fits {level.fits}",
            ", ".join(f"{name} {bytes_text(size)}" for name, size in level.bytes.items()),
        ]
        for number, level in enumerate(report.levels)
    ]
    lines += ["  footprint", *aligned(rows)]
    moved = [f"{bytes_text(size)} from {name}" for name, size in report.traffic.items()]
    lines.append(f"  traffic    {', '.join(moved) or 'none'}")
    if report.bound is not None:
        parts = [f"{name} {1e3 * value:.3g} us" for name, value in report.bounds.items()]
        lines.append(f"  needs      {', '.join(parts)}: bound by {report.bound}")
    return lines
