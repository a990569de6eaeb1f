# SPDX-License-Identifier: Apache-2.0
"""Fourier transforms, grids and regions whose sizes are symbolic or known at run time only,
compiled, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import heddle
from heddle.frontend.onnx import from_onnx
from heddle.support import UserError

ort = pytest.importorskip("onnxruntime", reason="the values to compare with")


def compiled(text: str, opset: int, **given: Any) -> tuple[onnx.ModelProto, heddle.Executable]:
    """A model in ONNX's own text form, and its executable."""
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]>\n{text}')
    return proto, heddle.compile(from_onnx(proto, **given), cache=False)


def check(text: str, opset: int, *calls: dict[str, Any], **given: Any) -> heddle.Executable:
    """Every call of one executable gives what ONNX Runtime gives."""
    proto, executable = compiled(text, opset, **given)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for inputs in calls:
        (want,) = session.run(None, inputs)
        got = executable(**inputs)
        assert got.shape == want.shape
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=1e-4)
    return executable


def signal(points: int, parts: int = 1) -> np.ndarray:
    """[2, points, parts] of random numbers."""
    rng = np.random.default_rng(points)
    return rng.standard_normal((2, points, parts)).astype(np.float32)


@pytest.mark.parametrize("attributes", ["", ", onesided = 1"])
def test_transform_of_a_symbolic_length(attributes: str) -> None:
    text = f"g (float[b, n, 1] x) => (float[b, k, 2] y) {{ y = DFT <axis = 1{attributes}> (x) }}"
    check(text, 17, *({"x": signal(points)} for points in (16, 7, 1)))


def test_inverse_of_a_symbolic_length() -> None:
    text = "g (float[b, n, 2] x) => (float[b, n, 2] y) { y = DFT <axis = 1, inverse = 1> (x) }"
    check(text, 17, *({"x": signal(points, 2)} for points in (12, 5)))


def test_transform_of_a_computed_length() -> None:
    text = "g (float[b, n, 1] x, int64 m) => (float[b, k, 2] y) { y = DFT <axis = 1> (x, m) }"
    calls = ({"x": signal(16), "m": np.asarray(length)} for length in (16, 9, 20))
    check(text, 17, *calls, bounds={"m": 20})


def test_transform_along_a_computed_axis() -> None:
    text = "g (float[b, n, 1] x, int64 axis) => (float[b, k, 2] y) { y = DFT (x, , axis) }"
    check(text, 20, *({"x": signal(6), "axis": np.asarray(axis)} for axis in (1, 0, -2)))


@pytest.mark.parametrize("points", [10, 11])
def test_real_signal_of_half_a_spectrum(points: int) -> None:
    text = """
    g (float[b, k, 2] x, int64 m) => (float[b, n, 1] y) {
      y = DFT <axis = 1, onesided = 1, inverse = 1> (x, m)
    }"""
    _, executable = compiled(text, 17, bounds={"m": 16})
    x = signal(points // 2 + 1, 2)
    got = executable(x=x, m=np.asarray(points)).numpy()
    want = np.fft.irfft(x[..., 0] + 1j * x[..., 1], points, axis=1)
    np.testing.assert_allclose(got[..., 0], want, rtol=1e-4, atol=1e-5)


def test_pieces_of_a_symbolic_signal() -> None:
    text = """
    g (float[b, n, 1] x, int64 step, int64 size) => (float[b, f, k, 2] y) {
      y = STFT (x, step, , size)
    }"""
    pairs = ((4, 8), (1, 5), (3, 16))
    calls = (
        {"x": signal(16), "step": np.asarray(step), "size": np.asarray(size)}
        for step, size in pairs
    )
    executable = check(text, 17, *calls)
    with pytest.raises(UserError, match="y_size"):
        executable(x=signal(16), step=np.asarray(0), size=np.asarray(8))
    with pytest.raises(UserError, match="y_size` is 17, expected 0 to 16"):
        executable(x=signal(16), step=np.asarray(1), size=np.asarray(17))


def test_windowed_pieces_of_a_symbolic_signal() -> None:
    text = """
    g (float[b, n, 1] x, float[8] window) => (float[b, f, k, 2] y) {
      step = Constant <value = int64 {3}> ()
      y = STFT (x, step, window)
    }"""
    window = np.hanning(8).astype(np.float32)
    check(text, 17, *({"x": signal(points), "window": window} for points in (16, 8, 21)))


@pytest.mark.parametrize("corners", [0, 1])
def test_grid_of_a_computed_size(corners: int) -> None:
    text = f"""
    g (float[n, 2, 3] theta, int64[4] size) => (float[a, b, c, d] y) {{
      y = AffineGrid <align_corners = {corners}> (theta, size)
    }}"""
    theta = np.random.default_rng(1).standard_normal((2, 2, 3)).astype(np.float32)
    sizes = ((2, 1, 4, 5), (2, 3, 2, 7))
    calls = ({"theta": theta, "size": np.asarray(size)} for size in sizes)
    check(text, 20, *calls, bounds={"size": 8})


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_a_symbolic_number_of_regions(mode: str) -> None:
    text = f"""
    g (float[n, c, h, w] x, float[k, 4] regions, int64[k] images) => (float[k, c, 3, 2] y) {{
      y = RoiAlign <mode = "{mode}", output_height = 3, output_width = 2, sampling_ratio = 2,
                    spatial_scale = 0.5> (x, regions, images)
    }}"""
    rng = np.random.default_rng(2)
    calls = []
    for count, high, wide in ((3, 8, 9), (1, 5, 4)):
        corner = rng.uniform(0, 8, (count, 2))
        box = np.concatenate([corner, corner + rng.uniform(1, 8, (count, 2))], axis=1)
        calls.append(
            {
                "x": rng.standard_normal((2, 3, high, wide)).astype(np.float32),
                "regions": box.astype(np.float32),
                "images": rng.integers(0, 2, count),
            }
        )
    check(text, 16, *calls)
