# SPDX-License-Identifier: Apache-2.0
"""A slice of the fuzzer (`python -m benchmarks.fuzz_onnx`), and what it once found."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from heddle.frontend.onnx import backend

pytest.importorskip("onnxruntime", reason="values are compared with ONNX Runtime's")

from benchmarks import fuzz_onnx
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


@pytest.mark.parametrize(
    "seed, outcome",
    [
        (20440, "same"),  # Tile of a tensor without elements
        (21628, "same"),  # the sign of a sum: a condition that reads what the loop has to write
        (20046, "explained"),  # Resize to places on elements
    ],
)
def test_what_was_found(seed: int, outcome: str) -> None:
    (line,) = fuzz_onnx.run_batch(seed, 1, "compiled", depth=6, limit=60)
    assert line["outcome"] == outcome, line["detail"]


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
