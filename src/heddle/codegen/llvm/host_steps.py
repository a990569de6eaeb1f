# SPDX-License-Identifier: Apache-2.0
"""One graph function as one native function, step by step.

It is handed a context (crt/heddle_abi.h), as `main` is by the runtime: pointers to its inputs and
outputs, the values of its symbols, its arena, the constants. Code is straight-line, but for
conditions and loops around calls of other functions, and leaves at the first step that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from heddle.codegen.llvm.arithmetic import from_memory
from heddle.codegen.llvm.builder import FunctionBuilder, ModuleBuilder
from heddle.codegen.llvm.expressions import ExpressionEmitter
from heddle.codegen.llvm.types import argument_type, memory_type
from heddle.ir.expr import Expr
from heddle.passes.graph.host_plan import (
    SYMBOL_MAX,
    BindStep,
    BranchStep,
    DepthStep,
    FunctionCall,
    HostPlan,
    KernelCall,
    LoopStep,
    ScalarLoad,
    Storage,
    same_storage,
)
from heddle.support import InternalError

CONTEXT: Final = "{ ptr, ptr, ptr, ptr, ptr, ptr }"
_FIELDS: Final = ("inputs", "outputs", "symbols", "arena", "constants", "profile")


def load_symbols(b: FunctionBuilder, values: ExpressionEmitter, plan: HostPlan, base: str) -> None:
    """Make the symbols of a plan known, from the array at `base`."""
    for place, var in enumerate(plan.symbols):
        pointer = b.op(f"getelementptr inbounds i64, ptr {base}, i64 {place}")
        value = b.instr(f"load i64, ptr {pointer}")
        low, high = plan.symbol_ranges[place]
        b.ranges[value] = (low, high)
        values.values[var] = value


def load_late_symbols(
    b: FunctionBuilder, values: ExpressionEmitter, plan: HostPlan, base: str
) -> None:
    """Make the symbols known that steps have bound: they follow the others in the array."""
    for place, var in enumerate(plan.late_symbols):
        slot = f"getelementptr inbounds i64, ptr {base}, i64 {len(plan.symbols) + place}"
        values.values[var] = b.instr(f"load i64, ptr {b.op(slot)}")


class HostFunction:
    """Writes the native function of a plan.

    symbols: the C symbol of every kernel; numbers: the number of each in the profile.
    """

    def __init__(
        self,
        module: ModuleBuilder,
        plan: HostPlan,
        symbols: Mapping[str, str],
        numbers: Mapping[str, int],
    ) -> None:
        self.module = module
        self.plan = plan
        self.symbols = symbols
        self.numbers = numbers
        self.b = FunctionBuilder(module)
        self.values = ExpressionEmitter(self.b)
        self.context: dict[str, str] = {}
        self.bases: dict[str, str] = {}
        self.failures: list[str] = []

    def write(self, name: str) -> None:
        """Add the function to the module as `@name`."""
        b, plan = self.b, self.plan
        for place, field in enumerate(_FIELDS):
            pointer = b.op(f"getelementptr inbounds {CONTEXT}, ptr %ctx, i32 0, i32 {place}")
            self.context[field] = b.instr(f"load ptr, ptr {pointer}")
        load_symbols(b, self.values, plan, self.context["symbols"])
        self.bases = {"arena": self.context["arena"], "constant": self.context["constants"]}
        for kind, count in (("input", len(plan.inputs)), ("output", len(plan.outputs))):
            for place in range(count):
                slot = self._slot(self.context[f"{kind}s"], place)
                self.bases[f"{kind}{place}"] = b.instr(f"load ptr, ptr {slot}")
        for step in plan.steps:
            _STEPS[type(step)](self, step)
        b.void("ret i32 0")
        if self.failures:
            b.start("failed")
            status = b.instr(f"phi i32 {', '.join(self.failures)}")
            b.void(f"ret i32 {status}")
        self.module.functions.append(
            f"define internal i32 @{name}(ptr %ctx) nounwind {{\n{b.body()}\n}}"
        )

    # -- steps -------------------------------------------------------------------------------

    def kernel(self, call: KernelCall) -> None:
        """Call a loop function."""
        b = self.b
        symbol = self.symbols.get(call.kernel)
        if symbol is None:
            raise InternalError(f"kernel `{call.kernel}` is called but was not compiled")
        kinds, given = [], []
        for storage in call.args:
            kinds.append("ptr")
            given.append(f"ptr {self._address(storage)}")
        for scalar in call.scalars:
            kind = argument_type(scalar.dtype)
            kinds.append(kind)
            given.append(f"{kind} {self._number(scalar)}")
        profile = f"ptr {self.context['profile']}, i32 {self.numbers[call.kernel]}"
        for service in ("begin", "end"):
            self.module.declare(f"void @hd_profile_{service}(ptr, i32)")
        self.module.declare(f"i32 @{symbol}({', '.join(kinds)})")
        b.void(f"call void @hd_profile_begin({profile})")
        status = b.instr(f"call i32 @{symbol}({', '.join(given)})")
        b.void(f"call void @hd_profile_end({profile})")
        self._leave_if_failed(status)

    def function(self, call: FunctionCall) -> None:
        """Call a graph function."""
        self._leave_if_failed(self._enter(call, self._frame(call)))

    def branch(self, step: BranchStep) -> None:
        """Call one of two functions."""
        b = self.b
        then, otherwise, after = b.label("then"), b.label("else"), b.label("done")
        condition = self._number(step.condition)
        for number, *places in step.chosen:
            first, second = map(self._address, places)
            self.bases[f"chosen{number}"] = b.instr(
                f"select i1 {condition}, ptr {first}, ptr {second}"
            )
        b.branch_if(condition, then, otherwise)
        for label, call in ((then, step.then), (otherwise, step.otherwise)):
            b.start(label)
            with b.scope():
                self.function(call)
                b.branch(after)
        b.start(after)

    def bind(self, step: BindStep) -> None:
        """Read a dimension, and check it."""
        b = self.b
        value, bound = self._number(step.value), self.values.value(step.bound)
        outside = b.op(f"icmp ugt i64 {value}, {bound}")
        self._fail_if(
            outside, f"dimension `{step.symbol.name}` is %lld, expected 0 to %lld", value, bound
        )
        b.ranges[value] = (0, SYMBOL_MAX)
        self.values.values[step.symbol] = value
        place = len(self.plan.symbols) + list(self.plan.late_symbols).index(step.symbol)
        b.void(f"store i64 {value}, ptr {self._slot(self.context['symbols'], place, 'i64')}")

    def depth(self, step: DepthStep) -> None:
        """Leave where recursion goes deeper than there is memory for."""
        left, limit = self.values.values[step.left], self.values.values[step.limit]
        spent = self.b.op(f"icmp slt i64 {left}, 1")
        self._fail_if(spent, "the recursion is deeper than the limit of %lld levels", limit)

    def loop(self, step: LoopStep) -> None:
        """Call a function again and again."""
        b = self.b
        sizes = [self.values.value(size) for _, _, size in step.carried]
        finals = [self._address(final) for _, final, _ in step.carried]
        for (start, final, _), address, size in zip(step.carried, finals, sizes, strict=True):
            if not same_storage(start, final):
                self._copy(address, self._address(start), size)
        # Those that the body does not write in place, by their place among its inputs.
        turning = [
            place
            for place, (_, final, _) in enumerate(step.carried, start=1)
            if not same_storage(final, step.body.outputs[place])
        ]
        frame = self._frame(step.body)
        going = self._address(step.body.outputs[0])
        if step.condition is not None:
            first = b.op(f"zext i1 {self._number(step.condition)} to i8")
            b.void(f"store i8 {first}, ptr {going}")
        limit = None if step.limit is None else self._number(step.limit)
        rows = [
            (place, self._address(step.body.outputs[place]), self.values.value(size))
            for place, size in enumerate(step.row_bytes, start=1 + len(sizes))
        ]
        bound = self.values.value(step.bound)
        head, inside, after = b.label("loop"), b.label("body"), b.label("done")
        before = b.block
        b.branch(head)
        b.start(head)
        count, position = b.fresh("count"), len(b.lines)
        b.lines.append("")  # the phi, once the last block of the body is known
        with b.scope():
            more = "true"
            if step.condition is not None:
                more = b.op(f"icmp ne i8 {b.instr(f'load i8, ptr {going}')}, 0")
            if limit is not None:
                within = b.op(f"icmp slt i64 {count}, {limit}")
                more = within if more == "true" else b.op(f"and i1 {more}, {within}")
            b.branch_if(more, inside, after)
            b.start(inside)
            following = self._iteration(step.body, frame, count, bound, rows, turning)
            b.lines[position] = f"  {count} = phi i64 [ 0, %{before} ], [ {following}, %{b.block} ]"
            b.branch(head)
        b.start(after)
        b.void(f"store i64 {count}, ptr {self._address(step.count)}")
        self._settle(frame[0], count, [(k, finals[k - 1], sizes[k - 1]) for k in turning])

    def _iteration(
        self,
        body: FunctionCall,
        frame: tuple[str, str, str],
        count: str,
        bound: str,
        rows: Sequence[tuple[int, str, str]],
        turning: Sequence[int],
    ) -> str:
        """One call of the body of a loop; gives the number of the next one."""
        b, (inputs, outputs, _) = self.b, frame
        if rows:
            what = f"the loop over `{body.function}` ran more than %lld times"
            self._fail_if(b.op(f"icmp sge i64 {count}, {bound}"), what, bound)
        b.void(f"store i64 {count}, ptr {self._address(body.inputs[0])}")
        for place, base, size in rows:
            row = b.op(f"getelementptr i8, ptr {base}, i64 {b.mul(count, size)}")
            b.void(f"store ptr {row}, ptr {self._slot(outputs, place)}")
        self._leave_if_failed(self._enter(body, frame))
        for place in turning:
            self._swap(self._slot(inputs, place), self._slot(outputs, place))
        return b.instr(f"add nuw nsw i64 {count}, 1")

    def _settle(self, inputs: str, count: str, turning: Sequence[tuple[int, str, str]]) -> None:
        """After an odd number of iterations carried values that take turns lie in the other place.
        turning: of each its place among the inputs, where it ends up, and its bytes."""
        if not turning:
            return
        b = self.b
        copy, after = b.label("odd"), b.label("done")
        b.branch_if(b.op(f"trunc i64 {count} to i1"), copy, after)
        b.start(copy)
        with b.scope():
            for place, final, size in turning:
                current = b.instr(f"load ptr, ptr {self._slot(inputs, place)}")
                self._copy(final, current, size)
            b.branch(after)
        b.start(after)

    # -- calls of functions ------------------------------------------------------------------

    def _frame(self, call: FunctionCall) -> tuple[str, str, str]:
        """The arrays of inputs and outputs of a call, and its context."""
        b = self.b
        callee = self.plan.functions[call.function]
        inputs, outputs = self._array(call.inputs), self._array(call.outputs)
        room = max(1, len(call.symbols) + len(callee.late_symbols))
        symbols = b.alloca(f"[{room} x i64]", "symbols")
        for place, value in enumerate(call.symbols):
            b.void(f"store i64 {self.values.value(value)}, ptr {self._slot(symbols, place, 'i64')}")
        context = b.alloca(CONTEXT, "context")
        arena = self._address(call.arena)
        fields = (
            inputs,
            outputs,
            symbols,
            arena,
            self.context["constants"],
            self.context["profile"],
        )
        for place, field in enumerate(fields):
            slot = b.op(f"getelementptr inbounds {CONTEXT}, ptr {context}, i32 0, i32 {place}")
            b.void(f"store ptr {field}, ptr {slot}")
        return inputs, outputs, context

    def _array(self, places: Sequence[Storage]) -> str:
        array = self.b.alloca(f"[{max(1, len(places))} x ptr]", "pointers")
        for place, storage in enumerate(places):
            self.b.void(f"store ptr {self._address(storage)}, ptr {self._slot(array, place)}")
        return array

    def _enter(self, call: FunctionCall, frame: tuple[str, str, str]) -> str:
        return self.b.instr(f"call i32 @{function_symbol(call.function)}(ptr {frame[2]})")

    # -- small things ------------------------------------------------------------------------

    def _slot(self, array: str, place: int, kind: str = "ptr") -> str:
        return self.b.op(f"getelementptr inbounds {kind}, ptr {array}, i64 {place}")

    def _swap(self, a: str, b: str) -> None:
        x, y = self.b.instr(f"load ptr, ptr {a}"), self.b.instr(f"load ptr, ptr {b}")
        self.b.void(f"store ptr {y}, ptr {a}")
        self.b.void(f"store ptr {x}, ptr {b}")

    def _copy(self, target: str, source: str, size: str) -> None:
        if target != source and size != "0":
            self.module.declare("void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)")
            operands = f"ptr {target}, ptr {source}, i64 {size}, i1 false"
            self.b.void(f"call void @llvm.memcpy.p0.p0.i64({operands})")

    def _leave_if_failed(self, status: str) -> None:
        passed = self.b.label("next")
        failed = self.b.op(f"icmp ne i32 {status}, 0")
        self.failures.append(f"[ {status}, %{self.b.block} ]")
        self.b.branch_if(failed, "failed", passed)
        self.b.start(passed)

    def _fail_if(self, condition: str, message: str, *numbers: str) -> None:
        """Leave with an error when a condition holds."""
        b = self.b
        wrong, passed = b.label("wrong"), b.label("next")
        b.branch_if(condition, wrong, passed)
        b.start(wrong)
        self.module.declare("void @hd_set_error(ptr, ...)")
        text = self.module.string(f"{self.plan.name}: {message}")
        given = "".join(f", i64 {number}" for number in numbers)
        b.void(f"call void (ptr, ...) @hd_set_error(ptr {text}{given})")
        self.failures.append(f"[ 1, %{b.block} ]")
        b.branch("failed")
        b.start(passed)

    def _number(self, scalar: Expr | ScalarLoad) -> str:
        if isinstance(scalar, Expr):
            return self.values.value(scalar)
        dtype = scalar.dtype
        pointer = self._address(scalar.storage)
        value = self.b.instr(f"load {memory_type(dtype)}, ptr {pointer}, align {dtype.nbytes}")
        return from_memory(self.b, value, dtype)

    def _address(self, storage: Storage) -> str:
        shared = storage.kind in ("arena", "constant")
        base = self.bases[storage.kind if shared else f"{storage.kind}{storage.index}"]
        offset = self.values.value(storage.offset)
        if offset == "0":
            return base
        return self.b.op(f"getelementptr i8, ptr {base}, i64 {offset}")


def function_symbol(name: str) -> str:
    """The LLVM name of the native function of a graph function, between quotes."""
    safe = "".join(
        chr(byte) if chr(byte).isalnum() or byte in b"_." else f"\\{byte:02X}"
        for byte in name.encode()
    )
    return f'"graph.{safe}"'


_STEPS: Final[Mapping[type, Callable[..., None]]] = {
    KernelCall: HostFunction.kernel,
    FunctionCall: HostFunction.function,
    BranchStep: HostFunction.branch,
    LoopStep: HostFunction.loop,
    BindStep: HostFunction.bind,
    DepthStep: HostFunction.depth,
}
