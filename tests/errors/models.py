# SPDX-License-Identifier: Apache-2.0
"""Small ONNX models, and programs in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Shape = Sequence[int | str]


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[str, Shape]],
    outputs: Mapping[str, tuple[str, Shape]],
    constants: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """A model of these nodes; inputs and outputs are name to (dtype, shape)."""

    def declare(name: str, dtype: str, shape: Shape) -> Any:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        nodes,
        "small",
        [declare(name, *declared) for name, declared in inputs.items()],
        [declare(name, *declared) for name, declared in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def unary(operator: str, shape: Shape, **attributes: object) -> onnx.ModelProto:
    """A model of one operator from x to y, both float32 of one shape."""
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    return model([node], {"x": ("float32", shape)}, {"y": ("float32", shape)})


WEIGHT = np.random.default_rng(11).standard_normal((16, 12)).astype(np.float32)


def dense() -> onnx.ModelProto:
    """tanh(x @ WEIGHT): float32[4, 16] to float32[4, 12]."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Tanh", ["product"], ["y"]),
    ]
    return model(nodes, {"x": ("float32", (4, 16))}, {"y": ("float32", (4, 12))}, {"w": WEIGHT})


def start(program: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """A Python program in a process of its own, with Heddle within reach."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What the program printed. An exit status other than 0 (a crash is -11) fails the test."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, f"exit status {process.returncode}\n{err}"
    return out


def saved(path: Path, proto: onnx.ModelProto) -> Path:
    """The path, after writing the model there."""
    onnx.save(proto, path)
    return path
