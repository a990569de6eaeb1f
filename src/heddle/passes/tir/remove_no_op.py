# SPDX-License-Identifier: Apache-2.0
"""Statements that do nothing vanish, loops of one iteration lose their loop.

    for i in range(1): A[i] = 0     ->   A[0] = 0
    for i in range(0): ...          ->   (nothing)
    if True: S                      ->   S

It runs first, so that what unit loops index becomes constant, and again on flat loops.
"""

from __future__ import annotations

from typing import Any

from heddle.ir.expr import as_int
from heddle.ir.walk import rewrite, substitute
from heddle.tir.build import seq
from heddle.tir.nodes import Allocate, For, IfThenElse, LetStmt, PrimFunc, Seq, Stmt

NOTHING = Seq(())


def remove_no_op(func: PrimFunc) -> PrimFunc:
    """`func` without statements that have no effect."""
    return func.replace(body=rewrite(func.body, _HANDLERS))


def _nothing(stmt: Stmt | None) -> bool:
    return stmt is None or (isinstance(stmt, Seq) and not stmt.stmts)


def _loop(loop: For) -> Stmt:
    extent = as_int(loop.extent)
    if (extent is not None and extent <= 0) or _nothing(loop.body):
        return NOTHING
    if extent == 1:
        body: Stmt = substitute(loop.body, {loop.var: loop.min})
        return body
    return loop


def _branch(branch: IfThenElse) -> Stmt:
    known = as_int(branch.condition)
    if known is not None:
        chosen = branch.then if known else branch.otherwise
        return NOTHING if chosen is None else chosen
    if _nothing(branch.then) and _nothing(branch.otherwise):
        return NOTHING
    return branch


def _scope(stmt: Any) -> Stmt:
    return NOTHING if _nothing(stmt.body) else stmt


def _sequence(stmt: Seq) -> Stmt:
    flat = seq(*stmt.stmts)
    if isinstance(flat, Seq) and len(flat.stmts) == len(stmt.stmts):
        return stmt
    return flat


_HANDLERS = {For: _loop, IfThenElse: _branch, Allocate: _scope, LetStmt: _scope, Seq: _sequence}
