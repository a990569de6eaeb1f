# SPDX-License-Identifier: Apache-2.0
"""`torch.cond` and `torch.while_loop`: graphs that run as often as the program finds out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from heddle.frontend.torch.node import Node
from heddle.frontend.torch.report import Unsupported
from heddle.graph import GraphBuilder, GraphExpr, Tuple, TupleGetItem
from heddle.graph.dims import show_type
from heddle.ir import INT64, TensorType
from heddle.ir.structural import structural_equal
from heddle.passes.graph.outline import captured_by, closed

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


def convert_while(
    node: Node,
    run: RunGraph,
    condition: fx.GraphModule,
    body: fx.GraphModule,
    carried: Sequence[Any],
    constant: Sequence[Any] = (),
) -> tuple[GraphExpr, ...]:
    """The values that are left when `condition` no longer holds. `body` maps those carried to the
    next ones; both read the `constant` ones as well. `run` imports a graph for its operands."""
    importer = node.importer
    if any(not isinstance(value, GraphExpr) for value in carried):
        raise Unsupported("a loop that carries a number or a size; carry a tensor")
    start = [importer.builder.atom(node.tensor(value)) for value in carried]

    def holds(values: Sequence[Any]) -> GraphExpr:
        (found,) = run(condition, [*values, *constant])
        return node.reshape(node.cast(node.tensor(found), "bool"), ())

    first = holds(start)
    outer = importer.builder
    importer.builder = builder = GraphBuilder(outer.fresh_name(f"{outer.name}_loop"))
    try:
        builder.param("iteration", TensorType((), INT64))
        own = [builder.param(f"carried_{at}", value.type) for at, value in enumerate(start)]
        results = [node.tensor(value) for value in run(body, [*own, *constant])]
        for at, (before, after) in enumerate(zip(own, results, strict=True)):
            if not structural_equal(before.type, after.type):
                raise Unsupported(
                    f"carried value {at} is {show_type(before.type)} before an iteration and "
                    f"{show_type(after.type)} after it"
                )
        function = builder.finish(Tuple((holds(results), *results)))
    finally:
        importer.builder = outer
    read = captured_by(function.bindings, function.result)
    captured = [var for var in read if var not in function.params]
    importer.bodies[builder.name] = made = closed(function, captured)
    _, finals, _ = outer.emit_loop(
        builder.name, made, carried=start, captured=captured, condition=first, name=node.label
    )
    return finals
