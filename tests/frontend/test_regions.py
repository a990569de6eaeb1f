# SPDX-License-Identifier: Apache-2.0
"""Pooling over regions, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

import heddle
from heddle.frontend.onnx import backend, from_onnx
from heddle.support import UserError

ort = pytest.importorskip("onnxruntime", reason="the values to compare with")


def pooling(shape: list[int], bins: list[int], scale: float) -> ModelProto:
    """MaxRoiPool of an image and any number of regions."""
    node = helper.make_node("MaxRoiPool", ["x", "r"], ["y"], pooled_shape=bins, spatial_scale=scale)
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)
        for name, sizes in (("x", shape), ("r", ["n", 5]), ("y", ["n", shape[1], *bins]))
    ]
    graph = helper.make_graph([node], "g", infos[:2], infos[2:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def regions(rng: np.random.Generator, count: int, images: int, size: int) -> np.ndarray:
    """Regions [count, 5]: inside, across the border, outside, inverted, on halves."""
    corners = rng.uniform(-0.4 * size, 1.4 * size, (count, 4))
    corners[::3] = np.round(2 * corners[::3]) / 2
    corners[1::3, 2:] = np.maximum(corners[1::3, :2], corners[1::3, 2:])
    image = rng.integers(0, images, (count, 1))
    return np.concatenate([image, corners], axis=1).astype(np.float32)


@pytest.mark.parametrize("engine", ["compiled", "reference"])
@pytest.mark.parametrize(
    "shape, bins, scale",
    [
        ([2, 3, 9, 12], [2, 2], 1.0),
        ([3, 2, 14, 7], [7, 7], 0.5),
        ([1, 1, 5, 5], [1, 1], 1.0),
        ([2, 4, 11, 13], [3, 6], 0.0625),
        ([1, 2, 6, 6], [9, 8], 1.0),
    ],
)
def test_max_roi_pool(
    rng: np.random.Generator, engine: str, shape: list[int], bins: list[int], scale: float
) -> None:
    proto = pooling(shape, bins, scale)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = rng.standard_normal(shape).astype(np.float32)
    boxes = regions(rng, 60, shape[0], int(max(shape[2:]) / scale))
    (want,) = session.run(None, {"x": x, "r": boxes})
    (got,) = backend.prepare(proto, engine=engine).run([x, boxes])
    assert (want == 0).any() or bins == [1, 1]
    np.testing.assert_array_equal(got, want)


def test_any_number_of_regions(rng: np.random.Generator) -> None:
    """One executable for no region, one, and many."""
    proto = pooling([1, 2, 8, 8], [3, 3], 1.0)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    executable = heddle.compile(from_onnx(proto), cache=False)
    x = rng.standard_normal((1, 2, 8, 8)).astype(np.float32)
    for count in (1, 0, 17, 3):
        boxes = regions(rng, count, 1, 8)
        got = executable(x=x, r=boxes).numpy()
        assert got.shape == (count, 2, 3, 3)
        if count:
            np.testing.assert_array_equal(got, session.run(None, {"x": x, "r": boxes})[0])


def test_shapes_that_are_none() -> None:
    with pytest.raises(UserError, match="expected 4, 2 and two positive integers"):
        from_onnx(pooling([1, 2, 8, 8], [3, 0], 1.0))
