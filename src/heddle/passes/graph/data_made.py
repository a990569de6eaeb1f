# SPDX-License-Identifier: Apache-2.0
"""Modules whose functions make values of data types: which become loops, and what `main` is.

The representation is told in `data_heaps.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from heddle.graph.builder import GraphBuilder
from heddle.graph.data import declaration
from heddle.graph.dims import simplify_dim
from heddle.graph.nodes import (
    BindDim,
    Constant,
    Function,
    GraphExpr,
    Loop,
    Tuple,
    TupleGetItem,
    Var,
)
from heddle.ir import INT64, DataType, IRModule, TensorType, TupleType, Type
from heddle.ir.expr import Expr, as_expr
from heddle.ir.expr import Var as Symbol
from heddle.ir.module import BaseFunc, GlobalVar
from heddle.passes.graph.anf import dims_attribute
from heddle.passes.graph.data_effects import Effects, Room, data_types, is_data
from heddle.passes.graph.data_heaps import Heap, HeapLowering, Node, fields_of, heap_types
from heddle.passes.graph.data_values import INDEX, index_of, operator_call
from heddle.passes.graph.host_plan import SYMBOL_MAX
from heddle.runtime.data import Adt


def lower_with_heaps(module: IRModule) -> IRModule:
    """The module without values of data types; it may make them and return them."""
    effects = Effects(module)
    changed: dict[str, BaseFunc | None] = {}
    for name, function in effects.functions.items():
        if name == "main":
            changed[name] = _main(effects)
        elif effects.handled[name]:
            place = effects.fold_over(name)
            if place is None:
                changed[name] = _plain_function(effects, name, function)
            else:
                changed.update(_fold(effects, name, function, place))
    return module.with_functions(changed)


# -- functions ------------------------------------------------------------------------------------


def _plain_function(effects: Effects, name: str, function: Function) -> Function:
    lowering = HeapLowering(effects, name)
    lowering.heap_parameters(effects.handled[name])
    lowering.parameters()
    fields = [*lowering.run(), *lowering.heap_fields(effects.made[name])]
    attrs = dict(function.attrs)
    walked = effects.walked(name)
    if name in effects.groups and walked is not None:
        adt = _adt_of(function.params[walked])
        attrs.setdefault("depth", _room_of_parameters(lowering, adt))
    made: Function = lowering.builder.finish(lowering.joined(fields))
    return made.replace(attrs=attrs, span=function.span)  # type: ignore[no-any-return]


def _room_of_parameters(lowering: HeapLowering, adt: Adt) -> Expr:
    name = f"{adt.name}.tag"
    found = next(param.type for param in lowering.builder.params if param.name == name)
    assert isinstance(found, TensorType)
    return found.shape[0]


def _fold(
    effects: Effects, name: str, function: Function, place: int
) -> dict[str, BaseFunc | None]:
    """The function as a loop over all nodes that there are, and the body of the loop."""
    body_name = f"{name}_node"
    while body_name in effects.module:
        body_name += "_"
    body = _fold_body(effects, name, body_name, place)
    return {name: _fold_loop(effects, name, body_name, place), body_name: body}


def _fold_body(effects: Effects, name: str, body_name: str, place: int) -> Function:
    """Node `i`, given the results for the nodes before."""
    made = effects.made[name]
    captured = [adt for adt in effects.handled[name] if adt not in made]
    lowering = HeapLowering(effects, name)
    lowering.builder = builder = GraphBuilder(body_name)
    function = lowering.function
    at = builder.param("i", INDEX)
    lowering.heap_parameters(made)
    lowering.heap_parameters(captured)
    lowering.parameters({function.params[place]: at})
    adt = _adt_of(function.params[place])
    room = lowering.room(adt)
    tables = [
        builder.param("table", TensorType((room, *item.shape), item.dtype))
        for item in lowering.types(function.result.type)
        if isinstance(item, TensorType)
    ]
    lowering.walked = place
    lowering.tables = lambda _call, node: [
        builder.emit(operator_call("gather", table, node.at)) for table in tables
    ]
    fields = lowering.run()
    going = Constant(np.asarray(True))
    result = Tuple((going, *map(builder.atom, [*lowering.heap_fields(made), *fields])))
    found: Function = builder.finish(result).replace(span=function.span)
    return found


def _fold_loop(effects: Effects, name: str, body_name: str, place: int) -> Function:
    made = effects.made[name]
    captured = [adt for adt in effects.handled[name] if adt not in made]
    lowering = HeapLowering(effects, name)
    builder, function = lowering.builder, lowering.function
    lowering.heap_parameters(effects.handled[name])
    lowering.parameters()
    node = lowering.values[function.params[place]]
    assert isinstance(node, Node)
    adt = declaration(node.type)
    room = lowering.room(adt)
    rest = [
        part
        for at, param in enumerate(function.params)
        for part in lowering.flat(param)
        if at != place
    ]
    tables = [
        TensorType((room, *item.shape), item.dtype)
        for item in lowering.types(function.result.type)
        if isinstance(item, TensorType)
    ]
    carried = lowering.heap_fields(made)
    loop = Loop(
        GlobalVar(body_name),
        lowering.heaps[adt][-1],
        None,
        tuple(carried),
        (*lowering.heap_fields(captured), *rest),
        room,
        TupleType((INDEX, *(item.type for item in carried), *tables)),  # type: ignore[attr-defined]
        history=True,
    )
    whole = lowering.emit(loop, "tables")
    parts = [TupleGetItem(whole, 1 + k) for k in range(len(carried) + len(tables))]
    rows = [operator_call("gather", builder.atom(x), node.at) for x in parts[len(carried) :]]
    fields = [*map(builder.emit, rows), *parts[: len(carried)]]
    found: Function = builder.finish(lowering.joined(fields))
    return found.replace(attrs=function.attrs, span=function.span)  # type: ignore[no-any-return]


# -- main -----------------------------------------------------------------------------------------


def _main(effects: Effects) -> Function:
    """`main` is handed whole values as arrays (`heddle.runtime.data`), and returns such."""
    lowering = HeapLowering(effects, "main")
    function, builder = lowering.function, lowering.builder
    given = [_Arrays(builder, param) for param in function.params if is_data(param)]
    arrays = {item.param: item for item in given}
    for param in function.params:
        if param in arrays:
            arrays[param].declare()
        else:
            builder.params.append(param)
    rooms = _rooms(effects, function, given)
    for adt in effects.handled["main"]:
        own = [item for item in given if item.adt == adt]
        lowering.heaps[adt] = _begin(builder, adt, own, rooms[adt])
        for item in own:
            lowering.values[item.param] = Node(item.type, item.root)
    fields = lowering.run()
    types = _leaves(function.result.type)
    names = _result_names(function, len(types))
    results: list[GraphExpr] = []
    arrays_of: list[str] = []
    for name, type_, field in zip(names, types, fields, strict=True):
        if isinstance(type_, DataType):
            results += _end(lowering, Node(type_, field), name)
            arrays_of += [f"{name}.{part}" for part in declaration(type_).arrays]
        else:
            results.append(builder.atom(field))
            arrays_of.append(name)
    ranges: Any = function.attrs.get("symbol_ranges", {})
    bounds = {s.name: (1, SYMBOL_MAX) for item in given for s in item.symbols}
    attrs = {key: item for key, item in function.attrs.items() if key != "room"} | {
        "symbol_ranges": {**ranges, **bounds},
        "output_names": tuple(arrays_of),
        "data": described([p.name for p in function.params], [p.type for p in function.params]),
        "results": described(names, types),
    }
    made: Function = builder.finish(lowering.joined(results))
    return made.replace(attrs=attrs, span=function.span)  # type: ignore[no-any-return]


class _Arrays:
    """A value that `main` is handed."""

    def __init__(self, builder: GraphBuilder, param: Var) -> None:
        assert isinstance(param.type, DataType)
        self.builder, self.param, self.type = builder, param, param.type
        self.adt = declaration(param.type)
        self.nodes = Symbol(f"{param.name}_nodes")
        self.symbols = [self.nodes]
        self.tensors: list[GraphExpr] = []
        self.root: GraphExpr = index_of(0)  # known once the heap is

    def declare(self) -> None:
        """Declare the parameters."""
        rows: dict[str, Symbol] = {}
        shapes: list[tuple[Any, str]] = [
            ((self.nodes,), "int64"),
            ((self.nodes,), "int64"),
            ((self.nodes, self.adt.arity), "int64"),
        ]
        for name, _, shape, dtype in fields_of(self.adt):
            if name not in rows:
                rows[name] = Symbol(f"{self.param.name}_{name}")
            shapes.append(((rows[name], *shape), dtype))
        self.symbols += rows.values()
        self.tensors += [
            self.builder.param(f"{self.param.name}.{part}", TensorType.of(shape, dtype))
            for part, (shape, dtype) in zip(self.adt.arrays, shapes, strict=True)
        ]

    def count(self) -> GraphExpr:
        shape = operator_call("shape_of", self.tensors[0])
        return self.builder.emit(operator_call("gather", shape, index_of(0)))


def _rooms(effects: Effects, function: Function, given: Sequence[_Arrays]) -> dict[Adt, Expr]:
    """The rows of each heap: what there is, what is made, and the results once more."""
    start = {
        adt: simplify_dim(sum((x.nodes for x in given if x.adt == adt), start=as_expr(0)))
        for adt in effects.handled["main"]
    }
    extra: Any = function.attrs.get("room")
    if extra is None:
        most = Room(effects).after("main", start)
    else:
        most = {adt: size + as_expr(extra) for adt, size in start.items()}
    again = list(data_types(function.result.type))
    return {adt: simplify_dim(size + max(1, again.count(adt))) for adt, size in most.items()}


def _begin(builder: GraphBuilder, adt: Adt, given: Sequence[_Arrays], room: Expr) -> Heap:
    """A heap of the values that there are, one behind the other; where each has its root."""
    types = [type_ for _, type_ in heap_types(adt, room)]
    parts: list[list[GraphExpr]] = [[] for _ in types[:-1]]
    count: GraphExpr = index_of(0)
    for item in given:
        tag, row, children, *pools = item.tensors
        parts[0].append(tag)
        parts[1].append(operator_call("add", children, count))
        for part, pool in zip(parts[2:], pools, strict=True):
            part.append(operator_call("gather", pool, row, axis=0))
        count = builder.emit(operator_call("add", count, item.count()), name="count")
        item.root = builder.emit(operator_call("sub", count, index_of(1)), name="root")
    found = []
    for pieces, type_ in zip(parts, types, strict=False):
        assert isinstance(type_, TensorType)
        shape = dims_attribute(type_.shape)
        if not pieces:
            zero = Constant(np.zeros((), type_.dtype.numpy))
            found.append(builder.emit(operator_call("broadcast_to", zero, shape=shape)))
            continue
        whole = operator_call("concat", *pieces, axis=0) if len(pieces) > 1 else pieces[0]
        found.append(builder.emit(operator_call("extend", whole, shape=shape)))
    return (*found, count)


def _end(lowering: HeapLowering, node: Node, name: str) -> list[GraphExpr]:
    """A result as arrays: all nodes that there are, and its root once more as the last."""
    adt, builder = declaration(node.type), lowering.builder
    *tensors, count = lowering.heaps[adt]
    row = builder.emit(operator_call("reshape", count, shape=(1,)), name="row")
    at = builder.emit(operator_call("reshape", node.at, shape=(1,)), name="root")
    written = [
        builder.emit(
            operator_call("index_copy", x, row, operator_call("gather", x, at, axis=0), axis=0)
        )
        for x in tensors
    ]
    count = builder.emit(operator_call("add", count, index_of(1)), name="count")
    lowering.heaps[adt] = (*written, count)
    nodes = Symbol(f"{name}_nodes")
    builder.emit(BindDim(count, lowering.room(adt), nodes))
    first, *rest = (
        builder.emit(operator_call("prefix", x, shape=dims_attribute((nodes, *x.type.shape[1:]))))
        for x in written
    )
    rows = builder.emit(operator_call("range", count=nodes, dtype=INT64), name="rows")
    return [first, rows, *rest]


def _leaves(type_: Type) -> list[Type]:
    if isinstance(type_, TupleType):
        return [item for field in type_.fields for item in _leaves(field)]
    return [type_]


def _result_names(function: Function, count: int) -> list[str]:
    """What the results are called: as they are where nothing else is said."""
    result = function.result
    fields = result.fields if isinstance(result, Tuple) else (result,)
    given: Any = function.attrs.get("output_names", ())
    names = [item.name if isinstance(item, Var) else "" for item in fields]
    names = [*given, *names[len(given) :]] if len(fields) == count else [""] * count
    return [name or f"output{k}" for k, name in enumerate(names)]


def described(names: Sequence[str], types: Sequence[Type]) -> str:
    """Names and declarations (None for a tensor) as JSON, for the metadata of a library."""
    forms = [declaration(t).to_json() if isinstance(t, DataType) else None for t in types]
    return json.dumps(list(zip(names, forms, strict=True)))


def _adt_of(param: Var) -> Adt:
    assert isinstance(param.type, DataType)
    return declaration(param.type)
