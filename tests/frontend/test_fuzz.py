# SPDX-License-Identifier: Apache-2.0
"""A slice of the fuzzer (`python -m benchmarks.fuzz_onnx`), and what it once found."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from heddle.frontend.onnx import backend

pytest.importorskip("onnxruntime", reason="values are compared with ONNX Runtime's")

from benchmarks import fuzz_onnx
from benchmarks.fuzz_explained import explanation
from benchmarks.fuzz_onnx import random_model


@pytest.mark.parametrize("engine, graphs, seed", [("compiled", 30, 1000), ("reference", 150, 2000)])
def test_random_graphs(engine: str, graphs: int, seed: int) -> None:
    lines = fuzz_onnx.run_batch(seed, graphs, engine, depth=6, limit=30)
    wrong = [
        f"seed {x['seed']} {x['outcome']}: {x['detail']}"
        for x in lines
        if x["outcome"] in ("differs", "error", "crashed")
    ]
    assert not wrong, "\n".join(wrong)
    assert sum(line["outcome"] == "same" for line in lines) > 0.9 * graphs


def test_numbers_that_are_known_at_run_time_only() -> None:
    lines = fuzz_onnx.run_batch(3000, 150, "reference", depth=2, limit=30, late=True)
    wrong = [
        f"seed {x['seed']} {x['outcome']}: {x['detail']}"
        for x in lines
        if x["outcome"] in ("differs", "error", "crashed")
    ]
    assert not wrong, "\n".join(wrong)
    assert sum(line["outcome"] == "same" for line in lines) > 0.9 * len(lines)


@pytest.mark.parametrize(
    "seed, outcome",
    [
        (20440, "same"),  # Tile of a tensor without elements
        (21628, "same"),  # the sign of a sum: a condition that reads what the loop has to write
        (20046, "explained"),  # Resize to places on elements
        (24928, "explained"),  # LpPool by SAME_UPPER, windows smaller than the steps
    ],
)
def test_what_was_found(seed: int, outcome: str) -> None:
    (line,) = fuzz_onnx.run_batch(seed, 1, "compiled", depth=6, limit=60)
    assert line["outcome"] == outcome, line["detail"]


def pooling(kind: str, opset: int, mode: str, size: int, kernel: int, stride: int) -> ModelProto:
    """A pooling, or for Conv a sum over windows, of an image [1, 1, size, size]."""
    inputs = ["x", "w"] if kind == "Conv" else ["x"]
    attrs = {"kernel_shape": [kernel, kernel], "strides": [stride, stride], "auto_pad": mode}
    node = helper.make_node(kind, inputs, ["y"], **attrs)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, size, size])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, "h", "w"])
    ones = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, kernel, kernel], [1.0] * kernel**2)
    graph = helper.make_graph([node], "g", [x], [y], [ones] if kind == "Conv" else [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("size, kernel, stride", [(6, 1, 3), (8, 2, 4), (7, 1, 4), (9, 1, 4)])
@pytest.mark.parametrize("kind, opset", [("AveragePool", 7), ("AveragePool", 19), ("LpPool", 18)])
def test_windows_smaller_than_steps(
    kind: str, opset: int, size: int, kernel: int, stride: int, mode: str
) -> None:
    """Poolings are where ONNX Runtime's Conv of the same attributes is."""
    x = {"x": np.random.default_rng(3).uniform(1, 2, (1, 1, size, size)).astype(np.float32)}
    data = {"x": x["x"] ** 2} if kind == "LpPool" else x
    (sums,) = fuzz_onnx.expected_outputs(pooling("Conv", 11, mode, size, kernel, stride), data)
    want = np.sqrt(sums) if kind == "LpPool" else sums / kernel**2
    (got,) = backend.prepare(pooling(kind, opset, mode, size, kernel, stride)).run(x)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("kind, opset", [("AveragePool", 19), ("LpPool", 18)])
def test_negative_paddings_of_onnxruntime(kind: str, opset: int) -> None:
    """Two elements too many are split alike by both modes, and only one is like Conv: what
    `fuzz_explained` says of ONNX Runtime. When this fails, that entry has to go."""
    x = {"x": np.arange(1, 37, dtype=np.float32).reshape(1, 1, 6, 6)}
    upper, lower = (
        fuzz_onnx.expected_outputs(pooling(kind, opset, mode, 6, 1, 3), x)[0].tolist()
        for mode in ("SAME_UPPER", "SAME_LOWER")
    )
    assert lower == [[[[1, 4], [19, 22]]]]
    assert upper == [[[[8, 11], [26, 29]]]]
    for mode, explained in (("SAME_UPPER", True), ("SAME_LOWER", False)):
        reason = explanation(pooling(kind, opset, mode, 6, 1, 3), x)
        assert (reason is not None) == explained
    assert explanation(pooling(kind, opset, "SAME_UPPER", 6, 2, 3), x) is None


def test_a_seed_is_a_graph() -> None:
    one, other = random_model(7), random_model(7)
    assert one[0] == other[0]
    assert all((one[1][name] == other[1][name]).all() for name in one[1])


def test_a_wrong_result_is_found_and_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an engine that gets every Relu wrong, the Relu alone is what is reported."""
    nodes = [
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Abs", ["b"], ["c"]),
    ]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in ("x", "c")]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    right = fuzz_onnx.actual_outputs

    def wrong(model, inputs, engine):
        shift = any(node.op_type == "Relu" for node in model.graph.node)
        return [output + shift for output in right(model, inputs, "reference")]

    monkeypatch.setattr(fuzz_onnx, "actual_outputs", wrong)
    x = {"x": np.asarray([-1, 2, -3], np.float32)}
    outcome, _ = fuzz_onnx.verdict(model, x, "reference")
    assert outcome == "differs"
    found = fuzz_onnx.shrunk(model, x, "reference", outcome)
    assert found is not None
    assert [node.op_type for node in found[0].graph.node] == ["Relu"]


@pytest.mark.parametrize("kind", ["ReduceL2", "ReduceMax"])
def test_reduction_of_one_element(kind: str) -> None:
    """A vector of one element to a scalar: no loop is left for vectors to run along."""
    nodes = [
        helper.make_node("Clip", ["x", "low"], ["a"]),
        helper.make_node(kind, ["a"], ["y"], keepdims=0),
    ]
    infos = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, []),
    ]
    low = helper.make_tensor("low", TensorProto.FLOAT, [], [-9.0])
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], [low])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert backend.prepare(model).run([np.asarray([3], np.float32)])[0] == 3
