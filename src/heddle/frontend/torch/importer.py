# SPDX-License-Identifier: Apache-2.0
"""From a graph of ATen operators to a graph function: the walk over nodes. What each operator means
is in `ops/`, one file per family."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import fx

from heddle import op
from heddle.frontend.torch import ops  # declares the converters
from heddle.frontend.torch.control import convert_cond, convert_map, convert_scan, convert_while
from heddle.frontend.torch.labels import name_of, span_of
from heddle.frontend.torch.node import Node
from heddle.frontend.torch.parts import (
    Complex,
    component,
    gives_complex,
    has_complex,
    stacked,
    unstacked,
)
from heddle.frontend.torch.registry import find_complex_converter, find_converter
from heddle.frontend.torch.report import Report, Unsupported
from heddle.frontend.torch.sizes import ARITHMETIC, size_tensor
from heddle.frontend.torch.symbols import Symbols
from heddle.frontend.torch.tensors import dtype_of, numpy_view, real_view
from heddle.graph import Constant, Function, GraphBuilder, GraphExpr, Tuple, Var
from heddle.ir import BaseFunc, DType, TensorType
from heddle.ir.expr import Expr
from heddle.ir.expr import Var as Symbol
from heddle.support import HeddleError, InternalError, UserError

_ = ops

# What these ensure, the import ensures in its own way: sizes are checked against `symbol_ranges`.
_ASSERTIONS: Final = frozenset(
    (
        "aten._assert_scalar.default",
        "aten._linalg_check_errors.default",
        "aten._assert_async.msg",
        "aten._assert_tensor_metadata.default",
        "aten.sym_constrain_range.default",
        "aten.sym_constrain_range_for_size.default",
    )
)
_CONTROL: Final[dict[Any, Callable[..., Any]]] = {
    torch.ops.higher_order.cond: convert_cond,
    torch.ops.higher_order.while_loop: convert_while,
    torch.ops.higher_order.scan: convert_scan,
    torch.ops.higher_order.map_impl: convert_map,
}
_ITEM: Final = "aten._local_scalar_dense.default"
_NUMBERS: Final = (int, torch.SymInt, torch.SymFloat, torch.SymBool)


class Poison:
    """The result of a node that could not be imported; what reads it is passed over."""


class Token:
    """What orders operators that have effects; there is nothing in it."""


class Importer:
    """The import of one graph.

    survey: go on behind nodes that cannot be imported, as if they were parameters, so that every
        such node is found; the function is of no use then. They are in `unsupported`.
    """

    def __init__(self, name: str, symbols: Symbols | None = None, *, survey: bool = False) -> None:
        self.survey = survey
        self.unsupported: dict[fx.Node, Unsupported] = {}
        self.name = name
        self.builder = GraphBuilder(name)
        self.symbols = symbols or Symbols()
        self.report = Report()
        self.values: dict[fx.Node, Any] = {}
        self.bodies: dict[str, BaseFunc] = {}  # of loops, by name
        self._sizes: dict[Expr, GraphExpr] = {}
        self._returned: list[GraphExpr] = []
        self._constants: dict[int, Constant] = {}
        self._count = 0
        self._random_key: GraphExpr | None = None
        self._draws = 0

    # -- parameters and constants --------------------------------------------------------------

    def parameter(self, name: str, example: torch.Tensor) -> GraphExpr | Complex:
        """A new parameter of the type of `example` (a fake tensor); complex numbers are pairs of
        real ones along a last axis.

        A dimension that is computed from those of other parameters (s + 1, s * t) is a symbol of
        its own there; the value given back has as many elements of it as were computed.
        """
        if example.layout is not torch.strided:
            raise Unsupported(f"a tensor of layout {example.layout}")
        if example.device.type != "cpu":
            raise Unsupported(f"a tensor on the device `{example.device}`")
        if example.is_complex():
            component(example.dtype)
            pairs = self.parameter(name, real_view(example))
            assert isinstance(pairs, GraphExpr)
            return unstacked(self._bare_node(name), pairs)
        kind = dtype_of(example.dtype)
        dims = [self.symbols.bind(dim) for dim in example.shape]
        free = [self.symbols.axis(dim, f"{name}_{at}") for at, dim in enumerate(example.shape)]
        value: GraphExpr = self.builder.param(name, TensorType.of(free, kind))
        for axis, dim in enumerate(dims):
            if isinstance(dim, Expr) and not isinstance(
                dim, Symbol
            ):  # positions beyond are clamped: nothing else is ever read
                index = self.builder.emit(op.get("range")(count=dim, dtype="int64"), name=name)
                value = self.builder.emit(op.get("gather")(value, index, axis=axis), name=name)
        return value

    def size_parameter(self, name: str, size: torch.SymInt) -> Var:
        """A parameter that carries a size and nothing else: a tensor of shape (size, 0)."""
        dim = self.symbols.bind(size)
        return self.builder.param(name, TensorType.of((dim, 0), DType.of("bool")))

    def take_random_key(self) -> None:
        """A parameter `random_key` for the key of all random numbers."""
        self._random_key = self.builder.param("random_key", TensorType.of((2,), "uint32"))

    def draw(self) -> tuple[GraphExpr, GraphExpr]:
        """The key and the counter of a stream that no other operator draws from."""
        if self._random_key is None:
            raise Unsupported(
                "it draws from the generator of PyTorch, whose numbers nothing else has; "
                "`from_exported_program(..., random_key=True)` draws others"
            )
        if self.builder.name != self.name:
            raise Unsupported("random numbers in a loop: each iteration would draw the same")
        self._draws += 1
        counter = np.asarray([0, 0, self._draws, 0], np.uint32)
        return self._random_key, Constant(counter)

    def _bare_node(self, name: str) -> Node:
        """To emit operators that belong to no node of the program."""
        return Node(
            self,
            target="output",
            label=name,
            result=None,
            operands=(),
            span=span_of(None, self.name, self._count + 1, name),
        )

    def constant(self, tensor: torch.Tensor) -> Constant | Complex:
        """A tensor whose value is known; it shares the memory."""
        key = id(tensor)
        if tensor.is_complex():
            pair = real_view(tensor)
            return Complex(*(Constant(numpy_view(pair[..., at])) for at in range(2)))
        if key not in self._constants:
            self._constants[key] = Constant(numpy_view(tensor))
        return self._constants[key]

    # -- nodes -------------------------------------------------------------------------------

    def run_node(self, fx_node: fx.Node, graph: fx.GraphModule) -> None:
        """Import one node that is no parameter; trouble is noted in the report."""
        label = name_of(fx_node)
        try:
            self.values[fx_node] = self._convert(fx_node, graph, label)
        except Unsupported as problem:
            self.report.add(target_name(fx_node), label, problem)
            taken = fx_node.target is operator.getitem  # from a node that lacks this result
            self.unsupported[fx_node.args[0] if taken else fx_node] = problem  # type: ignore[index]
            self.values[fx_node] = self._stand_in(fx_node) if self.survey else Poison()

    def _stand_in(self, fx_node: fx.Node) -> Any:
        """Values of the types that torch says a node has."""

        def variable(result: Any) -> Any:
            try:
                if isinstance(result, torch.Tensor):
                    dims = self.symbols.shape(result.shape)
                    if result.is_complex():
                        part = TensorType.of(dims, component(result.dtype))
                        return Complex(Var(fx_node.name, part), Var(fx_node.name, part))
                    return Var(fx_node.name, TensorType.of(dims, dtype_of(result.dtype)))
                return self.symbols.dim(result)
            except Unsupported:
                return Poison()

        result = fx_node.meta.get("val")
        if isinstance(result, (tuple, list)):
            return tuple(variable(item) for item in result)
        return variable(result)

    def _convert(self, fx_node: fx.Node, graph: fx.GraphModule, label: str) -> Any:
        if fx_node.op == "get_attr":
            return self._attribute(fx_node, graph)
        result = fx_node.meta.get("val")
        target = target_name(fx_node)
        numbers = [self.values[item] for item in fx_node.all_input_nodes]
        counted = any(isinstance(value, GraphExpr) for value in numbers)  # of a loop
        sized = isinstance(result, (torch.SymInt, int)) and not isinstance(result, bool)
        if sized and target != _ITEM and not (counted and fx_node.target in ARITHMETIC):
            if fx_node.target is not operator.getitem:
                return self.symbols.dim(result)
        if target in _ASSERTIONS:
            return None
        inputs = [self.values[item] for item in fx_node.all_input_nodes]
        if any(isinstance(value, Poison) for value in inputs):
            if self.survey:
                raise Unsupported("it reads a tensor that Heddle cannot hold")
            return Poison()
        args, kwargs = self.arguments(fx_node)
        if fx_node.target is torch.ops.higher_order.with_effects and str(args[1]) in _ASSERTIONS:
            return (args[0],)
        if fx_node.target is operator.getitem:
            found = args[0][args[1]]
            if found is None and fx_node.users:
                raise Unsupported(f"result {args[1]} of the operator is not computed by Heddle")
            return found
        counting = ARITHMETIC.get(fx_node.target) if counted else None
        if counting is None and target != _ITEM:
            if isinstance(result, (torch.SymBool, torch.SymFloat)):
                return result  # of use to assertions, and to conditions
        converter: Any
        control = _CONTROL.get(fx_node.target)
        if control is not None:
            converter = functools.partial(_with_graphs, control, self._run_graph)
        elif counting is not None:
            converter = counting
        elif gives_complex(result) or has_complex((args, kwargs)):
            converter = find_complex_converter(target)
            if converter is None and find_converter(target) is not None:
                raise Unsupported("Heddle has no rule for this operator on complex numbers")
        else:
            converter = find_converter(target)
        if converter is None:
            raise Unsupported("Heddle has no rule for this operator")
        self._count += 1
        node = Node(
            self,
            target=target,
            label=label,
            span=span_of(fx_node, self.name, self._count, label),
            result=result,
            operands=fx.map_arg(fx_node.args, lambda item: item.meta.get("val")),
            used=_used_results(fx_node),
        )
        try:
            found = converter(node, *args, **kwargs)
            return found if isinstance(result, _NUMBERS) else node.finish(found)
        except HeddleError as error:
            if self.survey:
                raise Unsupported(error.message) from None
            if not isinstance(error, UserError):
                raise
            raise UserError(f"{label} ({target}): {error.message}", span=node.span) from None
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError) as error:
            text = f"its converter failed with {type(error).__name__}: {error}"
            if self.survey:  # the rest of the graph is compiled nevertheless
                raise Unsupported(text) from None
            raise InternalError(f"{label} ({target}): {text}") from error

    def _run_graph(self, graph: fx.GraphModule, operands: Sequence[Any]) -> list[Any]:
        """The results of a graph inside a node, for its operands."""
        trouble, sizes = len(self.unsupported), dict(self._sizes)
        placeholders = [n for n in graph.graph.nodes if n.op == "placeholder"]
        self.values.update(zip(placeholders, operands, strict=True))
        for fx_node in graph.graph.nodes:
            if fx_node.op in ("call_function", "get_attr"):
                self.run_node(fx_node, graph)
        self._sizes = sizes  # what was computed inside is not to be had outside
        if len(self.unsupported) > trouble:
            raise Unsupported("it needs what cannot be imported")
        output = next(n for n in graph.graph.nodes if n.op == "output")
        found = fx.map_arg(output.args[0], lambda item: self.values[item])
        return list(found) if isinstance(found, (tuple, list)) else [found]

    def arguments(self, fx_node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with values in place of nodes."""
        return (
            fx.map_arg(fx_node.args, lambda item: self.values[item]),
            fx.map_arg(fx_node.kwargs, lambda item: self.values[item]),
        )

    def _attribute(self, fx_node: fx.Node, graph: fx.GraphModule) -> Any:
        found: Any = graph
        for part in str(fx_node.target).split("."):
            found = getattr(found, part)
        if isinstance(found, fx.GraphModule):
            return found  # a branch
        if not isinstance(found, torch.Tensor):
            raise Unsupported(f"`{fx_node.target}` is a {type(found).__name__}, no tensor")
        return self.constant(found)

    def note_size(self, symbol: Symbol, value: GraphExpr) -> None:
        """Remember the scalar that a symbol is bound to at run time."""
        self._sizes[symbol] = value

    def size_tensor(self, node: Node, value: Expr) -> GraphExpr:
        """An expression of dimensions as an int64 scalar of the graph, made once."""
        if value not in self._sizes:
            self._sizes[value] = size_tensor(node, value, self.builder.params, self._sizes)
        return self._sizes[value]

    # -- the result --------------------------------------------------------------------------

    def float_of(self, value: Any) -> Any:
        """A number computed from sizes as a float64 scalar."""
        if isinstance(value, Poison):
            return value
        return self._bare_node("number").tensor(value, "float64")

    def converted(self, value: Any, like: torch.Tensor) -> Any:
        """A value in the shape and the dtype of a (fake) tensor, as `copy_` makes it."""
        if isinstance(value, Poison):
            return value
        node = self._bare_node("copy")
        if like.is_complex() or isinstance(value, Complex):
            return value
        dims = self.symbols.shape(like.shape)
        return node.expand(node.cast(node.tensor(value), dtype_of(like.dtype)), dims)

    def output(self, value: Any, name: str) -> GraphExpr | None:
        """A value as a result of its own: no parameter, no constant, none returned before."""
        if isinstance(value, Poison):
            return None
        try:
            node = self._bare_node(name)
            value = stacked(node, value) if isinstance(value, Complex) else node.tensor(value)
            params = self.builder.params
            if isinstance(value, Constant) or value in params or value in self._returned:
                value = node.op.identity(value)
        except Unsupported as problem:
            self.report.add("output", name, problem)
            return None
        assert isinstance(value, GraphExpr)
        self._returned.append(value)
        return value

    def finish(self, results: Sequence[GraphExpr | None], attrs: Mapping[str, object]) -> Function:
        """The function. Raises `ImportFailure` when anything could not be imported."""
        self.report.raise_if_any(self.name)
        found = tuple(value for value in results if value is not None)
        if not found:
            raise UserError(f"program `{self.name}` returns no tensor")
        result = found[0] if len(found) == 1 else Tuple(found)
        known = {"symbol_ranges": self.symbols.ranges, "symbol_values": self.symbols.computed}
        filled = {name: value for name, value in known.items() if value}
        return self.builder.finish(result, attrs={**filled, **attrs})


def _with_graphs(
    control: Callable[..., Any], run: Callable[..., Any], node: Node, *args: Any
) -> Any:
    return control(node, run, *args)


def bind_bare_symbols(symbols: Symbols, placeholders: Iterable[fx.Node]) -> None:
    """Define the symbols that are sizes of inputs as they are."""
    for fx_node in placeholders:
        example = fx_node.meta.get("val")
        if isinstance(example, torch.Tensor):
            symbols.bind_bare(example.shape)


def _used_results(fx_node: fx.Node) -> frozenset[int] | None:
    """Which of several results are read; None when they are handed on as a whole."""
    if any(user.target is not operator.getitem for user in fx_node.users):
        return None
    return frozenset(user.args[1] for user in fx_node.users if user.users)  # type: ignore[misc]


def target_name(fx_node: fx.Node) -> str:
    """The operator of a node, as in "aten.add.Tensor"."""
    target = fx_node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    module = getattr(target, "__module__", "") or ""
    name = getattr(target, "__name__", str(target))
    return f"{module}.{name}".removeprefix("_operator.") if module else name


__all__ = ["Importer", "Poison", "bind_bare_symbols", "target_name"]
