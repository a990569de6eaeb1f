# SPDX-License-Identifier: Apache-2.0
"""The roofline printer: what it computes of a profile, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import roofline
from heddle.runtime.profile import KernelTime


class _Machine(roofline.Limits):
    """100 GFLOP/s; 10 GB/s for more than a megabyte, else 50."""

    def bandwidth(self, size: float) -> float:
        return 10.0 if size > 1e6 else 50.0


MACHINE = _Machine(threads=1, peak_gflops=100.0)


def _line(ms: float, count: float = 1, **record: int) -> roofline.Line:
    kernel = KernelTime("kernel", count, ms, ms, 1.0, None, None)
    return roofline.line_of(kernel, record, MACHINE, 2e6)


def test_arithmetic_binds() -> None:
    line = _line(4.0, count=2, flops=10**8, bytes=10**5)
    assert line.bound == "arithmetic"
    assert line.gflops == pytest.approx(50)
    assert line.share_of_peak == pytest.approx(0.5)
    assert line.ideal_ms == pytest.approx(2.0)
    assert line.loss_ms == pytest.approx(2.0)


def test_constants_come_from_where_the_model_lies() -> None:
    line = _line(1.0, flops=1000, bytes=10**5 + 5000, constant_bytes=10**5)
    assert line.bound == "memory"
    assert line.ideal_ms == pytest.approx(1e-2 + 1e-4)
    assert line.share_of_bandwidth == pytest.approx(1e-2 + 1e-4)


def test_runs_on_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weight = numpy_helper.from_array(np.ones((32, 48), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (8, 32))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (8, 48))],
        initializer=[weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "product.onnx").write_bytes(model.SerializeToString())
    report = tmp_path / "report.json"
    arguments = [str(tmp_path / "product.onnx"), "--threads", "1", "--rounds", "3"]
    assert roofline.main([*arguments, "--operands", "--json", str(report)]) == 0
    (kernel,) = json.loads(report.read_text())["kernels"]
    assert kernel["gflops"] * kernel["ms"] == pytest.approx(1e-6 * 2 * 8 * 32 * 48)
    assert kernel["operands"][0] == "float32(8, 32)"
    assert roofline.main([*arguments, "--fastest"]) == 0
    text = capsys.readouterr().out
    assert "float32(8, 32)" in text
    assert text.splitlines()[-1].startswith("all")
    assert text.count("(between kernels)") == 2
