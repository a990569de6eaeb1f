# SPDX-License-Identifier: Apache-2.0
"""Threads: what a fork and join costs, and calls among other work on the same cores.

python -m benchmarks.threads --network resnet18

The same network in Heddle and in ONNX Runtime, each engine in a process of its own, in turns:

    1, 2, 2 n threads   on the n cores of this machine; more threads than cores must not stall
    busy core           another process computes on one of the cores all the time
    two callers         two threads of the process call two executables at the same time
    one core            all cores but one are taken from the process, which keeps its n threads

`ms` is the median time of a call, `slowest` that of the slowest in a hundred.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks import zoo
from benchmarks.engines import Loaded, load_heddle, load_onnxruntime
from heddle.runtime import toolchain

_ROOT: Final = Path(__file__).resolve().parents[1]
_ENGINES: Final = {"heddle": load_heddle, "onnxruntime": load_onnxruntime}
_SCENES: Final = (
    "1 thread",
    "all cores",
    "twice the cores",
    "busy core",
    "two callers",
    "one core",
)
_SPIN: Final = "while True: pass"


def fork_join(threads: int) -> str:
    """What the pool's own program prints for so many threads; it checks the pool as well."""
    sources = [toolchain.CRT / f"{name}.c" for name in ("threadpool", "error", "profile")]
    command = [*toolchain.find_toolchain().command, "-std=c11", "-O2", "-D_GNU_SOURCE"]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "pool_bench"
        text = _ROOT / "tests" / "runtime" / "pool_bench.c"
        subprocess.run([*command, text, *sources, "-lpthread", "-o", program], check=True)
        done = subprocess.run(
            [program, str(threads), "0.2"], capture_output=True, text=True, check=True
        )
    return done.stdout.splitlines()[0]


def time_calls(call: Callable[[], object], seconds: float) -> list[float]:
    """Milliseconds of each call, for so long."""
    for _ in range(3):
        call()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def measure(engine: str, network: str, scene: str, seconds: float) -> list[float]:
    """The times of one scene, in this process."""
    cores = len(os.sched_getaffinity(0))
    threads = {"1 thread": 1, "twice the cores": 2 * cores}.get(scene, cores)
    os.environ["HEDDLE_NUM_THREADS"] = str(threads)
    values = zoo.inputs(network, seed=0)

    def loaded() -> Callable[[], object]:
        made: Loaded = _ENGINES[engine](network, threads=threads, small=False)
        given = made.prepare(values)
        return lambda: made.call(given)

    call = loaded()
    call()  # threads of a pool start with the first call, on all cores
    if scene == "one core":
        for task in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(task), {min(os.sched_getaffinity(0))})
    if scene == "busy core":
        with subprocess.Popen([sys.executable, "-c", _SPIN]) as other:
            os.sched_setaffinity(other.pid, {max(os.sched_getaffinity(0))})
            try:
                return time_calls(call, seconds)
            finally:
                other.kill()
    if scene != "two callers":
        return time_calls(call, seconds)
    times: list[list[float]] = []
    callers = [
        threading.Thread(target=lambda run=run: times.append(time_calls(run, seconds)))
        for run in (call, loaded())
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return [value for part in times for value in part]


def _in_process(engine: str, options: argparse.Namespace, scene: str) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.threads", "--network", options.network]
    command += ["--seconds", str(options.seconds), "--engine", engine, "--scene", scene]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=_ROOT)
    return [float(text) for text in done.stdout.split()]


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.threads", description=__doc__)
    parser.add_argument("--network", default="resnet18", choices=sorted(zoo.MODELS))
    parser.add_argument("--seconds", type=float, default=2.0, help="of calls, each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", choices=sorted(_ENGINES), help=argparse.SUPPRESS)
    parser.add_argument("--scene", choices=_SCENES, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table."""
    options = parse_options(arguments)
    if options.engine:
        print(*measure(options.engine, options.network, options.scene, options.seconds))
        return 0
    cores = len(os.sched_getaffinity(0))
    for threads in sorted({1, cores, 2 * cores}):
        print(fork_join(threads))
    head = f"{'heddle ms':>10s}{'slowest':>9s}{'ort ms':>9s}{'slowest':>9s}  ratio"
    print(f"\n{options.network:17s}{head}")
    for scene in _SCENES:
        times: dict[str, list[float]] = {engine: [] for engine in _ENGINES}
        for _ in range(options.rounds):
            for engine in _ENGINES:
                times[engine] += _in_process(engine, options, scene)
        row = [(statistics.median(t), sorted(t)[-1 - len(t) // 100]) for t in times.values()]
        (ours, late), (theirs, late_peer) = row
        figures = f"{ours:10.2f}{late:9.2f}{theirs:9.2f}{late_peer:9.2f}{ours / theirs:7.2f}"
        print(f"{scene:17s}{figures}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
