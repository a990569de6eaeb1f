# SPDX-License-Identifier: Apache-2.0
"""Model files that are damaged, hostile or plainly wrong: each a `UserError` that says what is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from heddle.frontend.onnx import ImportFailure, from_onnx
from heddle.support import UserError

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
WEIGHT = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4), "w")


def model(
    *nodes: onnx.NodeProto,
    inputs: list[Any] | None = None,
    outputs: list[Any] | None = None,
    weights: list[onnx.TensorProto] | None = None,
    opset: int = 18,
    functions: list[onnx.FunctionProto] | None = None,
    domains: tuple[str, ...] = (),
) -> onnx.ModelProto:
    """A model of these nodes, from `x` (2, 3) to `y`."""
    graph = helper.make_graph(nodes, "g", inputs or [X], outputs or [Y], weights or [])
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, functions=functions or [])


def node(kind: str, inputs: str, outputs: str = "y", **attrs: Any) -> onnx.NodeProto:
    """A node; inputs and outputs are names divided by spaces ("-" for a missing one)."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(kind, names, outputs.split(), name=f"the_{kind}", **attrs)


def refused(given: Any, **options: Any) -> str:
    """The message of the `UserError` that importing gives."""
    with pytest.raises(UserError) as caught:
        from_onnx(given, **options)
    return str(caught.value)


def product() -> onnx.ModelProto:
    """A sound model: y = x @ w."""
    return model(node("MatMul", "x w"), weights=[WEIGHT])


# -- files -----------------------------------------------------------------------------------


def test_no_file(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none.onnx")
    assert "not a regular file" in refused(tmp_path)


def test_no_path() -> None:
    assert "expected a path or an onnx.ModelProto, got int" in refused(3)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "not an ONNX model"),
        (b"this is no model at all\n", "not an ONNX model"),
        (bytes(1000), "not an ONNX model"),
    ],
    ids=["empty", "png", "text", "zeros"],
)
def test_not_a_model(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    found = refused(path)
    assert message in found
    assert str(path) in found


def test_truncated(tmp_path: Path) -> None:
    data = product().SerializeToString()
    path = tmp_path / "model.onnx"
    for length in range(1, len(data), 7):
        path.write_bytes(data[:length])
        assert "model" in refused(path)


def test_damaged(tmp_path: Path, rng: np.random.Generator) -> None:
    """Flipped bytes give a `UserError` or a model, never another exception."""
    relu = node("Relu", "h")
    sound = model(node("MatMul", "x w", "h"), relu, weights=[WEIGHT]).SerializeToString()
    path = tmp_path / "model.onnx"
    refusals = 0
    for _ in range(400):
        data = bytearray(sound)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(bytes(data))
        try:
            from_onnx(path)
        except UserError:
            refusals += 1
    assert refusals > 50


def test_parts_missing() -> None:
    assert "has no graph" in refused(onnx.ModelProto())
    no_opset = product()
    del no_opset.opset_import[:]
    assert "opset_import" in refused(no_opset)
    no_outputs = product()
    del no_outputs.graph.output[:]
    assert "no outputs" in refused(no_outputs)


def test_future_opset() -> None:
    message = refused(model(node("Relu", "x"), opset=9999))
    assert "uses opset 9999" in message
    assert "the newest" in message


# -- graphs ----------------------------------------------------------------------------------


def test_nodes_out_of_order_are_sorted() -> None:
    module = from_onnx(model(node("Relu", "h"), node("Neg", "x", "h")))
    names = [binding.value.callee.name for binding in module["main"].bindings]
    assert names == ["negative", "relu"]


def test_cycle() -> None:
    message = refused(model(node("Add", "x b", "a"), node("Neg", "a", "b"), node("Relu", "b")))
    assert "form a cycle" in message
    assert "the_Add" in message
    assert "the_Neg" in message


def test_cycle_of_one() -> None:
    assert "form a cycle" in refused(model(node("Add", "x y")))


def test_undefined_name() -> None:
    message = refused(model(node("Add", "x nowhere")))
    assert "node `the_Add` reads `nowhere`, which nothing defines" in message


def test_undefined_output() -> None:
    assert "nothing defines the output `y`" in refused(model(node("Neg", "x", "z")))


def test_names_defined_twice() -> None:
    assert "`y` is defined twice" in refused(model(node("Neg", "x"), node("Relu", "x")))
    assert "`x` is defined twice" in refused(model(node("Neg", "x", "x"), node("Relu", "x")))
    assert "twice" in refused(model(node("MatMul", "x w"), weights=[WEIGHT, WEIGHT]))
    assert "input `x` is defined twice" in refused(model(node("Neg", "x"), inputs=[X, X]))


def test_endless_functions() -> None:
    body = [helper.make_node("f", ["a"], ["b"], domain="own")]
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    endless = helper.make_function("own", "f", ["a"], ["b"], body, imports)
    call = helper.make_node("f", ["x"], ["y"], domain="own")
    assert "nested" in refused(model(call, functions=[endless], domains=("own",)))


def test_operators_that_are_missing_are_listed_together() -> None:
    with pytest.raises(ImportFailure) as caught:
        from_onnx(
            model(
                node("Frobnicate", "x", "a"),
                node("Frobnicate", "x", "b"),
                helper.make_node("Twist", ["x"], ["c"], name="t", domain="org.acme"),
                node("Sum", "a b c"),
                domains=("org.acme",),
            )
        )
    message = str(caught.value)
    assert "3 nodes cannot be imported" in message
    assert "Frobnicate (opset 18) at node `the_Frobnicate` (2 nodes)" in message
    assert "org.acme::Twist (opset 1) at node `t`" in message
    assert caught.value.needs == frozenset()


def test_values_that_must_be_known() -> None:
    axes = helper.make_tensor_value_info("axes", TensorProto.INT64, ["n"])
    proto = model(node("ReduceSum", "x axes", keepdims=0), inputs=[X, axes])
    with pytest.raises(ImportFailure, match="`axes` must be known when compiling") as caught:
        from_onnx(proto)
    assert caught.value.needs == {"axes"}
    module = from_onnx(proto, values={"axes": np.asarray([0])})
    assert module["main"].result.type.static_shape == (3,)


# -- nodes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: node("Add", "x"), "input 1 is missing"),
        (lambda: node("Flatten", "x", axis=1.5), "attribute `axis` has type FLOAT, expected INT"),
        (lambda: node("Transpose", "x", perm=[0, 5]), "axis 5 is out of range"),
        (lambda: node("Concat", "x x", axis=7), "axis 7 is out of range"),
        (lambda: node("Concat", "x x"), "attribute `axis` is missing"),
        (lambda: node("Cast", "x", to=99), "element type 99"),
        (lambda: node("MaxPool", "x", kernel_shape=[2, 2]), "kernel_shape"),
        (lambda: node("Softmax", "x", axis=-9), "axis -9 is out of range"),
        (lambda: node("Relu", "x", "y z"), "output `z` is one more than the operator has"),
        (lambda: node("Einsum", "x", equation="abc->a"), "does not fit 2 dimensions"),
        (lambda: node("BitShift", "x x", direction="UP"), "expected LEFT or RIGHT"),
    ],
)
def test_wrong_node(make: Callable[[], onnx.NodeProto], message: str) -> None:
    given = make()
    found = refused(model(given))
    assert message in found
    assert f"node `the_{given.op_type}`" in found


def test_types_that_do_not_fit_show_the_node() -> None:
    message = refused(model(node("MatMul", "x x")))
    assert "node `the_MatMul` (MatMul): op.matmul: the inner dimensions differ" in message
    assert "the_MatMul: MatMul(x, x) -> y" in message
    assert "^^^^" in message


def test_attribute_given_twice() -> None:
    given = node("Flatten", "x", axis=1)
    given.attribute.append(given.attribute[0])
    assert "attribute `axis` is given twice" in refused(model(given))


def test_name_that_is_no_text(tmp_path: Path) -> None:
    data = product().SerializeToString().replace(b"the_MatMul", b"the_\xff\xfeMul!")
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    message = refused(path)
    assert "has a name that is not UTF-8" in message
    assert str(path) in message


# -- weights ---------------------------------------------------------------------------------


def weight(**fields: Any) -> onnx.ModelProto:
    """x @ w with fields of w replaced."""
    changed = onnx.TensorProto()
    changed.CopyFrom(WEIGHT)
    for name, value in fields.items():
        if isinstance(value, list):
            del getattr(changed, name)[:]
            getattr(changed, name).extend(value)
        elif value is None:
            changed.ClearField(name)
        else:
            setattr(changed, name, value)
    return model(node("MatMul", "x w"), weights=[changed])


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"dims": [3, 5]}, "needs 60 bytes, got 48"),
        ({"dims": [2**40, 2**40]}, "bytes, got 48"),
        ({"dims": [2**62, 4, 2**60]}, "bytes, got 48"),
        ({"dims": [3, -4]}, "must not be negative"),
        ({"raw_data": b"123"}, "needs 48 bytes, got 3"),
        ({"raw_data": None}, "needs 12 elements, got 0"),
        ({"raw_data": None, "float_data": [1.0] * 11}, "needs 12 elements, got 11"),
        ({"data_type": 77}, "element type 77"),
        ({"data_type": 0}, "element type 0"),
        ({"data_type": TensorProto.STRING}, "dimensions (3, 4) has 0 strings"),
        (
            {"data_type": TensorProto.INT8, "raw_data": None, "int32_data": [300] * 12},
            "does not fit in int8",
        ),
        (
            {"data_type": TensorProto.FLOAT16, "raw_data": None, "int32_data": [70000] * 12},
            "does not fit in 16 bits",
        ),
    ],
)
def test_wrong_initializer(fields: dict[str, Any], message: str) -> None:
    found = refused(weight(**fields))
    assert message in found
    assert "`w`" in found


def test_huge_dimensions() -> None:
    huge = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2**40, 2**40])
    assert "would take" in refused(model(node("Neg", "x"), inputs=[huge]))
    shape = numpy_helper.from_array(np.asarray([2**40, 2**22]), "s")
    assert "would take" in refused(model(node("ConstantOfShape", "s"), weights=[shape]))
    assert "is -7" in refused(
        model(
            node("Neg", "x"),
            inputs=[helper.make_tensor_value_info("x", TensorProto.FLOAT, [-7])],
        )
    )


def test_huge_range() -> None:
    ends = [
        numpy_helper.from_array(np.asarray(value, np.int64), name)
        for name, value in (("a", 0), ("b", 2**60), ("c", 1))
    ]
    with pytest.raises(UserError, match="elements"):
        from_onnx(model(node("Range", "a b c"), weights=ends))


# -- external data ---------------------------------------------------------------------------


def external(folder: Path, **entries: str) -> Path:
    """x @ w in a file, w being external data as `entries` say."""
    changed = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 4])
    changed.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        changed.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(model(node("MatMul", "x w"), weights=[changed]).SerializeToString())
    return path


def test_external_data(tmp_path: Path) -> None:
    data = np.random.default_rng(0).random((3, 4), np.float32)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(bytes(16) + data.tobytes())
    path = external(tmp_path, location="weights/w.bin", offset="16", length="48")
    product = from_onnx(path)["main"].bindings[0].value
    np.testing.assert_array_equal(product.args[1].data, data)


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "/etc/passwd", "a/../../secret.bin", "..\\secret.bin", "C:\\w.bin", ""],
)
def test_external_data_outside(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "expected a path in the folder" in refused(external(folder, location=location))


def test_external_data_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "w.bin").symlink_to(tmp_path / "secret.bin")
    assert "outside the model's folder" in refused(external(folder, location="w.bin"))
    (folder / "sub").symlink_to(tmp_path)
    assert "outside the model's folder" in refused(external(folder, location="sub/secret.bin"))


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"location": "none.bin"}, "is not there"),
        ({"location": "."}, "is not there"),
        ({"offset": "8"}, "ends at byte 56, but `w.bin` has 48 bytes"),
        ({"offset": "-8"}, "expected a number of bytes"),
        ({"offset": "9" * 30}, "expected a number of bytes"),
        ({"length": "47"}, "needs 48 bytes, its external data has length 47"),
        ({"length": str(2**58)}, "its external data has length"),
        ({"length": "many"}, "expected a number of bytes"),
    ],
)
def test_external_data_out_of_range(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(48))
    assert message in refused(external(tmp_path, **{"location": "w.bin", **entries}))


def test_external_data_without_a_file(tmp_path: Path) -> None:
    parsed = onnx.load(external(tmp_path, location="w.bin"), load_external_data=False)
    assert "did not come from a file" in refused(parsed)


# -- what the caller says --------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"shapes": {"z": (1,)}}, "has no input `z`; it has `x`"),
        ({"shapes": {"x": (1,)}}, "`x` has 1 dimensions, the model says 2"),
        ({"shapes": {"x": (2, 4)}}, "dimension 1 of `x` is 4, the model says 3"),
        ({"shapes": {"x": 7}}, "expected a tuple of dimensions"),
        ({"values": {"x": np.zeros((2, 3))}}, "has dtype float64, the model says float32"),
        ({"values": {"x": np.zeros((9, 3), np.float32)}}, "dimension 0 of `x` is 9"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    assert message in refused(product(), **options)
