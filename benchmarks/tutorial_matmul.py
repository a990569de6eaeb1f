# SPDX-License-Identifier: Apache-2.0
"""The eight steps of docs/tutorials/matrix-product.md, as shares of one core's measured peak.

    python -m benchmarks.tutorial_matmul [--size 1024] [--rounds 5]

One thread, timed by the time that the thread had a core. The peak is measured anew before each
turn of each step; each row says how the result compares with numpy in float64.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.compare import relative_error
from heddle import te
from heddle.codegen.build import build_kernel
from heddle.runtime.peak import measure_peak
from heddle.schedule import LoopRef, Schedule
from heddle.support import UserError
from heddle.target import native
from heddle.tir.nodes import PrimFunc

_ROWS, _VECTORS = 6, 4
STEPS = {
    1: "three loops",
    2: "rows of B innermost",
    3: "vectors",
    4: "four vectors over all k",
    5: "six rows by four vectors",
    6: "local accumulators",
    7: "column panels outermost",
    8: "a dense panel of B",
}
_TURN = 0.15
"""Seconds that one step runs in one round."""


def product(size: int) -> PrimFunc:
    """C = A @ B as three plain loops."""
    a = te.placeholder((size, size), name="A")
    b = te.placeholder((size, size), name="B")
    k = te.reduce_axis(size, name="k")
    c = te.compute((size, size), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="C")
    return te.create_prim_func([a, b, c], name="product")


def schedule(size: int, step: int) -> PrimFunc:
    """The product after the first `step` steps of the tutorial, 1 (plain loops) to 8."""
    sch = Schedule(product(size))
    if step in (2, 3):
        _reordered(sch, vectorized=step == 3)
    elif step >= 4:
        _tiled(sch, step)
    return sch.func


def _reordered(sch: Schedule, *, vectorized: bool) -> None:
    """Steps 2 and 3: neighbours of a row in the innermost loop, then as lanes."""
    i, j, k = sch.get_loops("C")
    columns = sch.split(j, factors=[None, native().vector_lanes(32)]) if vectorized else [j]
    sch.reorder(i, k, *columns)
    sch.decompose_reduction("C", k)
    if vectorized:
        sch.vectorize(columns[-1])
        sch.vectorize(sch.get_loops("C_init")[-1])


def _tiled(sch: Schedule, step: int) -> None:
    """Steps 4 to 8: a tile of the result stays put while k goes by."""
    lanes = native().vector_lanes(32)
    i, j, k = sch.get_loops("C")
    if step >= 6:
        sch.cache_write("C", 0, "local")
    rows, row = sch.split(i, factors=[None, _ROWS if step >= 5 else 1])
    tiles, vector, lane = sch.split(j, factors=[None, _VECTORS, lanes])
    outer = [tiles, rows] if step >= 7 else [rows, tiles]
    sch.reorder(*outer, k, row, vector, lane)
    if step >= 8:
        sch.cache_read("C", 1, "global")
        sch.compute_at("B_global", tiles)
        loops = sch.get_loops("B_global")
        sch.vectorize(sch.split(loops[-1], factors=[None, lanes])[-1])
    if step >= 6:
        sch.reverse_compute_at("C_write", outer[-1])
        loops = sch.get_loops("C_write")
        _write_out(sch, [loops[-2], *sch.split(loops[-1], factors=[None, lanes])])
    sch.decompose_reduction("C", k)
    _write_out(sch, [row, vector, lane])
    _write_out(sch, sch.get_loops("C_init")[-3:])


def _write_out(sch: Schedule, loops: Sequence[LoopRef]) -> None:
    """The last loop becomes lanes, the others are unrolled."""
    for loop in loops[:-1]:
        sch.unroll(loop)
    sch.vectorize(loops[-1])


def _rate(call: Callable[[], object], size: int) -> float:
    """GFLOP/s of the median call of a turn."""
    times: list[int] = []
    end = time.perf_counter() + _TURN
    while not times or time.perf_counter() < end:
        begin = time.thread_time_ns()
        call()
        times.append(time.thread_time_ns() - begin)
    return 2.0 * size**3 / statistics.median(times)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a product is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tutorial_matmul")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    if os.environ.get("HEDDLE_NUM_THREADS") != "1":  # the pool is sized once: start anew
        given = sys.argv[1:] if arguments is None else list(arguments)
        command = [sys.executable, "-m", "benchmarks.tutorial_matmul", *given]
        return subprocess.run(command, env=os.environ | {"HEDDLE_NUM_THREADS": "1"}).returncode
    size = options.size
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((size, size)).astype(np.float32) for _ in range(2))
    want = a.astype(np.float64) @ b.astype(np.float64)
    kernels = []
    for step in STEPS:
        out = np.empty_like(a)
        call = build_kernel(schedule(size, step)).prepare(a, b, out)
        call()
        kernels.append((call, out))
    rates: list[list[float]] = [[] for _ in STEPS]
    peaks: list[list[float]] = [[] for _ in STEPS]
    for _ in range(options.rounds):
        for (call, _), found, tops in zip(kernels, rates, peaks, strict=True):
            try:
                tops.append(measure_peak(1, seconds=_TURN))
            except UserError as error:
                parser.exit(1, f"error: {error}\n")
            found.append(_rate(call, size))
    return _report(size, kernels, rates, peaks, want)


def _report(
    size: int,
    kernels: Sequence[tuple[Callable[[], object], np.ndarray]],
    rates: Sequence[Sequence[float]],
    peaks: Sequence[Sequence[float]],
    want: np.ndarray,
) -> int:
    """Print the table; 1 when a product is wrong."""
    peak = statistics.median(top for tops in peaks for top in tops)
    print(f"{size} x {size} x {size} float32, one core; peak {peak:.0f} GFLOP/s")
    wrong = False
    for (step, name), (_, out), found, tops in zip(
        STEPS.items(), kernels, rates, peaks, strict=True
    ):
        error = relative_error(out, want)
        wrong |= error > 1e-5
        share = statistics.median(rate / top for rate, top in zip(found, tops, strict=True))
        rate = statistics.median(found)
        print(f"{step}  {name:26s} {rate:7.1f} GFLOP/s {share:6.1%}   error {error:.1e}")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
