# SPDX-License-Identifier: Apache-2.0
"""`heddle inspect`: the module after any pass, each kernel, its schedule, its assembly."""

from __future__ import annotations

from pathlib import Path

from heddle.cli.console import Console, table
from heddle.cli.models import Shapes, is_library
from heddle.codegen import asm
from heddle.driver.api import import_model
from heddle.driver.pipeline import graph_pipeline
from heddle.driver.workbench import report
from heddle.ir import IRModule
from heddle.ir.passes import Pipeline
from heddle.schedule import Schedule
from heddle.schedule.rules import default_schedule
from heddle.script import to_text
from heddle.support import UserError
from heddle.target import Target, parse
from heddle.tir.nodes import PrimFunc

_SCHEDULE = "schedule"
_IMPORT = "import"


def run_inspect(
    model: Path,
    console: Console,
    *,
    target: str,
    precision: str,
    shapes: Shapes,
    after: str | None,
    kernel: str | None,
    schedule: bool,
    assembly: bool,
    listing: bool,
    html: Path | None = None,
) -> None:
    """Print what was asked for."""
    if is_library(model):
        raise UserError(f"{model}: is a compiled library; inspect takes the model it was made from")
    if after is not None and (kernel or schedule or assembly or listing or html):
        raise UserError("--pass prints a whole module: it does not go with the other options")
    if html is not None and (schedule or assembly or listing):
        raise UserError("--html writes every stage of a kernel: it goes with --kernel alone")
    device = parse(target)
    pipeline = graph_pipeline(device, precision=precision)
    if after is not None and after != _IMPORT:
        pipeline.index(after)  # a wrong name is told before the import
    with console.progress() as progress:
        progress(_IMPORT, None)
        module = import_model(model, shapes=shapes or None)
        if after != _IMPORT:
            progress("passes", None)
            stop = after or _before_schedule(pipeline)
            module = pipeline.run(module, stop_after=stop)
    if html is not None:
        _write_page(module, device, console, kernel, html)
    elif listing:
        _list(module, pipeline, console)
    elif kernel or schedule or assembly:
        _print_kernels(module, device, console, kernel, schedule=schedule, assembly=assembly)
    else:
        text = to_text(module)
        console.source(text, {"after": after or stop, "text": text})


def _before_schedule(pipeline: Pipeline) -> str:
    """The last pass before kernels are scheduled: these are scheduled here, one by one."""
    names = pipeline.names
    return names[names.index(_SCHEDULE) - 1] if _SCHEDULE in names else names[-1]


def _kernels(module: IRModule) -> dict[str, PrimFunc]:
    return {name: func for name, func in module.functions.items() if isinstance(func, PrimFunc)}


def _list(module: IRModule, pipeline: Pipeline, console: Console) -> None:
    passes = [[_IMPORT, "the module as it was imported"]]
    passes += [[step.name, step.summary()] for step in pipeline.passes]
    kernels = [[name, _signature(func)] for name, func in _kernels(module).items()]
    data = {
        "passes": [{"name": name, "summary": text} for name, text in passes],
        "kernels": [{"name": name, "parameters": text} for name, text in kernels],
    }
    console.result(f"passes\n{_indented(passes)}\n\nkernels\n{_indented(kernels)}", data)


def _indented(rows: list[list[str]]) -> str:
    return "\n".join(f"  {line}" for line in table(rows).splitlines()) or "  none"


def _signature(func: PrimFunc) -> str:
    return ", ".join(to_text(param) for param in func.params)


def _print_kernels(
    module: IRModule,
    device: Target,
    console: Console,
    wanted: str | None,
    *,
    schedule: bool,
    assembly: bool,
) -> None:
    kernels = _kernels(module)
    if wanted is not None and wanted not in kernels:
        known = ", ".join(f"`{name}`" for name in kernels) or "none"
        raise UserError(f"the model has no kernel `{wanted}`; its kernels: {known}")
    chosen = [wanted] if wanted is not None else list(kernels)
    parts, data = [], []
    for name in chosen:
        text, entry = _one_kernel(name, kernels[name], device, schedule=schedule, assembly=assembly)
        parts.append(text)
        data.append(entry)
    language = "nasm" if assembly and not schedule else "python"
    console.source("\n\n".join(parts), data, language=language)


def _one_kernel(
    name: str, func: PrimFunc, device: Target, *, schedule: bool, assembly: bool
) -> tuple[str, dict[str, str]]:
    """The text of one kernel: its script; its schedule and what comes of it; its assembly."""
    entry = {"name": name}
    if not schedule and not assembly:
        entry["script"] = to_text(func)
        return entry["script"], entry
    scheduled = _schedule_of(func, device)
    after = func if scheduled is None else scheduled.func
    parts = []
    if schedule:
        entry["script"] = to_text(func)
        entry["schedule"] = "" if scheduled is None else str(scheduled.trace)
        entry["scheduled_script"] = to_text(after)
        parts += [
            f"# {name}: as lowered\n{entry['script']}",
            f"# {name}: its schedule\nsch = Schedule({name})\n{entry['schedule']}"
            if scheduled is not None
            else f"# {name}: written in scheduled form, nothing is applied",
            f"# {name}: as scheduled\n{entry['scheduled_script']}",
        ]
    if assembly:
        entry["assembly"] = asm(after, device)
        parts.append(f"# {name}\n{entry['assembly']}")
    return "\n\n".join(parts), entry


def _write_page(
    module: IRModule, device: Target, console: Console, wanted: str | None, path: Path
) -> None:
    """Write the page of one kernel."""
    kernels = _kernels(module)
    if wanted is None and len(kernels) == 1:
        wanted = next(iter(kernels))
    if wanted is None or wanted not in kernels:
        known = ", ".join(f"`{name}`" for name in kernels) or "none"
        what = "--html needs --kernel" if wanted is None else f"there is no kernel `{wanted}`"
        raise UserError(f"{what}; the kernels of the model: {known}")
    func = kernels[wanted]
    func = func.replace(attrs={**func.attrs, "name": wanted})
    scheduled = _schedule_of(func, device)
    report(Schedule(func) if scheduled is None else scheduled, path, target=device)
    console.result(f"{path}: the stages of `{wanted}`", {"kernel": wanted, "html": str(path)})


def _schedule_of(func: PrimFunc, device: Target) -> Schedule | None:
    return None if func.attrs.get("scheduled") else default_schedule(func, device)
