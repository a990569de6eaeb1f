# SPDX-License-Identifier: Apache-2.0
"""Blocks become plain statements.

    block C: vi = i, vk = k (reduction)        if k == 0:
      predicate: i < n                  ->        (inside `if i < n:`)
      init:  C[vi] = 0                            C[i] = 0
      body:  C[vi] += A[vi, vk]                 C[i] += A[i, k]

Iteration variables are replaced by their bindings, `init` runs when all reduction variables are
zero, the predicate guards both, and `alloc_buffers` become `Allocate` around them.
"""

from __future__ import annotations

from heddle.ir.expr import Expr, all_of, as_int, const
from heddle.ir.walk import pre_order, rewrite, substitute
from heddle.support import InternalError
from heddle.tir.build import seq
from heddle.tir.nodes import Allocate, Block, IfThenElse, IterKind, PrimFunc, Stmt
from heddle.tir.predicate import guards


def lower_blocks(func: PrimFunc) -> PrimFunc:
    """`func` without blocks."""
    lowered: Stmt = rewrite(func.body, {Block: _lower})
    return func.replace(body=lowered)


def verify_no_blocks(func: PrimFunc) -> None:
    """Raise `InternalError` when a block is left."""
    for found in pre_order(func.body):
        if isinstance(found, Block):
            raise InternalError(f"block `{found.name}` is left after lower_blocks")


def _lower(block: Block) -> Stmt:
    body = block.body
    if block.init is not None:
        body = seq(_guard(_first_step(block), block.init), body)
    body = _guard(block.predicate, body)
    values = {axis.var: axis.binding for axis in block.iters}
    body = substitute(body, values)
    for buffer in reversed(block.alloc_buffers):
        body = Allocate(buffer, body)
    return body


def _first_step(block: Block) -> Expr:
    """That all reduction variables which take more than one value are zero."""
    steps = [
        axis.var.equal(const(0, axis.var.dtype))
        for axis in block.iters
        if axis.kind is IterKind.REDUCTION and as_int(axis.extent) != 1
    ]
    return all_of(*steps)


def _guard(condition: Expr, body: Stmt) -> Stmt:
    for part in reversed(guards(condition)):
        body = IfThenElse(part, body)
    return body
