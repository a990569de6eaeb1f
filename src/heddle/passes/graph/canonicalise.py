# SPDX-License-Identifier: Apache-2.0
"""Rewrite calls to the few forms that later passes know well.

    y = conv(x, w)
    z = batch_norm(y, s, b, m, v)    ->      z = conv(x, w * s', b')

Rules stand in tables by the operator at their root (`canonical_algebra`, `canonical_attention`,
`canonical_convolution`, `canonical_patterns`). A rule looks at one call, whose arguments it may
trace back through the `Rewriter`, and gives the expression that takes its place, or None. What a
rule gives is offered to the rules again, so a chain collapses in one walk from front to back.

Values change by rounding only: constants are combined in float64 and rounded once. Nothing is
computed in a lower precision than the model asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from heddle.graph.nodes import Call, Function, GraphExpr, Tuple, TupleGetItem
from heddle.ir.module import IRModule
from heddle.passes.graph import (
    canonical_algebra,
    canonical_attention,
    canonical_convolution,
    canonical_patterns,
)
from heddle.passes.graph.anf import Rewriter, map_functions, op_name
from heddle.passes.graph.eliminate import eliminate_common_subexpressions, eliminate_dead_code
from heddle.passes.graph.fold_constants import fold_constants
from heddle.passes.graph.rule_table import Rule

Rules: TypeAlias = Mapping[str, Sequence[Rule]]

MAX_ROUNDS: Final = 4
_TABLES: Final = (
    canonical_patterns,
    canonical_attention,
    canonical_convolution,
    canonical_algebra,
)
RULES: Final[dict[str, list[Rule]]] = {}
for _table in _TABLES:
    for _name, _rules in _table.RULES.by_op.items():
        RULES.setdefault(_name, []).extend(_rules)


def canonicalise(module: IRModule) -> IRModule:
    """Rewrite calls to canonical forms: fold batch norms, recognise composite operators."""
    for _ in range(MAX_ROUNDS):
        # Patterns are told by the identity of values: equal ones must be one.
        merged = eliminate_common_subexpressions(module)
        changed = eliminate_dead_code(map_functions(merged, canonicalise_function))
        if changed is module:
            break
        module = changed
    return module


def canonicalise_function(function: Function) -> Function:
    """One walk over one function."""
    return _rewrite(function, RULES)


def rewrite_by_rules(module: IRModule, rules: Rules) -> IRModule:
    """One walk over the functions of a module with other rules."""
    return map_functions(module, lambda function: _rewrite(function, rules))


def _rewrite(function: Function, rules: Rules) -> Function:
    def simplify(rewriter: Rewriter, value: GraphExpr) -> GraphExpr:
        return _simplify(rewriter, value, rules)

    rewriter = Rewriter(function, simplify)
    for binding in function.bindings:
        value = rewriter.resolve(binding.value)
        simplified = rewriter.simplify(value)
        if simplified is value:
            rewriter.copy_binding(binding)
        else:
            new = rewriter.emit(simplified, like=binding.var)
            rewriter.alias(binding.var, new)
    return rewriter.finish()


def _simplify(rewriter: Rewriter, value: GraphExpr, rules: Rules) -> GraphExpr:
    """`value` after all rules that apply."""
    while True:
        if isinstance(value, TupleGetItem) and isinstance(value.value, Tuple):
            value = value.value.fields[value.index]
        if isinstance(value, TupleGetItem):
            value = canonical_algebra.part_of_split(rewriter, value) or value
        if not isinstance(value, Call) or not op_name(value):
            return value
        folded = fold_constants.fold(value)
        if folded is not None:
            return folded
        new = _apply_rule(rewriter, value, rules)
        if new is None:
            return value
        value = new


def _apply_rule(rewriter: Rewriter, call: Call, rules: Rules) -> GraphExpr | None:
    for rule in rules.get(op_name(call), ()):
        new = rule.function(rewriter, call)
        if new is not None and new is not call:
            rule.hits += 1
            return new if new.span is not None else _with_span(new, call)
    return None


def _with_span(value: GraphExpr, origin: Call) -> GraphExpr:
    if isinstance(value, Call) and origin.span is not None:
        spanned: GraphExpr = value.replace(span=origin.span)
        return spanned
    return value
