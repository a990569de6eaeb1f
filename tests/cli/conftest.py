# SPDX-License-Identifier: Apache-2.0
"""A small model as a file, and the command as a function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from heddle.cli.app import app

onnx = pytest.importorskip("onnx", reason="the models are ONNX files")

Run = Callable[..., Any]
WEIGHT = np.random.default_rng(5).standard_normal((8, 5)).astype(np.float32)


def expected(x: np.ndarray) -> np.ndarray:
    """What the model of `write_model` computes."""
    return np.maximum(x @ WEIGHT, 0)


def write_model(path: Path, rows: int | str) -> Path:
    """relu(x @ WEIGHT) for x of `rows` rows, as an ONNX file."""
    from onnx import TensorProto, helper, numpy_helper

    def declare(name: str, columns: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, columns])

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Relu", ["product"], ["y"]),
    ]
    weights = [numpy_helper.from_array(WEIGHT, "w")]
    graph = helper.make_graph(nodes, "tiny", [declare("x", 8)], [declare("y", 5)], weights)
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 3 rows."""
    return write_model(tmp_path_factory.mktemp("static") / "tiny.onnx", 3)


@pytest.fixture(scope="session")
def dynamic_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with `batch` rows."""
    return write_model(tmp_path_factory.mktemp("dynamic") / "tiny.onnx", "batch")


@pytest.fixture(scope="session")
def library(model: Path) -> Path:
    """The model as a library."""
    path = model.with_suffix(".so")
    result = CliRunner().invoke(app, ["compile", str(model), "-o", str(path), "--quiet"])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    return path


@pytest.fixture
def heddle_command() -> Run:
    """Runs the command in this process; the result has exit_code, stdout and stderr."""
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])
