# SPDX-License-Identifier: Apache-2.0
"""Parsing of graph-level functions.

Nested calls (`op.relu(op.add(x, y))`) become bindings of their own, as A-normal form wants;
`G.typed(call, type)` keeps a call where it stands.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from heddle.graph import nodes as graph
from heddle.graph.registry import resolve_op
from heddle.ir import (
    DataType,
    DType,
    FunctionType,
    GlobalVar,
    TupleType,
    Type,
    first_mismatch,
    structural_equal,
)
from heddle.ir.expr import Expr, const
from heddle.script.parse_base import Context
from heddle.script.parse_expr import ExprParser


class GraphParser(ExprParser):
    """Graph functions; `function` parses a whole one."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.blocks: list[list[graph.Binding]] = [[]]
        self.attrs: dict[str, Any] = {}
        self.result: graph.GraphExpr | None = None

    # -- functions ---------------------------------------------------------------------------

    def function(self, node: ast.FunctionDef) -> graph.Function:
        """The graph function that a `def` describes."""
        arguments = node.args
        extra = (*arguments.posonlyargs, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
        for item in extra:
            if item is not None:
                self.fail(item, "a graph function takes plain parameters only")
        with self.scope():
            params = tuple(self.parameter(arg) for arg in arguments.args)
            body = self.statements(node.body)
            if not body or not isinstance(body[-1], ast.Return) or body[-1].value is None:
                self.fail(node.body[-1], "a graph function ends in `return <value>`")
            declared = None if node.returns is None else self.type(node.returns)
            self.suite(body[:-1])
            result = self.operand(body[-1].value)
            if declared is not None:
                self.check_type(body[-1], result.type, declared)
        return graph.Function(
            params, tuple(self.blocks[0]), result, self.attrs, span=self.span(node)
        )

    def statements(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        """The statements without documentation and attributes, which are dealt with here."""
        kept = []
        for node in body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue
            call = node.value if isinstance(node, ast.Expr) else None
            if isinstance(call, ast.Call) and self.called(call, "G") == "func_attr":
                attrs = self.attribute_value(self.arguments(call, ("attrs",))["attrs"])
                if not isinstance(attrs, dict):
                    self.fail(call, "attributes are a dictionary")
                self.attrs.update(attrs)
                continue
            kept.append(node)
        return kept

    def parameter(self, arg: ast.arg) -> graph.Var:
        if arg.annotation is None:
            self.fail(
                arg, f'parameter `{arg.arg}` needs a type such as G.Tensor((n, 128), "float32")'
            )
        type_ = self.type(arg.annotation)
        name = arg.arg
        if isinstance(arg.annotation, ast.Call):
            for keyword in arg.annotation.keywords:
                if keyword.arg == "name":
                    name = self.string(keyword.value, "a name")
        var: graph.Var = self.bind(
            arg, arg.arg, lambda: graph.Var(name, type_, span=self.span(arg))
        )
        return var

    def check_type(self, node: ast.AST, got: Type, expected: Type) -> None:
        """Raise unless the value's type is the one that is written down."""
        if not structural_equal(got, expected):
            self.fail(node, f"the value has type {got}, but {expected} is written")

    # -- statements --------------------------------------------------------------------------

    def suite(self, body: Sequence[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.If):
                self.branches(node)
            elif isinstance(node, ast.Match):
                self.match(node)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                name, type_, value = self.assignment(node)
                self.emit(node, name, type_, self.value_of(value, type_))
            elif not isinstance(node, ast.Pass):
                kind = type(node).__name__
                self.fail(node, f"a `{kind}` statement is not part of a graph function")

    def assignment(self, node: ast.stmt) -> tuple[str, Type | None, ast.expr]:
        """Name, written type and value of `x = value` or `x: type = value`."""
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            return node.target.id, self.type(node.annotation), node.value
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
            if isinstance(target, ast.Name):
                return target.id, None, node.value
        self.fail(node, "expected `name = value` or `name: type = value`")

    def emit(
        self, node: ast.AST, name: str, type_: Type | None, value: graph.GraphExpr
    ) -> graph.Var:
        """Bind `value` to a new variable."""
        kind = value.type if type_ is None else type_
        var: graph.Var = self.bind(node, name, lambda: graph.Var(name, kind, span=self.span(node)))
        self.blocks[-1].append(graph.Binding(value, var, span=self.span(node)))
        return var

    def branches(self, node: ast.If) -> None:
        """`if c: ...; r = a` / `else: ...; r = b`: the last lines assign the same name."""
        condition = self.operand(node.test)
        if not node.orelse:
            self.fail(node, "an `if` of a graph function needs an `else`")
        first, then = self.branch(node.body)
        second, otherwise = self.branch(node.orelse)
        if first != second:
            self.fail(
                node.orelse[-1],
                f"both branches must end in an assignment to one name, got `{first}` and "
                f"`{second}`",
            )
        type_ = then[1] or otherwise[1] or then[0].result.type
        value = graph.If(condition, then[0], otherwise[0], type_, span=self.span(node))
        self.emit(node, first, type_, value)

    def match(self, node: ast.Match) -> None:
        """`match t: case Leaf(x): ...; r = a`: the last lines of the arms assign the same name."""
        value = self.operand(node.subject)
        if not isinstance(value.type, DataType):
            self.fail(node.subject, "`match` takes the value of a data type apart (G.Data)")
        names, arms, written = set(), [], None
        for case in node.cases:
            with self.scope():
                constructor, fields = self.pattern(case, value.type)
                name, (branch, type_) = self.branch(case.body)
            names.add(name)
            written = written or type_
            arms.append(graph.Arm(constructor, fields, branch, span=self.span(case.pattern)))
        if len(names) != 1:
            listed = ", ".join(f"`{name}`" for name in sorted(names))
            self.fail(node.subject, f"all arms must end in an assignment to one name, got {listed}")
        covered = {arm.constructor for arm in arms}
        missing = [c.name for c in value.type.constructors if c.name not in covered]
        if missing and "_" not in covered:
            self.fail(
                node.subject,
                f"`match` on {value.type.name} has no arm for {', '.join(missing)}",
            )
        type_ = written or arms[0].body.result.type
        self.emit(
            node, names.pop(), type_, graph.Match(value, tuple(arms), type_, span=self.span(node))
        )

    def pattern(self, case: ast.match_case, type_: DataType) -> tuple[str, tuple[graph.Var, ...]]:
        """The constructor of an arm, and the variables of its fields."""
        pattern = case.pattern
        if case.guard is not None:
            self.fail(case.guard, "an arm of a graph function has no guard; use `if` inside of it")
        if isinstance(pattern, ast.MatchAs) and pattern.pattern is None and pattern.name is None:
            return "_", ()
        if not isinstance(pattern, ast.MatchClass) or pattern.kwd_attrs:
            self.fail(pattern, "a pattern is a constructor with names, such as Node(left, right)")
        name = ast.unparse(pattern.cls).split(".")[-1]
        constructor = type_.constructor(name)
        if constructor is None:
            known = ", ".join(item.name for item in type_.constructors)
            self.fail(pattern, f"{type_.name} has no constructor {name}; it has {known}")
        types = type_.field_types(constructor)
        if len(types) != len(pattern.patterns):
            self.fail(pattern, f"{name} has {len(types)} fields, got {len(pattern.patterns)}")
        return name, tuple(map(self.field, pattern.patterns, types))

    def field(self, pattern: ast.pattern, type_: Type) -> graph.Var:
        if not isinstance(pattern, ast.MatchAs) or pattern.pattern is not None:
            self.fail(pattern, "fields are named, or `_`; patterns are not nested")
        name, span = pattern.name or "_", self.span(pattern)
        if pattern.name is None:
            return graph.Var(name, type_, span=span)
        var: graph.Var = self.bind(pattern, name, lambda: graph.Var(name, type_, span=span))
        return var

    def branch(self, body: Sequence[ast.stmt]) -> tuple[str, tuple[graph.Branch, Type | None]]:
        kept = self.statements(body)
        if not kept:
            self.fail(body[0], "a branch must end in `name = value`")
        with self.scope():
            self.blocks.append([])
            self.suite(kept[:-1])
            name, type_, value = self.assignment(kept[-1])
            result = self.operand(value, type_)
            bindings = tuple(self.blocks.pop())
        branch = graph.Branch(bindings, result, span=self.span(kept[-1]))
        return name, (branch, type_)

    # -- expressions -------------------------------------------------------------------------

    def operand(self, node: ast.expr, type_: Type | None = None) -> graph.GraphExpr:
        """A variable, constant or tuple; a call, of type `type_` if given, becomes a binding."""
        made = self.value_of(node, type_)
        bound = isinstance(made, (graph.Call, graph.CallDPS, graph.Construct))
        if bound and self.called(node, "G") != "typed":
            name, count = "lv", 0
            while self.lookup(name) is not None:
                count += 1
                name = f"lv_{count}"
            return self.emit(node, name, None, made)
        return made

    def value_of(self, node: ast.expr, type_: Type | None) -> graph.GraphExpr:
        """The expression that `node` stands for; a call has the type `type_` if it is given."""
        if isinstance(node, ast.Name):
            found = self.lookup(node.id)
            if found is None:
                self.unknown_name(node, node.id)
            if not isinstance(found, graph.GraphExpr):
                self.fail(node, f"`{node.id}` is a dimension, not a tensor")
            return found
        if isinstance(node, ast.Tuple):
            fields = tuple(self.operand(item) for item in node.elts)
            return graph.Tuple(fields, span=self.span(node))
        if isinstance(node, ast.Subscript):
            return self.item(node)
        if isinstance(node, ast.Call):
            return self.call_of(node, type_)
        if isinstance(node, (ast.BinOp, ast.Compare, ast.UnaryOp)):
            self.fail(node, "tensors are combined by operators such as op.add(x, y)")
        self.fail(node, f"`{ast.unparse(node)}` is not a graph-level expression")

    def item(self, node: ast.Subscript) -> graph.GraphExpr:
        if self.namespaced(node.value, "G") == "constants":
            return self.table_constant(node)
        value = self.operand(node.value)
        if not isinstance(value.type, TupleType):
            self.fail(node, f"`{ast.unparse(node.value)}` is not a tuple, but {value.type}")
        index = self.integer(node.slice, "the index of a tuple")
        if not 0 <= index < len(value.type.fields):
            self.fail(node, f"index {index} of a tuple of {len(value.type.fields)} fields")
        return graph.TupleGetItem(value, index, span=self.span(node))

    def table_constant(self, node: ast.Subscript) -> graph.Constant:
        key = self.string(node.slice, "the name of a constant")
        data = self.context.constants.get(key)
        if data is None:
            self.fail(
                node,
                f'constant "{key}" is not in the table of constants '
                f"({len(self.context.constants)} entries); pass parse(text, constants=...)",
            )
        return graph.Constant(data, span=self.span(node))

    def call_of(self, node: ast.Call, type_: Type | None) -> graph.GraphExpr:
        name = self.called(node, "op")
        if name is not None:
            return self.operator(node, name, type_)
        name = self.called(node, "G")
        if name in _FORMS:
            return _FORMS[name](self, node, type_)
        held = self.lookup(node.func.id) if isinstance(node.func, ast.Name) else None
        if isinstance(held, graph.Var) and isinstance(held.type, FunctionType):
            operands = tuple(self.operand(arg) for arg in node.args)
            result = held.type.result if type_ is None else type_
            return graph.Call(held, operands, {}, result, span=self.span(node))
        if isinstance(node.func, ast.Name) and node.func.id in self.context.functions:
            return self.graph_call(node, node.func, node.args, node.keywords, type_)
        self.fail(
            node.func,
            f"`{ast.unparse(node.func)}` is not an operator (op.relu), a form of G, or a function "
            "of the module",
        )

    def operator(self, node: ast.Call, name: str, type_: Type | None) -> graph.GraphExpr:
        with self.located(node.func):
            operator = resolve_op(name)
        args: list[Any] = []
        for arg in node.args:
            constant = _plain_number(arg)
            args.append(self.operand(arg) if constant is _NOT_A_NUMBER else constant)
        attrs = self.keywords(node.keywords)
        with self.located(node):
            call: graph.Call = operator(*args, **attrs)
        call.span = self.span(node)
        if type_ is not None and first_mismatch(call.type, type_) is not None:
            kept: graph.Call = call.replace(type=type_)
            return kept
        return call

    def keywords(self, keywords: Sequence[ast.keyword]) -> dict[str, Any]:
        """Attributes given as keyword arguments."""
        attrs: dict[str, Any] = {}
        for keyword in keywords:
            value = self.attribute_value(keyword.value)
            if keyword.arg is not None:
                attrs[keyword.arg] = value
            elif isinstance(value, dict):
                attrs.update(value)
            else:
                self.fail(keyword, "`**` takes a dictionary")
        return attrs

    def global_var(self, node: ast.expr) -> GlobalVar:
        """The function of the module that a call names."""
        if self.called(node, "G") == "global_var" and isinstance(node, ast.Call):
            name = self.string(self.arguments(node, ("name",))["name"], "a name")
            return GlobalVar(name, span=self.span(node))
        if not isinstance(node, ast.Name):
            self.fail(node, "expected the name of a function of the module")
        name = self.context.functions.get(node.id, node.id)
        return GlobalVar(name, span=self.span(node))

    def call_dps(self, node: ast.Call, type_: Type | None) -> graph.GraphExpr:
        given = self.arguments(node, ("callee", "args", "out"), ("attrs",))
        args = given["args"]
        if not isinstance(args, (ast.Tuple, ast.List)):
            self.fail(args, "G.call_dps: the arguments are a tuple: (x,)")
        attrs = self.attribute_value(given["attrs"]) if "attrs" in given else {}
        return graph.CallDPS(
            self.global_var(given["callee"]),
            tuple(self.dps_argument(arg) for arg in args.elts),
            self.type(given["out"]),
            attrs,
            span=self.span(node),
        )

    def dps_argument(self, node: ast.expr) -> graph.GraphExpr:
        """A value, or a number for a scalar parameter: `n * 2`, `0.5`, `T.int32(3)`."""
        known = self.lookup(node.id) if isinstance(node, ast.Name) else None
        number = isinstance(node, (ast.Constant, ast.BinOp, ast.UnaryOp, ast.Compare))
        number = number or self.called(node) is not None or isinstance(known, Expr)
        if isinstance(node, ast.Name) and known is None:
            number = self.outer_value(node.id) is not None
        if not number:
            return self.operand(node)
        for item in ast.walk(node):
            if isinstance(item, ast.Name) and isinstance(self.lookup(item.id), graph.GraphExpr):
                self.fail(item, f"`{item.id}` is a tensor: combine it by operators, op.mul(x, y)")
        return graph.Scalar(self.scalar(node), span=self.span(node))

    def loop_form(self, node: ast.Call, type_: Type | None) -> graph.GraphExpr:
        if type_ is None:
            self.fail(node, "a loop needs its type: `y: G.Tuple(...) = G.loop(...)`")
        optional = ("limit", "condition", "carried", "captured", "bound", "history")
        given = self.arguments(node, ("body",), optional)
        scalars = {
            name: self.operand(given[name]) if name in given else None
            for name in ("limit", "condition")
        }
        groups = {name: self.operands(given.get(name)) for name in ("carried", "captured")}
        bound = self.dimension(given["bound"]) if "bound" in given else const(0)
        body = self.global_var(given["body"])
        history = bool(self.attribute_value(given["history"])) if "history" in given else False
        return graph.Loop(
            body,
            **scalars,
            **groups,
            bound=bound,
            type=type_,
            history=history,
            span=self.span(node),
        )

    def closure_form(self, node: ast.Call, type_: Type | None) -> graph.GraphExpr:
        if type_ is None:
            self.fail(node, "a closure needs its type: `f: G.Func(...) = G.closure(step, (w,))`")
        given = self.arguments(node, ("function",), ("captured",))
        captured = self.operands(given.get("captured"))
        function = self.global_var(given["function"])
        return graph.Closure(function, captured, type_, span=self.span(node))

    def make_form(self, node: ast.Call, type_: Type | None) -> graph.GraphExpr:
        if type_ is None:
            self.fail(node, 'a value needs its type: `t: G.Data(...) = G.make("Node", a, b)`')
        name = node.args[0] if node.args and not node.keywords else None
        if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
            self.fail(node, 'G.make takes the name of a constructor and its fields: ("Node", a, b)')
        fields = tuple(self.operand(item) for item in node.args[1:])
        return graph.Construct(name.value, fields, type_, span=self.span(node))

    def operands(self, node: ast.expr | None) -> tuple[graph.GraphExpr, ...]:
        if node is None:
            return ()
        if not isinstance(node, (ast.Tuple, ast.List)):
            self.fail(node, "expected a tuple of values: (x,)")
        return tuple(self.operand(item) for item in node.elts)

    def bind_dim(self, node: ast.Call, type_: Type | None) -> graph.GraphExpr:
        given = self.arguments(node, ("value", "symbol", "bound"))
        if not isinstance(given["symbol"], ast.Name):
            self.fail(given["symbol"], "G.bind_dim: the symbol is a new name")
        value, bound = self.operand(given["value"]), self.dimension(given["bound"])
        before, self.implicit_symbols = self.implicit_symbols, True
        try:
            symbol = self.dimension(given["symbol"])
        finally:
            self.implicit_symbols = before
        return graph.BindDim(value, bound, symbol, span=self.span(node))

    def call_form(self, node: ast.Call, type_: Type | None) -> graph.GraphExpr:
        if not node.args:
            self.fail(node, "G.call: the function is missing")
        return self.graph_call(node, node.args[0], node.args[1:], node.keywords, type_)

    def graph_call(
        self,
        node: ast.Call,
        callee: ast.expr,
        args: Sequence[ast.expr],
        keywords: Sequence[ast.keyword],
        type_: Type | None,
    ) -> graph.GraphExpr:
        if type_ is None:
            self.fail(node, "the call of a function needs its type: `y: G.Tensor(...) = f(x)`")
        attrs: dict[str, Any] = {}
        for keyword in keywords:
            if keyword.arg != "attrs":
                self.fail(keyword, f"G.call has no argument `{keyword.arg}`")
            attrs = self.attribute_value(keyword.value)
        operands = tuple(self.operand(arg) for arg in args)
        return graph.Call(self.global_var(callee), operands, attrs, type_, span=self.span(node))

    def typed_form(self, node: ast.Call, type_: Type | None) -> graph.GraphExpr:
        given = self.arguments(node, ("value", "type"))
        return self.value_of(given["value"], self.type(given["type"]))

    def const(self, node: ast.Call, type_: Type | None) -> graph.GraphExpr:
        given = self.arguments(node, ("value", "dtype"), ("shape",))
        dtype: DType = self.dtype(given["dtype"])
        value = self.attribute_value(given["value"])
        try:
            data = np.asarray(value, dtype=dtype.numpy)
            if "shape" in given:
                data = data.reshape(self.attribute_value(given["shape"]))
        except (ValueError, TypeError, OverflowError) as error:
            self.fail(node, f"G.const: no {dtype} tensor: {error}")
        return graph.Constant(data, span=self.span(node))


_NOT_A_NUMBER: Final = object()


def _plain_number(node: ast.expr) -> Any:
    """The number of a literal argument such as `1` or `-0.5`, None for None."""
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node, sign = node.operand, -1
    if not isinstance(node, ast.Constant) or isinstance(node.value, (str, bytes, complex)):
        return _NOT_A_NUMBER
    if node.value is Ellipsis:
        return _NOT_A_NUMBER
    return node.value if sign == 1 or node.value is None else -node.value


_FORMS: Final[Mapping[str | None, Callable[..., graph.GraphExpr]]] = {
    "call_dps": GraphParser.call_dps,
    "call": GraphParser.call_form,
    "typed": GraphParser.typed_form,
    "const": GraphParser.const,
    "loop": GraphParser.loop_form,
    "closure": GraphParser.closure_form,
    "make": GraphParser.make_form,
    "bind_dim": GraphParser.bind_dim,
}
