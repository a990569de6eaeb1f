# SPDX-License-Identifier: Apache-2.0
"""Bring functions into plain A-normal form.

    t = (x, y)                       u = relu(x)
    a = t[0]                 ->      v = add(u, x)
    v = add(relu(a), a)

Nested expressions get bindings of their own, aliases and fields of known tuples are replaced by
what they stand for, and an `If` whose condition is a constant becomes its branch.
"""

from __future__ import annotations

from heddle.graph.nodes import (
    Binding,
    Branch,
    Call,
    CallDPS,
    Constant,
    Function,
    GraphExpr,
    If,
    Tuple,
    TupleGetItem,
    Var,
)
from heddle.ir.module import IRModule
from heddle.passes.graph.anf import Rewriter, map_functions, scalar_value


def normalise(module: IRModule) -> IRModule:
    """Flatten nested expressions; resolve aliases, fields of known tuples and known branches."""
    return map_functions(module, _normalise)


def _normalise(function: Function) -> Function:
    rewriter = Rewriter(function)
    for binding in function.bindings:
        _bind(rewriter, binding)
    return rewriter.finish()


def _bind(rewriter: Rewriter, binding: Binding) -> None:
    value = binding.value
    if isinstance(value, If):
        condition = scalar_value(rewriter.resolve(value.condition))
        if condition is not None:
            _bind_branch(rewriter, binding.var, value.then if condition else value.otherwise)
            return
    flat = _flatten(rewriter, rewriter.resolve(value))
    if isinstance(flat, (Var, Constant, Tuple)):
        rewriter.alias(binding.var, flat)
    elif flat is value:
        rewriter.keep(binding)
    else:
        rewriter.alias_new(binding.var, rewriter.emit(flat, like=binding.var))


def _bind_branch(rewriter: Rewriter, var: Var, branch: Branch) -> None:
    for inner in branch.bindings:
        _bind(rewriter, inner)
    rewriter.alias(var, _flatten(rewriter, rewriter.resolve(branch.result)))


def _flatten(rewriter: Rewriter, value: GraphExpr) -> GraphExpr:
    """`value` with its arguments made atoms; a known field of a tuple is that field."""
    if isinstance(value, (Call, CallDPS)):
        atoms: GraphExpr = value.map(lambda item: _atom(rewriter, item))
        return atoms
    if isinstance(value, Tuple):
        fields: GraphExpr = value.map(lambda item: _atom(rewriter, item))
        return fields
    if isinstance(value, TupleGetItem):
        if isinstance(value.value, Tuple):
            return _atom(rewriter, value.value.fields[value.index])
        source = _flatten(rewriter, value.value)
        if isinstance(source, Tuple):
            return source.fields[value.index]
        return value.map(lambda item: _atom(rewriter, item))  # type: ignore[no-any-return]
    return value


def _atom(rewriter: Rewriter, item: GraphExpr) -> GraphExpr:
    if not isinstance(item, (Call, CallDPS, Tuple, TupleGetItem)):
        return item
    flat = _flatten(rewriter, item)
    return flat if isinstance(flat, Tuple) else rewriter.emit(flat)
