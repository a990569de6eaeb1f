# SPDX-License-Identifier: Apache-2.0
"""Quantised models: values against an exact integer model in numpy, and ONNX Runtime's.

The accumulator of a product of integers is exact, and is multiplied in float32 by one scale and
rounded once: results equal those of the numpy model here, which does the same in the same order.
ONNX Runtime may round a scale at another place, so that a value half way between two integers
becomes the other one: it may differ by one quantum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import heddle

ort = pytest.importorskip("onnxruntime", reason="values are compared with ONNX Runtime's")

QUANTUM = 1
TARGETS = ("native", "llvm -mcpu=haswell", "llvm -mcpu=x86-64", "native -mattr=-amx-tile")


def _native_without_tiles() -> str:
    from heddle.target import native

    return f"llvm -mcpu={native().cpu} -mattr=-amx-tile"


def target_of(text: str) -> str:
    """A target of TARGETS as `heddle.compile` takes it."""
    return _native_without_tiles() if text.startswith("native -") else text


class Builder:
    """Nodes and constants of a model."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, **attrs: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attrs))
        return output

    def model(self, inputs: Sequence[Any], output: str, kind: int) -> onnx.ModelProto:
        out = helper.make_tensor_value_info(output, kind, None)
        graph = helper.make_graph(self.nodes, "q", list(inputs), [out], self.constants)
        opsets = [helper.make_opsetid("", 19), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def onnxruntime(model: onnx.ModelProto, **values: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, values)[0]  # type: ignore[no-any-return]


def compiled(model: onnx.ModelProto, target: str, **values: np.ndarray) -> np.ndarray:
    return heddle.compile(model, target_of(target), cache=False)(**values).numpy()  # type: ignore[no-any-return,union-attr]


def convolve(x: np.ndarray, w: np.ndarray, stride: int, pad: int, groups: int) -> np.ndarray:
    """The exact convolution of integers."""
    x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    n, _, h, v = x.shape
    o, i, kh, kw = w.shape
    rows, columns = (h - kh) // stride + 1, (v - kw) // stride + 1
    out = np.zeros((n, o, rows, columns), np.int64)
    for row in range(rows):
        for column in range(columns):
            top, left = row * stride, column * stride
            part = x[:, :, top : top + kh, left : left + kw]
            split = part.reshape(n, groups, i, kh, kw)
            kernel = w.reshape(groups, o // groups, i, kh, kw)
            out[:, :, row, column] = np.einsum("ngiab,goiab->ngo", split, kernel).reshape(n, o)
    return out


def requantised(total: np.ndarray, scale: np.ndarray, zero: int, dtype: Any) -> np.ndarray:
    value = np.rint(total.astype(np.float32) * scale.astype(np.float32)) + np.float32(zero)
    info = np.iinfo(dtype)
    return np.clip(value, info.min, info.max).astype(dtype)  # type: ignore[no-any-return]


CONVOLUTIONS = [
    # channels, outputs, kernel, stride, pad, groups
    (3, 8, 3, 2, 1, 1),
    (16, 32, 1, 1, 0, 1),
    (64, 64, 3, 1, 1, 1),
    (20, 37, 3, 1, 1, 1),
    (32, 32, 3, 1, 1, 32),
    (23, 23, 3, 2, 1, 23),
    (32, 64, 3, 1, 1, 2),
    (128, 64, 1, 1, 0, 1),
]


def draw(rng: np.random.Generator, dtype: str, *shape: int, extreme: bool = False) -> np.ndarray:
    info = np.iinfo(dtype)
    if extreme:
        return rng.choice([info.min, info.max], shape).astype(dtype)
    return rng.integers(info.min, info.max, shape, endpoint=True).astype(dtype)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("x_dtype", "w_dtype"), [("uint8", "int8"), ("int8", "int8"), ("uint8", "uint8")]
)
def test_qlinear_conv(target: str, x_dtype: str, w_dtype: str) -> None:
    rng = np.random.default_rng(7)
    for number, (channels, outputs, kernel, stride, pad, groups) in enumerate(CONVOLUTIONS):
        per_channel, extreme = number % 2 == 0, number % 3 == 2
        w = draw(rng, w_dtype, outputs, channels // groups, kernel, kernel, extreme=extreme)
        x = draw(rng, x_dtype, 1, channels, 14, 14, extreme=extreme)
        w_scale = rng.uniform(0.5, 2.0, outputs if per_channel else ()).astype(np.float32)
        w_zero = (
            np.zeros(w_scale.shape, w_dtype)
            if w_dtype == "int8"
            else np.full(w_scale.shape, 131, w_dtype)
        )
        x_zero, y_zero = (np.asarray(v, x_dtype) for v in (3, 120 if x_dtype == "uint8" else -5))
        bias = rng.integers(-1000, 1000, outputs).astype(np.int32)
        y_scale = np.float32(30.0 * np.sqrt(channels / groups) * kernel)
        b = Builder()
        names = [
            "x",
            b.constant("xs", np.float32(0.02)),
            b.constant("xz", x_zero),
            b.constant("w", w),
            b.constant("ws", w_scale),
            b.constant("wz", w_zero),
            b.constant("ys", y_scale),
            b.constant("yz", y_zero),
            b.constant("b", bias),
        ]
        b.node("QLinearConv", names, "y", strides=[stride] * 2, pads=[pad] * 4, group=groups)
        kind = TensorProto.UINT8 if x_dtype == "uint8" else TensorProto.INT8
        model = b.model([helper.make_tensor_value_info("x", kind, x.shape)], "y", kind)
        got = compiled(model, target, x=x)
        shift = w_zero.astype(np.int64).reshape(-1, 1, 1, 1)
        total = convolve(x.astype(np.int64) - int(x_zero), w - shift, stride, pad, groups)
        total += bias.reshape(1, -1, 1, 1)
        scale = np.float32(0.02) * w_scale / y_scale
        want = requantised(
            total, np.broadcast_to(scale, outputs).reshape(1, -1, 1, 1), int(y_zero), x_dtype
        )
        np.testing.assert_array_equal(got, want)
        theirs = onnxruntime(model, x=x).astype(int)
        assert np.abs(got.astype(int) - theirs).max() <= QUANTUM


def qdq(b: Builder, name: str, scale: float, zero: Any) -> str:
    """`name` quantised and dequantised."""
    s, z = b.constant(f"{name}_s", np.float32(scale)), b.constant(f"{name}_z", zero)
    q = b.node("QuantizeLinear", [name, s, z], f"{name}_q")
    return b.node("DequantizeLinear", [q, s, z], f"{name}_dq")


@pytest.mark.parametrize("activation", ["", "Relu", "Clip", "HardSwish"])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_qdq_residual_block(activation: str, dtype: str) -> None:
    """Two convolutions, an activation, a sum, a pooling: all of them between Q and DQ."""
    rng = np.random.default_rng(11)
    zero = np.asarray(128 if dtype == "uint8" else 0, dtype)
    b = Builder()
    x = qdq(b, "x", 0.02, zero)
    pooled = qdq(b, b.node("MaxPool", [x], "p", kernel_shape=[2, 2], strides=[2, 2]), 0.02, zero)
    value = pooled
    for layer, channels in enumerate((64, 64)):
        w = rng.integers(-127, 128, (channels, 64, 3, 3)).astype(np.int8)
        scales = rng.uniform(0.001, 0.002, channels).astype(np.float32)
        weights = b.node(
            "DequantizeLinear",
            [
                b.constant(f"w{layer}", w),
                b.constant(f"ws{layer}", scales),
                b.constant(f"wz{layer}", np.zeros(channels, np.int8)),
            ],
            f"wf{layer}",
            axis=0,
        )
        bias = b.constant(f"bias{layer}", rng.standard_normal(channels).astype(np.float32))
        value = b.node("Conv", [value, weights, bias], f"c{layer}", pads=[1, 1, 1, 1])
        if activation == "Clip":
            limits = [
                b.constant(f"lo{layer}", np.float32(0)),
                b.constant(f"hi{layer}", np.float32(6)),
            ]
            value = b.node("Clip", [value, *limits], f"a{layer}")
        elif activation:
            value = b.node(activation, [value], f"a{layer}")
        value = qdq(b, value, 0.1, zero)
    total = qdq(b, b.node("Add", [value, pooled], "sum"), 0.1, zero)
    mean = qdq(b, b.node("GlobalAveragePool", [total], "mean"), 0.05, zero)
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 64, 12, 12))
    model = b.model([info], mean, TensorProto.FLOAT)
    values = {"x": rng.standard_normal((1, 64, 12, 12)).astype(np.float32)}
    got, want = compiled(model, "native", **values), onnxruntime(model, **values)
    # A quantum of difference in a layer may become two in the next.
    assert np.abs(got - want).max() <= 2 * 0.05 + 1e-6
    assert np.mean(got != want) < 0.1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("rows", "depth", "columns"), [(1, 64, 10), (5, 30, 17), (32, 128, 64), (49, 64, 33)]
)
def test_qlinear_matmul(target: str, rows: int, depth: int, columns: int) -> None:
    rng = np.random.default_rng(rows)
    a, w = draw(rng, "uint8", rows, depth), draw(rng, "int8", depth, columns)
    w_scale = rng.uniform(0.01, 0.02, columns).astype(np.float32)
    b = Builder()
    names = [
        "a",
        b.constant("as", np.float32(0.5)),
        b.constant("az", np.uint8(200)),
        b.constant("w", w),
        b.constant("ws", w_scale),
        b.constant("wz", np.zeros(columns, np.int8)),
        b.constant("ys", np.float32(2.5)),
        b.constant("yz", np.uint8(100)),
    ]
    b.node("QLinearMatMul", names, "y")
    info = helper.make_tensor_value_info("a", TensorProto.UINT8, a.shape)
    model = b.model([info], "y", TensorProto.UINT8)
    got = compiled(model, target, a=a)
    total = (a.astype(np.int64) - 200) @ w.astype(np.int64)
    scale = np.float32(0.5) * w_scale / np.float32(2.5)
    np.testing.assert_array_equal(got, requantised(total, scale, 100, np.uint8))
    assert np.abs(got.astype(int) - onnxruntime(model, a=a)).max() <= QUANTUM


@pytest.mark.parametrize("transposed", [False, True])
def test_product_of_two_activations(transposed: bool) -> None:
    """Attention: neither operand is constant, both have zero points."""
    rng = np.random.default_rng(2)
    shape = (2, 3, 16, 64)
    b = Builder()
    left = qdq(b, "a", 0.02, np.uint8(120))
    right = qdq(b, "b", 0.03, np.uint8(99))
    if transposed:
        right = b.node("Transpose", [right], "bt", perm=[0, 1, 3, 2])
    out = qdq(b, b.node("MatMul", [left, right], "y"), 0.3, np.uint8(131))
    other = shape if transposed else (2, 3, 64, 24)
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        for name, dims in (("a", shape), ("b", other))
    ]
    model = b.model(infos, out, TensorProto.FLOAT)
    values = {
        "a": rng.standard_normal(shape).astype(np.float32),
        "b": rng.standard_normal(other).astype(np.float32),
    }
    got, want = compiled(model, "native", **values), onnxruntime(model, **values)
    assert np.abs(got - want).max() <= 0.3 * QUANTUM + 1e-5


@pytest.mark.parametrize("zeros", [False, True])
def test_integer_operators_are_exact(zeros: bool) -> None:
    rng = np.random.default_rng(5)
    x, w = draw(rng, "uint8", 1, 16, 9, 9), draw(rng, "uint8", 8, 16, 3, 3)
    b = Builder()
    points = [b.constant("xz", np.uint8(7)), b.constant("wz", np.uint8(130))] if zeros else []
    b.node("ConvInteger", ["x", b.constant("w", w), *points], "y", pads=[1, 1, 1, 1])
    info = helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)
    model = b.model([info], "y", TensorProto.INT32)
    shift = (7, 130) if zeros else (0, 0)
    want = convolve(x.astype(np.int64) - shift[0], w.astype(np.int64) - shift[1], 1, 1, 1)
    np.testing.assert_array_equal(compiled(model, "native", x=x), want)


def test_dynamically_quantised_product() -> None:
    rng = np.random.default_rng(6)
    b = Builder()
    b.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]))
    w = draw(rng, "int8", 64, 40)
    b.node("MatMulInteger", ["q", b.constant("w", w), "z", b.constant("wz", np.int8(0))], "p")
    b.node("Cast", ["p"], "f", to=TensorProto.FLOAT)
    b.node("Mul", ["f", "s"], "y")
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, (9, 64))
    model = b.model([info], "y", TensorProto.FLOAT)
    x = rng.standard_normal((9, 64)).astype(np.float32)
    got, want = compiled(model, "native", x=x), onnxruntime(model, x=x)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-3)


def _microsoft(
    kind: str, inputs: list[Any], **attrs: Any
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """A model of one operator: arrays of several elements are inputs, the rest constants."""
    b = Builder()
    names, infos, values = [], [], {}
    for at, value in enumerate(inputs):
        name = f"i{at}"
        array = np.asarray(value)
        names.append(name)
        if array.ndim > 1:
            kind_of = helper.np_dtype_to_tensor_dtype(array.dtype)
            infos.append(helper.make_tensor_value_info(name, kind_of, array.shape))
            values[name] = array
        else:
            b.constant(name, array)
    b.node(kind, names, "y", domain="com.microsoft", **attrs)
    return b.model(infos, "y", TensorProto.UINT8), values


S, Z = np.float32, np.uint8
_RNG = np.random.default_rng(3)
_IMAGE = _RNG.integers(0, 256, (1, 8, 6, 6)).astype(np.uint8)
_OTHER = _RNG.integers(0, 256, (1, 8, 6, 6)).astype(np.uint8)
_ROWS = _RNG.integers(0, 256, (4, 16)).astype(np.uint8)
MICROSOFT = [
    ("QLinearAdd", [_IMAGE, S(0.1), Z(9), _OTHER, S(0.2), Z(100), S(0.3), Z(60)], {}),
    ("QLinearMul", [_IMAGE, S(0.1), Z(9), _OTHER, S(0.2), Z(100), S(2.0), Z(90)], {}),
    ("QLinearSigmoid", [_IMAGE, S(0.05), Z(128), S(1 / 256), Z(0)], {}),
    ("QLinearLeakyRelu", [_IMAGE, S(0.05), Z(128), S(0.05), Z(40)], {"alpha": 0.1}),
    ("QLinearSoftmax", [_ROWS, S(0.05), Z(128), S(1 / 256), Z(0)], {"axis": -1, "opset": 13}),
    ("QLinearGlobalAveragePool", [_IMAGE, S(0.05), Z(128), S(0.02), Z(100)], {"channels_last": 0}),
    ("QLinearAveragePool", [_IMAGE, S(0.05), Z(128), S(0.05), Z(120)], {"kernel_shape": [3, 3]}),
    ("QLinearConcat", [S(0.1), Z(20), _IMAGE, S(0.1), Z(20), _OTHER, S(0.2), Z(100)], {"axis": 1}),
]


@pytest.mark.parametrize(("kind", "inputs", "attrs"), MICROSOFT, ids=[row[0] for row in MICROSOFT])
def test_operators_of_onnx_runtime(kind: str, inputs: list[Any], attrs: dict[str, Any]) -> None:
    model, values = _microsoft(kind, inputs, **attrs)
    got = compiled(model, "native", **values).astype(int)
    assert np.abs(got - onnxruntime(model, **values).astype(int)).max() <= QUANTUM


@pytest.mark.parametrize("transposed", [False, True])
def test_qgemm(transposed: bool) -> None:
    rng = np.random.default_rng(4)
    a, w = draw(rng, "uint8", 6, 32), draw(rng, "int8", 32, 20)
    b = Builder()
    names = [
        "a",
        b.constant("as", np.float32(0.1)),
        b.constant("az", np.uint8(33)),
        b.constant("w", np.ascontiguousarray(w.T) if transposed else w),
        b.constant("ws", np.float32(0.02)),
        b.constant("wz", np.int8(0)),
        b.constant("c", rng.integers(-500, 500, 20).astype(np.int32)),
    ]
    b.node("QGemm", names, "y", domain="com.microsoft", transB=int(transposed))
    info = helper.make_tensor_value_info("a", TensorProto.UINT8, a.shape)
    model = b.model([info], "y", TensorProto.FLOAT)
    np.testing.assert_allclose(
        compiled(model, "native", a=a), onnxruntime(model, a=a), rtol=1e-5, atol=1e-4
    )


def test_quantize_saturates_and_rounds_to_even() -> None:
    x = np.array(
        [[0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9, 3e38, 127.4, 127.6, -128.5, 0.0]], np.float32
    )
    for dtype, kind in (("int8", TensorProto.INT8), ("uint8", TensorProto.UINT8)):
        b = Builder()
        b.node(
            "QuantizeLinear",
            ["x", b.constant("s", np.float32(1)), b.constant("z", np.asarray(0, dtype))],
            "y",
        )
        model = b.model([helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)], "y", kind)
        info = np.iinfo(dtype)
        want = np.clip(np.rint(x.astype(np.float64)), info.min, info.max).astype(dtype)
        np.testing.assert_array_equal(compiled(model, "native", x=x), want)
