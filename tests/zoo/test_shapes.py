# SPDX-License-Identifier: Apache-2.0
"""Random products and convolutions: what is drawn, and what is said of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

import heddle
from benchmarks import shapes
from benchmarks.cases import MOST_BYTES, MOST_FLOPS, Case, moved_bytes, onnx_model, random_cases
from benchmarks.compare import relative_error

ort = pytest.importorskip("onnxruntime", reason="the reference")

CASES = list(random_cases(300, 7))


def test_cases_are_seeded_varied_and_bounded() -> None:
    assert list(random_cases(300, 7)) == CASES
    assert list(random_cases(300, 8)) != CASES
    kinds = {case.kind for case in CASES}
    assert {"tall", "batched", "vector", "depthwise", "grouped", "line"} <= kinds
    assert all(case.flops <= MOST_FLOPS and moved_bytes(case) <= MOST_BYTES for case in CASES)
    assert any(getattr(case, "transposed", False) for case in CASES)
    assert any(getattr(case, "dilation", 1) > 1 for case in CASES)


SMALL = sorted(CASES, key=lambda case: case.flops)[:24]


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_heddle_agrees_with_onnx_runtime(case: Case) -> None:
    rng = np.random.default_rng(0)
    weights, inputs = case.weights(rng), case.inputs(rng)
    model = onnx_model(case, weights)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    want = session.run(None, {f"x{at}": value for at, value in enumerate(inputs)})[0]
    assert want.shape == case.result
    got = np.from_dlpack(heddle.compile(model)(*inputs))
    assert relative_error(got, want) < 1e-5


def _result(ours: float, theirs: float, error: float = 0.0) -> shapes.Result:
    times = {"heddle": ours, "ort": theirs, "onednn": 2 * theirs}
    return shapes.Result("case", "tall", 1.0, 0.5, times, {"heddle": error, "ort": 0.0}, 1e-5)


def test_report() -> None:
    results = [_result(1.0, 2.0), _result(4.0, 2.0)]
    assert [result.ratio for result in results] == [0.5, 2.0]
    text = shapes.report(results, worst=1)
    assert "tall          1.00 x best,  2.00 at worst, 1 of 2 slower" in text
    assert "WRONG" not in text
    assert "WRONG by 1.0e-03" in shapes.report([_result(1.0, 1.0, 1e-3)], worst=1)
    assert _result(1.0, 1.0, math.nan).wrong
