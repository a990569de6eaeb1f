# SPDX-License-Identifier: Apache-2.0
"""What `from_onnx` makes of a model: names, symbols, shapes known at import, functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import heddle
from heddle.frontend.onnx import ImportFailure, from_onnx, supported_operators
from heddle.graph import Function
from heddle.ir import IRModule
from heddle.ir.expr import Var
from heddle.op.interp import interpret
from heddle.support import UserError


def value(name: str, shape: list[Any] | None, kind: int = TensorProto.FLOAT) -> Any:
    """A graph input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def ints(name: str, *items: int) -> onnx.TensorProto:
    """A vector of int64."""
    return numpy_helper.from_array(np.asarray(items, np.int64), name)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[Any],
    outputs: list[Any],
    weights: list[onnx.TensorProto] | None = None,
    **options: Any,
) -> onnx.ModelProto:
    """A model of opset 18."""
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights or [])
    options.setdefault("opset_imports", [helper.make_opsetid("", 18)])
    return helper.make_model(graph, ir_version=9, **options)


def main(module: IRModule) -> Function:
    """The graph function."""
    found = module["main"]
    assert isinstance(found, Function)
    return found


def compare(proto: onnx.ModelProto, *arrays: np.ndarray) -> None:
    """The reference interpreter against ONNX Runtime."""
    names = [v.name for v in proto.graph.input]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    expected = session.run(None, dict(zip(names, arrays, strict=True)))
    result = interpret(from_onnx(proto), list(arrays))
    outputs = result if isinstance(result, tuple) else (result,)
    for want, got in zip(expected, outputs, strict=True):
        assert want.dtype == got.dtype
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_names(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["image"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "w", "b"], ["scores"], alpha=2.0),
        helper.make_node("Neg", ["hidden"], ["other"]),
    ]
    weights = [
        numpy_helper.from_array(np.ones((3, 4), np.float32), "w"),
        numpy_helper.from_array(np.ones(4, np.float32), "b"),
    ]
    proto = model(
        nodes, [value("image", [2, 3])], [value("scores", None), value("other", None)], weights
    )
    path = tmp_path / "network.onnx"
    onnx.save(proto, path)
    function = main(from_onnx(path))
    assert [p.name for p in function.params] == ["image"]
    assert function.attrs["output_names"] == ("scores", "other")
    assert function.attrs["name"] == "network"
    assert main(from_onnx(path, name="net")).attrs["name"] == "net"
    bound = [binding.var.name for binding in function.bindings]
    assert bound == ["hidden", "scores.matmul", "scores.mul", "scores", "other"]
    span = function.bindings[1].value.span
    assert span is not None
    assert span.file == str(path)
    assert "Gemm(hidden, w, b) -> scores" in span.source_line()


def test_unused_work_is_dropped() -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["unused"]),
        helper.make_node("Neg", ["x"], ["y"]),
    ]
    function = main(from_onnx(model(nodes, [value("x", [2])], [value("y", None)])))
    assert [binding.var.name for binding in function.bindings] == ["y"]


def test_outputs_are_values_of_their_own() -> None:
    """An output that is an input, a constant, or another output gets a binding."""
    nodes = [helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Neg", ["y"], ["z"])]
    outputs = [value(name, None) for name in ("x", "c", "y", "y", "z")]
    weights = [numpy_helper.from_array(np.ones(2, np.float32), "c")]
    function = main(from_onnx(model(nodes, [value("x", [2])], outputs, weights)))
    results = list(function.result.fields)
    assert len(set(results)) == 5
    assert not set(results) & set(function.params)


def test_dimensions_of_one_name_are_one_symbol() -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    inputs = [value("a", ["batch", 4]), value("b", ["batch", 1])]
    function = main(from_onnx(model(nodes, inputs, [value("y", None)])))
    first, second = (p.type.shape[0] for p in function.params)
    assert isinstance(first, Var)
    assert first is second
    assert first.name == "batch"


def test_unnamed_dimensions_are_symbols_of_their_own() -> None:
    nodes = [helper.make_node("MatMul", ["a", "b"], ["y"])]
    proto = model(nodes, [value("a", [None, 4]), value("b", [4, None])], [value("y", None)])
    function = main(from_onnx(proto))
    rows, columns = function.result.type.shape
    assert (rows.name, columns.name) == ("a_0", "b_1")


def test_shapes_fix_dimensions_everywhere() -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    inputs = [value("a", ["batch", 4]), value("b", ["batch", 1])]
    proto = model(nodes, inputs, [value("y", None)])
    fixed = main(from_onnx(proto, shapes={"a": (8, None)}))
    assert [p.type.static_shape for p in fixed.params] == [(8, 4), (8, 1)]
    renamed = main(from_onnx(proto, shapes={"a": ("n", 4), "b": ("n", 1)}))
    assert renamed.params[0].type.shape[0].name == "n"


def test_rank_must_be_known() -> None:
    proto = model([helper.make_node("Neg", ["x"], ["y"])], [value("x", None)], [value("y", None)])
    with pytest.raises(UserError, match="has no rank"):
        from_onnx(proto)
    assert main(from_onnx(proto, shapes={"x": (2, "n")})).params[0].type.ndim == 2


def test_shape_arithmetic_stays_symbolic(rng: np.random.Generator) -> None:
    """Flatten all but the last axis, as exporters spell it, with a symbolic batch."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Gather", ["s", "one"], ["m"]),
        helper.make_node("Mul", ["n", "m"], ["nm"]),
        helper.make_node("Unsqueeze", ["nm", "zeros"], ["front"]),
        helper.make_node("Concat", ["front", "minus"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
        helper.make_node("Slice", ["s", "zeros", "ones"], ["head"]),
        helper.make_node("Concat", ["head", "twelve"], ["wide"], axis=0),
        helper.make_node("Reshape", ["x", "wide"], ["z"]),
    ]
    scalars = [
        numpy_helper.from_array(np.asarray(i), name) for i, name in ((0, "zero"), (1, "one"))
    ]
    vectors = [ints("zeros", 0), ints("ones", 1), ints("minus", -1), ints("twelve", 12)]
    proto = model(
        nodes, [value("x", ["n", 3, 4])], [value("y", None), value("z", None)], scalars + vectors
    )
    function = main(from_onnx(proto))
    assert [b.value.callee.name for b in function.bindings] == ["reshape", "reshape"]
    compare(proto, rng.random((5, 3, 4), np.float32))


def test_symbolic_dimensions_as_data(rng: np.random.Generator) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["f", "one"], ["d"], axis=0),
        helper.make_node("Div", ["x", "d"], ["y"]),
        helper.make_node("Size", ["x"], ["z"]),
    ]
    weights = [numpy_helper.from_array(np.asarray(1), "one")]
    proto = model(
        nodes,
        [value("x", ["n", "m"])],
        [
            value("y", None),
            value("z", None, TensorProto.INT64),
            value("s", None, TensorProto.INT64),
        ],
        weights,
    )
    compare(proto, rng.random((2, 5), np.float32))


def test_range_and_expand_over_a_symbolic_dimension(rng: np.random.Generator) -> None:
    """Positions of a sequence and a causal mask of its length."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["n"]),
        helper.make_node("Range", ["zero", "n", "one"], ["positions"]),
        helper.make_node("Unsqueeze", ["positions", "zeros"], ["row"]),
        helper.make_node("Unsqueeze", ["positions", "ones"], ["column"]),
        helper.make_node("LessOrEqual", ["row", "column"], ["mask"]),
        helper.make_node("Expand", ["small", "s"], ["wide"]),
        helper.make_node("Where", ["mask", "x", "wide"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(np.asarray(0), "zero"),
        numpy_helper.from_array(np.asarray(1), "one"),
        ints("zeros", 0),
        ints("ones", 1),
        numpy_helper.from_array(np.asarray([-1.0], np.float32), "small"),
    ]
    proto = model(nodes, [value("x", ["n", "n"])], [value("y", None)], weights)
    compare(proto, rng.random((4, 4), np.float32))


@pytest.mark.parametrize(
    "kind", ["float32", "float64", "float16", "bfloat16", "int8", "uint64", "bool"]
)
@pytest.mark.parametrize("raw", [True, False])
def test_constants_of_all_dtypes(kind: str, raw: bool, rng: np.random.Generator) -> None:
    import ml_dtypes

    wanted = ml_dtypes.bfloat16 if kind == "bfloat16" else kind
    data = rng.integers(0, 2 if kind == "bool" else 100, (2, 3)).astype(wanted)
    tensor = numpy_helper.from_array(data, "c")
    if not raw:
        number = helper.np_dtype_to_tensor_dtype(data.dtype)
        tensor = helper.make_tensor("c", number, data.shape, data.ravel().tolist())
    nodes = [helper.make_node("Identity", ["c"], ["y"])]
    module = from_onnx(model(nodes, [], [value("y", None)], [tensor]))
    result = interpret(module, [])
    assert result.dtype == data.dtype
    np.testing.assert_array_equal(result, data)


def test_local_functions_with_attributes(rng: np.random.Generator) -> None:
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    reference = leaky.attribute.add()
    reference.name, reference.ref_attr_name = "alpha", "slope"
    reference.type = onnx.AttributeProto.FLOAT
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "Leak", ["a"], ["b"], [leaky], imports, ["slope"])
    nodes = [
        helper.make_node("Leak", ["x"], ["h"], domain="own", slope=0.5),
        helper.make_node("Leak", ["h"], ["y"], domain="own", slope=0.25),
    ]
    proto = model(
        nodes,
        [value("x", [2, 3])],
        [value("y", [2, 3])],
        functions=[function],
        opset_imports=imports,
    )
    compare(proto, rng.standard_normal((2, 3)).astype(np.float32))


def test_if_with_a_known_condition_is_inlined() -> None:
    def branch(kind: str) -> onnx.GraphProto:
        node = helper.make_node(kind, ["x"], [f"out_{kind}"])
        return helper.make_graph([node], kind, [], [value(f"out_{kind}", None)])

    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Size", ["s"], ["rank"]),
        helper.make_node("Equal", ["rank", "two"], ["flat"]),
        helper.make_node(
            "If", ["flat"], ["y"], then_branch=branch("Exp"), else_branch=branch("Neg")
        ),
    ]
    weights = [numpy_helper.from_array(np.asarray(2), "two")]
    function = main(from_onnx(model(nodes, [value("x", ["n", 3])], [value("y", None)], weights)))
    assert [binding.value.callee.name for binding in function.bindings] == ["exp"]


def test_opset_decides_where_axes_are() -> None:
    old = helper.make_node("ReduceSum", ["x"], ["y"], axes=[1], keepdims=0)
    new = helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)
    for version, node, weights in ((11, old, []), (13, new, [ints("axes", 1)])):
        proto = model(
            [node],
            [value("x", [2, 3])],
            [value("y", None)],
            weights,
            opset_imports=[helper.make_opsetid("", version)],
        )
        assert main(from_onnx(proto)).result.type.static_shape == (2,)


def test_supported_operators_are_listed() -> None:
    names = supported_operators()
    assert {"Conv", "MatMul", "Reshape", "LayerNormalization"} <= set(names)
    assert len(names) > 150


# -- sequences and optionals -----------------------------------------------------------------


def held_model(kind: str) -> onnx.ModelProto:
    """A sequence (or an optional that holds one) of float vectors, with one more put before."""
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n"])
    sequence = helper.make_sequence_type_proto(tensor)
    nodes = []
    if kind == "optional":
        nodes.append(helper.make_node("OptionalGetElement", ["held"], ["seq"]))
    source = "seq" if nodes else "held"
    nodes.append(helper.make_node("SequenceInsert", [source, "x", "first"], ["more"]))
    given = helper.make_optional_type_proto(sequence) if kind == "optional" else sequence
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_value_info("held", given), helper.make_value_info("x", tensor)],
        [helper.make_value_info("more", sequence)],
        [helper.make_tensor("first", TensorProto.INT64, [], [0])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("kind", ["sequence", "optional"])
def test_each_tensor_of_a_sequence_is_a_parameter(kind: str) -> None:
    module = from_onnx(held_model(kind), shapes={"held": [(3,), (3,)], "x": (3,)})
    main = module["main"]
    assert [param.name for param in main.params] == ["held.0", "held.1", "x"]
    assert main.attrs["output_names"] == ("more.0", "more.1", "more.2")
    assert main.attrs["output_counts"] == (3,)
    exe = heddle.compile(module)
    a, b, x = (np.full(3, value, np.float32) for value in (1, 2, 3))
    found = [item.numpy()[0] for item in exe(a, b, x)]
    assert found == [3, 1, 2]


def test_what_a_sequence_holds_has_to_be_told() -> None:
    with pytest.raises(ImportFailure, match="pass the shapes of its tensors in `shapes`"):
        from_onnx(held_model("sequence"))
    with pytest.raises(UserError, match="`held` is a sequence, expected a list of shapes"):
        from_onnx(held_model("sequence"), shapes={"held": "two"})
