# SPDX-License-Identifier: Apache-2.0
"""`torch.cond`: a choice between two graphs that is made when the program runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from heddle.frontend.torch.node import Node
from heddle.frontend.torch.report import Unsupported
from heddle.graph import GraphExpr, Tuple, TupleGetItem

RunGraph = Callable[[fx.GraphModule, Sequence[Any]], list[Any]]


def convert_cond(
    node: Node,
    run: RunGraph,
    condition: Any,
    then: fx.GraphModule,
    otherwise: fx.GraphModule,
    operands: Sequence[Any],
) -> tuple[GraphExpr, ...]:
    """The results of the branch that `condition`, a truth value, chooses. `run` imports a branch
    for its operands."""
    if not isinstance(condition, GraphExpr):
        raise Unsupported("a condition on a symbolic size")
    which = node.reshape(node.cast(condition, "bool"), ())
    builder = node.importer.builder

    def arm(graph: fx.GraphModule) -> Callable[[], GraphExpr]:
        def emit() -> GraphExpr:
            bound = len(builder.bindings)
            values = [node.tensor(value) for value in run(graph, operands)]
            own = {binding.var for binding in builder.bindings[bound:]}
            fresh = [value if value in own else node.op.identity(value) for value in values]
            results = node.finish(fresh)
            return results[0] if len(results) == 1 else Tuple(results)  # type: ignore[no-any-return]

        return emit

    chosen = builder.emit_if(which, arm(then), arm(otherwise), name=node.label)
    count = len(node.result)
    if count == 1:
        return (chosen,)
    return tuple(node.emit(TupleGetItem(chosen, at)) for at in range(count))
