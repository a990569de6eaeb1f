# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers against ONNX Runtime."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_model

import heddle
from heddle.frontend.onnx import from_onnx
from heddle.op.interp import interpret

STEPS, BATCH, INPUTS, HIDDEN = 4, 3, 5, 6
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def layer(
    kind: str, rng: np.random.Generator, *, directions: int = 1, lengths: Any = None, **attrs: Any
) -> Any:
    """A model of one layer with all states as inputs and outputs, and values for its inputs."""
    gates = GATES[kind]
    states = ["h", "c"] if kind == "LSTM" else ["h"]
    weights = {
        "w": rng.standard_normal((directions, gates * HIDDEN, INPUTS)),
        "r": rng.standard_normal((directions, gates * HIDDEN, HIDDEN)),
        "b": rng.standard_normal((directions, 2 * gates * HIDDEN)),
    }
    constants = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    if lengths is not None:
        constants.append(numpy_helper.from_array(np.asarray(lengths, np.int32), "n"))
    values = {"x": rng.standard_normal((STEPS, BATCH, INPUTS)).astype(np.float32)}
    for name in states:
        values[name] = rng.standard_normal((directions, BATCH, HIDDEN)).astype(np.float32)
    outputs = ["y", *(f"{name}_out" for name in states)]
    node = helper.make_node(
        kind,
        ["x", "w", "r", "b", "n" if lengths is not None else "", *states],
        outputs,
        hidden_size=HIDDEN,
        **attrs,
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v.shape) for k, v in values.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        constants,
    )
    imports = [helper.make_opsetid("", 14)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8), values


def compare(proto: Any, values: dict[str, np.ndarray]) -> None:
    """All outputs against ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    result = interpret(from_onnx(proto), values)
    for want, got in zip(session.run(None, values), result, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_directions(kind: str, direction: str, rng: np.random.Generator) -> None:
    directions = 2 if direction == "bidirectional" else 1
    compare(*layer(kind, rng, directions=directions, direction=direction))


@pytest.mark.parametrize("kind", GATES)
def test_lengths(kind: str, rng: np.random.Generator) -> None:
    compare(*layer(kind, rng, lengths=[4, 1, 3]))


@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_lengths_backwards(direction: str, rng: np.random.Generator) -> None:
    directions = 2 if direction == "bidirectional" else 1
    compare(*layer("GRU", rng, directions=directions, direction=direction, lengths=[4, 2, 1]))


SYMBOLIC = """
<ir_version: 8, opset_import: ["" : 14]>
g (float[t, b, 5] x, float[d, g, 5] w, float[d, g, 3] r, float[d, h, 3] first{lengths}) =>
    (float[t, d, b, 3] y, float[d, b, 3] last) {{
  y, last = {kind} <hidden_size = 3, direction = "{direction}"> (x, w, r, , {given}, first)
}}
"""


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("ragged", [False, True])
def test_symbolic_lengths(kind: str, direction: str, ragged: bool) -> None:
    """A loop of the compiled model: one executable for sequences and batches of any size."""
    ways, rng = 2 if direction == "bidirectional" else 1, np.random.default_rng(1)
    text = SYMBOLIC.format(
        kind=kind,
        direction=direction,
        lengths=", int32[b] lengths" if ragged else "",
        given="lengths" if ragged else "",
    )
    for name, size in (("d", ways), ("g", 3 * GATES[kind]), ("h", "b")):
        text = re.sub(rf"\b{name}, ", f"{size}, ", text)
    proto = parse_model(text)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    executable = heddle.compile(proto, cache=False)
    weights = {
        name: rng.standard_normal((ways, 3 * GATES[kind], width)).astype(np.float32)
        for name, width in (("w", 5), ("r", 3))
    }
    for steps, batch in ((4, 2), (7, 1), (1, 3)):
        values = {
            "x": rng.standard_normal((steps, batch, 5)).astype(np.float32),
            "first": rng.standard_normal((ways, batch, 3)).astype(np.float32),
            **weights,
        }
        if ragged:
            values["lengths"] = rng.integers(1, steps + 1, batch).astype(np.int32)
        for got, want in zip(executable(**values), session.run(None, values), strict=True):
            np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=1e-5)


def test_options(rng: np.random.Generator) -> None:
    compare(*layer("GRU", rng, linear_before_reset=1))
    compare(*layer("LSTM", rng, clip=0.5))
    compare(*layer("RNN", rng, activations=["LeakyRelu"], activation_alpha=[0.3]))
