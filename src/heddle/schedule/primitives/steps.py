# SPDX-License-Identifier: Apache-2.0
"""Whether the loops around a block take all steps of its reductions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heddle.arith import detect_iter_map
from heddle.ir.expr import LT, Expr, as_expr
from heddle.ir.walk import uses_var
from heddle.schedule.affine import Affine, Around, affine, estimate
from heddle.schedule.boxes import loop_domain
from heddle.schedule.primitives.base import fail
from heddle.tir.build import shape_symbols
from heddle.tir.nodes import Block, IterKind, IterVar
from heddle.tir.predicate import conjuncts

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule


def check_all_steps(sch: Schedule, name: str, node: Block) -> None:
    """Raise when `node` takes a part of the steps of its reductions only: new loops over all of
    them would add those that a predicate, or a loop whose bounds depend on others, leaves out."""
    steps = [bound for bound in node.iters if bound.kind is not IterKind.SPATIAL]
    if not steps:
        return
    domain = loop_domain(sch.state.loops(node))
    around = Around(domain, shape_symbols(sch.func))
    for bound in steps:
        if not _runs_over_all(bound, around):
            raise fail(
                sch,
                name,
                f"`{bound.var.name}` of block `{node.name}` is bound to `{bound.binding}`, which "
                f"may not run over all of [0, {bound.extent}): new loops would add the steps that "
                "are left out; let the loops run over all steps, and select the terms in the sum",
                node,
            )
    carriers = {var for var in domain if any(uses_var(b.binding, var) for b in steps)}
    cuts = [
        part
        for part in conjuncts(node.predicate)
        if uses_var(part, carriers) and not any(_is_edge(part, bound) for bound in node.iters)
    ]
    bindings = [bound.binding for bound in node.iters]
    if cuts and not detect_iter_map(bindings, domain, node.predicate).is_bijective:
        raise fail(
            sch,
            name,
            f"block `{node.name}` takes the steps of its reduction only where `{cuts[0]}`: new "
            "loops would add the others; select the terms in the sum instead",
            node,
        )


def _runs_over_all(bound: IterVar, around: Around) -> bool:
    """Whether the binding certainly takes every value of [0, extent)."""
    box = estimate(bound.binding, around.domain)
    if box is None or not box.exact:
        return False
    none = Affine({}, 0)
    beyond = box.low.plus(affine(box.extent)).plus(affine(bound.extent), -1)
    return around.nonnegative(none.plus(box.low, -1)) and around.nonnegative(beyond)


def _is_edge(part: Expr, bound: IterVar) -> bool:
    """Whether `part` is `binding < extent`, or weaker: it keeps every step."""
    if type(part) is not LT:
        return False
    given = affine(as_expr(part.a)).plus(affine(as_expr(part.b)), -1)
    edge = affine(bound.binding).plus(affine(bound.extent), -1)
    slack = edge.plus(given, -1)
    return not slack.terms and slack.constant >= 0
