# SPDX-License-Identifier: Apache-2.0
"""Turn functions that call themselves last of all into loops.

    def power(n, x, acc):                       def power_step(i, n, acc, x):
        if n == 0: r = acc                          if n == 0: return false, n, acc
        else: r = power(n - 1, x, acc * x)  ->      else: return true, n - 1, acc * x
        return r                                def power(n, x, acc):
                                                    return acc of a loop of power_step, while it
                                                           says so

So they need no memory for each level, and have no limit. Arguments that every call hands on as they
are do not change from iteration to iteration, and are captured. A result takes the place of an
argument of its type, which nobody needs any more, and is carried beside them where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from heddle.graph.builder import GraphBuilder
from heddle.graph.nodes import (
    Binding,
    Branch,
    Call,
    Constant,
    Function,
    GraphExpr,
    If,
    Loop,
    Tuple,
    TupleGetItem,
    Var,
)
from heddle.graph.registry import resolve_op
from heddle.ir import BOOL, INT64, GlobalVar, IRModule, TensorType, TupleType, Type
from heddle.ir.expr import const
from heddle.ir.module import BaseFunc
from heddle.ir.structural import structural_equal
from heddle.passes.graph.anf import dims_attribute, is_primitive
from heddle.passes.graph.recursion import recursive_groups


def loop_tail_calls(module: IRModule) -> IRModule:
    """The module with every function whose calls of itself are all tail calls as a loop."""
    groups = recursive_groups(module)
    changed: dict[str, BaseFunc | None] = {}
    for name, function in module.functions.items():
        group = groups.get(name)
        if not isinstance(function, Function) or is_primitive(function):
            continue
        if group is not None and group.members == (name,) and name != "main":
            if _only_tail_calls(function, name):
                changed.update(_Looping(module, name, function).run())
    return module.with_functions(changed)


def _only_tail_calls(function: Function, name: str) -> bool:
    if not all(isinstance(item, TensorType) for item in _fields(function.result.type)):
        return False
    if not all(isinstance(param.type, TensorType) for param in function.params):
        return False
    tails = list(_tail_calls(function.bindings, function.result, name))
    return len(tails) == _calls_in(function.bindings, name) and all(
        structural_equal(arg.type, param.type)
        for call in tails
        for arg, param in zip(call.args, function.params, strict=True)
    )


def _calls_in(bindings: tuple[Binding, ...], name: str) -> int:
    """How many calls of a function there are; one by a loop is none that could be a tail call."""
    count = 0
    for binding in bindings:
        value = binding.value
        if isinstance(value, If):
            count += _calls_in(value.then.bindings, name)
            count += _calls_in(value.otherwise.bindings, name)
        elif isinstance(value, Loop):
            count += 2 * (value.body.name == name)
        else:
            count += _is_call(value, name)
    return count


def _is_call(value: object, name: str) -> bool:
    return (
        isinstance(value, Call)
        and isinstance(value.callee, GlobalVar)
        and value.callee.name == name
    )


def _last(bindings: tuple[Binding, ...], result: GraphExpr) -> GraphExpr | None:
    """The value that is computed last of all and is the result."""
    last = bindings[-1] if bindings else None
    return last.value if last is not None and last.var is result else None


def _tail_calls(bindings: tuple[Binding, ...], result: GraphExpr, name: str) -> Iterator[Call]:
    last = _last(bindings, result)
    if isinstance(last, If):
        for branch in (last.then, last.otherwise):
            yield from _tail_calls(branch.bindings, branch.result, name)
    elif isinstance(last, Call) and _is_call(last, name):
        yield last


def _stops(
    bindings: tuple[Binding, ...], result: GraphExpr, name: str
) -> Iterator[tuple[GraphExpr, ...]]:
    """The fields of what a function returns where it does not call itself."""
    last = _last(bindings, result)
    if isinstance(last, If):
        for branch in (last.then, last.otherwise):
            yield from _stops(branch.bindings, branch.result, name)
    elif not _is_call(last, name):
        yield result.fields if isinstance(result, Tuple) else (result,)


def _fields(type_: Type) -> tuple[Type, ...]:
    return type_.fields if isinstance(type_, TupleType) else (type_,)


class _Looping:
    """The loop and its body for one function."""

    def __init__(self, module: IRModule, name: str, function: Function) -> None:
        self.name = name
        self.function = function
        self.body_name = f"{name}_step"
        while self.body_name in module:
            self.body_name += "_"
        self.results = [t for t in _fields(function.result.type) if isinstance(t, TensorType)]
        tails = list(_tail_calls(function.bindings, function.result, name))
        self.changing = [
            place
            for place, param in enumerate(function.params)
            if any(call.args[place] is not param for call in tails)
        ]
        self.slots = self._slots()
        self.beside = [k for k, slot in enumerate(self.slots) if slot is None]
        self.builder = GraphBuilder(self.body_name)
        carried = [function.params[place].type for place in self.changing]
        beside = [self.results[k] for k in self.beside]
        self.leaf_type = TupleType((TensorType((), BOOL), *carried, *beside))

    def _slots(self) -> list[int | None]:
        """Of each result, which of the changing arguments it takes the place of: one that is the
        result somewhere, else any of its type."""
        params = self.function.params
        stops = list(_stops(self.function.bindings, self.function.result, self.name))
        found: list[int | None] = [None] * len(self.results)
        for literal in (True, False):
            for k, type_ in enumerate(self.results):
                for slot, place in enumerate(self.changing):
                    free = found[k] is None and slot not in found
                    if free and structural_equal(params[place].type, type_):
                        if not literal or any(stop[k] is params[place] for stop in stops):
                            found[k] = slot
        return found

    def run(self) -> dict[str, BaseFunc | None]:
        """The new functions by name."""
        return {self.name: self._loop(), self.body_name: self._body()}

    def _loop(self) -> Function:
        function = self.function
        b = GraphBuilder(self.name)
        params = {param: b.param(param.name, param.type) for param in function.params}
        start = [params[function.params[place]] for place in self.changing]
        blank = [b.emit(_zeros(self.results[k]), name="blank") for k in self.beside]
        captured = tuple(
            params[param]
            for place, param in enumerate(function.params)
            if place not in self.changing
        )
        type_ = TupleType((TensorType((), INT64), *self.leaf_type.fields[1:]))
        loop = Loop(
            GlobalVar(self.body_name),
            None,
            Constant(np.asarray(True)),
            (*start, *blank),
            captured,
            const(0),
            type_,
        )
        whole = b.emit(loop, name="loop")
        places = [
            1 + (len(start) + self.beside.index(k) if slot is None else slot)
            for k, slot in enumerate(self.slots)
        ]
        found = [b.emit(TupleGetItem(whole, place)) for place in places]
        result = Tuple(tuple(found)) if isinstance(function.result.type, TupleType) else found[0]
        made: Function = b.finish(result).replace(attrs=self._attrs(), span=function.span)
        return made

    def _attrs(self) -> dict[str, object]:
        return {key: item for key, item in self.function.attrs.items() if key != "depth"}

    def _body(self) -> Function:
        function, b = self.function, self.builder
        b.param("i", TensorType((), INT64))
        b.params.extend(function.params[place] for place in self.changing)
        self.before = [b.param("result", self.results[k]) for k in self.beside]
        b.params.extend(
            param for place, param in enumerate(function.params) if place not in self.changing
        )
        result = self._leaf(function.bindings, function.result)
        attrs = {"symbols": function.attrs["symbols"]} if "symbols" in function.attrs else {}
        if not isinstance(result, Tuple):
            fields = [TupleGetItem(result, k) for k in range(len(self.leaf_type.fields))]
            result = Tuple(tuple(b.emit(field) for field in fields))
        made: Function = b.finish(result).replace(attrs=attrs, span=function.span)
        return made

    def _leaf(self, bindings: tuple[Binding, ...], result: GraphExpr) -> GraphExpr:
        """Emit bindings; what the body returns: whether to go on, arguments, results."""
        b = self.builder
        last = _last(bindings, result)
        tail = last is not None and (isinstance(last, If) or _is_call(last, self.name))
        for binding in bindings[:-1] if tail else bindings:
            b.keep(binding)
        if isinstance(last, If) and tail:
            return self._choice(last)
        if isinstance(last, Call) and tail:
            new = [last.args[place] for place in self.changing]
            return Tuple((Constant(np.asarray(True)), *new, *self.before))
        after: list[GraphExpr] = [self.function.params[place] for place in self.changing]
        found: list[GraphExpr] = [result]
        if isinstance(result, Tuple):
            found = list(result.fields)
        elif isinstance(result.type, TupleType):
            found = [b.emit(TupleGetItem(result, k)) for k in range(len(self.results))]
        for slot, item in zip(self.slots, found, strict=True):
            if slot is not None:
                after[slot] = item
        after += [found[k] for k in self.beside]
        return Tuple((Constant(np.asarray(False)), *after))

    def _choice(self, value: If) -> GraphExpr:
        def branch(old: Branch) -> Branch:
            made: Branch = self.builder.branch(lambda: self._leaf(old.bindings, old.result))
            return made

        then, otherwise = branch(value.then), branch(value.otherwise)
        made = If(value.condition, then, otherwise, self.leaf_type, span=value.span)  # type: ignore[call-arg]
        var = Var(self.builder.fresh_name("step"), self.leaf_type)
        self.builder.keep(Binding(made, var))
        return var


def _zeros(type_: TensorType) -> GraphExpr:
    """What the result is before there is one."""
    zero = Constant(np.zeros((), type_.dtype.numpy))
    shape = type_.static_shape
    if shape is not None:
        return Constant(np.zeros(shape, type_.dtype.numpy))
    made: GraphExpr = resolve_op("broadcast_to")(zero, shape=dims_attribute(type_.shape))
    return made
