# SPDX-License-Identifier: Apache-2.0
"""Lower algebraic data types to tensors, and recursion on their values to loops.

A function that calls itself on children of its value only, and hands everything else on as it is,

    def sum(t, w):                              def sum_node(i, ...tensors, w, table):
        match t:                                    if tag[i] == 0: r = x[row[i]]
            case Leaf(x): r = x            ->       else: r = table[children[i, 0]] * w
            case Node(a): r = sum(a, w) * w         return true, r
        return r                                def sum(...tensors, at, w):
                                                    table = loop over all nodes of sum_node
                                                    return table[at]

becomes a loop over the nodes, children first, which keeps the result of every node. So it takes no
stack, however deep the value is, and a node that is used twice is computed once. Other functions
stay recursive; the number of nodes limits how deep they go (attribute "depth").

Modules that make values, or return some, are lowered by `data_made.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from heddle.graph.data import declaration
from heddle.graph.nodes import (
    Binding,
    Call,
    Constant,
    Construct,
    Function,
    GraphExpr,
    Loop,
    Match,
    Tuple,
    TupleGetItem,
    branches_of,
)
from heddle.ir import INT64, DataType, IRModule, TensorType, TupleType, Type
from heddle.ir.module import BaseFunc, GlobalVar
from heddle.passes.graph.anf import is_primitive
from heddle.passes.graph.data_effects import data_types
from heddle.passes.graph.data_made import lower_with_heaps
from heddle.passes.graph.data_values import INDEX, Cursor, DataLowering, index_of, operator_call
from heddle.passes.graph.host_plan import SYMBOL_MAX
from heddle.passes.graph.recursion import called_by, recursive_groups


def lower_data(module: IRModule) -> IRModule:
    """The module without values of data types; the same one where there are none."""
    functions = {
        name: function
        for name, function in module.functions.items()
        if isinstance(function, Function) and not is_primitive(function)
    }
    if not any(map(_uses_data, functions.values())):
        return module
    if any(map(_makes_data, functions.values())):
        return lower_with_heaps(module)
    groups = recursive_groups(module)
    changed: dict[str, BaseFunc | None] = {}
    for name, function in functions.items():
        if not _uses_data(function):
            continue
        if name == "main":
            changed[name] = _main(function)
        elif _is_fold(module, name, function):
            changed.update(_fold(name, function, module))
        else:
            changed[name] = _recursive(name, function, deep=name in groups)
    return module.with_functions(changed)


def _uses_data(function: Function) -> bool:
    types = [*(param.type for param in function.params), function.result.type]
    return any(True for type_ in types for _ in data_types(type_)) or _makes_data(function)


def _makes_data(function: Function) -> bool:
    """Whether a function makes values, or returns some."""
    made = any(isinstance(value, Construct) for value in _values(function.bindings))
    return made or any(True for _ in data_types(function.result.type))


def _main(function: Function) -> Function:
    """`main` is handed whole values: their last nodes."""
    lowering = DataLowering("main", function)
    lowering.parameters(lambda _param: index_of(-1))  # counted from the end
    result = lowering.body()
    ranges = function.attrs.get("symbol_ranges", {})
    assert isinstance(ranges, Mapping)
    described = [
        (p.name, declaration(p.type).to_json() if isinstance(p.type, DataType) else None)
        for p in function.params
    ]
    attrs = {
        **function.attrs,
        "symbol_ranges": {**ranges, **{s.name: (1, SYMBOL_MAX) for s in lowering.symbols}},
        "data": json.dumps(described),
    }
    made: Function = lowering.builder.finish(result).replace(attrs=attrs, span=function.span)
    return made


def _recursive(name: str, function: Function, *, deep: bool) -> Function:
    """A function of a node. Every call on a part of a value goes down by a node at least, so the
    number of nodes limits recursion."""
    lowering = DataLowering(name, function)
    lowering.parameters(lowering.node_parameter)
    result = lowering.body()
    attrs = dict(function.attrs)
    if deep:
        attrs.setdefault("depth", lowering.stores[0].nodes)
    made: Function = lowering.builder.finish(result).replace(attrs=attrs, span=function.span)
    return made


# -- loops ----------------------------------------------------------------------------------------


def _is_fold(module: IRModule, name: str, function: Function) -> bool:
    """Whether a function calls itself on children only, with all else as it was; and is called for
    whole values by functions that run once, since the loop computes all nodes."""
    groups = recursive_groups(module)
    group = groups.get(name)
    data = [place for place, p in enumerate(function.params) if isinstance(p.type, DataType)]
    if group is None or group.members != (name,) or len(data) != 1:
        return False
    if any(not isinstance(t, TensorType) for t in _result_types(function)):
        return False
    for other, caller in module.functions.items():
        if other != name and isinstance(caller, Function) and name in called_by(caller):
            if other in groups or _is_loop_body(module, other):
                return False
    children = {
        field
        for value in _values(function.bindings)
        if isinstance(value, Match) and value.value is function.params[data[0]]
        for arm in value.arms
        for field in arm.fields
    }
    for value in _values(function.bindings):
        if isinstance(value, Loop) and value.body.name == name:
            return False
        if isinstance(value, Call) and isinstance(value.callee, GlobalVar):
            if value.callee.name == name:
                for place, (arg, param) in enumerate(zip(value.args, function.params, strict=True)):
                    if arg not in children if place == data[0] else arg is not param:
                        return False
    return True


def _is_loop_body(module: IRModule, name: str) -> bool:
    return any(
        isinstance(value, Loop) and value.body.name == name
        for function in module.functions.values()
        if isinstance(function, Function)
        for value in _values(function.bindings)
    )


def _values(bindings: Iterable[Binding]) -> Iterator[GraphExpr]:
    """The values of bindings, those of branches included."""
    for binding in bindings:
        yield binding.value
        for branch in branches_of(binding.value):
            yield from _values(branch.bindings)


def _result_types(function: Function) -> tuple[Type, ...]:
    type_ = function.result.type
    return type_.fields if isinstance(type_, TupleType) else (type_,)


def _fold(name: str, function: Function, module: IRModule) -> dict[str, BaseFunc | None]:
    """The function as a loop over nodes, and the body of the loop."""
    body_name = f"{name}_node"
    while body_name in module:
        body_name += "_"
    return {
        name: _fold_loop(name, body_name, function),
        body_name: _fold_body(name, body_name, function),
    }


def _fold_body(name: str, body_name: str, function: Function) -> Function:
    """Node `i`, given the results of the nodes before."""
    tables: list[GraphExpr] = []
    tuples = isinstance(function.result.type, TupleType)

    def from_tables(call: Call, args: Sequence[GraphExpr | Cursor]) -> GraphExpr | None:
        if call.callee.name != name:
            return None
        at = next(arg.at for arg in args if isinstance(arg, Cursor))
        rows = [operator_call("gather", table, at) for table in tables]
        if not tuples:
            return rows[0]
        return Tuple(tuple(lowering.builder.emit(row) for row in rows))

    lowering = DataLowering(body_name, function, from_tables)
    builder = lowering.builder
    at = builder.param("i", INDEX)
    lowering.parameters(lambda _param: at)
    nodes = lowering.stores[0].nodes
    tables += [
        builder.param("table", TensorType((nodes, *item.shape), item.dtype))
        for item in _result_types(function)
        if isinstance(item, TensorType)
    ]
    result = lowering.body()
    fields = result.fields if isinstance(result, Tuple) else (result,)
    if tuples and not isinstance(result, Tuple):
        fields = tuple(builder.emit(TupleGetItem(result, k)) for k in range(len(tables)))
    going = Constant(np.asarray(True))
    made: Function = builder.finish(Tuple((going, *fields))).replace(span=function.span)
    return made


def _fold_loop(name: str, body_name: str, function: Function) -> Function:
    lowering = DataLowering(name, function)
    builder = lowering.builder
    lowering.parameters(lowering.node_parameter)
    store = lowering.stores[0]
    cursor = next(v for v in lowering.values.values() if isinstance(v, Cursor))
    captured = tuple(param for param in builder.params if param is not cursor.at)
    count = operator_call("gather", operator_call("shape_of", store.tensors[0]), index_of(0))
    limit = builder.emit(operator_call("reshape", count, shape=()), name="nodes")
    types = [TensorType((store.nodes, *t.shape), t.dtype) for t in _tensors(function)]
    type_ = TupleType((TensorType((), INT64), *types))
    loop = Loop(GlobalVar(body_name), limit, None, (), captured, store.nodes, type_, history=True)
    whole = builder.emit(loop, name="tables")
    rows = [
        builder.emit(operator_call("gather", builder.emit(TupleGetItem(whole, 1 + k)), cursor.at))
        for k in range(len(types))
    ]
    result = Tuple(tuple(rows)) if isinstance(function.result.type, TupleType) else rows[0]
    made: Function = builder.finish(result).replace(attrs=function.attrs, span=function.span)
    return made


def _tensors(function: Function) -> list[TensorType]:
    return [item for item in _result_types(function) if isinstance(item, TensorType)]
