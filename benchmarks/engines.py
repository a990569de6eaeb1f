# SPDX-License-Identifier: Apache-2.0
"""One adapter an engine: load a network of the zoo, then call it. All in float32, on CPU.

Every adapter is made as favourable to its engine as its documentation tells: outputs are shared
where that can be asked for, sessions are made for latency, and all get the same thread count.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks import zoo

Arrays = list[np.ndarray]
Values = Mapping[str, np.ndarray]


@dataclass
class Loaded:
    """A network ready to run.

    `prepare` turns numpy inputs into what `call` takes (not timed), `call` computes (timed), and
    `fetch` turns what `call` returned into numpy arrays, one for each output in order (not timed).
    """

    call: Callable[[Any], Any]
    prepare: Callable[[Values], Any] = field(default=lambda values: values)
    fetch: Callable[[Any], Arrays] = field(default=lambda result: list(result))


def as_arrays(result: Any) -> Arrays:
    """What a call returned (an array, a sequence or a mapping of them) as numpy arrays."""
    if isinstance(result, Mapping):
        result = list(result.values())
    if not isinstance(result, tuple | list):
        result = [result]
    return [
        np.from_dlpack(item) if hasattr(item, "__dlpack__") else np.asarray(item) for item in result
    ]


def load_heddle(name: str, *, threads: int, small: bool) -> Loaded:
    """Heddle; the runner sets HEDDLE_NUM_THREADS and, for another target, BENCH_TARGET."""
    import heddle

    target = os.environ.get("BENCH_TARGET", "native")
    path = str(zoo.onnx_path(name, small=small))
    executable = heddle.compile(path, target, num_threads=threads)
    return Loaded(lambda values: executable(**values), fetch=as_arrays)


def load_onnxruntime(name: str, *, threads: int, small: bool) -> Loaded:
    """ONNX Runtime with every graph optimisation (its default)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(zoo.onnx_path(name, small=small)), options, providers=["CPUExecutionProvider"]
    )
    return Loaded(lambda values: session.run(None, values), prepare=dict)


def load_openvino(name: str, *, threads: int, small: bool) -> Loaded:
    """OpenVINO for latency, float32 forced (by itself it takes bfloat16 where there is any)."""
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": str(threads),
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
    }
    compiled = openvino.Core().compile_model(str(zoo.onnx_path(name, small=small)), "CPU", settings)
    request = compiled.create_infer_request()
    order = list(compiled.outputs)

    def call(values: Values) -> Any:
        return request.infer(values, share_inputs=True, share_outputs=True)

    def fetch(result: Any) -> Arrays:
        return [np.array(result[output]) for output in order]

    return Loaded(call, prepare=dict, fetch=fetch)


def _load_torch(name: str, *, threads: int, small: bool, compiled: bool) -> Loaded:
    import torch

    from benchmarks.zoo.export import build_module
    from benchmarks.zoo.registry import MODELS

    torch.set_num_threads(threads)
    module, _ = build_module(MODELS[name], small=small)
    if compiled:
        import torch._inductor.config as inductor

        inductor.freezing = True  # weights are constants: folded, packed
        if os.environ.get("ATEN_CPU_CAPABILITY") == "avx2":
            inductor.cpp.simdlen = 256
        module = torch.compile(module)

    def call(values: list[Any]) -> Any:
        with torch.inference_mode():
            return module(*values)

    def prepare(values: Values) -> list[Any]:
        return [torch.from_numpy(value) for value in values.values()]

    def fetch(result: Any) -> Arrays:
        results = result if isinstance(result, tuple) else (result,)
        return [item.numpy() for item in results]

    return Loaded(call, prepare, fetch)


def load_torch(name: str, *, threads: int, small: bool) -> Loaded:
    """PyTorch, eager."""
    return _load_torch(name, threads=threads, small=small, compiled=False)


def load_inductor(name: str, *, threads: int, small: bool) -> Loaded:
    """PyTorch's own compiler with weights frozen; what it compiles at its first call is counted
    as that call's time."""
    return _load_torch(name, threads=threads, small=small, compiled=True)


ENGINES: dict[str, Callable[..., Loaded]] = {
    "heddle": load_heddle,
    "ort": load_onnxruntime,
    "openvino": load_openvino,
    "inductor": load_inductor,
    "torch": load_torch,
}
