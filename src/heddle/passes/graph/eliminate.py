# SPDX-License-Identifier: Apache-2.0
"""Remove what is computed twice, and what nobody uses.

a = exp(x)                       a = exp(x)
b = exp(x)               ->      c = add(a, a)
c = add(a, b)
d = tanh(x)
"""

from __future__ import annotations

from collections.abc import Hashable

from heddle.graph.nodes import (
    BindDim,
    Binding,
    Call,
    CallDPS,
    Constant,
    Function,
    GraphExpr,
    TupleGetItem,
    Var,
)
from heddle.ir.module import BaseFunc, IRModule
from heddle.ir.walk import post_order
from heddle.passes.graph.anf import Rewriter, atoms_of, is_primitive, map_functions, op_name
from heddle.passes.graph.outline import symbols_of

_SMALL = 256


def eliminate_common_subexpressions(module: IRModule) -> IRModule:
    """Compute equal calls of operators once."""
    return map_functions(module, _merge_equal)


def eliminate_dead_code(module: IRModule) -> IRModule:
    """Remove bindings whose variable is not used, and kernels that nothing calls."""
    module = map_functions(module, _remove_unused)
    called = {
        binding.value.callee.name
        for function in module.functions.values()
        if isinstance(function, Function)
        for binding in function.bindings
        if isinstance(binding.value, (Call, CallDPS))
    }
    dead: dict[str, BaseFunc | None] = {
        name: None
        for name, function in module.functions.items()
        if is_primitive(function) and name not in called
    }
    return module.with_functions(dead)


def _merge_equal(function: Function) -> Function:
    rewriter = Rewriter(function)
    known: dict[Hashable, GraphExpr] = {}
    for binding in function.bindings:
        value = rewriter.resolve(binding.value)
        key = _key(value)
        if key is None:
            rewriter.copy_binding(binding)
        elif key in known:
            rewriter.alias(binding.var, known[key])
        else:
            known[key] = rewriter.copy_binding(binding)
    return rewriter.finish()


def _key(value: GraphExpr) -> Hashable | None:
    """Equal for calls that give equal results; None for what is not to be merged."""
    if isinstance(value, TupleGetItem):
        return ("field", value.value, value.index)
    if not isinstance(value, Call) or not op_name(value):
        return None
    attrs = tuple((name, _attr_key(value.attrs[name])) for name in sorted(value.attrs))
    return (value.callee, tuple(_atom_key(item) for item in value.args), attrs)


def _atom_key(item: GraphExpr) -> Hashable:
    if isinstance(item, Constant):
        if item.data.nbytes <= _SMALL:
            return (item.data.shape, item.data.dtype.str, item.data.tobytes())
        return id(item.data)
    return item


def _attr_key(value: object) -> Hashable:
    if isinstance(value, (tuple, list)):
        return tuple(_attr_key(item) for item in value)
    return value if isinstance(value, Hashable) else repr(value)


def _remove_unused(function: Function) -> Function:
    kept = live_bindings(function)
    if len(kept) == len(function.bindings):
        return function
    shorter: Function = function.replace(bindings=kept)
    return shorter


def live_bindings(function: Function) -> tuple[Binding, ...]:
    """The bindings that the result of a function needs; what binds a dimension that they mention
    is among them."""
    live = {item for item in post_order(function.result) if isinstance(item, Var)}
    late = any(isinstance(binding.value, BindDim) for binding in function.bindings)
    symbols: set[object] = set()
    kept: list[Binding] = []
    for binding in reversed(function.bindings):
        value = binding.value
        if binding.var in live or (isinstance(value, BindDim) and value.symbol in symbols):
            kept.append(binding)
            live.update(item for item in atoms_of(value) if isinstance(item, Var))
            if late:
                symbols.update(symbols_of([binding], ()))
    return tuple(reversed(kept))
