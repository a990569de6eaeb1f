# SPDX-License-Identifier: Apache-2.0
"""The host side of a model as LLVM IR: `main`, sizes, and the descriptor `heddle_model`.

The functions themselves are written by `host_steps`. The layout of the structures is that of
crt/heddle_abi.h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from heddle.codegen.llvm.builder import FunctionBuilder, ModuleBuilder
from heddle.codegen.llvm.expressions import ExpressionEmitter
from heddle.codegen.llvm.host_steps import (
    HostFunction,
    function_symbol,
    load_late_symbols,
    load_symbols,
)
from heddle.ir.dtype import DType
from heddle.ir.expr import Expr, Var, as_int
from heddle.passes.graph.host_plan import (
    ALIGNMENT,
    HostPlan,
    PlanTensor,
    largest,
)
from heddle.support import InternalError
from heddle.target import Target

ABI_VERSION: Final = 4
_COMPUTED: Final = -(1 << 62)
"""A dimension of an output that is an expression: no symbol's code."""
_CODES: Final = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "bool": 6}
_ARG: Final = "{ ptr, i8, i8, i16, i32, ptr, i32 }"
_MODEL: Final = (
    "{ i32, ptr, i32, i32, i32, i32, i32, ptr, ptr, ptr, ptr, ptr, ptr, i64, i64, ptr, ptr, ptr, "
    "ptr, ptr, i32, ptr }"
)
_DATA: Final = "{ i32, i32, i32, ptr }"


def host_ir(
    plan: HostPlan, symbols: Mapping[str, str], target: Target, *, metadata: str = "{}"
) -> str:
    """The LLVM IR of the host functions of a model.

    symbols: the C symbol of every kernel that the plan calls. metadata: JSON for the library.
    """
    module = ModuleBuilder(target.triple, target.features, target.vector_bits)
    numbers = {name: place for place, name in enumerate(plan.kernels)}
    for name, callee in plan.functions.items():
        HostFunction(module, callee, symbols, numbers).write(function_symbol(name))
    HostFunction(module, plan, symbols, numbers).write("main")
    _arena_size(module, plan)
    dims = [dim for output in plan.outputs for dim in output.type.shape]
    _dims(module, plan, "output_dims", [largest(dim, plan.late_symbols) for dim in dims])
    if plan.late_symbols:
        _dims(module, plan, "final_dims", dims)
    _descriptor(module, plan, metadata)
    return module.text()


def _arena_size(module: ModuleBuilder, plan: HostPlan) -> None:
    b = FunctionBuilder(module)
    emitter = ExpressionEmitter(b)
    load_symbols(b, emitter, plan, "%symbols")
    size = emitter.value(plan.arena_size)
    for place, expected in plan.symbol_values:  # a negative size says which symbol does not fit
        same = b.op(f"icmp eq i64 {emitter.value(plan.symbols[place])}, {emitter.value(expected)}")
        size = b.op(f"select i1 {same}, i64 {size}, i64 {-1 - place}")
    b.void(f"ret i64 {size}")
    module.functions.append(
        f"define internal i64 @arena_size(ptr %symbols) nounwind {{\n{b.body()}\n}}"
    )


def _dims(module: ModuleBuilder, plan: HostPlan, name: str, dims: Sequence[Expr]) -> None:
    b = FunctionBuilder(module)
    emitter = ExpressionEmitter(b)
    load_symbols(b, emitter, plan, "%symbols")
    if name == "final_dims":
        load_late_symbols(b, emitter, plan, "%symbols")
    for place, dim in enumerate(dims):
        slot = b.op(f"getelementptr inbounds i64, ptr %dims, i64 {place}")
        b.void(f"store i64 {emitter.value(dim)}, ptr {slot}")
    b.void("ret void")
    module.functions.append(
        f"define internal void @{name}(ptr %symbols, ptr %dims) nounwind {{\n{b.body()}\n}}"
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
    return str(_COMPUTED)


def _arguments(
    module: ModuleBuilder, plan: HostPlan, tensors: Sequence[PlanTensor], *, is_input: bool
) -> str:
    kind = "input" if is_input else "output"
    symbols = {var: place for place, var in enumerate((*plan.symbols, *plan.late_symbols))}
    described = []
    for place, tensor in enumerate(tensors):
        dtype: DType = tensor.type.dtype
        dims = [_dim_code(d, symbols, tensor, is_input=is_input) for d in tensor.type.shape]
        pointer = _array(module, f"{kind}_dims.{place}", "i64", dims)
        memory = int(place in plan.donated) if is_input else 1 + plan.shared.get(place, -1)
        described.append(
            f"{{ ptr {module.string(tensor.name)}, i8 {_CODES[dtype.kind]}, i8 {dtype.bits}, "
            f"i16 1, i32 {len(dims)}, ptr {pointer}, i32 {memory} }}"
        )
    return _array(module, f"{kind}s", _ARG, described)


def _data(module: ModuleBuilder, plan: HostPlan) -> str:
    described = []
    for place, item in enumerate(plan.data):
        arity = _array(module, f"arity.{place}", "i64", [str(count) for count in item.arity])
        numbers = f"i32 {item.tags}, i32 {item.children}, i32 {len(item.arity)}"
        described.append(f"{{ {numbers}, ptr {arity} }}")
    return _array(module, "data", _DATA, described)


def _descriptor(module: ModuleBuilder, plan: HostPlan, metadata: str) -> None:
    inputs = _arguments(module, plan, plan.inputs, is_input=True)
    outputs = _arguments(module, plan, plan.outputs, is_input=False)
    names = [module.string(var.name) for var in (*plan.symbols, *plan.late_symbols)]
    lows = [str(low) for low, _ in plan.symbol_ranges]
    highs = [str(high) for _, high in plan.symbol_ranges]
    kernels = [module.string(name) for name in plan.kernels]
    fields = [
        f"i32 {ABI_VERSION}",
        f"ptr {module.string(plan.name)}",
        f"i32 {len(plan.inputs)}",
        f"i32 {len(plan.outputs)}",
        f"i32 {len(plan.symbols)}",
        f"i32 {len(plan.late_symbols)}",
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
        f"ptr {'@final_dims' if plan.late_symbols else 'null'}",
        "ptr @main",
        f"ptr {module.string(metadata)}",
        f"i32 {len(plan.data)}",
        f"ptr {_data(module, plan)}",
    ]
    module.globals.append(f"@heddle_model = constant {_MODEL} {{ {', '.join(fields)} }}")
