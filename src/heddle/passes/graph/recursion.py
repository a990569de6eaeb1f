# SPDX-License-Identifier: Apache-2.0
"""Functions that call themselves: who calls whom in a circle, how deep, and how much memory.

A group is a set of graph functions each of which reaches all others by calls. A call from outside
of the group gets memory for `limit` levels, one behind the other; a call inside of it works right
behind the memory of its caller. Two hidden symbols, handed from call to call, count the levels:

    f(left, limit, ...):  if left < 1: error       f calls f(left - 1, limit, ...)

A level is what lies between two entries of functions that count. Those that count are chosen so
that every circle passes through one of them: branches that `outline` has made usually do not.
The limit is the attribute "depth" of a function of the group: a number, or an expression of the
symbols of that function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from heddle.graph.dims import show_dim, simplify_dim
from heddle.graph.nodes import (
    Binding,
    Call,
    Function,
    GraphExpr,
    Loop,
    Tuple,
    TupleGetItem,
    Var,
    branches_of,
)
from heddle.ir.expr import Expr, as_expr, as_int, const, maximum, minimum
from heddle.ir.expr import Var as Symbol
from heddle.ir.module import BaseFunc, GlobalVar, IRModule
from heddle.ir.structural import structural_equal
from heddle.ir.types import TupleType
from heddle.ir.walk import substitute
from heddle.passes.graph.host_plan import (
    BranchStep,
    FunctionCall,
    HostPlan,
    KernelCall,
    LoopStep,
)
from heddle.support import UserError

DEFAULT_DEPTH: Final = 1000
"""Levels of calls where a function has no attribute "depth"."""

NATIVE_STACK: Final = 4 << 20
"""Bytes of the native stack, of which a thread has 8 MB, that recursion may take."""


@dataclass(slots=True, eq=False)
class RecursiveGroup:
    """Functions that reach one another by calls.

    counted: those at whose entry the levels are counted. limit: how many levels there may be, in
    the symbols of the member `owner`. calls: for each function the calls that stay in the group,
    with the values of the callee's symbols. native: the most bytes of native stack that each
    function takes. Both are filled while planning.
    """

    members: tuple[str, ...]
    counted: frozenset[str]
    limit: Expr
    owner: str
    given: bool
    left: Symbol = field(default_factory=lambda: Symbol("depth_left"))
    most: Symbol = field(default_factory=lambda: Symbol("depth_limit"))
    calls: dict[str, list[tuple[str, dict[Symbol, Expr]]]] = field(default_factory=dict)
    native: dict[str, int] = field(default_factory=dict)

    def stack_size(
        self, entry: str, values: Mapping[Symbol, Expr], frames: Mapping[str, Expr]
    ) -> Expr:
        """Bytes for a call of `entry` with these symbols, given the bytes of every frame."""
        known = self._symbols_everywhere(entry, values)
        sizes = {name: simplify_dim(substitute(frames[name], known[name])) for name in known}
        most = self.limit_of(entry, values, known)
        return simplify_dim((most + 1) * self._level(sizes))

    def _level(self, sizes: Mapping[str, Expr]) -> Expr:
        """The most that one level takes: from the entry of a function up to the next that counts,
        where each takes what `sizes` says."""
        levels: dict[str, Expr] = {}

        def level(name: str) -> Expr:
            if name not in levels:
                inner = [level(g) for g, _ in self.calls.get(name, ()) if g not in self.counted]
                levels[name] = simplify_dim(sizes[name] + _largest(inner))
            return levels[name]

        return _largest([level(name) for name in sizes])

    def _native_limit(self) -> int:
        """The levels that the native stack has room for."""
        level = as_int(self._level({name: const(size) for name, size in self.native.items()}))
        assert level is not None
        return NATIVE_STACK // level

    def limit_of(
        self,
        entry: str,
        values: Mapping[Symbol, Expr],
        known: Mapping[str, Mapping[Symbol, Expr]] | None = None,
    ) -> Expr:
        """The levels that a call of `entry` may need, in terms of the caller's symbols."""
        if known is None:
            known = self._symbols_everywhere(entry, values)
        most = self._native_limit()
        asked = as_int(self.limit)
        if self.given and asked is not None and asked > most:
            raise UserError(
                f"`{self.owner}`: the attribute depth is {asked}, but the native stack has room "
                f"for {most} levels of this function"
            )
        return minimum(substitute(self.limit, known[self.owner]), most)

    def _symbols_everywhere(
        self, entry: str, values: Mapping[Symbol, Expr]
    ) -> dict[str, dict[Symbol, Expr]]:
        """What the symbols of all members are during a call of `entry`: they must not change from
        level to level, since the memory of all levels is planned as one."""
        known = {entry: dict(values)}
        open_names = [entry]
        while open_names:
            name = open_names.pop()
            for callee, given in self.calls.get(name, ()):
                there = {
                    symbol: simplify_dim(substitute(value, known[name]))
                    for symbol, value in given.items()
                    if symbol not in (self.left, self.most)
                }
                if callee not in known:
                    known[callee] = there
                    open_names.append(callee)
                    continue
                for symbol, value in there.items():
                    before = known[callee].get(symbol, value)
                    if not structural_equal(before, value):
                        raise UserError(
                            f"recursion: dimension `{symbol.name}` of `{callee}` is "
                            f"{show_dim(value)} in a call by `{name}` and {show_dim(before)} in "
                            "the call around it; shapes must stay the same from call to call"
                        )
        return known


def native_bytes(plan: HostPlan, functions: Callable[[str], int]) -> int:
    """The most bytes of native stack that the function of a plan takes, from above: the arrays
    that its calls hand over, a few registers for each of its tensors and symbols, and the rest.

    functions: the number of dimensions that a called function binds itself.
    """
    tensors = len(plan.inputs) + len(plan.outputs) + len(plan.symbols) + len(plan.late_symbols)
    size = 256 + 2 * 8 * tensors
    for step in plan.steps:
        calls = {BranchStep: ("then", "otherwise"), LoopStep: ("body",)}.get(type(step), ())
        found = [step] if isinstance(step, FunctionCall) else [getattr(step, c) for c in calls]
        for call in found:
            numbers = len(call.symbols) + functions(call.function)
            size += 16 + 8 * (6 + len(call.inputs) + len(call.outputs) + numbers) + 3 * 16
        if isinstance(step, KernelCall):
            size += 8
    return size


def _largest(sizes: Sequence[Expr]) -> Expr:
    result: Expr = as_expr(0)
    for size in sizes:
        result = maximum(result, size)
    return result


def recursive_groups(module: IRModule) -> dict[str, RecursiveGroup]:
    """The group of every function that may, by way of others or not, call itself."""
    callees = {
        name: called_by(function)
        for name, function in module.functions.items()
        if isinstance(function, Function)
    }
    groups: dict[str, RecursiveGroup] = {}
    for members in _components(callees):
        if len(members) == 1 and members[0] not in callees[members[0]]:
            continue
        group = _group(module, members, callees)
        groups.update(dict.fromkeys(members, group))
    return groups


def separate_main(module: IRModule) -> IRModule:
    """A `main` that calls itself becomes a function of its own, which a new `main` calls."""
    main = module.functions.get("main")
    if not isinstance(main, Function) or "main" not in recursive_groups(module):
        return module
    inner = "main_again"
    while inner in module:
        inner += "_"

    def renamed(item: Any) -> Any:
        if isinstance(item, GlobalVar):
            return GlobalVar(inner, span=item.span) if item.name == "main" else item  # type: ignore[call-arg]
        if isinstance(item, Call) and isinstance(item.callee, GlobalVar):
            item = item.replace(callee=renamed(item.callee))
        return item.map(renamed)

    functions: dict[str, BaseFunc | None] = {
        name: function.map(renamed)
        for name, function in module.functions.items()
        if isinstance(function, Function) and name != "main"
    }
    functions[inner] = main.map(renamed).replace(
        attrs={key: item for key, item in main.attrs.items() if key in ("depth", "name")}
    )
    params = tuple(Var(p.name, p.type, span=p.span) for p in main.params)  # type: ignore[call-arg]
    type_ = main.result.type
    call = Var("result", type_)
    bindings = [Binding(Call(GlobalVar(inner), params, {}, type_), call)]
    result: GraphExpr = call
    if isinstance(type_, TupleType):
        fields = [Var(f"result_{k}", item) for k, item in enumerate(type_.fields)]
        bindings += [Binding(TupleGetItem(call, k), field) for k, field in enumerate(fields)]
        result = Tuple(tuple(fields))
    attrs = {key: item for key, item in main.attrs.items() if key != "depth"}
    functions["main"] = Function(params, tuple(bindings), result, attrs, span=main.span)  # type: ignore[call-arg]
    return module.with_functions(functions)


def called_by(function: Function) -> tuple[str, ...]:
    """The names of the graph functions that a function calls, in order."""
    found: dict[str, None] = {}

    def visit(value: GraphExpr) -> None:
        if isinstance(value, Call) and isinstance(value.callee, GlobalVar):
            found[value.callee.name] = None
        elif isinstance(value, Loop):
            found[value.body.name] = None
        for branch in branches_of(value):
            for binding in branch.bindings:
                visit(binding.value)

    for binding in function.bindings:
        visit(binding.value)
    return tuple(found)


def _group(
    module: IRModule, members: Sequence[str], callees: Mapping[str, Sequence[str]]
) -> RecursiveGroup:
    given = {
        name: function.attrs["depth"]
        for name in members
        if isinstance(function := module[name], Function) and "depth" in function.attrs
    }
    owner, limit = next(iter(given.items()), (members[0], DEFAULT_DEPTH))
    most = as_expr(limit)  # type: ignore[arg-type]
    number = as_int(most)
    if number is not None and number < 1:
        raise UserError(f"`{owner}`: the attribute depth is {number}, expected at least 1")
    counted = _counted(members, callees)
    return RecursiveGroup(tuple(members), counted, most, owner, bool(given))


def _counted(members: Sequence[str], callees: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Functions without which the calls among `members` form no circle: where a walk down the
    calls meets a function that it is still inside of."""
    found: set[str] = set()
    state: dict[str, bool] = {}  # True while the walk is inside

    def walk(name: str) -> None:
        state[name] = True
        for callee in callees[name]:
            if callee in members:
                if callee not in state:
                    walk(callee)
                elif state[callee]:
                    found.add(callee)
        state[name] = False

    for name in members:
        if name not in state:
            walk(name)
    return frozenset(found)


def _components(callees: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """The strongly connected components of a call graph (Tarjan 1972), members in order."""
    place = {name: number for number, name in enumerate(callees)}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for callee in callees[name]:
            if callee not in callees:
                continue
            if callee not in index:
                visit(callee)
                low[name] = min(low[name], low[callee])
            elif callee in stack:
                low[name] = min(low[name], index[callee])
        if low[name] == index[name]:
            at = stack.index(name)
            found.append(sorted(stack[at:], key=place.__getitem__))
            del stack[at:]

    for name in callees:
        if name not in index:
            visit(name)
    return found
