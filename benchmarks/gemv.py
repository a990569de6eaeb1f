# SPDX-License-Identifier: Apache-2.0
"""Products of one row, which read every weight once: bytes a second against the memory's.

    python -m benchmarks.gemv [--threads 2]

Each model multiplies one vector by enough matrices to leave the caches behind, as the layers of a
network do. Engines take turns; memory is measured anew in each round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.peak import PeakError, measure_bandwidth
from benchmarks.settle import settle

SHAPES = ((768, 2304), (768, 768), (3072, 768), (1024, 4096), (768, 50257))
_BYTES = 192 << 20
"""Weights of one model: several times what the caches of a core hold."""

Product = Callable[[np.ndarray], object]


def model(weights: Sequence[np.ndarray]) -> object:
    """An ONNX model that multiplies one row by each of `weights`."""
    from onnx import TensorProto, helper, numpy_helper

    depth, columns = weights[0].shape
    count = range(len(weights))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"]) for i in count],
        "rows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, depth])],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [1, columns]) for i in count],
        initializer=[numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _heddle(weights: Sequence[np.ndarray], threads: int) -> Product:
    import heddle

    executable = heddle.compile(model(weights))
    executable.set_num_threads(threads)
    return lambda x: executable(x)


def _onnxruntime(weights: Sequence[np.ndarray], threads: int) -> Product:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model(weights).SerializeToString(),  # type: ignore[attr-defined]
        options,
        providers=["CPUExecutionProvider"],
    )
    return lambda x: session.run(None, {"x": x})


def _torch(weights: Sequence[np.ndarray], threads: int) -> Product:
    import torch

    torch.set_num_threads(threads)
    transposed = [torch.from_numpy(np.ascontiguousarray(w.T)) for w in weights]

    def run(x: np.ndarray) -> object:
        row = torch.from_numpy(x)
        return [torch.nn.functional.linear(row, w) for w in transposed]

    return run


ENGINES = {"heddle": _heddle, "onnxruntime": _onnxruntime, "torch": _torch}


def _turn(product: Product, x: np.ndarray) -> float:
    """The fastest of five calls; the first is not counted."""
    times = []
    for _ in range(6):
        begin = time.perf_counter()
        product(x)
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gemv")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    print(f"GB/s of weights, {options.threads} threads" + "".join(f"{e:>13}" for e in ENGINES))
    for depth, columns in SHAPES:
        count = max(1, _BYTES // (4 * depth * columns))
        weights = [rng.standard_normal((depth, columns), np.float32) for _ in range(count)]
        x = rng.standard_normal((1, depth), np.float32)
        products = {name: make(weights, options.threads) for name, make in ENGINES.items()}
        rates: dict[str, list[float]] = {name: [] for name in products}
        memory: list[float] = []
        for _ in range(options.rounds):
            try:
                memory.append(measure_bandwidth(options.threads))
            except PeakError as error:
                parser.exit(1, f"error: {error}\n")
            for name, product in products.items():
                rates[name].append(count * depth * columns * 4e-9 / _turn(product, x))
                settle()
        row = "".join(f"{statistics.median(values):13.1f}" for values in rates.values())
        label = f"{count} x ({depth} x {columns})"
        print(f"{label:26s}{row}   memory {statistics.median(memory):.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
