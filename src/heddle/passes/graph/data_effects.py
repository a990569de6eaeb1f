# SPDX-License-Identifier: Apache-2.0
"""Which data types functions handle and make, and how many nodes they can make.

def twice(xs):                          twice handles List and makes it; it is a fold:
    match xs:                           every call of itself is on a child of `xs`, with
        case Nil(): r = xs              all else as it was. It makes at most a node for
        case Cons(x, rest):             each node that there is.
            more = twice(rest)
            r = Cons(x * 2, more)
    return r
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from heddle.graph.data import declaration
from heddle.graph.dims import simplify_dim
from heddle.graph.nodes import (
    Binding,
    Call,
    Construct,
    Function,
    GraphExpr,
    Loop,
    Match,
    Var,
    branches_of,
)
from heddle.ir import DataType, IRModule, TupleType, Type
from heddle.ir.expr import Expr, as_int, maximum
from heddle.ir.module import GlobalVar
from heddle.passes.graph.anf import is_primitive
from heddle.passes.graph.recursion import called_by, recursive_groups
from heddle.runtime.data import Adt
from heddle.support import UserError


def values_of(bindings: Iterable[Binding]) -> Iterator[GraphExpr]:
    """The values of bindings, those of branches included."""
    for binding in bindings:
        yield binding.value
        for branch in branches_of(binding.value):
            yield from values_of(branch.bindings)


def data_types(type_: Type) -> Iterator[Adt]:
    """The data types in a type."""
    if isinstance(type_, DataType):
        yield declaration(type_)
    for field in type_.fields if isinstance(type_, TupleType) else ():
        yield from data_types(field)


class Effects:
    """What each graph function of a module does with values of data types.

    handled: the types that it has values of, those of the functions that it calls included. made:
    the types of which it makes values, likewise.
    """

    def __init__(self, module: IRModule) -> None:
        self.module = module
        self.functions = {
            name: function
            for name, function in module.functions.items()
            if isinstance(function, Function) and not is_primitive(function)
        }
        self.groups = recursive_groups(module)
        self.handled: dict[str, list[Adt]] = {name: [] for name in self.functions}
        self.made: dict[str, list[Adt]] = {name: [] for name in self.functions}
        while sum(self._visit(name) for name in self.functions):
            pass

    def _visit(self, name: str) -> bool:
        function = self.functions[name]
        handled, made = self.handled[name], self.made[name]
        before = len(handled) + len(made)
        found = [adt for param in function.params for adt in data_types(param.type)]
        found += data_types(function.result.type)
        for value in values_of(function.bindings):
            found += data_types(value.type)
        for callee in called_by(function):
            found += self.handled.get(callee, ())
        handled += [adt for place, adt in enumerate(found) if adt not in (*handled, *found[:place])]
        new = self.made_in(function.bindings)
        made += [adt for adt in new if adt not in made]
        return len(handled) + len(made) != before

    def made_in(self, bindings: Iterable[Binding]) -> list[Adt]:
        """The types of which bindings make values."""
        found: dict[Adt, None] = {}
        for value in values_of(bindings):
            if isinstance(value, Construct):
                found.update(dict.fromkeys(data_types(value.type)))
            elif isinstance(value, Call) and isinstance(value.callee, GlobalVar):
                found.update(dict.fromkeys(self.made.get(value.callee.name, ())))
        return list(found)

    # -- recursion ---------------------------------------------------------------------------

    def fold_over(self, name: str) -> int | None:
        """The parameter whose nodes a function goes over, if it calls itself on children of that
        only, with all else as it was, and is called by functions that run once: the loop that it
        becomes computes all nodes."""
        group = self.groups.get(name)
        if group is None or group.members != (name,):
            return None
        for other, caller in self.functions.items():
            calls = other != name and name in called_by(caller)
            if calls and (other in self.groups or self._is_loop_body(other)):
                return None
        function = self.functions[name]
        for place, param in enumerate(function.params):
            if isinstance(param.type, DataType) and self._goes_down(name, place, fold=True):
                return place
        return None

    def _is_loop_body(self, name: str) -> bool:
        return any(
            isinstance(value, Loop) and value.body.name == name
            for function in self.functions.values()
            for value in values_of(function.bindings)
        )

    def _goes_down(self, name: str, place: int, *, fold: bool) -> bool:
        """Whether all calls of itself are on children of parameter `place`; as a fold makes them,
        with all other arguments as they were."""
        function = self.functions[name]
        children = {
            field
            for value in values_of(function.bindings)
            if isinstance(value, Match) and value.value is function.params[place]
            for arm in value.arms
            for field in arm.fields
        }
        for value in values_of(function.bindings):
            if isinstance(value, Loop) and value.body.name == name:
                return False
            if not calls(value, name):
                continue
            for at, (arg, param) in enumerate(zip(value.args, function.params, strict=True)):  # type: ignore[attr-defined]
                if at == place and arg not in children:
                    return False
                if at != place and fold and arg is not param:
                    return False
        return True

    def walked(self, name: str) -> int | None:
        """The parameter that a recursive function walks down, if it calls itself at most once in
        each of its arms: so it runs at most once for each node."""
        group, function = self.groups.get(name), self.functions[name]
        if group is None or group.members != (name,) or _most_calls(function.bindings, name) > 1:
            return None
        for place, param in enumerate(function.params):
            if isinstance(param.type, DataType) and self._goes_down(name, place, fold=False):
                return place
        return None


def calls(value: GraphExpr, name: str) -> bool:
    """Whether a value is a call of a graph function."""
    callee = value.callee if isinstance(value, Call) else None
    return isinstance(callee, GlobalVar) and callee.name == name


def _most_calls(bindings: Sequence[Binding], name: str) -> int:
    """The most calls of a function on one way through bindings."""
    most = 0
    for binding in bindings:
        most += calls(binding.value, name)
        inner = [_most_calls(branch.bindings, name) for branch in branches_of(binding.value)]
        most += max(inner, default=0)
    return most


class Room:
    """How many nodes of each type there are at most, while `main` runs."""

    def __init__(self, effects: Effects) -> None:
        self.effects = effects

    def after(self, name: str, sizes: Mapping[Adt, Expr]) -> dict[Adt, Expr]:
        """The nodes after a call of a function, given those before. Raises `UserError` where
        nothing bounds them."""
        effects, function = self.effects, self.effects.functions[name]
        if name not in effects.groups or not effects.made[name]:
            return self._through(name, function.bindings, dict(sizes))
        place = effects.fold_over(name)
        place = effects.walked(name) if place is None else place
        if place is None:
            raise self._unbounded(name)
        (walked,) = data_types(function.params[place].type)
        inside = self._through(name, function.bindings, dict(sizes))
        found = dict(sizes)
        for adt, size in inside.items():
            each = as_int(simplify_dim(size - sizes[adt]))
            if each is None:
                raise self._unbounded(name)
            found[adt] = sizes[adt] + (sizes[walked] + 1) * each
        return found

    def _through(
        self, name: str, bindings: Iterable[Binding], sizes: dict[Adt, Expr]
    ) -> dict[Adt, Expr]:
        for binding in bindings:
            value = binding.value
            if isinstance(value, Construct):
                (adt,) = data_types(value.type)
                sizes[adt] = sizes[adt] + 1
            elif isinstance(value, Loop) and self.effects.made.get(value.body.name):
                raise self._unbounded(name)
            elif isinstance(value, Call) and isinstance(value.callee, GlobalVar):
                callee = value.callee.name
                if callee != name and self.effects.made.get(callee):
                    sizes = self.after(callee, sizes)
            inner = [self._through(name, b.bindings, dict(sizes)) for b in branches_of(value)]
            for adt in sizes if inner else ():
                sizes[adt] = _largest([found[adt] for found in inner])
        return sizes

    def _unbounded(self, name: str) -> UserError:
        return UserError(
            f"graph function `{name}`: nothing says how many values it makes at most; give `main` "
            'the attribute "room", the number of values of each data type that it may make',
            span=self.effects.functions[name].span,
        )


def _largest(sizes: Sequence[Expr]) -> Expr:
    result = sizes[0]
    for size in sizes[1:]:
        result = maximum(result, size)
    return result


def is_data(value: Var) -> bool:
    """Whether a variable holds a value of a data type."""
    return isinstance(value.type, DataType)
