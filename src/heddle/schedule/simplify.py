# SPDX-License-Identifier: Apache-2.0
"""Keeping block bindings short: what a primitive changed is simplified, nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from heddle.arith import Analyzer
from heddle.ir.expr import Expr, FloorDiv, FloorMod, Var
from heddle.ir.walk import pre_order
from heddle.schedule.state import State, edit, walk
from heddle.tir.build import shape_symbols
from heddle.tir.nodes import Block, For, Stmt


def simplify_bindings(
    stmt: Stmt, state: State, site: For, loops: Sequence[tuple[Var, Expr]]
) -> Stmt:
    """`stmt`, that will lie in `loops` where `site` is now, with simpler block bindings.

    Only bindings and predicates with divisions are looked at; sums are short as they are.
    """
    found = [b for b in walk(stmt) if type(b) is Block and _needs_work(b)]
    if not found:
        return stmt
    analyzer = Analyzer()
    for symbol in shape_symbols(state.func):
        analyzer.bind(symbol, 0)
    for node in state.path(site)[:-1]:
        if type(node) is For:
            analyzer.bind(node.var, node.min, node.extent)
    for var, extent in loops:
        analyzer.bind(var, 0, extent)
    for node in walk(stmt):
        if type(node) is For:
            analyzer.bind(node.var, node.min, node.extent)
    changes: dict[Stmt, Stmt | None] = {block: _simplified(block, analyzer) for block in found}
    result = edit(stmt, changes)
    return stmt if result is None else result


def _divides(value: Expr) -> bool:
    return any(type(n) in (FloorDiv, FloorMod) for n in pre_order(value))


def _size(value: Expr) -> int:
    return sum(1 for _ in pre_order(value))


def _needs_work(block: Block) -> bool:
    return _divides(block.predicate) or any(_divides(bound.binding) for bound in block.iters)


def _simplified(block: Block, analyzer: Analyzer) -> Block:
    iters = []
    for bound in block.iters:
        binding = bound.binding
        if _divides(binding):
            simpler = analyzer.simplify(binding)
            # Other forms of the same size would hide that two bindings share a fused loop.
            if _size(simpler) < _size(binding):
                binding = simpler
        iters.append(bound.replace(binding=binding))
    predicate = analyzer.simplify(block.predicate)
    result: Block = block.replace(iters=tuple(iters), predicate=predicate)
    return result
