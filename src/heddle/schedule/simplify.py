# SPDX-License-Identifier: Apache-2.0
"""Keeping block bindings short: what a primitive changed is simplified, nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from heddle.ir.expr import Expr, Var
from heddle.schedule.state import State
from heddle.tir.nodes import For, Stmt


def simplify_bindings(
    stmt: Stmt, state: State, site: For, loops: Sequence[tuple[Var, Expr]]
) -> Stmt:
    """`stmt`, that will lie in `loops` where `site` is now, with simpler block bindings."""
    return stmt
