# SPDX-License-Identifier: Apache-2.0
"""`GraphBuilder`: graph functions in A-normal form, one value after another.

b = GraphBuilder("main")
x = b.param("x", TensorType.of((1, 64), "float32"))
y = b.emit(op.relu(op.add(x, 1.0)), name="y")    # nested calls get bindings of their own
func = b.finish(y)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from heddle.graph.data import data_type
from heddle.graph.nodes import (
    Arm,
    Binding,
    Branch,
    Call,
    CallDPS,
    Closure,
    Constant,
    Construct,
    Function,
    GraphExpr,
    If,
    Loop,
    Match,
    Scalar,
    Tuple,
    TupleGetItem,
    Var,
)
from heddle.ir import (
    INT64,
    DataType,
    FunctionType,
    GlobalVar,
    TensorType,
    TupleType,
    Type,
    structural_equal,
)
from heddle.ir.expr import Expr, as_expr
from heddle.runtime.data import Adt
from heddle.support import InternalError, UserError


def as_constant(value: GraphExpr | int) -> GraphExpr:
    """A number as an int64 scalar of the graph."""
    return Constant(np.asarray(value, np.int64)) if isinstance(value, int) else value


def is_atom(value: GraphExpr) -> bool:
    """Whether a value may stand as an argument: a variable, a constant or a number."""
    return isinstance(value, (Var, Constant, Scalar))


class GraphBuilder:
    """Collects the parameters and bindings of one graph function, in order.

    Names are made unique by a suffix; they are for people, variables are objects.
    """

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.params: list[Var] = []
        self._scopes: list[list[Binding]] = [[]]
        self._used_names: dict[str, int] = {}

    @staticmethod
    def continuing(function: Function) -> GraphBuilder:
        """A builder that has the parameters and bindings of `function` already."""
        builder = GraphBuilder(str(function.attrs.get("name", "main")))
        builder.params.extend(function.params)
        builder._scopes[-1].extend(function.bindings)
        for var in (*function.params, *(binding.var for binding in function.bindings)):
            builder.fresh_name(var.name)
        return builder

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """What has been emitted so far into the current branch."""
        return tuple(self._scopes[-1])

    def fresh_name(self, stem: str) -> str:
        """`stem`, or `stem_1`, `stem_2`, ...: the first that no value of the function has."""
        count = self._used_names.get(stem)
        if count is None:
            self._used_names[stem] = 0
            return stem
        while True:
            count += 1
            name = f"{stem}_{count}"
            if name not in self._used_names:
                self._used_names[stem] = count
                self._used_names[name] = 0
                return name

    def param(self, name: str, type_: Type | Adt) -> Var:
        """A new parameter: of a type, or a value of a declared data type."""
        kind = data_type(type_) if isinstance(type_, Adt) else type_
        var = Var(self.fresh_name(name), kind)
        self.params.append(var)
        return var

    def emit(self, value: GraphExpr, *, name: str | None = None) -> Var:
        """Bind `value`, and before it whatever is nested in it, and return its variable.

        A variable is returned as it is. `name` is a hint; by default the operator's name.
        """
        if isinstance(value, Var):
            return value
        flat = value.map(self.atom)
        var = Var(self.fresh_name(name or _stem(flat)), flat.type, span=value.span)  # type: ignore[call-arg]
        self._scopes[-1].append(Binding(flat, var, span=value.span))  # type: ignore[call-arg]
        return var

    def rebind(self, var: Var, make: Callable[[], GraphExpr]) -> None:
        """Give a variable of this branch another value, of the same type: what `make` returns.
        What it emits comes right before."""
        scope = self._scopes[-1]
        place = next(at for at, binding in enumerate(scope) if binding.var is var)
        old, later = scope[place], scope[place + 1 :]
        del scope[place:]
        value = make().map(self.atom)
        scope += [old.replace(value=value), *later]

    def keep(self, binding: Binding) -> None:
        """Append a binding as it is."""
        self._scopes[-1].append(binding)

    def extend(self, bindings: Iterable[Binding]) -> None:
        """Append bindings as they are; what is made later has other names."""
        for binding in bindings:
            self.fresh_name(binding.var.name)
            self.keep(binding)

    def atom(self, value: GraphExpr) -> GraphExpr:
        """`value` as a variable or a constant, bound when it is neither."""
        return value if not isinstance(value, GraphExpr) or is_atom(value) else self.emit(value)

    def call(
        self,
        function: str,
        args: Sequence[GraphExpr],
        type_: Type,
        *,
        name: str | None = None,
    ) -> Var:
        """Bind the call of the graph function that the module has under a name, this one perhaps.
        `type_` is the type of its result."""
        atoms = tuple(map(self.atom, args))
        return self.emit(Call(GlobalVar(function), atoms, {}, type_), name=name)

    def emit_if(
        self,
        condition: GraphExpr,
        then: Callable[[], GraphExpr],
        otherwise: Callable[[], GraphExpr],
        *,
        name: str = "if",
    ) -> Var:
        """Bind a conditional; each callable emits into its own branch and returns the result.

        Raises `UserError` when the condition is no scalar bool or the branches' types differ.
        """
        where = self.atom(condition)
        type_ = where.type
        if not (isinstance(type_, TensorType) and type_.ndim == 0 and type_.dtype.is_bool):
            raise UserError("the condition of `if` must be a scalar bool", span=where.span)
        first, second = self.branch(then), self.branch(otherwise)
        if not structural_equal(first.result.type, second.result.type):
            raise UserError("the branches of `if` give different types", span=where.span)
        value = If(where, first, second, first.result.type)
        var = Var(self.fresh_name(name), value.type)
        self._scopes[-1].append(Binding(value, var))
        return var

    def make(self, type_: DataType | Adt, constructor: str, *fields: GraphExpr) -> Var:
        """Bind a new value of a data type.

        Raises `UserError` for a constructor that the type has not and fields that do not fit.
        """
        kind = data_type(type_) if isinstance(type_, Adt) else type_
        found = kind.constructor(constructor)
        if found is None:
            known = ", ".join(item.name for item in kind.constructors)
            raise UserError(f"{kind.name} has no {constructor}; it has {known}")
        types = kind.field_types(found)
        if len(types) != len(fields):
            name = f"{kind.name}.{constructor}"
            raise UserError(f"{name} has {len(types)} fields, got {len(fields)}")
        return self.emit(Construct(constructor, tuple(map(self.atom, fields)), kind))

    def emit_match(
        self,
        value: GraphExpr,
        arms: Mapping[str, Callable[..., GraphExpr]],
        *,
        name: str = "match",
    ) -> Var:
        """Bind a `Match`. The arms are callables by the name of the constructor ("_" for those that
        are left): each is given the fields, emits into its own branch and returns the result.

        Raises `UserError` for a value of no data type, arms that do not cover it or that give
        different types.
        """
        where = self.atom(value)
        type_ = where.type
        if not isinstance(type_, DataType):
            raise UserError("`match` takes the value of a data type apart", span=where.span)
        made = [self._arm(type_, constructor, body) for constructor, body in arms.items()]
        covered = {arm.constructor for arm in made}
        missing = [item.name for item in type_.constructors if item.name not in covered]
        if missing and "_" not in covered:
            raise UserError(f"`match` on {type_.name} has no arm for {', '.join(missing)}")
        results = [arm.body.result.type for arm in made]
        for arm, found in zip(made, results, strict=True):
            if not structural_equal(found, results[0]):
                raise UserError(
                    f"the arms {made[0].constructor} and {arm.constructor} of `match` give "
                    "different types"
                )
        whole = Match(where, tuple(made), results[0])
        var = Var(self.fresh_name(name), whole.type)
        self._scopes[-1].append(Binding(whole, var))
        return var

    def _arm(self, type_: DataType, name: str, body: Callable[..., GraphExpr]) -> Arm:
        constructor = type_.constructor(name)
        if constructor is None and name != "_":
            known = ", ".join(item.name for item in type_.constructors)
            raise UserError(f"{type_.name} has no {name}; it has {known}")
        types = () if constructor is None else type_.field_types(constructor)
        names = inspect.signature(body).parameters
        if len(names) != len(types):
            raise UserError(f"{name} has {len(types)} fields, its arm takes {len(names)}")
        fields = tuple(Var(self.fresh_name(n), kind) for n, kind in zip(names, types, strict=True))
        return Arm(name, fields, self.branch(lambda: body(*fields)))

    def emit_loop(
        self,
        body: str,
        function: Function,
        *,
        carried: Sequence[GraphExpr] = (),
        captured: Sequence[GraphExpr] = (),
        limit: GraphExpr | int | None = None,
        condition: GraphExpr | None = None,
        bound: Expr | int | None = None,
        name: str = "loop",
    ) -> tuple[Var, tuple[Var, ...], tuple[Var, ...]]:
        """Bind a `Loop`: the number of iterations, the carried values, and the stacked ones.

        body: the name that `function`, a function of the iteration (an int64 scalar), the carried
        and the captured values, will have in the module. limit: the number of iterations, at most.
        condition: a scalar bool, whether to begin; the body's first result says whether to go on
        (and counts only when a condition is given). bound: rows of the stacked values; `limit` by
        default, when that is a number.

        Raises `UserError` when nothing bounds the stacked values.
        """
        number = limit if isinstance(limit, int) else None
        stop = None if limit is None else as_constant(limit)
        rows = number if bound is None else bound
        result = function.result.type
        fields = result.fields if isinstance(result, TupleType) else (result,)
        stacked = [item for item in fields[1 + len(carried) :] if isinstance(item, TensorType)]
        if stacked and rows is None:
            raise UserError(f"the loop over `{body}` stacks values: give `bound`, a number of rows")
        size = as_expr(0 if rows is None else rows)
        state = tuple(map(self.atom, carried))
        types = [
            TensorType((), INT64),
            *(item.type for item in state),
            *(TensorType((size, *item.shape), item.dtype) for item in stacked),
        ]
        value = Loop(
            GlobalVar(body),
            None if stop is None else self.atom(stop),
            None if condition is None else self.atom(condition),
            state,
            tuple(map(self.atom, captured)),
            size,
            TupleType(tuple(types)),
        )
        whole = self.emit(value, name=name)
        items = [
            self.emit(TupleGetItem(whole, at), name=f"{name}_{at}") for at in range(len(types))
        ]
        return items[0], tuple(items[1 : 1 + len(state)]), tuple(items[1 + len(state) :])

    def emit_lambda(
        self,
        function: str,
        types: Sequence[Type],
        body: Callable[..., GraphExpr],
    ) -> tuple[Var, Function]:
        """Bind a function as a value: `lambda x: x * w`, where `w` is a variable of this function.

        function: the name that the second result, the lambda with what it captures as its last
        parameters, will have in the module. types: of the parameters. body: gives an expression.

        f, scale = b.emit_lambda("scale", [row], lambda x: x * w)
        """
        names = inspect.signature(body).parameters
        if len(names) != len(types):
            raise UserError(
                f"the lambda takes {len(names)} arguments, {len(types)} types are given"
            )
        inner = GraphBuilder(function)
        params = [inner.param(name, type_) for name, type_ in zip(names, types, strict=True)]
        result = inner._result(body(*params))
        own = {*params, *(binding.var for binding in inner.bindings)}
        captured: dict[Var, Var] = {}

        def inside(item: Any) -> Any:
            if isinstance(item, Call) and isinstance(item.callee, Var):
                item = item.replace(callee=inside(item.callee))
            if not isinstance(item, Var):
                return item.map(inside)
            if item in own:
                return item
            if item not in captured:
                captured[item] = inner.param(item.name, item.type)
            return captured[item]

        bindings = tuple(b.replace(value=inside(b.value)) for b in inner.bindings)
        final = inside(result)  # `inner` has the parameters for all that is captured now
        made = Function(tuple(inner.params), bindings, final, {"name": function})
        kind = FunctionType(tuple(types), result.type)
        closure = Closure(GlobalVar(function), tuple(captured), kind)
        return self.emit(closure, name=function), made

    def branch(self, body: Callable[[], GraphExpr], *, after: Iterable[Binding] = ()) -> Branch:
        """What `body` emits, as a branch: behind the bindings `after`, which it may use."""
        self._scopes.append(list(after))
        try:
            result = self._result(body())
        finally:
            bindings = self._scopes.pop()
        return Branch(tuple(bindings), result)

    def _result(self, value: GraphExpr) -> GraphExpr:
        return value.map(self.atom) if isinstance(value, Tuple) else self.atom(value)

    def finish(self, result: GraphExpr, *, attrs: Mapping[str, object] | None = None) -> Function:
        """The function that returns `result` (a value or a `Tuple` of values). Its attribute
        "name" is the builder's name."""
        if len(self._scopes) != 1:
            raise InternalError("finish inside a branch")
        final = self._result(result)
        return Function(
            tuple(self.params),
            tuple(self._scopes[0]),
            final,
            {"name": self.name, **(attrs or {})},
        )


def _stem(value: GraphExpr) -> str:
    if isinstance(value, (Call, CallDPS)):
        return str(value.callee.name)
    if isinstance(value, TupleGetItem):
        stem = value.value.name if isinstance(value.value, Var) else "item"
        return f"{stem}_{value.index}"
    return type(value).__name__.lower()
