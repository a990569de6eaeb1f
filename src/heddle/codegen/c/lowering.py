# SPDX-License-Identifier: Apache-2.0
"""Loop functions in the form in which they are written as C: the loops as they are scheduled.

for k in range(8):                        C[i] = 0
    if k == 0: C[i] = 0          ->       for k in range(8):
    C[i] = C[i] + A[i, k]                     C[i] = C[i] + A[i, k]
"""

from __future__ import annotations

from heddle.ir.expr import EQ, Expr, Var, all_of, as_int
from heddle.ir.walk import rewrite, uses_var
from heddle.passes.tir.flatten import flatten, verify_flat
from heddle.passes.tir.lower_blocks import lower_blocks
from heddle.passes.tir.remove_no_op import remove_no_op
from heddle.passes.tir.storage import place_storage
from heddle.schedule.compact import compact_buffers
from heddle.tir.build import seq
from heddle.tir.nodes import For, ForKind, IfThenElse, PrimFunc, Seq, Stmt
from heddle.tir.predicate import conjuncts


def lower_for_c(func: PrimFunc) -> PrimFunc:
    """`func` without blocks, with flat buffers."""
    for step in (remove_no_op, compact_buffers, lower_blocks, flatten, remove_no_op):
        func = step(func)
    verify_flat(func)
    hoisted: Stmt = rewrite(func.body, {For: _hoist})
    return place_storage(func.replace(body=hoisted))


def _hoist(loop: For) -> Stmt:
    """What the first iteration alone does, and does first, goes in front of the loop."""
    body = loop.body.stmts if isinstance(loop.body, Seq) else (loop.body,)
    first = body[0] if body else None
    if (
        not isinstance(first, IfThenElse)
        or first.otherwise is not None
        or loop.kind in (ForKind.PARALLEL, ForKind.VECTORIZED)
        or as_int(loop.min) != 0
        or (as_int(loop.extent) or 0) < 1
        or uses_var(first.then, loop.var)
    ):
        return loop
    conditions = conjuncts(first.condition)
    rest = [item for item in conditions if not _is_zero(item, loop.var)]
    if len(rest) == len(conditions) or any(uses_var(item, loop.var) for item in rest):
        return loop
    start = IfThenElse(all_of(*rest), first.then) if rest else first.then
    return seq(start, loop.replace(body=seq(*body[1:])))


def _is_zero(condition: Expr, var: Var) -> bool:
    return isinstance(condition, EQ) and condition.a is var and as_int(condition.b) == 0
