# SPDX-License-Identifier: Apache-2.0
"""Operators of ONNX Runtime's optimised models (com.microsoft): values against ONNX Runtime's.

float32 on both sides, with sums in different orders: rtol and atol are 2e-5 (of results near 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import heddle
from heddle.frontend.onnx import ImportFailure, backend
from heddle.frontend.onnx.narrow import numpy_dtype
from heddle.support import UserError

ort = pytest.importorskip("onnxruntime", reason="values are compared with ONNX Runtime's")

DOMAIN = "com.microsoft"
RNG = np.random.default_rng(5)
NEAR = 2e-5


def f(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def ids(limit: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, limit, shape).astype(np.int32)


def u8(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape).astype(np.uint8)


def i8(*shape: int) -> np.ndarray:
    return RNG.integers(-99, 99, shape).astype(np.int8)


def scalar(value: float) -> np.ndarray:
    return np.asarray(value, np.float32)


@dataclass
class Case:
    """One node: inputs in order (None: missing; listed in `constant`: an initializer)."""

    kind: str
    inputs: list[Any]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    constant: tuple[int, ...] = ()
    wanted: tuple[int, ...] | None = None
    """Positions of the outputs that are compared; None: all."""

    def model(self) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
        names = [f"x{at}" if x is not None else "" for at, x in enumerate(self.inputs)]
        wanted = range(self.outputs) if self.wanted is None else self.wanted
        outputs = [f"y{at}" if at in wanted else "" for at in range(self.outputs)]
        node = helper.make_node(self.kind, names, outputs, domain=DOMAIN, **self.attrs)
        given = {n: x for n, x in zip(names, self.inputs, strict=True) if x is not None}
        fixed = {f"x{at}" for at in self.constant}
        infos = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for n, x in given.items()
            if n not in fixed
        ]
        graph = helper.make_graph(
            [node],
            "g",
            infos,
            [helper.make_empty_tensor_value_info(name) for name in outputs if name],
            [numpy_helper.from_array(given[name], name) for name in sorted(fixed)],
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return model, {name: x for name, x in given.items() if name not in fixed}


def expected(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    data = model.SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))  # type: ignore[no-any-return]


ROWS, WIDE = f(2, 5, 16), f(16)
COS, SIN = np.cos(f(32, 4)), np.sin(f(32, 4))
IMAGE, KERNEL = f(1, 4, 7, 7), f(6, 4, 3, 3, scale=0.3)
MASK = np.asarray([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], np.int32)
EMBED = [ids(9, 2, 5), ids(2, 2, 5), f(9, 16), f(8, 16), f(2, 16), WIDE, f(16)]
HEADS = {"num_heads": 4}
GROUPS = {"num_heads": 4, "kv_num_heads": 2}
TURNED = [np.cos(f(32, 8)), np.sin(f(32, 8))]


def total(value: int) -> np.ndarray:
    return np.asarray(value, np.int32)


def lengths(*values: int) -> np.ndarray:
    return np.asarray(values, np.int32)


def past(*counts: int) -> np.ndarray:
    """A buffer of 9 positions: what is behind those in use, ONNX Runtime clears."""
    data = f(2, 2, 9, 16)
    for batch, count in enumerate(counts):
        data[batch, :, count:] = 0
    return data


def lstm(ways: int, signed: bool, per_column: bool) -> list[Any]:
    """Inputs of DynamicQuantizeLSTM: 3 steps of one sequence of 6 numbers, 4 states."""
    codes = i8 if signed else u8
    columns = (ways, 16) if per_column else (ways,)
    middle = np.zeros(columns, np.int8) if signed else np.full(columns, 120, np.uint8)
    scales = [np.abs(f(*columns, scale=0.01)) + np.float32(0.001) for _ in range(2)]
    weights = [codes(ways, 6, 16), codes(ways, 4, 16), f(ways, 32)]
    state = [None, f(ways, 1, 4), f(ways, 1, 4), None]
    return [f(3, 1, 6), *weights, *state, scales[0], middle, scales[1], middle]


CASES = {
    "lstm_8_bits": Case(
        "DynamicQuantizeLSTM", lstm(1, True, False), {"hidden_size": 4}, 3, (1, 2, 8, 9, 10, 11)
    ),
    "lstm_8_bits_both_ways": Case(
        "DynamicQuantizeLSTM",
        lstm(2, False, True),
        {"hidden_size": 4, "direction": "bidirectional"},
        3,
        (1, 2, 8, 9, 10, 11),
    ),
    "gelu": Case("Gelu", [ROWS]),
    "bias_gelu": Case("BiasGelu", [ROWS, WIDE]),
    "fast_gelu": Case("FastGelu", [ROWS, WIDE]),
    "quick_gelu": Case("QuickGelu", [ROWS], {"alpha": 1.5}),
    "skip_norm": Case(
        "SkipLayerNormalization",
        [ROWS, f(2, 5, 16), WIDE, f(16), f(16)],
        {"epsilon": 1e-5},
        outputs=4,
        wanted=(0, 3),
    ),
    "skip_rms": Case("SkipSimplifiedLayerNormalization", [ROWS, f(2, 5, 16), WIDE]),
    "embed": Case("EmbedLayerNormalization", [*EMBED, MASK], outputs=2),
    "embed_positions": Case(
        "EmbedLayerNormalization", [*EMBED, None, ids(8, 2, 5)], outputs=3, wanted=(0, 2)
    ),
    "matmul": Case("FusedMatMul", [f(2, 5, 3), f(2, 4, 3)], {"transB": 1, "alpha": 0.5}),
    "matmul_batch": Case("FusedMatMul", [f(5, 2, 3), f(2, 3, 4)], {"transBatchA": 1}),
    "gemm": Case(
        "FusedGemm",
        [f(5, 3), f(4, 3), f(4)],
        {"transB": 1, "alpha": 0.5, "activation": "LeakyRelu", "activation_alpha": 0.1},
    ),
    "conv": Case(
        "FusedConv",
        [IMAGE, KERNEL, f(6), f(1, 6, 5, 5)],
        {"activation": "Relu", "strides": [1, 1]},
    ),
    "conv_clip": Case(
        "FusedConv",
        [IMAGE, KERNEL],
        {"activation": "Clip", "activation_params": [-0.5, 0.5], "pads": [1, 1, 1, 1]},
    ),
    "conv_hard": Case(
        "FusedConv",
        [IMAGE, KERNEL, f(6)],
        {
            "activation": "HardSigmoid",
            "activation_params": [0.3, 0.4],
            "auto_pad": "SAME_UPPER",
        },
    ),
    "dynamic": Case(
        "DynamicQuantizeMatMul", [f(3, 4, 8), i8(8, 5), scalar(0.02), np.asarray(3, np.int8)]
    ),
    "dynamic_columns": Case(
        "DynamicQuantizeMatMul",
        [np.abs(f(3, 8)) + 1, u8(8, 5), np.abs(f(5)) / 50, u8(5), f(5)],
        constant=(1, 2, 3, 4),
    ),
    "integer": Case("MatMulIntegerToFloat", [i8(3, 8), i8(8, 5), scalar(0.1), scalar(0.02)]),
    "integer_zeros": Case(
        "MatMulIntegerToFloat",
        [
            *(u8(3, 8), i8(8, 5), scalar(0.1), scalar(0.02)),
            *(np.asarray(120, np.uint8), np.asarray(-3, np.int8), f(5)),
        ],
    ),
    "integer_columns": Case(
        "MatMulIntegerToFloat",
        [
            *(u8(2, 3, 8), u8(8, 5), np.full(1, 0.1, np.float32), np.abs(f(5)) / 50),
            *(np.asarray(120, np.uint8), u8(5)),
        ],
    ),
    "distance": Case("CDist", [f(5, 3), f(4, 3)], {"metric": "euclidean"}),
    "n_bits": Case(
        "MatMulNBits",
        [ROWS, RNG.integers(0, 256, (6, 1, 8), dtype=np.uint8), f(6)],
        {"N": 6, "K": 16, "bits": 4, "block_size": 16},
        constant=(1, 2),
    ),
    "n_bits_zeros": Case(
        "MatMulNBits",
        [
            f(3, 48),
            RNG.integers(0, 256, (5, 3, 8), dtype=np.uint8),
            f(15),
            ids(256, 10).astype("u1"),
        ],
        {"N": 5, "K": 48, "bits": 4, "block_size": 16},
        constant=(1, 2, 3),
    ),
    "n_bits_8": Case(
        "MatMulNBits",
        [f(3, 40), u8(5, 3, 16), np.abs(f(15)) / 50, None, None, f(5)],
        {"N": 5, "K": 40, "bits": 8, "block_size": 16},
        constant=(1, 2, 5),
    ),
    "n_bits_float_zeros": Case(
        "MatMulNBits",
        [f(3, 48), u8(5, 3, 8), f(15) / 4, f(15)],
        {"N": 5, "K": 48, "bits": 4, "block_size": 16},
        constant=(1, 2, 3),
    ),
    "n_bits_order": Case(
        "MatMulNBits",
        [f(3, 48), u8(5, 3, 8), f(15) / 4, None, ids(3, 48)],
        {"N": 5, "K": 48, "bits": 4, "block_size": 16},
        constant=(1, 2, 4),
    ),
    "attention": Case("Attention", [ROWS, f(16, 48, scale=0.3), f(48)], HEADS),
    "attention_lengths": Case(
        "Attention", [ROWS, f(16, 48, scale=0.3), f(48), lengths(4, 2)], HEADS
    ),
    "attention_bounds": Case(
        "Attention", [ROWS, f(16, 48, scale=0.3), f(48), lengths(4, 5, 0, 1)], HEADS
    ),
    "attention_sizes": Case(
        "Attention",
        [ROWS, f(16, 56, scale=0.3), f(56)],
        {**HEADS, "qkv_hidden_sizes": [16, 16, 24]},
    ),
    "attention_mask_past": Case(
        "Attention",
        [ROWS, f(16, 48, scale=0.3), f(48), np.ones((2, 8), np.int32), f(2, 2, 4, 3, 4)],
        {**HEADS, "unidirectional": 1},
        outputs=2,
    ),
    "attention_mask": Case(
        "Attention",
        [ROWS, f(16, 48, scale=0.3), f(48), MASK, None, f(2, 4, 5, 5)],
        {**HEADS, "scale": 0.3},
    ),
    "q_attention": Case(
        "QAttention",
        [
            RNG.integers(0, 256, (2, 5, 16)).astype(np.uint8),
            RNG.integers(-99, 99, (16, 48)).astype(np.int8),
            f(48),
            np.asarray(0.02, np.float32),
            np.asarray(0.01, np.float32),
            None,
            np.asarray(128, np.uint8),
            np.asarray(0, np.int8),
        ],
        HEADS,
    ),
    "heads": Case("MultiHeadAttention", [ROWS, f(2, 7, 16), f(2, 7, 16), f(48)], HEADS),
    "heads_padding": Case(
        "MultiHeadAttention", [ROWS, f(2, 5, 16), f(2, 5, 16), None, MASK], HEADS
    ),
    "heads_lengths": Case(
        "MultiHeadAttention", [ROWS, f(2, 7, 16), f(2, 7, 16), None, lengths(3, 6)], HEADS
    ),
    "heads_cross": Case(
        "MultiHeadAttention", [ROWS, f(2, 4, 7, 4), f(2, 4, 7, 4)], {**HEADS, "scale": 0.4}
    ),
    "heads_past_causal": Case(
        "MultiHeadAttention",
        [ROWS, f(2, 5, 16), f(2, 5, 16), None, None, None, f(2, 4, 3, 4), f(2, 4, 3, 4)],
        {**HEADS, "unidirectional": 1},
        outputs=3,
    ),
    "heads_past": Case(
        "MultiHeadAttention",
        [ROWS, f(2, 5, 16), f(2, 5, 16), None, None, f(1, 4, 5, 8), f(2, 4, 3, 4), f(2, 4, 3, 4)],
        HEADS,
        outputs=3,
    ),
    "rotary": Case("RotaryEmbedding", [f(2, 5, 32), np.asarray([3], np.int64), COS, SIN]),
    "rotary_interleaved": Case(
        "RotaryEmbedding",
        [f(2, 4, 5, 8), ids(32, 2, 5).astype(np.int64), COS, SIN],
        {"interleaved": 1},
    ),
    "rotary_part": Case(
        "RotaryEmbedding",
        [f(2, 5, 64), ids(32, 2, 5).astype(np.int64), COS, SIN],
        {"num_heads": 4, "rotary_embedding_dim": 8},
    ),
    "groups_prompt": Case(
        "GroupQueryAttention",
        [f(2, 5, 64), f(2, 5, 32), f(2, 5, 32), None, None, lengths(4, 4), total(5), *TURNED],
        {**GROUPS, "do_rotary": 1},
        outputs=3,
        constant=(6,),
    ),
    "groups_decode": Case(
        "GroupQueryAttention",
        [
            *(f(2, 1, 64), f(2, 1, 32), f(2, 1, 32), past(6, 3), past(6, 3)),
            *(lengths(6, 3), total(7), *TURNED),
        ],
        {**GROUPS, "do_rotary": 1, "rotary_interleaved": 1},
        outputs=3,
        constant=(6,),
    ),
    "groups_bias": Case(
        "GroupQueryAttention",
        [
            *(f(1, 2, 64), f(1, 2, 32), f(1, 2, 32), f(1, 2, 6, 16), f(1, 2, 6, 16)),
            *(lengths(7), total(8), None, None, None, f(1, 4, 2, 8)),
        ],
        {**GROUPS, "scale": 0.2},
        outputs=3,
        constant=(6,),
    ),
    "groups_window": Case(
        "GroupQueryAttention",
        [f(1, 6, 64), None, None, None, None, lengths(5), total(6)],
        {**GROUPS, "local_window_size": 3},
        outputs=3,
        constant=(6,),
    ),
    "groups_softcap": Case(
        "GroupQueryAttention",
        [
            *(f(2, 1, 32), f(2, 1, 16), f(2, 1, 16), f(2, 2, 4, 8), f(2, 2, 4, 8)),
            *(lengths(4, 4), total(5)),
        ],
        {**GROUPS, "softcap": 2.0},
        outputs=3,
        constant=(6,),
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_against_onnxruntime(name: str) -> None:
    model, inputs = CASES[name].model()
    results = backend.prepare(model, engine="reference").run(inputs)
    for got, want in zip(results, expected(model, inputs), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=NEAR, atol=NEAR)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["skip_norm", "n_bits_zeros", "attention_mask", "groups_decode"])
def test_compiled(name: str) -> None:
    model, inputs = CASES[name].model()
    results = backend.prepare(model).run(inputs)
    for got, want in zip(results, expected(model, inputs), strict=True):
        np.testing.assert_allclose(got, want, rtol=NEAR, atol=NEAR)


@pytest.mark.parametrize("kind", ["NhwcConv", "NhwcFusedConv"])
def test_channels_last(kind: str) -> None:
    """ONNX Runtime has no such kernel for float32: against the same with channels first."""
    image = np.ascontiguousarray(IMAGE.transpose(0, 2, 3, 1))
    attrs: dict[str, Any] = {"pads": [1, 1, 1, 1]}
    if kind == "NhwcFusedConv":
        attrs["activation"] = "Relu"
    model, inputs = Case(kind, [image, KERNEL, f(6)], attrs).model()
    (got,) = backend.prepare(model, engine="reference").run(inputs)
    first, _ = Case("FusedConv", [IMAGE, KERNEL, inputs["x2"]], attrs).model()
    (want,) = expected(first, {"x0": IMAGE, "x1": KERNEL, "x2": inputs["x2"]})
    np.testing.assert_allclose(got.transpose(0, 3, 1, 2), want, rtol=NEAR, atol=NEAR)


def scaled(value: float, zero: int) -> list[np.ndarray]:
    return [np.asarray(value, np.float32), np.asarray(zero, np.uint8)]


QUANTISED = {
    "conv": Case(
        "QLinearConv",
        [
            *(RNG.integers(0, 256, (1, 6, 7, 4)).astype(np.uint8), *scaled(0.02, 120)),
            *(RNG.integers(0, 256, (5, 4, 3, 3)).astype(np.uint8), *scaled(0.01, 128)),
            *(*scaled(0.05, 127), ids(99, 5)),
        ],
        {"channels_last": 1, "pads": [1, 1, 1, 1], "strides": [2, 1]},
        constant=(3, 4, 5),
    ),
    "pool": Case(
        "QLinearAveragePool",
        [RNG.integers(0, 256, (1, 6, 7, 4)).astype(np.uint8), *scaled(0.02, 9), *scaled(0.01, 7)],
        {"channels_last": 1, "kernel_shape": [2, 3]},
    ),
    "global_pool": Case(
        "QLinearGlobalAveragePool",
        [RNG.integers(0, 256, (2, 6, 7, 4)).astype(np.uint8), *scaled(0.02, 9), *scaled(0.01, 7)],
        {"channels_last": 1},
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_channels_last(name: str) -> None:
    """At most one quantum apart: a value half way between two integers may be either."""
    model, inputs = QUANTISED[name].model()
    (got,) = backend.prepare(model, engine="reference").run(inputs)
    (want,) = expected(model, inputs)
    assert got.dtype == want.dtype
    assert np.abs(got.astype(int) - want.astype(int)).max() <= 1
    assert (got == want).mean() > 0.95


def test_packed_heads() -> None:
    """ONNX Runtime has no such kernels for this processor: against the tensors one by one."""
    parts = [f(2, 5, 4, 4) for _ in range(3)]
    flat = [part.reshape(2, 5, 16) for part in parts]
    model, inputs = Case("MultiHeadAttention", list(flat), HEADS).model()
    (want,) = expected(model, inputs)
    for packed in ([np.stack(parts, axis=3)], [flat[0], np.stack(parts[1:], axis=3)]):
        model, inputs = Case("MultiHeadAttention", packed, HEADS).model()
        (got,) = backend.prepare(model, engine="reference").run(inputs)
        np.testing.assert_allclose(got, want, rtol=NEAR, atol=NEAR)


@pytest.mark.filterwarnings("ignore")
def test_table_of_few_bits() -> None:
    table = RNG.integers(-8, 8, (9, 32)).astype(numpy_dtype("int4"))
    attrs = {"block_size": 16, "gather_axis": 0, "quantize_axis": 1}
    inputs = [table, ids(9, 2, 3), f(9, 2)]
    model, given = Case("GatherBlockQuantized", inputs, attrs, constant=(0, 2)).model()
    (got,) = backend.prepare(model, engine="reference").run(given)
    np.testing.assert_allclose(got, expected(model, given)[0], rtol=NEAR, atol=NEAR)


def test_what_is_missing_says_so() -> None:
    inputs = CASES["groups_prompt"].inputs
    attrs = {**GROUPS, "smooth_softmax": 1}
    model, _ = Case("GroupQueryAttention", inputs, attrs, outputs=3, constant=(6,)).model()
    with pytest.raises(ImportFailure, match="with a smooth softmax"):
        backend.prepare(model, engine="reference")


def test_order_of_blocks_with_zero_points() -> None:
    """Against the definition: ONNX Runtime 1.32 passes over zero points where an order is given."""
    a, packed, scales, zeros, order = f(3, 48), u8(5, 3, 8), f(5, 3), u8(5, 2), ids(3, 48)
    attrs = {"N": 5, "K": 48, "bits": 4, "block_size": 16}
    inputs = [a, packed, scales.ravel(), zeros.ravel(), order]
    model, given = Case("MatMulNBits", inputs, attrs, constant=(1, 2, 3, 4)).model()
    (got,) = backend.prepare(model, engine="reference").run(given)
    codes, points = (
        np.stack([x & 15, x >> 4], axis=-1).reshape(5, -1).astype(np.float32)
        for x in (packed, zeros)
    )
    weights = (codes - points[:, order]) * scales[:, order]
    np.testing.assert_allclose(got, a @ weights.T, rtol=1e-4, atol=1e-4)


def test_order_of_blocks_that_does_not_fit() -> None:
    case = CASES["n_bits_order"]
    for wrong in (np.full(48, 3, np.int32), np.zeros(47, np.int32)):
        inputs = [*case.inputs[:4], wrong]
        model, _ = Case("MatMulNBits", inputs, case.attrs, constant=case.constant).model()
        with pytest.raises(UserError, match="`g_idx` must hold 48 numbers of the 3 blocks"):
            backend.prepare(model, engine="reference")


def test_embedding_of_any_length() -> None:
    model, inputs = CASES["embed"].model()
    for info in model.graph.input:
        dims = info.type.tensor_type.shape.dim
        if info.type.tensor_type.elem_type == onnx.TensorProto.INT32:
            dims[0].dim_param, dims[1].dim_param = "batch", "length"
    results = backend.prepare(model, engine="reference").run(inputs)
    for got, want in zip(results, expected(model, inputs), strict=True):
        np.testing.assert_allclose(got, want, rtol=NEAR, atol=NEAR)


# -- a layer of a language model with nothing fixed ------------------------------------------


def decoder() -> onnx.ModelProto:
    """As exporters of language models write it: sizes of batch, prompt, past and buffer open, the
    number of positions in use taken from the mask."""
    make = helper.make_node
    weights = {"wq": f(32, 64), "wk": f(32, 32), "wv": f(32, 32), "wo": f(64, 32)}
    constants = {name: value / 5 for name, value in weights.items()}
    constants |= {"one": np.ones(1, np.int64), "at": np.asarray(1), "gain": f(32)}
    constants |= {"cos": TURNED[0], "sin": TURNED[1]}
    nodes = [
        make("ReduceSum", ["mask", "one"], ["sum"], keepdims=1),
        make("Sub", ["sum", "one"], ["last"]),
        make("Cast", ["last"], ["lengths"], to=onnx.TensorProto.INT32),
        make("Shape", ["mask"], ["sizes"]),
        make("Gather", ["sizes", "at"], ["size"]),
        make("Cast", ["size"], ["total"], to=onnx.TensorProto.INT32),
        *(make("MatMul", ["x", f"w{side}"], [side]) for side in "qkv"),
        make(
            "GroupQueryAttention",
            ["q", "k", "v", "past_k", "past_v", "lengths", "total", "cos", "sin"],
            ["mixed", "present_k", "present_v"],
            domain=DOMAIN,
            **GROUPS,
            do_rotary=1,
        ),
        make("MatMul", ["mixed", "wo"], ["out"]),
        make("SkipSimplifiedLayerNormalization", ["x", "out", "gain"], ["y"], domain=DOMAIN),
    ]
    float_, int_ = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    shapes = {"x": ["batch", "length", 32], "mask": ["batch", "total"]}
    shapes |= {name: ["batch", 2, "past", 16] for name in ("past_k", "past_v")}
    graph = helper.make_graph(
        nodes,
        "decoder",
        [
            helper.make_tensor_value_info(name, int_ if name == "mask" else float_, shape)
            for name, shape in shapes.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in ("y", "present_k", "present_v")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_past_of_any_size() -> None:
    """Prompts, steps, several positions behind a past, buffers larger than what is in them, and
    batches whose members have pasts of different lengths: one compiled model."""
    model = decoder()
    exe = heddle.compile(model)
    for length, buffer, counts in [
        (5, 0, (0,)),
        (4, 0, (0, 0)),
        (1, 7, (7, 7)),
        (3, 4, (4,)),
        (1, 16, (9,)),
        (1, 7, (7, 3, 1)),
        (1, 12, (7, 3)),
    ]:
        batch = len(counts)
        mask = np.zeros((batch, max(counts) + length), np.int64)
        inputs = {"x": f(batch, length, 32), "mask": mask}
        inputs |= {name: f(batch, 2, buffer, 16) for name in ("past_k", "past_v")}
        for row, count in enumerate(counts):
            mask[row, : count + length] = 1
            for name in ("past_k", "past_v"):
                inputs[name][row, :, count:] = 0  # as ONNX Runtime leaves it
        for got, want in zip(exe(*inputs.values()), expected(model, inputs), strict=True):
            np.testing.assert_allclose(got.numpy(), want, rtol=NEAR, atol=NEAR)


@pytest.mark.parametrize("value", [0, -9, 50, 10**6])
def test_lengths_that_lie(value: int) -> None:
    """More positions in use than there are, or less than none: nothing outside is read."""
    exe = heddle.compile(decoder())
    mask = np.full((2, 8), value, np.int64)
    results = exe(f(2, 2, 32), mask, f(2, 2, 6, 16), f(2, 2, 6, 16))
    assert all(np.isfinite(result.numpy()).all() for result in results)
