# SPDX-License-Identifier: Apache-2.0
"""The command as a whole: exit codes, streams, JSON, what is imported; and its other verbs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from heddle.cli import compare, models
from heddle.runtime import peak
from heddle.support import InternalError

from .conftest import Run, expected


def shell(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "heddle.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
    )


def test_version_and_help() -> None:
    assert shell("--version").stdout == "heddle 0.1.0\n"
    assert "inspect" in shell("--help").stdout
    code = (
        "import sys\nfrom heddle.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'llvmlite', 'onnx', 'numpy'} & set(sys.modules)))\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.splitlines()[-1] == "[]"


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    """A network of the zoo, from the file to outputs on disk, as a user would."""
    pytest.importorskip("torch", reason="the zoo is exported from torch")
    ort = pytest.importorskip("onnxruntime", reason="the values to compare with")
    from benchmarks import zoo

    path, values = zoo.onnx_path("mlp", small=True), zoo.inputs("mlp", 3, small=True)
    library, outputs = tmp_path / "mlp.so", tmp_path / "out.npz"
    done = shell("compile", path, "-o", library, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["library"] == str(library)
    np.savez(tmp_path / "in.npz", **values)
    done = shell("run", library, "--inputs", tmp_path / "in.npz", "--outputs", outputs, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    with np.load(outputs) as found:
        for name, value in zip(zoo.outputs("mlp"), session.run(None, values), strict=True):
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6)


def test_exit_codes(heddle_command: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert heddle_command("targets").exit_code == 0
    missing = heddle_command("compile", "nowhere.onnx")
    assert missing.exit_code == 1
    assert missing.stderr == "error: nowhere.onnx: No such file or directory\n"
    for wrong in (("compile",), ("compile", model, "--bad"), ("bench", model, "--rounds", 0)):
        assert heddle_command(*wrong).exit_code == 2

    def broken(*_: object, **__: object) -> None:
        raise InternalError("the loom is torn")

    monkeypatch.setattr(models, "compile_model", broken)
    result = heddle_command("compile", model)
    assert result.exit_code == 3
    assert "internal error: InternalError: the loom is torn" in result.stderr
    assert "Please report it" in result.stderr
    assert "Traceback" not in result.stderr
    monkeypatch.setenv("HEDDLE_DEBUG", "1")
    assert "in broken" in heddle_command("compile", model).stderr


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (MemoryError("80 GiB"), 1, "error: out of memory: 80 GiB"),
        (OSError(28, "No space left on device", "m.so"), 1, "error: m.so: No space left on device"),
        (ZeroDivisionError("division by zero"), 3, "internal error: ZeroDivisionError: division"),
    ],
)
def test_every_error_ends_well(
    heddle_command: Run,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    text: str,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(models, "compile_model", fails)
    result = heddle_command("compile", model, "--json")
    assert result.exit_code == code
    assert result.stderr.startswith(text)
    assert json.loads(result.stdout)["error"]["message"]


def test_unknown_targets(heddle_command: Run, model: Path) -> None:
    for target in ("z80", "llvm -mcpu=z80", "", "llvm -cores=none", "cuda"):
        result = heddle_command("compile", model, "--target", target)
        assert result.exit_code == 1
        assert result.stderr.startswith("error: target")


def without(package: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command where a package is not installed."""
    code = f"import sys\nsys.modules[{package!r}] = None\nfrom heddle.cli import main\nmain()\n"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def test_a_package_that_is_missing(model: Path) -> None:
    done = without("onnx", "compile", model, "--no-cache")
    assert done.returncode == 1
    assert "pip install 'heddle[onnx]'" in done.stderr
    done = without("onnxruntime", "compare", model)
    assert done.returncode == 1
    assert "pip install onnxruntime" in done.stderr
    done = without("llvmlite", "doctor")
    assert done.returncode == 1
    assert "pip install --force-reinstall llvmlite" in done.stdout


def test_a_library_is_no_model(heddle_command: Run, library: Path, tmp_path: Path) -> None:
    for verb in ("compile", "inspect"):
        result = heddle_command(verb, library)
        assert result.exit_code == 1
        assert "is a compiled library" in result.stderr
    damaged = tmp_path / "cut.so"
    damaged.write_bytes(library.read_bytes()[:3000])
    assert heddle_command("run", damaged, "--random", 1).exit_code == 1


def test_bench(
    heddle_command: Run, library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEDDLE_CACHE_DIR", str(tmp_path))  # where a measured peak is kept
    monkeypatch.setattr(peak, "measure_peak", lambda threads: 100.0 * threads)
    result = heddle_command("bench", library, "--rounds", 2, "--threads", 1, "--profile")
    assert result.exit_code == 0, result.stderr
    assert "1 thread\n" in result.stdout
    assert "of float32 multiply-add; this is" in result.stdout
    assert "GB/s" in result.stdout
    data = json.loads(
        heddle_command("bench", library, "--rounds", 2, "--threads", 1, "--json").stdout
    )
    assert data["calls"] >= 6
    assert 0 < data["min_ms"] <= data["median_ms"]
    assert data["peak_gflops"] == 100.0
    assert data["share_of_peak"] == pytest.approx(data["gflops"] / 100.0)
    # 3 x 8 x 5 multiply-adds and what follows them
    assert 240 <= data["gflop"] * 1e9 <= 400
    without = json.loads(
        heddle_command("bench", library, "--rounds", 1, "--no-peak", "--json").stdout
    )
    assert without["peak_gflops"] is None


def test_peak_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEDDLE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(peak, "measure_peak", lambda threads: 7.0)
    assert peak.peak_gflops(1) == 7.0
    monkeypatch.setattr(peak, "measure_peak", lambda threads: 8.0)
    assert peak.peak_gflops(1) == 7.0
    assert peak.peak_gflops(2) == 8.0
    assert peak.peak_gflops(1, again=True) == 8.0
    (tmp_path / "peak.json").write_text("{damaged")
    assert peak.peak_gflops(1) == 8.0


def test_inspect(heddle_command: Run, model: Path) -> None:
    listed = json.loads(heddle_command("inspect", model, "--list", "--json").stdout)
    passes = [entry["name"] for entry in listed["passes"]]
    assert passes[0] == "import"
    assert passes[-1] == "schedule"
    (kernel,) = [entry["name"] for entry in listed["kernels"]]
    imported = heddle_command("inspect", model, "--pass", "import")
    assert "op.matmul(x" in imported.stdout
    assert "G.function" in heddle_command("inspect", model, "--pass", passes[1]).stdout
    assert "T.block" in heddle_command("inspect", model, "--kernel", kernel).stdout
    scheduled = heddle_command("inspect", model, "--kernel", kernel, "--schedule")
    assert scheduled.exit_code == 0, scheduled.stderr
    assert "sch.get_loops(" in scheduled.stdout
    assert "sch.vectorize(" in scheduled.stdout
    assembly = heddle_command("inspect", model, "--asm")
    assert "vfmadd" in assembly.stdout or "fmla" in assembly.stdout
    everything = json.loads(
        heddle_command("inspect", model, "--schedule", "--asm", "--json").stdout
    )
    assert set(everything[0]) == {"name", "script", "schedule", "scheduled_script", "assembly"}


def test_printed_modules_are_programs(heddle_command: Run, model: Path) -> None:
    """What `inspect` prints of a kernel can be read back, and computes the same."""
    from heddle.script import parse
    from heddle.tir.interp import run
    from heddle.tir.nodes import PrimFunc

    text = heddle_command("inspect", model, "--pass", "fuse").stdout
    assert "G.Tensor" in text
    data = json.loads(heddle_command("inspect", model, "--schedule", "--json").stdout)[0]
    for key in ("script", "scheduled_script"):
        func = parse(data[key])
        assert isinstance(func, PrimFunc)
        x = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
        weight = _packed_weight(func)
        y = np.empty((3, 5), np.float32)
        run(func, x, weight, y)
        np.testing.assert_allclose(y, expected(x), rtol=1e-5, atol=1e-5)


def _packed_weight(func: object) -> np.ndarray:
    """The weight in the layout that the kernel takes: as it is, or in panels of columns."""
    from .conftest import WEIGHT

    shape = tuple(int(str(dim)) for dim in func.params[1].shape)  # type: ignore[attr-defined]
    if shape == WEIGHT.shape:
        return WEIGHT
    panels, depth, width = shape
    padded = np.zeros((depth, panels * width), np.float32)
    padded[:, : WEIGHT.shape[1]] = WEIGHT
    return np.ascontiguousarray(padded.reshape(depth, panels, width).transpose(1, 0, 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pass", "weave"), "there is no pass `weave`; the passes are: separate_main"),
        (("--kernel", "weave"), "the model has no kernel `weave`; its kernels: `"),
        (("--pass", "import", "--asm"), "does not go with the other options"),
    ],
)
def test_inspect_tells_what_there_is(
    heddle_command: Run, model: Path, arguments: tuple, message: str
) -> None:
    result = heddle_command("inspect", model, *arguments)
    assert result.exit_code == 1
    assert message in result.stderr


@pytest.mark.parametrize("against", ["onnxruntime", "interpreter"])
def test_compare(heddle_command: Run, dynamic_model: Path, against: str) -> None:
    if against == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="compares with it")
    options = ("--against", against, "--dim", "batch=6")
    result = heddle_command("compare", dynamic_model, *options)
    assert result.exit_code == 0, result.stderr
    assert f"agrees with {against}" in result.stdout
    data = json.loads(heddle_command("compare", dynamic_model, *options, "--json").stdout)
    assert data["outputs"][0]["shape"] == [6, 5]
    assert 0 <= data["outputs"][0]["relative_error"] < 1e-5


def test_compare_finds_a_difference(
    heddle_command: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(_model: Path, _shapes: object, values: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [expected(values["x"]) * np.float32(1.01)]

    monkeypatch.setattr(compare, "_interpreter", other)
    result = heddle_command("compare", model, "--against", "interpreter")
    assert result.exit_code == 1
    assert "DIFFERS from interpreter" in result.stdout
    assert heddle_command("compare", model, "--against", "tea leaves").exit_code == 2
    wide = heddle_command("compare", model, "--against", "interpreter", "--tolerance", 0.1)
    assert wide.exit_code == 0


def test_targets(heddle_command: Run) -> None:
    data = json.loads(heddle_command("targets", "--json").stdout)
    bits = {entry["name"]: entry["vector_bits"] for entry in data["processors"]}
    assert (bits["nehalem"], bits["haswell"], bits["znver4"]) == (128, 256, 512)
    assert data["native"]["cores"] >= 1
    assert "haswell" in heddle_command("targets").stdout


def test_doctor(heddle_command: Run) -> None:
    result = heddle_command("doctor", "--json")
    data = json.loads(result.stdout)
    assert data["ok"], [found for found in data["findings"] if found["status"] != "ok"]
    assert result.exit_code == 0
    found = {entry["subject"]: entry["detail"] for entry in data["findings"]}
    assert "gives the right values" in found["a small model"]
    for subject in ("Python", "LLVM", "C compiler", "cache", "processor", "threads"):
        assert subject in found


def test_doctor_says_what_to_do(heddle_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDDLE_CC", "no-such-compiler")
    result = heddle_command("doctor")
    assert result.exit_code == 1
    assert "MISSING  C compiler" in result.stdout
    assert "apt install gcc" in result.stdout
    assert "to mend, see above" in result.stdout


def test_reader_that_stops_early(model: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "heddle.cli", "inspect", str(model), "--asm"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(60) == 0
    assert "Traceback" not in errors
