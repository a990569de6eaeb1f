# SPDX-License-Identifier: Apache-2.0
"""Values of algebraic data types as flat tensors and numbers of nodes.

    def f(t: List):                      def f(tag, row, children, pool, at):
        match t:                             if tag[at] == 0:
            case Nil(): ...         ->           ...
            case Cons(x, rest):              else:
                y = f(rest)                      y = f(tag, row, children, pool, children[at, 0])

The tensors are those of `heddle.runtime.data`. All values in a function that come from one
parameter share its tensors and differ in `at`, the number of their node. `main` is handed whole
values and begins at the last node. Indices are clamped by `gather`, so whatever the tensors hold,
nothing outside of them is read.

This file copies one function; the pass is `data.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    Closure,
    Constant,
    Function,
    GraphExpr,
    If,
    Loop,
    Match,
    Tuple,
    TupleGetItem,
    Var,
)
from heddle.graph.registry import resolve_op
from heddle.ir import INT64, DataType, DType, TensorType, Type
from heddle.ir.expr import Var as Symbol
from heddle.ir.module import GlobalVar
from heddle.support import UserError

INDEX = TensorType((), INT64)


@dataclass(frozen=True, slots=True)
class Store:
    """The tensors of one parameter: `tensors` in the order of `Adt.arrays`."""

    type: DataType
    tensors: tuple[GraphExpr, ...]
    nodes: Symbol

    @property
    def pools(self) -> Mapping[tuple[str, int], GraphExpr]:
        """The tensors of fields, by constructor and position."""
        names = declaration(self.type).arrays[3:]
        parts = (name.rsplit(".", 1) for name in names)
        keys = [(constructor, int(place)) for constructor, place in parts]
        return dict(zip(keys, self.tensors[3:], strict=True))


@dataclass(frozen=True, slots=True)
class Cursor:
    """One value: a node of a store."""

    store: Store
    at: GraphExpr


_Value: TypeAlias = "GraphExpr | Cursor"

CallRule: TypeAlias = "Callable[[Call, Sequence[GraphExpr | Cursor]], GraphExpr | None]"
"""What takes the place of a call with these arguments; None leaves a call."""


def operator_call(name: str, *args: Any, **attrs: Any) -> GraphExpr:
    made: GraphExpr = resolve_op(name)(*args, **attrs)
    return made


def index_of(value: int) -> Constant:
    return Constant(np.asarray(value, np.int64))


class DataLowering:
    """Copies one function; `values` says what its variables are in the copy.

    call_rule: what takes the place of some calls of graph functions.
    """

    def __init__(self, name: str, function: Function, call_rule: CallRule | None = None) -> None:
        self.name = name
        self.function = function
        self.call_rule = call_rule
        self.builder = GraphBuilder(name)
        self.values: dict[Var, _Value] = {}
        self.stores: list[Store] = []
        self.symbols: list[Symbol] = []

    def parameters(self, at: Callable[[Var], GraphExpr]) -> None:
        """Declare the parameters. `at` gives the node of one that has a data type, after its
        tensors are declared."""
        for param in self.function.params:
            if isinstance(param.type, DataType):
                store = self._store(param, param.type)
                self.stores.append(store)
                self.values[param] = Cursor(store, at(param))
            else:
                self.builder.params.append(param)

    def node_parameter(self, param: Var) -> GraphExpr:
        """A parameter for the node of a parameter, behind its tensors."""
        return self.builder.param(f"{param.name}.at", INDEX)

    def body(self) -> GraphExpr:
        """Copy the bindings; the result."""
        for binding in self.function.bindings:
            self._binding(binding)
        return self._result(self.function.result)

    def _store(self, param: Var, type_: DataType) -> Store:
        adt = declaration(type_)
        nodes = Symbol(f"{param.name}_nodes")
        shapes: list[tuple[tuple[Any, ...], DType]] = [
            ((nodes,), INT64),
            ((nodes,), INT64),
            ((nodes, adt.arity), INT64),
        ]
        symbols = [nodes]
        for constructor in type_.constructors:
            rows = Symbol(f"{param.name}_{constructor.name}")
            fields = [field for field in constructor.fields if isinstance(field, TensorType)]
            shapes += [((rows, *field.shape), field.dtype) for field in fields]
            symbols += [rows] if fields else []
        tensors = tuple(
            self.builder.param(f"{param.name}.{name}", TensorType.of(shape, dtype))
            for name, (shape, dtype) in zip(adt.arrays, shapes, strict=True)
        )
        self.symbols += symbols
        return Store(type_, tensors, nodes)

    # -- values ------------------------------------------------------------------------------

    def _atom(self, value: Any) -> Any:
        """An expression of the old function in the new one; a cursor for a value of a data type."""
        if isinstance(value, Var):
            return self.values.get(value, value)
        if isinstance(value, GraphExpr):
            return value.map(self._plain)
        return value

    def _plain(self, value: Any) -> Any:
        found = self._atom(value)
        if isinstance(found, Cursor):
            raise UserError(
                f"graph function `{self.name}`: a {found.store.type.name} can be matched and "
                "handed to graph functions, nothing else",
                span=getattr(value, "span", None),
            )
        return found

    def _result(self, value: GraphExpr) -> GraphExpr:
        found = self._atom(value)
        if isinstance(found, Cursor):
            raise UserError(
                f"graph function `{self.name}` returns a {found.store.type.name}; results are "
                "tensors",
                span=value.span,
            )
        return found  # type: ignore[no-any-return]

    def _binding(self, binding: Binding) -> None:
        value, var = binding.value, binding.var
        if isinstance(var.type, DataType):
            self.values[var] = self._data(value, var)
        elif isinstance(value, Match):
            self.values[var] = self._match(value, var.name)
        elif isinstance(value, If):
            made = If(
                self._plain(value.condition),
                self._branch(value.then),
                self._branch(value.otherwise),
                value.type,
                span=value.span,
            )  # type: ignore[call-arg]
            self._keep(made, binding)
        elif isinstance(value, Call) and isinstance(value.callee, GlobalVar):
            self._keep(self._call(value), binding)
        elif isinstance(value, Loop):
            self._keep(self._loop(value), binding)
        elif isinstance(value, Closure):
            self._keep(value.replace(captured=self._expanded(value.captured)), binding)
        elif isinstance(value, (Tuple, TupleGetItem, Var)):
            self._keep(self._plain(value), binding)
        else:
            self._keep(value.map(self._plain), binding)

    def _keep(self, value: GraphExpr, binding: Binding) -> None:
        if isinstance(value, (Var, Constant)):
            self.values[binding.var] = value
        else:
            self.builder.keep(binding.replace(value=value))

    def _loop(self, value: Loop) -> Loop:
        made: Loop = value.replace(
            limit=None if value.limit is None else self._plain(value.limit),
            condition=None if value.condition is None else self._plain(value.condition),
            carried=tuple(map(self._plain, value.carried)),
            captured=self._expanded(value.captured),
        )
        return made

    def _call(self, value: Call) -> GraphExpr:
        """A call of a graph function."""
        if self.call_rule is not None:
            made = self.call_rule(value, [self._atom(arg) for arg in value.args])
            if made is not None:
                return made
        changed: Call = value.replace(args=self._expanded(value.args))
        return changed

    def _expanded(self, args: Sequence[GraphExpr]) -> tuple[GraphExpr, ...]:
        """Arguments of a graph function: a value of a data type becomes its tensors and node."""
        found: list[GraphExpr] = []
        for arg in map(self._atom, args):
            found += [*arg.store.tensors, arg.at] if isinstance(arg, Cursor) else [arg]
        return tuple(found)

    def _branch(self, branch: Branch) -> Branch:
        return self._body(branch, lambda: self._result(branch.result))

    def _body(self, branch: Branch, result: Callable[[], GraphExpr]) -> Branch:
        def emit() -> GraphExpr:
            for binding in branch.bindings:
                self._binding(binding)
            return result()

        made: Branch = self.builder.branch(emit).replace(span=branch.span)
        return made

    # -- data types --------------------------------------------------------------------------

    def _data(self, value: GraphExpr, var: Var) -> Cursor:
        """A value of a data type: one of those that there are."""
        if isinstance(value, Var):
            found = self._atom(value)
        elif isinstance(value, (If, Match)):
            found = self._choice(value, var)
        else:
            found = None
        if not isinstance(found, Cursor):
            raise UserError(
                f"graph function `{self.name}`, value `{var.name}`: a {type(value).__name__} gives "
                "no value of a data type here",
                span=value.span or var.span,
            )
        return found

    def _choice(self, value: If | Match, var: Var) -> Cursor:
        """One of several nodes, of one store."""
        stores: list[Store] = []

        def at(branch: Branch) -> GraphExpr:
            found = self._atom(branch.result)
            assert isinstance(found, Cursor)
            stores.append(found.store)
            return found.at

        def body(branch: Branch) -> Branch:
            return self._body(branch, lambda: at(branch))

        if isinstance(value, If):
            made: GraphExpr = If(
                self._plain(value.condition), body(value.then), body(value.otherwise), INDEX
            )
            number = self._bind(made, var.name)
        else:
            number = self._match(value, var.name, body)
        if any(store is not stores[0] for store in stores):
            raise UserError(
                f"graph function `{self.name}`, value `{var.name}`: all branches must choose parts "
                "of one value",
                span=value.span or var.span,
            )
        return Cursor(stores[0], number)

    def _match(
        self, value: Match, name: str, body: Callable[[Branch], Branch] | None = None
    ) -> GraphExpr:
        """A chain of conditions on the tag."""
        cursor = self._atom(value.value)
        assert isinstance(cursor, Cursor)
        names = [item.name for item in cursor.store.type.constructors]
        tag = self.builder.emit(
            operator_call("gather", cursor.store.tensors[0], cursor.at), name="tag"
        )

        def chain(arms: Sequence[Arm]) -> Branch:
            arm, rest = arms[0], arms[1:]
            if not rest:
                return self._arm(arm, cursor, body or self._branch)

            def choose() -> GraphExpr:
                return self._choose(tag, names.index(arm.constructor), arms, chain, value, name)

            return self.builder.branch(choose)

        # Arms of a Match lie in branches of their own, so names of fields are bound there only.
        whole = chain(value.arms)
        for binding in whole.bindings:
            self.builder.keep(binding)
        return whole.result

    def _choose(
        self,
        tag: GraphExpr,
        number: int,
        arms: Sequence[Arm],
        chain: Callable[[Sequence[Arm]], Branch],
        value: Match,
        name: str,
    ) -> GraphExpr:
        condition = self.builder.emit(operator_call("equal", tag, index_of(number)))
        then, otherwise = chain(arms[:1]), chain(arms[1:])
        type_: Type = INDEX if isinstance(value.type, DataType) else value.type
        made = If(condition, then, otherwise, type_, span=value.span)  # type: ignore[call-arg]
        return self._bind(made, name)

    def _bind(self, value: GraphExpr, name: str) -> Var:
        var = Var(self.builder.fresh_name(name), value.type)
        self.builder.keep(Binding(value, var))
        return var

    def _arm(self, arm: Arm, cursor: Cursor, body: Callable[[Branch], Branch]) -> Branch:
        """The fields that an arm uses, then what it does."""
        builder = self.builder

        def emit() -> GraphExpr:
            self._bind_fields(arm, cursor)
            inner = body(arm.body)
            for binding in inner.bindings:
                builder.keep(binding)
            return inner.result

        made: Branch = builder.branch(emit)
        return made

    def _bind_fields(self, arm: Arm, cursor: Cursor) -> None:
        store, builder = cursor.store, self.builder
        _tag, rows, children = store.tensors[:3]
        pools, below = store.pools, 0
        row: GraphExpr | None = None
        for place, field in enumerate(arm.fields):
            if isinstance(field.type, DataType):
                nodes = operator_call("gather", children, cursor.at)
                at = builder.emit(operator_call("gather", nodes, index_of(below)), name=field.name)
                self.values[field] = Cursor(store, at)
                below += 1
                continue
            if row is None:
                row = builder.emit(operator_call("gather", rows, cursor.at), name="row")
            found = operator_call("gather", pools[arm.constructor, place], row)
            self.values[field] = builder.emit(found, name=field.name)
