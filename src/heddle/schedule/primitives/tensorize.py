# SPDX-License-Identifier: Apache-2.0
"""Primitives that make a unit of loops, and hand such a unit to a tensor intrinsic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from heddle.arith import Analyzer, linear_form
from heddle.ir.expr import Expr, Var, as_int, const
from heddle.ir.walk import pre_order, rewrite, substitute, uses_var
from heddle.schedule.affine import estimate
from heddle.schedule.boxes import loop_domain, region_box
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.primitives.reduce import without_init
from heddle.schedule.refs import BlockLike, BlockRef, LoopRef
from heddle.schedule.state import blocks_below
from heddle.support import UserError
from heddle.tir import tensor_intrin
from heddle.tir.build import TRUE
from heddle.tir.nodes import (
    Block,
    BufferRegion,
    For,
    ForKind,
    IterVar,
    Range,
    Stmt,
)
from heddle.tir.tensor_intrin import Difference, Nest, TensorIntrin, nest_of

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule


@primitive
def blockize(sch: Schedule, loop: LoopRef) -> BlockRef:
    """Make one block of a loop and all that is below it; the block inside becomes a part of it.

    >>> sch = Schedule(product(16, 32, 24))
    >>> i, j, k = sch.get_loops("C")
    >>> j_0, j_1 = sch.split(j, factors=[None, 16])
    >>> sch.reorder(i, j_0, k, j_1)
    >>> sch.blockize(j_1)
    block `C_o`
    >>> sch.get_loops("C_o")
    [loop `i`, loop `j_0`, loop `k`]
    >>> sch.get_loops("C")
    [loop `j_1`]
    >>> print(sketch(sch.func))
    for i, j_0, k in grid(16, 2, 24):
        with init:  # C_o
            for j_1 in vectorized(16):
                C[i, j_0 * 16 + j_1] = 0.0
        for j_1 in range(16):
            C[i, j_0 * 16 + j_1] = C[i, j_0 * 16 + j_1] + A[i, k] * B[k, j_0 * 16 + j_1]

    The loops must be directly nested around one block and cover whole tiles of its iteration
    variables: each variable is `tile * outer + inner`. The init of a reduction moves to the new
    block. Returns the new block, `<block>_o`; it declares the boxes that the loops touch.
    """
    name = "blockize"
    top = sch.state.loop(loop.var)
    inner: list[For] = []
    stmt: Stmt = top
    while isinstance(stmt, For):
        inner.append(stmt)
        stmt = stmt.body
    if not isinstance(stmt, Block):
        blocks = ", ".join(f"`{block.name}`" for block in blocks_below(top))
        raise fail(
            sch,
            name,
            f"the loops below {loop} must be directly nested around one block; there "
            f"are {blocks or 'none'}",
        )
    _check_loops(sch, stmt, inner)
    tiles = _Tiles(sch, stmt, inner)
    outer = tiles.outer_block(sch.state.fresh_block_name(f"{stmt.name}_o"))
    sch.change({top: outer})
    return BlockRef(outer.name)


def _check_loops(sch: Schedule, block: Block, inner: Sequence[For]) -> None:
    variables = {found.var for found in inner}
    for found in inner:
        if as_int(found.min) != 0 or uses_var(found.extent, variables):
            raise fail(
                sch,
                "blockize",
                f"loop `{found.var.name}` must start at 0 and its extent not depend on the others",
                found,
            )
    if uses_var(block.predicate, variables):
        raise fail(
            sch,
            "blockize",
            f"block `{block.name}` runs only where `{block.predicate}`, which cuts through the "
            "tile; choose factors that divide the extents, or pad (pad_einsum)",
            block,
        )
    if any(isinstance(found, Block) for found in pre_order(block.body)):
        raise fail(sch, "blockize", f"block `{block.name}` holds blocks already", block)


class _Tiles:
    """Each iteration variable of `block` as `tile * outer + inner`, `inner` made by the loops."""

    def __init__(self, sch: Schedule, block: Block, inner: Sequence[For]) -> None:
        self.sch = sch
        self.block = block
        self.inner = inner
        self.domain = loop_domain(inner)
        self.outer_iters: list[IterVar] = []
        self.inner_iters: list[IterVar] = []
        analyzer = Analyzer()
        for found in (*sch.state.loops(block),):
            analyzer.bind(found.var, found.min, found.extent)
        for bound in block.iters:
            self._split(bound, analyzer)

    def _split(self, bound: IterVar, analyzer: Analyzer) -> None:
        variables = list(self.domain)
        form = linear_form(bound.binding, variables, analyzer=analyzer)
        if form is None:
            raise self._fail(bound, "is not linear in the loops")
        inside: Expr = const(0)
        used = uses_var(bound.binding, set(variables))
        for var, count in form.coefficients.items():
            inside = inside + var * count
        box = estimate(inside, self.domain)
        tile = None if box is None else as_int(box.extent)
        if box is None or tile is None or not box.exact or box.low.terms or box.low.constant:
            raise self._fail(bound, "does not run through a whole tile")
        if tile == 1:  # the loops that it uses, if any, run once
            self.outer_iters.append(bound.replace(binding=form.base) if used else bound)
            return
        extent = analyzer.simplify(bound.extent // tile)
        start = analyzer.simplify(form.base // tile)
        if not analyzer.can_prove_equal(start * tile, form.base):
            raise self._fail(bound, f"starts at `{form.base}`, which is no multiple of {tile}")
        if not analyzer.can_prove_equal(extent * tile, bound.extent):
            raise self._fail(bound, f"has the extent {bound.extent}, no multiple of {tile}")
        var = Var(f"{bound.var.name}_o")
        self.outer_iters.append(IterVar(extent, bound.kind, start, var))
        self.inner_iters.append(bound.replace(binding=var * tile + inside))

    def _fail(self, bound: IterVar, why: str) -> Exception:
        return fail(
            self.sch,
            "blockize",
            f"`{bound.var.name}` of block `{self.block.name}`, bound to `{bound.binding}`, {why}: "
            "the inner loops make no tile; split into whole tiles, or pad (pad_einsum)",
        )

    def outer_block(self, name: str) -> Block:
        block = self.block
        init = None if block.init is None else self._init()
        regions = (block.reads, block.writes)
        reads, writes = (tuple(map(self._region, found)) for found in regions)
        part = block if block.init is None else without_init(block)
        body: Stmt = part.replace(iters=tuple(self.inner_iters), predicate=TRUE)
        for found in reversed(self.inner):
            body = found.replace(body=body)
        annotations: Mapping[str, object] = {}
        return Block(
            name,
            tuple(self.outer_iters),
            block.predicate,
            (),
            reads,
            writes,
            init,
            body,
            annotations,
        )

    def _values(self) -> dict[Var, Expr]:
        return {bound.var: bound.binding for bound in self.inner_iters}

    def _region(self, region: BufferRegion) -> BufferRegion:
        ranges = []
        box = region_box(region, self._values(), self.domain)
        for part, dim in zip(box, region.buffer.shape, strict=True):
            if part is None:
                ranges.append(Range(const(0), dim))
            else:
                ranges.append(Range(part.low.expr(), part.extent))
        return BufferRegion(region.buffer, tuple(ranges))

    def _init(self) -> Stmt:
        """The init of the block for a whole tile; the last loop becomes lanes."""
        assert self.block.init is not None
        init = substitute(self.block.init, self._values())
        used = [found for found in self.inner if uses_var(init, found.var)]
        fresh = {found.var: Var(found.var.name, found.var.dtype) for found in used}
        body: Stmt = rewrite(init, {}, memo=dict(fresh))
        kind = ForKind.VECTORIZED
        for found in reversed(used):
            if as_int(found.extent) is None:
                kind = ForKind.SERIAL
            body = For(const(0), found.extent, kind, fresh[found.var], body)
            kind = ForKind.SERIAL
        return body


@primitive
def tensorize(sch: Schedule, target: LoopRef | BlockLike, intrin: str) -> BlockRef:
    """Let a tensor intrinsic do what a loop and those below it (or a blockized block) compute.

    >>> sch = Schedule(product(16, 32, 24))
    >>> i, j, k = sch.get_loops("C")
    >>> j_0, j_1 = sch.split(j, factors=[None, 4])
    >>> sch.reorder(i, j_0, k, j_1)
    >>> sch.tensorize(j_1, "arm.fma")
    block `C_o`
    >>> print(sketch(sch.func))
    for i, j_0, k in grid(16, 8, 24):
        with init:  # C_o
            for j_1 in vectorized(4):
                C[i, j_0 * 4 + j_1] = 0.0
        for j_1 in range(4, tensor_intrin='arm.fma'):
            C[i, j_0 * 4 + j_1] = C[i, j_0 * 4 + j_1] + A[i, k] * B[k, j_0 * 4 + j_1]

    `intrin` names a `heddle.tir.tensor_intrin`. The loops must be what it describes: the same
    extents, the same expression, the same element strides of every buffer. They are kept, marked,
    so that the block still says what it computes; the compiler puts the intrinsic in their place.
    Returns the block, which no longer offers its inner loops.
    """
    name = "tensorize"
    try:
        found = tensor_intrin.get(intrin)
    except UserError as error:
        raise fail(sch, name, error.message) from None
    if isinstance(target, LoopRef):
        target = blockize(sch, target)
        sch.trace.steps.pop()  # a part of this step
    node = sch.block(target)
    nest = nest_of(node.body)
    if nest is None or not nest.axes:
        raise fail(
            sch,
            name,
            f"block `{node.name}` must be a loop nest around one store; give the outermost loop of "
            "the intrinsic's part, or a block made by blockize",
            node,
        )
    ranges = {bound.var: (const(0), bound.extent) for bound in node.iters}
    try:
        tensor_intrin.match(found, nest, ranges)
    except Difference as difference:
        raise _mismatch(sch, node, found, str(difference)) from None
    sch.change({node: node.replace(body=_marked(nest, found))})
    return BlockRef(node.name)


def _marked(nest: Nest, intrin: TensorIntrin) -> Stmt:
    """The nest with loop variables of its own, for the compiler to replace."""
    fresh: dict[Var, Expr] = {var: Var(var.name, var.dtype) for var, _ in nest.axes}
    body: Stmt = substitute(nest.store, fresh)
    for position in range(len(nest.axes) - 1, -1, -1):
        var, extent = nest.axes[position]
        marks = {tensor_intrin.NAME: intrin.name, tensor_intrin.DIGEST: intrin.digest}
        annotations = {} if position else marks
        body = For(const(0), const(extent), ForKind.SERIAL, fresh[var], body, annotations)  # type: ignore[arg-type]
    return body


class _MismatchText(str):
    """A message whose scripts are rendered when somebody looks."""

    parts: tuple[Block, TensorIntrin]

    def __str__(self) -> str:
        # The printer is needed only here, and not at start-up.
        from heddle.script import to_text

        block, intrin = self.parts
        return (
            f"{str.__str__(self)}\n\nThe intrinsic does:\n{to_text(intrin.description)}\n"
            f"The block is:\n{to_text(block)}"
        )


def _mismatch(sch: Schedule, node: Block, intrin: TensorIntrin, why: str) -> Exception:
    text = _MismatchText(f"tensorize: block `{node.name}` is not what `{intrin.name}` does: {why}")
    text.parts = (node, intrin)
    error = fail(sch, "tensorize", "")
    error.message = text
    error.args = (text,)
    return error
