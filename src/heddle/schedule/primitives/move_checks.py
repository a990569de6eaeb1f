# SPDX-License-Identifier: Apache-2.0
"""What must hold before a block moves into other loops: everything that it reads is there by then,
and everything that it made outside is made still."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

from heddle.arith import Analyzer
from heddle.ir.expr import Call, Expr, Var, as_int
from heddle.ir.walk import post_order, uses_var
from heddle.schedule.affine import Affine, Around, Box1, affine
from heddle.schedule.boxes import loop_domain, needed_box, region_box
from heddle.schedule.domain import what_narrows
from heddle.schedule.primitives.base import fail
from heddle.schedule.primitives.private import stays_in_domain
from heddle.schedule.refs import LoopRef
from heddle.schedule.region import all_reads, expr_key
from heddle.schedule.state import blocks_below, walk
from heddle.tir.build import TRUE
from heddle.tir.nodes import Block, Buffer, BufferLoad, BufferStore, For, IterKind, IterVar, Stmt

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule

Domains: TypeAlias = "dict[Var, Box1]"
"""The values that iteration variables take in a new place."""


def check_evaluable(
    sch: Schedule, node: Block, buffer: Buffer, box: list[Box1 | None], consumers: Iterable[Block]
) -> None:
    """Raise where what other buffers tell decides what is needed, and a consumer looks at them only
    where a condition holds: elsewhere there may be nothing to look at."""
    places = [part.low.expr() for part in box if part is not None]
    if not any(isinstance(found, BufferLoad) for place in places for found in post_order(place)):
        return
    for consumer in consumers:
        why = what_narrows(sch.state, consumer)
        if consumer.predicate is not TRUE:
            why = f"has the predicate `{consumer.predicate}`"
        if why:
            raise fail(
                sch,
                "compute_at",
                f"block `{consumer.name}` reads `{buffer.name}` at places that another buffer "
                f"tells, and {why}; move block `{node.name}` before splitting the loop",
                consumer,
            )


def users(table: dict[Buffer, list[Block]], buffers: Iterable[Buffer], but: Block) -> list[Block]:
    found = {
        user.name: user
        for buffer in buffers
        for user in table.get(buffer, ())
        if user.name != but.name
    }
    return list(found.values())


def check_complete(
    sch: Schedule, name: str, node: Block, producers: list[Block], shared: list[For], loop: LoopRef
) -> None:
    """Raise when a loop that `node` moves into carries a reduction of what it reads."""
    for producer in producers:
        around = set(sch.state.loops(producer))
        for bound in producer.iters:
            for outer in shared:
                if (
                    bound.kind is not IterKind.SPATIAL
                    and outer in around
                    and uses_var(bound.binding, outer.var)
                ):
                    raise fail(
                        sch,
                        name,
                        f"loop `{outer.var.name}` carries the {bound.kind.value} variable "
                        f"`{bound.var.name}` of block `{producer.name}`: inside {loop}, block "
                        f"`{node.name}` would read unfinished values; choose a loop around it",
                        outer,
                    )


def check_whole(
    sch: Schedule,
    name: str,
    node: Block,
    producers: list[Block],
    inside: set[str],
    loop: LoopRef,
) -> None:
    """Raise when `node` is only a part of what writes its buffer, or the loop makes only a part
    of what `node` reads: main loop and tail of a split are such parts."""
    for region in node.writes:
        for other in sch.state.writers[region.buffer]:
            if other.name != node.name:
                raise fail(
                    sch,
                    name,
                    f"block `{other.name}` writes `{region.buffer.name}` as well as "
                    f"`{node.name}`; move the block before splitting or decomposing it",
                    other,
                )
    for producer in producers:
        read = {region.buffer for region in all_reads(producer)}
        for region in producer.writes:
            others = [p for p in sch.state.writers[region.buffer] if p.name not in inside]
            # An update in place finishes what an init outside the loop has begun.
            if region.buffer in read:
                others = [p for p in others if _elsewhere(sch, p, producer, region.buffer)]
            if others:
                raise fail(
                    sch,
                    name,
                    f"block `{others[0].name}` outside {loop} writes another part of "
                    f"`{region.buffer.name}`, which `{node.name}` reads",
                    others[0],
                )


def _elsewhere(sch: Schedule, other: Block, producer: Block, buffer: Buffer) -> bool:
    """Whether a block that updates `buffer` in place does so to other elements than `producer`."""
    if not any(region.buffer is buffer for region in other.reads):
        return False
    boxes = []
    for block in (other, producer):
        inner = loop_domain(sch.state.loops(block))
        values: dict[Var, Expr] = {bound.var: bound.binding for bound in block.iters}
        written = next(region for region in block.writes if region.buffer is buffer)
        box = region_box(written, values, inner)
        boxes.append([p and (expr_key(p.low.expr()), expr_key(p.extent)) for p in box])
    return boxes[0] != boxes[1]


def check_beside(
    sch: Schedule, nest: Stmt, inside: set[str], shared: list[For], around: Around
) -> None:
    """Raise when the block of `nest` reads more of a buffer than the loops that it moves into have
    written by then: by blocks beside the innermost of these loops, which make a part at a time."""
    loops = [stmt for stmt in walk(nest) if type(stmt) is For]
    node = next(stmt for stmt in walk(nest) if type(stmt) is Block)
    values: dict[Var, Expr] = {bound.var: bound.binding for bound in node.iters}
    for region in all_reads(node):
        beside: dict[For, list[Block]] = {}
        for writer in sch.state.writers.get(region.buffer, ()):
            common = [loop for loop in sch.state.loops(writer) if loop in shared]
            if common and writer.name not in inside:
                beside.setdefault(common[-1], []).append(writer)
        for loop, writers in beside.items():
            made = needed_box(sch.state, region.buffer, writers, loop, "writes")
            read = region_box(region, values, loop_domain(loops))
            for size, part, wanted in zip(region.buffer.shape, made, read, strict=True):
                if part is None or is_whole(part, size, around):
                    continue
                if wanted is None or not _holds(part, wanted, around):
                    raise fail(
                        sch,
                        "reverse_compute_at",
                        f"block `{node.name}` would read all that block `{writers[0].name}` writes "
                        f"to `{region.buffer.name}`, of which an iteration of loop "
                        f"`{loop.var.name}` makes a part; choose a loop further out",
                        writers[0],
                    )


def check_runs(sch: Schedule, nest: Stmt, node: Block, entered: list[For], around: Around) -> None:
    """Raise when a loop that the block moves into, and that does not say which of its elements are
    computed, might run no iteration at all."""
    placed = next(stmt for stmt in walk(nest) if type(stmt) is Block)
    for loop in entered:
        used = any(uses_var(bound.binding, loop.var) for bound in placed.iters)
        if not used and not around.nonnegative(affine(loop.extent).plus(Affine({}, 1), -1)):
            raise fail(
                sch,
                "reverse_compute_at",
                f"loop `{loop.var.name}` of extent `{loop.extent}` may not run at all, and block "
                f"`{node.name}` must; choose a loop around it",
                loop,
            )


def _holds(box: Box1, part: Box1, around: Around) -> bool:
    """Whether `part` is certainly within `box`."""
    start = part.low.plus(box.low, -1)
    spare = affine(box.extent).plus(affine(part.extent), -1).plus(start, -1)
    return around.nonnegative(start) and around.nonnegative(spare)


def check_needed(sch: Schedule, name: str, node: Block, producers: list[Block]) -> None:
    """Raise when a producer runs in a part of the iterations only, while `node` reads its result
    under a condition of its own: it runs elsewhere too, and cannot follow."""
    partial = {r.buffer for p in producers if p.predicate is not TRUE for r in p.writes}
    for found in post_order(node.body):
        if type(found) is Call and found.name == "if_then_else":
            for load in post_order(found):
                if type(load) is BufferLoad and load.buffer in partial:
                    raise fail(
                        sch,
                        name,
                        f"block `{node.name}` reads `{load.buffer.name}` under a condition, and "
                        "the block that writes it runs in a part of the iterations only",
                        node,
                    )


def check_indices(sch: Schedule, name: str, node: Block, producers: list[Block]) -> None:
    """Raise when `node` takes indices from a buffer of which an iteration makes less than a box:
    the rest of the box, which it reads too, holds nothing that may be an index."""
    partial = {r.buffer for p in producers if not stays_in_domain(p) for r in p.writes}
    for access in post_order(node.body):
        if isinstance(access, (BufferLoad, BufferStore)):
            for load in (found for index in access.indices for found in post_order(index)):
                if type(load) is BufferLoad and load.buffer in partial:
                    raise fail(
                        sch,
                        name,
                        f"block `{node.name}` accesses `{access.buffer.name}` where "
                        f"`{load.buffer.name}` tells, and the block that writes that runs in a "
                        "part of the iterations only; move the block before splitting the loop",
                        node,
                    )


def check_order(
    sch: Schedule, name: str, node: Block, producers: list[Block], loop: LoopRef
) -> None:
    """Raise when moving `node` back to `loop` takes it before another block that it reads, or
    past one that reads it."""
    order = {block: n for n, block in enumerate(sch.state.block_links)}
    here = max(order[block.name] for block in blocks_below(sch.state.loop(loop.var)))
    for producer in users(sch.state.writers, [r.buffer for r in all_reads(node)], node):
        if order[producer.name] > here:
            raise fail(
                sch,
                name,
                f"block `{node.name}` also reads `{producer.name}`, which runs after {loop}",
                node,
            )
    for consumer in users(sch.state.readers, [r.buffer for r in node.writes], node):
        if order[consumer.name] < here and consumer.name not in {p.name for p in producers}:
            raise fail(
                sch, name, f"block `{consumer.name}` reads `{node.name}` before {loop}", consumer
            )


def is_whole(box: Box1, size: Expr, around: Around) -> bool:
    """Whether a box certainly holds [0, size)."""
    reach = box.low.plus(affine(box.extent)).plus(affine(size), -1)
    negated = Affine({}, 0).plus(box.low, -1)
    return around.nonnegative(negated) and around.nonnegative(reach)


def check_reads_all(
    sch: Schedule, node: Block, bound: IterVar, offset: int, size: Expr, around: Around
) -> None:
    """`check_covered` where sizes are symbolic: every step of the variable must read one of the
    `size` elements in the dimension that it walks through from `offset` on."""
    spare = affine(size).plus(affine(bound.extent), -1).plus(Affine({}, offset), -1)
    if offset < 0 or not around.nonnegative(spare):
        raise fail(
            sch,
            "reverse_compute_at",
            f"variable `{bound.var.name}` of block `{node.name}` runs over {bound.extent} steps, "
            f"and some read nothing that the loop produces ({size} elements, from {offset} on); "
            "split that part off first (decompose_padding)",
            node,
        )


def check_covered(sch: Schedule, node: Block, domains: Domains, shared: list[For]) -> None:
    """Raise when elements of `node` that read nothing of the producers would no longer be computed
    (the edge of a padded copy): together, the boxes must be the whole domain."""
    analyzer = Analyzer()
    for loop in shared:
        analyzer.bind(loop.var, loop.min, loop.extent)
    for bound in node.iters:
        box, whole = domains.get(bound.var), as_int(bound.extent)
        length = None if box is None else as_int(box.extent)
        if box is None or whole is None or length is None:
            continue
        first = analyzer.bounds(box.low.expr())
        if first.lo > 0 or first.hi + length < whole:
            raise fail(
                sch,
                "reverse_compute_at",
                f"variable `{bound.var.name}` of block `{node.name}` would run over "
                f"[{first.lo}, {first.hi + length}) instead of [0, {whole}): the rest reads "
                "nothing that the loop produces; split that part off first (decompose_padding)",
                node,
            )
