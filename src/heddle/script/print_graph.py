# SPDX-License-Identifier: Apache-2.0
"""Printing of graph-level functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from heddle.graph import nodes as graph
from heddle.ir import INT64, GlobalVar, structural_equal
from heddle.ir import expr as E
from heddle.ir.types import FunctionType, TensorType, TupleType, Type
from heddle.ir.walk import pre_order
from heddle.script.names import Names, is_identifier, quote
from heddle.script.print_expr import ExprPrinter
from heddle.script.print_stmt import signature

INLINE_ELEMENTS: Final = 16


class GraphPrinter:
    """Writes graph functions into `lines`; large constants go to the table `constants`."""

    def __init__(
        self, names: Names, lines: list[str], constants: dict[str, np.ndarray], indent: int = 0
    ) -> None:
        self.names = names
        self.expr = ExprPrinter(names)
        self.lines = lines
        self.constants = constants
        self.indent = indent
        self._keys = {id(array): key for key, array in constants.items()}

    def line(self, text: str) -> None:
        """One line at the current indentation."""
        self.lines.append("    " * self.indent + text)

    def function(self, func: graph.Function, name: str, *, symbol: str | None = None) -> None:
        """A whole function under the Python name `name`; `symbol` is its real name if different."""
        self.names.push()
        params = [f"{self.define(p)}: {self.param_type(p)}" for p in func.params]
        self.line(f"@G.function(name={quote(symbol)})" if symbol else "@G.function")
        result = f" -> {self.type(func.result.type)}"
        self.lines.extend(signature(name, params, result, self.indent))
        self.indent += 1
        if func.attrs:
            self.line(f"G.func_attr({self.expr.value(func.attrs)})")
        self.bindings(func.bindings)
        self.line(f"return {self.operand(func.result)}")
        self.indent -= 1
        self.names.pop()

    def define(self, var: graph.Var) -> str:
        """The name of a variable that is defined here."""
        return self.names.find(var) or self.names.define(var, var.name)

    def param_type(self, var: graph.Var) -> str:
        """The annotation of a parameter; it tells the parameter's name if that is no identifier."""
        text = self.type(var.type)
        return text if is_identifier(var.name) else f"{text[:-1]}, name={quote(var.name)})"

    def type(self, node: Type) -> str:
        """A type; the variables in it are named, which is all that declares them."""
        for dim in _dims(node):
            for var in pre_order(dim):
                if isinstance(var, E.Var) and self.names.find(var) is None:
                    name = self.names.define(var, var.name)
                    if var.dtype is not INT64:
                        self.expr.pending[var] = f'T.var("{var.dtype}", "{name}")'
        return self.expr.type(node)

    def bindings(self, bindings: Sequence[graph.Binding]) -> None:
        """One line per binding; a branch becomes an `if` statement."""
        for binding in bindings:
            self.binding(binding)

    def binding(self, binding: graph.Binding) -> None:
        value, var = binding.value, binding.var
        if isinstance(value, graph.If):
            self.branches(value, var)
            return
        if isinstance(value, graph.Match):
            self.match(value, var)
            return
        text = self.value(value)
        kinds = (graph.Call, graph.CallDPS, graph.Loop, graph.Closure, graph.Construct)
        needed = isinstance(value, kinds)
        needed = needed or not structural_equal(value.type, var.type)
        self.assign(var, var.type if needed else None, text)

    def assign(self, var: graph.Var, type_: Type | None, text: str) -> None:
        annotation = "" if type_ is None else f": {self.type(type_)}"
        self.line(f"{self.define(var)}{annotation} = {text}{self.remark(text)}")

    def remark(self, text: str) -> str:
        """A comment that tells the type of a constant which is not printed."""
        key = text.removeprefix('G.constants["').removesuffix('"]')
        array = self.constants.get(key) if key != text else None
        return "" if array is None else f"  # {array.dtype} {array.shape}"

    def branches(self, value: graph.If, var: graph.Var) -> None:
        name = self.define(var)
        self.line(f"if {self.operand(value.condition)}:")
        self.branch(value.then, name, value.type)
        self.line("else:")
        self.branch(value.otherwise, name, value.type)

    def match(self, value: graph.Match, var: graph.Var) -> None:
        name = self.define(var)
        self.line(f"match {self.operand(value.value)}:")
        self.indent += 1
        for arm in value.arms:
            self.names.push()
            fields = ", ".join(self.define(field) for field in arm.fields)
            form = "_" if arm.constructor == "_" else f"{arm.constructor}({fields})"
            self.line(f"case {form}:")
            self.branch(arm.body, name, value.type)
            self.names.pop()
        self.indent -= 1

    def branch(self, branch: graph.Branch, name: str, type_: Type) -> None:
        self.indent += 1
        self.names.push()
        self.bindings(branch.bindings)
        self.line(f"{name}: {self.type(type_)} = {self.operand(branch.result)}")
        self.names.pop()
        self.indent -= 1

    # -- expressions -------------------------------------------------------------------------

    def operand(self, value: Any) -> str:
        """An expression inside another: a call says its type there."""
        text = self.value(value)
        if isinstance(value, (graph.Call, graph.If)):
            return f"G.typed({text}, {self.type(value.type)})"
        return text

    def value(self, value: Any) -> str:
        """A graph-level expression."""
        if isinstance(value, graph.Var):
            return self.names.of(value)
        if isinstance(value, graph.Constant):
            return self.constant(value.data)
        if isinstance(value, graph.Scalar):
            return self.expr.text(value.value)
        if isinstance(value, graph.Tuple):
            return self.tuple(value.fields)
        if isinstance(value, graph.TupleGetItem):
            return f"{self.operand(value.value)}[{value.index}]"
        if isinstance(value, graph.Call):
            return self.call(value)
        if isinstance(value, graph.CallDPS):
            parts = [self.callee(value.callee), self.tuple(value.args)]
            parts.append(f"out={self.type(value.type)}")
            if value.attrs:
                parts.append(f"attrs={self.expr.value(value.attrs)}")
            return f"G.call_dps({', '.join(parts)})"
        if isinstance(value, graph.Loop):
            return self.loop(value)
        if isinstance(value, graph.Closure):
            return f"G.closure({self.callee(value.function)}, {self.tuple(value.captured)})"
        if isinstance(value, graph.Construct):
            fields = "".join(f", {self.operand(item)}" for item in value.fields)
            return f'G.make("{value.constructor}"{fields})'
        if isinstance(value, graph.BindDim):
            symbol = self.names.find(value.symbol) or self.names.define(
                value.symbol,
                value.symbol.name,  # type: ignore[attr-defined]
            )
            bound = self.expr.text(value.bound)
            return f"G.bind_dim({self.operand(value.value)}, {symbol}, bound={bound})"
        if isinstance(value, graph.If):
            return f"G.opaque('If on {self.operand(value.condition)}')"
        if isinstance(value, graph.Match):
            return f"G.opaque('Match on {self.operand(value.value)}')"
        return self.expr.fallback(value)

    def loop(self, value: graph.Loop) -> str:
        parts = [self.callee(value.body)]
        for name in ("limit", "condition"):
            item = getattr(value, name)
            if item is not None:
                parts.append(f"{name}={self.operand(item)}")
        parts.append(f"carried={self.tuple(value.carried)}")
        parts.append(f"captured={self.tuple(value.captured)}")
        parts.append(f"bound={self.expr.text(value.bound)}")
        if value.history:
            parts.append("history=True")
        return f"G.loop({', '.join(parts)})"

    def tuple(self, fields: Iterable[Any]) -> str:
        parts = [self.operand(item) for item in fields]
        return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"

    def call(self, value: graph.Call) -> str:
        args = [self.operand(arg) for arg in value.args]
        if isinstance(value.callee, GlobalVar):
            args.insert(0, self.callee(value.callee))
            if value.attrs:
                args.append(f"attrs={self.expr.value(value.attrs)}")
            return f"G.call({', '.join(args)})"
        if isinstance(value.callee, graph.Var):
            return f"{self.names.of(value.callee)}({', '.join(args)})"
        plain = all(is_keyword_name(key) for key in value.attrs)
        if plain:
            args += [f"{key}={self.expr.value(item)}" for key, item in value.attrs.items()]
        else:
            args.append(f"**{self.expr.value(value.attrs)}")
        name = getattr(value.callee, "name", None)
        return f"op.{name if isinstance(name, str) else value.callee}({', '.join(args)})"

    def callee(self, callee: GlobalVar) -> str:
        return callee.name if is_identifier(callee.name) else f"G.global_var({quote(callee.name)})"

    def constant(self, data: np.ndarray) -> str:
        """`G.const(...)` for few elements, otherwise a reference to the table of constants."""
        if data.size <= INLINE_ELEMENTS:
            text = _array_text(data)
            if text is not None:
                return text
        key = self._keys.get(id(data))
        if key is None:
            count = len(self.constants)
            while f"c{count}" in self.constants:
                count += 1
            key = f"c{count}"
            self.constants[key] = data
            self._keys[id(data)] = key
        return f'G.constants["{key}"]'


def is_keyword_name(name: object) -> bool:
    """Whether an attribute of this name can be printed as a keyword argument."""
    return isinstance(name, str) and (is_identifier(name) or name in ("min", "max", "range"))


def _dims(node: Type) -> Iterable[E.Expr]:
    if isinstance(node, TensorType):
        yield from node.shape
    elif isinstance(node, TupleType):
        for item in node.fields:
            yield from _dims(item)
    elif isinstance(node, FunctionType):
        for item in (*node.params, node.result):
            yield from _dims(item)


def _array_text(data: np.ndarray) -> str | None:
    """`G.const([1, 2], "int64")`, or None when such text would not give the same bits back."""
    name = data.dtype.name
    shape = f", shape={data.shape}" if data.size == 0 else ""
    values = [] if data.size == 0 else data.tolist()
    if name in ("float32", "float64", "float16", "bfloat16"):
        values = _shortest(data) if data.size else []
    elif data.dtype.kind not in "biu":
        return None
    same = np.asarray(values, dtype=data.dtype).reshape(data.shape)
    if same.tobytes() != data.tobytes():
        return None
    return f'G.const({_list_text(values)}, "{name}"{shape})'


def _shortest(data: np.ndarray) -> Any:
    """Nested lists of floats, each the number of fewest digits that rounds to the element."""
    if data.ndim:
        return [_shortest(item) for item in data]
    exact, short = float(data), float(str(data))
    if exact != exact:
        return float("nan")  # a payload is lost here, and noticed by whoever compares the bytes
    return short if data.dtype.type(short) == data else exact


def _list_text(values: Any) -> str:
    if isinstance(values, list):
        return f"[{', '.join(_list_text(item) for item in values)}]"
    if isinstance(values, float) and (values != values or values in (float("inf"), -float("inf"))):
        return f'float("{values}")'
    return repr(values)
