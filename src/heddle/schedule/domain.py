# SPDX-License-Identifier: Apache-2.0
"""Whether a block runs for its whole domain, or for what loops and conditions leave of it."""

from __future__ import annotations

from heddle.ir.expr import GE, GT, LE, LT, Expr, as_int, const
from heddle.ir.walk import uses_var
from heddle.schedule.affine import Affine, Domain, affine
from heddle.schedule.boxes import loop_domain
from heddle.schedule.state import State
from heddle.tir.nodes import Block, For, IfThenElse, While
from heddle.tir.predicate import conjuncts


def what_narrows(state: State, block: Block, *, below: For | None = None) -> str:
    """What may keep a block from some elements of its domain, as the end of a sentence; empty when
    nothing does. Loops with the bounds of a triangle do, and conditions that are not the limits of
    an iteration variable. With `below`, what stands around that loop does not count."""
    around: set[object] = set()
    path = state.path(block)
    for stmt in path if below is None else path[path.index(below) + 1 :]:
        if type(stmt) in (IfThenElse, While):
            return "runs under a condition"
        if type(stmt) is For:
            if any(uses_var(bound, around) for bound in (stmt.min, stmt.extent)):  # type: ignore[arg-type]
                return f"is in loop `{stmt.var.name}`, whose bounds depend on other loops"
            around.add(stmt.var)
    loops = loop_domain(path)
    limits = [part for bound in block.iters for part in _limits(bound.binding, bound.extent)]
    for part in conjuncts(block.predicate):
        room = slack(part)
        if as_int(part) == 1:
            continue
        if room is None or not any(_implies(n, room, loops) for n in limits):
            return f"has the predicate `{part}`"
    return ""


def _limits(binding: Expr, extent: Expr) -> list[Affine]:
    """What is not negative inside the domain of an iteration variable."""
    place = affine(binding)
    return [place, affine(extent).plus(place, -1).plus(affine(const(1)), -1)]


def slack(condition: Expr) -> Affine | None:
    """What is not negative where a comparison holds."""
    if not isinstance(condition, (LT, LE, GT, GE)):
        return None
    a, b = affine(condition.a), affine(condition.b)
    less = isinstance(condition, (LT, LE))
    difference = b.plus(a, -1) if less else a.plus(b, -1)
    strict = isinstance(condition, (LT, GT))
    return difference.plus(affine(const(1)), -1) if strict else difference


def _implies(limit: Affine, slack: Affine, loops: Domain) -> bool:
    """Whether `slack` is certainly not negative where `limit` is not.

    With limit = c * slack + rest and rest < c, a negative slack would make the limit negative:
    `i * 8 + j < 40` implies `i < 5` where j < 8.
    """
    for key, (_, count) in slack.terms.items():
        scale = limit.terms.get(key, (None, 0))[1] // count
        most = _upper_bound(limit.plus(slack, -scale), loops) if scale > 0 else None
        if most is not None and most < scale:
            return True
    return not slack.terms and slack.constant >= 0


def _upper_bound(value: Affine, loops: Domain) -> int | None:
    """The largest value while `loops` run, if it is a known number."""
    total = value.constant
    for atom, count in value.terms.values():
        start, size = loops.get(atom, (None, None))  # type: ignore[call-overload]
        low = None if start is None else as_int(start)
        extent = None if size is None else as_int(size)
        if low is None or extent is None:
            return None
        total += count * (low + extent - 1 if count > 0 else low)
    return total
