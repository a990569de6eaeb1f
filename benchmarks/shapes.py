# SPDX-License-Identifier: Apache-2.0
"""Random matrix products and convolutions: Heddle against the best of its peers on each.

    python -m benchmarks.shapes [--count 300] [--first 0] [--seed 0] [--threads 2]

Peers are ONNX Runtime, oneDNN (through torch, weights packed ahead where they are constant) and,
for products, OpenBLAS (through numpy). All engines take their turns within one process, images in
the usual layout in and out; every result is compared with ONNX Runtime's. `share` is the least time
that the machine allows (see benchmarks.roofline) over the time taken.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import Case, Convolution, Product, moved_bytes, onnx_model, random_cases
from benchmarks.compare import relative_error
from benchmarks.settle import settle

Call = Callable[[], Any]
REFERENCE = "ort"
PRODUCT_TOLERANCE = 1e-5
CONVOLUTION_TOLERANCE = 1e-4  # there are algorithms that add in transformed coordinates


@dataclass(frozen=True)
class Result:
    """One case: milliseconds by engine, and the least that the machine allows."""

    case: str
    kind: str
    gflop: float
    ideal_ms: float
    ms: dict[str, float]
    errors: dict[str, float]
    tolerance: float

    @property
    def best(self) -> str:
        """The fastest engine besides Heddle."""
        return min((name for name in self.ms if name != "heddle"), key=lambda name: self.ms[name])

    @property
    def ratio(self) -> float:
        """Heddle's time in times of the best peer."""
        return self.ms["heddle"] / self.ms[self.best]

    @property
    def wrong(self) -> bool:
        """Whether Heddle's values are too far from the reference's."""
        return not self.errors["heddle"] <= self.tolerance


# -- engines ---------------------------------------------------------------------------------------


def _heddle(case: Case, weights: list[np.ndarray], inputs: list[np.ndarray], threads: int) -> Call:
    import heddle

    executable = heddle.compile(onnx_model(case, weights), num_threads=threads)
    return lambda: executable(*inputs)


def _ort(case: Case, weights: list[np.ndarray], inputs: list[np.ndarray], threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    model = onnx_model(case, weights).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    named = {f"x{at}": value for at, value in enumerate(inputs)}
    return lambda: session.run(None, named)[0]


def _torch(case: Case, weights: list[np.ndarray], inputs: list[np.ndarray], threads: int) -> Call:
    import torch

    torch.set_num_threads(threads)
    values = [torch.from_numpy(value) for value in inputs]
    constants = [torch.from_numpy(value) for value in weights]
    if isinstance(case, Convolution):
        call = _torch_convolution(case, values[0], *constants)
    elif case.constant:
        matrix = constants[0] if case.transposed else constants[0].t().contiguous()
        rows = max(case.batch, 1) * case.m
        packed = torch.ops.mkldnn._reorder_linear_weight(matrix, rows)
        linear = torch.ops.mkldnn._linear_pointwise
        call = lambda: linear(values[0], packed, None, "none", [], "")  # noqa: E731
    else:
        right = values[1].transpose(-1, -2) if case.transposed else values[1]
        call = lambda: torch.matmul(values[0], right)  # noqa: E731

    def run() -> Any:
        with torch.inference_mode():
            return call()

    return run


def _torch_convolution(case: Convolution, image: Any, kernel: Any, bias: Any) -> Call:
    """Through oneDNN with packed weights; a line is an image of height 1."""
    import torch

    flat = len(case.size) == 1
    if flat:
        image, kernel = image.unsqueeze(2), kernel.unsqueeze(2)
    padding = [0, *case.padding] if flat else list(case.padding)
    stride = [1, case.stride] if flat else [case.stride] * 2
    dilation = [1, case.dilation] if flat else [case.dilation] * 2
    packed = torch.ops.mkldnn._reorder_convolution_weight(
        kernel, padding, stride, dilation, case.groups, list(image.shape)
    )
    arguments = (padding, stride, dilation, case.groups, "none", [], "")
    convolve = torch.ops.mkldnn._convolution_pointwise

    def call() -> Any:
        found = convolve(image, packed, bias, *arguments).contiguous()
        return found.squeeze(2) if flat else found

    return call


def _numpy(case: Case, weights: list[np.ndarray], inputs: list[np.ndarray], threads: int) -> Call:
    assert isinstance(case, Product)
    left, right = (*inputs, *weights)
    if case.transposed:
        right = np.swapaxes(right, -1, -2)
    return lambda: left @ right


ENGINES: dict[str, Callable[..., Call]] = {
    "ort": _ort,
    "heddle": _heddle,
    "onednn": _torch,
    "openblas": _numpy,
}


# -- measuring -------------------------------------------------------------------------------------


def _turn(call: Call, seconds: float) -> float:
    """Median milliseconds of a call; the first is not counted."""
    call()
    times = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times)


def measure(case: Case, seed: int, options: argparse.Namespace, limits: Any) -> Result:
    """All engines on one case, in turns. An engine that cannot do it is left out, except Heddle."""
    rng = np.random.default_rng(seed)
    weights, inputs = case.weights(rng), case.inputs(rng)
    calls = {}
    for name, make in ENGINES.items():
        if name == "openblas" and not isinstance(case, Product):
            continue
        try:
            calls[name] = make(case, weights, inputs, options.threads)
        except Exception as error:
            if name in ("heddle", REFERENCE):
                raise
            print(f"{case}: {name}: {type(error).__name__}: {str(error)[:90]}", file=sys.stderr)
    results = {name: _array(call()) for name, call in calls.items()}
    errors = {name: relative_error(value, results[REFERENCE]) for name, value in results.items()}
    turns: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.rounds):
        for name, call in calls.items():
            turns[name].append(_turn(call, options.seconds))
            settle()
    moved = moved_bytes(case)
    ideal = max(case.flops / limits.peak_gflops, moved / limits.bandwidth(moved)) * 1e-6
    times = {name: statistics.median(values) for name, values in turns.items()}
    tolerance = PRODUCT_TOLERANCE if isinstance(case, Product) else CONVOLUTION_TOLERANCE
    return Result(str(case), case.kind, case.flops * 1e-9, ideal, times, errors, tolerance)


def _array(value: Any) -> np.ndarray:
    return np.array(np.from_dlpack(value) if hasattr(value, "__dlpack__") else value)


# -- report ----------------------------------------------------------------------------------------


def report(results: Sequence[Result], worst: int) -> str:
    """Means by kind and over all, then the cases where Heddle is furthest behind."""

    def mean(found: Sequence[Result]) -> str:
        ratios = [result.ratio for result in found]
        behind = sum(ratio > 1.0 for ratio in ratios)
        text = f"{statistics.geometric_mean(ratios):6.2f} x best, {max(ratios):5.2f} at worst"
        return f"{text}, {behind} of {len(ratios)} slower"

    lines = []
    for kind in dict.fromkeys(result.kind for result in results):
        lines.append(f"{kind:12s}{mean([r for r in results if r.kind == kind])}")
    lines += [f"{'all':12s}{mean(results)}", ""]
    lines.append(f"{'x best':>7} {'ms':>9} {'GFLOP/s':>8} {'share':>6}   best peer")
    for item in sorted(results, key=lambda result: -result.ratio)[:worst]:
        best = item.ms[item.best]
        ours = item.ms["heddle"]
        lines.append(
            f"{item.ratio:7.2f} {ours:9.4f} {1e3 * item.gflop / ours:8.1f} "
            f"{item.ideal_ms / ours:6.1%}   {item.best:8s} {best:9.4f} "
            f"{1e3 * item.gflop / best:8.1f} {item.ideal_ms / best:6.1%}   {item.case}"
        )
    lines += [f"WRONG by {r.errors['heddle']:.1e}: {r.case}" for r in results if r.wrong]
    return "\n".join(lines)


def blas_kernels() -> str:
    """Which kernels numpy's OpenBLAS runs, as threadpoolctl tells; empty when it is missing."""
    try:
        import threadpoolctl
    except ImportError:
        return ""
    pools = threadpoolctl.threadpool_info()
    found = {pool["architecture"] for pool in pools if pool.get("internal_api") == "openblas"}
    return ", ".join(sorted(found))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shapes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--count", type=int, default=300)
    add("--first", type=int, default=0, help="the first of them to run, for a run in parts")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=2)
    add("--rounds", type=int, default=3, help="turns of each engine; default 3")
    add("--seconds", type=float, default=0.02, help="least time of one turn; default 0.02")
    add("--worst", type=int, default=10, help="cases to list; default 10")
    add("--only", choices=("products", "convolutions"), help="leave the others out")
    add("--json", type=Path, metavar="FILE", help="write everything measured")
    return parser.parse_args(arguments)


def _restart(options: argparse.Namespace, arguments: Sequence[str] | None) -> None:
    """Start anew where the environment is not as it must be when numpy is imported."""
    names = [f"{name}_NUM_THREADS" for name in ("HEDDLE", "OMP", "OPENBLAS", "MKL")]
    wanted = dict.fromkeys(names, str(options.threads))
    if wanted.items() <= os.environ.items() and "OPENBLAS_CORETYPE" not in os.environ:
        return
    given = sys.argv[1:] if arguments is None else list(arguments)
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"} | wanted
    command = [sys.executable, "-m", "benchmarks.shapes", *given]
    os.execve(sys.executable, command, environment)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a value of Heddle's is wrong."""
    options = _parse(arguments)
    _restart(options, arguments)
    from benchmarks.roofline import Limits, peak_gflops

    limits = Limits(options.threads, peak_gflops(options.threads))
    print(f"{options.count} cases of seed {options.seed}, {options.threads} threads; ", end="")
    print(f"OpenBLAS: {blas_kernels() or 'unknown kernels'}", flush=True)
    results = []
    kind = {"products": Product, "convolutions": Convolution}.get(options.only, object)
    for index, case in enumerate(random_cases(options.count, options.seed)):
        if index >= options.first and isinstance(case, kind):
            results.append(measure(case, options.seed + index, options, limits))
    print(report(results, options.worst))
    if options.json:
        records = [asdict(r) | {"best": r.best, "ratio": r.ratio} for r in results]
        options.json.write_text(json.dumps(records, indent=1) + "\n")
    return int(any(result.wrong for result in results))


if __name__ == "__main__":
    sys.exit(main())
