# SPDX-License-Identifier: Apache-2.0
"""Models in ONNX's own text form, compiled, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import heddle
from heddle.frontend.onnx import from_onnx

ort = pytest.importorskip("onnxruntime", reason="the values to compare with")


def model(text: str) -> onnx.ModelProto:
    """A model of opset 18 in ONNX's own text form."""
    made = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]>\n{text}')
    onnx.checker.check_model(made, full_check=True)
    return made


def check(proto: onnx.ModelProto, *calls: dict[str, Any], **given: Any) -> None:
    """Every call of one executable gives what ONNX Runtime gives, shapes included."""
    executable = heddle.compile(from_onnx(proto, **given), cache=False)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for inputs in calls:
        found = executable(**inputs)
        values = found if isinstance(found, tuple) else (found,)
        for got, want in zip(values, session.run(None, inputs), strict=True):
            assert got.shape == want.shape
            np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)
