# SPDX-License-Identifier: Apache-2.0
"""`coverage`, converters from outside, and the page of operators."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from heddle.cli import main
from heddle.frontend import coverage
from heddle.frontend.onnx import Unsupported, backend, converter, page
from heddle.frontend.onnx.registry import _CONVERTERS, find_converter
from heddle.support import UserError

PAGE = Path(__file__).parents[2] / "docs" / "onnx-operators.md"


def model(*nodes: onnx.NodeProto, opset: int = 21) -> onnx.ModelProto:
    """x float[3] and s, a constant, to y."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
        [helper.make_tensor("s", TensorProto.INT64, [], [3])],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("test.own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def mixed() -> onnx.ModelProto:
    return model(
        helper.make_node("Relu", ["x"], ["a"], name="first"),
        helper.make_node("HannWindow", ["s"], ["w"]),
        helper.make_node("ImageDecoder", ["a"], ["b"]),
        helper.make_node("Add", ["b", "w"], ["c"]),
        helper.make_node("Unknown", ["c"], ["y"], domain="test.own"),
    )


def test_states_and_reasons() -> None:
    found = coverage(mixed())
    assert [(n.operator, n.state, n.reason) for n in found.nodes] == [
        ("Relu", "supported", ""),
        ("HannWindow", "decomposed", ""),
        ("ImageDecoder", "unsupported", "there is no such operator in Heddle"),
        ("Add", "supported", "not tried: it needs what cannot be imported"),
        ("test.own::Unknown", "unsupported", "there is no such operator in Heddle"),
    ]
    assert not found.complete
    assert found.nodes[0].name == "first"
    assert "5 nodes, 2 supported, 1 decomposed, 2 unsupported" in str(found)


def test_inputs_that_would_help() -> None:
    node = helper.make_node("NonZero", ["x"], ["y"])
    found = coverage(model(node))
    if not found.complete:  # until NonZero takes what is not known
        assert found.needs == {"x"}
        assert "fix the values of `x`" in str(found)
    assert coverage(model(node), values={"x": np.ones(3, np.float32)}).complete


def test_problems_that_are_no_nodes() -> None:
    proto = mixed()
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    (problem,) = coverage(proto).problems
    assert problem.startswith(
        "input `x`: input `x` is a tensor of strings; its value must be known"
    )


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(mixed(), path)
    with pytest.raises(SystemExit) as ended:
        main(["coverage", str(path), "--json"])
    assert ended.value.code == 1
    data = json.loads(capsys.readouterr().out)
    assert data["complete"] is False
    assert data["nodes"][0]["operator"] == "Relu"


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test declares is gone after it."""
    known = {key: list(entries) for key, entries in _CONVERTERS.items()}
    monkeypatch.setattr("heddle.frontend.onnx.registry._CONVERTERS", known)


@pytest.mark.usefixtures("registry")
def test_a_converter_from_outside(rng: np.random.Generator) -> None:
    @converter("Unknown", domain="test.own")
    def unknown(node: Any) -> Any:
        if node.attr.int("mode", 0):
            raise Unsupported("another mode")
        return node.op.mul(node.tensor(0), 2.0)

    node = helper.make_node("Unknown", ["x"], ["y"], domain="test.own")
    x = rng.random(3, np.float32)
    (y,) = backend.prepare(model(node), engine="reference").run([x])
    np.testing.assert_array_equal(y, 2 * x)
    node.attribute.append(helper.make_attribute("mode", 1))
    assert [n.reason for n in coverage(model(node)).nodes] == ["another mode"]


def node_of_mine() -> onnx.NodeProto:
    return helper.make_node("Unknown", ["x"], ["y"], domain="test.own", name="mine")


@pytest.mark.usefixtures("registry")
def test_the_later_converter_counts(rng: np.random.Generator) -> None:
    for factor in (2.0, 3.0):
        converter("Unknown", domain="test.own")(
            lambda node, factor=factor: node.op.mul(node.tensor(0), factor)
        )
    x = rng.random(3, np.float32)
    (y,) = backend.prepare(model(node_of_mine()), engine="reference").run([x])
    np.testing.assert_array_equal(y, np.float32(3) * x)


async def _later(node: Any) -> Any: ...


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    "function, message",
    [
        (lambda: None, r"must take one argument, the node; its signature is \(\)"),
        (lambda node, other: None, r"the node; its signature is \(node, other\)"),
        (lambda *, node: None, r"the node; its signature is \(\*, node\)"),
        (_later, "converter `_later` must be a plain function"),
        ("Relu", "a converter is a function of a Node, got 'Relu'"),
    ],
)
def test_signatures(function: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        converter("Unknown", domain="test.own")(function)
    assert not coverage(model(node_of_mine())).complete


@pytest.mark.parametrize(
    "names, options, message",
    [
        ((), {}, r"names of operators, got \(\)"),
        ((7,), {}, r"names of operators, got \(7,\)"),
        ((lambda node: node,), {}, r"by name, @converter\("),
        (("A",), {"since": 0}, "`since` of a converter is an operator set, 1 or later, got 0"),
        (("A",), {"since": "13"}, "1 or later, got '13'"),
        (("A",), {"domain": None}, "`domain` of a converter is a string, got None"),
    ],
)
def test_declarations(names: tuple[Any, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        converter(*names, **options)


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("result, kind", [(None, "NoneType"), (np.ones(3, "f4"), "ndarray")])
def test_results_that_are_no_values(result: Any, kind: str) -> None:
    converter("Unknown", domain="test.own")(lambda node: result)
    message = r"node `mine` \(Unknown\): output 0 of its converter must be a value .* got " + kind
    with pytest.raises(UserError, match=message):
        coverage(model(node_of_mine()))


def test_page() -> None:
    """The page is what the installed `onnx` and the converters make of it."""
    text = PAGE.read_text(encoding="utf-8")
    if f"onnx {onnx.__version__} " not in text:
        pytest.skip("the page was written with another version of onnx, which has other operators")
    assert text == page.page(), "python -m heddle.frontend.onnx.page > docs/onnx-operators.md"


def test_every_live_operator() -> None:
    """Of the default domain only the decoder of images has neither converter nor definition."""
    missing = {
        schema.name
        for schema in onnx.defs.get_all_schemas()
        if schema.domain == ""
        and not schema.deprecated
        and find_converter("", schema.name, schema.since_version) is None
        and not (schema.has_function or schema.has_context_dependent_function)
    }
    assert missing == {"ImageDecoder"}


# -- random operators ------------------------------------------------------------------------


def drawn(**attrs: Any) -> np.ndarray:
    node = helper.make_node("RandomNormalLike", ["x"], ["y"], **attrs)
    return backend.prepare(model(node), engine="reference").run([np.zeros(3, np.float32)])[0]  # type: ignore[no-any-return]


def test_seeds() -> None:
    np.testing.assert_array_equal(drawn(seed=1.0), drawn(seed=1.0))
    assert (drawn(seed=1.0) != drawn(seed=2.0)).any()
    np.testing.assert_array_equal(drawn(name="a"), drawn(name="a"))
    assert (drawn(name="a") != drawn(name="b")).any()


def test_multinomial() -> None:
    """How often each class is drawn, within 5 standard errors; an impossible class never."""
    share = np.asarray([[0.1, 0.6, 0.3, 0.0]])
    with np.errstate(divide="ignore"):
        logits = np.log(share).astype(np.float32)
    node = helper.make_node("Multinomial", ["x"], ["y"], sample_size=4000, seed=3.0, dtype=7)
    (found,) = backend.run_node(node, [logits], engine="reference")
    assert found.dtype == np.int64
    counts = np.bincount(found[0], minlength=4) / 4000
    np.testing.assert_allclose(counts, share[0], atol=5 * np.sqrt(0.25 / 4000))
    assert counts[3] == 0


def test_bernoulli() -> None:
    """How often there is a 1, within 5 standard errors."""
    share = np.repeat(np.asarray([[0.0], [0.2], [0.9], [1.0]], np.float32), 20_000, axis=1)
    node = helper.make_node("Bernoulli", ["x"], ["y"], seed=3.0, dtype=TensorProto.INT32)
    (found,) = backend.run_node(node, [share], engine="reference")
    assert found.dtype == np.int32
    assert set(np.unique(found)) == {0, 1}
    error = np.sqrt(share[:, 0] * (1 - share[:, 0]) / 20_000)
    assert (np.abs(found.mean(axis=1) - share[:, 0]) <= 5 * error + 1e-12).all()


def test_dropout_in_training(rng: np.random.Generator) -> None:
    """A share of `ratio` is 0, the rest is scaled; the mask tells which; the seed decides."""
    node = helper.make_node("Dropout", ["x", "ratio", "training"], ["y", "mask"], seed=5)
    x = rng.random(20_000, np.float32) + 1
    given = [x, np.asarray(0.3, np.float32), np.asarray(True)]
    y, mask = backend.run_node(node, given, engine="reference")
    assert abs((~mask).mean() - 0.3) < 5 * (0.3 * 0.7 / 20_000) ** 0.5
    np.testing.assert_allclose(y, np.where(mask, x / np.float32(0.7), 0), rtol=1e-6)
    np.testing.assert_array_equal(backend.run_node(node, given, engine="reference")[0], y)
    node.attribute[0].i = 6
    assert (backend.run_node(node, given, engine="reference")[1] != mask).any()
