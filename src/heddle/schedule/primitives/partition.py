# SPDX-License-Identifier: Apache-2.0
"""Primitives that cut a loop into consecutive ones, and that join neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from heddle.arith import Analyzer
from heddle.ir.expr import Expr, Var, as_int, const
from heddle.ir.structural import structural_equal
from heddle.ir.walk import free_vars, uses_var
from heddle.schedule.affine import Box1
from heddle.schedule.boxes import loop_domain, loops_between, region_box
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.primitives.inline import add_buffers
from heddle.schedule.primitives.loops import rebind
from heddle.schedule.primitives.peel import copy_statement, without_inits
from heddle.schedule.primitives.private import private_buffers
from heddle.schedule.refs import LoopRef
from heddle.schedule.region import all_reads
from heddle.schedule.state import blocks_below, edit, walk
from heddle.tir.build import replace_buffers, seq, shape_symbols
from heddle.tir.nodes import Block, Buffer, For, ForKind, Seq, Stmt

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule


@primitive
def loop_partition(sch: Schedule, loop: LoopRef, factors: Sequence[int | None]) -> list[LoopRef]:
    """Cut a loop into consecutive loops of the given extents; one may be None: what is left.

    The first part keeps the blocks, the others get copies of them, called `<block>_part`.
    Predicates that always hold in a part vanish there.

    >>> sch = Schedule(chain())
    >>> (i,) = sch.get_loops("C")
    >>> sch.loop_partition(i, [4, None])
    [loop `i_0`, loop `i_1`]
    >>> print(sketch(sch.func))
    B = alloc((32,))
    for i in range(32):
        B[i] = A[i] + 1.0
    for i_0 in range(4):
        C[i_0] = B[i_0] * 2.0
    for i_1 in range(28):
        C[i_1 + 4] = B[i_1 + 4] * 2.0  # C_part

    The extent must be a constant. Returns the loops in the order in which they run.
    """
    old = sch.state.loop(loop.var)
    extents = _extents(sch, loop, old, factors)
    private = private_buffers(sch.state, old)
    pieces: list[Stmt] = []
    variables: list[Var] = []
    copies: list[Buffer] = []
    done = 0
    names = set(sch.state.block_links)
    for number, extent in enumerate(extents):
        var = Var(f"{loop.name}_{number}", loop.var.dtype)
        body = old.body
        if number:
            fresh = {b: b.replace(name=f"{b.name}_part{number}") for b in private}
            copies += fresh.values()
            body = copy_statement(sch.state, replace_buffers(body, fresh), "_part", taken=names)
            body = without_inits(body, old.var)
        body = rebind(body, {old.var: old.min + (var + done)})
        body = _simpler(sch, old, body, var, extent)
        pieces.append(For(const(0), const(extent), ForKind.SERIAL, var, body, old.annotations))
        variables.append(var)
        done += extent
    sch.change({old: seq(*pieces)})
    if copies:
        sch.set_func(add_buffers(sch.func, *copies))
    return [LoopRef(var) for var in variables]


def _extents(sch: Schedule, loop: LoopRef, old: For, factors: Sequence[int | None]) -> list[int]:
    name = "loop_partition"
    if old.kind is not ForKind.SERIAL:
        raise fail(sch, name, f"{loop} is {old.kind.value}; partition it before annotating it")
    size = as_int(old.extent)
    if size is None:
        raise fail(sch, name, f"the extent of {loop} is not a constant; use split with tail='peel'")
    given = sum(factor for factor in factors if factor is not None)
    rest = size - given
    if rest < (1 if None in factors else 0) or (None not in factors and rest):
        wanted = "fewer than" if None in factors else "exactly"
        raise fail(
            sch,
            name,
            f"the parts {list(factors)} of {loop} have {given} iterations, they must have {wanted} "
            f"its {size}",
        )
    return [rest if factor is None else factor for factor in factors]


def _simpler(sch: Schedule, old: For, body: Stmt, var: Var, extent: int) -> Stmt:
    """`body` with predicates simplified, now that the loop is shorter."""
    found = [b for b in blocks_below(body) if uses_var(b.predicate, var)]
    if not found:
        return body
    analyzer = Analyzer()
    used = {name for block in found for name in free_vars(block.predicate)}
    for symbol in used.intersection(shape_symbols(sch.func)):
        analyzer.bind(symbol, 0)
    for node in (*sch.state.path(old)[:-1], *walk(body)):
        if type(node) is For and node.var in used:
            analyzer.bind(node.var, node.min, node.extent)
    analyzer.bind(var, 0, extent)
    result = edit(body, {b: b.replace(predicate=analyzer.simplify(b.predicate)) for b in found})
    return body if result is None else result


@primitive
def merge(sch: Schedule, *loops: LoopRef) -> LoopRef:
    """Make one loop of neighbours with the same extent: their bodies run one after the other.

    >>> sch = Schedule(chain())
    >>> sch.merge(sch.get_loops("B")[0], sch.get_loops("C")[0])
    loop `i`
    >>> print(sketch(sch.func))
    B = alloc((32,))
    for i in range(32):
        B[i] = A[i] + 1.0
        C[i] = B[i] * 2.0

    What one of the loops writes and another reads or writes must lie in elements that belong to
    the same iteration of both. Returns the merged loop.
    """
    name = "merge"
    if len(loops) < 2:
        raise fail(sch, name, f"needs at least two loops, got {len(loops)}")
    nodes = [sch.state.loop(ref.var) for ref in loops]
    first = nodes[0]
    parent = sch.state.link(first)[0][1]
    siblings: tuple[Stmt, ...] = parent.stmts if type(parent) is Seq else (first,)
    start = siblings.index(first)
    if tuple(siblings[start : start + len(nodes)]) != tuple(nodes):
        raise fail(sch, name, "the loops must follow one another directly, in the order given")
    for ref, node in zip(loops[1:], nodes[1:], strict=True):
        same = structural_equal(node.extent, first.extent) and structural_equal(node.min, first.min)
        if not same or node.kind is not first.kind:
            raise fail(
                sch,
                name,
                f"{ref} and {loops[0]} must have the same extent and kind, got "
                f"{node.kind.value} {node.extent} and {first.kind.value} {first.extent}",
            )
    for number, later in enumerate(nodes):
        for earlier in nodes[:number]:
            _check_aligned(sch, earlier, later)
    bodies = [first.body, *(rebind(n.body, {n.var: first.var}) for n in nodes[1:])]
    changes: dict[Stmt, Stmt | None] = dict.fromkeys(nodes[1:])
    changes[first] = first.replace(body=seq(*bodies))
    sch.change(changes)
    return loops[0]


def _check_aligned(sch: Schedule, earlier: For, later: For) -> None:
    """Raise unless iteration i of one loop meets, in what is written, only iteration i of the
    other."""
    one, other = _touched(sch, earlier), _touched(sch, later)
    for buffer, boxes in one.items():
        if buffer not in other or not (boxes[1] or other[buffer][1]):
            continue
        regions = [(earlier, box) for box in boxes[0]] + [(later, box) for box in other[buffer][0]]
        if not any(_separates(regions, dim) for dim in range(buffer.ndim)):
            raise fail(
                sch,
                "merge",
                f"iterations of loop `{earlier.var.name}` and loop `{later.var.name}` meet in "
                f"elements of `{buffer.name}` that belong to different iterations: "
                + ", ".join(sorted({b.name for b in _users(sch, buffer, earlier, later)})),
            )


def _users(sch: Schedule, buffer: Buffer, *loops: For) -> list[Block]:
    found = [b for loop in loops for b in blocks_below(loop)]
    return [b for b in found if any(r.buffer is buffer for r in (*all_reads(b), *b.writes))]


Boxes = list[list[Box1 | None]]


def _touched(sch: Schedule, loop: For) -> dict[Buffer, tuple[Boxes, bool]]:
    """For each buffer, the boxes that one iteration touches and whether it is written."""
    found: dict[Buffer, tuple[Boxes, bool]] = {}
    for block in blocks_below(loop):
        inner = loop_domain(loops_between(sch.state, loop, block))
        values: dict[Var, Expr] = {bound.var: bound.binding for bound in block.iters}
        for regions, writes in ((all_reads(block), False), (block.writes, True)):
            for region in regions:
                boxes, written = found.get(region.buffer, ([], False))
                box = region_box(region, values, inner)
                found[region.buffer] = ([*boxes, box], written or writes)
    return found


def _separates(regions: Sequence[tuple[For, list[Box1 | None]]], dim: int) -> bool:
    """Whether in this dimension all boxes lie in [c * i + k, c * i + k + c) of iteration i."""
    common: object = None
    for loop, box in regions:
        part = box[dim]
        if part is None:
            return False
        terms = dict(part.low.terms)
        atom, step = terms.pop(loop.var, (loop.var, 0))
        size = as_int(part.extent)
        if size is None or size > step or any(uses_var(a, atom) for a, _ in terms.values()):
            return False
        place = step, part.low.constant, {key: count for key, (_, count) in terms.items()}
        if common not in (None, place):
            return False
        common = place
    return True
