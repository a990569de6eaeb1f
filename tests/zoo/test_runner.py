# SPDX-License-Identifier: Apache-2.0
"""The benchmark runner: what it writes, and what it does when an engine fails or dies."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks import run, zoo
from benchmarks.compare import relative_error
from benchmarks.worker import EngineError, Worker

pytest.importorskip("torch", reason="the zoo is exported from torch")
pytest.importorskip("onnxruntime", reason="the reference")

QUICK = ["--small", "--models", "mlp", "--rounds", "2", "--seconds", "0.01", "--threads", "1"]


def test_relative_error() -> None:
    want = np.array([1.0, -4.0], np.float32)
    assert relative_error(want, want) == 0
    assert relative_error(np.array([1.0, -3.0], np.float32), want) == pytest.approx(0.25)
    assert relative_error(want[:1], want) == np.inf
    assert relative_error(np.array([1.0, np.nan], np.float32), want) == np.inf


def test_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--json", str(tmp_path / "a.json"), "--md", str(tmp_path / "a.md")]
    assert run.main([*QUICK, "--engines", "ort,torch", *files]) == 0
    rows = {row["engine"]: row for row in json.loads((tmp_path / "a.json").read_text())["rows"]}
    assert rows["ort"]["ratio"] == 1.0
    assert 0 < rows["torch"]["error"] < 1e-4
    assert len(rows["torch"]["rounds_ms"]) == 2
    assert rows["torch"]["peak_mb"] > 50
    assert "| mlp | torch |" in (tmp_path / "a.md").read_text()
    assert "torch: " in capsys.readouterr().out


def test_wrong_values_fail_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Worker.ask

    def ask(self: Worker, *command: object, timeout: float = 60.0) -> object:
        answer = honest(self, *command, timeout=timeout)
        if command[0] == "outputs" and "torch" in self.process.args:
            return [value * 1.001 for value in answer]
        return answer

    monkeypatch.setattr(Worker, "ask", ask)
    assert run.main([*QUICK, "--engines", "ort,torch"]) == 1


def test_best_peer_and_failures() -> None:
    rows = [
        run.Row("net", name, 1.0, rounds_ms=[[ms], [2 * ms]])
        for name, ms in (("heddle", 3.0), ("ort", 6.0), ("openvino", 2.0), ("inductor", 4.0))
    ]
    heddle, ort, openvino, inductor = rows
    run.compare_rows(rows)
    assert heddle.ratio == pytest.approx(0.5)
    assert heddle.best_ratio == pytest.approx(1.5)
    assert openvino.best_ratio == 1.0
    openvino.error = 0.5  # wrong values are nobody's best
    ort.failure, ort.rounds_ms = "EngineError: out of memory", []
    run.compare_rows(rows)
    assert "above 1e-04" in openvino.failure
    assert heddle.best_ratio == pytest.approx(0.75)
    assert run.means(rows, "best_ratio")["heddle"] == (pytest.approx(0.75), pytest.approx(0.75), 1)
    run.compare_rows([heddle, inductor], narrow=True)
    assert heddle.best_ratio == pytest.approx(0.75)


def test_a_peer_that_fails_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = Worker.ask

    def ask(self: Worker, *command: object, timeout: float = 60.0) -> object:
        if command[0] == "load" and "torch" in self.process.args:
            raise EngineError("NotImplementedError: Loop")
        return honest(self, *command, timeout=timeout)

    monkeypatch.setattr(Worker, "ask", ask)
    assert run.main([*QUICK, "--engines", "heddle,ort,torch", "--warm-cache"]) == 0
    out = capsys.readouterr().out
    assert "FAILED: NotImplementedError: Loop" in out
    assert "heddle: " in out


def test_decoders_report_tokens(tmp_path: Path) -> None:
    row = run.Row("net", "heddle", 1.0, rounds_ms=[[4.0]], tokens=1)
    assert "250.0" in run.cells(row)
    assert zoo.tokens("gpt2_decode") == 1
    assert zoo.tokens("mlp") == 0


def test_unknown_engine_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--engines", "ort,tvm"])
    assert "unknown: tvm; known: heddle, ort" in capsys.readouterr().err


def test_a_dead_worker_is_reported() -> None:
    worker = Worker("ort", "mlp", threads=1, small=True, env={})
    try:
        worker.ask("load")
        os.kill(worker.process.pid, 9)
        with pytest.raises(EngineError, match=r"died in `outputs` \(exit status -9\)"):
            worker.ask("outputs", 0)
    finally:
        worker.close()


def test_an_error_in_a_command_is_reported() -> None:
    worker = Worker("ort", "mlp", threads=1, small=True, env={})
    try:
        with pytest.raises(EngineError, match="AttributeError"):
            worker.ask("no_such_command")
    finally:
        worker.close()
