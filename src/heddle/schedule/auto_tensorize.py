# SPDX-License-Identifier: Apache-2.0
"""`auto_tensorize`: find which loops of a sum of products an instruction can do, and let it.

    block = auto_tensorize(sch, "C", "x86.vpdpbusd.512", target=native())

It is made of primitives, which the trace shows: `shift_to_unsigned` and `pad_einsum` where the
operands need it, `split` and `reorder`, `cache_read` with `transform_layout` for operands that do
not lie as the instruction wants them, and `tensorize`. With a target it also tiles for the
registers and the caches, so that the result runs near the instruction's peak.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

from heddle.arith import linear_form
from heddle.ir.expr import Var, as_int
from heddle.ir.walk import uses_var
from heddle.schedule.errors import ScheduleError
from heddle.schedule.primitives.prepare import product_of
from heddle.schedule.refs import BlockLike, BlockRef, LoopRef
from heddle.schedule.rules.machine import MATRIX_ROWS, choose_tile
from heddle.schedule.schedule import Schedule
from heddle.target import Target
from heddle.tir import tensor_intrin
from heddle.tir.build import TRUE
from heddle.tir.nodes import Block, Buffer, BufferLoad, IterKind, IterVar
from heddle.tir.tensor_intrin import TensorIntrin


@dataclass(frozen=True, slots=True)
class Mapping:
    """Which iteration variables of a block take the place of an intrinsic's loops.

    `axes` pairs each loop of the intrinsic (variable, extent) with an iteration variable;
    `operands` pairs each buffer of the intrinsic with the access of the block that stands for it.
    """

    axes: tuple[tuple[Var, int, IterVar], ...]
    operands: tuple[tuple[Buffer, BufferLoad], ...]

    def extent(self, axis: IterVar) -> int:
        """How many values of `axis` one instruction takes."""
        return next((size for _, size, bound in self.axes if bound is axis), 1)


def find_mapping(block: Block, intrin: TensorIntrin) -> Mapping | str:
    """The mapping of `block` to `intrin`; or why there is none.

    Each loop of the intrinsic takes an iteration variable that indexes the same operands, and is
    a reduction where the loop is one. Among several, the one that walks the operands with stride
    one where the intrinsic does comes first, then one whose extent needs no padding.
    """
    theirs = product_of(block)
    store = intrin.nest.store
    ours = _factors(intrin)
    if theirs is None or ours is None:
        return "only sums of products, `C[...] = C[...] + A[...] * B[...]`, can be mapped"
    out = block.body.value  # type: ignore[attr-defined]
    written = next(part for part in (out.a, out.b) if isinstance(part, BufferLoad))
    if store.buffer.dtype is not written.buffer.dtype:
        return (
            f"`{written.buffer.name}` is {written.buffer.dtype}, the intrinsic adds to "
            f"{store.buffer.dtype}"
        )
    reason = ""
    for left, right in itertools.permutations(theirs):
        operands = ((ours[0], left), (ours[1], right), (_load_of(intrin), written))
        wrong = [
            f"`{access.buffer.name}` is {access.buffer.dtype}, the intrinsic's "
            f"`{mine.buffer.name}` {mine.buffer.dtype}"
            for mine, access in operands
            if not _compatible(mine.buffer, access.buffer)
        ]
        if wrong:
            reason = reason or wrong[0]
            continue
        axes = _map_axes(block, intrin, operands)
        if not isinstance(axes, str):
            return Mapping(axes, tuple((mine.buffer, access) for mine, access in operands))
        reason = axes
    return reason


def _compatible(mine: Buffer, other: Buffer) -> bool:
    """Whether dtypes agree, perhaps after `shift_to_unsigned`."""
    return mine.dtype is other.dtype or (mine.dtype.name, other.dtype.name) == ("uint8", "int8")


def _load_of(intrin: TensorIntrin) -> BufferLoad:
    return BufferLoad(intrin.nest.store.buffer, intrin.nest.store.indices)


def _factors(intrin: TensorIntrin) -> tuple[BufferLoad, BufferLoad] | None:
    store = intrin.nest.store
    wrapper = Block("intrinsic", (), TRUE, (), (), (), None, store)
    return product_of(wrapper)


def _map_axes(
    block: Block, intrin: TensorIntrin, operands: tuple[tuple[BufferLoad, BufferLoad], ...]
) -> tuple[tuple[Var, int, IterVar], ...] | str:
    taken: list[IterVar] = []
    axes = []
    for var, size in intrin.nest.axes:
        wanted = [_uses(mine, var) for mine, _ in operands]
        found = [
            bound
            for bound in block.iters
            if bound not in taken
            and [_uses(access, bound.var) for _, access in operands] == wanted
            and (bound.kind is IterKind.REDUCTION) == (not wanted[-1])
        ]
        if not found:
            names = [
                access.buffer.name
                for (_, access), used in zip(operands, wanted, strict=True)
                if used
            ]
            return (
                f"no variable of block `{block.name}` indexes just {names}, as the intrinsic's "
                f"loop `{var.name}` does"
            )
        best = max(found, key=lambda bound: _fitness(bound, var, size, operands))
        taken.append(best)
        axes.append((var, size, best))
    return tuple(axes)


def _uses(access: BufferLoad, var: Var) -> bool:
    return any(uses_var(index, var) for index in access.indices)


def _fitness(
    bound: IterVar, var: Var, size: int, operands: tuple[tuple[BufferLoad, BufferLoad], ...]
) -> tuple[int, bool, int]:
    """How well a variable suits a loop: accesses with stride one alike, no padding, long."""
    along = sum(
        access.indices[-1] is bound.var and mine.indices[-1] is var for mine, access in operands
    )
    extent = as_int(bound.extent) or 0
    return along, extent % size == 0 and extent > 0, extent


def auto_tensorize(
    sch: Schedule, block: BlockLike, intrin: str, *, target: Target | None = None
) -> BlockRef:
    """Compute a sum of products with the tensor intrinsic `intrin`; returns the tensorized block.

    `block` must not be scheduled yet. With `target`, the whole nest gets a schedule for it:
    register tiles, packed panels, parallel tasks. Raises `ScheduleError`, saying what does not fit
    (`UserError` when there is no such intrinsic); the schedule is then as it was.
    """
    before, steps = sch.func, len(sch.trace)
    try:
        return _Work(sch, BlockRef(sch.block(block).name), tensor_intrin.get(intrin), target).run()
    except Exception:
        sch.set_func(before)
        del sch.trace.steps[steps:]
        raise


@dataclass(slots=True)
class _Work:
    sch: Schedule
    block: BlockRef
    intrin: TensorIntrin
    target: Target | None
    copies: list[BlockRef] = field(default_factory=list)
    packs: list[tuple[BlockRef, str, Buffer]] = field(default_factory=list)
    """Copies of operands, the index map of their packed layout, and the intrinsic's operand."""

    def run(self) -> BlockRef:
        sch = self.sch
        self.prepare()
        mapping = self.mapping()
        out = sch.cache_write(self.block, 0, "local") if self.target is not None else None
        self.pack(mapping)
        loops = dict(zip(sch.block(self.block).iters, sch.get_loops(self.block), strict=True))
        inner: list[LoopRef] = []
        outer: dict[IterVar, LoopRef] = {}
        mapped = {bound.var.name: (size, bound) for _, size, bound in mapping.axes}
        for bound, loop in loops.items():
            outer[bound] = loop
            if bound.var.name in mapped:
                outer[bound], part = sch.split(loop, [None, mapped[bound.var.name][0]])
                inner.append(part)
        order = [bound.var.name for _, _, bound in mapping.axes]
        named = {bound.var.name: part for (bound, part) in self.pairs(outer, inner, mapped)}
        parts = [named[name] for name in order]
        if self.target is None or out is None:
            sch.reorder(*outer.values(), *parts)
            self.finish_packs(None)
            return sch.tensorize(parts[0], self.intrin.name)
        return _Tiling(self, mapping, outer, parts, out, self.target).run()

    def pairs(
        self,
        outer: dict[IterVar, LoopRef],
        inner: list[LoopRef],
        mapped: dict[str, tuple[int, IterVar]],
    ) -> list[tuple[IterVar, LoopRef]]:
        """The mapped variables with the loops inside one instruction."""
        return list(zip([b for b in outer if b.var.name in mapped], inner, strict=True))

    def mapping(self) -> Mapping:
        found = find_mapping(self.sch.block(self.block), self.intrin)
        if isinstance(found, str):
            raise ScheduleError(
                f"auto_tensorize: block `{self.block.name}` cannot use `{self.intrin.name}`: "
                f"{found}",
                func=self.sch.func,
            )
        return found

    def prepare(self) -> None:
        """Make operands unsigned, and extents whole multiples, where the intrinsic wants that."""
        sch, mapping = self.sch, self.mapping()
        node = sch.block(self.block)
        multiples = [mapping.extent(bound) for bound in node.iters]
        uneven = [
            (as_int(bound.extent) or 0) % multiple or as_int(bound.extent) is None
            for bound, multiple in zip(node.iters, multiples, strict=True)
            if multiple > 1
        ]
        if any(uneven):
            old = {block.name for block in sch.get_blocks()}
            sch.pad_einsum(self.block, multiples)
            self.copies += [new for new in sch.get_blocks() if new.name not in old]
        for mine, access in mapping.operands:
            if mine.dtype.name == "uint8" and access.buffer.dtype.name == "int8":
                node = sch.block(self.block)
                dtypes = [region.buffer.dtype.name for region in node.reads]
                names = [region.buffer.name for region in node.reads]
                position = next(
                    place
                    for place, name in enumerate(names)
                    if name.startswith(access.buffer.name) and dtypes[place] == "int8"
                )
                old = {block.name for block in sch.get_blocks()}
                sch.shift_to_unsigned(self.block, position)
                self.copies += [new for new in sch.get_blocks() if new.name not in old]

    # -- packed operands -------------------------------------------------------------------------

    def pack(self, mapping: Mapping) -> None:
        """Copy the operands that do not lie as the intrinsic reads them."""
        for mine, access in mapping.operands[:2]:
            text = self.packed_layout(mine, access, mapping)
            if text is None:
                continue
            buffers = list(dict.fromkeys(r.buffer for r in self.sch.block(self.block).reads))
            copy = self.sch.cache_read(self.block, buffers.index(access.buffer), "global")
            self.packs.append((copy, text, mine))
        mine, access = mapping.operands[2]
        if self.packed_layout(mine, access, mapping) is not None:
            if self.target is not None:
                raise ScheduleError(
                    f"auto_tensorize: `{access.buffer.name}` does not lie as `{self.intrin.name}` "
                    "writes it; give no target, and schedule the rest by hand",
                    func=self.sch.func,
                )
            copy = self.sch.cache_write(self.block, 0, "global")
            text = str(self.packed_layout(mine, access, mapping))
            self.sch.transform_layout(copy, "read", 0, text)

    def packed_layout(self, mine: Buffer, access: BufferLoad, mapping: Mapping) -> str | None:
        """The index map to a layout in which the intrinsic's part of an operand lies together, in
        its order; None when the operand lies so already."""
        steps = self.steps(mine)
        sizes = {bound.var: size for _, size, bound in mapping.axes}
        wanted = {bound.var: steps[var] for var, _, bound in mapping.axes if var in steps}
        if self.lies_so(access, wanted):
            return None
        names = [f"d{dim}" for dim in range(len(access.indices))]
        places: dict[Var, str] = {}
        for name, index in zip(names, access.indices, strict=True):
            for var in wanted:
                if index is var:
                    places[var] = name
                elif uses_var(index, var):
                    raise ScheduleError(
                        f"auto_tensorize: `{var.name}` indexes `{access.buffer.name}` as `{index}`"
                        "; only plain indices can be packed",
                        func=self.sch.func,
                    )
        parts = {places[var]: sizes[var] for var in wanted}
        front = [f"{name} // {parts[name]}" if name in parts else name for name in names]
        order = sorted(wanted, key=lambda var: -wanted[var])
        terms = [
            f"{places[var]} % {sizes[var]}" + (f" * {wanted[var]}" if wanted[var] != 1 else "")
            for var in order
        ]
        return f"lambda {', '.join(names)}: ({', '.join(front)}, {' + '.join(terms)})"

    def steps(self, mine: Buffer) -> dict[Var, int]:
        """The element strides of an operand of the intrinsic along its loops."""
        loads = (*(_factors(self.intrin) or ()), _load_of(self.intrin))
        access = next(load for load in loads if load.buffer is mine)
        form = linear_form(access.indices[-1], self.intrin.nest.variables)
        assert form is not None
        return {var: count for var, count in form.coefficients.items() if count}

    def lies_so(self, access: BufferLoad, wanted: dict[Var, int]) -> bool:
        """Whether a row-major operand has the intrinsic's strides."""
        stride = 1
        strides: list[int | None] = []
        for dim in reversed(access.buffer.static_shape or [None] * access.buffer.ndim):
            strides.append(stride)
            stride = None if dim is None or stride is None else stride * dim  # type: ignore[assignment]
        strides.reverse()
        for var, want in wanted.items():
            given = [
                step if index is var else None
                for index, step in zip(access.indices, strides, strict=True)
                if uses_var(index, var)
            ]
            if given != [want]:
                return False
        return True

    def finish_packs(self, at: LoopRef | None) -> None:
        """Put the packed copies in their layout, inside `at` if given, and let an intrinsic make
        them where one can."""
        sch = self.sch
        for copy, text, mine in self.packs:
            if at is not None:
                sch.compute_at(copy, at)
            sch.transform_layout(copy, "write", 0, text)
            self.pack_by_intrinsic(copy, mine)

    def pack_by_intrinsic(self, copy: BlockRef, mine: Buffer) -> None:
        sch = self.sch
        loops = sch.get_loops(copy)
        if len(loops) < 2:
            return
        for name in tensor_intrin.names():
            found = tensor_intrin.get(name)
            if not name.startswith("pack") or found.description.params[0].dtype is not mine.dtype:  # type: ignore[attr-defined]
                continue
            (_, depth), (_, lanes) = found.nest.axes
            rows, columns = (as_int(sch.loop(loop).extent) for loop in loops[-2:])
            if rows is None or columns is None or rows % depth or columns % lanes:
                continue
            before, steps = sch.func, len(sch.trace)
            try:
                k_0, k_1 = sch.split(loops[-2], [None, depth])
                j_0, j_1 = sch.split(loops[-1], [None, lanes])
                sch.reorder(k_0, j_0, k_1, j_1)
                sch.tensorize(k_1, name)
                return
            except ScheduleError:
                sch.set_func(before)
                del sch.trace.steps[steps:]


@dataclass(slots=True)
class _Tiling:
    """Register tiles of instructions, panels of the packed operand, and parallel tasks."""

    work: _Work
    mapping: Mapping
    outer: dict[IterVar, LoopRef]
    parts: list[LoopRef]
    out: BlockRef
    target: Target

    def run(self) -> BlockRef:
        sch, work = self.work.sch, self.work
        spatial = [b for b in self.outer if b.kind is IterKind.SPATIAL]
        reduce = [self.outer[b] for b in self.outer if b.kind is IterKind.REDUCTION]
        column = self.column(spatial)
        rows = [b for b in spatial if b is not column]
        row = rows[-1] if rows else None
        others = [self.outer[b] for b in rows[:-1]]
        width = self.extent(self.outer[column])
        height = None if row is None else self.extent(self.outer[row])
        depth = math.prod(self.extent(loop) or 1 for loop in reduce)
        tile = choose_tile(
            1 if row is None else height, width, self.target, depth=depth, max_rows=MATRIX_ROWS
        )
        panels, vectors = sch.split(self.outer[column], [None, tile.vectors])
        tiled = [vectors]
        walked: list[LoopRef] = []
        if row is not None:
            tiles, inside = sch.split(self.outer[row], [None, tile.rows])
            walked, tiled = [tiles], [inside, vectors]
        sch.reorder(*others, panels, *walked, *reduce, *tiled, *self.parts)
        around = walked[0] if walked else panels
        tasks = sch.fuse(*others, panels) if others else panels
        work.finish_packs(tasks)
        block = sch.tensorize(self.parts[0], work.intrin.name)
        sch.reverse_compute_at(self.out, around)
        init = sch.decompose_reduction(block, reduce[0])
        for name in (block, init):
            loops = sch.get_loops(name)
            for loop in loops[-len(tiled) :]:
                sch.unroll(loop)
        self.lanes(self.out, around)
        sch.parallel(tasks)
        self.finish_copies()
        return block

    def column(self, spatial: list[IterVar]) -> IterVar:
        """The mapped spatial variable that the output has last."""
        mapped = [bound.var.name for _, _, bound in self.mapping.axes]
        found = [bound for bound in spatial if bound.var.name in mapped]
        if not found:
            raise ScheduleError("auto_tensorize: the intrinsic has no spatial loop to tile")
        return found[-1]

    def extent(self, loop: LoopRef) -> int | None:
        return as_int(self.work.sch.loop(loop).extent)

    def lanes(self, block: BlockRef, around: LoopRef) -> None:
        """Vectorize what moves the tile to its place."""
        sch = self.work.sch
        loops = sch.get_loops(block)
        inner = loops[loops.index(around) + 1 :]
        if not inner:
            return
        lanes = self.target.vector_lanes(32)
        extent = self.extent(inner[-1])
        if extent is not None and extent > lanes and extent % lanes == 0:
            inner[-1:] = sch.split(inner[-1], [None, lanes])
        for loop in inner[:-1]:
            sch.unroll(loop)
        sch.vectorize(inner[-1])

    def finish_copies(self) -> None:
        """Padding, shifted operands and sums: rows in parallel, columns in lanes."""
        sch = self.work.sch
        known = {block.name for block in sch.get_blocks()}
        for copy in self.work.copies:
            if copy.name not in known:
                continue
            loops = sch.get_loops(copy)
            node = sch.block(copy)
            if not loops:
                continue
            lanes = self.target.vector_lanes(node.writes[0].buffer.dtype.bits)
            last, inner = sch.split(loops[-1], [None, min(lanes, self.extent(loops[-1]) or lanes)])
            sums = any(bound.kind is IterKind.REDUCTION for bound in node.iters)
            if sums and len(loops) > 1:
                sch.reorder(last, *loops[:-1], inner)
                sch.decompose_reduction(copy, loops[0])
            sch.vectorize(inner)
            first = last if sums or len(loops) == 1 else loops[0]
            sch.parallel(first)
