# SPDX-License-Identifier: Apache-2.0
"""Until when the values of a lowered function are read, and whose memory each may take over.

Steps (calls, conditions, loops, the binding of dimensions) are numbered in order. Views,
tuples and their fields are other names for the memory of what they are made of.

    def then(cache, at, x):
        return index_copy(cache, at, x)        w = then(cache, at, x) if c else otherwise(cache)
    def otherwise(cache):                 ->   may lie where `cache` does
        return copy(cache)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from heddle.graph.dps import arguments_of
from heddle.graph.nodes import (
    BindDim,
    Call,
    CallDPS,
    Function,
    GraphExpr,
    If,
    Loop,
    Scalar,
    Tuple,
    TupleGetItem,
    Var,
)
from heddle.ir.expr import Expr, const
from heddle.ir.expr import Var as Symbol
from heddle.ir.module import IRModule
from heddle.ir.structural import structural_equal
from heddle.ir.types import TensorType, TupleType, Type
from heddle.passes.graph.anf import atoms_of, is_function_call
from heddle.passes.graph.fuse import is_view
from heddle.passes.graph.outline import called_function
from heddle.tir.nodes import PrimFunc

Field: TypeAlias = "tuple[Var, int]"
"""A result of a step: the variable, and which of its fields."""


def makes_memory(value: object) -> bool:
    """Whether the results of a value are memory of their own."""
    return isinstance(value, (CallDPS, If, Loop)) or is_function_call(value)


def calls_of(value: GraphExpr) -> tuple[Call, ...]:
    """The calls of graph functions one of which a step makes, as often as it says."""
    if isinstance(value, If):
        branches = (called_function(value.then), called_function(value.otherwise))
        return tuple(call for call in branches if call is not None)
    return (value,) if isinstance(value, Call) and is_function_call(value) else ()


def is_step(value: object) -> bool:
    """Whether a value takes time; all others are other names for them."""
    return isinstance(value, BindDim) or makes_memory(value)


class Lifetimes:
    """What is read when in one function.

    last: the number of the last step that reads each variable, views looked through. number: the
    number of the step that makes it. returned: the variables whose memory results lie in. chosen:
    the results of conditions that are one of two values, as they are.
    """

    def __init__(self, module: IRModule, function: Function, lineage: Lineage) -> None:
        self.module = module
        self.lineage = lineage
        self.params = frozenset(function.params)
        self.owners = {binding.var: binding.value for binding in function.bindings}
        self.last: dict[Var, int] = {}
        self.number: dict[Var, int] = {}
        self.chosen: dict[Field, tuple[GraphExpr, GraphExpr]] = {}
        self._aliases: dict[Var, tuple[Var, ...]] = {}
        step = -1
        for binding in function.bindings:
            value = binding.value
            if is_step(value):
                step += 1
                self.number[binding.var] = step
                for atom in atoms_of(value):
                    for source in self.sources(atom):
                        self.last[source] = step
            if isinstance(value, If):
                self._aliases[binding.var] = self._choices(binding.var, value)
            elif not makes_memory(value):
                self._aliases[binding.var] = tuple(_vars(value))
        result = function.result
        fields = result.fields if isinstance(result, Tuple) else (result,)
        self.returned = frozenset(var for item in fields for var in self.sources(item))

    def _choices(self, var: Var, value: If) -> tuple[Var, ...]:
        """The variables that a condition chooses from, without a change."""
        first, second = calls_of(value)[:1], calls_of(value)[1:]
        found: list[Var] = []
        for call, other in zip(first, second, strict=True):
            passed, others = (self.lineage.passed(c.callee.name) for c in (call, other))  # type: ignore[attr-defined]
            for field, source in passed.items():
                pair = call.args[source], other.args[others[field]] if field in others else None
                if pair[1] is not None and self.owner(pair[0]) != self.owner(pair[1]):
                    self.chosen[var, field] = pair
                    found += [*_vars(pair[0]), *_vars(pair[1])]
        return tuple(found)

    def sources(self, item: GraphExpr) -> list[Var]:
        """The variables whose memory a value is, itself included."""
        found: dict[Var, None] = {}
        stack = list(_vars(item))
        while stack:
            var = stack.pop()
            if var not in found:
                found[var] = None
                stack.extend(self._aliases.get(var, ()))
        return list(found)

    def owner(self, item: GraphExpr) -> tuple[GraphExpr, int]:
        """The kernel's result (a variable and which of its fields), the parameter or the constant
        that a value is another name for."""
        field = 0
        while True:
            value = self.owners.get(item) if isinstance(item, Var) else item
            if value is None or makes_memory(value):
                return item, field
            if is_view(value):
                assert isinstance(value, Call)
                item = value.args[0]
            elif isinstance(value, TupleGetItem):
                source: Any = value.value
                inner = self.owners.get(source, source)
                if isinstance(inner, Tuple):
                    item = inner.fields[value.index]
                else:
                    item, field = source, value.index
            elif isinstance(value, BindDim):
                item = value.value
            elif isinstance(value, Var):
                item = value
            else:
                return item, field

    def chain(self, item: GraphExpr) -> tuple[list[Field], Var | None]:
        """The steps' results that a result is made of, itself first, as far back as each may take
        over the memory of the one before; and the parameter where that begins, if it does."""
        owner, field = self.owner(item)
        assert isinstance(owner, Var)
        found = [(owner, field)]
        while True:
            before = self.predecessor(*found[-1])
            if before is None or not same_size(before.type, item.type):
                return found, None
            owner, field = self.owner(before)
            if not isinstance(owner, Var):
                return found, None
            if owner in self.params:
                return found, owner
            found.append((owner, field))

    def predecessor(self, var: Var, field: int) -> GraphExpr | None:
        """The value whose memory a result may take over: it is read by the step that makes the
        result in a way that allows it, once, by no later one, and is no result itself."""
        value = self.owners.get(var)
        found: GraphExpr | None = None
        if isinstance(value, CallDPS):
            found = self._overwritable(value)
        elif isinstance(value, Loop) and 1 <= field <= len(value.carried):
            found = value.carried[field - 1]
        elif value is not None:
            found = self._kept_by(calls_of(value), field)
        return found if found is not None and self.dies(found, var) else None

    def _kept_by(self, calls: Sequence[Call], field: int) -> GraphExpr | None:
        """The argument in whose memory each of these calls may leave a result."""
        sources = [self.lineage.of(call.callee.name).get(field) for call in calls]  # type: ignore[attr-defined]
        given = [call.args[k] for call, k in zip(calls, sources, strict=True) if k is not None]
        if len(given) != len(calls) or not calls:
            return None
        first = self.owner(given[0])
        return given[0] if all(self.owner(item) == first for item in given[1:]) else None

    def dies(self, item: GraphExpr, reader: Var) -> bool:
        """Whether the step that makes `reader` reads a value once (each branch of a condition
        counts for itself), and is the last to do so."""
        names = set(self.sources(item))
        if not names or self.returned.intersection(names):
            return False
        if any(self.last.get(name, -1) > self.number[reader] for name in names):
            return False

        def reads(value: GraphExpr) -> int:
            return sum(not names.isdisjoint(self.sources(atom)) for atom in atoms_of(value))

        value = self.owners[reader]
        if isinstance(value, If):
            return not reads(value.condition) and all(reads(call) == 1 for call in calls_of(value))
        return reads(value) == 1

    def _overwritable(self, call: CallDPS) -> GraphExpr | None:
        """The argument of a call that its only result may be written over, whether or not it is
        read again: the first, where there are several."""
        kernel = self.module.functions.get(call.callee.name)
        found = overwritten_parameters(kernel) if isinstance(kernel, PrimFunc) else ()
        return tensors_of(self.module, call)[found[0]] if found else None


class Lineage:
    """In which parameter each result of a called function may lie, if the caller allows it.

    Only functions with one call are asked, since that call decides for all. recursive: functions
    that have none because they call themselves.
    """

    def __init__(self, module: IRModule, recursive: frozenset[str]) -> None:
        self.module = module
        self._calls = Counter(_called(module))
        self._recursive = recursive
        self._known: dict[str, Mapping[int, int]] = {}
        self._passed: dict[str, Mapping[int, int]] = {}

    def passed(self, name: str) -> Mapping[int, int]:
        """The results that are parameters, as they are: result -> parameter."""
        if name not in self._passed:
            function = self.module.functions.get(name)
            self._passed[name] = {
                position: source
                for position, source in self.of(name).items()
                if isinstance(function, Function) and self._is_copy(function, position)
            }
        return self._passed[name]

    def _is_copy(self, function: Function, position: int) -> bool:
        """Whether a result is a copy of a parameter."""
        lifetimes = Lifetimes(self.module, function, self)
        result = function.result
        item = result.fields[position] if isinstance(result, Tuple) else result
        owner, _ = lifetimes.owner(item)
        value = lifetimes.owners.get(owner) if isinstance(owner, Var) else None
        kernel = (
            self.module.functions.get(value.callee.name) if isinstance(value, CallDPS) else None
        )
        copies = isinstance(kernel, PrimFunc) and bool(kernel.attrs.get("copy"))
        return copies and len(lifetimes.chain(item)[0]) == 1

    def of(self, name: str) -> Mapping[int, int]:
        """Result -> parameter, each at most once."""
        if name not in self._known:
            function = self.module.functions.get(name)
            once = self._calls[name] == 1 and name not in self._recursive
            known = once and isinstance(function, Function)
            self._known[name] = self._find(function) if known else {}  # type: ignore[arg-type]
        return self._known[name]

    def _find(self, function: Function) -> Mapping[int, int]:
        lifetimes = Lifetimes(self.module, function, self)
        result = function.result
        found = {}
        for position, item in enumerate(result.fields if isinstance(result, Tuple) else (result,)):
            _, source = lifetimes.chain(item)
            if source is not None:
                found[position] = function.params.index(source)
        return found


def _called(module: IRModule) -> Iterator[str]:
    """The names of the graph functions that are called, once for each call."""
    for function in module.functions.values():
        for binding in function.bindings if isinstance(function, Function) else ():
            if isinstance(binding.value, Loop):
                yield binding.value.body.name
            for call in calls_of(binding.value):
                yield call.callee.name  # type: ignore[attr-defined]


def tensor_fields(type_: Type) -> list[TensorType]:
    """The tensors that a type is made of: itself, or the fields of a tuple."""
    found = type_.fields if isinstance(type_, TupleType) else (type_,)
    return [item for item in found if isinstance(item, TensorType)]


def dense_size(type_: TensorType, *, first: int = 0) -> Expr:
    """Bytes of a tensor, or of a part that has its dimensions from `first` on."""
    size: Expr = const(type_.dtype.nbytes)
    for dim in type_.shape[first:]:
        size = size * dim
    return size


def same_size(left: Type, right: Type) -> bool:
    """Whether two tensors are known to take as many bytes."""
    tensors = isinstance(left, TensorType) and isinstance(right, TensorType)
    return tensors and structural_equal(dense_size(left), dense_size(right))  # type: ignore[arg-type]


def overwritten_parameters(kernel: PrimFunc) -> tuple[int, ...]:
    """The parameters of a kernel that its only result may lie over."""
    if any(isinstance(param, Symbol) for param in kernel.params):
        return ()  # the attributes count parameters, arguments are tensors only
    update: Any = kernel.attrs.get("update")
    if update is not None:
        return (int(update[0]),)
    pairs: Any = () if kernel.attrs.get("noalias", True) else kernel.attrs.get("inplace", ())
    return tuple(int(source) for source, _ in pairs)


def tensors_of(module: IRModule, call: CallDPS) -> list[GraphExpr]:
    """The arguments of a call that are tensors, in the order of the callee's buffers."""
    callee = module.functions.get(call.callee.name)
    pairs = arguments_of(call, callee) if isinstance(callee, PrimFunc) else None
    if pairs is None:
        return [arg for arg in call.args if not isinstance(arg, Scalar)]
    return [a for p, a in pairs if isinstance(a, GraphExpr) and not isinstance(p, Symbol)]


def _vars(value: GraphExpr) -> list[Var]:
    if isinstance(value, Var):
        return [value]
    if is_view(value):
        assert isinstance(value, Call)
        return _vars(value.args[0])
    if isinstance(value, Tuple):
        return [var for item in value.fields for var in _vars(item)]
    if isinstance(value, (TupleGetItem, BindDim)):
        return _vars(value.value)
    return []
