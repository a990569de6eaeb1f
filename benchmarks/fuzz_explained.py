# SPDX-License-Identifier: Apache-2.0
"""Differences from ONNX Runtime that the fuzzer does not count, each with its reason.

An entry is about one node on the inputs that it had; anything else that an operator does
differently counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx

Arrays = Mapping[str, np.ndarray]
Test = Callable[[onnx.NodeProto, list[np.ndarray]], bool]


def explanation(model: onnx.ModelProto, inputs: Arrays) -> str | None:
    """Why the results of a model of one node may differ, None when they must not."""
    if len(model.graph.node) != 1:
        return None
    node = model.graph.node[0]
    known = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    known.update(inputs)
    arrays = [known.get(name, np.zeros(0)) for name in node.input]
    for operators, test, reason in EXPLAINED:
        if node.op_type in operators and test(node, arrays):
            return f"{node.op_type}: {reason}"
    return None


def _on_a_tie(node: onnx.NodeProto, arrays: list[np.ndarray]) -> bool:
    """Nearest neighbours where a place is half-way between, or exactly on, elements: ONNX Runtime
    computes places in float32, Heddle in float64."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if attributes.get("mode", b"nearest") != b"nearest":
        return False
    x = arrays[0]
    if len(arrays) > 3 and arrays[3].size == x.ndim:
        scales = arrays[3] / np.maximum(x.shape, 1)
    else:
        given = [a for a in arrays[1:3] if a.size == x.ndim]
        if not given:
            return False
        scales = given[-1].astype(np.float64)
    for size, scale in zip(x.shape, scales, strict=True):
        if scale == 1 or not scale > 0:
            continue
        at = np.arange(int(size * scale) + 1)
        ends = at * (size - 1) / max(int(size * scale) - 1, 1)
        for place in ((at + 0.5) / scale - 0.5, at / scale, ends):
            if (np.abs(2 * place - np.round(2 * place)) < 1e-5).any():
                return True
    return False


def _zero_times_infinity(node: onnx.NodeProto, arrays: list[np.ndarray]) -> bool:
    x = arrays[0]
    if x.dtype.kind != "f" or not (x == 0).any():
        return False
    with np.errstate(all="ignore"):
        largest = np.prod(np.maximum(np.abs(x), 1))
    return not np.isfinite(largest)


def _steps_over_the_rest(node: onnx.NodeProto, arrays: list[np.ndarray]) -> bool:
    """SAME_UPPER where windows leave two or more elements of an axis behind the last one, so that
    the formula of the standard gives a negative padding. ONNX Runtime takes half of it as a
    beginning within the tensor; it does not for SAME_LOWER (of an even padding, which the standard
    splits alike) nor in Conv, and MaxPool stops with an error. Heddle pads by nothing in all."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if attributes.get("auto_pad") != b"SAME_UPPER":
        return False
    kernel = attributes["kernel_shape"]
    strides = attributes.get("strides", [1] * len(kernel))
    dilations = attributes.get("dilations", [1] * len(kernel))
    for size, k, stride, dilation in zip(
        arrays[0].shape[2:], kernel, strides, dilations, strict=True
    ):
        last = (-(-size // stride) - 1) * stride
        if last + (k - 1) * dilation + 1 - size <= -2:
            return True
    return False


EXPLAINED: tuple[tuple[tuple[str, ...], Test, str], ...] = (
    (
        ("Resize", "Upsample"),
        _on_a_tie,
        "a place on an element, or half-way between two, goes to one side or the other by rounding",
    ),
    (
        ("AveragePool", "LpPool"),
        _steps_over_the_rest,
        "a negative padding by SAME_UPPER is none, as by SAME_LOWER and in Conv",
    ),
    (
        ("ReduceProd",),
        _zero_times_infinity,
        "0 times a product that is (or became) infinite is NaN in one order and 0 in another",
    ),
)
