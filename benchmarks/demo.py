# SPDX-License-Identifier: Apache-2.0
"""ResNet-50 from an ONNX file to native code, beside ONNX Runtime: values and speed.

scripts/demo            or: python -m benchmarks.demo [--model resnet50] [--threads N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks import zoo
from benchmarks.compare import relative_error
from benchmarks.settle import settle

Call = Callable[[], list[np.ndarray]]


def _heddle(path: str, values: dict[str, np.ndarray]) -> Call:
    import heddle
    from benchmarks.engines import as_arrays

    executable = heddle.compile(path)
    return lambda: as_arrays(executable(**values))


def _onnxruntime(path: str, values: dict[str, np.ndarray], threads: int) -> Call | None:
    try:
        import onnxruntime
    except ImportError:
        print("ONNX Runtime is not installed: nothing to compare with", file=sys.stderr)
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, values)


def _timed(action: Callable[[], object]) -> tuple[object, float]:
    begin = time.perf_counter()
    result = action()
    return result, time.perf_counter() - begin


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, compare, print a table; 1 when the values differ."""
    parser = argparse.ArgumentParser(prog="scripts/demo")
    parser.add_argument("--model", choices=zoo.models(), default="resnet50")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    os.environ["HEDDLE_NUM_THREADS"] = str(options.threads)

    print(f"building {options.model} with random weights ...", flush=True)
    path = str(zoo.onnx_path(options.model))
    values = zoo.inputs(options.model)
    print(f"compiling {path} ...", flush=True)
    calls: dict[str, Call] = {}
    calls["Heddle"], compile_s = _timed(lambda: _heddle(path, values))
    reference, load_s = _timed(lambda: _onnxruntime(path, values, options.threads))
    loads = {"Heddle": compile_s, "ONNX Runtime": load_s}
    if reference is not None:
        calls["ONNX Runtime"] = reference

    medians: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.rounds):
        for name, call in calls.items():
            call()  # wakes the threads
            medians[name].append(statistics.median(_timed(call)[1] for _ in range(5)))
            settle()
    gflop = float(zoo.info(options.model)["flops"]) / 1e9
    print(f"\n{options.model}, batch 1, float32, {options.threads} threads")
    print(f"{'':14s}{'compile s':>11s}{'ms':>9s}{'GFLOP/s':>9s}")
    for name, times in medians.items():
        took = statistics.median(times)
        print(f"{name:14s}{loads[name]:11.2f}{1e3 * took:9.2f}{gflop / took:9.0f}")
    if reference is None:
        return 0
    pairs = zip(calls["Heddle"](), reference(), strict=True)
    error = max(relative_error(a, b) for a, b in pairs)
    print(f"largest relative difference of the outputs: {error:.1e}")
    return int(error > 1e-4)


if __name__ == "__main__":
    sys.exit(main())
