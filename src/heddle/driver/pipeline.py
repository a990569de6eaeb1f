# SPDX-License-Identifier: Apache-2.0
"""The compiler, top to bottom: every step from an imported module to native code, by name.

import      frontend.onnx          a model file becomes graph functions
graph       GRAPH passes below     graph functions become calls of loop functions
schedule    schedule.rules         each loop function gets its default schedule
kernels     passes.tir, codegen    loop functions become object code, several at a time
plan        passes.graph.plan      values get their places in one arena
host        codegen.host           the graph function becomes a native function
link        runtime.toolchain      objects and the C runtime become one library
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from heddle.codegen import CompiledKernel, KernelCompiler, compile_text, host_ir
from heddle.driver.report import CompileReport, KernelCost
from heddle.ir.expr import as_int
from heddle.ir.module import IRModule
from heddle.ir.passes import Pass, Pipeline
from heddle.passes.graph.assign_layouts import AssignLayouts
from heddle.passes.graph.blocked import DotLayouts
from heddle.passes.graph.canonicalise import canonicalise
from heddle.passes.graph.closures import specialise_closures
from heddle.passes.graph.data import lower_data
from heddle.passes.graph.eliminate import eliminate_common_subexpressions, eliminate_dead_code
from heddle.passes.graph.fold_constants import fold_constants
from heddle.passes.graph.fuse import fuse
from heddle.passes.graph.host_plan import HostPlan, KernelCall
from heddle.passes.graph.integers import integers
from heddle.passes.graph.lower import Lower
from heddle.passes.graph.mixed_precision import mixed_precision
from heddle.passes.graph.normalise import normalise
from heddle.passes.graph.outline import outline
from heddle.passes.graph.plan import plan_memory
from heddle.passes.graph.recursion import separate_main
from heddle.passes.graph.split_products import SplitProducts
from heddle.passes.graph.tail_calls import loop_tail_calls
from heddle.passes.graph.winograd import DEFAULT_ERROR, Winograd
from heddle.runtime.toolchain import link_shared
from heddle.schedule.rules import (
    default_schedule,
    dot_block,
    dot_panel,
    dot_row,
    panel_width,
    prefers_pixels,
    split_depth,
    takes_across,
)
from heddle.support import UserError
from heddle.support.version import VERSION
from heddle.target import Target
from heddle.tir.nodes import Block, Buffer, PrimFunc

PRECISIONS: Final = ("float32", "bf16")
"""What `precision` of `heddle.compile` may be."""


def check_precision(precision: str, target: Target) -> None:
    """Raise `UserError` when there is no such precision, or `target` has no instructions for it."""
    if precision not in PRECISIONS:
        known = ", ".join(f'"{name}"' for name in PRECISIONS)
        raise UserError(f'precision "{precision}": expected one of {known}')
    if precision == "bf16" and dot_panel(target, "bfloat16", "bfloat16", None, 64, 64) is None:
        raise UserError(
            f'precision "bf16": the target `{target}` has no bfloat16 products (avx512bf16); by '
            "conversions they would be slower than float32, so compile for float32"
        )


def graph_pipeline(
    target: Target, *, precision: str = "float32", winograd_error: float = DEFAULT_ERROR
) -> Pipeline:
    """The passes from an imported module to a module of scheduled loop functions.

    precision: "float32" computes what the model says; "bf16" rounds the operands of products.
    winograd_error: what convolutions may round, relative to the largest output of a layer.
    """
    check_precision(precision, target)

    def panel(rows: int | None, columns: int, depth: int) -> int:
        return panel_width(rows, columns, depth, target)

    dots = DotLayouts(*(partial(rule, target) for rule in (dot_panel, dot_block, dot_row)))
    pixels = partial(prefers_pixels, target=target)
    layouts = AssignLayouts.of(
        target, panel_width=panel, dots=dots, takes_across=takes_across, pixels=pixels
    )
    split = SplitProducts(partial(split_depth, target=target))
    winograd = Winograd.of(target, error=winograd_error)
    common = "Compute every value once."
    rounding = [Pass("mixed_precision", mixed_precision)] if precision == "bf16" else []
    return Pipeline(
        [
            Pass("separate_main", separate_main),
            Pass("specialise_closures", specialise_closures),
            Pass("lower_data", lower_data),
            Pass("normalise", normalise),
            Pass("loop_tail_calls", loop_tail_calls),
            Pass("outline", outline, "Make branches functions of their own."),
            Pass("fold_constants", fold_constants, "Evaluate calls whose arguments are constants."),
            Pass("canonicalise", canonicalise),
            Pass("eliminate_common_subexpressions", eliminate_common_subexpressions, common),
            Pass("integers", integers),
            *rounding,
            Pass("split_products", split, "Make sums of deep products."),
            Pass("assign_layouts", layouts, "Block the channels of images, pack constant weights."),
            Pass("winograd", winograd, "Compute convolutions by tiles where that is faster."),
            Pass("eliminate_dead_code", eliminate_dead_code),
            Pass("fuse", fuse, "Group operators into kernels."),
            Pass("lower", Lower(in_place=True), "Turn kernels into loop functions."),
            Pass("schedule", ScheduleKernels(target), "Give each loop function its schedule."),
        ]
    )


@dataclass(frozen=True, slots=True)
class ScheduleKernels:
    """The pass that gives each loop function without a schedule its default one."""

    target: Target

    def __call__(self, module: IRModule) -> IRModule:
        """Schedule the loop functions for the target."""
        scheduled = {
            name: default_schedule(func, self.target).func.replace(
                attrs={**func.attrs, "scheduled": True}
            )
            for name, func in module.functions.items()
            if isinstance(func, PrimFunc) and not func.attrs.get("scheduled")
            if isinstance(func.body, Block)  # what has none is lowered already
        }
        return module.with_functions(scheduled)


def compile_kernels(
    module: IRModule, target: Target, report: CompileReport, *, use_cache: bool = True
) -> tuple[HostPlan, dict[str, CompiledKernel]]:
    """The memory plan of a module, and the object code of each kernel that it calls."""
    attrs = module["main"].attrs  # type: ignore[attr-defined]
    plan = replace(plan_memory(module), name=str(attrs.get("name", "model")))
    compiler = KernelCompiler(target, use_cache=use_cache)
    for name in plan.kernels:
        func = module[name]
        if not isinstance(func, PrimFunc):
            raise UserError(
                f"the model calls the C function `{name}`, which compile does not link; use "
                'heddle.build(module, libs=["helpers.c"]).main'
            )
        compiler.add(func.replace(attrs={**func.attrs, "name": name}))
    kernels = compiler.finish(progress=lambda done, of: report.tell("kernels", done / of))
    report.kernels = len(kernels)
    report.cached_kernels = sum(kernel.cached for kernel in kernels.values())
    report.kernel_costs = [
        KernelCost(name, made.lowering_seconds, made.llvm_seconds, len(made.object_code))
        for name, made in kernels.items()
        if made.llvm_seconds
    ]
    report.arena_bytes = plan.report.arena
    report.live_bytes = plan.report.live_peak
    report.constant_bytes = plan.constants_size
    return plan, kernels


def emit(
    module: IRModule,
    plan: HostPlan,
    kernels: dict[str, CompiledKernel],
    target: Target,
    directory: Path,
) -> None:
    """Write the objects, the constants and the library of a model into `directory`."""
    symbols = {name: kernel.symbol for name, kernel in kernels.items()}
    text = host_ir(plan, symbols, target, metadata=json.dumps(_metadata(module, plan, target)))
    objects = {kernel.symbol: kernel.object_code for kernel in kernels.values()}
    objects["host"] = compile_text("host", text, target).object_code
    paths = []
    for name, code in objects.items():
        paths.append(directory / f"{name}.o")
        paths[-1].write_bytes(code)
    if plan.constants_size:
        plan.constant_bytes().tofile(directory / "constants.bin")
    link_shared(paths, directory / "library.so", name=plan.name)


def _metadata(module: IRModule, plan: HostPlan, target: Target) -> dict[str, object]:
    """What the library says of itself: for profiles, and for whoever finds the file later."""
    kernels = []
    for call in plan.calls:
        attrs = module[call.kernel].attrs  # type: ignore[attr-defined]
        costs = {key: as_int(attrs.get(key, 0)) or 0 for key in ("flops", "bytes")}
        about = {"name": call.kernel, "label": call.label, **costs}
        kernels.append(about | _operands(module[call.kernel], call))
    attrs = module["main"].attrs  # type: ignore[attr-defined]
    described = {key: json.loads(str(attrs[key])) for key in ("data", "results") if key in attrs}
    return {
        "heddle": VERSION,
        "target": str(target),
        **described,
        "kernels": kernels,
        "arena": plan.report.arena,
        "live_peak": plan.report.live_peak,
    }


def _operands(kernel: object, call: KernelCall) -> dict[str, object]:
    """What a call reads and writes: the shapes of all operands, the bytes that are constants."""
    if not isinstance(kernel, PrimFunc):
        return {}
    buffers = [param for param in kernel.params if isinstance(param, Buffer)]
    constants = [
        buffer for buffer, place in zip(buffers, call.args, strict=True) if place.kind == "constant"
    ]
    sizes = [math.prod(as_int(dim) or 0 for dim in b.shape) * b.dtype.nbytes for b in constants]
    shapes = [f"{b.dtype}({', '.join(map(str, b.shape))})" for b in buffers]
    return {"constant_bytes": sum(sizes), "operands": shapes}
