# SPDX-License-Identifier: Apache-2.0
"""LLVM IR text to optimised assembly and object code.

This is what worker processes run, so it imports llvmlite and nothing else of weight.
"""

from __future__ import annotations

import functools
import time
from typing import Any, NamedTuple

import llvmlite.binding as llvm


class Machine(NamedTuple):
    """What LLVM must know of a target."""

    triple: str
    cpu: str
    features: str


class Compiled(NamedTuple):
    """The outcome of one module: the object, its assembly when that was asked for, and the
    seconds that LLVM took."""

    object_code: bytes
    assembly: str
    seconds: float


@functools.cache
def _initialize(native_only: bool) -> None:
    if native_only:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
    else:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()


def compile_ir(
    text: str,
    machine: Machine,
    *,
    vectorize: bool = False,
    assembly: bool = False,
    object_code: bool = True,
) -> Compiled:
    """Optimise a module and generate code.

    vectorize: let LLVM look for vectors itself. Raises RuntimeError when the text is no valid
    module or the target is unknown; an error of LLVM's back end ends the process.
    """
    start = time.perf_counter()
    module, target_machine = optimize_ir(text, machine, vectorize=vectorize)
    asm = target_machine.emit_assembly(module.clone()) if assembly else ""
    code = target_machine.emit_object(module) if object_code else b""
    return Compiled(code, asm, time.perf_counter() - start)


def optimize_ir(text: str, machine: Machine, *, vectorize: bool = False) -> tuple[Any, Any]:
    """The optimised module, and a target machine for it."""
    _initialize(machine.triple == llvm.get_process_triple())
    target = llvm.Target.from_triple(machine.triple)
    target_machine = target.create_target_machine(
        cpu=machine.cpu, features=machine.features, opt=3, reloc="pic", codemodel="default"
    )
    module = llvm.parse_assembly(text)
    module.triple = machine.triple
    module.data_layout = str(target_machine.target_data)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = vectorize
    # LLVM 22 packs straight-line loads into masked ones of lengths like 28, which its own back
    # end then fails on.
    options.slp_vectorization = False
    options.loop_interleaving = vectorize
    passes = llvm.create_pass_builder(target_machine, options)
    passes.getModulePassManager().run(module, passes)
    return module, target_machine
