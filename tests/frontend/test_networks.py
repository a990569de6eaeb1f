# SPDX-License-Identifier: Apache-2.0
"""Small variants of the networks of the zoo: imported and interpreted, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from benchmarks import zoo
from heddle.frontend.onnx import from_onnx
from heddle.op.interp import interpret


@pytest.mark.parametrize("name", zoo.models())
def test_network(name: str) -> None:
    pytest.importorskip("torch", reason="the networks are exported by torch")
    path = zoo.onnx_path(name, small=True)
    inputs = zoo.inputs(name, small=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    expected = onnxruntime.InferenceSession(str(path), options).run(None, inputs)
    result = interpret(from_onnx(path), inputs)
    outputs = result if isinstance(result, tuple) else (result,)
    assert len(outputs) == len(expected)
    for want, got in zip(expected, outputs, strict=True):
        assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()
