# SPDX-License-Identifier: Apache-2.0
"""Copies of statements that define their own variables and buffers."""

from __future__ import annotations

from typing import TypeVar

from heddle.ir.expr import Let, Var
from heddle.ir.node import Node
from heddle.ir.walk import pre_order, rewrite
from heddle.tir.build import replace_buffers
from heddle.tir.nodes import Allocate, Block, Buffer, For, LetStmt, Stmt

StmtT = TypeVar("StmtT", bound=Stmt)


def with_fresh_vars(stmt: StmtT) -> StmtT:
    """A copy of `stmt` in which everything that it defines (loop variables, lets, allocations) is
    new, so that it can stand beside the original."""
    names: dict[Node, Node] = {}
    buffers: dict[Buffer, Buffer] = {}
    for found in pre_order(stmt):
        if isinstance(found, (For, LetStmt, Let)):
            names[found.var] = Var(found.var.name, found.var.dtype)
        elif isinstance(found, Block):
            names.update((axis.var, Var(axis.var.name, axis.var.dtype)) for axis in found.iters)
            buffers.update((buffer, buffer.replace()) for buffer in found.alloc_buffers)
        elif isinstance(found, Allocate):
            buffers[found.buffer] = found.buffer.replace()
    renamed: StmtT = rewrite(stmt, {}, memo=names)
    return replace_buffers(renamed, buffers)
