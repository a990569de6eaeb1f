# SPDX-License-Identifier: Apache-2.0
"""Replace calls of graph functions by their bodies.

    def double(a: (n,)):                     def main(x: (4,)):
        b = add(a, a)                 ->         b = add(x, x)
        return b                                 y = relu(b)
    def main(x: (4,)):                           return y
        t = double(x)
        y = relu(t)
        return y

Symbols of the callee become what the arguments' shapes say they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from heddle.graph.dims import match_symbols, simplify_dim
from heddle.graph.nodes import (
    Arm,
    Binding,
    Branch,
    Call,
    CallDPS,
    Closure,
    Constant,
    Function,
    GraphExpr,
    If,
    Loop,
    Match,
    Tuple,
    Var,
)
from heddle.ir import FunctionType, GlobalVar, IRModule, TensorType, TupleType, Type, substitute
from heddle.ir.expr import Expr
from heddle.passes.graph.anf import shape_of, tensor_type
from heddle.support import UserError


def inline(module: IRModule, name: str, *, keep: frozenset[str] = frozenset()) -> Function:
    """The graph function `name` with every call of another graph function in its place, those
    named in `keep` excepted. `UserError` when it is no graph function or calls itself."""
    function = module[name]
    if not isinstance(function, Function):
        raise UserError(f"`{name}` is no graph function")
    bindings: list[Binding] = []
    body = _Body(module, keep, (name,), {}, {})
    result = body.copy(function.bindings, function.result, bindings)
    same = len(bindings) == len(function.bindings) and all(
        new is old for new, old in zip(bindings, function.bindings, strict=True)
    )
    if same and result is function.result:
        return function
    flat: Function = function.replace(bindings=tuple(bindings), result=result)
    return flat


def copied(
    module: IRModule,
    function: Function,
    args: Sequence[GraphExpr],
    keep: frozenset[str] = frozenset(),
) -> tuple[list[Binding], GraphExpr]:
    """The bindings and the result of a function for its arguments, with variables of their own."""
    symbols = match_symbols(
        [shape_of(p) if tensor_type(p) else () for p in function.params],
        [shape_of(a) if tensor_type(a) else () for a in args],
    )
    values = dict(zip(function.params, args, strict=True))
    bindings: list[Binding] = []
    body = _Body(module, keep, ("", ""), values, symbols)
    result = body.copy(function.bindings, function.result, bindings)
    return bindings, result


def instantiate(function: Function, module: IRModule, symbols: Mapping[Any, Expr]) -> Function:
    """A copy of `function` whose symbolic dimensions are what `symbols` says. Calls stay."""
    body = _Body(module, frozenset(module.functions), ("", ""), {}, symbols)
    params = []
    for param in function.params:
        params.append(Var(param.name, body._type(param.type), span=param.span))  # type: ignore[call-arg]
        body.values[param] = params[-1]
    bindings: list[Binding] = []
    result = body.copy(function.bindings, function.result, bindings)
    made: Function = function.replace(params=tuple(params), bindings=tuple(bindings), result=result)
    return made


class _Body:
    """A function's body being copied: `values` says what its variables are in the copy, `symbols`
    what its symbolic dimensions are; `stack` names the functions that are being copied."""

    def __init__(
        self,
        module: IRModule,
        keep: frozenset[str],
        stack: tuple[str, ...],
        values: dict[Var, GraphExpr],
        symbols: Mapping[Any, Expr],
    ) -> None:
        self.module, self.keep, self.stack = module, keep, stack
        self.values, self.symbols = values, symbols

    def copy(
        self, bindings: tuple[Binding, ...], result: GraphExpr, into: list[Binding]
    ) -> GraphExpr:
        """Append the copied bindings to `into`; the copied result."""
        for binding in bindings:
            callee = self._inlined(binding.value)
            if callee is not None:
                self.values[binding.var] = self._call(callee, binding.value, into)
                continue
            value = self._value(binding.value)
            if value is binding.value and len(self.stack) == 1:
                into.append(binding)
                continue
            var = Var(binding.var.name, value.type, span=binding.var.span)  # type: ignore[call-arg]
            self.values[binding.var] = var
            into.append(Binding(value, var, span=binding.span))  # type: ignore[call-arg]
        return self._atom(result)

    def _inlined(self, value: GraphExpr) -> Function | None:
        if not isinstance(value, Call) or not isinstance(value.callee, GlobalVar):
            return None
        name = value.callee.name
        if name in self.keep:
            return None
        found = self.module[name]
        if not isinstance(found, Function):
            raise UserError(f"`{name}` is no graph function: use call_dps", span=value.span)
        if name in self.stack:
            chain = " -> ".join(f"`{step}`" for step in (*self.stack, name))
            raise UserError(f"a function that calls itself cannot be inlined: {chain}")
        return found

    def _call(self, callee: Function, call: Any, into: list[Binding]) -> GraphExpr:
        args = [self._atom(arg) for arg in call.args]
        symbols = match_symbols(
            [shape_of(p) if tensor_type(p) else () for p in callee.params],
            [shape_of(a) if tensor_type(a) else () for a in args],
        )
        values = dict(zip(callee.params, args, strict=True))
        stack = (*self.stack, call.callee.name)
        inner = _Body(self.module, self.keep, stack, values, symbols)
        return inner.copy(callee.bindings, callee.result, into)

    def _atom(self, value: Any) -> Any:
        if isinstance(value, Var):
            return self.values.get(value, value)
        return value.map(self._atom) if isinstance(value, GraphExpr) else value

    def _value(self, value: GraphExpr) -> GraphExpr:
        if isinstance(value, If):
            then, otherwise = self._branch(value.then), self._branch(value.otherwise)
            return If(
                self._atom(value.condition),
                then,
                otherwise,
                self._type(value.type),
                span=value.span,
            )  # type: ignore[call-arg]
        if isinstance(value, Match):
            arms = tuple(map(self._arm, value.arms))
            subject = self._atom(value.value)
            return Match(subject, arms, self._type(value.type), span=value.span)  # type: ignore[call-arg]
        copied: GraphExpr = value.map(self._atom)
        if isinstance(copied, Call) and isinstance(copied.callee, Var):
            copied = copied.replace(callee=self._atom(copied.callee))
        if not self.symbols or isinstance(copied, (Var, Constant, Tuple)):
            return copied
        if isinstance(copied, Call) and not isinstance(copied.callee, (GlobalVar, Var)):
            attrs = {key: self._attribute(item) for key, item in copied.attrs.items()}
            again: Call = copied.callee(*copied.args, span=copied.span, **attrs)
            return again
        if isinstance(copied, (Call, CallDPS, Closure)):
            typed: GraphExpr = copied.replace(type=self._type(copied.type))
            return typed
        if isinstance(copied, Loop):
            bound = simplify_dim(substitute(copied.bound, self.symbols))
            loop: Loop = copied.replace(type=self._type(copied.type), bound=bound)
            return loop
        return copied

    def _arm(self, arm: Arm) -> Arm:
        fields = tuple(Var(v.name, self._type(v.type), span=v.span) for v in arm.fields)  # type: ignore[call-arg]
        self.values.update(zip(arm.fields, fields, strict=True))
        return Arm(arm.constructor, fields, self._branch(arm.body), span=arm.span)  # type: ignore[call-arg]

    def _branch(self, branch: Branch) -> Branch:
        bindings: list[Binding] = []
        result = self.copy(branch.bindings, branch.result, bindings)
        return Branch(tuple(bindings), result, span=branch.span)  # type: ignore[call-arg]

    def _attribute(self, value: object) -> object:
        if isinstance(value, tuple):
            return tuple(self._attribute(item) for item in value)
        return simplify_dim(substitute(value, self.symbols)) if isinstance(value, Expr) else value

    def _type(self, type_: Type) -> Type:
        if isinstance(type_, TupleType):
            return TupleType(tuple(self._type(field) for field in type_.fields))
        if isinstance(type_, TensorType):
            dims = (simplify_dim(substitute(dim, self.symbols)) for dim in type_.shape)
            return TensorType(tuple(dims), type_.dtype)
        if isinstance(type_, FunctionType):
            return FunctionType(tuple(map(self._type, type_.params)), self._type(type_.result))
        return type_
