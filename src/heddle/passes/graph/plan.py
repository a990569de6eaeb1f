# SPDX-License-Identifier: Apache-2.0
"""Plan memory: give every value of the lowered `main` a place, and write it down as a `HostPlan`.

Values live from the step that writes them to the last step that reads them (through any view).
Values of known size are placed largest first, each at the lowest offset of the arena where it
overlaps nothing that is alive at the same time. Values of symbolic size follow behind: a value
takes the slot of one that has died, whose size becomes the larger of the two. Results are written
straight into the outputs.

A result takes over the memory of an argument that nothing reads afterwards, where the kernel allows
it (`lifetimes.py`): elementwise work, and updates of a part, which then leave the rest alone. So a
cache that a loop carries, or that the caller of the model has donated (attribute "donate" of
`main`, names of inputs), is written in place.

Graph functions that `main` calls (branches, bodies of loops) have plans of their own. Their arenas
are values of the caller's arena that live during the call, and inputs and outputs are wherever the
caller has them, so nothing is copied on the way in or out. Dimensions that are bound at run time
count as the largest values that they may have.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from heddle.graph.dims import match_symbols, simplify_dim
from heddle.graph.dps import arguments_of, scalar_of
from heddle.graph.nodes import (
    BindDim,
    Call,
    CallDPS,
    Constant,
    Function,
    GraphExpr,
    If,
    Loop,
    Scalar,
    Tuple,
    TupleGetItem,
    Var,
)
from heddle.ir.dtype import DType
from heddle.ir.expr import Expr, IntImm, as_int, maximum
from heddle.ir.expr import Var as Symbol
from heddle.ir.module import IRModule
from heddle.ir.structural import structural_equal
from heddle.ir.types import TensorType
from heddle.ir.walk import free_vars, substitute
from heddle.passes.graph.fuse import is_view
from heddle.passes.graph.host_plan import (
    ALIGNMENT,
    SYMBOL_MAX,
    BindStep,
    BranchStep,
    DepthStep,
    FunctionCall,
    HostPlan,
    KernelCall,
    LoopStep,
    PlanTensor,
    ScalarLoad,
    Step,
    Storage,
    largest,
    same_storage,
)
from heddle.passes.graph.lifetimes import (
    Lifetimes,
    calls_of,
    dense_size,
    is_step,
    overwritten_parameters,
    tensor_fields,
    tensors_of,
)
from heddle.passes.graph.place_values import ArenaValue, place_values
from heddle.passes.graph.plan_functions import (
    Donated,
    Functions,
    data_inputs,
    symbols_of_function,
)
from heddle.support import InternalError, UserError
from heddle.tir.nodes import PrimFunc


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor is: a value of the arena, or fixed storage."""

    value: ArenaValue | None = None
    storage: Storage | None = None


_Number: TypeAlias = "Expr | tuple[_Place, DType]"
"""A number of a call, or where it is when the call is made."""


def plan_memory(module: IRModule, *, name: str = "main") -> HostPlan:
    """The host plan of the lowered function `name` of `module`.

    A kernel writes over an input that dies there if its attribute "inplace" names the pair and its
    attribute "noalias" is False, so that the code generator has not promised otherwise; or if its
    attribute "update" names the input and another kernel, which is called then.

    Raises `UserError` for inputs whose symbolic dimensions cannot be told from their shapes.
    """
    function = module[name]
    if not isinstance(function, Function):
        raise UserError(f"`{name}` is not a graph function")
    names = [param.name for param in function.params]
    given: Any = function.attrs.get("donate", ())
    donated = {position: None for position, item in enumerate(names) if item in given}
    functions = Functions(module, _plan_function)
    return _Planner(module, function, name, functions, donated).run()


def _plan_function(functions: Functions, name: str, donated: Donated) -> HostPlan:
    function = functions.function(name)
    return _Planner(functions.module, function, name, functions, donated).run()


class _Planner:
    def __init__(
        self,
        module: IRModule,
        function: Function,
        name: str,
        functions: Functions,
        donated: Donated,
    ) -> None:
        self.module = module
        self.function = function
        self.name = name
        self.functions = functions
        self.group = functions.groups.get(name)
        self.constants = functions.constants
        self.places: dict[Any, tuple[_Place, ...]] = {}
        self.values: list[ArenaValue] = []
        self.steps: list[Callable[[], Step | None]] = []  # called once all values have places
        self.arena_size: Expr = IntImm(0)  # known once all values have their places
        self.late: dict[Symbol, Expr] = {}  # bounds of the symbols that steps bind
        self.lifetimes = Lifetimes(module, function, functions.lineage)
        self.donated = donated
        self.shared: dict[int, int] = {}  # results that lie in the memory of a parameter
        self.choices = 0  # results of conditions that are one of two values, as they are

    def run(self) -> HostPlan:
        """Place everything."""
        inputs = self._inputs()
        symbols = self.functions.symbols(self.name)
        outputs = self._outputs()
        for binding in self.function.bindings:
            self._binding(binding.var, binding.value)
        for position, item in enumerate(self._result_fields()):
            source = self.shared.get(position)
            wanted = Storage.output(position) if source is None else Storage.input(source)
            if not same_storage(_resolve(self._place(item)[0]), wanted):
                raise InternalError(f"result {position} of `{self.name}` is not in its output")
        report, arena = place_values(self.values)
        self.arena_size = arena
        ranges = self.function.attrs.get("symbol_ranges", {})
        assert isinstance(ranges, Mapping)
        return HostPlan(
            name=self.name,
            inputs=inputs,
            outputs=outputs,
            symbols=symbols,
            symbol_ranges=tuple(ranges.get(s.name, (0, SYMBOL_MAX)) for s in symbols),
            constants=tuple(self.constants.items),
            constants_size=self.constants.size,
            arena_size=arena,
            steps=(
                *self._depth_check(),
                *(made for step in self.steps if (made := step()) is not None),
            ),
            report=report,
            late_symbols=self.late,
            functions=self.functions.plans,
            symbol_values=self._dependent_symbols(symbols),
            donated=tuple(self.donated),
            shared=self.shared,
            data=tuple(data_inputs(self.function)),
        )

    def _dependent_symbols(self, symbols: Sequence[Symbol]) -> tuple[tuple[int, Expr], ...]:
        """The attribute "symbol_values" {"m": n + 1} by position; symbols are found by name."""
        given = self.function.attrs.get("symbol_values", {})
        assert isinstance(given, Mapping)
        by_name = {symbol.name: (place, symbol) for place, symbol in enumerate(symbols)}
        found = []
        for name, value in given.items():
            used = {var: by_name[var.name][1] for var in free_vars(value) if var.name in by_name}
            if name in by_name and len(used) == len(set(free_vars(value))):
                found.append((by_name[name][0], substitute(value, used)))
        return tuple(found)

    # -- interface ---------------------------------------------------------------------------

    def _inputs(self) -> tuple[PlanTensor, ...]:
        inputs = []
        for position, param in enumerate(self.function.params):
            if not isinstance(param.type, TensorType):
                raise UserError(f"input `{param.name}` is a tuple; only tensors can be inputs")
            inputs.append(PlanTensor(param.name, param.type))
            place = _Place(storage=Storage.input(position))
            if position in self.donated:
                end = self.lifetimes.last.get(param, -1)
                value = ArenaValue(self._byte_size(param.type), -1, end)
                place = _Place(value, Storage.input(position))
            self.places[param] = (place,)
        return tuple(inputs)

    def _result_fields(self) -> tuple[GraphExpr, ...]:
        result = self.function.result
        return result.fields if isinstance(result, Tuple) else (result,)

    def _outputs(self) -> tuple[PlanTensor, ...]:
        """Describe the outputs, and place the values that are written into them."""
        names = self.function.attrs.get("output_names", ())
        assert isinstance(names, Sequence)
        outputs = []
        for position, item in enumerate(self._result_fields()):
            if not isinstance(item.type, TensorType):
                raise UserError("results must be tensors, or one tuple of tensors")
            fallback = item.name if isinstance(item, Var) else f"output{position}"
            outputs.append(
                PlanTensor(names[position] if position < len(names) else fallback, item.type)
            )
            self._claim(item, position)
        return tuple(outputs)

    def _claim(self, item: GraphExpr, position: int) -> None:
        """Place the kernel result that result `position` is a view of, and what it is made of as
        far back as each kernel writes over its argument: in the memory of a donated parameter when
        that is where it begins, else in the output."""
        owner, field = self.lifetimes.owner(item)
        if not isinstance(owner, Var) or owner in self.lifetimes.params:
            raise InternalError(
                f"result {position} of `{self.name}` is no kernel's result; run `lower` first"
            )
        if (owner, field) in self.places:
            raise InternalError(f"result {position} of `{self.name}` is returned twice")
        chain, begin = self.lifetimes.chain(item)
        place = _Place(storage=Storage.output(position))
        source = -1 if begin is None else self.function.params.index(begin)
        if self.donated.get(source, -1) in (None, position) and source not in self.shared.values():
            self.shared[position] = source
            place = self.places[begin][0]
        if place.value is not None:
            place.value.end = len(self.lifetimes.number)  # nothing is written over it any more
        for key in chain:
            self.places[key] = (place,)

    # -- bindings ----------------------------------------------------------------------------

    def _place(self, item: GraphExpr) -> tuple[_Place, ...]:
        """The places of a value: one for a tensor, one per field for a tuple."""
        if isinstance(item, Var):
            return self.places[item]
        if isinstance(item, Constant):
            return (_Place(storage=self.constants.place(item.data)),)
        if isinstance(item, Tuple):
            return tuple(place for part in item.fields for place in self._place(part))
        if isinstance(item, TupleGetItem):
            return (self._place(item.value)[item.index],)
        if is_view(item):
            assert isinstance(item, Call)
            return self._place(item.args[0])
        raise InternalError(f"memory planning met a {type(item).__name__}; run `lower` first")

    def _binding(self, var: Var, value: GraphExpr) -> None:
        if not is_step(value):
            self.places[var] = self._place(value)
            return
        end = max(len(self.steps), self.lifetimes.last.get(var, 0))
        if isinstance(value, CallDPS):
            self._call(var, value, end)
        elif isinstance(value, If):
            self._branches(var, value, end)
        elif isinstance(value, Loop):
            self._loop(var, value, end)
        elif isinstance(value, Call):
            self._graph_call(var, value, end)
        else:
            assert isinstance(value, BindDim)
            self._bind_dim(var, value)

    def _call(self, var: Var, value: CallDPS, end: int) -> None:
        tensors, scalars = self._arguments(value)
        args = [place for item in tensors for place in self._place(item)]
        results = self._results(
            var, end, lambda _, item: self._overwritten(value, args, item, len(self.steps), end)
        )
        kernel, label = value.callee.name, str(value.attrs.get("label", ""))
        func = self.module.functions.get(kernel)
        attrs = func.attrs if isinstance(func, PrimFunc) else {}
        update: Any = attrs.get("update")
        if update is not None and args[update[0]] is results[0]:
            kernel = update[1]
        if attrs.get("copy") and args[0] is results[0]:
            self.steps.append(lambda: None)  # it is there already
            return
        self.steps.append(
            lambda: KernelCall(
                kernel,
                tuple(map(_resolve, [*args, *results])),
                (*map(_host_number, scalars), *_symbols_of(value)),
                label,
            )
        )

    def _results(
        self,
        var: Var,
        end: int,
        given: Callable[[int, TensorType], _Place | None] = lambda _field, _type: None,
    ) -> list[_Place]:
        """Where the results of this step lie: in outputs, where `given` says (of a field and its
        type), or in new memory."""
        results: list[_Place] = []
        for field, item in enumerate(tensor_fields(var.type)):
            fixed = self.places.get((var, field))
            place = fixed[0] if fixed is not None else given(field, item)
            results.append(self._memory(self._byte_size(item), end) if place is None else place)
        self.places[var] = tuple(results)
        return results

    def _memory(self, size: Expr, end: int) -> _Place:
        """A value of the arena that is written by this step."""
        value = ArenaValue(size, len(self.steps), end)
        self.values.append(value)
        return _Place(value)

    # -- calls of graph functions ------------------------------------------------------------

    def _graph_call(self, var: Var, value: Call, end: int) -> None:
        name = value.callee.name
        inputs = [place for arg in value.args for place in self._place(arg)]
        results = self._results(var, end, self._kept(var, [inputs], end))
        self._donate(value, inputs, results)
        arena = self._arena([(name, value.args)], len(self.steps))
        self.steps.append(self._function_call(name, value.args, inputs, results, arena))

    def _branches(self, var: Var, value: If, end: int) -> None:
        number = len(self.steps)
        where = self._place(value.condition)[0]
        calls = calls_of(value)
        assert len(calls) == 2, "`outline` makes each branch a call"
        inputs = [[place for arg in call.args for place in self._place(arg)] for call in calls]
        chosen: dict[int, tuple[int, _Place, _Place]] = {}
        kept = self._kept(var, inputs, end)

        def place_of(field: int, type_: TensorType) -> _Place | None:
            if (var, field) not in self.lifetimes.chosen:
                return kept(field, type_)
            first, second = (self._place(item)[0] for item in self.lifetimes.chosen[var, field])
            chosen[field] = self.choices, first, second
            self.choices += 1
            return _Place(storage=Storage("chosen", chosen[field][0], IntImm(0)))

        results = self._results(var, end, place_of)
        outputs = [
            [chosen[k][1 + side] if k in chosen else place for k, place in enumerate(results)]
            for side in range(2)
        ]
        for call, given, written in zip(calls, inputs, outputs, strict=True):
            self._donate(call, given, written)
        arena = self._arena([(call.callee.name, call.args) for call in calls], number)
        then, otherwise = (
            self._function_call(call.callee.name, call.args, given, written, arena)
            for call, given, written in zip(calls, inputs, outputs, strict=True)
        )
        self.steps.append(
            lambda: BranchStep(
                ScalarLoad(_resolve(where), DType.of("bool")),
                then(),
                otherwise(),
                tuple((k, _resolve(a), _resolve(b)) for k, a, b in chosen.values()),
            )
        )

    def _donate(self, call: Call, inputs: Sequence[_Place], results: Sequence[_Place]) -> None:
        """Plan a called function that leaves results where its arguments are."""
        lineage = self.functions.lineage.of(call.callee.name)
        donated = {source: k for k, source in lineage.items() if inputs[source] is results[k]}
        if donated:
            self.functions.plan(call.callee.name, donated)

    def _loop(self, var: Var, value: Loop, end: int) -> None:
        number = len(self.steps)
        start = [self._place(item)[0] for item in value.carried]
        captured = [place for item in value.captured for place in self._place(item)]
        count, *results = self._results(var, end, self._kept(var, [[*start, *captured]], end))
        carried, stacked = results[: len(value.carried)], results[len(value.carried) :]
        sizes = [dense_size(_tensor(item)) for item in value.carried]
        rows = [dense_size(item, first=1) for item in tensor_fields(value.type)[1 + len(carried) :]]
        name = value.body.name
        iteration, going = (self._memory(IntImm(ALIGNMENT), number) for _ in range(2))
        in_place = {} if self._is_inner(name) else self.functions.plan(name).shared
        turns = [
            final if 1 + k in in_place else self._memory(self._byte_size(_tensor(item)), number)
            for k, (item, final) in enumerate(zip(value.carried, carried, strict=True))
        ]
        count_type = Var("count", TensorType((), DType.of("int64")))
        rows_given = tensor_fields(value.type)[1 + len(carried) :] if value.history else []
        history = [Var("rows", item) for item in rows_given]
        given = (count_type, *value.carried, *value.captured, *history)
        arena = self._arena([(name, given)], number)
        captured = [place for item in value.captured for place in self._place(item)]
        if value.history:
            captured += stacked
        body = self._function_call(
            name, given, [iteration, *carried, *captured], [going, *turns, *stacked], arena
        )
        limit = None if value.limit is None else self._place(value.limit)[0]
        condition = None if value.condition is None else self._place(value.condition)[0]
        self.steps.append(
            lambda: LoopStep(
                body(),
                None if limit is None else ScalarLoad(_resolve(limit), DType.of("int64")),
                None if condition is None else ScalarLoad(_resolve(condition), DType.of("bool")),
                tuple(zip(map(_resolve, start), map(_resolve, carried), sizes, strict=True)),
                tuple(rows),
                value.bound,
                _resolve(count),
            )
        )

    def _bind_dim(self, var: Var, value: BindDim) -> None:
        place = self.places[var] = self._place(value.value)
        symbol = value.symbol
        assert isinstance(symbol, Symbol)
        self.late[symbol] = self._largest(value.bound)
        self.steps.append(
            lambda: BindStep(symbol, ScalarLoad(_resolve(place[0]), DType.of("int64")), value.bound)
        )

    def _function_call(
        self,
        name: str,
        args: Sequence[GraphExpr],
        inputs: Sequence[_Place],
        outputs: Sequence[_Place],
        arena: _Place | None,
    ) -> Callable[[], FunctionCall]:
        values = self._symbol_values(name, args)
        inner = self._is_inner(name)
        if inner:
            assert self.group is not None
            handed = dict(zip(self.functions.symbols(name), values, strict=True))
            self.group.calls.setdefault(self.name, []).append((name, handed))
        return lambda: FunctionCall(
            name,
            tuple(map(_resolve, inputs)),
            tuple(map(_resolve, outputs)),
            tuple(values),
            Storage("arena", 0, self.arena_size) if inner or arena is None else _resolve(arena),
        )

    # -- recursion ---------------------------------------------------------------------------

    def _is_inner(self, name: str) -> bool:
        """Whether a call of `name` may lead back to this function."""
        return self.group is not None and name in self.group.members

    def _depth_check(self) -> tuple[Step, ...]:
        """The first step of a function at whose entry levels of recursion are counted."""
        if self.group is None or self.name not in self.group.counted:
            return ()
        return (DepthStep(self.group.left, self.group.most),)

    def _arena(
        self, calls: Sequence[tuple[str, Sequence[GraphExpr]]], number: int
    ) -> _Place | None:
        """The memory of one of several calls; calls inside of a group have theirs behind all."""
        sizes = [self._arena_of(name, args) for name, args in calls if not self._is_inner(name)]
        return self._memory(functools.reduce(maximum, sizes), number) if sizes else None

    def _symbol_values(self, name: str, args: Sequence[GraphExpr]) -> list[Expr]:
        """The values of the symbols of a called function, expressions of those of this one."""
        function, group = self.functions.function(name), self.functions.groups.get(name)
        params = [_tensor(param).shape for param in function.params]
        known = match_symbols(params, [_tensor(arg).shape for arg in args])
        values = {symbol: known.get(symbol, symbol) for symbol in symbols_of_function(function)}
        if group is None:
            return list(values.values())
        if self._is_inner(name):
            count = group.left - 1 if name in group.counted else group.left
            return [*values.values(), count, group.most]
        self.functions.plan(name)  # which tells how the group hands its symbols on
        limit = self._largest(group.limit_of(name, values))
        return [*values.values(), limit if name in group.counted else limit + 1, limit]

    def _arena_of(self, name: str, args: Sequence[GraphExpr]) -> Expr:
        """The bytes that a called function works in, at most."""
        plan, group = self.functions.plan(name), self.functions.groups.get(name)
        values = dict(zip(plan.symbols, self._symbol_values(name, args), strict=True))
        size = substitute(plan.arena_size, values)
        if group is not None:
            frames = {member: self.functions.plans[member].arena_size for member in group.members}
            size = group.stack_size(name, values, frames)
        return maximum(self._largest(simplify_dim(size)), IntImm(ALIGNMENT))

    def _largest(self, size: Expr) -> Expr:
        """The largest value of a size, whatever the symbols turn out to be that steps bind."""
        return largest(size, self.late)

    def _byte_size(self, type_: TensorType) -> Expr:
        """Bytes that a tensor may need, rounded up to the alignment."""
        size = self._largest(dense_size(type_))
        fixed = as_int(size)
        if fixed is not None:
            return IntImm(-(-fixed // ALIGNMENT) * ALIGNMENT)
        return (size + (ALIGNMENT - 1)) // ALIGNMENT * ALIGNMENT

    # -- kernels -----------------------------------------------------------------------------

    def _arguments(self, call: CallDPS) -> tuple[list[GraphExpr], list[_Number]]:
        """The tensors of a call, and its numbers, in order."""
        callee = self.module.functions.get(call.callee.name)
        pairs = arguments_of(call, callee) if isinstance(callee, PrimFunc) else None
        given = [(isinstance(arg, Scalar), arg) for arg in call.args]
        if pairs is not None:
            given = [(isinstance(p, Symbol), arg) for p, arg in pairs if isinstance(arg, GraphExpr)]
        numbers: list[_Number] = []
        for is_number, arg in given:
            if is_number:
                known = scalar_of(arg)
                numbers.append((self._place(arg)[0], arg.type.dtype) if known is None else known)  # type: ignore[attr-defined]
        return tensors_of(self.module, call), numbers

    def _overwritten(
        self, call: CallDPS, args: list[_Place], type_: TensorType, number: int, end: int
    ) -> _Place | None:
        """An argument of `call` that its only result may be written over."""
        kernel = self.module.functions.get(call.callee.name)
        if not isinstance(kernel, PrimFunc):
            return None
        for source in overwritten_parameters(kernel):
            place = args[source]
            value = place.value
            if value is None or value.end > number or value.start == number:
                continue
            if sum(other.value is value for other in args) > 1:
                continue
            if structural_equal(value.size, self._byte_size(type_)):
                value.end = max(value.end, end)
                return place
        return None

    def _kept(
        self, var: Var, read: Sequence[Sequence[_Place]], end: int
    ) -> Callable[[int, TensorType], _Place | None]:
        """Where a call, a branch or a loop leaves a result: where the value is already that it
        takes over, if nothing else reads that. read: what each of the calls reads."""

        def place_of(field: int, type_: TensorType) -> _Place | None:
            before = self.lifetimes.predecessor(var, field)
            place = _Place() if before is None else self._place(before)[0]
            value = place.value
            if value is None or value.end > len(self.steps) or value.start == len(self.steps):
                return None
            if any(sum(other.value is value for other in call) > 1 for call in read):
                return None
            if not structural_equal(value.size, self._byte_size(type_)):
                return None
            value.end = max(value.end, end)
            return place

        return place_of


def _host_number(number: _Number) -> Expr | ScalarLoad:
    if isinstance(number, Expr):
        return number
    place, dtype = number
    return ScalarLoad(_resolve(place), dtype)


def _symbols_of(call: CallDPS) -> tuple[Expr, ...]:
    symbols: Any = call.attrs.get("symbols", ())
    return tuple(symbols)


def _resolve(place: _Place) -> Storage:
    if place.storage is not None:
        return place.storage
    assert place.value is not None
    assert place.value.offset is not None
    return Storage("arena", 0, place.value.offset)


def _tensor(value: GraphExpr) -> TensorType:
    if not isinstance(value.type, TensorType):
        raise UserError("what a loop or a branch uses must be tensors", span=value.span)
    return value.type
