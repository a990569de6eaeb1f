# SPDX-License-Identifier: Apache-2.0
"""`torch.cond`, `torch.while_loop`, `scan` and `map`: graphs that run as often as the program finds
out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from heddle.frontend.torch.node import Node, shape
from heddle.frontend.torch.report import Unsupported
from heddle.graph import Function, GraphBuilder, GraphExpr, Tuple, TupleGetItem, Var
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
    which = node.reshape(node.cast(node.tensor(condition), "bool"), ())
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
    next ones; both read the `constant` ones as well. Numbers are carried as int64 scalars."""
    start = _start(node, carried)

    def holds(values: Sequence[Any]) -> GraphExpr:
        (found,) = run(condition, [*values, *constant])
        return node.reshape(node.cast(node.tensor(found), "bool"), ())

    def step(_iteration: GraphExpr, own: Sequence[GraphExpr]) -> list[GraphExpr]:
        results = [node.tensor(value) for value in run(body, [*own, *constant])]
        return [holds(results), *results]

    first = holds(start)
    name, made, captured = _function(node, start, step)
    _, finals, _ = node.importer.builder.emit_loop(
        name, made, carried=start, captured=captured, condition=first, name=node.label
    )
    return finals


def convert_scan(
    node: Node,
    run: RunGraph,
    body: fx.GraphModule,
    init: Sequence[Any],
    rows: Sequence[Any],
    constant: Sequence[Any] = (),
) -> tuple[GraphExpr, ...]:
    """`body` maps the carried values and a row of each of `rows` to the next carried values and a
    row of each result."""
    start = _start(node, init)
    if not rows or not all(isinstance(value, GraphExpr) for value in rows):
        raise Unsupported("a scan over what is no tensor of real numbers")
    count = shape(rows[0])[0]

    def step(iteration: GraphExpr, own: Sequence[GraphExpr]) -> list[GraphExpr]:
        taken = [node.op.gather(value, iteration, axis=0) for value in rows]
        results = run(body, [*own, *taken, *constant])
        return [node.tensor(True), *(node.tensor(value) for value in results)]

    name, made, captured = _function(node, start, step)
    limit = count if isinstance(count, int) else node.tensor(count)
    _, finals, stacked = node.importer.builder.emit_loop(
        name, made, carried=start, captured=captured, limit=limit, bound=count, name=node.label
    )
    return (*finals, *stacked)


def convert_map(
    node: Node,
    run: RunGraph,
    body: fx.GraphModule,
    rows: Sequence[Any],
    constant: Sequence[Any] = (),
) -> tuple[GraphExpr, ...]:
    """A scan that carries nothing."""
    return convert_scan(node, run, body, (), rows, constant)


def _start(node: Node, values: Sequence[Any]) -> list[GraphExpr]:
    """What a loop carries, as tensors."""
    return [node.importer.builder.atom(node.tensor(value)) for value in values]


def _function(
    node: Node,
    start: Sequence[GraphExpr],
    step: Callable[[GraphExpr, Sequence[GraphExpr]], list[GraphExpr]],
) -> tuple[str, Function, list[Var]]:
    """The body of a loop as a function of the iteration, the carried and the captured values; its
    name, and what it captures. `step` gives whether to go on, the next values, and rows."""
    importer = node.importer
    outer = importer.builder
    importer.builder = builder = GraphBuilder(outer.fresh_name(f"{outer.name}_loop"))
    try:
        iteration = builder.param("iteration", TensorType((), INT64))
        own = [builder.param(f"carried_{at}", value.type) for at, value in enumerate(start)]
        results = step(iteration, own)
        for at, (before, after) in enumerate(zip(own, results[1:], strict=False)):
            if not structural_equal(before.type, after.type):
                raise Unsupported(
                    f"carried value {at} is {show_type(before.type)} before an iteration and "
                    f"{show_type(after.type)} after it"
                )
        function = builder.finish(Tuple(tuple(results)))
    finally:
        importer.builder = outer
    read = captured_by(function.bindings, function.result)
    captured = [var for var in read if var not in function.params]
    importer.bodies[builder.name] = made = closed(function, captured)
    return builder.name, made, captured
