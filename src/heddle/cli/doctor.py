# SPDX-License-Identifier: Apache-2.0
"""`heddle doctor`: what is installed, what works, and what to do about the rest."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import typer

from heddle.cli.console import USER_ERROR, Console, size, table
from heddle.cli.targets import caches, vectors
from heddle.runtime.toolchain import cache_directory, find_toolchain
from heddle.support import UserError
from heddle.support.env import registered, unknown_variables
from heddle.support.version import VERSION

Status = Literal["ok", "missing", "broken", "absent"]

# Package, and what it is for where it is optional.
_REQUIRED: Final = ("numpy", "ml_dtypes", "llvmlite", "apache-tvm-ffi", "typer", "rich")
_OPTIONAL: Final = (
    ("onnx", "reading ONNX files", "pip install 'heddle[onnx]'"),
    ("torch", "building the networks of the benchmarks", "pip install torch"),
    ("onnxruntime", "comparing values and speed", "pip install onnxruntime"),
    ("openvino", "comparing speed", "pip install openvino"),
    ("ziglang", "a C compiler where the system has none", "pip install 'heddle[cross]'"),
)
_TOLERANCE: Final = 1e-5


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `status` is "ok", "missing" or "broken" for what Heddle needs, "absent" for what
    it can do without. `advice` says what to do."""

    subject: str
    status: Status
    detail: str
    advice: str = ""


def run_doctor(console: Console) -> None:
    """Print all findings; exit with 1 when something that Heddle needs is missing or broken."""
    found: list[Finding] = []
    for check in (_python, _packages, _llvm, _compiler, _processor, _cache, _knobs):
        found += _guarded(check)
    console.note("compiling a small model ...")
    found += _guarded(_end_to_end)
    bad = [finding for finding in found if finding.status in ("missing", "broken")]
    data = {"ok": not bad, "findings": [asdict(finding) for finding in found]}
    console.result(_text(found, len(bad)), data)
    if bad:
        raise typer.Exit(USER_ERROR)


def _guarded(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """The findings of a check; one that fails is a finding too."""
    found: list[Finding] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a cache that cannot be written is a finding
            found.extend(check())
    except Exception as error:  # whatever is wrong with this machine is what we are to tell
        name = check.__name__.strip("_").replace("_", " ")
        package = (error.name or "").split(".")[0] if isinstance(error, ImportError) else ""
        advice = f"pip install --force-reinstall {package}" if package else ""
        found.append(Finding(name, "broken", f"{type(error).__name__}: {error}", advice))
    return found


def _text(found: list[Finding], bad: int) -> str:
    marks = {"ok": "ok", "absent": "-", "missing": "MISSING", "broken": "BROKEN"}
    lines = table([[marks[f.status], f.subject, f.detail] for f in found]).splitlines()
    column = max(len(mark) for mark in marks.values() if mark in {marks[f.status] for f in found})
    out = []
    for line, finding in zip(lines, found, strict=True):
        out.append(line)
        if finding.advice:
            out.append(f"{' ' * column}    {finding.advice}")
    total = "everything that Heddle needs is there" if not bad else f"{bad} to mend, see above"
    return "\n".join([*out, "", total])


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _python() -> Iterator[Finding]:
    yield Finding("Python", "ok", f"{platform.python_version()} ({sys.executable})")
    yield Finding("Heddle", "ok", f"{VERSION} ({Path(__file__).resolve().parents[1]})")


def _packages() -> Iterator[Finding]:
    for name in _REQUIRED:
        version = _version(name)
        if version is None:
            yield Finding(name, "missing", "not installed", f"pip install {name}")
        else:
            yield Finding(name, "ok", version)
    for name, purpose, advice in _OPTIONAL:
        version = _version(name)
        if version is None:
            yield Finding(name, "absent", f"not installed; serves {purpose}", advice)
        else:
            yield Finding(name, "ok", version)


def _llvm() -> Iterator[Finding]:
    import llvmlite.binding as llvm  # a broken installation is a finding

    number = ".".join(map(str, llvm.llvm_version_info))
    yield Finding("LLVM", "ok", f"{number}, host triple {llvm.get_process_triple()}")


def _compiler() -> Iterator[Finding]:
    try:
        toolchain = find_toolchain()
    except UserError as error:
        yield Finding(
            "C compiler", "missing", error.message, "apt install gcc, or pip install ziglang"
        )
        return
    yield Finding("C compiler", "ok", f"{' '.join(toolchain.command)}: {toolchain.version}")


def _processor() -> Iterator[Finding]:
    from heddle.runtime.peak import processor_name
    from heddle.target import native

    host = native()
    yield Finding("processor", "ok", f"{processor_name()} ({host.cpu}); {vectors(host)}")
    yield Finding("caches", "ok", caches(host).removeprefix("caches "))
    yield Finding("threads", "ok", f"{host.cores} cores may be used by this process")


def _cache() -> Iterator[Finding]:
    chosen = os.environ.get("HEDDLE_CACHE_DIR")
    directory = cache_directory()
    if chosen and Path(chosen).resolve() != directory.resolve():
        yield Finding(
            "cache",
            "broken",
            f"{chosen} cannot be written",
            "set HEDDLE_CACHE_DIR to a writable directory; until then nothing is kept",
        )
        return
    if directory.name.startswith("heddle-cache-"):
        yield Finding(
            "cache",
            "broken",
            "~/.cache/heddle cannot be written",
            "set HEDDLE_CACHE_DIR to a writable directory; until then nothing is kept",
        )
        return
    taken = sum(_file_size(path) for path in directory.rglob("*"))
    detail = f"{directory}, {size(taken)}"
    space = os.statvfs(directory)
    free = space.f_bavail * space.f_frsize
    if free < 1 << 30:
        advice = "less than 1 GiB is free there: delete the directory, or set HEDDLE_CACHE_DIR"
        yield Finding("cache", "ok", f"{detail}, {size(free)} free", advice)
    else:
        yield Finding("cache", "ok", detail)


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # another process removed it
        return 0


def _knobs() -> Iterator[Finding]:
    for variable in registered():
        if variable.is_set:
            yield Finding("environment", "ok", f"{variable.name}={os.environ[variable.name]}")
    for name, near in unknown_variables().items():
        advice = f"did you mean {', '.join(near)}?" if near else "unset it"
        yield Finding("environment", "absent", f"{name}: there is no such variable", advice)


def _end_to_end() -> Iterator[Finding]:
    """Compile a small model, run it, and compare with numpy."""
    from heddle import op
    from heddle.driver.api import compile
    from heddle.graph import GraphBuilder
    from heddle.ir import IRModule, TensorType

    rng = np.random.default_rng(1)
    weight = rng.standard_normal((32, 48)).astype(np.float32)
    builder = GraphBuilder()
    x = builder.param("x", TensorType.of((4, 32), "float32"))
    y = builder.emit(op.relu(op.matmul(x, weight)), name="y")
    module = IRModule({"main": builder.finish(y, attrs={"name": "doctor"})})
    begin = time.perf_counter()
    executable = compile(module, cache=False)
    took = time.perf_counter() - begin
    value = rng.standard_normal((4, 32)).astype(np.float32)
    result = np.asarray(executable(value))
    expected = np.maximum(value @ weight, 0)
    error = float(np.abs(result - expected).max() / np.abs(expected).max())
    if error > _TOLERANCE:
        advice = "please report this with the output of `heddle doctor --json`"
        yield Finding("a small model", "broken", f"differs from numpy by {error:.1e}", advice)
    else:
        yield Finding("a small model", "ok", f"compiled in {took:.2f} s and gives the right values")
