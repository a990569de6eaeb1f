# SPDX-License-Identifier: Apache-2.0
"""Operators of com.microsoft that ONNX Runtime has on GPUs only: values against numpy.

float32 with sums in different orders: rtol and atol are 2e-5 of results near 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import helper

from heddle.frontend.onnx import backend

NEAR = 2e-5


def run(kind: str, inputs: Sequence[Any], outputs: int = 1, **attrs: Any) -> Any:
    """The outputs of one node, compiled."""
    names = [f"x{at}" if x is not None else "" for at, x in enumerate(inputs)]
    node = helper.make_node(
        kind, names, [f"y{at}" for at in range(outputs)], domain="com.microsoft", **attrs
    )
    given = [x for x in inputs if x is not None]
    return backend.run_node(node, given, opset_version=1)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def normalised(x: np.ndarray, groups: int) -> np.ndarray:
    """x[N, ..., C] with mean 0 and variance 1 in each group of channels."""
    parts = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    mean, var = parts.mean(axis=(1, 3), keepdims=True), parts.var(axis=(1, 3), keepdims=True)
    return ((parts - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)


def test_biases(rng: np.random.Generator) -> None:
    x, bias, skip = (rng.standard_normal(s).astype(np.float32) for s in ((2, 3, 8), 8, (2, 3, 8)))
    np.testing.assert_allclose(run("BiasAdd", [x, bias, skip])[0], x + bias + skip, rtol=NEAR)
    (y,) = run("BiasSoftmax", [x, skip], axis=2, is_inner_broadcast=1)
    np.testing.assert_allclose(y, softmax(x + skip), rtol=NEAR, atol=NEAR)
    y, mask = run("BiasDropout", [x, bias, skip], outputs=2)
    np.testing.assert_allclose(y, x + bias + skip, rtol=NEAR)
    assert mask.all()
    assert mask.shape == x.shape


def test_bias_dropout_in_training(rng: np.random.Generator) -> None:
    x, bias = rng.standard_normal((64, 32)).astype(np.float32), np.ones(32, np.float32)
    ratio, training = np.asarray(0.25, np.float32), np.asarray(True)
    y, mask = run("BiasDropout", [x, bias, None, ratio, training], outputs=2)
    np.testing.assert_allclose(y, np.where(mask, (x + bias) / 0.75, 0), rtol=NEAR)
    assert 0.7 < mask.mean() < 0.8


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("activation", [0, 1])
@pytest.mark.parametrize("wide", [False, True])
def test_group_norm(last: int, activation: int, wide: bool, rng: np.random.Generator) -> None:
    """With what skips a layer: a tensor, or a row for each image."""
    x, gamma, beta, bias = (
        rng.standard_normal(s).astype(np.float32) for s in ((2, 3, 5, 8), 8, 8, 8)
    )
    skip = rng.standard_normal((2, 3, 5, 8) if wide else (2, 8)).astype(np.float32)
    attrs = {"groups": 4, "activation": activation, "channels_last": last}

    def turned(a: np.ndarray) -> np.ndarray:
        return a if last or a.ndim < 4 else np.moveaxis(a, -1, 1)

    def norm(a: np.ndarray) -> np.ndarray:
        made = normalised(a, 4) * gamma + beta
        return turned(made / (1 + np.exp(-made)) if activation else made)

    (y,) = run("GroupNorm", [turned(x), gamma, beta], **attrs)
    np.testing.assert_allclose(y, norm(x), rtol=NEAR, atol=NEAR)
    both = [np.ascontiguousarray(turned(a)) for a in (x, skip)]
    y, total = run("SkipGroupNorm", [both[0], gamma, beta, both[1], bias], outputs=2, **attrs)
    whole = x + (skip if wide else skip[:, None, None]) + bias
    np.testing.assert_allclose(total, turned(whole), rtol=NEAR, atol=NEAR)
    np.testing.assert_allclose(y, norm(whole), rtol=NEAR, atol=NEAR)
