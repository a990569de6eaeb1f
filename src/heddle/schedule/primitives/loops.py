# SPDX-License-Identifier: Apache-2.0
"""Primitives that change loops: split, fuse, and how their iterations run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from heddle.ir.expr import Add, Expr, Max, Min, Mul, Var, as_int, const, logical_and
from heddle.ir.structural import structural_equal
from heddle.ir.walk import substitute, uses_var
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.primitives.peel import peel_tail
from heddle.schedule.primitives.private import is_rolling, ordered_loops
from heddle.schedule.primitives.reduce import runs_once
from heddle.schedule.refs import BlockLike, BlockRef, LoopRef
from heddle.schedule.simplify import simplify_bindings
from heddle.schedule.state import blocks_below
from heddle.tir.nodes import (
    Block,
    BufferLoad,
    BufferStore,
    For,
    ForKind,
    IterKind,
    Seq,
    Stmt,
)

THREAD_AXES = tuple(f"{part}.{axis}" for part in ("blockIdx", "threadIdx") for axis in "xyz")
"""What `bind` can bind a loop to."""

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule


def rebind(stmt: Stmt, values: Mapping[Var, Expr], predicate: Expr | None = None) -> Stmt:
    """`stmt` with loop variables replaced in the loops and block bindings below it.

    Blocks see loop variables only through their bindings and predicate, so their insides are
    kept. `predicate`, if any, is added to every block.
    """
    if type(stmt) is Block:
        iters = tuple(
            bound
            if (binding := substitute(bound.binding, values)) is bound.binding
            else bound.replace(binding=binding)
            for bound in stmt.iters
        )
        guard: Expr = substitute(stmt.predicate, values)
        if predicate is not None:
            guard = logical_and(guard, predicate)
        return stmt.replace(iters=iters, predicate=guard)  # type: ignore[no-any-return]
    if type(stmt) is For:
        return stmt.replace(  # type: ignore[no-any-return]
            min=substitute(stmt.min, values),
            extent=substitute(stmt.extent, values),
            body=rebind(stmt.body, values, predicate),
        )
    if type(stmt) is Seq:
        return Seq(tuple(rebind(child, values, predicate) for child in stmt.stmts))
    rebuilt: Stmt = stmt.map(
        lambda child: (
            rebind(child, values, predicate)
            if isinstance(child, Stmt)
            else substitute(child, values)
        )
    )
    return rebuilt


def nest(loops: Sequence[tuple[Var, Expr]], body: Stmt) -> Stmt:
    """Serial loops from 0 around `body`, the first outermost."""
    for var, extent in reversed(loops):
        body = For(const(0), extent, ForKind.SERIAL, var, body)
    return body


@primitive
def split(
    sch: Schedule, loop: LoopRef, factors: Sequence[int | None], *, tail: str = "predicate"
) -> list[LoopRef]:
    """Split a loop into nested loops with the given extents; one factor may be None: what is left.

    >>> sch = Schedule(chain())
    >>> (i,) = sch.get_loops("C")
    >>> sch.split(i, factors=[None, 5])
    [loop `i_0`, loop `i_1`]
    >>> print(sketch(sch.func))
    B = alloc((32,))
    for i in range(32):
        B[i] = A[i] + 1.0
    for i_0, i_1 in grid(7, 5):
        if i_0 * 5 + i_1 < 32:
            C[i_0 * 5 + i_1] = B[i_0 * 5 + i_1] * 2.0
    >>> sch = Schedule(chain())
    >>> (i,) = sch.get_loops("C")
    >>> sch.split(i, factors=[None, 5], tail="peel")
    [loop `i_0`, loop `i_1`]
    >>> print(sketch(sch.func))
    B = alloc((32,))
    for i in range(32):
        B[i] = A[i] + 1.0
    for i_0, i_1 in grid(6, 5):
        C[i_0 * 5 + i_1] = B[i_0 * 5 + i_1] * 2.0
    for i_tail in range(2):
        C[i_tail + 30] = B[i_tail + 30] * 2.0  # C_tail

    When the factors do not divide the extent, `tail="predicate"` guards the blocks inside, and
    `tail="peel"` leaves them clean and runs the remainder in a loop of its own after them (copies
    of the blocks, named `<block>_tail`). Extents may be symbolic.

    Returns the new loops, outermost first (not those of a peeled tail).
    """
    old = sch.state.loop(loop.var)
    if tail not in ("predicate", "peel"):
        raise fail(sch, "split", f'`tail` must be "predicate" or "peel", got "{tail}"')
    if old.kind is not ForKind.SERIAL:
        raise fail(sch, "split", f"{loop} is {old.kind.value}; split it before annotating it")
    inner = 1
    for factor in factors:
        inner *= 1 if factor is None else factor
    extents = _split_extents(sch, loop, old.extent, factors, inner, tail)
    variables = [Var(f"{loop.name}_{n}", loop.var.dtype) for n in range(len(factors))]
    value: Expr = const(0, loop.var.dtype)
    for var, extent in zip(variables, extents, strict=True):
        value = value * extent + var
    exact = _covers_exactly(old.extent, factors, inner)
    if tail == "peel" and not exact:
        peel_tail(sch, old, inner, variables, extents, value)
        return [LoopRef(var) for var in variables]
    guard = None if exact else value < old.extent
    body = rebind(old.body, {loop.var: old.min + value}, guard)
    body = simplify_bindings(body, sch.state, old, list(zip(variables, extents, strict=True)))
    sch.change({old: nest(list(zip(variables, extents, strict=True)), body)})
    return [LoopRef(var) for var in variables]


def _split_extents(
    sch: Schedule,
    loop: LoopRef,
    extent: Expr,
    factors: Sequence[int | None],
    inner: int,
    tail: str,
) -> list[Expr]:
    """The extents of the new loops; checks that they cover the old one."""
    if None not in factors:
        static = as_int(extent)
        if tail == "peel":
            raise fail(sch, "split", 'tail="peel" needs one factor None')
        if static is None or inner < static:
            raise fail(
                sch,
                "split",
                f"factors {list(factors)} of {loop} cover {inner} iterations of "
                f"{'a symbolic extent' if static is None else static}; make one factor None",
            )
        return [const(factor) for factor in factors if factor is not None]
    if tail == "peel":
        outer = extent // inner
        if as_int(outer) == 0:
            raise fail(
                sch,
                "split",
                f'tail="peel" of {loop}: its extent {as_int(extent)} is below the factor {inner}, '
                'so that there is no main loop; use tail="predicate" or a smaller factor',
            )
    else:
        static = as_int(extent)
        exact = static is not None and static % inner == 0
        outer = extent // inner if exact else (extent + (inner - 1)) // inner
    return [outer if factor is None else const(factor) for factor in factors]


def _covers_exactly(extent: Expr, factors: Sequence[int | None], inner: int) -> bool:
    static = as_int(extent)
    if static is None:
        return inner == 1 and None in factors
    return static % inner == 0 if None in factors else static == inner


@primitive
def fuse(sch: Schedule, *loops: LoopRef) -> LoopRef:
    """Make one loop of directly nested loops, given outermost first.

    >>> sch = Schedule(resized())
    >>> i, j = sch.get_loops("C")
    >>> sch.fuse(i, j)
    loop `i_j_fused`
    >>> print(sketch(sch.func))
    for i_j_fused in range(160):
        C[i_j_fused // 8, i_j_fused % 8] = A[i_j_fused // 8 * 3 // 5, i_j_fused % 8]

    Returns the fused loop.
    """
    if not loops:
        raise fail(sch, "fuse", "needs at least one loop")
    nodes = [sch.state.loop(ref.var) for ref in loops]
    for ref, node in zip(loops, nodes, strict=True):
        if node.kind is not ForKind.SERIAL:
            raise fail(sch, "fuse", f"{ref} is {node.kind.value}; fuse before annotating loops")
    for (outer, above), (inner, below) in zip(
        zip(loops, nodes, strict=True), list(zip(loops, nodes, strict=True))[1:], strict=False
    ):
        if above.body is not below:
            raise fail(
                sch,
                "fuse",
                f"{inner} must be the only statement of {outer}; reorder the loops first",
            )
    variables = {ref.var for ref in loops}
    for ref, node in zip(loops, nodes, strict=True):
        if uses_var(node.extent, variables) or uses_var(node.min, variables):
            raise fail(sch, "fuse", f"the bounds of {ref} depend on another of the loops")
    if len(loops) == 1:
        return loops[0]
    fused = Var("_".join([*(ref.name for ref in loops), "fused"]), loops[0].var.dtype)
    total: Expr = const(1)
    divisor: Expr = const(1)
    values: dict[Var, Expr] = {}
    for position in range(len(nodes) - 1, -1, -1):
        node = nodes[position]
        # A loop that never runs makes the fused one never run; nothing may be divided by 0.
        size = const(1) if as_int(node.extent) == 0 else node.extent
        part = fused // divisor
        if position:
            part = part % size
        values[node.var] = node.min + part
        total = node.extent * total
        divisor = size * divisor
    body = rebind(nodes[-1].body, values)
    body = simplify_bindings(body, sch.state, nodes[0], [(fused, total)])
    sch.change({nodes[0]: nest([(fused, total)], body)})
    return LoopRef(fused)


@primitive
def add_unit_loop(sch: Schedule, target: LoopRef | BlockLike) -> LoopRef:
    """Put a loop of extent 1 around a loop, or around all loops of a block.

    >>> sch = Schedule(chain())
    >>> sch.add_unit_loop("C")
    loop `unit`
    >>> print(sketch(sch.func))
    B = alloc((32,))
    for i in range(32):
        B[i] = A[i] + 1.0
    for unit, i in grid(1, 32):
        C[i] = B[i] * 2.0

    Returns the new loop: a place for compute_at and annotations where there was none.
    """
    node = sch.node(target)
    if type(node) is Block:
        loops = sch.state.loops(node)
        node = loops[0] if loops else node
    unit = Var("unit")
    sch.change({node: nest([(unit, const(1))], node)})
    return LoopRef(unit)


# -- how iterations run ------------------------------------------------------------------------


def _check_independent(sch: Schedule, name: str, loop: LoopRef) -> None:
    """Raise unless the iterations of `loop` may run in any order and at once."""
    node = sch.state.loop(loop.var)
    if as_int(node.extent) == 1:
        return
    inside = {id(block) for block in blocks_below(node)}
    for block in blocks_below(node):
        around = sch.state.loops(block)
        if not any(found is node for found in around):
            continue  # a part of another block below the loop, which is looked at
        depends = False
        carried = {b.kind for b in block.iters if uses_var(b.binding, loop.var)}
        # Lanes of one sum can be combined, those of several (a fused loop) cannot.
        one_sum = carried == {IterKind.REDUCTION} and _combines(block)
        for bound in block.iters:
            if not uses_var(bound.binding, loop.var):
                continue
            depends = True
            if name == "vectorize" and one_sum:
                continue
            if bound.kind is not IterKind.SPATIAL:
                raise fail(
                    sch,
                    name,
                    f"{loop} carries the {bound.kind.value} variable `{bound.var.name}` of block "
                    f"`{block.name}`: its iterations update the same elements of "
                    f"{_names(block)}; only loops of spatial variables can be {_PARTICIPLE[name]}",
                    loop,
                    block,
                )
        if is_rolling(block) and depends:
            _check_rolling(sch, name, loop, block)
        if name == "vectorize" and any(b.kind is not IterKind.SPATIAL for b in block.iters):
            if not runs_once(block, around, around.index(node)):
                raise fail(
                    sch,
                    name,
                    f"several lanes of {loop} would run the same reduction of block "
                    f"`{block.name}`; move the block out of the loop first",
                    block,
                )
        if depends:
            continue
        for region in block.writes:
            users = [*sch.state.readers.get(region.buffer, ())]
            if sch.state.is_parameter(region.buffer) or any(id(u) not in inside for u in users):
                raise fail(
                    sch,
                    name,
                    f"every iteration of {loop} runs block `{block.name}` on the same elements of "
                    f"`{region.buffer.name}`; move the block out of the loop first",
                    block,
                )


def _check_rolling(sch: Schedule, name: str, loop: LoopRef, block: Block) -> None:
    """Raise when iterations of `loop` would share the rolling buffer that `block` fills.

    Around the rolling loop, each thread has a buffer of its own; lanes have not."""
    node = sch.state.loop(loop.var)
    inside = {id(found) for found in blocks_below(node)}
    buffer = block.writes[0].buffer
    readers = [b for b in sch.state.readers.get(buffer, ()) if id(b) in inside and b is not block]
    rolling = ordered_loops(sch.state, buffer)
    within = any(type(n) is For and n.var in rolling for n in sch.state.path(node)[:-1])
    if readers and (within or name != "parallel"):
        raise fail(
            sch,
            name,
            f"the iterations of {loop} would share the rolling buffer `{buffer.name}`; {name} a "
            "loop of one block, or call it before rolling_buffer",
            loop,
            block,
        )


def _combines(block: Block) -> bool:
    """Whether a block only adds, multiplies or compares into one element, so that lanes may be
    combined first; its `init` must have been decomposed."""
    store = block.body
    if block.init is not None or type(store) is not BufferStore:
        return False
    value = store.value
    if not isinstance(value, (Add, Mul, Min, Max)):
        return False
    old = value.a
    return (
        isinstance(old, BufferLoad)
        and old.buffer is store.buffer
        and all(structural_equal(a, b) for a, b in zip(old.indices, store.indices, strict=True))
    )


_PARTICIPLE = {"bind": "bound to threads", "parallel": "run in parallel", "vectorize": "vectorised"}


def _names(block: Block) -> str:
    return ", ".join(f"`{region.buffer.name}`" for region in block.writes)


def _with_kind(sch: Schedule, loop: LoopRef, kind: ForKind) -> None:
    node = sch.state.loop(loop.var)
    sch.change({node: node.replace(kind=kind)})


@primitive
def parallel(sch: Schedule, loop: LoopRef) -> None:
    """Run the iterations of a loop on the thread pool.

    >>> sch = Schedule(row_sum())
    >>> sch.parallel(sch.find("i"))
    >>> print(sketch(sch.func))
    for i in parallel(8):
        for k in range(64):
            with init: S[i] = 0.0
            S[i] = S[i] + A[i, k]
    """
    _check_independent(sch, "parallel", loop)
    _with_kind(sch, loop, ForKind.PARALLEL)


@primitive
def bind(sch: Schedule, loop: LoopRef, thread: str) -> None:
    """Run the iterations of a loop on the threads of a device: `thread` names the axis.

    >>> sch = Schedule(row_sum())
    >>> sch.bind(sch.find("i"), "blockIdx.x")
    >>> print(sketch(sch.func))
    for i in range(8, thread='blockIdx.x'):
        for k in range(64):
            with init: S[i] = 0.0
            S[i] = S[i] + A[i, k]

    The axes are blockIdx.x, .y, .z and threadIdx.x, .y, .z. Targets without such threads (CPUs)
    reject the function when it is built; use parallel there.
    """
    if thread not in THREAD_AXES:
        raise fail(sch, "bind", f"`thread` must be one of {list(THREAD_AXES)}, got {thread!r}")
    node = sch.state.loop(loop.var)
    if node.kind is not ForKind.SERIAL:
        raise fail(sch, "bind", f"{loop} is {node.kind.value}; only serial loops are bound")
    for around in sch.state.path(node)[:-1]:
        if type(around) is For and around.annotations.get("thread") == thread:
            raise fail(
                sch,
                "bind",
                f"loop `{around.var.name}` around {loop} is bound to {thread} already",
                around,
            )
    _check_independent(sch, "bind", loop)
    sch.change({node: node.replace(annotations={**node.annotations, "thread": thread})})


@primitive
def vectorize(sch: Schedule, loop: LoopRef) -> None:
    """Run the iterations of a loop as the lanes of vectors. The extent must be a constant.

    >>> sch = Schedule(resized())
    >>> sch.vectorize(sch.find("j"))
    >>> print(sketch(sch.func))
    for i in range(20):
        for j in vectorized(8):
            C[i, j] = A[i * 3 // 5, j]

    A loop of a reduction (a sum, product, minimum or maximum without `init`) combines its lanes.
    """
    node = sch.state.loop(loop.var)
    if as_int(node.extent) is None:
        raise fail(
            sch, "vectorize", f"the extent of {loop} is not a constant; split it by a constant"
        )
    _check_independent(sch, "vectorize", loop)
    _with_kind(sch, loop, ForKind.VECTORIZED)


@primitive
def unroll(sch: Schedule, loop: LoopRef) -> None:
    """Replace a loop by copies of its body when code is generated. The extent must be a constant.

    >>> sch = Schedule(windows())
    >>> sch.unroll(sch.find("k"))
    >>> print(sketch(sch.func))
    for i in range(15):
        for k in unrolled(4):
            with init: C[i] = 0.0
            C[i] = C[i] + A[i * 2 + k]
    """
    node = sch.state.loop(loop.var)
    if as_int(node.extent) is None:
        raise fail(sch, "unroll", f"the extent of {loop} is not a constant; split it by a constant")
    _with_kind(sch, loop, ForKind.UNROLLED)


@primitive
def serial(sch: Schedule, loop: LoopRef) -> None:
    """Run the iterations of a loop in order again: undoes parallel, vectorize and unroll.

    >>> sch = Schedule(row_sum())
    >>> i, k = sch.get_loops("S")
    >>> sch.parallel(i)
    >>> sch.serial(i)
    >>> print(sketch(sch.func))
    for i, k in grid(8, 64):
        with init: S[i] = 0.0
        S[i] = S[i] + A[i, k]
    """
    _with_kind(sch, loop, ForKind.SERIAL)


# -- annotations -------------------------------------------------------------------------------


@primitive
def annotate(sch: Schedule, target: LoopRef | BlockLike, key: str, value: object) -> None:
    """Attach plain data to a loop or block, for passes and code generators to read.

    >>> sch = Schedule(row_sum())
    >>> sch.annotate(sch.find("k"), "note", [4, "rows"])
    >>> sch.annotate("S", "who", "me")
    >>> print(sketch(sch.func))
    for i in range(8):
        for k in range(64, note=[4, 'rows']):
            with init: S[i] = 0.0
            S[i] = S[i] + A[i, k]
            # who: 'me'
    """
    node = sch.node(target)
    sch.change({node: node.replace(annotations={**node.annotations, key: value})})


@primitive
def unannotate(sch: Schedule, target: LoopRef | BlockLike, key: str) -> None:
    """Remove an annotation.

    >>> sch = Schedule(row_sum())
    >>> sch.annotate("S", "who", "me")
    >>> sch.unannotate("S", "who")
    >>> print(sketch(sch.func))
    for i, k in grid(8, 64):
        with init: S[i] = 0.0
        S[i] = S[i] + A[i, k]
    """
    node = sch.node(target)
    if key not in node.annotations:
        has = ", ".join(f"`{name}`" for name in node.annotations) or "none"
        what = target if not isinstance(target, str) else BlockRef(target)
        raise fail(sch, "unannotate", f"{what} has no annotation `{key}`; it has {has}")
    rest = {name: item for name, item in node.annotations.items() if name != key}
    sch.change({node: node.replace(annotations=rest)})
