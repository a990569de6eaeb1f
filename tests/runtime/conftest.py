# SPDX-License-Identifier: Apache-2.0
"""A model written in C stands in for the compiler's output."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from heddle.runtime import Executable
from heddle.runtime.toolchain import CRT, find_toolchain, link_shared

HERE = Path(__file__).parent
CONSTANTS = np.array([0.5, -2.0, 3.0, 0.25], np.float32)


def compile_model(out: Path, *flags: str) -> Path:
    """The object of the fake model."""
    command = [*find_toolchain().command, "-O2", "-fPIC", "-fvisibility=hidden", *flags]
    subprocess.run([*command, f"-I{CRT}", "-c", HERE / "fake_model.c", "-o", out], check=True)
    return out


@pytest.fixture(scope="session")
def model_object(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_model(tmp_path_factory.mktemp("model") / "fake.o")


@pytest.fixture(scope="session")
def exported(model_object: Path) -> Path:
    """A library with its constants inside."""
    return link_shared(
        [model_object], model_object.with_suffix(".so"), constants=CONSTANTS, name="fake"
    )


@pytest.fixture
def exe(model_object: Path, tmp_path: Path) -> Executable:
    """A library of its own that is given its constants."""
    path = link_shared([model_object], tmp_path / "fake.so")
    return Executable.from_library(path, constants=CONSTANTS.view(np.uint8), objects=[model_object])


def random_inputs(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    shape = (rows, 4)
    return generator.standard_normal(shape, "float32"), generator.standard_normal(shape, "float32")


def check(results: tuple, x: np.ndarray, y: np.ndarray, scale: int) -> None:
    """Compares with numpy."""
    expected = x + y * CONSTANTS
    np.testing.assert_allclose(np.asarray(results[0]), expected, rtol=1e-6, atol=1e-6)
    total = expected.sum(dtype=np.float64) * scale
    np.testing.assert_allclose(np.asarray(results[1]), total, rtol=1e-4, atol=1e-3)
