# SPDX-License-Identifier: Apache-2.0
"""Whether a block runs for its whole domain, or for what loops and conditions leave of it."""

from __future__ import annotations

from heddle.ir.expr import GE, GT, LE, LT, Expr, as_int, const
from heddle.ir.walk import uses_var
from heddle.schedule.affine import Affine, affine
from heddle.schedule.primitives.reduce import conjuncts
from heddle.schedule.state import State
from heddle.tir.nodes import Block, For, IfThenElse, While


def what_narrows(state: State, block: Block) -> str:
    """What may keep a block from some elements of its domain, as the end of a sentence; empty when
    nothing does. Loops with the bounds of a triangle do, and conditions of the program."""
    around: set[object] = set()
    for stmt in state.path(block):
        if type(stmt) in (IfThenElse, While):
            return "runs under a condition"
        if type(stmt) is For:
            if any(uses_var(bound, around) for bound in (stmt.min, stmt.extent)):  # type: ignore[arg-type]
                return f"is in loop `{stmt.var.name}`, whose bounds depend on other loops"
            around.add(stmt.var)
    limits = [part for bound in block.iters for part in _limits(bound.binding, bound.extent)]
    for part in conjuncts(block.predicate):
        slack = _slack(part)
        if as_int(part) == 1:
            continue
        if slack is None or not any(_implies(limit, slack) for limit in limits):
            return f"has the predicate `{part}`"
    return ""


def _limits(binding: Expr, extent: Expr) -> list[Affine]:
    """What is not negative inside the domain of an iteration variable."""
    place = affine(binding)
    return [place, affine(extent).plus(place, -1).plus(affine(const(1)), -1)]


def _slack(condition: Expr) -> Affine | None:
    """What is not negative where a comparison holds."""
    if not isinstance(condition, (LT, LE, GT, GE)):
        return None
    a, b = affine(condition.a), affine(condition.b)
    less = isinstance(condition, (LT, LE))
    difference = b.plus(a, -1) if less else a.plus(b, -1)
    strict = isinstance(condition, (LT, GT))
    return difference.plus(affine(const(1)), -1) if strict else difference


def _implies(limit: Affine, slack: Affine) -> bool:
    """Whether `slack` is not negative where `limit` is not."""
    difference = slack.plus(limit, -1)
    return not difference.terms and difference.constant >= 0
