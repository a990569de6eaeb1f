# SPDX-License-Identifier: Apache-2.0
"""The host side of a model as LLVM IR: `main`, sizes, and the descriptor `heddle_model`.

`main` is straight-line code: it loads the pointers and symbols of the call, then calls one kernel
after the other with addresses that are constants or sums, and leaves at the first that fails. The
layout of the structures is that of crt/heddle_abi.h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from heddle.codegen.llvm.arithmetic import from_memory
from heddle.codegen.llvm.builder import FunctionBuilder, ModuleBuilder
from heddle.codegen.llvm.expressions import ExpressionEmitter
from heddle.codegen.llvm.types import argument_type, memory_type
from heddle.ir.dtype import DType
from heddle.ir.expr import Expr, Var, as_int
from heddle.passes.graph.host_plan import (
    ALIGNMENT,
    HostPlan,
    KernelCall,
    PlanTensor,
    ScalarLoad,
    Storage,
)
from heddle.support import InternalError
from heddle.target import Target

ABI_VERSION: Final = 1
_CODES: Final = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "bool": 6}
_ARG: Final = "{ ptr, i8, i8, i16, i32, ptr }"
_MODEL: Final = (
    "{ i32, ptr, i32, i32, i32, i32, ptr, ptr, ptr, ptr, ptr, ptr, i64, i64, ptr, ptr, ptr, ptr }"
)
_CONTEXT: Final = "{ ptr, ptr, ptr, ptr, ptr, ptr }"
_FIELDS: Final = ("inputs", "outputs", "symbols", "arena", "constants", "profile")


def host_ir(
    plan: HostPlan, symbols: Mapping[str, str], target: Target, *, metadata: str = "{}"
) -> str:
    """The LLVM IR of the host functions of a model.

    symbols: the C symbol of every kernel that the plan calls. metadata: JSON for the library.
    """
    module = ModuleBuilder(target.triple, target.features, target.vector_bits)
    _main(module, plan, symbols)
    _arena_size(module, plan)
    _output_dims(module, plan)
    _descriptor(module, plan, metadata)
    return module.text()


def _load_symbols(b: FunctionBuilder, values: ExpressionEmitter, plan: HostPlan, base: str) -> None:
    for place, var in enumerate(plan.symbols):
        pointer = b.op(f"getelementptr inbounds i64, ptr {base}, i64 {place}")
        value = b.instr(f"load i64, ptr {pointer}")
        low, high = plan.symbol_ranges[place]
        b.ranges[value] = (low, high)
        values.values[var] = value


def _main(module: ModuleBuilder, plan: HostPlan, symbols: Mapping[str, str]) -> None:
    b = FunctionBuilder(module)
    emitter = ExpressionEmitter(b)
    module.declare("void @hd_profile_begin(ptr, i32)")
    module.declare("void @hd_profile_end(ptr, i32)")
    context = {}
    for place, name in enumerate(_FIELDS):
        pointer = b.op(f"getelementptr inbounds {_CONTEXT}, ptr %ctx, i32 0, i32 {place}")
        context[name] = b.instr(f"load ptr, ptr {pointer}")
    _load_symbols(b, emitter, plan, context["symbols"])
    bases = {"arena": context["arena"], "constant": context["constants"]}
    for kind, table, count in (
        ("input", context["inputs"], len(plan.inputs)),
        ("output", context["outputs"], len(plan.outputs)),
    ):
        for place in range(count):
            slot = b.op(f"getelementptr inbounds ptr, ptr {table}, i64 {place}")
            bases[f"{kind}{place}"] = b.instr(f"load ptr, ptr {slot}")
    numbers = {name: place for place, name in enumerate(plan.kernels)}
    failures = []
    for call in plan.calls:
        status = _call(b, emitter, call, bases, symbols, context["profile"], numbers[call.kernel])
        passed = b.label("next")
        failed = b.op(f"icmp ne i32 {status}, 0")
        failures.append(f"[ {status}, %{b.block} ]")
        b.branch_if(failed, "failed", passed)
        b.start(passed)
    b.void("ret i32 0")
    if failures:
        b.start("failed")
        status = b.instr(f"phi i32 {', '.join(failures)}")
        b.void(f"ret i32 {status}")
    module.functions.append(f"define internal i32 @main(ptr %ctx) nounwind {{\n{b.body()}\n}}")


def _call(
    b: FunctionBuilder,
    emitter: ExpressionEmitter,
    call: KernelCall,
    bases: Mapping[str, str],
    symbols: Mapping[str, str],
    profile: str,
    number: int,
) -> str:
    symbol = symbols.get(call.kernel)
    if symbol is None:
        raise InternalError(f"kernel `{call.kernel}` is called but was not compiled")
    kinds, given = [], []
    for storage in call.args:
        kinds.append("ptr")
        given.append(f"ptr {_address(b, emitter, storage, bases)}")
    for scalar in call.scalars:
        kind = argument_type(scalar.dtype)
        kinds.append(kind)
        given.append(f"{kind} {_number(b, emitter, scalar, bases)}")
    b.module.declare(f"i32 @{symbol}({', '.join(kinds)})")
    b.void(f"call void @hd_profile_begin(ptr {profile}, i32 {number})")
    status = b.instr(f"call i32 @{symbol}({', '.join(given)})")
    b.void(f"call void @hd_profile_end(ptr {profile}, i32 {number})")
    return status


def _number(
    b: FunctionBuilder,
    emitter: ExpressionEmitter,
    scalar: Expr | ScalarLoad,
    bases: Mapping[str, str],
) -> str:
    if isinstance(scalar, Expr):
        return emitter.value(scalar)
    pointer, dtype = _address(b, emitter, scalar.storage, bases), scalar.dtype
    value = b.instr(f"load {memory_type(dtype)}, ptr {pointer}, align {dtype.nbytes}")
    return from_memory(b, value, dtype)


def _address(
    b: FunctionBuilder, emitter: ExpressionEmitter, storage: Storage, bases: Mapping[str, str]
) -> str:
    shared = storage.kind in ("arena", "constant")
    base = bases[storage.kind if shared else f"{storage.kind}{storage.index}"]
    offset = emitter.value(storage.offset)
    return base if offset == "0" else b.op(f"getelementptr i8, ptr {base}, i64 {offset}")


def _arena_size(module: ModuleBuilder, plan: HostPlan) -> None:
    b = FunctionBuilder(module)
    emitter = ExpressionEmitter(b)
    _load_symbols(b, emitter, plan, "%symbols")
    b.void(f"ret i64 {emitter.value(plan.arena_size)}")
    module.functions.append(
        f"define internal i64 @arena_size(ptr %symbols) nounwind {{\n{b.body()}\n}}"
    )


def _output_dims(module: ModuleBuilder, plan: HostPlan) -> None:
    b = FunctionBuilder(module)
    emitter = ExpressionEmitter(b)
    _load_symbols(b, emitter, plan, "%symbols")
    dims = [dim for output in plan.outputs for dim in output.type.shape]
    for place, dim in enumerate(dims):
        slot = b.op(f"getelementptr inbounds i64, ptr %dims, i64 {place}")
        b.void(f"store i64 {emitter.value(dim)}, ptr {slot}")
    b.void("ret void")
    module.functions.append(
        f"define internal void @output_dims(ptr %symbols, ptr %dims) nounwind {{\n{b.body()}\n}}"
    )


# -- data ----------------------------------------------------------------------------------------


def _array(module: ModuleBuilder, name: str, kind: str, items: Sequence[str]) -> str:
    """A constant array and the pointer to it; `null` for an empty one."""
    if not items:
        return "null"
    listed = ", ".join(f"{kind} {item}" for item in items)
    module.globals.append(f"@{name} = internal constant [{len(items)} x {kind}] [{listed}]")
    return f"@{name}"


def _dim_code(dim: Expr, symbols: Mapping[Var, int], tensor: PlanTensor, *, is_input: bool) -> str:
    known = as_int(dim)
    if known is not None:
        return str(known)
    if isinstance(dim, Var) and dim in symbols:
        return str(-1 - symbols[dim])
    if is_input:
        raise InternalError(f"input `{tensor.name}`: a dimension is an expression, not a symbol")
    return "-1"


def _arguments(
    module: ModuleBuilder, plan: HostPlan, tensors: Sequence[PlanTensor], *, is_input: bool
) -> str:
    kind = "input" if is_input else "output"
    symbols = {var: place for place, var in enumerate(plan.symbols)}
    described = []
    for place, tensor in enumerate(tensors):
        dtype: DType = tensor.type.dtype
        dims = [_dim_code(d, symbols, tensor, is_input=is_input) for d in tensor.type.shape]
        pointer = _array(module, f"{kind}_dims.{place}", "i64", dims)
        described.append(
            f"{{ ptr {module.string(tensor.name)}, i8 {_CODES[dtype.kind]}, i8 {dtype.bits}, "
            f"i16 1, i32 {len(dims)}, ptr {pointer} }}"
        )
    return _array(module, f"{kind}s", _ARG, described)


def _descriptor(module: ModuleBuilder, plan: HostPlan, metadata: str) -> None:
    inputs = _arguments(module, plan, plan.inputs, is_input=True)
    outputs = _arguments(module, plan, plan.outputs, is_input=False)
    names = [module.string(var.name) for var in plan.symbols]
    lows = [str(low) for low, _ in plan.symbol_ranges]
    highs = [str(high) for _, high in plan.symbol_ranges]
    kernels = [module.string(name) for name in plan.kernels]
    fields = [
        f"i32 {ABI_VERSION}",
        f"ptr {module.string(plan.name)}",
        f"i32 {len(plan.inputs)}",
        f"i32 {len(plan.outputs)}",
        f"i32 {len(plan.symbols)}",
        f"i32 {len(plan.kernels)}",
        f"ptr {inputs}",
        f"ptr {outputs}",
        f"ptr {_array(module, 'symbol_names', 'ptr', names)}",
        f"ptr {_array(module, 'symbol_min', 'i64', lows)}",
        f"ptr {_array(module, 'symbol_max', 'i64', highs)}",
        f"ptr {_array(module, 'kernel_names', 'ptr', kernels)}",
        f"i64 {plan.constants_size}",
        f"i64 {ALIGNMENT}",
        "ptr @arena_size",
        "ptr @output_dims",
        "ptr @main",
        f"ptr {module.string(metadata)}",
    ]
    module.globals.append(f"@heddle_model = constant {_MODEL} {{ {', '.join(fields)} }}")
