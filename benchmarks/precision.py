# SPDX-License-Identifier: Apache-2.0
"""Low precision: Heddle against ONNX Runtime in 8 bits, and against OpenVINO in bfloat16.

    python -m benchmarks.precision --models resnet50,mobilenetv2,bert_base --threads 1

Quantised networks are made on the spot (`benchmarks.quantised`). Within a round the engines take
turns, in one process; a row gives the median over the rounds of the best call of each, and of their
ratio. Outputs are compared with the peer's and with float32 as a ratio of signal to error, in dB;
a row fails when Heddle is more than 3 dB further from float32 than its peer.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import zoo
from benchmarks.quantised import quantised_path

MODELS = ("resnet50", "mobilenetv2", "bert_base")
_SLACK_DB = 3.0
Values = Mapping[str, np.ndarray]
Run = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One network in one precision, beside its peer."""

    model: str
    precision: str
    peer: str
    mine_ms: float
    peer_ms: float
    ratio: float
    to_peer: float
    mine_db: float
    peer_db: float

    @property
    def ok(self) -> bool:
        """Whether the result is as near to float32 as the peer's."""
        return self.mine_db >= self.peer_db - _SLACK_DB


def signal_to_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Power of `wanted` over that of the difference, in dB."""
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    noise = float(((a - b) ** 2).sum())
    return math.inf if noise == 0 else 10 * math.log10(float((b**2).sum()) / noise)


def _heddle(path: str, values: Values, threads: int, precision: str) -> Run:
    import heddle

    executable = heddle.compile(path, num_threads=threads, precision=precision)

    def run() -> Any:
        found = executable(**values)
        return found[0] if isinstance(found, tuple) else found

    return run


def _onnxruntime(path: str, values: Values, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, dict(values))[0]


def _openvino(path: str, values: Values, threads: int) -> Run:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": str(threads),
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
    }
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    request = compiled.create_infer_request()
    return lambda: request.infer(dict(values), share_inputs=True)[compiled.outputs[0]]


def _array(value: Any) -> np.ndarray:
    return np.array(value.numpy() if hasattr(value, "numpy") else value)


def _best(run: Run, seconds: float) -> float:
    end = time.perf_counter() + seconds
    times = []
    while not times or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return 1e3 * min(times)


def measure(model: str, precision: str, options: argparse.Namespace) -> Row:
    """Compare and time one network."""
    small, threads = options.small, options.threads
    values = zoo.inputs(model, seed=0, small=small)
    plain = str(zoo.onnx_path(model, small=small))
    if precision == "int8":
        path = str(
            quantised_path(
                model,
                form=options.form,
                weights=options.weights,
                activations=options.activations,
                per_channel=not options.per_tensor,
                small=small,
            )
        )
        mine, peer = _heddle(path, values, threads, "float32"), _onnxruntime(path, values, threads)
    else:
        mine, peer = _heddle(plain, values, threads, "bf16"), _openvino(plain, values, threads)
    exact = _array(_onnxruntime(plain, values, threads)())
    found, theirs = _array(mine()), _array(peer())
    times = [
        (_best(mine, options.seconds), _best(peer, options.seconds)) for _ in range(options.rounds)
    ]
    return Row(
        model,
        precision,
        "onnxruntime" if precision == "int8" else "openvino",
        statistics.median(a for a, _ in times),
        statistics.median(b for _, b in times),
        statistics.median(a / b for a, b in times),
        signal_to_error(found, theirs),
        signal_to_error(found, exact),
        signal_to_error(theirs, exact),
    )


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision")
    add = parser.add_argument
    add("--models", default=",".join(MODELS), help="comma-separated")
    add("--precisions", default="int8,bf16", help="int8, bf16 or both")
    add("--form", choices=("qdq", "qoperator"), default="qdq")
    add("--weights", choices=("s8", "u8"), default="s8")
    add("--activations", choices=("s8", "u8"), default="u8")
    add("--per-tensor", action="store_true", help="one scale for all output channels")
    add("--threads", type=int, default=2)
    add("--rounds", type=int, default=7)
    add("--seconds", type=float, default=0.2, help="least time of one turn")
    add("--small", action="store_true", help="the networks' small variants")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a result is further from float32 than its peer's."""
    options = parse_options(arguments)
    wanted = str(options.threads)
    if os.environ.get("HEDDLE_NUM_THREADS") != wanted:  # the pool is sized once: start anew
        given = sys.argv[1:] if arguments is None else list(arguments)
        command = [sys.executable, "-m", "benchmarks.precision", *given]
        return subprocess.run(command, env=os.environ | {"HEDDLE_NUM_THREADS": wanted}).returncode
    head = (
        "network",
        "",
        "peer",
        "heddle ms",
        "peer ms",
        "ratio",
        "to peer",
        "to f32",
        "peer to f32",
    )
    form = "{:12s} {:5s} {:12s} {:>10s} {:>9s} {:>6s} {:>9s} {:>9s} {:>12s}"
    print(form.format(*head))
    failed = False
    for precision in options.precisions.split(","):
        for model in options.models.split(","):
            row = measure(model, precision, options)
            times = (f"{row.mine_ms:.2f}", f"{row.peer_ms:.2f}", f"{row.ratio:.2f}")
            ratios = (f"{value:.1f} dB" for value in (row.to_peer, row.mine_db, row.peer_db))
            print(form.format(row.model, row.precision, row.peer, *times, *ratios), flush=True)
            failed |= not row.ok
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
