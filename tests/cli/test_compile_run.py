# SPDX-License-Identifier: Apache-2.0
"""`heddle compile` and `heddle run`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

import heddle
from heddle.cli.values import read_inputs, write_outputs
from heddle.runtime import TensorInfo

from .conftest import Run, expected


def test_compile_reports(heddle_command: Run, model: Path, tmp_path: Path) -> None:
    out, header = tmp_path / "out.so", tmp_path / "out.h"
    result = heddle_command("compile", model, "-o", out, "--header", header, "--name", "my model")
    assert result.exit_code == 0, result.stderr
    for text in ("out.so (", "out.h", "x: float32[3, 8]", "y: float32[3, 5]", "time"):
        assert text in result.stdout
    assert "kernels ..." in result.stderr
    assert "my_model_run(" in header.read_text()
    x = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    np.testing.assert_allclose(heddle.load(out)(x).numpy(), expected(x), rtol=1e-5, atol=1e-6)


def test_compile_json(heddle_command: Run, model: Path, tmp_path: Path) -> None:
    arguments = ("compile", model, "-o", tmp_path / "out.so", "--json", "--quiet")
    result = heddle_command(*arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    data = json.loads(result.stdout)
    assert data["inputs"] == [{"name": "x", "dtype": "float32", "shape": [3, 8]}]
    assert data["library_bytes"] == os.path.getsize(tmp_path / "out.so")
    assert data["kernels"] >= 1
    assert data["arena_bytes"] >= data["live_peak_bytes"]
    again = json.loads(heddle_command(*arguments).stdout)
    assert again["from_cache"]
    assert {key: again[key] for key in ("inputs", "kernels", "constant_bytes")} == {
        key: data[key] for key in ("inputs", "kernels", "constant_bytes")
    }


def test_compile_costs(heddle_command: Run, model: Path, tmp_path: Path) -> None:
    arguments = ("compile", model, "-o", tmp_path / "out.so", "--report", "--quiet")
    result = heddle_command(*arguments, "--no-cache")
    assert result.exit_code == 0, result.stderr
    for text in ("  schedule  ", "LLVM ms", "0 of them compiled before", "MiB at the fullest"):
        assert text in result.stdout
    data = json.loads(heddle_command(*arguments, "--no-cache", "--json").stdout)
    graph = sum(data["costs"]["passes"].values())
    assert 0 < graph <= data["seconds"]["graph"] + 1e-3
    assert len(data["costs"]["kernels"]) == data["kernels"]
    assert all(cost["llvm_seconds"] > 0 for cost in data["costs"]["kernels"])
    heddle_command(*arguments)
    assert "nothing was compiled" in heddle_command(*arguments).stdout


def test_compile_for_an_older_processor(heddle_command: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "old.so"
    options = ("--target", "llvm -mcpu=x86-64", "--num-threads", 1, "--no-cache")
    result = heddle_command("compile", model, "-o", out, *options)
    assert result.exit_code == 0, result.stderr
    x = np.random.default_rng(2).standard_normal((3, 8)).astype(np.float32)
    np.testing.assert_allclose(heddle.load(out)(x).numpy(), expected(x), rtol=1e-5, atol=1e-6)


def test_run_files(heddle_command: Run, library: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(3).standard_normal((3, 8)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    np.save(tmp_path / "x.npy", np.asfortranarray(x))
    for given in (tmp_path / "in.npz", tmp_path / "x.npy", f"x={tmp_path / 'x.npy'}"):
        out = tmp_path / "out.npz"
        result = heddle_command("run", library, "--inputs", given, "--outputs", out)
        assert result.exit_code == 0, result.stderr
        with np.load(out) as found:
            assert found.files == ["y"]
            np.testing.assert_allclose(found["y"], expected(x), rtol=1e-5, atol=1e-6)


def test_run_random_is_seeded(heddle_command: Run, library: Path) -> None:
    runs = [heddle_command("run", library, "--random", seed, "--json") for seed in (1, 1, 2)]
    first, again, other = [json.loads(run.stdout)["outputs"][0] for run in runs]
    assert first == again
    assert first["mean"] != other["mean"]
    assert first["min"] == 0.0
    assert first["max"] > 0.1
    assert first["not_finite"] == 0


def test_run_symbolic_dimension(heddle_command: Run, dynamic_model: Path) -> None:
    result = heddle_command("run", dynamic_model, "--random", 1, "--dim", "batch=7", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["outputs"][0]["shape"] == [7, 5]
    result = heddle_command("run", dynamic_model, "--random", 1, "--shape", "x=4,8", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["outputs"][0]["shape"] == [4, 5]


def test_values_that_are_not_finite_pass_through(
    heddle_command: Run, library: Path, tmp_path: Path
) -> None:
    x = np.random.default_rng(4).standard_normal((3, 8)).astype(np.float32)
    x[1, 2] = np.nan
    np.savez(tmp_path / "in.npz", x=x)
    result = heddle_command("run", library, "--inputs", tmp_path / "in.npz")
    assert result.exit_code == 0, result.stderr
    assert "5 not finite" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--random", 1, "--dim", "rows=3"), "--dim rows: the model's symbolic dimensions are"),
        (("--random", 1, "--dim", "batch"), "--dim batch: expected NAME=SIZE"),
        (("--dim", "batch=1"), "give --random SEED as well"),
        (("--shape", "x=3,8"), "--shape is for models that are compiled"),
        (("--shape", "x"), "--shape x: expected NAME=DIM,DIM"),
        (("--shape", "x=3,-8"), "`-8` is no dimension"),
        ((), "missing input `x`, expected `x: float32[3, 8]`"),
        (("--inputs", "nowhere.npz"), "nowhere.npz: there is no such file"),
        (("--inputs", "{text}"), "not a readable .npy or .npz file"),
        (("--inputs", "{cut}"), "not a readable .npy or .npz file"),
        (("--inputs", "{other}"), "the model has no input `z`; its inputs: `x: float32[3, 8]`"),
        (("--inputs", "{wide}"), "input `x`: dtype is float64, expected float32"),
        (("--inputs", "x={other}"), "expected one array in a .npy file, got an archive"),
        (("--random", 1, "--outputs", "{missing}"), "cannot write"),
    ],
)
def test_bad_input_is_told(
    heddle_command: Run, library: Path, tmp_path: Path, arguments: tuple, message: str
) -> None:
    x = np.random.default_rng(4).standard_normal((3, 8))
    files = {name: tmp_path / f"{name}.npz" for name in ("text", "other", "wide", "cut")}
    files["text"].write_text("no archive")
    np.savez(files["other"], z=x)
    np.savez(files["wide"], x=x)
    files["cut"].write_bytes(files["wide"].read_bytes()[:100])
    files["missing"] = tmp_path / "nowhere" / "out.npz"
    result = heddle_command("run", library, *(str(item).format(**files) for item in arguments))
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_pickles_are_not_opened(heddle_command: Run, library: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.array([{"an": "object"}], dtype=object))
    result = heddle_command("run", library, "--inputs", tmp_path / "in.npz")
    assert result.exit_code == 1
    assert "not a readable .npy or .npz file" in result.stderr


def test_bfloat16_survives_files(tmp_path: Path) -> None:
    """.npy files keep such values as plain bytes; the model says what they are."""
    values = np.random.default_rng(6).standard_normal((2, 3)).astype("bfloat16")
    write_outputs(tmp_path / "out.npz", {"a/b:0": values, "file": values[0]})
    inputs = (TensorInfo("a/b:0", "bfloat16", (2, 3)), TensorInfo("file", "bfloat16", (3,)))
    found = read_inputs(SimpleNamespace(inputs=inputs), [str(tmp_path / "out.npz")])
    assert found["a/b:0"].dtype == values.dtype
    np.testing.assert_array_equal(found["a/b:0"], values)
    np.testing.assert_array_equal(found["file"], values[0])


def _bfloat16() -> None:
    from heddle.target import native

    if not native().has("avx512bf16"):
        pytest.skip("this processor has no bfloat16 products")


def test_precision(heddle_command: Run, model: Path, tmp_path: Path) -> None:
    _bfloat16()
    out = tmp_path / "half.so"
    result = heddle_command("compile", model, "-o", out, "--precision", "bf16")
    assert result.exit_code == 0, result.stderr
    x = np.random.default_rng(4).standard_normal((3, 8)).astype(np.float32)
    error = np.abs(heddle.load(out)(x).numpy() - expected(x)).max()
    assert 1e-5 < error < 8 * 2.0**-8 * np.abs(x).max()
    wrong = heddle_command("compile", model, "-o", out, "--precision", "int4")
    assert wrong.exit_code == 1
    assert 'precision "int4": expected one of "float32", "bf16"' in wrong.stderr


def test_compare_layers(heddle_command: Run, model: Path) -> None:
    _bfloat16()
    arguments = ("compare", model, "--against", "float32", "--precision", "bf16")
    result = heddle_command(*arguments)
    assert result.exit_code == 0, result.stderr
    assert "product" in result.stdout
    assert "none beyond 1e-01; worst: " in result.stdout
    data = json.loads(heddle_command(*arguments, "--json", "--quiet").stdout)
    assert [row["operator"] for row in data["layers"]] == ["matmul", "relu"]
    assert all(30 < row["sqnr_db"] < 70 for row in data["layers"])
    assert data["first"] is None
    strict = heddle_command(*arguments, "--tolerance", "1e-6")
    assert strict.exit_code == 1
    assert "first beyond 1e-06: product" in strict.stdout


@pytest.mark.parametrize("against", ["onnxruntime", "interpreter"])
def test_compare_layers_with_another_implementation(
    heddle_command: Run, model: Path, tmp_path: Path, against: str
) -> None:
    if against == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="the values to compare with")
    plot = tmp_path / "errors.svg"
    arguments = ("compare", model, "--layers", "--against", against)
    result = heddle_command(*arguments, "--plot", plot)
    assert result.exit_code == 0, result.stderr
    assert "none beyond 1e-04; worst: " in result.stdout
    data = json.loads(heddle_command(*arguments, "--json", "--quiet").stdout)
    assert len(data["layers"]) >= 2
    assert all(row["max_error"] < 1e-5 for row in data["layers"])
    root = ElementTree.parse(plot).getroot()
    assert len(root.findall("{*}circle")) == len(data["layers"])
    nowhere = heddle_command(*arguments, "--plot", tmp_path / "no folder" / "errors.svg")
    assert nowhere.exit_code == 1
    assert "cannot write" in nowhere.stderr


def test_the_first_layer_that_differs_is_named(
    heddle_command: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A precision that nobody told the reference about shows at the product, not at the end."""
    _bfloat16()
    arguments = ("--precision", "bf16", "--against", "interpreter", "--tolerance", "1e-6")
    result = heddle_command("compare", model, "--layers", *arguments)
    assert result.exit_code == 1
    assert "first beyond 1e-06: product" in result.stdout


def test_compare_with_the_model_that_was_quantised(heddle_command: Run, model: Path) -> None:
    arguments = ("compare", model, "--against", "float32", "--reference", model, "--json", "-q")
    data = json.loads(heddle_command(*arguments).stdout)
    assert all(row["sqnr_db"] is None for row in data["layers"])
    assert heddle_command("compare", model, "--reference", model).exit_code == 2
