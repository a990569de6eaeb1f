# SPDX-License-Identifier: Apache-2.0
"""From an ONNX model to a graph function: the walk over nodes. What each operator means is in
`ops/`, one file per family."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from heddle.frontend.onnx import ops, text  # `ops` declares the converters
from heddle.frontend.onnx.attributes import Attributes
from heddle.frontend.onnx.functions import find_function, has_function
from heddle.frontend.onnx.inputs import Inputs, ShapeLike
from heddle.frontend.onnx.model_file import opset_versions, read_model
from heddle.frontend.onnx.narrow import closed, constant, kind_of, numpy_dtype, opened, to_bytes
from heddle.frontend.onnx.node import Node, check_bytes, check_results
from heddle.frontend.onnx.order import describe, sort_nodes
from heddle.frontend.onnx.registry import Converter, find_converter
from heddle.frontend.onnx.report import NodeCoverage, Report, State, Unsupported
from heddle.frontend.onnx.sizes import Place
from heddle.frontend.onnx.symbolic import evaluate_symbolic
from heddle.frontend.onnx.tensors import dtype_of, to_value
from heddle.frontend.onnx.values import (
    Narrow,
    Optional_,
    Poison,
    Sequence_,
    Symbolic,
    Text,
    Value,
)
from heddle.graph import Constant, Function, GraphBuilder, GraphExpr, Tuple, Var
from heddle.ir import DType, IRModule
from heddle.ir.expr import Expr
from heddle.ir.expr import Var as Symbol
from heddle.passes.graph.eliminate import live_bindings
from heddle.support import Span, UserError

_ = ops
_DEPTH_LIMIT = 32
NO_SUCH_OPERATOR = "there is no such operator in Heddle"


def from_onnx(
    model: str | os.PathLike[str] | onnx.ModelProto,
    *,
    shapes: Mapping[str, ShapeLike] | None = None,
    values: Mapping[str, np.ndarray] | None = None,
    bounds: Mapping[str, int] | None = None,
    name: str | None = None,
) -> IRModule:
    """Import an ONNX model as a module with one graph function, `main`.

    Parameters keep the names of the inputs; the attribute "output_names" of the function lists
    those of the outputs. Dimensions that the model names are symbols of that name, unnamed ones
    symbols of their own. `shapes` fixes or names dimensions per input (an integer, a name, None
    for "as the model has it"), and says of inputs that are sequences or optionals what they hold: a
    list of shapes, or None for nothing. Each tensor in one is a parameter, "name.0" and so on, and
    each of a sequence that is an output a result. `values` fixes whole inputs, which are then no
    parameters. `bounds` gives the largest value of integers that decide shapes but are known at run
    time only (of a length that is an input, or of any tensor by its name in the model).

    Raises `UserError` for a damaged or unsafe file, `ImportFailure` (a `UserError`) that lists all
    operators that cannot be imported.

    >>> module = from_onnx("bert.onnx", shapes={"input_ids": (1, 128)})   # doctest: +SKIP
    """
    try:
        proto, path = read_model(model)
        return Importer(proto, path, shapes or {}, values or {}, name, bounds or {}).run()
    except UnicodeDecodeError:
        raise UserError(f"model `{model}` has a name that is not UTF-8") from None
    except RecursionError:
        raise UserError(f"model `{model}` nests its graphs too deeply") from None


class Scope:
    """Names of one graph (or function body) and the graph around it."""

    def __init__(
        self,
        versions: Mapping[str, int],
        *,
        parent: Scope | None = None,
        attributes: Mapping[str, onnx.AttributeProto] | None = None,
        depth: int = 0,
    ) -> None:
        self.values: dict[str, Value] = {}
        self.sizes: dict[Place, Expr] = {}
        """Dimensions of this scope that are elements of tensors."""
        self.versions = versions
        self.parent = parent
        self.attributes = attributes if attributes is not None else {}
        self.depth = depth

    def find(self, name: str) -> Value:
        """The value of a name that `sort_nodes` has seen defined."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.parent
        raise UserError(f"`{name}` is read, but nothing defines it")

    def has(self, name: str) -> bool:
        """Whether this graph or one around it defines the name."""
        return name in self.values or (self.parent is not None and self.parent.has(name))


class Importer:
    """The import of one model."""

    def __init__(
        self,
        model: onnx.ModelProto,
        path: Path | None,
        shapes: Mapping[str, ShapeLike],
        values: Mapping[str, np.ndarray],
        name: str | None,
        bounds: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.model = model
        self.folder = path.parent if path is not None else None
        self.file = str(path) if path is not None else "<model>"
        self.name = name or (path.stem if path is not None else model.graph.name) or "main"
        self.builder = GraphBuilder(self.name)
        self.params = self.builder.params
        """Parameters of the whole model, whatever function is being built."""
        self.bodies: dict[str, Function] = {}
        """Functions that loops of the model call."""
        self.late: dict[Symbol, GraphExpr] = {}
        """The value of each dimension that is computed at run time."""
        self.report = Report()
        self.bounds = bounds
        self.made: dict[Var, GraphExpr] = {}
        """What each variable is computed as."""
        self.values = values
        self._check_bounds()
        constant = {tensor.name for tensor in model.graph.initializer}
        declared = [v for v in model.graph.input if v.name not in constant]
        self.inputs = Inputs(shapes, values, declared, self.file)
        self.functions = {
            (f.domain, f.name, getattr(f, "overload", "")): f for f in model.functions
        }
        self._sources: dict[Var, frozenset[str]] = {}
        self._returned: list[GraphExpr] = []
        # Name of each output, and of how many tensors it is a sequence.
        self.layout: list[tuple[str, int | None]] = []
        # The table of each output that is a tensor of strings.
        self.strings: dict[str, tuple[str, ...]] = {}
        self._node_count = 0
        # What became of each node of the main graph, for `coverage`.
        self.covered: list[NodeCoverage] = []
        self._inlined = 0

    def _check_bounds(self) -> None:
        graph = self.model.graph
        names = {value.name for value in graph.input}.union(*(n.output for n in graph.node))
        for name, bound in self.bounds.items():
            if name not in names:
                raise UserError(f"bounds: model `{self.file}` has no tensor `{name}`")
            if isinstance(bound, bool) or not isinstance(bound, int) or bound < 0:
                raise UserError(f"bounds: `{name}` is {bound}, expected a number of elements")

    # -- whole graph -------------------------------------------------------------------------

    def run(self) -> IRModule:
        """The module."""
        graph = self.model.graph
        scope = Scope(opset_versions(self.model, self.file))
        self._add_initializers(graph, scope)
        for value in graph.input:
            if value.name not in scope.values:
                scope.values[value.name] = self._parameter(value)
        self.run_nodes(graph.node, scope)
        names = [value.name for value in graph.output]
        for name in names:
            if not scope.has(name):
                raise UserError(f"model `{self.file}`: nothing defines the output `{name}`")
        results = [value for name in names for value in self._outputs(name, scope)]
        if not results and names:
            empty = Unsupported("every output is an empty sequence")
            self.report.add("output", "graph", names[0], empty)
        self.report.raise_if_any(self.file)
        function = self._finish(results)
        return IRModule({"main": function, **self.bodies})

    def _finish(self, results: Sequence[GraphExpr | None]) -> Function:
        found: list[GraphExpr] = [value for value in results if value is not None]
        result = found[0] if len(found) == 1 else Tuple(tuple(found))
        names: list[str] = []
        for name, count in self.layout:
            names += [name] if count is None else [f"{name}.{at}" for at in range(count)]
        attrs: dict[str, Any] = {"output_names": tuple(names)}
        if self.strings:
            # The strings that the numbers of a result stand for, for each result.
            attrs["output_strings"] = tuple(self.strings.get(name, ()) for name in names)
        if any(count is not None for _, count in self.layout):
            # How many results an output is, where it is a sequence; -1 stands for a tensor.
            attrs["output_counts"] = tuple(-1 if n is None else n for _, n in self.layout)
        whole = self.builder.finish(result, attrs=attrs)
        return whole.replace(bindings=live_bindings(whole))  # type: ignore[no-any-return]

    def _parameter(self, value: onnx.ValueInfoProto) -> Value:
        if not value.name:
            raise UserError(f"model `{self.file}` has an input without a name")
        try:
            if value.type.WhichOneof("value") in ("sequence_type", "optional_type"):
                return self._compound(value.name, value.type, self.inputs.parts_of(value))
            if text.is_text(value.type.tensor_type.elem_type):
                return self._known_strings(value.name)
            type_ = self.inputs.type_of(value)
        except Unsupported as problem:
            self.report.add("input", "graph", value.name, problem)
            return Poison()
        check_bytes(type_)
        kind = kind_of(value.type.tensor_type.elem_type)
        if value.name in self.values:
            given = np.asarray(self.values[value.name])
            if kind is not None and given.dtype == numpy_dtype(kind):
                given = to_bytes(given, kind)
            if DType.of(given.dtype) is not type_.dtype:
                raise UserError(
                    f"values: `{value.name}` has dtype {given.dtype}, the model says {type_.dtype}"
                )
            return constant(given, kind)
        var = self.builder.param(value.name, type_)
        self._sources[var] = frozenset((value.name,))
        return var if kind is None else Narrow(var, kind)

    def _known_strings(self, name: str) -> Value:
        if name not in self.values:
            raise Unsupported(
                f"input `{name}` is a tensor of strings; its value must be known when compiling",
                inputs=(name,),
            )
        return text.of_strings(self.values[name])

    def _compound(self, name: str, type_: onnx.TypeProto, given: Any) -> Value:
        """An input that is a sequence or an optional: a parameter for each tensor in it."""
        kind = type_.WhichOneof("value")
        if kind == "optional_type":
            inner = type_.optional_type.elem_type
            return Optional_(None if given is None else self._compound(name, inner, given))
        if kind == "sequence_type":
            if isinstance(given, str) or not isinstance(given, Sequence):
                raise UserError(f"shapes: `{name}` is a sequence, expected a list of shapes")
            inner = type_.sequence_type.elem_type
            taken = {value.name for value in self.model.graph.input}
            if any(f"{name}.{at}" in taken for at in range(len(given))):
                raise Unsupported(f"input `{name}` is a sequence, and another is named like a part")
            items = [self._compound(f"{name}.{at}", inner, s) for at, s in enumerate(given)]
            dtype = dtype_of(inner.tensor_type.elem_type, f"input `{name}`")
            return Sequence_(tuple(item for item in items if isinstance(item, GraphExpr)), dtype)
        if kind != "tensor_type":
            raise Unsupported(f"input `{name}` holds a {str(kind).removesuffix('_type')}")
        if kind_of(type_.tensor_type.elem_type) is not None:
            raise Unsupported(f"input `{name}` holds tensors of few bits")
        info = onnx.ValueInfoProto(name=name)
        info.type.CopyFrom(type_)
        found = self.inputs.type_of(info, given)
        check_bytes(found)
        var = self.builder.param(name, found)
        self._sources[var] = frozenset((name,))
        return var

    def _outputs(self, name: str, scope: Scope) -> list[GraphExpr | None]:
        """One output of the model: several of the function where it is a sequence."""
        value = scope.find(name)
        while isinstance(value, Optional_) and value.value is not None:
            value = value.value
        if not isinstance(value, Sequence_):
            self.layout.append((name, None))
            return [self._output(name, value, scope)]
        self.layout.append((name, len(value.items)))
        return [self._output(f"{name}.{at}", item, scope) for at, item in enumerate(value.items)]

    def _output(self, name: str, value: Value, scope: Scope) -> GraphExpr | None:
        if isinstance(value, Poison):
            return None
        try:
            if isinstance(value, Narrow):
                value = value.bytes
            if isinstance(value, Text):
                self.strings[name] = value.table
                value = value.codes
            if isinstance(value, Symbolic):
                node = self._helper_node(name, scope)
                value = node.finish([node.as_tensor(value)])[0]
            if not isinstance(value, GraphExpr):
                raise Unsupported(f"output `{name}` is an optional that holds nothing")
        except Unsupported as problem:
            self.report.add("output", "graph", name, problem)
            return None
        if isinstance(value, Constant) or value in self.params or value in self._returned:
            node = self._helper_node(name, scope)
            value = node.finish([node.op.identity(value)])[0]
            assert isinstance(value, GraphExpr)
        self._returned.append(value)
        return value

    def _helper_node(self, output: str, scope: Scope) -> Node:
        proto = onnx.NodeProto(op_type="Identity", output=[output])
        return self._node(proto, [], scope, "Identity", Attributes({}, output, None))

    # -- constants ---------------------------------------------------------------------------

    def _add_initializers(self, graph: onnx.GraphProto, scope: Scope) -> None:
        for tensor in graph.initializer:
            what = f"model `{self.file}`: initializer `{tensor.name}`"
            if not tensor.name or tensor.name in scope.values:
                raise UserError(f"{what} has no name" if not tensor.name else f"{what} twice")
            try:
                scope.values[tensor.name] = to_value(tensor, self.folder, what)
            except Unsupported as problem:
                self.report.add("initializer", "graph", tensor.name, problem)
                scope.values[tensor.name] = Poison()
        for sparse in graph.sparse_initializer:
            self.report.add("initializer", "graph", sparse.values.name, Unsupported("it is sparse"))
            scope.values[sparse.values.name] = Poison()
        seen: set[str] = set()
        for value in graph.input:
            if value.name in seen:
                raise UserError(f"model `{self.file}`: input `{value.name}` is defined twice")
            seen.add(value.name)

    # -- nodes -------------------------------------------------------------------------------

    def run_nodes(self, nodes: Sequence[onnx.NodeProto], scope: Scope) -> None:
        """Import nodes into a scope that has what they may read."""
        if scope.depth > _DEPTH_LIMIT:
            raise UserError(
                f"model `{self.file}`: graphs and functions are nested more than "
                f"{_DEPTH_LIMIT} deep (does a function call itself?)"
            )
        outer = scope.parent.has if scope.parent is not None else lambda name: False
        for index in sort_nodes(nodes, scope.values, outer, f"model `{self.file}`"):
            self._run_node(nodes[index], index, scope)

    def _run_node(self, proto: onnx.NodeProto, index: int, scope: Scope) -> None:
        inputs = [scope.find(name) if name else None for name in proto.input]
        while inputs and inputs[-1] is None:
            inputs.pop()
        label = describe(proto, index)
        where = f"model `{self.file}`: node `{label}` ({proto.op_type})"
        noted, inlined = self.report.count, self._inlined
        results: Sequence[Value]
        if any(isinstance(value, Poison) for value in inputs):
            results = [Poison() for _ in proto.output]
        else:
            try:
                results = self._convert(proto, inputs, scope, label, where)
            except Unsupported as problem:
                self._note(proto, label, scope, problem)
                results = [Poison() for _ in proto.output]
        if scope.depth == 0:
            self._cover(proto, label, scope, inlined=self._inlined > inlined, noted=noted)
        for name, value in zip(proto.output, results, strict=False):
            if name:
                scope.values[name] = value
        for name in list(proto.output)[len(results) :]:
            if name:
                raise UserError(f"{where}: output `{name}` is one more than the operator has")

    def _cover(
        self, proto: onnx.NodeProto, label: str, scope: Scope, *, inlined: bool, noted: int
    ) -> None:
        """Note what became of a node of the main graph."""
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        version = scope.versions.get(domain)
        operator = f"{domain}::{proto.op_type}" if domain else proto.op_type
        state: State = "decomposed" if inlined else "supported"
        reason = ""
        if self.report.count > noted:
            state, reason = "unsupported", self.report.last_reason
        elif any(isinstance(scope.find(name), Poison) for name in proto.input if name):
            reason = "not tried: it needs what cannot be imported"
            if (proto.domain, proto.op_type, getattr(proto, "overload", "")) in self.functions:
                state = "decomposed"
            elif find_converter(domain, proto.op_type, version or 0) is None:
                known = has_function(proto, version or 0)
                state = "decomposed" if known else "unsupported"
                reason = reason if known else NO_SUCH_OPERATOR
        self.covered.append(NodeCoverage(label, operator, version, state, reason))

    def _note(self, proto: onnx.NodeProto, label: str, scope: Scope, problem: Unsupported) -> None:
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        version = scope.versions.get(domain, "no opset")
        operator = f"{domain}::{proto.op_type}" if domain else proto.op_type
        self.report.add(operator, f"opset {version}", label, problem)

    def _convert(
        self, proto: onnx.NodeProto, inputs: list[Value], scope: Scope, label: str, where: str
    ) -> Sequence[Value]:
        self._node_count += 1
        given = self._attributes(proto, scope, where)
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        local = self.functions.get((proto.domain, proto.op_type, getattr(proto, "overload", "")))
        if local is not None:
            return self._inline(local, inputs, given, scope, proto.output)
        version = scope.versions.get(domain)
        if version is None:
            raise Unsupported(f"the model does not import the operator set `{domain}`")
        node = self._node(proto, inputs, scope, label, Attributes(given, where, self.folder))
        node.version = version
        symbolic = evaluate_symbolic(node)
        if symbolic is not None:
            return [symbolic]
        converter = find_converter(domain, proto.op_type, version)
        if converter is not None:
            return self._apply(converter, node, where)
        resolved = onnx.NodeProto()
        resolved.CopyFrom(proto)
        del resolved.attribute[:]
        resolved.attribute.extend(given.values())
        function = find_function(resolved, version, inputs)
        if function is None:
            raise Unsupported(NO_SUCH_OPERATOR)
        return self._inline(function, inputs, given, scope, proto.output)

    def _apply(self, converter: Converter, node: Node, where: str) -> Sequence[Value]:
        try:
            kind, table = opened(node), text.opened(node)
            results = converter(node)
        except UserError as error:
            if error.message.startswith("model `"):
                raise
            raise UserError(f"{where}: {error.message}", span=error.span or node.span) from None
        except (ArithmeticError, IndexError, ValueError) as error:
            # Converters read attributes and shapes of files that nobody vouches for.
            raise UserError(
                f"{where}: the inputs or attributes do not fit the operator: {error}",
                span=node.span,
            ) from error
        if not isinstance(results, (tuple, list)):
            results = (results,)
        check_results(results, node, where)
        return node.finish(text.closed(closed(results, kind), table))

    def _node(
        self,
        proto: onnx.NodeProto,
        inputs: Sequence[Value],
        scope: Scope,
        label: str,
        attr: Attributes,
    ) -> Node:
        text = f"{label}: {proto.op_type}({', '.join(proto.input)}) -> {', '.join(proto.output)}"
        span = Span(self.file, self._node_count + 1, 0, end_column=len(label), text=text)
        return Node(proto, attr, inputs, version=0, span=span, importer=self, scope=scope)

    def _attributes(
        self, proto: onnx.NodeProto, scope: Scope, where: str
    ) -> dict[str, onnx.AttributeProto]:
        """The attributes by name, those of an enclosing function put in."""
        given: dict[str, onnx.AttributeProto] = {}
        for attribute in proto.attribute:
            if attribute.name in given:
                raise UserError(f"{where}: attribute `{attribute.name}` is given twice")
            if attribute.ref_attr_name:
                found = scope.attributes.get(attribute.ref_attr_name)
                if found is None:
                    continue
                copied = onnx.AttributeProto()
                copied.CopyFrom(found)
                copied.name = attribute.name
                given[attribute.name] = copied
            else:
                given[attribute.name] = attribute
        return given

    # -- functions and subgraphs -------------------------------------------------------------

    def _inline(
        self,
        function: onnx.FunctionProto,
        inputs: Sequence[Value],
        given: Mapping[str, onnx.AttributeProto],
        scope: Scope,
        wanted: Sequence[str],
    ) -> Sequence[Value]:
        """The body of a function with its parameters bound."""
        self._inlined += 1
        versions = {
            ("" if entry.domain == "ai.onnx" else entry.domain): entry.version
            for entry in function.opset_import
        }
        defaults = {attribute.name: attribute for attribute in function.attribute_proto}
        schema_defaults = _schema_defaults(function, scope)
        body = Scope(
            {**scope.versions, **versions},
            attributes={**schema_defaults, **defaults, **given},
            depth=scope.depth + 1,
        )
        if len(inputs) > len(function.input):
            raise UserError(
                f"function `{function.name}` takes {len(function.input)} inputs, got {len(inputs)}"
            )
        for position, name in enumerate(function.input):
            body.values[name] = inputs[position] if position < len(inputs) else None
        self.run_nodes(function.node, body)
        # A body that depends on its context leaves out what the node does not ask for.
        pairs = zip(function.output, wanted, strict=False)
        return [body.find(inner) if outer else None for inner, outer in pairs]

    def run_graph(
        self, graph: onnx.GraphProto, inputs: Sequence[Value], scope: Scope
    ) -> list[Value]:
        """A subgraph inlined: its outputs for these inputs."""
        body = Scope(
            scope.versions, parent=scope, attributes=scope.attributes, depth=scope.depth + 1
        )
        self._add_initializers(graph, body)
        formal = [value.name for value in graph.input if value.name not in body.values]
        if len(formal) != len(inputs):
            raise UserError(
                f"model `{self.file}`: subgraph `{graph.name}` takes {len(formal)} inputs, "
                f"got {len(inputs)}"
            )
        body.values.update(zip(formal, inputs, strict=True))
        self.run_nodes(graph.node, body)
        return [body.find(value.name) for value in graph.output]

    # -- where values come from --------------------------------------------------------------

    def sources_of(self, value: GraphExpr) -> frozenset[str]:
        """The graph inputs that a value is computed from."""
        if isinstance(value, Var):
            return self._sources.get(value, frozenset())
        parts = [item for item in value.children() if isinstance(item, GraphExpr)]
        return frozenset().union(*(self.sources_of(item) for item in parts))

    def derive_sources(self, var: Var, value: GraphExpr) -> None:
        """Note that `var` is computed as `value`."""
        self._sources[var] = self.sources_of(value)
        self.made[var] = value


def _schema_defaults(function: onnx.FunctionProto, scope: Scope) -> dict[str, onnx.AttributeProto]:
    """Defaults of the attributes of an operator that is expanded into its definition."""
    domain = "" if function.domain == "ai.onnx" else function.domain
    version = scope.versions.get(domain)
    try:
        schema = onnx.defs.get_schema(function.name, version or 1, domain)
    except onnx.defs.SchemaError:
        return {}
    return {
        name: attribute.default_value
        for name, attribute in schema.attributes.items()
        if attribute.default_value.name
    }
