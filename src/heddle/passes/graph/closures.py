# SPDX-License-Identifier: Apache-2.0
"""Make functions that take functions into ones that call them by name.

    def scale(x, w): return x * w              def scale(x, w): return x * w
    def twice(f, x): return f(f(x))     ->     def twice_scale(w, x): return scale(scale(x, w), w)
    def main(x, w):                            def main(x, w):
        f = closure(scale, (w,))                   y = twice_scale(w, x)
        y = twice(f, x)

Every call with other functions, or of other shapes, gets a function of its own; what a closure has
captured takes the place of its parameter. Nothing is left of closures at run time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from heddle.graph.dims import match_symbols, same_dim
from heddle.graph.nodes import (
    Binding,
    Branch,
    Call,
    Closure,
    Function,
    GraphExpr,
    If,
    Loop,
    Match,
    Var,
)
from heddle.ir import FunctionType, GlobalVar, IRModule, TensorType, Type, structural_equal
from heddle.ir.expr import Expr
from heddle.ir.module import BaseFunc
from heddle.ir.types import TupleType
from heddle.passes.graph.anf import is_primitive
from heddle.passes.graph.inline import instantiate
from heddle.support import UserError


@dataclass(frozen=True, slots=True)
class _Known:
    """A function value: its function, and what that is given after its own arguments."""

    function: str
    captured: tuple[_Argument, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """The functions in it: two with equal keys need the same code."""
        inner = (item.key if isinstance(item, _Known) else None for item in self.captured)
        return (self.function, *inner)

    def atoms(self) -> tuple[GraphExpr, ...]:
        """The tensors and numbers in it."""
        return tuple(
            atom
            for item in self.captured
            for atom in (item.atoms() if isinstance(item, _Known) else (item,))
        )

    def renamed(self, names: dict[GraphExpr, Var]) -> _Known:
        """The same where what it captures has other names."""
        items = (
            item.renamed(names) if isinstance(item, _Known) else names[item]
            for item in self.captured
        )
        return _Known(self.function, tuple(items))


_Argument: TypeAlias = "GraphExpr | _Known"


def specialise_closures(module: IRModule) -> IRModule:
    """The module without function values; the same one where there are none.

    Raises `UserError` where a function value is not known when compiling: as a result, in a tuple,
    chosen by a condition, or as a parameter of `main`.
    """
    functions = {
        name: function
        for name, function in module.functions.items()
        if isinstance(function, Function) and not is_primitive(function)
    }
    if not any(map(_has_closures, functions.values())):
        return module
    specialiser = _Specialiser(module)
    for name, function in functions.items():
        if not _takes_functions(function):
            specialiser.functions[name] = _Body(specialiser, name, {}).function(function)
    if "main" in functions and _takes_functions(functions["main"]):
        raise UserError(
            "`main` takes a function: what comes from outside of a compiled model is tensors",
            span=functions["main"].span,
        )
    gone = {name: None for name, function in functions.items() if _takes_functions(function)}
    return module.with_functions({**gone, **specialiser.functions})


def _takes_functions(function: Function) -> bool:
    return any(isinstance(param.type, FunctionType) for param in function.params)


def _has_closures(function: Function) -> bool:
    if _takes_functions(function):
        return True
    stack: list[Binding] = list(function.bindings)
    while stack:
        value = stack.pop().value
        if isinstance(value, Closure):
            return True
        for branch in _branches(value):
            stack.extend(branch.bindings)
    return False


def _branches(value: GraphExpr) -> Sequence[Branch]:
    if isinstance(value, If):
        return (value.then, value.otherwise)
    return [arm.body for arm in value.arms] if isinstance(value, Match) else ()


class _Specialiser:
    """The functions of the new module."""

    def __init__(self, module: IRModule) -> None:
        self.module = module
        self.functions: dict[str, BaseFunc | None] = {}
        self.made: list[tuple[str, tuple[Any, ...], tuple[Type, ...], str]] = []

    def named(self, name: str, args: Sequence[_Argument], types: Sequence[Type]) -> str:
        """The function `name` for these arguments of these types, made when it is not there yet.
        Its parameters are those arguments, function values replaced by what they capture."""
        key = tuple(arg.key if isinstance(arg, _Known) else None for arg in args)
        plain = tuple(t for t in types if not isinstance(t, FunctionType))
        plain += tuple(a.type for arg in args if isinstance(arg, _Known) for a in arg.atoms())
        for known_name, known_key, known_types, found in self.made:
            if known_name == name and known_key == key and _equal(known_types, plain):
                return found
        parts = [item[0] for item in key if item is not None]
        made = self._fresh("_".join([name, *parts]))
        self.made.append((name, key, plain, made))
        self.functions[made] = self._specialised(name, made, args, types)
        return made

    def _specialised(
        self, name: str, made: str, args: Sequence[_Argument], types: Sequence[Type]
    ) -> Function:
        function = self.module[name]
        assert isinstance(function, Function)
        symbols = match_symbols(
            [_shape(param.type) for param in function.params], [_shape(t) for t in types]
        )
        changes: dict[Any, Expr] = {
            symbol: dim for symbol, dim in symbols.items() if not same_dim(symbol, dim)
        }
        copy = instantiate(function, self.module, changes)
        known: dict[Var, _Known] = {}
        params: list[Var] = []
        for param, arg in zip(copy.params, args, strict=True):
            if isinstance(arg, _Known):
                names: dict[GraphExpr, Var] = {}
                for place, atom in enumerate(arg.atoms()):
                    stem = atom.name if isinstance(atom, Var) else f"{param.name}_{place}"
                    names[atom] = Var(stem, atom.type)
                known[param] = arg.renamed(names)
                params.extend(names[atom] for atom in dict.fromkeys(arg.atoms()))
            else:
                params.append(param)
        attrs = {**copy.attrs, **({"name": made} if "name" in copy.attrs else {})}
        body: Function = copy.replace(params=tuple(params), attrs=attrs)
        return _Body(self, made, known).function(body)

    def _fresh(self, stem: str) -> str:
        name, count = stem, 0
        while name in self.module or name in self.functions:
            count += 1
            name = f"{stem}_{count}"
        self.functions[name] = None  # taken
        return name


class _Body:
    """Rewrites one function; `known` says what its function values are."""

    def __init__(self, specialiser: _Specialiser, name: str, known: dict[Var, _Known]) -> None:
        self.specialiser = specialiser
        self.name = name
        self.known = known

    def function(self, function: Function) -> Function:
        """The function without function values."""
        bindings = self._bindings(function.bindings)
        if any(var in self.known for var in _vars(function.result)):
            self._escapes("is returned", function.result)
        if len(bindings) == len(function.bindings) and all(
            new is old for new, old in zip(bindings, function.bindings, strict=True)
        ):
            return function
        made: Function = function.replace(bindings=bindings)
        return made

    def _escapes(self, how: str, at: GraphExpr) -> NoReturn:
        raise UserError(
            f"graph function `{self.name}`: a function value {how}; it can be called and handed to "
            "graph functions, so that it is known when compiling",
            span=at.span,
        )

    def _bindings(self, bindings: Sequence[Binding]) -> tuple[Binding, ...]:
        made = []
        for binding in bindings:
            value = binding.value
            if isinstance(value, Closure):
                captured = tuple(map(self._argument, value.captured))
                self.known[binding.var] = _Known(value.function.name, captured)
            elif isinstance(value, Var) and value in self.known:
                self.known[binding.var] = self.known[value]
            else:
                changed = self._value(value)
                made.append(binding if changed is value else binding.replace(value=changed))
        return tuple(made)

    def _argument(self, value: GraphExpr) -> _Argument:
        return self.known.get(value, value) if isinstance(value, Var) else value

    def _value(self, value: GraphExpr) -> GraphExpr:
        if isinstance(value, Call) and isinstance(value.callee, Var):
            held = self.known.get(value.callee)
            if held is None:
                self._escapes(f"`{value.callee.name}` is not known when it is called", value)
            args = [*map(self._argument, value.args), *held.captured]
            return self._call(held.function, args, value)
        if isinstance(value, Call) and isinstance(value.callee, GlobalVar):
            args = list(map(self._argument, value.args))
            if any(isinstance(arg, _Known) for arg in args):
                return self._call(value.callee.name, args, value)
            return value
        if isinstance(value, Loop):
            return self._loop(value)
        if isinstance(value, (If, Match)):
            return self._branching(value)
        if any(isinstance(v, Var) and v in self.known for v in value.children()):
            self._escapes(f"is part of a {type(value).__name__.lower()}", value)
        return value

    def _call(self, name: str, args: Sequence[_Argument], call: Call) -> Call:
        """A call of a graph function with arguments that may be functions."""
        atoms = _flat(args)
        if any(isinstance(arg, _Known) for arg in args):
            name = self.specialiser.named(
                name, args, [self._type(name, k, a) for k, a in _each(args)]
            )
        return Call(GlobalVar(name), atoms, {}, call.type, span=call.span)  # type: ignore[call-arg]

    def _type(self, name: str, place: int, arg: _Argument) -> Type:
        if isinstance(arg, GraphExpr):
            return arg.type
        function = self.specialiser.module[name]
        assert isinstance(function, Function)
        return function.params[place].type

    def _loop(self, value: Loop) -> Loop:
        captured = list(map(self._argument, value.captured))
        if any(isinstance(self._argument(item), _Known) for item in value.carried):
            self._escapes("is carried by a loop", value)
        if not any(isinstance(item, _Known) for item in captured):
            return value
        fields = value.type.fields if isinstance(value.type, TupleType) else ()
        args = [Var("i", fields[0]), *value.carried, *captured]
        if value.history:
            args += [Var("rows", item) for item in fields[1 + len(value.carried) :]]
        name = value.body.name
        types = [self._type(name, place, arg) for place, arg in _each(args)]
        body = self.specialiser.named(name, args, types)
        made: Loop = value.replace(body=GlobalVar(body), captured=_flat(captured))
        return made

    def _branching(self, value: If | Match) -> GraphExpr:
        if isinstance(value.type, FunctionType):
            self._escapes("is chosen by a condition", value)
        if isinstance(value, If):
            then, otherwise = self._branch(value.then), self._branch(value.otherwise)
            if then is value.then and otherwise is value.otherwise:
                return value
            made: GraphExpr = value.replace(then=then, otherwise=otherwise)
            return made
        arms = tuple(arm.replace(body=self._branch(arm.body)) for arm in value.arms)
        changed: GraphExpr = value.replace(arms=arms)
        return changed

    def _branch(self, branch: Branch) -> Branch:
        bindings = self._bindings(branch.bindings)
        same = len(bindings) == len(branch.bindings) and all(
            new is old for new, old in zip(bindings, branch.bindings, strict=True)
        )
        made: Branch = branch if same else branch.replace(bindings=bindings)
        return made


def _flat(args: Sequence[_Argument]) -> tuple[GraphExpr, ...]:
    """Arguments of the specialised function. What one closure captures twice is given once."""
    found: list[GraphExpr] = []
    for arg in args:
        found += dict.fromkeys(arg.atoms()) if isinstance(arg, _Known) else [arg]
    return tuple(found)


def _each(args: Sequence[_Argument]) -> list[tuple[int, _Argument]]:
    return list(enumerate(args))


def _vars(value: GraphExpr) -> list[Var]:
    return (
        [value] if isinstance(value, Var) else [v for v in value.children() if isinstance(v, Var)]
    )


def _shape(type_: Type) -> Sequence[Expr]:
    return type_.shape if isinstance(type_, TensorType) else ()


def _equal(left: Sequence[Type], right: Sequence[Type]) -> bool:
    return len(left) == len(right) and all(map(structural_equal, left, right))
