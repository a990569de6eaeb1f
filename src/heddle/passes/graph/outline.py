# SPDX-License-Identifier: Apache-2.0
"""Make the branches of every `If` functions of their own.

    if c:                                  def main_then(x): ...
        a = relu(x)                        def main_else(x): ...
        y = add(a, x)          ->          if c:
    else:                                      y = main_then(x)
        y = neg(x)                         else:
                                               y = main_else(x)

Every pass and the code generator then deal with straight functions and calls of them. What a branch
uses of the function around it becomes its parameters, and the symbolic dimensions its attribute
"symbols"; constants stay with the branch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from heddle.graph.nodes import (
    BindDim,
    Binding,
    Branch,
    Call,
    Function,
    GraphExpr,
    If,
    Loop,
    Tuple,
    TupleGetItem,
    Var,
)
from heddle.ir.expr import Expr
from heddle.ir.expr import Var as Symbol
from heddle.ir.module import BaseFunc, GlobalVar, IRModule
from heddle.ir.types import TensorType, TupleType, Type
from heddle.ir.walk import free_vars
from heddle.passes.graph.anf import atoms_of, is_primitive


def outline(module: IRModule) -> IRModule:
    """The module with branches that are more than a call in functions of their own."""
    outliner = _Outliner(module)
    for name, function in module.functions.items():
        if isinstance(function, Function) and not is_primitive(function):
            outliner.functions[name] = outliner.rewrite(name, function)
    return module.with_functions(outliner.functions)


def called_function(branch: Branch) -> Call | None:
    """The call of a graph function that is all of a branch, or None."""
    if len(branch.bindings) != 1 or branch.result is not branch.bindings[0].var:
        return None
    value = branch.bindings[0].value
    return value if isinstance(value, Call) and isinstance(value.callee, GlobalVar) else None


def with_fields(function: Function) -> Function:
    """A function whose result, where that is a tuple, is written field by field."""
    whole = function.result
    if not isinstance(whole, Var) or not isinstance(whole.type, TupleType):
        return function
    fields = [Var(f"{whole.name}_{k}", type_) for k, type_ in enumerate(whole.type.fields)]
    items = [Binding(TupleGetItem(whole, k), field) for k, field in enumerate(fields)]
    made: Function = function.replace(
        bindings=(*function.bindings, *items), result=Tuple(tuple(fields))
    )
    return made


class _Outliner:
    def __init__(self, module: IRModule) -> None:
        self.functions: dict[str, BaseFunc] = {}
        self.taken = set(module.functions)

    def rewrite(self, name: str, function: Function) -> Function:
        bindings = tuple(self._binding(name, binding) for binding in function.bindings)
        if all(new is old for new, old in zip(bindings, function.bindings, strict=True)):
            return with_fields(function)
        changed: Function = function.replace(bindings=bindings)
        return with_fields(changed)

    def _binding(self, name: str, binding: Binding) -> Binding:
        value = binding.value
        if not isinstance(value, If):
            return binding
        then = self._branch(f"{name}_then", value.then, value.type)
        otherwise = self._branch(f"{name}_else", value.otherwise, value.type)
        if then is value.then and otherwise is value.otherwise:
            return binding
        made: Binding = binding.replace(value=value.replace(then=then, otherwise=otherwise))
        return made

    def _branch(self, stem: str, branch: Branch, type_: Type) -> Branch:
        if called_function(branch) is not None:
            return branch
        captured = list(captured_by(branch.bindings, branch.result))
        params = {var: Var(var.name, var.type, span=var.span) for var in captured}  # type: ignore[call-arg]

        def inside(item: Any) -> Any:
            return params.get(item, item) if isinstance(item, Var) else item.map(inside)

        name = self._fresh(stem)
        bindings = tuple(item.replace(value=inside(item.value)) for item in branch.bindings)
        attrs = {"symbols": tuple(symbols_of(branch.bindings, captured))}
        made = Function(tuple(params.values()), bindings, inside(branch.result), attrs)
        self.functions[name] = self.rewrite(name, made)
        call = Call(GlobalVar(name), tuple(captured), {}, type_, span=branch.span)  # type: ignore[call-arg]
        result = Var(name, type_, span=branch.span)  # type: ignore[call-arg]
        return Branch((Binding(call, result),), result, span=branch.span)  # type: ignore[call-arg]

    def _fresh(self, stem: str) -> str:
        name, count = stem, 0
        while name in self.taken:
            count += 1
            name = f"{stem}_{count}"
        self.taken.add(name)
        return name


def captured_by(bindings: Iterable[Binding], result: GraphExpr) -> dict[Var, None]:
    """The variables that bindings and a result use and do not define, in order of first use."""
    defined: set[Var] = set()
    used: dict[Var, None] = {}
    for binding in bindings:
        used.update((atom, None) for atom in _uses(binding.value) if atom not in defined)
        defined.add(binding.var)
    used.update((atom, None) for atom in _uses(result) if atom not in defined)
    return used


def _uses(value: GraphExpr) -> Iterator[Var]:
    if isinstance(value, If):
        yield from _uses(value.condition)
        for branch in (value.then, value.otherwise):
            yield from captured_by(branch.bindings, branch.result)
    elif isinstance(value, Tuple):
        for item in value.fields:
            yield from _uses(item)
    else:
        yield from (atom for atom in atoms_of(value) if isinstance(atom, Var))


def closed(function: Function, captured: Sequence[Var]) -> Function:
    """A function with what it captures as parameters, behind its own: what a loop calls."""
    params = {var: Var(var.name, var.type, span=var.span) for var in captured}  # type: ignore[call-arg]

    def inside(item: Any) -> Any:
        return params.get(item, item) if isinstance(item, Var) else item.map(inside)

    bindings = tuple(item.replace(value=inside(item.value)) for item in function.bindings)
    everything = (*function.params, *params.values())
    attrs = {**function.attrs, "symbols": tuple(symbols_of(function.bindings, everything))}
    return Function(everything, bindings, inside(function.result), attrs)


def symbols_of(bindings: Iterable[Binding], params: Iterable[Var]) -> dict[Symbol, None]:
    """The symbolic dimensions that a body mentions and does not bind itself."""
    found: dict[Symbol, None] = {}
    bound: set[object] = set()

    def note(item: object) -> None:
        if isinstance(item, Expr):
            found.update((var, None) for var in free_vars(item) if isinstance(var, Symbol))
        elif isinstance(item, (tuple, list)):
            for part in item:
                note(part)
        elif isinstance(item, Mapping):
            note(tuple(item.values()))
        elif isinstance(item, TensorType):
            note(item.shape)
        elif isinstance(item, TupleType):
            note(item.fields)

    def visit(body: Iterable[Binding]) -> None:
        for binding in body:
            value = binding.value
            note(binding.var.type)
            note(getattr(value, "attrs", ()))
            if isinstance(value, (Loop, BindDim)):
                note(value.bound)
            if isinstance(value, BindDim):
                bound.add(value.symbol)
            if isinstance(value, If):
                visit(value.then.bindings)
                visit(value.otherwise.bindings)

    for param in params:
        note(param.type)
    visit(bindings)
    return {symbol: None for symbol in found if symbol not in bound}
