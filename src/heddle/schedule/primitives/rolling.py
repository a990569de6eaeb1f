# SPDX-License-Identifier: Apache-2.0
"""`rolling_buffer`: what a window slides over is kept in a buffer of the window's size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heddle.ir.expr import GE, GT, LE, LT, Expr, Var, as_int, const, logical_and, logical_or
from heddle.ir.walk import rewrite, substitute, uses_var
from heddle.schedule.affine import Affine, Box1, affine
from heddle.schedule.boxes import loop_domain, loops_between, needed_box, region_box
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.primitives.inline import intermediate
from heddle.schedule.primitives.private import contains
from heddle.schedule.refs import BlockLike, LoopRef
from heddle.schedule.region import has_loops
from heddle.tir.build import load, store
from heddle.tir.nodes import (
    Block,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    For,
    ForKind,
    IterKind,
    IterVar,
    Range,
    Seq,
    Stmt,
)
from heddle.tir.predicate import conjuncts

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule

_NAME = "rolling_buffer"


@primitive
def rolling_buffer(sch: Schedule, block: BlockLike, loop: LoopRef) -> None:
    """Keep what one iteration of a loop computes for the next: a window that slides over a buffer
    computes only the rows that are new to it.

    >>> sch = Schedule(blurred())
    >>> i, j, k = sch.get_loops("C")
    >>> sch.compute_at("B", i)
    >>> sch.rolling_buffer("B", i)
    >>> print(sketch(sch.func))
    B = alloc((3, 8))
    for i in range(14):
        for ax0, ax1 in grid(3, 8):
            if i < 1 or 1 < ax0:
                B[(i + ax0) % 3, ax1] = A[i + ax0, ax1] + 1.0
        for j, k in grid(8, 3):
            with init: C[i, j] = 0.0
            C[i, j] = C[i, j] + B[(i + k) % 3, j]

    The first iteration fills the window, each later one the rows by which it moves on; the buffer
    has one row for each in the window and is used in circles. The block must be computed inside the
    loop (compute_at), and exactly one dimension of what an iteration computes may move along the
    loop, by the same number of rows each time. From then on the iterations run in order, and the
    block and those that read the buffer stay where they are.
    """
    node, top = sch.block(block), sch.state.loop(loop.var)
    buffer, readers = _rolled(sch, node, top, loop)
    shared = _shared_loops(sch, node, readers, top)
    window = _window(sch, node, buffer, shared)
    for reader in readers:
        _check_reader(sch, reader, buffer, window, shared[-1])
    _check_predicate(sch, node, window, top)
    shape = list(buffer.shape)
    shape[window.dim] = const(window.size)
    new: Buffer = buffer.replace(shape=tuple(shape), strides=None)
    # The elements do not tell that the iterations depend on each other: this variable does.
    order = IterVar(top.extent, IterKind.ORDERED, top.var - top.min, Var(f"v{loop.name}"))
    guard = logical_or(top.var < top.min + 1, window.is_new)
    kept = node.replace(iters=(*node.iters, order), predicate=logical_and(node.predicate, guard))
    changes: dict[Stmt, Stmt | None] = {node: _in_circles(kept, buffer, new, window.dim)}
    changes |= {reader: _in_circles(reader, buffer, new, window.dim) for reader in readers}
    func = sch.state.edited(changes)
    root: Any = func.body
    buffers = tuple(new if found is buffer else found for found in root.alloc_buffers)
    sch.set_func(func.replace(body=root.replace(alloc_buffers=buffers)))


@dataclass(frozen=True, slots=True)
class _Window:
    """The rows `box` of dimension `dim` that one iteration computes, `size` of them; the next one
    computes those `step` further. The block computes `row`, number `offset` of them."""

    dim: int
    box: Box1
    size: int
    step: int
    row: Affine
    offset: Affine
    moving: frozenset[Var]
    """The loops that the row depends on, from the rolling one on."""

    @property
    def is_new(self) -> Expr:
        """Whether the iteration before has not computed the row."""
        offset = self.offset.expr()
        return offset >= self.size - self.step if self.step > 0 else offset < -self.step


def _rolled(sch: Schedule, node: Block, top: For, loop: LoopRef) -> tuple[Buffer, list[Block]]:
    """The buffer that `node` writes, and the blocks that read it: all of them after it in `top`."""
    buffers = list(dict.fromkeys(region.buffer for region in node.writes))
    if len(buffers) != 1:
        names = [buffer.name for buffer in buffers]
        raise fail(
            sch, _NAME, f"block `{node.name}` must write one buffer, it writes {names}", node
        )
    buffer = buffers[0]
    intermediate(sch, _NAME, node, buffer)
    ordered = [b.var.name for b in node.iters if b.kind is IterKind.ORDERED]
    if ordered or any(region.buffer is buffer for region in node.reads):
        why = f"runs in the order of `{ordered[0]}`" if ordered else f"updates `{buffer.name}`"
        raise fail(sch, _NAME, f"block `{node.name}` {why}: every run of it counts", node)
    if top not in sch.state.loops(node):
        raise fail(
            sch,
            _NAME,
            f"{loop} is not around block `{node.name}`; call compute_at first",
            loop,
            node,
        )
    readers = sch.state.readers.get(buffer, [])
    if not readers:
        raise fail(sch, _NAME, f"nothing reads what block `{node.name}` writes", node)
    order = list(sch.state.block_links)
    for reader in readers:
        if top not in sch.state.loops(reader):
            raise fail(
                sch,
                _NAME,
                f"block `{reader.name}` reads `{buffer.name}` outside {loop}; choose a loop around "
                "all that read it",
                reader,
            )
        if order.index(reader.name) < order.index(node.name):
            raise fail(
                sch,
                _NAME,
                f"block `{reader.name}` reads `{buffer.name}` before block `{node.name}` writes it "
                "in the same iteration",
                reader,
            )
    return buffer, readers


def _shared_loops(sch: Schedule, node: Block, readers: Sequence[Block], top: For) -> list[For]:
    """The loops around the block and its readers from `top` on, outermost first."""
    paths = [sch.state.path(user) for user in (node, *readers)]
    common = [steps[0] for steps in zip(*paths, strict=False) if len(set(steps)) == 1]
    loops = [stmt for stmt in common if type(stmt) is For]
    shared = loops[loops.index(top) :]
    for found in shared:
        in_order = found.kind in (ForKind.SERIAL, ForKind.UNROLLED)
        if not in_order or "thread" in found.annotations:
            how = "bound to threads" if in_order else found.kind.value
            raise fail(
                sch,
                _NAME,
                f"loop `{found.var.name}` is {how}, and its iterations would share the buffer; "
                "make it serial",
                found,
            )
    inside = paths[0][paths[0].index(top) + 1 : -1]
    for stmt in inside:
        if type(stmt) is For and any(uses_var(e, top.var) for e in (stmt.min, stmt.extent)):
            raise fail(
                sch,
                _NAME,
                f"the bounds of loop `{stmt.var.name}` depend on loop `{top.var.name}`: the window "
                "would change its size",
                stmt,
            )
        if type(stmt) not in (For, Seq):
            raise fail(
                sch,
                _NAME,
                f"a {type(stmt).__name__} inside loop `{top.var.name}` decides whether block "
                f"`{node.name}` runs; only loops may be between them",
                node,
            )
    return shared


def _window(sch: Schedule, node: Block, buffer: Buffer, shared: Sequence[For]) -> _Window:
    """The rows that the block computes in one iteration of the loops `shared`."""
    top, site = shared[0], shared[-1]
    region = node.writes[0]
    if len(node.writes) > 1 or any(as_int(part.extent) != 1 for part in region.ranges):
        raise fail(
            sch,
            _NAME,
            f"block `{node.name}` writes boxes of `{buffer.name}`; call {_NAME} before blockize",
            node,
        )
    values: dict[Var, Expr] = {bound.var: bound.binding for bound in node.iters}
    indices = [substitute(part.min, values) for part in region.ranges]
    moving = [dim for dim, index in enumerate(indices) if uses_var(index, top.var)]
    if len(moving) != 1:
        raise fail(
            sch,
            _NAME,
            f"{len(moving)} dimensions of `{buffer.name}` move along loop `{top.var.name}`, and "
            f"exactly one must: block `{node.name}` writes "
            f"[{', '.join(str(index) for index in indices)}]",
            node,
        )
    dim = moving[0]
    inner = loop_domain(loops_between(sch.state, site, node))
    box = region_box(region, values, inner)[dim]
    used = {var for var in inner if uses_var(indices[dim], var)}
    others = [index for n, index in enumerate(indices) if n != dim]
    terms = {} if box is None else {a: c for a, c in box.low.terms.values() if type(a) is Var}
    steady = box is not None and not any(
        type(atom) is not Var and uses_var(atom, {n.var for n in shared})
        for atom, _ in box.low.terms.values()
    )
    if (
        not steady
        or top.var not in terms
        or any(n.var in terms for n in shared[1:])
        or any(uses_var(index, used) for index in others)
    ):
        raise fail(
            sch,
            _NAME,
            f"row `{indices[dim]}` of block `{node.name}` must be a multiple of loop "
            f"`{top.var.name}` plus loops of that block alone, for the window to move evenly",
            node,
        )
    assert box is not None
    size, step = as_int(box.extent), terms[top.var]
    if size is None or not box.exact:
        raise fail(
            sch,
            _NAME,
            f"block `{node.name}` must compute a window of constant size and without gaps, it "
            f"computes {box.extent} rows at `{indices[dim]}`",
            node,
        )
    if abs(step) >= size:
        raise fail(
            sch,
            _NAME,
            f"loop `{top.var.name}` moves the window of `{buffer.name}` by {abs(step)} rows, and "
            f"it has {size}: no iteration needs rows of another (compact_buffers shrinks the "
            "buffer)",
            top,
        )
    row = affine(indices[dim])
    offset = row.plus(box.low, -1)
    return _Window(dim, box, size, step, row, offset, frozenset({top.var, *used}))


def _check_reader(sch: Schedule, reader: Block, buffer: Buffer, window: _Window, site: For) -> None:
    """Raise unless `reader` reads rows of the window only."""
    if has_loops(reader):
        raise fail(
            sch,
            _NAME,
            f"block `{reader.name}` reads boxes of `{buffer.name}`; call {_NAME} before blockize",
            reader,
        )
    needed = needed_box(sch.state, buffer, [reader], site, "reads")[window.dim]
    if not contains([window.box], [needed], {}):
        rows = "an unknown part" if needed is None else f"{needed.extent} rows"
        raise fail(
            sch,
            _NAME,
            f"block `{reader.name}` reads {rows} of dimension {window.dim} of `{buffer.name}`, "
            f"which must lie in the {window.size} rows from `{window.box.low.expr()}` that the "
            "same iteration computes",
            reader,
        )


def _check_predicate(sch: Schedule, node: Block, window: _Window, top: For) -> None:
    """Raise unless the rows that an iteration leaves out are left out by all, or are those of all
    iterations from some one on."""
    moving = set(window.moving)
    for part in conjuncts(node.predicate):
        if not uses_var(part, moving):
            continue
        if isinstance(part, (LT, LE, GT, GE)):
            less = isinstance(part, (LT, LE))
            difference = affine(part.a).plus(affine(part.b), -1)
            sign = 1 if less else -1
            # On the row itself, or on the rolling loop alone and true until it is false.
            ends = {a: c * sign for a, c in difference.terms.values() if uses_var(a, moving)}
            if list(ends) == [top.var] and ends[top.var] > 0:
                continue
            rests = (difference.plus(window.row, by) for by in (1, -1))
            if any(not uses_var(rest.expr(), moving) for rest in rests):
                continue
        raise fail(
            sch,
            _NAME,
            f"block `{node.name}` runs only where `{part}`, so that not every iteration of loop "
            f"`{top.var.name}` computes its rows; call {_NAME} before splitting or padding",
            node,
        )


def _in_circles(block: Block, old: Buffer, new: Buffer, dim: int) -> Block:
    """`block` with its accesses to `old` in `new`, in circles along dimension `dim`."""

    def place(indices: Sequence[Expr]) -> list[Expr]:
        return [i % new.shape[dim] if n == dim else i for n, i in enumerate(indices)]

    def region(found: BufferRegion) -> BufferRegion:
        if found.buffer is not old:
            return found
        starts = place([part.min for part in found.ranges])
        extents = [part.extent for part in found.ranges]
        return BufferRegion(new, tuple(map(Range, starts, extents)))

    handlers: dict[type, Callable[[Any], Any]] = {
        BufferLoad: lambda n: load(new, place(n.indices)) if n.buffer is old else n,
        BufferStore: lambda n: store(new, n.value, place(n.indices)) if n.buffer is old else n,
        BufferRegion: region,
    }
    result: Block = rewrite(block, handlers)
    return result
