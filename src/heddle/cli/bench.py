# SPDX-License-Identifier: Apache-2.0
"""`heddle bench`: how fast a model runs, beside what the machine can do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heddle.cli.console import Console, table
from heddle.cli.models import Shapes, gather_inputs, open_model
from heddle.runtime import Executable, Profile
from heddle.runtime.peak import peak_gflops
from heddle.support import UserError

_ROUND_SECONDS = 0.05
_LEAST_CALLS = 3


def run_bench(
    model: Path,
    console: Console,
    *,
    inputs: Sequence[str],
    seed: int,
    sizes: Mapping[str, int],
    target: str,
    precision: str,
    shapes: Shapes,
    threads: int | None,
    rounds: int,
    profile: bool,
    peak: bool,
) -> None:
    """Time the calls of a model and print the figures."""
    executable = open_model(
        model, console, target=target, precision=precision, shapes=shapes, threads=threads
    )
    values = gather_inputs(executable, inputs, seed, sizes)
    console.note(f"measuring {rounds} rounds ...")
    times = measure(executable, values, rounds)
    found = executable.profile(rounds=rounds if profile else 1, warmup=1, **values)
    data = _figures(executable, times, found)
    if peak:
        _add_peak(data, console)
    if profile:
        data["kernels"] = [_kernel(kernel) for kernel in found.kernels]
    text = _text(data)
    console.result(f"{text}\n\n{found}" if profile else text, data)


def measure(
    executable: Executable, values: Mapping[str, np.ndarray], rounds: int
) -> list[list[float]]:
    """Seconds of single calls, by round. A round begins with a call that is not counted (threads
    that sleep) and lasts 50 ms and three calls at least."""
    arguments = [values[info.name] for info in executable.inputs if info.name in values]
    if len(arguments) != len(executable.inputs):
        executable.infer_shapes(**values)  # says which input is missing
    results = []
    for _ in range(rounds):
        executable(*arguments)
        times: list[float] = []
        end = time.perf_counter() + _ROUND_SECONDS
        while len(times) < _LEAST_CALLS or time.perf_counter() < end:
            begin = time.perf_counter()
            executable(*arguments)
            times.append(time.perf_counter() - begin)
        results.append(times)
    return results


def _figures(
    executable: Executable, times: Sequence[Sequence[float]], found: Profile
) -> dict[str, Any]:
    calls = [value for part in times for value in part]
    medians = [statistics.median(part) for part in times]
    median = statistics.median(calls)
    total = 1e6 * sum(kernel.median_ms * (kernel.gflops or 0.0) for kernel in found.kernels)
    return {
        "model": executable.name,
        "threads": executable.num_threads,
        "rounds": len(times),
        "calls": len(calls),
        "median_ms": 1e3 * median,
        "min_ms": 1e3 * min(calls),
        "spread": (max(medians) - min(medians)) / median,
        "gflop": total / 1e9 if total else None,
        "gflops": total / median / 1e9 if total else None,
        "peak_gflops": None,
        "share_of_peak": None,
    }


def _add_peak(data: dict[str, Any], console: Console) -> None:
    try:
        data["peak_gflops"] = peak_gflops(data["threads"])
    except UserError as error:  # no compiler, or more threads than cores: the rest still holds
        console.note(f"the machine's peak is not known: {error.message}")
        return
    if data["gflops"] is not None:
        data["share_of_peak"] = data["gflops"] / data["peak_gflops"]


def _kernel(kernel: Any) -> dict[str, Any]:
    return {field: getattr(kernel, field) for field in kernel.__slots__}


def _text(data: Mapping[str, Any]) -> str:
    threads = data["threads"]
    rows = [
        ["model", f"{data['model']}, {threads} thread{'' if threads == 1 else 's'}"],
        [
            "median",
            f"{data['median_ms']:.3f} ms of {data['calls']} calls in {data['rounds']} rounds",
        ],
        ["spread", f"{data['spread']:.1%} between the medians of rounds"],
        ["fastest", f"{data['min_ms']:.3f} ms"],
    ]
    if data["gflops"] is not None:
        rows.append(["speed", f"{data['gflops']:.1f} GFLOP/s"])
    if data["peak_gflops"] is not None:
        share = data["share_of_peak"]
        of_it = "" if share is None else f"; this is {share:.1%} of it"
        rows.append(["peak", f"{data['peak_gflops']:.0f} GFLOP/s of float32 multiply-add{of_it}"])
    return table(rows)
