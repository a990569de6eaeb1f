# SPDX-License-Identifier: Apache-2.0
"""`split(..., tail="peel")`: a main loop nest without predicates, then one for the remainder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from heddle.ir.expr import Expr, Var, as_int, const
from heddle.ir.walk import rewrite, uses_var
from heddle.schedule.primitives.private import private_buffers
from heddle.schedule.primitives.reduce import without_init
from heddle.schedule.state import State, blocks_below, edit, walk
from heddle.support.names import fresh_name
from heddle.tir.build import replace_buffers, seq
from heddle.tir.nodes import Block, For, ForKind, IterKind, LetStmt, Stmt

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule


def peel_tail(
    sch: Schedule,
    old: For,
    inner: int,
    variables: Sequence[Var],
    extents: Sequence[Expr],
    value: Expr,
) -> None:
    """Replace `old` by a nest over `variables` that covers the whole multiples of `inner`, and a
    loop over the rest around copies of the blocks."""
    from heddle.schedule.primitives.loops import nest, rebind  # loops.split calls this function

    done = (old.extent // inner) * inner
    rest = old.extent % inner
    main = rebind(old.body, {old.var: old.min + value})
    tail_var = Var(f"{old.var.name}_tail", old.var.dtype)
    private = private_buffers(sch.state, old)
    copies = {buffer: buffer.replace(name=f"{buffer.name}_tail") for buffer in private}
    copy = copy_statement(sch.state, replace_buffers(old.body, copies), "_tail")
    if as_int(done) is not None:
        copy = without_inits(copy, old.var)
    copy = rebind(copy, {old.var: old.min + done + tail_var})
    tail = For(const(0), rest, ForKind.SERIAL, tail_var, copy, old.annotations)
    main_nest = nest(list(zip(variables, extents, strict=True)), main)
    sch.change({old: seq(main_nest, tail)})
    if copies:
        root = sch.state.root
        sch.set_func(
            sch.func.replace(
                body=root.replace(alloc_buffers=(*root.alloc_buffers, *copies.values()))
            )
        )


def without_inits(stmt: Stmt, var: Var) -> Stmt:
    """`stmt` without the `init` of reductions over `var`: the loops before have run it.

    Where `var` (a fused loop) also takes the block to other elements, the `init` stays: it runs at
    the first step of each element, wherever that is."""
    changes: dict[Stmt, Stmt | None] = {}
    for block in blocks_below(stmt):
        kinds = {b.kind for b in block.iters if uses_var(b.binding, var)}
        if block.init is not None and kinds == {IterKind.REDUCTION}:
            changes[block] = without_init(block)
    result = edit(stmt, changes)
    return stmt if result is None else result


def copy_statement(state: State, stmt: Stmt, suffix: str, *, taken: set[str] | None = None) -> Stmt:
    """A copy of `stmt` with fresh variables of loops, blocks and lets, and fresh block names.

    `taken` are the names of all blocks so far; those of the copy are added."""
    taken = set(state.block_links) if taken is None else taken
    memo: dict[object, object] = {}
    names: dict[str, str] = {}
    for found in walk(stmt):
        if type(found) is For or type(found) is LetStmt:
            memo[found.var] = Var(found.var.name, found.var.dtype)
        elif type(found) is Block:
            if found.init is not None:  # loops in there: of a block made of a tile
                inner = (n for n in walk(found.init) if type(n) is For or type(n) is LetStmt)
                memo.update((n.var, Var(n.var.name, n.var.dtype)) for n in inner)
            names[found.name] = fresh_name(found.name + suffix, taken)
            taken.add(names[found.name])
            for bound in found.iters:
                memo[bound.var] = Var(bound.var.name, bound.var.dtype)
    renamed = {Block: lambda block: block.replace(name=names[block.name])}
    result: Stmt = rewrite(stmt, renamed, memo=memo)  # type: ignore[arg-type]
    return result
