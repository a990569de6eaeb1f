# SPDX-License-Identifier: Apache-2.0
"""`heddle compare --against torch`: programs of PyTorch beside PyTorch itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the models are programs of PyTorch")

Run = Callable[..., Any]
FACTORY = "tests.cli.test_compare_torch"


class Net(torch.nn.Module):
    """Two layers with names, one of which normalises."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(50, 8)
        self.norm = torch.nn.LayerNorm(8)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, ids: Any, scale: Any) -> Any:
        return torch.softmax(self.head(self.norm(self.embed(ids)).mean(1)), -1), scale.exp()


def _inputs() -> tuple[Any, Any]:
    return torch.arange(40).reshape(4, 10) + 9, torch.linspace(-1, 1, 5)


def made() -> tuple[Any, Any]:
    """A module and its inputs."""
    torch.manual_seed(0)
    return Net().eval(), _inputs()


def exported() -> Any:
    """The same as a program."""
    with torch.no_grad():
        return torch.export.export(made()[0], _inputs())


def odd() -> int:
    """What no model is made of."""
    return 1


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs") / "net.pt2"
    torch.export.save(exported(), path)
    return path


def test_outputs(heddle_command: Run, program: Path) -> None:
    for model in (program, f"{FACTORY}:made", f"{FACTORY}:exported"):
        result = heddle_command("compare", model, "--against", "torch", "--json", "--quiet")
        assert result.exit_code == 0, result.stderr
        data = json.loads(result.stdout)
        assert data["against"] == "torch"
        assert [row["shape"] for row in data["outputs"]] == [[4, 3], [5]]
        assert all(row["relative_error"] < 1e-5 for row in data["outputs"])


def test_layers(heddle_command: Run, program: Path, tmp_path: Path) -> None:
    plot = tmp_path / "errors.svg"
    arguments = ("compare", program, "--against", "torch", "--layers")
    result = heddle_command(*arguments, "--plot", plot)
    assert result.exit_code == 0, result.stderr
    assert "none beyond 1e-04; worst: " in result.stdout
    data = json.loads(heddle_command(*arguments, "--json", "--quiet").stdout)
    names = [row["name"] for row in data["layers"]]
    for layer in ("embed.embedding", "norm.layer_norm", "head.linear"):
        assert any(name.startswith(layer) for name in names), names
    assert len(ElementTree.parse(plot).getroot().findall("{*}circle")) == len(names)
    strict = heddle_command(*arguments, "--tolerance", "1e-12")
    assert strict.exit_code == 1
    assert "first beyond 1e-12: norm.layer_norm" in strict.stdout


def test_inputs_from_a_file_win(heddle_command: Run, program: Path, tmp_path: Path) -> None:
    file = tmp_path / "scale.npy"
    np.save(file, np.full(5, 200.0, np.float32))  # exp is infinite in both
    options = ("--against", "torch", "--layers", "--json", "--quiet")
    result = heddle_command("compare", program, *options, "--inputs", f"scale={file}")
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    "model, options, message",
    [
        ("nowhere:made", (), "cannot import `nowhere`"),
        (f"{FACTORY}:nothing", (), "has no function `nothing`"),
        (f"{FACTORY}:odd", (), "expected an exported program, or (module, example inputs)"),
        ("missing.pt2", (), "there is no such file"),
        (f"{FACTORY}:made", ("--shape", "ids=2,3"), "--shape is for ONNX models"),
    ],
)
def test_errors(heddle_command: Run, model: str, options: tuple[str, ...], message: str) -> None:
    result = heddle_command("compare", model, "--against", "torch", *options)
    assert result.exit_code == 1
    assert message in result.stderr


def test_what_goes_together(heddle_command: Run, program: Path, tmp_path: Path) -> None:
    result = heddle_command("compare", program)
    assert result.exit_code == 1
    assert "compare it with --against torch" in result.stderr
    other = tmp_path / "model.onnx"
    other.write_bytes(b"no model")
    result = heddle_command("compare", other, "--against", "torch")
    assert result.exit_code == 1
    assert "takes an exported program (.pt2) or package.module:factory" in result.stderr
    broken = tmp_path / "broken.pt2"
    broken.write_bytes(b"no program")
    result = heddle_command("compare", broken, "--against", "torch")
    assert result.exit_code == 1
    assert "torch.export cannot load it" in result.stderr
