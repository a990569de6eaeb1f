# SPDX-License-Identifier: Apache-2.0
"""`heddle compile` and `heddle run`, and what they share with `heddle bench`: opening a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heddle.cli.console import Console, size, table
from heddle.cli.values import random_inputs, read_inputs, write_outputs
from heddle.driver.report import CompileReport
from heddle.runtime import Executable, TensorInfo, load
from heddle.support import UserError

Shapes = Mapping[str, Sequence[int | str]]


def is_library(path: Path) -> bool:
    """Whether a file is a shared library and not a model to compile. UserError without a file."""
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    return magic == b"\x7fELF" or path.suffix in (".so", ".dylib", ".dll")


def compile_model(
    path: Path | Any,
    console: Console,
    *,
    target: str,
    shapes: Shapes,
    precision: str = "float32",
    num_threads: int | None = None,
    name: str | None = None,
    winograd_error: float | None = None,
    cache: bool = True,
) -> tuple[Executable, CompileReport]:
    """Compile a model file, or what was opened of one, and show the progress."""
    from heddle.driver.api import compile  # LLVM and the importer: only for what compiles

    report = CompileReport()
    options = {} if winograd_error is None else {"winograd_error": winograd_error}
    with console.progress() as progress:
        report.listener = progress
        executable = compile(
            path,
            target,
            name=name,
            shapes=shapes or None,
            num_threads=num_threads,
            precision=precision,
            cache=cache,
            report=report,
            **options,
        )
    return executable, report


def open_model(
    path: Path,
    console: Console,
    *,
    target: str,
    shapes: Shapes,
    threads: int | None,
    precision: str = "float32",
) -> Executable:
    """A compiled library, or a model that is compiled first, set to `threads` threads."""
    if is_library(path):
        if shapes:
            raise UserError("--shape is for models that are compiled; this is a compiled library")
        if precision != "float32":
            raise UserError(
                "--precision is for models that are compiled; this is a compiled library"
            )
        executable = load(path)
    else:
        executable, _ = compile_model(
            path,
            console,
            target=target,
            precision=precision,
            shapes=shapes,
            num_threads=threads,
        )
    if threads is not None:
        executable.set_num_threads(threads)
    return executable


def gather_inputs(
    executable: Executable, files: Sequence[str], seed: int | None, sizes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Inputs from files; those that no file gives at random, when a seed is given."""
    values = read_inputs(executable, files)
    if seed is not None:
        values |= random_inputs(executable, seed, sizes=sizes, without=tuple(values))
    elif sizes:
        raise UserError("--dim says how large random inputs are: give --random SEED as well")
    return values


# ---- heddle compile ------------------------------------------------------------------------------


def run_compile(
    model: Path,
    console: Console,
    *,
    output: Path | None,
    header: Path | None,
    target: str,
    precision: str,
    shapes: Shapes,
    num_threads: int | None,
    name: str | None,
    winograd_error: float | None,
    cache: bool,
    costs: bool,
) -> None:
    """Compile a model into a library, and tell what it took (`costs`: of each pass and kernel)."""
    if is_library(model):
        raise UserError(f"{model}: is a compiled library already")
    output = output or Path(f"{model.stem}.so")
    if not output.parent.is_dir():
        raise UserError(f"cannot write {output}: there is no directory {output.parent}")
    executable, report = compile_model(
        model,
        console,
        target=target,
        precision=precision,
        shapes=shapes,
        num_threads=num_threads,
        name=name,
        winograd_error=winograd_error,
        cache=cache,
    )
    with report.stage("export"):
        executable.export_library(output)
        if header is not None:
            executable.write_header(header)
    data = _compile_data(executable, report, output, header)
    text = "" if console.quiet else _compile_text(data)
    if costs:
        data["costs"] = _cost_data(report)
        text = f"{text}\n\n{report.table()}".lstrip()
    console.result(text, data)


def _tensors(infos: Sequence[TensorInfo]) -> list[dict[str, Any]]:
    return [{"name": i.name, "dtype": i.dtype, "shape": list(i.shape)} for i in infos]


def _compile_data(
    executable: Executable, report: CompileReport, output: Path, header: Path | None
) -> dict[str, Any]:
    return {
        "model": executable.name,
        "library": str(output),
        "header": None if header is None else str(header),
        "library_bytes": output.stat().st_size,
        "inputs": _tensors(executable.inputs),
        "outputs": _tensors(executable.outputs),
        "seconds": {name: round(value, 4) for name, value in report.seconds.items()},
        "total_seconds": round(report.total, 4),
        "from_cache": report.from_cache,
        "kernels": len(executable.info.kernels) or report.kernels,
        "cached_kernels": report.cached_kernels,
        "arena_bytes": executable.metadata.get("arena", report.arena_bytes),
        "live_peak_bytes": executable.metadata.get("live_peak", report.live_bytes),
        "constant_bytes": executable.info.constants_size,
    }


def _cost_data(report: CompileReport) -> dict[str, Any]:
    return {
        "passes": {name: round(value, 6) for name, value in report.passes.items()},
        "kernels": [dataclasses.asdict(cost) for cost in report.kernel_costs],
    }


def _compile_text(data: Mapping[str, Any]) -> str:
    def tensors(role: str) -> str:
        return ", ".join(
            f"{t['name']}: {t['dtype']}[{', '.join(map(str, t['shape']))}]" for t in data[role]
        )

    kernels = f"{data['kernels']}"
    if data["cached_kernels"]:
        kernels += f", {data['cached_kernels']} compiled before"
    rows = [
        ["wrote", f"{data['library']} ({size(data['library_bytes'])})"],
        ["inputs", tensors("inputs")],
        ["outputs", tensors("outputs")],
        ["kernels", kernels],
        ["constants", size(data["constant_bytes"])],
    ]
    if data["header"]:
        rows.insert(1, ["header", data["header"]])
    if data["arena_bytes"]:
        live = size(data["live_peak_bytes"])
        rows.append(["arena", f"{size(data['arena_bytes'])} (alive at once: {live})"])
    stages = ", ".join(f"{name} {took:.2f}" for name, took in data["seconds"].items())
    cached = " from the cache" if data["from_cache"] else ""
    rows.append(["time", f"{data['total_seconds']:.2f} s{cached} ({stages})"])
    return table(rows)


# ---- heddle run ----------------------------------------------------------------------------------


def run_model(
    model: Path,
    console: Console,
    *,
    inputs: Sequence[str],
    outputs: Path | None,
    seed: int | None,
    sizes: Mapping[str, int],
    target: str,
    precision: str,
    shapes: Shapes,
    threads: int | None,
) -> None:
    """Run a model once; write its outputs, and tell what they look like."""
    executable = open_model(
        model, console, target=target, precision=precision, shapes=shapes, threads=threads
    )
    values = gather_inputs(executable, inputs, seed, sizes)
    results = executable(**values)
    tensors = results if isinstance(results, tuple) else (results,)
    arrays = {
        info.name: tensor.numpy() for info, tensor in zip(executable.outputs, tensors, strict=True)
    }
    if outputs is not None:
        write_outputs(outputs, arrays)
        console.note(f"wrote {outputs}")
    summaries = [_summary(name, array) for name, array in arrays.items()]
    data = {"outputs": summaries, "file": None if outputs is None else str(outputs)}
    console.result("" if console.quiet else _summary_table(summaries), data)


def _summary(name: str, array: np.ndarray) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
    if array.size == 0:
        return found
    numbers = array.astype(np.float64)
    finite = np.isfinite(numbers)
    found["not_finite"] = int(array.size - finite.sum())
    if finite.any():
        kept = numbers[finite]
        found |= {"min": float(kept.min()), "mean": float(kept.mean()), "max": float(kept.max())}
    return found


def _summary_table(summaries: Sequence[Mapping[str, Any]]) -> str:
    rows = [["output", "dtype", "shape", "min", "mean", "max", ""]]
    for entry in summaries:
        numbers = [f"{entry[key]:.6g}" if key in entry else "-" for key in ("min", "mean", "max")]
        odd = entry.get("not_finite", 0)
        rows.append(
            [
                entry["name"],
                entry["dtype"],
                "x".join(map(str, entry["shape"])) or "scalar",
                *numbers,
                f"{odd} not finite" if odd else "",
            ]
        )
    return table(rows, right=(3, 4, 5))
