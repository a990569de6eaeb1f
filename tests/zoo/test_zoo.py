# SPDX-License-Identifier: Apache-2.0
"""The small variant of every network of the zoo: well made, and compiled right."""

from __future__ import annotations

import numpy as np
import pytest

import heddle
from benchmarks import zoo
from benchmarks.compare import relative_error

pytest.importorskip("torch", reason="the zoo is exported from torch")
ort = pytest.importorskip("onnxruntime", reason="the values to compare with")

# float32: sums in another order. A dropped bias or scale is at 1e-2 or more in these networks.
TOLERANCE = 1e-4


def _reference(name: str, values: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    path = zoo.onnx_path(name, small=True)
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, values)


@pytest.mark.parametrize("name", zoo.models())
def test_values_are_sane(name: str) -> None:
    """Outputs are finite, of ordinary size, and depend on the input."""
    first, second = (_reference(name, zoo.inputs(name, seed, small=True)) for seed in (0, 1))
    for a, b in zip(first, second, strict=True):
        assert np.isfinite(a).all()
        assert 1e-2 < np.abs(a).max() < 1e2
        assert relative_error(a, b) > 1e-2


@pytest.mark.parametrize("name", zoo.models())
def test_inputs_are_seeded(name: str) -> None:
    first, again = zoo.inputs(name, 7), zoo.inputs(name, 7)
    for key, value in first.items():
        np.testing.assert_array_equal(value, again[key])
        assert np.abs(value).max() > 0


@pytest.mark.parametrize("name", zoo.models())
def test_heddle_agrees_with_onnx_runtime(name: str) -> None:
    values = zoo.inputs(name, small=True)
    got = heddle.compile(str(zoo.onnx_path(name, small=True)))(**values)
    got = got if isinstance(got, tuple | list) else (got,)
    want = _reference(name, values)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert tuple(a.shape) == b.shape
        assert relative_error(np.from_dlpack(a), b) < TOLERANCE


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(KeyError, match=r"no network `alexnet`.*resnet18"):
        zoo.onnx_path("alexnet")
