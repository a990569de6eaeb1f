# SPDX-License-Identifier: Apache-2.0
"""Keeping block bindings short: what a primitive changed is simplified, nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from heddle.arith import Analyzer
from heddle.ir.expr import Add, Expr, FloorDiv, FloorMod, IntImm, Mul, Var
from heddle.ir.walk import pre_order, rewrite
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


def simplify_sums(block: Block) -> Block:
    """`block` with shorter integer sums, and divisions of sums: `v // 7 * 7 + v % 7` is `v`, and
    `(g * 7 + v) // 7` is `g` where `v` is less than 7."""
    analyzer = Analyzer()
    for bound in block.iters:
        analyzer.bind(bound.var, 0, bound.extent)

    def shorter(found: Expr) -> Expr:
        if not found.dtype.is_int or not _improvable(found):
            return found
        simpler = analyzer.simplify(found)
        return simpler if _size(simpler) < _size(found) else found

    result: Block = rewrite(block, {Add: shorter, FloorDiv: shorter, FloorMod: shorter})
    return result


def _improvable(value: Expr) -> bool:
    """Whether `value` has divisions, or operations on constants left by a substitution."""
    for found in pre_order(value):
        kind = type(found)
        if kind is FloorDiv or kind is FloorMod:
            return True
        if (kind is Add or kind is Mul) and type(found.a) is IntImm:  # type: ignore[attr-defined]
            return True
    return False


def _size(value: Expr) -> int:
    return sum(1 for _ in pre_order(value))


def _needs_work(block: Block) -> bool:
    return _improvable(block.predicate) or any(_improvable(bound.binding) for bound in block.iters)


def _simplified(block: Block, analyzer: Analyzer) -> Block:
    iters = []
    for bound in block.iters:
        binding = bound.binding
        if _improvable(binding):
            simpler = analyzer.simplify(binding)
            # Other forms of the same size would hide that two bindings share a fused loop.
            if _size(simpler) < _size(binding):
                binding = simpler
        iters.append(bound.replace(binding=binding))
    predicate = analyzer.simplify(block.predicate)
    result: Block = block.replace(iters=tuple(iters), predicate=predicate)
    return result
