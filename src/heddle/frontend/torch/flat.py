# SPDX-License-Identifier: Apache-2.0
"""`from_graph`: a flat graph of ATen operators, as AOTAutograd makes them, as an `IRModule`."""

from __future__ import annotations

import operator
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import has_free_unbacked_symbols

from heddle.frontend.torch.importer import Importer, Poison, Token, bind_bare_symbols
from heddle.frontend.torch.report import Report, Unsupported
from heddle.graph import GraphExpr, Var
from heddle.ir import IRModule


@dataclass(frozen=True, slots=True)
class Write:
    """A result of the module that becomes the value of an argument of the graph.

    position: of the argument. result: among those of the module. parameter: the name of the
    parameter that the argument is; None where the module sees a part of it.
    """

    position: int
    result: int
    parameter: str | None


@dataclass(frozen=True, slots=True)
class View:
    """A result that is a part of another one, or of an argument, and has to lie in its memory:
    PyTorch reads from where a result lies which part it is.

    root: the position of that result, or of the argument. steps: the operators that lead to the
    view.
    """

    root: int
    of_argument: bool
    steps: tuple[fx.Node, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """An imported graph.

    module: None when the graph returns no tensor that has to be computed. inputs: for each
    parameter of the module which argument of the graph it is; sizes are passed as tensors of shape
    (size, 0). results: for each result of the graph what it is: ("tensor", position among those of
    the module), ("item", position) and ("float", position) for the number in a tensor,
    ("argument", position), ("view", a `View`), ("size", a sympy expression) or ("none", None).
    writes: what the graph writes to its arguments at its end.
    """

    module: IRModule | None
    inputs: tuple[int, ...]
    results: tuple[tuple[str, Any], ...]
    report: Report
    unsupported: dict[fx.Node, Unsupported]
    writes: tuple[Write, ...] = ()


def from_graph(graph: fx.GraphModule, *, name: str = "main", survey: bool = False) -> Program:
    """Import a graph whose nodes carry fake tensors (`meta["val"]`).

    survey: only find the nodes that cannot be imported; `Program.unsupported` has them all.
    Raises `ImportFailure` when there are any and it is no survey.
    """
    importer = Importer(name, survey=survey)
    placeholders = [n for n in graph.graph.nodes if n.op == "placeholder"]
    inputs = _add_inputs(placeholders, importer)
    written: list[fx.Node] = []
    for fx_node in graph.graph.nodes:
        if is_write(fx_node):
            written.append(fx_node)
        elif fx_node.op in ("call_function", "get_attr"):
            importer.run_node(fx_node, graph)
    if survey:
        return Program(None, (), (), importer.report, importer.unsupported)
    computed: list[GraphExpr] = []
    writes = tuple(_write(item, placeholders, importer, computed) for item in written)
    results = _results(graph, placeholders, importer, computed)
    importer.report.raise_if_any(name)
    module = None
    if computed:
        names = tuple(f"output_{position}" for position in range(len(computed)))
        main = importer.finish(computed, {"output_names": names})
        module = IRModule({"main": main, **importer.bodies})
    return Program(module, tuple(inputs), tuple(results), importer.report, {}, writes)


def is_write(fx_node: fx.Node) -> bool:
    """Whether a node copies a value over an argument of its graph: AOTAutograd puts what a program
    writes to its inputs at the end, behind all that reads them."""
    return (
        fx_node.target is torch.ops.aten.copy_.default
        and isinstance(fx_node.args[0], fx.Node)
        and fx_node.args[0].op == "placeholder"
    )


def _write(
    fx_node: fx.Node,
    placeholders: Sequence[fx.Node],
    importer: Importer,
    computed: list[GraphExpr],
) -> Write:
    """The new value of an argument as a result; it comes first, so that it may lie in the memory of
    the old one."""
    target, source = fx_node.args[:2]
    assert isinstance(target, fx.Node)
    before = importer.values[target]
    importer.values[fx_node] = before
    value = importer.converted(importer.values[source], target.meta["val"])  # type: ignore[index]
    found = importer.output(value, fx_node.name)
    assert found is not None
    computed.append(found)
    name = before.name if isinstance(before, Var) else None
    return Write(placeholders.index(target), len(computed) - 1, name)


def _add_inputs(placeholders: Sequence[fx.Node], importer: Importer) -> list[int]:
    """Declare the parameters; the argument of each."""
    bind_bare_symbols(importer.symbols, placeholders)
    inputs = []
    sizes = []
    for position, fx_node in enumerate(placeholders):
        example = fx_node.meta.get("val")
        if fx_node.users and all(_orders(fx_node, user) for user in fx_node.users):
            importer.values[fx_node] = Token()
        elif isinstance(example, torch.Tensor):
            if not fx_node.users and all(isinstance(dim, int) for dim in example.shape):
                continue  # nothing depends on it
            try:
                importer.values[fx_node] = importer.parameter(fx_node.name, example)
                inputs.append(position)
            except Unsupported as problem:
                _refuse(importer, fx_node, problem)
        elif isinstance(example, torch.SymInt):
            sizes.append((position, fx_node, example))
        elif isinstance(example, (int, float, bool)) or example is None:
            importer.values[fx_node] = example
        else:
            _refuse(importer, fx_node, Unsupported(f"an input that is a {type(example).__name__}"))
    for position, fx_node, example in sizes:
        if not importer.symbols.knows(example):
            importer.size_parameter(fx_node.name, example)
            inputs.append(position)
        importer.values[fx_node] = importer.symbols.dim(example)
    return inputs


def _orders(fx_node: fx.Node, user: fx.Node) -> bool:
    """Whether a node only says when another one has its effects."""
    return user.target is torch.ops.higher_order.with_effects and user.args[0] is fx_node


def _refuse(importer: Importer, fx_node: fx.Node, problem: Unsupported) -> None:
    """An input that Heddle cannot take makes those that read it unsupported."""
    importer.values[fx_node] = Poison()
    for user in fx_node.users:
        if user.op != "output":
            importer.unsupported.setdefault(user, problem)
            importer.report.add("input", fx_node.name, problem)


def _results(
    graph: fx.GraphModule,
    placeholders: Sequence[fx.Node],
    importer: Importer,
    computed: list[GraphExpr],
) -> list[tuple[str, Any]]:
    output = next(n for n in graph.graph.nodes if n.op == "output")
    given = output.args[0]
    returned = list(given) if isinstance(given, (tuple, list)) else [given]
    places: dict[fx.Node, tuple[int, bool]] = {
        item: (position, False)
        for position, item in enumerate(returned)
        if isinstance(item, fx.Node)
    }
    places.update((item, (position, True)) for position, item in enumerate(placeholders))
    results: list[tuple[str, Any]] = []
    seen: dict[fx.Node, tuple[str, Any]] = {}
    for item in returned:
        if not isinstance(item, fx.Node):
            results.append(("none", None) if item is None else ("size", item))
            continue
        if item not in seen:
            root, steps = _view_steps(item, places)
            seen[item] = (
                ("view", View(*places[root], steps))
                if steps
                else _result(item, placeholders, importer, computed)
            )
        results.append(seen[item])
    return results


def _view_steps(item: fx.Node, roots: Container[fx.Node]) -> tuple[fx.Node, tuple[fx.Node, ...]]:
    """The first of `roots` that a node is a view of, and the steps from there; the node itself and
    no steps where it is a view of none."""
    root = node = item
    steps: tuple[fx.Node, ...] = ()
    walked: tuple[fx.Node, ...] = ()
    while _is_view(node):
        walked = (node, *walked)
        node = node.args[0]  # type: ignore[assignment]
        if node in roots:
            root, steps = node, walked
    return root, steps


def _is_view(fx_node: fx.Node) -> bool:
    """Whether a node makes a view of its first argument, by numbers that are known or sizes."""
    if not fx_node.args or not isinstance(fx_node.args[0], fx.Node):
        return False
    if fx_node.target is operator.getitem:
        return _is_view(fx_node.args[0])
    is_view = isinstance(fx_node.target, torch._ops.OpOverload) and fx_node.target.is_view
    sizes = [node.meta.get("val") for node in fx_node.all_input_nodes if node != fx_node.args[0]]
    return is_view and all(
        isinstance(size, torch.SymInt) and not has_free_unbacked_symbols(size) for size in sizes
    )


def _result(
    item: fx.Node, placeholders: Sequence[fx.Node], importer: Importer, computed: list[GraphExpr]
) -> tuple[str, Any]:
    if is_write(item):
        return "argument", placeholders.index(item.args[0])  # type: ignore[arg-type]
    value = importer.values[item]
    if isinstance(value, Token):
        return "none", None
    if item in placeholders:
        return "argument", placeholders.index(item)
    example = item.meta.get("val")
    kind = "tensor"
    if isinstance(example, torch.SymInt):
        if not has_free_unbacked_symbols(example):
            return "size", example.node.expr
        kind = "item"
    if isinstance(example, torch.SymFloat):
        kind, value = "float", importer.float_of(value)
    found = importer.output(value, item.name)
    if found is None:
        return "none", None
    computed.append(found)
    return kind, len(computed) - 1
