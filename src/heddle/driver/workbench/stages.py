# SPDX-License-Identifier: Apache-2.0
"""The stages of one kernel, from its script to its machine code, each as text."""

from __future__ import annotations

from dataclasses import dataclass

from heddle.codegen.build import kernel_name
from heddle.codegen.llvm.kernel import kernel_ir, uses_vectors
from heddle.codegen.machine import machine_of
from heddle.passes.tir.lower import LOWERING
from heddle.schedule.schedule import Schedule
from heddle.script import to_text
from heddle.target import Target


@dataclass(frozen=True, slots=True)
class Stage:
    """group: where it belongs ("loops", "lowering", "code"). language: of `text`. before: the text
    of the stage before, where the two can be compared."""

    name: str
    group: str
    about: str
    language: str
    text: str
    before: str | None = None


def stages_of(sch: Schedule, target: Target) -> list[Stage]:
    """The stages of a scheduled function for a target; the last is its assembly."""
    from heddle.codegen.llvm.optimize import optimize_ir  # imports LLVM

    script = to_text(sch.original)
    text = to_text(sch.func)
    stages = [
        Stage("script", "loops", "The function before its schedule.", "python", script),
        Stage(
            "schedule",
            "loops",
            f"The {len(sch.trace)} steps of the schedule, as Python.",
            "python",
            str(sch.trace) or "# nothing was scheduled",
        ),
        Stage("scheduled", "loops", "The function after its schedule.", "python", text, script),
    ]
    func = sch.func
    for name, step, verify in LOWERING:
        func = step(func, target)
        verify(func)
        after = to_text(func)
        stages.append(Stage(name, "lowering", f"After the pass {name}.", "python", after, text))
        text = after
    ir = kernel_ir(func, kernel_name(func), target)
    module, machine = optimize_ir(ir, machine_of(target), vectorize=not uses_vectors(func))
    about = "The input of LLVM."
    stages.append(Stage("LLVM IR", "code", about, "llvm", ir))
    about = "After LLVM's own optimisations."
    stages.append(Stage("optimised IR", "code", about, "llvm", str(module)))
    about = "What runs."
    stages.append(Stage("assembly", "code", about, "asm", machine.emit_assembly(module)))
    return stages
