# SPDX-License-Identifier: Apache-2.0
"""What the memory plans of one module share: constants, and the plans of called functions.

A called function is planned once. What its callers let it write to is decided before: the values
that a loop carries are memory of the loop, so its body may write to them; and a branch or a
function with one call may write to the arguments that die there (`lifetimes.py`), as the caller
says when it asks for the plan.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from heddle.graph.nodes import Call, Function, If, Loop
from heddle.ir.expr import Var as Symbol
from heddle.ir.module import IRModule
from heddle.ir.types import TensorType
from heddle.passes.graph.anf import free_symbols, is_function_call
from heddle.passes.graph.host_plan import DataInput, HostPlan
from heddle.passes.graph.lifetimes import Lineage
from heddle.passes.graph.outline import called_function
from heddle.passes.graph.place_values import Constants
from heddle.passes.graph.recursion import native_bytes, recursive_groups
from heddle.runtime.data import Adt, SelfField
from heddle.support import InternalError, UserError

Donated: TypeAlias = Mapping[int, "int | None"]
"""Parameters whose memory may be written to, each with the only result that may be left in it; None
is any."""

PlanOne: TypeAlias = "Callable[[Functions, str, Donated], HostPlan]"


class Functions:
    """The plans of one module. `plan_one` makes the plan of one function."""

    def __init__(self, module: IRModule, plan_one: PlanOne) -> None:
        self.module = module
        self.constants = Constants()
        self.plans: dict[str, HostPlan] = {}
        self.groups = recursive_groups(module)
        self.lineage = Lineage(module, frozenset(self.groups))
        self._carried = _carried(module)
        self._plan_one = plan_one

    def plan(self, name: str, donated: Mapping[int, int] | None = None) -> HostPlan:
        """The plan of a called function; those of its group are planned with it.

        donated: the parameters that lie where a result does, which `lineage` allows; said by the
        only caller, before anything else asks.
        """
        if name in self.plans:
            return self.plans[name]
        group = self.groups.get(name)
        carried = self._carried.get(name, 0) if group is None else 0
        given: Donated = donated or {1 + k: 1 + k for k in range(carried)}
        for member in (name,) if group is None else group.members:
            self.plans[member] = self._plan_one(self, member, given)
        if group is not None:
            late = {member: len(self.plans[member].late_symbols) for member in group.members}
            group.native = {
                member: native_bytes(self.plans[member], lambda name: late.get(name, 8))
                for member in group.members
            }
        found = self.plans[name]
        for source, result in (donated or {}).items():
            if found.shared.get(result) != source:
                raise InternalError(f"`{name}`: result {result} is not in parameter {source}")
        return found

    def function(self, name: str) -> Function:
        """A graph function of the module."""
        function = self.module[name]
        if not isinstance(function, Function):
            raise UserError(f"`{name}` is no graph function")
        return function

    def symbols(self, name: str) -> tuple[Symbol, ...]:
        """The symbols that a called function is handed, in order."""
        function, group = self.function(name), self.groups.get(name)
        hidden = () if group is None else (group.left, group.most)
        return (*symbols_of_function(function), *hidden)


def _carried(module: IRModule) -> dict[str, int]:
    """The functions that only loops call, and how many values each carries: these are memory of the
    loop, which the body may write to."""
    found: dict[str, int] = {}
    for function in module.functions.values():
        if not isinstance(function, Function):
            continue
        for binding in function.bindings:
            value = binding.value
            if isinstance(value, Loop):
                count = len(value.carried)
                found[value.body.name] = min(count, found.get(value.body.name, count))
            elif isinstance(value, If):
                for call in (called_function(value.then), called_function(value.otherwise)):
                    if call is not None:
                        found[call.callee.name] = 0
            elif isinstance(value, Call) and is_function_call(value):
                found[value.callee.name] = 0
    return found


def symbols_of_function(function: Function) -> tuple[Symbol, ...]:
    """Those that its callers hand over, then those of the shapes of its parameters."""
    types = [param.type for param in function.params]
    handed: Any = function.attrs.get("symbols", ())
    symbols = [*handed, *(s for s in free_symbols(types) if s not in handed)]
    bare = {
        dim
        for item in types
        if isinstance(item, TensorType)
        for dim in item.shape
        if isinstance(dim, Symbol)
    }
    for symbol in symbols:
        if symbol not in bare and symbol not in handed:
            raise UserError(
                f"dimension `{symbol.name}` occurs only inside expressions of input shapes; "
                "some input must have it as a dimension of its own"
            )
    return tuple(symbols)


def data_inputs(function: Function) -> Iterator[DataInput]:
    """Where the arrays are of each parameter that is a value of a data type (attribute "data")."""
    place = 0
    for _, form in json.loads(str(function.attrs.get("data", "[]"))):
        if form is None:
            place += 1
            continue
        adt = Adt.from_json(form)
        fields = adt.constructors.values()
        arity = tuple(sum(isinstance(item, SelfField) for item in found) for found in fields)
        yield DataInput(place, place + 2, arity)
        place += len(adt.arrays)
