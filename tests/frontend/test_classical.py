# SPDX-License-Identifier: Apache-2.0
"""Classical models (ai.onnx.ml): values against ONNX Runtime's."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import heddle
from heddle.frontend.onnx import backend

ort = pytest.importorskip("onnxruntime", reason="values are compared with ONNX Runtime's")

# Two trees: of a root with two leaves, and of two levels. Node 0 is the root of each. Each target
# has a weight in each row: ONNX Runtime forgets the base value of one that has none.
TREES = {
    "nodes_treeids": [0, 0, 0, 1, 1, 1, 1, 1],
    "nodes_nodeids": [0, 1, 2, 0, 1, 2, 3, 4],
    "nodes_featureids": [1, 0, 0, 0, 2, 0, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_LT", "BRANCH_GT", *["LEAF"] * 3],
    "nodes_values": [0.1, 0.0, 0.0, -0.2, 0.3, 0.0, 0.0, 0.0],
    "nodes_truenodeids": [1, 0, 0, 1, 3, 0, 0, 0],
    "nodes_falsenodeids": [2, 0, 0, 2, 4, 0, 0, 0],
    "nodes_missing_value_tracks_true": [1, 0, 0, 0, 0, 0, 0, 0],
    "target_treeids": [0, 0, 0, 0, 1, 1, 1],
    "target_nodeids": [1, 1, 2, 2, 2, 3, 4],
    "target_ids": [0, 1, 0, 1, 1, 0, 1],
    "target_weights": [1.0, 0.1, -2.0, 0.5, 3.0, 0.25, 8.0],
    "n_targets": 2,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "trees": ("TreeEnsembleRegressor", {**TREES, "base_values": [0.5, -0.5]}),
    "average": ("TreeEnsembleRegressor", {**TREES, "aggregate_function": "AVERAGE"}),
    "scaler": ("Scaler", {"offset": [0.1, 0.2, 0.3], "scale": [2.0, 3.0, 4.0]}),
    "max": ("Normalizer", {"norm": "MAX"}),
    "l1": ("Normalizer", {"norm": "L1"}),
    "l2": ("Normalizer", {"norm": "L2"}),
    "regressor": (
        "LinearRegressor",
        {"coefficients": [0.1, 0.2, 0.3, -0.4, 0.5, 0.6], "intercepts": [1.0, 2.0], "targets": 2},
    ),
    **{
        f"vectors, {kernel}, {one}": (
            "SVMRegressor",
            {
                "kernel_type": kernel,
                "kernel_params": [0.3, 0.2, 3.0],
                "support_vectors": [0.1, -0.4, 0.3, 1.0, 0.5, -0.2, -0.7, 0.8, 0.1, 0.3, 0.2, -0.9],
                "coefficients": [1.0, -0.5, 0.7, -1.2],
                "rho": [0.1],
                "n_supports": 4,
                "one_class": one,
            },
        )
        for kernel in ("LINEAR", "POLY", "RBF", "SIGMOID")
        for one in (0, 1)
    },
    "imputer": (
        "Imputer",
        {"imputed_value_floats": [7.0, 8.0, 9.0], "replaced_value_float": float("nan")},
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_against_onnxruntime(name: str, rng: np.random.Generator) -> None:
    kind, attrs = CASES[name]
    node = helper.make_node(kind, ["x"], ["y"], domain="ai.onnx.ml", **attrs)
    x = rng.standard_normal((40, 3)).astype(np.float32)
    if name == "max":  # ONNX Runtime divides by the largest, not by the largest in size
        x = np.abs(x)
    if name in ("trees", "imputer"):
        x[::7, 1] = np.nan
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 1)]
    if "aggregate_function" in attrs or "nodes_treeids" in attrs:
        opsets[1].version = 3
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {"x": x})
    (got,) = backend.prepare(model, engine="reference").run([x])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


# Of two classes with weights each ONNX Runtime looks at the second only, whatever the first is:
# what is compared are three, and two with one weight.
CLASSES = {
    **{key.replace("target", "class"): TREES[key] for key in TREES if key != "n_targets"},
    "class_weights": [0.1, 0.4, 0.3, 0.2, 0.5, 0.5, 0.5],
    "classlabels_strings": ["cat", "dog"],
}
THREE = {
    **CLASSES,
    "class_ids": [0, 1, 0, 2, 1, 2, 1],
    "classlabels_strings": ["cat", "dog", "cow"],
}
ONE = {**CLASSES, "class_ids": [0] * 7, "class_weights": TREES["target_weights"]}
LIKELY = {**ONE, "class_weights": [0.1, 0.05, 0.2, 0.3, 0.25, 0.4, 0.1]}


def machine(classes: int, kernel: str, transform: str, *, likely: bool) -> dict[str, Any]:
    """The attributes of a classifier by support vectors, of random numbers."""
    rng = np.random.default_rng(classes)
    counts = [2, 3, 1, 2][:classes]
    pairs = classes * (classes - 1) // 2
    numbers: dict[str, Any] = {
        "support_vectors": rng.standard_normal(sum(counts) * 3),
        "coefficients": rng.standard_normal(sum(counts) * (classes - 1)),
        "rho": 0.3 * rng.standard_normal(pairs),
    }
    if likely:
        numbers["prob_a"] = -np.abs(rng.standard_normal(pairs))
        numbers["prob_b"] = rng.standard_normal(pairs)
    return {
        "kernel_type": kernel,
        "kernel_params": [0.3, 0.2, 3.0],
        "vectors_per_class": counts,
        "classlabels_ints": [3, 5, 9, 11][:classes],
        "post_transform": transform,
        **{name: data.tolist() for name, data in numbers.items()},
    }


LINEAR_MACHINE = {
    "kernel_type": "LINEAR",
    "kernel_params": [0.0, 0.0, 0.0],
    "coefficients": [0.1, 0.2, 0.3, -0.4, 0.5, 0.6],
    "rho": [0.1],
    "classlabels_ints": [7, 8],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind, attrs",
    [
        ("TreeEnsembleClassifier", THREE),
        ("TreeEnsembleClassifier", {**THREE, "post_transform": "SOFTMAX"}),
        ("TreeEnsembleClassifier", {**THREE, "base_values": [0.4, 0.1, -0.3]}),
        ("TreeEnsembleClassifier", ONE),
        ("TreeEnsembleClassifier", {**ONE, "post_transform": "LOGISTIC"}),
        ("TreeEnsembleClassifier", LIKELY),
        (
            "LinearClassifier",
            {
                "coefficients": [0.1, 0.2, 0.3, -0.4, 0.5, 0.6, 1.0, -1.0, 0.2],
                "intercepts": [0.1, 0.2, -0.2],
                "classlabels_ints": [10, 20, 30],
                "post_transform": "SOFTMAX",
            },
        ),
        *(
            (
                "LinearClassifier",
                {
                    "coefficients": [0.1, 0.2, -0.3],
                    "intercepts": [0.1],
                    "classlabels_strings": ["no", "yes"],
                    "post_transform": transform,
                },
            )
            for transform in ("NONE", "LOGISTIC", "SOFTMAX")
        ),
        ("SVMClassifier", machine(2, "LINEAR", "NONE", likely=False)),
        ("SVMClassifier", machine(2, "RBF", "LOGISTIC", likely=False)),
        ("SVMClassifier", machine(2, "SIGMOID", "SOFTMAX", likely=False)),
        ("SVMClassifier", machine(2, "POLY", "NONE", likely=True)),
        ("SVMClassifier", machine(3, "RBF", "SOFTMAX_ZERO", likely=False)),
        ("SVMClassifier", machine(4, "LINEAR", "NONE", likely=True)),
        ("SVMClassifier", LINEAR_MACHINE),
        ("SVMClassifier", {**LINEAR_MACHINE, "coefficients": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}),
    ],
)
def test_classes(kind: str, attrs: dict[str, Any], rng: np.random.Generator) -> None:
    """Names of classes, chosen at run time, and scores."""
    node = helper.make_node(kind, ["x"], ["label", "scores"], domain="ai.onnx.ml", **attrs)
    label = TensorProto.STRING if "classlabels_strings" in attrs else TensorProto.INT64
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [
            helper.make_tensor_value_info("label", label, None),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, None),
        ],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    x = rng.standard_normal((40, 3)).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names, scores = session.run(None, {"x": x})
    got = backend.prepare(model, engine="reference").run([x])
    assert got[0].tolist() == names.tolist()
    assert len(set(names.tolist())) > 1
    np.testing.assert_allclose(got[1], scores, rtol=1e-5, atol=1e-5)


def test_maps_as_a_tensor(rng: np.random.Generator) -> None:
    """What each map holds for each key."""
    keys = ["cat", "dog", "cow"]
    node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_strings=keys)
    row = helper.make_map_type_proto(
        TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    maps = onnx.ValueInfoProto(name="y", type=helper.make_sequence_type_proto(row))
    rows = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph([node], "g", [rows], [maps])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    x = rng.standard_normal((5, 3)).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {"x": x})
    got = heddle.compile(model, cache=False)(x=x)
    assert got.numpy().tolist() == [[row[key] for key in keys] for row in want]
