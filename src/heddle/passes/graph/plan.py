# SPDX-License-Identifier: Apache-2.0
"""Plan memory: give every value of the lowered `main` a place, and write it down as a `HostPlan`.

Values live from the kernel that writes them to the last kernel that reads them (through any view).
Values of known size are placed largest first, each at the lowest offset of the arena where it
overlaps nothing that is alive at the same time. Values of symbolic size follow behind: a value
takes the slot of one that has died, whose size becomes the larger of the two. Results are written
straight into the outputs.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from heddle.graph.dps import arguments_of, scalar_of
from heddle.graph.nodes import (
    Call,
    CallDPS,
    Constant,
    Function,
    GraphExpr,
    Scalar,
    Tuple,
    TupleGetItem,
    Var,
)
from heddle.ir.dtype import DType
from heddle.ir.expr import Expr, IntImm, as_int, const, maximum
from heddle.ir.expr import Var as Symbol
from heddle.ir.module import IRModule
from heddle.ir.structural import structural_equal
from heddle.ir.types import TensorType, TupleType
from heddle.passes.graph.anf import free_symbols, nominal_value
from heddle.passes.graph.fuse import is_view
from heddle.passes.graph.host_plan import (
    ALIGNMENT,
    SYMBOL_MAX,
    HostPlan,
    KernelCall,
    MemoryReport,
    PlanConstant,
    PlanTensor,
    ScalarLoad,
    Storage,
)
from heddle.support import InternalError, UserError
from heddle.tir.nodes import PrimFunc

_SAMPLE: Final = 64


@dataclass(slots=True, eq=False)
class _Value:
    """One piece of memory in the arena, alive during the calls [start, end]."""

    size: Expr
    start: int
    end: int
    offset: Expr | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor is: a value of the arena, or fixed storage."""

    value: _Value | None = None
    storage: Storage | None = None


_Number: TypeAlias = "Expr | tuple[_Place, DType]"
"""A number of a call, or where it is when the call is made."""


def plan_memory(module: IRModule, *, name: str = "main") -> HostPlan:
    """The host plan of the lowered function `name` of `module`.

    A kernel writes over an input that dies there if its attribute "inplace" names the pair and its
    attribute "noalias" is False, so that the code generator has not promised otherwise.

    Raises `UserError` for inputs whose symbolic dimensions cannot be told from their shapes.
    """
    function = module[name]
    if not isinstance(function, Function):
        raise UserError(f"`{name}` is not a graph function")
    return _Planner(module, function, name).run()


class _Planner:
    def __init__(self, module: IRModule, function: Function, name: str) -> None:
        self.module = module
        self.function = function
        self.name = name
        self.places: dict[Any, tuple[_Place, ...]] = {}
        self.values: list[_Value] = []
        self.constants = _Constants()
        self.calls: list[tuple[CallDPS, list[_Place], list[_Number]]] = []
        self.aliases: dict[Var, tuple[Var, ...]] = {}  # views and tuples: whose memory they are

    def run(self) -> HostPlan:
        """Place everything."""
        inputs = self._inputs()
        symbols = self._symbols([item.type for item in inputs])
        outputs = self._outputs()
        last_use = self._last_uses()
        for binding in self.function.bindings:
            self._binding(binding.var, binding.value, last_use)
        for position, item in enumerate(self._result_fields()):
            placed = self._place(item)[0].storage
            if placed is None or placed.kind != "output" or placed.index != position:
                raise InternalError(f"result {position} of `{self.name}` is not in its output")
        report, arena = _place_values(self.values)
        calls = tuple(
            KernelCall(
                call.callee.name,
                tuple(_resolve(place) for place in args),
                (*map(_host_number, scalars), *_symbols_of(call)),
                str(call.attrs.get("label", "")),
            )
            for call, args, scalars in self.calls
        )
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
            calls=calls,
            report=report,
        )

    # -- interface ---------------------------------------------------------------------------

    def _inputs(self) -> tuple[PlanTensor, ...]:
        inputs = []
        for position, param in enumerate(self.function.params):
            if not isinstance(param.type, TensorType):
                raise UserError(f"input `{param.name}` is a tuple; only tensors can be inputs")
            inputs.append(PlanTensor(param.name, param.type))
            self.places[param] = (_Place(storage=Storage.input(position)),)
        return tuple(inputs)

    def _symbols(self, types: Sequence[TensorType]) -> tuple[Symbol, ...]:
        symbols = free_symbols(types)
        bare = {dim for item in types for dim in item.shape if isinstance(dim, Symbol)}
        for symbol in symbols:
            if symbol not in bare:
                raise UserError(
                    f"dimension `{symbol.name}` occurs only inside expressions of input shapes; "
                    "some input must have it as a dimension of its own"
                )
        return tuple(symbols)

    def _result_fields(self) -> tuple[GraphExpr, ...]:
        result = self.function.result
        return result.fields if isinstance(result, Tuple) else (result,)

    def _outputs(self) -> tuple[PlanTensor, ...]:
        """Describe the outputs, and place the values that are written into them."""
        names = self.function.attrs.get("output_names", ())
        assert isinstance(names, Sequence)
        owners = {binding.var: binding.value for binding in self.function.bindings}
        outputs = []
        for position, item in enumerate(self._result_fields()):
            if not isinstance(item.type, TensorType):
                raise UserError("results must be tensors, or one tuple of tensors")
            fallback = item.name if isinstance(item, Var) else f"output{position}"
            outputs.append(
                PlanTensor(names[position] if position < len(names) else fallback, item.type)
            )
            self._claim(item, position, owners)
        return tuple(outputs)

    def _claim(self, item: GraphExpr, position: int, owners: Mapping[Var, GraphExpr]) -> None:
        """Place in output number `position` the kernel result that `item` is a view of."""
        field = 0
        while True:
            value = owners.get(item) if isinstance(item, Var) else None
            if isinstance(value, CallDPS):
                break
            if is_view(value):
                assert isinstance(value, Call)
                item = value.args[0]
            elif isinstance(value, TupleGetItem):
                source: Any = value.value
                inner = owners.get(source, source)
                if isinstance(inner, Tuple):
                    item = inner.fields[value.index]
                else:
                    item, field = source, value.index
            elif isinstance(value, Var):
                item = value
            else:
                raise InternalError(
                    f"result {position} of `{self.name}` is no kernel's result; run `lower` first"
                )
        key = (item, field)
        if key in self.places:
            raise InternalError(f"result {position} of `{self.name}` is returned twice")
        self.places[key] = (_Place(storage=Storage.output(position)),)

    # -- bindings ----------------------------------------------------------------------------

    def _last_uses(self) -> dict[Var, int]:
        """The number of the last kernel call that reads each variable, views looked through.
        A value that nothing reads dies where it is made."""
        call, last = -1, dict[Var, int]()
        for binding in self.function.bindings:
            value = binding.value
            if isinstance(value, CallDPS):
                call += 1
                for item in value.args:
                    for source in self._sources(item):
                        last[source] = call
            else:
                self.aliases[binding.var] = tuple(_vars(value))
        return last

    def _sources(self, item: GraphExpr) -> list[Var]:
        found: dict[Var, None] = {}
        stack = list(_vars(item))
        while stack:
            var = stack.pop()
            if var not in found:
                found[var] = None
                stack.extend(self.aliases.get(var, ()))
        return list(found)

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

    def _binding(self, var: Var, value: GraphExpr, last_use: Mapping[Var, int]) -> None:
        if not isinstance(value, CallDPS):
            self.places[var] = self._place(value)
            return
        number = len(self.calls)
        tensors, scalars = self._arguments(value)
        args = [place for item in tensors for place in self._place(item)]
        types = var.type.fields if isinstance(var.type, TupleType) else (var.type,)
        end = max(number, last_use.get(var, number))
        results = []
        for field, item in enumerate(types):
            assert isinstance(item, TensorType)
            fixed = self.places.get((var, field))
            if fixed is not None:
                results.append(fixed[0])
                continue
            place = self._overwritten(value, args, item, number, end)
            if place is None:
                place = _Place(_Value(_byte_size(item), number, end))
                self.values.append(place.value)  # type: ignore[arg-type]
            results.append(place)
        self.places[var] = tuple(results)
        self.calls.append((value, [*args, *results], scalars))

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
        return [arg for is_number, arg in given if not is_number], numbers

    def _overwritten(
        self, call: CallDPS, args: list[_Place], type_: TensorType, number: int, end: int
    ) -> _Place | None:
        """An argument of `call` that its only result may be written over."""
        kernel = self.module.functions.get(call.callee.name)
        if not isinstance(kernel, PrimFunc) or kernel.attrs.get("noalias", True):
            return None
        if any(isinstance(param, Symbol) for param in kernel.params):
            return None  # "inplace" counts parameters, `args` has buffers only
        pairs: Any = kernel.attrs.get("inplace", ())
        for source, _ in pairs:
            place: _Place = args[source]
            value = place.value
            if value is None or value.end > number or value.start == number:
                continue
            if sum(other.value is value for other in args) > 1:
                continue
            if structural_equal(value.size, _byte_size(type_)):
                value.end = max(value.end, end)
                return place
        return None


def _host_number(number: _Number) -> Expr | ScalarLoad:
    if isinstance(number, Expr):
        return number
    place, dtype = number
    return ScalarLoad(_resolve(place), dtype)


def _symbols_of(call: CallDPS) -> tuple[Expr, ...]:
    symbols: Any = call.attrs.get("symbols", ())
    return tuple(symbols)


def _vars(value: GraphExpr) -> list[Var]:
    if isinstance(value, Var):
        return [value]
    if is_view(value):
        assert isinstance(value, Call)
        return _vars(value.args[0])
    if isinstance(value, Tuple):
        return [var for item in value.fields for var in _vars(item)]
    if isinstance(value, TupleGetItem):
        return _vars(value.value)
    return []


def _resolve(place: _Place) -> Storage:
    if place.storage is not None:
        return place.storage
    assert place.value is not None
    assert place.value.offset is not None
    return Storage("arena", 0, place.value.offset)


def _byte_size(type_: TensorType) -> Expr:
    """Bytes of a dense tensor, rounded up to the alignment."""
    size: Expr = const(type_.dtype.nbytes)
    for dim in type_.shape:
        size = size * dim
    fixed = as_int(size)
    if fixed is not None:
        return IntImm(-(-fixed // ALIGNMENT) * ALIGNMENT)
    return (size + (ALIGNMENT - 1)) // ALIGNMENT * ALIGNMENT


# -- the constants --------------------------------------------------------------------------------


class _Constants:
    """The constants, equal ones once."""

    def __init__(self) -> None:
        self.items: list[PlanConstant] = []
        self.size = 0
        self._by_identity: dict[int, Storage] = {}
        self._by_sample: dict[object, list[tuple[np.ndarray, Storage]]] = {}
        self._keep_alive: list[np.ndarray] = []

    def place(self, data: np.ndarray) -> Storage:
        """Where `data` is among the constants."""
        found = self._by_identity.get(id(data))
        if found is None:
            found = self._by_identity[id(data)] = self._add(data)
            self._keep_alive.append(data)
        return found

    def _add(self, data: np.ndarray) -> Storage:
        dense = np.ascontiguousarray(data)
        raw = dense.reshape(-1).view(np.uint8)
        # A sample tells most constants apart, so that only likely twins are compared in full.
        step = max(1, raw.size // _SAMPLE)
        twins = self._by_sample.setdefault((raw.size, raw[::step].tobytes()), [])
        for other, storage in twins:
            if np.array_equal(other, raw):
                return storage
        storage = Storage("constant", 0, IntImm(self.size))
        twins.append((raw, storage))
        self.items.append(PlanConstant(self.size, dense))
        self.size += -(-raw.size // ALIGNMENT) * ALIGNMENT
        return storage


# -- placement ------------------------------------------------------------------------------------


def _place_values(values: Sequence[_Value]) -> tuple[MemoryReport, Expr]:
    """Give every value an offset; returns the report and the size of the arena."""
    fixed = [value for value in values if as_int(value.size) is not None]
    symbolic = [value for value in values if as_int(value.size) is None]
    end = _place_fixed(fixed)
    arena = _place_symbolic(symbolic, IntImm(end))
    nominal = {id(value): nominal_value(value.size) for value in values}
    report = MemoryReport(
        arena=nominal_value(arena) if symbolic else end,
        live_peak=_live_peak(values, nominal),
        unshared=sum(nominal.values()),
    )
    return report, arena


def _place_fixed(values: Sequence[_Value]) -> int:
    """Largest first, each at the lowest free offset; returns the end of all."""
    placed: list[tuple[int, int, _Value]] = []  # offset, end, value; sorted by offset
    for value in sorted(values, key=lambda v: (-_known(v.size), v.start)):
        size, offset = _known(value.size), 0
        for low, high, other in placed:
            if other.start > value.end or value.start > other.end:
                continue
            if low - offset >= size:
                break
            offset = max(offset, high)
        value.offset = IntImm(offset)
        insort(placed, (offset, offset + size, value), key=lambda item: item[0])
    return max((high for _, high, _ in placed), default=0)


def _known(size: Expr) -> int:
    number = as_int(size)
    assert number is not None
    return number


@dataclass(slots=True, eq=False)
class _Slot:
    size: Expr
    nominal: int
    end: int
    values: list[_Value]


def _place_symbolic(values: Sequence[_Value], start: Expr) -> Expr:
    """Values share slots; a dead slot of the nearest nominal size is taken. Returns the end."""
    slots: list[_Slot] = []
    for value in sorted(values, key=lambda v: v.start):
        size = nominal_value(value.size)
        free = [slot for slot in slots if slot.end < value.start]
        best = min(free, key=lambda slot: abs(slot.nominal - size), default=None)
        if best is None:
            best = _Slot(value.size, size, value.end, [])
            slots.append(best)
        elif not structural_equal(best.size, value.size):
            best.size = maximum(best.size, value.size)
            best.nominal = max(best.nominal, size)
        best.end = value.end
        best.values.append(value)
    offset = start
    for slot in slots:
        for value in slot.values:
            value.offset = offset
        offset = offset + slot.size
    return offset


def _live_peak(values: Sequence[_Value], nominal: Mapping[int, int]) -> int:
    changes: dict[int, int] = {}
    for value in values:
        size = nominal[id(value)]
        changes[value.start] = changes.get(value.start, 0) + size
        changes[value.end + 1] = changes.get(value.end + 1, 0) - size
    peak = live = 0
    for when in sorted(changes):
        live += changes[when]
        peak = max(peak, live)
    return peak
