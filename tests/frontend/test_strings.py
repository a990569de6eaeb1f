# SPDX-License-Identifier: Apache-2.0
"""Tensors of strings: numbers in a table that is known when importing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import heddle
from heddle.frontend.onnx import backend, from_onnx
from heddle.support import UserError

ONNX_ML = "ai.onnx.ml"
NAMES = ["cat", "dog", "cow", "dog"]


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, int],
    constants: dict[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """A model of these nodes; element types of inputs (with shapes) and outputs."""
    made = [helper.make_tensor_value_info(name, *about) for name, about in inputs.items()]
    ends = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    known = [onnx.numpy_helper.from_array(data, name) for name, data in (constants or {}).items()]
    graph = helper.make_graph(nodes, "strings", made, ends, known)
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(ONNX_ML, 4)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def check(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[Any]:
    """Compiled results, equal to those of ONNX Runtime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    want = session.run(None, inputs)
    got = list(backend.prepare(model).run(inputs))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    return got


def test_the_name_of_a_class_is_chosen_at_run_time() -> None:
    """Best score -> number -> name -> what follows, with nothing known but the names."""
    nodes = [
        helper.make_node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0),
        helper.make_node(
            "LabelEncoder",
            ["best"],
            ["name"],
            domain=ONNX_ML,
            keys_int64s=[0, 1, 2],
            values_strings=["cat", "dog", "cow"],
        ),
        helper.make_node("Equal", ["name", "wanted"], ["hit"]),
        helper.make_node("Where", ["hit", "name", "other"], ["shown"]),
        helper.make_node("StringConcat", ["shown", "name"], ["twice"]),
        helper.make_node("RegexFullMatch", ["twice"], ["short"], pattern="c.*t|d[a-z]{5}"),
        helper.make_node("Unsqueeze", ["shown", "last"], ["column"]),
    ]
    outputs = dict.fromkeys(("name", "twice", "column"), TensorProto.STRING)
    constants = {
        "wanted": np.asarray(["dog"], object),
        "other": np.asarray("no dog", object),
        "last": np.asarray([1]),
    }
    model = model_of(
        nodes,
        {"scores": (TensorProto.FLOAT, ["rows", 3])},
        {**outputs, "short": TensorProto.BOOL},
        constants,
    )
    scores = np.eye(3, dtype=np.float32)[[1, 0, 2, 1]]
    name, twice, *_ = check(model, {"scores": scores})
    assert name.tolist() == ["dog", "cat", "cow", "dog"]
    assert twice.tolist() == ["dogdog", "no dogcat", "no dogcow", "dogdog"]


def test_results_are_positions_in_a_table(tmp_path: Path) -> None:
    """What `heddle.compile` gives, and where the strings are; both stay when saved as text."""
    encoder = helper.make_node(
        "LabelEncoder",
        ["x"],
        ["name"],
        domain=ONNX_ML,
        keys_int64s=[7, 9],
        values_strings=["seven", "nine"],
        default_string="?",
    )
    model = model_of([encoder], {"x": (TensorProto.INT64, [3])}, {"name": TensorProto.STRING})
    module = from_onnx(model)
    (table,) = module["main"].attrs["output_strings"]
    codes = heddle.compile(module)(np.asarray([9, 7, 8])).numpy()
    assert [table[code] for code in codes] == ["nine", "seven", "?"]
    heddle.save_module(module, tmp_path / "saved")
    again = heddle.load_module(tmp_path / "saved")
    assert again["main"].attrs["output_strings"] == (table,)


@pytest.mark.parametrize(
    "op, attributes",
    [
        ("LabelEncoder", {"keys_strings": ["dog", "cow"], "values_int64s": [4, 5]}),
        ("LabelEncoder", {"keys_strings": ["dog"], "values_strings": ["hund"]}),
        ("CategoryMapper", {"cats_strings": ["cat", "dog"], "cats_int64s": [3, 8]}),
        ("OneHotEncoder", {"cats_strings": ["cow", "dog"]}),
    ],
)
def test_known_strings(op: str, attributes: dict[str, Any]) -> None:
    """The inputs are strings: the model is compiled for the values."""
    node = helper.make_node(op, ["x"], ["y"], domain=ONNX_ML, **attributes)
    kind = TensorProto.STRING if "values_strings" in attributes else TensorProto.INT64
    kind = TensorProto.FLOAT if op == "OneHotEncoder" else kind
    model = model_of([node], {"x": (TensorProto.STRING, [4])}, {"y": kind})
    check(model, {"x": np.asarray(NAMES, object)})


def test_category_names() -> None:
    node = helper.make_node(
        "CategoryMapper",
        ["x"],
        ["y"],
        domain=ONNX_ML,
        cats_strings=["cat", "dog"],
        cats_int64s=[3, 8],
    )
    model = model_of([node], {"x": (TensorProto.INT64, [2, 2])}, {"y": TensorProto.STRING})
    check(model, {"x": np.asarray([[8, 3], [1, 8]])})


def test_n_grams_of_strings() -> None:
    attributes = {
        "mode": "TF",
        "min_gram_length": 1,
        "max_gram_length": 2,
        "max_skip_count": 0,
        "ngram_counts": [0, 2],
        "ngram_indexes": [0, 1, 2],
        "pool_strings": ["cat", "dog", "cow", "dog"],
    }
    node = helper.make_node("TfIdfVectorizer", ["x"], ["y"], **attributes)
    model = model_of([node], {"x": (TensorProto.STRING, [4])}, {"y": TensorProto.FLOAT})
    check(model, {"x": np.asarray(NAMES, object)})


@pytest.mark.parametrize(
    "data, to",
    [
        (np.asarray(["1.5", "-2e3", "nan", "inf"], object), TensorProto.FLOAT),
        (np.asarray(["12", "-7"], object), TensorProto.INT64),
        (np.asarray([3, -4], np.int32), TensorProto.STRING),
        (np.asarray([0.5, np.inf, np.nan], np.float32), TensorProto.STRING),
    ],
)
def test_cast(data: np.ndarray, to: int) -> None:
    node = helper.make_node("Cast", ["x"], ["y"], to=to)
    check(model_of([node], {}, {"y": to}, {"x": data}), {})


@pytest.mark.parametrize(
    "node, message",
    [
        (helper.make_node("Identity", ["x"], ["y"]), "`x` is a tensor of strings"),
        (helper.make_node("Relu", ["c"], ["y"]), "tensor of strings, which it does not take"),
        (helper.make_node("RegexFullMatch", ["c"], ["y"], pattern="("), "no regular expression"),
        (helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT), "string `cat` as float32"),
        (helper.make_node("Concat", ["c", "n"], ["y"], axis=0), "input 1 is no tensor of strings"),
        (helper.make_node("StringConcat", ["c", "n"], ["y"]), "expected a tensor of strings"),
    ],
)
def test_what_is_no_string_is_refused(node: onnx.NodeProto, message: str) -> None:
    constants = {"c": np.asarray(["cat"], object), "n": np.asarray([1.0])}
    model = model_of([node], {"x": (TensorProto.STRING, [2])}, {"y": 1}, constants)
    with pytest.raises(UserError, match=message):
        from_onnx(model, values={} if "x" in node.input else {"x": np.asarray(["a", "b"], object)})
