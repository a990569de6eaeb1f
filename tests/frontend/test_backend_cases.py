# SPDX-License-Identifier: Apache-2.0
"""The cases of `onnx.backend.test` on the reference engine, and the Backend API.

`run_backend_tests.py` beside this file runs them on either engine.
"""

from __future__ import annotations

import collections
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from heddle.frontend.onnx import backend
from heddle.support import UserError

_SPEC = importlib.util.spec_from_file_location(
    "run_backend_tests", Path(__file__).with_name("run_backend_tests.py")
)
assert _SPEC is not None
assert _SPEC.loader is not None
runner = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(runner)


@pytest.mark.filterwarnings("ignore")
def test_all_cases_on_the_reference_engine() -> None:
    """Each passes, or the table of exceptions says why not."""
    cases = runner.load_cases(["node", "simple", "pytorch-converted", "pytorch-operator"])
    counts: collections.Counter[str] = collections.Counter()
    wrong = []
    for case in cases:
        outcome, detail = runner.run_case(case, "reference")
        counts[outcome] += 1
        if outcome != "passed" and runner.exception_for(case.name) is None:
            wrong.append(f"{outcome} {case.name}: {detail}")
    assert not wrong, "\n".join(wrong)
    assert counts["passed"] >= 0.98 * len(cases) > 1500, counts


def relu_model() -> onnx.ModelProto:
    """y = relu(x), x of shape (n, 3)."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [result])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_prepare_and_run(rng: np.random.Generator) -> None:
    rep = backend.prepare(relu_model(), "CPU", engine="reference")
    x = rng.standard_normal((2, 3)).astype(np.float32)
    assert rep.run([x]).y is not None
    np.testing.assert_array_equal(rep.run([x])[0], np.maximum(x, 0))
    np.testing.assert_array_equal(rep.run({"x": x})[0], np.maximum(x, 0))


def test_compiled(rng: np.random.Generator) -> None:
    """Native code, for any size of the named dimension."""
    rep = backend.prepare(relu_model())
    for rows in (1, 7):
        x = rng.standard_normal((rows, 3)).astype(np.float32)
        np.testing.assert_array_equal(rep.run([x])[0], np.maximum(x, 0))


def test_values_of_inputs_may_decide_shapes(rng: np.random.Generator) -> None:
    """The model is made ready when it runs, for the shape it is given."""
    x = rng.random((2, 6), np.float32)
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    for shape in ((3, 4), (12,)):
        (result,) = backend.run_node(node, [x, np.asarray(shape)], engine="reference")
        np.testing.assert_array_equal(result, x.reshape(shape))


def test_run_node(rng: np.random.Generator) -> None:
    a, b = rng.random((2, 3), np.float32), rng.random((3, 4), np.float32)
    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    (result,) = backend.run_node(node, [a, b], engine="reference")
    np.testing.assert_allclose(result, a @ b, rtol=1e-6)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: backend.prepare(m, "CUDA"), "device `CUDA` is not supported"),
        (lambda m: backend.prepare(m, engine="magic"), "engine `magic`"),
        (lambda m: backend.prepare(m, engine="reference").run([]), "expected 1 inputs"),
        (lambda m: backend.prepare(m, engine="reference").run({}), "input `x` is missing"),
        (
            lambda m: backend.prepare(m, engine="reference").run([np.zeros((2, 3))]),
            "dtype float64, expected float32",
        ),
    ],
)
def test_wrong_use(call: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(relu_model())


def test_supports_device() -> None:
    assert backend.supports_device("CPU")
    assert not backend.supports_device("CUDA:0")
    assert backend.is_compatible(relu_model())
