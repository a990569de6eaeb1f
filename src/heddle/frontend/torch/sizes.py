# SPDX-License-Identifier: Apache-2.0
"""Symbolic dimensions as data: a program may compute with the sizes of its inputs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import sympy
import torch

from heddle.frontend.torch.report import Unsupported
from heddle.graph import Constant, GraphExpr, Var
from heddle.ir import TensorType
from heddle.ir import expr as e

if TYPE_CHECKING:
    from heddle.frontend.torch.node import Node

_OPERATORS: Final[dict[type[e.Expr], str]] = {
    e.Add: "add",
    e.Sub: "sub",
    e.Mul: "mul",
    e.FloorMod: "floor_mod",
    e.Min: "minimum",
    e.Max: "maximum",
}


def _counted(name: str) -> Callable[..., Any]:
    """An operator of Python on integers, one of which is a scalar of the graph."""

    def convert(node: Node, *values: Any) -> Any:
        return node.call(name, *(node.tensor(value) for value in values))

    return convert


def _floor_divided(node: Node, a: Any, b: Any) -> Any:
    x, y = node.tensor(a), node.tensor(b)
    return node.op.div(node.op.sub(x, node.op.floor_mod(x, y)), y)


def _truth(name: str) -> Callable[..., Any]:
    def convert(node: Node, *values: Any) -> Any:
        return node.call(name, *(node.cast(node.tensor(value), "bool") for value in values))

    return convert


ARITHMETIC: Final[dict[Any, Callable[..., Any]]] = {
    operator.add: _counted("add"),
    operator.sub: _counted("sub"),
    operator.mul: _counted("mul"),
    operator.mod: _counted("floor_mod"),
    operator.floordiv: _floor_divided,
    operator.neg: _counted("negative"),
    operator.lt: _counted("less"),
    operator.le: _counted("less_equal"),
    operator.gt: _counted("greater"),
    operator.ge: _counted("greater_equal"),
    operator.eq: _counted("equal"),
    operator.ne: _counted("not_equal"),
    operator.and_: _truth("logical_and"),
    operator.or_: _truth("logical_or"),
    operator.not_: _truth("logical_not"),
    torch.sym_max: _counted("maximum"),
    torch.sym_min: _counted("minimum"),
    torch.sym_not: _truth("logical_not"),
}
"""What a program does with the numbers that its loops carry."""

_QUOTIENTS: Final = ("FloatTrueDiv", "IntTrueDiv")


def number_tensor(node: Node, value: sympy.Basic) -> GraphExpr:
    """A real number computed from sizes, as a float64 scalar of the graph."""
    if isinstance(value, (sympy.Float, sympy.Rational)):
        return node.tensor(float(value), "float64")
    if value.is_integer:
        return node.tensor(node.importer.symbols.of_sympy(value), "float64")
    name = type(value).__name__
    if name == "ToFloat":
        return number_tensor(node, value.args[0])
    if isinstance(value, sympy.Pow) and value.exp in (-1, sympy.Rational(1, 2), 0.5):
        base = number_tensor(node, value.base)
        return node.call("reciprocal" if value.exp == -1 else "sqrt", base)  # type: ignore[no-any-return]
    operation = "div" if name in _QUOTIENTS else {"Add": "add", "Mul": "mul"}.get(name)
    if name.endswith("sqrt"):
        return node.op.sqrt(number_tensor(node, value.args[0]))  # type: ignore[no-any-return]
    if operation is None:
        raise Unsupported(f"the number {value} (a {name}) is computed from sizes")
    first, *rest = (number_tensor(node, item) for item in value.args)
    for item in rest:
        first = node.call(operation, first, item)
    return first


_RELATIONS: Final[dict[str, str]] = {
    "StrictLessThan": "less",
    "LessThan": "less_equal",
    "StrictGreaterThan": "greater",
    "GreaterThan": "greater_equal",
    "Equality": "equal",
    "Unequality": "not_equal",
    "And": "logical_and",
    "Or": "logical_or",
    "Not": "logical_not",
}


def truth_tensor(node: Node, value: sympy.Basic) -> GraphExpr:
    """A relation between sizes as a bool scalar of the graph."""
    if isinstance(value, sympy.logic.boolalg.BooleanAtom):
        return node.tensor(bool(value))
    name = _RELATIONS.get(type(value).__name__)
    if name is None:
        raise Unsupported(f"the condition {value} (a {type(value).__name__})")
    if name.startswith("logical"):
        parts = [truth_tensor(node, item) for item in value.args]
    else:
        parts = [node.tensor(node.importer.symbols.of_sympy(item)) for item in value.args]
    found = parts[0] if len(parts) > 1 else node.call(name, parts[0])
    for part in parts[1:]:
        found = node.call(name, found, part)
    return found  # type: ignore[no-any-return]


def size_tensor(
    node: Node, value: e.Expr, params: Sequence[Var], known_sizes: Mapping[e.Expr, GraphExpr]
) -> GraphExpr:
    """An expression of dimensions as an int64 scalar of the graph. `known_sizes` has those that are
    bound at run time."""
    if value in known_sizes:
        return known_sizes[value]
    known = e.as_int(value)
    if known is not None:
        return Constant(np.asarray(known, np.int64))
    if isinstance(value, e.Var):
        return _dimension(node, value, params)
    if not isinstance(value, e.BinaryExpr):
        raise Unsupported("a computed size is used as data")
    a, b = (size_tensor(node, part, params, known_sizes) for part in (value.a, value.b))
    if isinstance(value, e.FloorDiv):  # div truncates: (a - a mod b) / b floors
        return node.op.div(node.op.sub(a, node.op.floor_mod(a, b)), b)  # type: ignore[no-any-return]
    name = _OPERATORS.get(type(value))
    if name is None:
        raise Unsupported("a computed size is used as data")
    call: Any = getattr(node.op, name)
    return call(a, b)  # type: ignore[no-any-return]


def _dimension(node: Node, symbol: e.Var, params: Sequence[Var]) -> GraphExpr:
    for param in params:
        if not isinstance(param.type, TensorType):
            continue
        for axis, dim in enumerate(param.type.shape):
            if dim is symbol:
                sizes = node.op.shape_of(param)
                part = node.op.slice(sizes, starts=(axis,), ends=(axis + 1,), axes=(0,))
                return node.reshape(part, ())
    raise Unsupported("a size that no input has is used as data")
