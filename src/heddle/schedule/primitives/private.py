# SPDX-License-Identifier: Apache-2.0
"""Which buffers live within one iteration of a loop, so that each part of it may have its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from heddle.ir.expr import GE, GT, LE, LT, Expr, Var, as_int
from heddle.ir.walk import free_vars, substitute, uses_var
from heddle.schedule.affine import Box1, affine
from heddle.schedule.boxes import loop_domain, loops_between, region_box
from heddle.schedule.primitives.base import fail
from heddle.schedule.region import all_reads, expr_key
from heddle.schedule.state import State, blocks_below
from heddle.tir.build import TRUE
from heddle.tir.nodes import Block, Buffer, For, IfThenElse, IterKind, While
from heddle.tir.predicate import conjuncts

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule

_PLACES: Final = tuple(Var(f"p{position}") for position in range(16))
"""Variables that stand for the loops around a block, outermost first."""


def private_buffers(state: State, loop: For) -> list[Buffer]:
    """Intermediate buffers that only the blocks below `loop` use, and that carry nothing from one
    iteration to the next: the tail gets its own, so that each can be shrunk to its tile."""
    return [b for b in state.root.alloc_buffers if starts_and_ends_inside(state, loop, b)]


def starts_and_ends_inside(state: State, loop: For, buffer: Buffer) -> bool:
    """Whether only the blocks below `loop` use a buffer, and every iteration writes all that it
    reads. May say no where the answer is yes."""
    order = {block.name: number for number, block in enumerate(blocks_below(loop))}
    writers, readers = state.writers.get(buffer, []), state.readers.get(buffer, [])
    if not (writers or readers) or any(b.name not in order for b in (*writers, *readers)):
        return False
    return all(_starts_over(state, loop, writer) for writer in writers) and all(
        _is_covered(state, loop, buffer, reader, writers, order) for reader in readers
    )


def ordered_loops(state: State, buffer: Buffer) -> set[Var]:
    """The loops that a block which writes `buffer` must go through in order: what is in the buffer
    passes from one iteration of them to the next."""
    return {
        var
        for writer in state.writers.get(buffer, ())
        for bound in writer.iters
        if bound.kind is IterKind.ORDERED
        for var in free_vars(bound.binding)
    }


def is_rolling(writer: Block) -> bool:
    """Whether a block fills a rolling buffer: it runs in the order of a variable that its elements
    do not tell, because each takes the place of another."""
    ordered = {bound.var for bound in writer.iters if bound.kind is IterKind.ORDERED}
    places = [part.min for region in writer.writes for part in region.ranges]
    return bool(ordered) and not any(uses_var(place, ordered) for place in places)


def rolling_loop(state: State, block: Block) -> tuple[Buffer, For] | None:
    """A rolling buffer that `block` writes or reads, and its loop: the block has to stay there."""
    for buffer in dict.fromkeys(region.buffer for region in (*block.writes, *all_reads(block))):
        if any(map(is_rolling, state.writers.get(buffer, ()))):
            ordered = ordered_loops(state, buffer)
            for around in state.loops(block):
                if around.var in ordered:
                    return buffer, around
    return None


def _starts_over(state: State, loop: For, writer: Block) -> bool:
    """Whether the reductions of a block run from their first to their last step within one
    iteration of `loop`."""
    inner = {found.var for found in loops_between(state, loop, writer)}
    return all(
        set(free_vars(bound.binding)) <= inner
        for bound in writer.iters
        if bound.kind is not IterKind.SPATIAL
    )


def _is_covered(
    state: State,
    loop: For,
    buffer: Buffer,
    reader: Block,
    writers: Sequence[Block],
    order: Mapping[str, int],
) -> bool:
    """Whether all that `reader` reads of `buffer` was written before in the same iteration.

    Otherwise an earlier iteration may have left it there. May say no where the answer is yes.
    """
    before = [w for w in writers if order[w.name] < order[reader.name]]
    if reader in writers and reader.init is not None:
        before.append(reader)
    if any(_same_points(state, loop, buffer, writer, reader) for writer in before):
        return True
    written = [box for writer in before for box in _written_boxes(state, loop, buffer, writer)]
    values = {bound.var: bound.binding for bound in reader.iters}
    inner = loop_domain(loops_between(state, loop, reader))
    for region in all_reads(reader):
        if region.buffer is buffer:
            needed = region_box(region, values, inner)
            if not any(contains(box, needed, inner) for box in written):
                return False
    return True


def _same_points(state: State, loop: For, buffer: Buffer, writer: Block, reader: Block) -> bool:
    """Whether both blocks run through loops of the same extents and access the same element at
    each point: what is no box (loops that were fused and split again) often is that."""
    if any(type(stmt) in (IfThenElse, While) for stmt in state.path(writer)):
        return False
    shapes: list[object] = []
    for block in (writer, reader):
        loops = loops_between(state, loop, block)
        places = dict(zip((n.var for n in loops), _PLACES, strict=False))
        values: dict[Var, Expr] = {b.var: substitute(b.binding, places) for b in block.iters}
        regions = block.writes if block is writer else all_reads(block)
        accessed = {
            tuple(expr_key(substitute(part.min, values)) for part in region.ranges)
            for region in regions
            if region.buffer is buffer and all(as_int(part.extent) == 1 for part in region.ranges)
        }
        whole = sum(region.buffer is buffer for region in regions) == 1 == len(accessed)
        extents = tuple(as_int(n.extent) for n in loops)
        if not whole or None in extents or len(loops) > len(_PLACES):
            return False
        predicate = substitute(block.predicate, {**values, **places})
        shapes.append((extents, accessed, expr_key(predicate)))
    return shapes[0] == shapes[1]


def _written_boxes(
    state: State, loop: For, buffer: Buffer, writer: Block
) -> Iterator[list[Box1 | None]]:
    """The boxes of `buffer` that `writer` fills in one iteration of `loop`, if that is certain.

    Elements outside the writer's domain, which nobody ever writes, may be among them."""
    path = state.path(writer)
    if any(type(stmt) in (IfThenElse, While) for stmt in path[path.index(loop) :]):
        return
    if not stays_in_domain(writer):
        return
    inner = loop_domain(loops_between(state, loop, writer))
    values = {bound.var: bound.binding for bound in writer.iters}
    for region in writer.writes:
        if region.buffer is not buffer or any(as_int(part.extent) != 1 for part in region.ranges):
            continue
        points = [substitute(part.min, values) for part in region.ranges]
        used = [var for point in points for var in set(free_vars(point)) if var in inner]
        if len(set(used)) == len(used):  # otherwise not a box: a diagonal
            boxes = region_box(region, values, inner)
            if contains(boxes, boxes, inner) and all(box and box.exact for box in boxes):
                yield boxes


def stays_in_domain(block: Block) -> bool:
    """Whether the predicate of `block` only keeps iteration variables between constants: what one
    iteration leaves out for that, all leave out."""
    spatial = [affine(b.binding) for b in block.iters if b.kind is IterKind.SPATIAL]
    writes = [part.min for region in block.writes for part in region.ranges]
    plain = {found.var for found in block.iters if found.var in writes}
    if block.predicate is not TRUE and len(plain) < len(spatial):
        return False
    for part in conjuncts(block.predicate):
        if as_int(part) == 1:
            continue
        if not isinstance(part, (LT, LE, GT, GE)):
            return False
        difference = affine(part.a).plus(affine(part.b), -1)
        if not any(
            not difference.plus(binding, sign).terms for binding in spatial for sign in (1, -1)
        ):
            return False
    return True


def contains(
    outer: Sequence[Box1 | None],
    box: Sequence[Box1 | None],
    inner: Mapping[Var, object],
) -> bool:
    """Whether `box` certainly lies in `outer`, the same for all values of the `inner` loops."""
    for around, part in zip(outer, box, strict=True):
        if around is None or part is None:
            return False
        first = part.low.plus(around.low, -1)
        last = affine(around.extent).plus(affine(part.extent), -1).plus(first, -1)
        if first.terms or last.terms or first.constant < 0 or last.constant < 0:
            return False
        if any(uses_var(e, set(inner)) for e in (part.low.expr(), part.extent)):
            return False
    return True


def check_stays(sch: Schedule, name: str, node: Block) -> None:
    """Raise when `node` fills or reads a rolling buffer: elsewhere, the window has moved on."""
    found = rolling_loop(sch.state, node)
    if found is not None:
        buffer, loop = found
        raise fail(
            sch,
            name,
            f"`{buffer.name}` is a rolling buffer along loop `{loop.var.name}`, so that block "
            f"`{node.name}` has to stay there; call {name} before rolling_buffer",
            loop,
            node,
        )
