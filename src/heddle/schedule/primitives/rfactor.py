# SPDX-License-Identifier: Apache-2.0
"""`rfactor`: partial results of a reduction, so that its loop can run in parallel or as lanes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heddle.ir.expr import (
    Add,
    BinaryExpr,
    Expr,
    Max,
    Min,
    Mul,
    Var,
    const,
    if_then_else,
    logical_and,
)
from heddle.ir.structural import structural_equal
from heddle.ir.walk import substitute, uses_var
from heddle.schedule.affine import estimate
from heddle.schedule.boxes import loop_domain
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.primitives.cache import buffer_names
from heddle.schedule.primitives.inline import add_buffers
from heddle.schedule.refs import BlockLike, BlockRef, LoopRef
from heddle.schedule.region import point_reads
from heddle.schedule.state import blocks_below, with_body
from heddle.support.names import fresh_name
from heddle.tir.build import TRUE, load, make_block, point, seq, store
from heddle.tir.nodes import (
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    For,
    ForKind,
    IterKind,
    IterVar,
    Stmt,
)
from heddle.tir.predicate import conjuncts

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule

COMBINERS: tuple[type[BinaryExpr], ...] = (Add, Mul, Max, Min)


@dataclass(frozen=True, slots=True)
class Reduction:
    """`buffer[indices] = combiner(buffer[indices], value)`, from `start`."""

    buffer: Buffer
    indices: tuple[Expr, ...]
    combiner: type[BinaryExpr]
    value: Expr
    start: Expr

    @property
    def identity(self) -> Expr:
        """The neutral element of the combiner; `start` may hold an epilogue, such as a bias."""
        dtype = self.buffer.dtype
        lowest = float("-inf") if dtype.is_float else dtype.min_value
        highest = float("inf") if dtype.is_float else dtype.max_value
        return const({Add: 0, Mul: 1, Max: lowest, Min: highest}[self.combiner], dtype)


def reduction_of(sch: Schedule, name: str, block: Block) -> Reduction:
    """What a reduction block does; an error when it is no sum, product, maximum or minimum of one
    element with its `init`."""
    body, init = block.body, block.init
    if init is None:
        raise fail(
            sch,
            name,
            f"block `{block.name}` has no init: it is no reduction, or is decomposed already "
            f"(call {name} before decompose_reduction)",
            block,
        )
    if type(body) is BufferStore and type(init) is BufferStore and type(body.value) in COMBINERS:
        for old, value in ((body.value.a, body.value.b), (body.value.b, body.value.a)):  # type: ignore[attr-defined]
            if (
                type(old) is BufferLoad
                and old.buffer is body.buffer is init.buffer
                and structural_equal(old.indices, body.indices)
                and structural_equal(init.indices, body.indices)
            ):
                kind: type[BinaryExpr] = type(body.value)  # type: ignore[assignment]
                return Reduction(body.buffer, body.indices, kind, value, init.value)
    raise fail(
        sch,
        name,
        f"block `{block.name}` must be one sum, product, maximum or minimum into one element, its "
        f"body is `{str(body).splitlines()[0]}`",
        block,
    )


def combined(combiner: type[BinaryExpr], a: Expr, b: Expr) -> Expr:
    """`combiner(a, b)`"""
    return combiner(a, b)


@primitive
def rfactor(sch: Schedule, block: BlockLike, loop: LoopRef, *, axis: int = 0) -> BlockRef:
    """Reduce in two stages: partial results for each iteration of a loop, then those together.

    The partial results are kept in `<buffer>_rf`, which has a dimension more than the result:
    number `axis`, of the extent of `loop`. In the new block, `loop` is no reduction, so that it can
    be parallelised or vectorised; the block keeps its name for the second stage.

    >>> sch = Schedule(row_sum())
    >>> i, k = sch.get_loops("S")
    >>> k_0, k_1 = sch.split(k, [None, 16])
    >>> sch.rfactor("S", k_1, axis=1)
    block `S_rf`
    >>> print(sketch(sch.func))
    S_rf = alloc((8, 16))
    for i in range(8):
        for k_0, k_1 in grid(4, 16):
            with init: S_rf[i, k_1] = 0.0
            S_rf[i, k_1] = S_rf[i, k_1] + A[i, k_0 * 16 + k_1]
        for k_1 in range(16):
            with init: S[i] = 0.0
            S[i] = S[i] + S_rf[i, k_1]

    The block must be a sum, product, maximum or minimum with its `init`, alone in the loops that
    carry its reduction. Returns the block of the partial results.
    """
    name = "rfactor"
    node = sch.block(block)
    what = reduction_of(sch, name, node)
    if not -what.buffer.ndim - 1 <= axis <= what.buffer.ndim:
        raise fail(
            sch,
            name,
            f"`axis` must lie in [0, {what.buffer.ndim}], the dimensions of `{what.buffer.name}` "
            f"and one more, got {axis}",
        )
    factored = sch.state.loop(loop.var)
    outer, chain = _chain(sch, node, factored)
    _check_first_step(sch, node, chain)
    _check_idle_loops(sch, node, chain)
    reducing = _reduction_loops(sch, node, chain, factored)
    position = axis + what.buffer.ndim + 1 if axis < 0 else axis
    shape = list(what.buffer.shape)
    shape.insert(position, factored.extent)
    if uses_var(factored.extent, {n.var for n in sch.state.loops(node)}):
        raise fail(sch, name, f"the extent of {loop} depends on the loops around it")
    title = fresh_name(f"{what.buffer.name}_rf", buffer_names(sch.state))
    partial = Buffer(title, tuple(shape), what.buffer.dtype)
    first = _first_stage(sch, node, what, partial, position, factored, reducing)
    nest: Stmt = first
    for found in reversed(chain):
        nest = with_body(found, nest)
    second = _second_stage(node, what, partial, position, factored, chain, reducing)
    changed = sch.state.edited({outer: seq(nest, second)})
    sch.set_func(add_buffers(changed, partial))
    return BlockRef(first.name)


def _chain(sch: Schedule, node: Block, factored: For) -> tuple[For, list[For]]:
    """The outermost loop that carries the reduction, and all from it to the block."""
    loops = sch.state.loops(node)
    if factored not in loops:
        raise fail(
            sch,
            "rfactor",
            f"loop `{factored.var.name}` is not around block `{node.name}`",
            factored,
        )
    carried = [b.binding for b in node.iters if b.kind is not IterKind.SPATIAL]
    start = next(
        n
        for n, found in enumerate(loops)
        if found is factored or any(uses_var(binding, found.var) for binding in carried)
    )
    chain = loops[start:]
    for above, below in zip(chain, [*chain[1:], node], strict=True):
        if above.body is not below:
            others = [b.name for b in blocks_below(above) if b.name != node.name]
            raise fail(
                sch,
                "rfactor",
                f"block `{node.name}` must be alone in loop `{above.var.name}`, which also holds "
                f"{', '.join(f'`{other}`' for other in others) or 'other statements'}",
                node,
            )
    return chain[0], chain


def _check_first_step(sch: Schedule, node: Block, chain: list[For]) -> None:
    """Raise when the reduction goes on with what another block began: the second stage would begin
    it anew."""
    for bound in node.iters:
        if bound.kind is IterKind.REDUCTION:
            box = estimate(bound.binding, loop_domain(chain))
            if box is None or box.low.terms or box.low.constant:
                raise fail(
                    sch,
                    "rfactor",
                    f"reduction variable `{bound.var.name}` of block `{node.name}` does not begin "
                    "at 0: the block may go on with a sum that another one began",
                    node,
                )


def _check_idle_loops(sch: Schedule, node: Block, chain: list[For]) -> None:
    """Raise when the predicate picks iterations of a loop that only repeats the block: the second
    stage is not in such loops."""
    bindings = [bound.binding for bound in node.iters]
    for loop in chain:
        if any(uses_var(binding, loop.var) for binding in bindings):
            continue
        for part in conjuncts(node.predicate):
            if uses_var(part, loop.var):
                raise fail(
                    sch,
                    "rfactor",
                    f"the predicate of block `{node.name}` looks at loop `{loop.var.name}`, which "
                    f"carries none of its variables: {part}",
                    loop,
                )


def _reduction_loops(
    sch: Schedule, node: Block, chain: list[For], factored: For
) -> dict[Var, IterVar]:
    """For each loop that carries the reduction, its iteration variable in the first stage."""
    found: dict[Var, IterVar] = {}
    for loop in chain:
        kinds = {b.kind for b in node.iters if uses_var(b.binding, loop.var)}
        if IterKind.ORDERED in kinds:
            raise fail(
                sch,
                "rfactor",
                f"block `{node.name}` runs in the order of loop `{loop.var.name}`",
                node,
            )
        if kinds == {IterKind.SPATIAL, IterKind.REDUCTION}:
            raise fail(
                sch,
                "rfactor",
                f"loop `{loop.var.name}` carries spatial and reduction variables of block "
                f"`{node.name}`; do not fuse them",
                loop,
            )
        if IterKind.REDUCTION in kinds or loop is factored:
            if IterKind.REDUCTION not in kinds:
                raise fail(
                    sch,
                    "rfactor",
                    f"loop `{loop.var.name}` carries no reduction variable of block `{node.name}`",
                    loop,
                )
            kind = IterKind.SPATIAL if loop is factored else IterKind.REDUCTION
            binding = loop.var - loop.min
            found[loop.var] = IterVar(loop.extent, kind, binding, Var(f"v{loop.var.name}"))
    if factored.kind is not ForKind.SERIAL:
        raise fail(
            sch,
            "rfactor",
            f"loop `{factored.var.name}` is {factored.kind.value}; factor it before annotating it",
            factored,
        )
    return found


def _first_stage(
    sch: Schedule,
    node: Block,
    what: Reduction,
    partial: Buffer,
    position: int,
    factored: For,
    reducing: dict[Var, IterVar],
) -> Block:
    inside: dict[Var, Expr] = {
        loop.var: loop.min + reducing[loop.var].var
        for loop in sch.state.loops(node)
        if loop.var in reducing
    }
    spatial = [
        bound.replace(var=Var(bound.var.name, bound.var.dtype))
        for bound in node.iters
        if bound.kind is IterKind.SPATIAL
    ]
    old = [b for b in node.iters if b.kind is IterKind.SPATIAL]
    values: dict[Var, Expr] = {o.var: n.var for o, n in zip(old, spatial, strict=True)}
    for bound in node.iters:
        if bound.kind is not IterKind.SPATIAL:
            values[bound.var] = substitute(bound.binding, inside)
    # A step outside the predicate counts as the neutral element: every partial result has an init.
    kept, dropped = TRUE, TRUE
    for part in conjuncts(node.predicate):
        if not uses_var(part, set(reducing)):
            kept = logical_and(kept, part)
            continue
        if uses_var(part, {n.var for n in sch.state.loops(node)} - set(reducing)):
            raise fail(
                sch,
                "rfactor",
                f"the predicate of block `{node.name}` mixes reduction loops with others: {part}",
                node,
            )
        dropped = logical_and(dropped, substitute(part, inside))
    value = substitute(what.value, values)
    if dropped is not TRUE:
        value = if_then_else(dropped, value, what.identity)
    place: list[Expr] = [substitute(index, values) for index in what.indices]
    place.insert(position, reducing[factored.var].var)
    iters = [*spatial, *reducing.values()]
    return make_block(
        sch.state.fresh_block_name(f"{node.name}_rf"),
        iters,
        store(partial, combined(what.combiner, load(partial, place), value), place),
        reads=point_reads([store(partial, value, place)], ()),
        writes=[point(partial, place)],
        init=store(partial, what.identity, place),
        predicate=kept,
    )


def _second_stage(
    node: Block,
    what: Reduction,
    partial: Buffer,
    position: int,
    factored: For,
    chain: list[For],
    reducing: dict[Var, IterVar],
) -> Stmt:
    bindings = [b.binding for b in node.iters if b.kind is IterKind.SPATIAL]
    kept = [n for n in chain if n.var not in reducing and any(uses_var(b, n.var) for b in bindings)]
    fresh: dict[Var, Expr] = {n.var: Var(n.var.name, n.var.dtype) for n in kept}
    iters = [
        bound.replace(binding=substitute(bound.binding, fresh))
        for bound in node.iters
        if bound.kind is IterKind.SPATIAL
    ]
    step, step_loop = Var(f"v{factored.var.name}"), Var(factored.var.name)
    iters.append(IterVar(factored.extent, IterKind.REDUCTION, step_loop, step))
    place = list(what.indices)
    place.insert(position, step)
    guard: Expr = TRUE
    for part in conjuncts(node.predicate):
        if not uses_var(part, set(reducing)):
            guard = logical_and(guard, substitute(part, fresh))
    value = combined(what.combiner, load(what.buffer, what.indices), load(partial, place))
    update = store(what.buffer, value, what.indices)
    body: Stmt = node.replace(
        iters=tuple(iters),
        predicate=guard,
        reads=tuple(point_reads([node.init, update], [what.buffer])),
        body=update,
    )
    body = For(const(0), factored.extent, ForKind.SERIAL, step_loop, body)
    for loop in reversed(kept):
        bounds = substitute(loop.min, fresh), substitute(loop.extent, fresh)
        body = For(*bounds, loop.kind, fresh[loop.var], body, loop.annotations)  # type: ignore[arg-type]
    return body
