# SPDX-License-Identifier: Apache-2.0
"""One float32 matrix product in Heddle, against the machine's peak and against its peers.

    python -m benchmarks.gemm [--size 1024] [--threads 2] [--target "llvm -mcpu=haswell"]

`constant` is a product with a weight known at compile time (which a compiler may pack ahead), the
other rows have two free operands. Rounds are interleaved, the peak is measured anew in each round.
For a target with shorter vectors than this machine's, the peak is that of such vectors, and numpy
and torch are kept from longer ones; ONNX Runtime cannot be.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.compare import relative_error
from benchmarks.peak import PeakError, measure_peak
from benchmarks.settle import settle
from benchmarks.targets import NARROW, is_narrow
from heddle.target import parse

Product = Callable[[np.ndarray], np.ndarray]


def product_model(left: tuple[int, int], right: np.ndarray, *, constant: bool) -> object:
    """An ONNX model of one MatMul; the right operand is an initialiser or an input."""
    from onnx import TensorProto, helper, numpy_helper

    def declare(name: str, shape: Sequence[int]) -> object:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    inputs = [declare("a", left)] + ([] if constant else [declare("b", right.shape)])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "product",
        inputs,
        [declare("c", (left[0], right.shape[1]))],
        initializer=[numpy_helper.from_array(right, "b")] if constant else [],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def _heddle(a: np.ndarray, b: np.ndarray, *, constant: bool, target: str, threads: int) -> Product:
    import heddle
    from benchmarks.engines import as_arrays

    model = product_model(a.shape, b, constant=constant)
    executable = heddle.compile(model, target, num_threads=threads)
    if constant:
        return lambda a: as_arrays(executable(a))[0]
    return lambda a: as_arrays(executable(a, b))[0]


def _onnxruntime(a: np.ndarray, b: np.ndarray, *, constant: bool, threads: int) -> Product:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = product_model(a.shape, b, constant=constant).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rest = {} if constant else {"b": b}
    return lambda a: session.run(None, {"a": a, **rest})[0]


def _torch(a: np.ndarray, b: np.ndarray, *, threads: int) -> Product:
    import torch

    torch.set_num_threads(threads)
    left, right = torch.from_numpy(a), torch.from_numpy(b)
    return lambda _: torch.mm(left, right).numpy()


def _products(a: np.ndarray, b: np.ndarray, threads: int, target: str) -> dict[str, Product]:
    """Every engine that is installed; what could not be made is said on stderr."""
    makers: dict[str, Callable[[], Product]] = {
        "heddle, constant": lambda: _heddle(a, b, constant=True, target=target, threads=threads),
        "heddle": lambda: _heddle(a, b, constant=False, target=target, threads=threads),
        "onnxruntime, constant": lambda: _onnxruntime(a, b, constant=True, threads=threads),
        "onnxruntime": lambda: _onnxruntime(a, b, constant=False, threads=threads),
        "torch": lambda: _torch(a, b, threads=threads),
        "numpy": lambda: lambda a: a @ b,
    }
    made = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except Exception as error:
            print(f"{name}: left out: {type(error).__name__}: {error}", file=sys.stderr)
    return made


def _turn(product: Product, a: np.ndarray, seconds: float) -> float:
    """Median time of one call; the first is not counted."""
    times = []
    product(a)
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        begin = time.perf_counter()
        product(a)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a product is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gemm")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--target", default="native", help="what Heddle compiles for")
    options = parser.parse_args(arguments)
    narrow = is_narrow(options.target)
    names = [f"{name}_NUM_THREADS" for name in ("HEDDLE", "OMP", "OPENBLAS", "MKL")]
    wanted = dict.fromkeys(names, str(options.threads)) | (NARROW if narrow else {})
    if not wanted.items() <= os.environ.items():  # numpy read them when it was imported: start anew
        given = sys.argv[1:] if arguments is None else list(arguments)
        command = [sys.executable, "-m", "benchmarks.gemm", *given]
        os.execve(sys.executable, command, os.environ | wanted)

    size = options.size
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((size, size)).astype(np.float32) for _ in range(2))
    want = a.astype(np.float64) @ b.astype(np.float64)
    products = _products(a, b, options.threads, options.target)
    bits = parse(options.target).vector_bits if narrow else None
    rates: dict[str, list[float]] = {name: [] for name in products}
    peaks: list[float] = []
    for _ in range(options.rounds):
        try:
            peaks.append(measure_peak(options.threads, seconds=0.2, vector_bits=bits))
        except PeakError as error:
            parser.exit(1, f"error: {error}\n")
        for name, product in products.items():
            rates[name].append(2e-9 * size**3 / _turn(product, a, 0.2))
            settle()
    peak = statistics.median(peaks)
    about = f"{options.threads} threads, {options.target}"
    print(f"{size} x {size} x {size} float32, {about}; peak {peak:.0f} GFLOP/s")
    wrong = False
    for name, values in rates.items():
        error = relative_error(products[name](a), want)
        wrong |= error > 1e-5
        share = statistics.median(v / p for v, p in zip(values, peaks, strict=True))
        rate = statistics.median(values)
        took = 2e-6 * size**3 / rate
        print(f"{name:22s} {rate:7.0f} GFLOP/s {share:6.1%} {took:8.3f} ms   error {error:.1e}")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
