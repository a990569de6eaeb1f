# SPDX-License-Identifier: Apache-2.0
"""Values of data types that functions make: nodes appended to arrays that functions hand on.

    def twice(xs: List):                     def twice(tag, children, items, count, xs):
        match xs:                                if tag[xs] == 0:
            case Nil(): r = xs          ->           r, heap = xs, (tag, children, items, count)
            case Cons(x, rest):                  else:
                more = twice(rest)                   more, heap = twice(..., children[xs, 0])
                r = Cons(x * 2, more)                heap[count] = (1, more, items[xs] * 2)
        return r                                     r = count; count += 1
                                                 return r, heap

All values of one type are nodes of one heap. A value is the number of its node, and its children
have smaller numbers. A heap is tensors: the tag of each node, its children, one tensor for each
field of each constructor, all with a row for each node, and the count of nodes. Functions are
handed the heaps of the types that they handle, and give back those of the types that they make;
since each new heap takes the place of the one before, memory planning writes it in place.

`main` begins with the values that it is given, one behind the other, and knows how many nodes there
can be at most (`data_effects.Room`, or its attribute "room").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from heddle.graph.builder import GraphBuilder
from heddle.graph.data import declaration
from heddle.graph.nodes import (
    Arm,
    Binding,
    Branch,
    Call,
    Constant,
    Construct,
    GraphExpr,
    If,
    Loop,
    Match,
    Tuple,
    TupleGetItem,
    Var,
    branches_of,
)
from heddle.ir import INT64, DataType, DType, TensorType, TupleType, Type
from heddle.ir.expr import Expr, const
from heddle.ir.expr import Var as Symbol
from heddle.ir.module import GlobalVar
from heddle.passes.graph.data_effects import Effects
from heddle.passes.graph.data_values import INDEX, index_of, operator_call
from heddle.runtime.data import Adt, SelfField
from heddle.support import UserError


@dataclass(frozen=True, slots=True)
class Node:
    """A value of a data type: the number of its node."""

    type: DataType
    at: GraphExpr


_Value: TypeAlias = "GraphExpr | Node | tuple[Any, ...]"
"""What an expression is in the lowered function; a tuple for one with values of data types."""

Heap: TypeAlias = "tuple[GraphExpr, ...]"
"""Tags, children, the fields of all constructors in order, and the count of nodes."""


def fields_of(adt: Adt) -> list[tuple[str, int, tuple[int, ...], str]]:
    """Constructor, position, shape and dtype of every field that is a tensor."""
    return [
        (name, place, *field)
        for name, fields in adt.constructors.items()
        for place, field in enumerate(fields)
        if not isinstance(field, SelfField)
    ]


def heap_types(adt: Adt, room: Expr) -> list[tuple[str, TensorType]]:
    """The tensors of a heap, with a row for each of `room` nodes."""
    rows = [("tag", (room,), INT64), ("children", (room, const(adt.arity)), INT64)]
    rows += [
        (f"{name}.{place}", (room, *map(const, shape)), DType.of(dtype))
        for name, place, shape, dtype in fields_of(adt)
    ]
    found = [(name, TensorType(tuple(shape), dtype)) for name, shape, dtype in rows]
    return [*found, ("count", INDEX)]


class HeapLowering:
    """Copies the bindings of one function; `heaps` are those at this point."""

    def __init__(self, effects: Effects, name: str) -> None:
        self.effects = effects
        self.name = name
        self.function = effects.functions[name]
        self.builder = GraphBuilder(name)
        self.values: dict[Var, _Value] = {}
        self.heaps: dict[Adt, Heap] = {}
        self.tables: Callable[[Call, Node], Sequence[GraphExpr]] | None = None
        self.walked: int | None = None

    # -- parameters and results --------------------------------------------------------------

    def heap_parameters(self, adts: Sequence[Adt]) -> None:
        for adt in adts:
            room = Symbol(f"{adt.name}_room")
            self.heaps[adt] = tuple(
                self.builder.param(f"{adt.name}.{part}", type_)
                for part, type_ in heap_types(adt, room)
            )

    def parameters(self, given: Mapping[Var, GraphExpr] | None = None) -> None:
        """Declare the parameters; `given` has the nodes of some, which are none."""
        for param in self.function.params:
            if isinstance(param.type, DataType):
                at = (given or {}).get(param)
                at = self.builder.param(f"{param.name}.at", INDEX) if at is None else at
                self.values[param] = Node(param.type, at)
            else:
                self.builder.params.append(param)

    def room(self, adt: Adt) -> Expr:
        """The rows of a heap."""
        type_ = self.heaps[adt][0].type  # type: ignore[attr-defined]
        assert isinstance(type_, TensorType)
        return type_.shape[0]

    def run(self) -> list[GraphExpr]:
        """Copy all bindings; the fields of the result."""
        for binding in self.function.bindings:
            self.binding(binding)
        return self.flat(self.function.result)

    def heap_fields(self, adts: Sequence[Adt]) -> list[GraphExpr]:
        return [item for adt in adts for item in self.heaps[adt]]

    # -- expressions -------------------------------------------------------------------------

    def value(self, item: Any) -> Any:
        """An expression of the old function in the new one."""
        if isinstance(item, Var):
            return self.values.get(item, item)
        if isinstance(item, Tuple):
            return tuple(self.value(field) for field in item.fields)
        if isinstance(item, TupleGetItem):
            whole = self.value(item.value)
            return (
                whole[item.index] if isinstance(whole, tuple) else TupleGetItem(whole, item.index)
            )
        return item.map(self.tensor) if isinstance(item, GraphExpr) else item

    def tensor(self, item: Any) -> Any:
        """One that is a tensor, as an atom."""
        found = self.value(item)
        if isinstance(found, Node):
            raise UserError(
                f"graph function `{self.name}`: a {found.type.name} can be matched, be a field of "
                "another, be handed to graph functions and be returned, nothing else",
                span=getattr(item, "span", None),
            )
        if isinstance(found, tuple):
            return Tuple(tuple(self.tensor(field) for field in found))
        return self.builder.atom(found) if isinstance(found, GraphExpr) else found

    def flat(self, item: Any) -> list[GraphExpr]:
        """The tensors that a value is: those of its fields, numbers of nodes."""
        found = self.value(item)
        if isinstance(found, Node):
            return [found.at]
        if isinstance(found, tuple):
            return [part for field in found for part in self._flat_value(field)]
        if isinstance(found.type, TupleType):
            return [TupleGetItem(found, k) for k in range(len(found.type.fields))]
        return [found]

    def _flat_value(self, value: Any) -> list[GraphExpr]:
        if isinstance(value, tuple):
            return [part for field in value for part in self._flat_value(field)]
        return [value.at if isinstance(value, Node) else value]

    # -- bindings ----------------------------------------------------------------------------

    def binding(self, binding: Binding) -> None:
        value, var = binding.value, binding.var
        if isinstance(value, Construct):
            self.values[var] = self._construct(value, var.name)
        elif isinstance(value, (If, Match)):
            self.values[var] = self._choice(value, var.name)
        elif isinstance(value, Call) and isinstance(value.callee, GlobalVar):
            self.values[var] = self._call(value, var.name)
        elif isinstance(value, (Var, Tuple, TupleGetItem)):
            self.values[var] = self.value(value)
        else:
            self._check_loop(value)
            self.builder.keep(binding.replace(value=value.map(self.tensor)))

    def _check_loop(self, value: GraphExpr) -> None:
        if isinstance(value, Loop) and self.effects.handled.get(value.body.name):
            raise UserError(
                f"graph function `{self.name}`: the body of a loop, `{value.body.name}`, handles "
                "values of data types; use recursion instead, where values are made",
                span=value.span,
            )

    def emit(self, value: GraphExpr, name: str) -> Var:
        var = Var(self.builder.fresh_name(name), value.type, span=value.span)  # type: ignore[call-arg]
        self.builder.keep(Binding(value, var))
        return var

    def _construct(self, value: Construct, name: str) -> Node:
        """A node behind those that there are. One for which there is no room is not written; that
        is an error at the end of `main`."""
        assert isinstance(value.type, DataType)
        adt, b = declaration(value.type), self.builder
        tag, children, *fields, count = self.heaps[adt]
        row = b.emit(operator_call("reshape", count, shape=(1,)), name="row")
        number = list(adt.constructors).index(value.constructor)

        def write(data: GraphExpr, item: GraphExpr, part: str) -> GraphExpr:
            return b.emit(operator_call("index_copy", data, row, item, axis=0), name=part)

        below = [self.value(item).at for item in value.fields if isinstance(item.type, DataType)]
        pieces = [b.emit(operator_call("reshape", at, shape=(1, 1))) for at in below]
        if len(pieces) < adt.arity:
            missing = np.full((1, adt.arity - len(pieces)), -1, np.int64)
            pieces.append(Constant(missing))  # type: ignore[arg-type]
        joined = operator_call("concat", *pieces, axis=1) if len(pieces) > 1 else pieces[0]
        made = [
            write(tag, Constant(np.asarray([number], np.int64)), "tag"),
            write(children, b.atom(joined), "children"),
        ]
        for (constructor, place, shape, _), data in zip(fields_of(adt), fields, strict=True):
            if constructor == value.constructor:
                item = operator_call("reshape", self.tensor(value.fields[place]), shape=(1, *shape))
                data = write(data, item, f"{constructor}.{place}")
            made.append(data)
        after = b.emit(operator_call("add", count, index_of(1)), name="count")
        self.heaps[adt] = (*made, after)
        return Node(value.type, count)

    def _call(self, value: Call, name: str) -> _Value:
        callee = value.callee.name  # type: ignore[attr-defined]
        if self.tables is not None and callee == self.name:
            node = self.value(value.args[self.walked])  # type: ignore[index]
            return self.restored(value.type, iter(self.tables(value, node)))
        if callee not in self.effects.functions or not self.effects.handled[callee]:
            return self.emit(value.map(self.tensor), name)
        made = self.effects.made[callee]
        args = self.heap_fields(self.effects.handled[callee])
        args += [part for arg in value.args for part in self.flat(arg)]
        atoms = tuple(map(self.builder.atom, args))
        types = [*self.types(value.type), *(item.type for item in self.heap_fields(made))]  # type: ignore[attr-defined]
        call = Call(GlobalVar(callee), atoms, {}, joined_type(types), span=value.span)  # type: ignore[call-arg]
        return self._unpacked(call, name, value.type, made)

    def _unpacked(self, whole: GraphExpr, name: str, type_: Type, made: Sequence[Adt]) -> _Value:
        """Bind a value that has the fields of `type_` and the heaps of these types."""
        var = self.emit(whole, name)
        parts: list[GraphExpr] = [var]
        if isinstance(whole.type, TupleType):
            parts = [TupleGetItem(var, k) for k in range(len(whole.type.fields))]
        rest = iter(parts)
        found = self.restored(type_, rest)
        for adt in made:
            self.heaps[adt] = tuple(next(rest) for _ in self.heaps[adt])
        return found

    def restored(self, type_: Type, parts: Iterator[GraphExpr]) -> _Value:
        """The value of this type that has these parts."""
        if isinstance(type_, TupleType):
            return tuple(self.restored(field, parts) for field in type_.fields)
        found = next(parts)
        return Node(type_, found) if isinstance(type_, DataType) else found

    def types(self, type_: Type) -> list[Type]:
        """The types of the tensors that a value of a type is."""
        if isinstance(type_, TupleType):
            return [item for field in type_.fields for item in self.types(field)]
        return [INDEX if isinstance(type_, DataType) else type_]

    # -- branches ----------------------------------------------------------------------------

    def _choice(self, value: If | Match, name: str) -> _Value:
        """One of several branches, each of which gives the heaps that one of them changes."""
        branches = branches_of(value)
        made = self.effects.made_in([item for b in branches for item in b.bindings])
        types = [*self.types(value.type), *(item.type for item in self.heap_fields(made))]  # type: ignore[attr-defined]
        type_ = joined_type(types)
        if isinstance(value, If):
            condition = self.tensor(value.condition)
            then, otherwise = (self._branch(branch, made) for branch in branches)
            whole: GraphExpr = If(condition, then, otherwise, type_, span=value.span)  # type: ignore[call-arg]
            return self._unpacked(whole, name, value.type, made)
        node = self.value(value.value)
        assert isinstance(node, Node)
        tags = self.heaps[declaration(node.type)][0]
        tag = self.builder.emit(operator_call("gather", tags, node.at), name="tag")
        branch = self._arms(node, tag, value.arms, made, type_)
        for inner in branch.bindings:
            self.builder.keep(inner)
        return self._unpacked(branch.result, name, value.type, made)

    def _branch(
        self, branch: Branch, made: Sequence[Adt], fields: Callable[[], None] = lambda: None
    ) -> Branch:
        """A branch, which begins with `fields`; it gives its result and these heaps."""
        before = dict(self.heaps)

        def emit() -> GraphExpr:
            fields()
            for binding in branch.bindings:
                self.binding(binding)
            return self.joined([*self.flat(branch.result), *self.heap_fields(made)])

        found: Branch = self.builder.branch(emit)
        self.heaps = before
        return found

    def _arms(
        self, node: Node, tag: GraphExpr, arms: Sequence[Arm], made: Sequence[Adt], type_: Type
    ) -> Branch:
        """A chain of conditions on the tag."""
        arm, rest = arms[0], arms[1:]

        def fields() -> None:
            self._bind_fields(arm, node)

        if not rest:
            return self._branch(arm.body, made, fields)
        names = [item.name for item in node.type.constructors]

        def choose() -> GraphExpr:
            number = index_of(names.index(arm.constructor))
            condition = self.builder.emit(operator_call("equal", tag, number))
            then = self._branch(arm.body, made, fields)
            otherwise = self._arms(node, tag, rest, made, type_)
            return self.emit(If(condition, then, otherwise, type_), "match")

        found: Branch = self.builder.branch(choose)
        return found

    def _bind_fields(self, arm: Arm, node: Node) -> None:
        adt, below = declaration(node.type), 0
        _tag, children, *fields, _count = self.heaps[adt]
        pools = {key[:2]: data for key, data in zip(fields_of(adt), fields, strict=True)}
        for place, field in enumerate(arm.fields):
            if isinstance(field.type, DataType):
                row = operator_call("gather", children, node.at)
                at = self.builder.emit(
                    operator_call("gather", row, index_of(below)), name=field.name
                )
                self.values[field] = Node(field.type, at)
                below += 1
            else:
                found = operator_call("gather", pools[arm.constructor, place], node.at)
                self.values[field] = self.builder.emit(found, name=field.name)

    def joined(self, fields: Sequence[GraphExpr]) -> GraphExpr:
        """Fields as one value: the tuple that they are all of, where there is one, so that what
        was called last stays last."""
        first = fields[0]
        if isinstance(first, TupleGetItem) and isinstance(first.value.type, TupleType):  # type: ignore[attr-defined]
            whole = first.value
            same = all(
                isinstance(item, TupleGetItem) and item.value is whole and item.index == k
                for k, item in enumerate(fields)
            )
            if same and len(fields) == len(whole.type.fields):  # type: ignore[attr-defined]
                return whole
        if len(fields) == 1:
            return self.builder.atom(first)
        return Tuple(tuple(map(self.builder.atom, fields)))


def joined_type(types: Sequence[Type]) -> Type:
    return types[0] if len(types) == 1 else TupleType(tuple(types))
