# SPDX-License-Identifier: Apache-2.0
"""Disks that are full, caches that are read-only, damaged or shared: the work is done all the same,
or a message says what is wrong."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import heddle
from heddle.support import UserError

pytest.importorskip("onnx", reason="the models are ONNX models")

from .models import WEIGHT, dense, finish, saved, start

X = np.random.default_rng(3).standard_normal((4, 16)).astype(np.float32)

# Compiles the model of argv[1], writes it to argv[2] if there is one, and checks the values.
PROGRAM = """
import sys
import numpy as np
import heddle
{setup}
executable = heddle.compile(sys.argv[1])
x = np.random.default_rng(3).standard_normal((4, 16)).astype(np.float32)
print(repr(float(executable(x).numpy().sum())))
if len(sys.argv) > 2:
    executable.export_library(sys.argv[2])
"""


def right(executable: heddle.Executable) -> None:
    expected = np.tanh(X @ WEIGHT)
    np.testing.assert_allclose(executable(X).numpy(), expected, rtol=1e-5, atol=1e-6)


def printed_right(text: str) -> None:
    np.testing.assert_allclose(float(text), np.tanh(X @ WEIGHT).sum(), rtol=1e-4, atol=1e-5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return saved(tmp_path / "dense.onnx", dense())


@pytest.fixture(scope="module")
def filled_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the model in it."""
    directory = tmp_path_factory.mktemp("filled")
    path = saved(directory / "dense.onnx", dense())
    cache = directory / "cache"
    printed_right(finish(start(PROGRAM.format(setup=""), path, HEDDLE_CACHE_DIR=str(cache))))
    return cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filled_cache: Path) -> Iterator[Path]:
    """A cache of the test's own, with the model in it."""
    directory = tmp_path / "cache"
    shutil.copytree(filled_cache, directory)
    monkeypatch.setenv("HEDDLE_CACHE_DIR", str(directory))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def files(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", ["cut", "emptied", "overwritten", "removed", "a directory"])
@pytest.mark.parametrize("which", ["library.so", "constants.bin", "*.o", "any"])
def test_damaged_entries(path: Path, cache: Path, which: str, damage: str) -> None:
    models = [file for file in files(cache) if "models" in file.parts]
    chosen = [file for file in models if file.match(which)] if which != "any" else files(cache)
    assert chosen, f"no {which} in the cache: {files(cache)}"
    for file in chosen:
        if damage == "cut":
            os.truncate(file, file.stat().st_size // 2)
        elif damage == "emptied":
            os.truncate(file, 0)
        elif damage == "overwritten":
            file.write_bytes(b"\xa5" * file.stat().st_size)
        else:
            file.unlink()
            if damage == "a directory":
                file.mkdir()
    program = PROGRAM.format(setup="")  # a crash must not take the tests along
    export = path.with_suffix(".so")
    printed_right(finish(start(program, path, export, HEDDLE_CACHE_DIR=str(cache))))
    right(heddle.load(export))


def test_a_cache_that_cannot_be_written(path: Path, tmp_path: Path) -> None:
    in_the_way = tmp_path / "a file"
    in_the_way.write_text("no directory")
    for cache in (in_the_way, in_the_way / "cache", Path("/proc/heddle")):
        process = start(PROGRAM.format(setup=""), path, HEDDLE_CACHE_DIR=str(cache))
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        printed_right(out)
        assert "cannot write the cache" in err


def test_a_cache_that_became_read_only(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renames fail as they do on a file system that was mounted read-only meanwhile."""

    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if cache in self.parents:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        return rename(self, target)

    shutil.rmtree(cache / "models")
    monkeypatch.setattr(Path, "rename", refuse)
    right(heddle.compile(path))
    assert not files(cache / "models")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_under_the_cache(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    shutil.rmtree(cache / "models")
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if cache in self.parents:
            raise OSError(code, os.strerror(code), str(self))
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    right(heddle.compile(path))


def test_no_file_may_grow(path: Path, tmp_path: Path) -> None:
    """Every write beyond 4 KiB fails, those of the compiler and the linker included."""
    setup = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    )
    process = start(PROGRAM.format(setup=setup), path, HEDDLE_CACHE_DIR=str(tmp_path / "cache"))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out
    last = err.strip().splitlines()[-1]
    assert last.startswith("heddle.support.errors.UserError"), err
    assert "File too large" in last or "File size limit" in last


def test_export_to_a_full_disk(path: Path, tmp_path: Path) -> None:
    executable = heddle.compile(path)
    target = tmp_path / "model.so"
    target.write_bytes(b"what was there before")
    setup = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
    )
    program = PROGRAM.format(setup="").replace(
        "if len(sys.argv) > 2:\n", "if len(sys.argv) > 2:\n" + _indented(setup)
    )
    process = start(program, path, target)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "UserError" in err.strip().splitlines()[-1]
    assert target.read_bytes() == b"what was there before"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["dense.onnx", "model.so"]
    right(executable)


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def test_export_where_nothing_can_be_written(path: Path, tmp_path: Path) -> None:
    executable = heddle.compile(path)
    for target in (tmp_path, tmp_path / "nowhere" / "m.so", Path("/proc/m.so")):
        with pytest.raises(UserError, match="cannot write"):
            executable.export_library(target)
    with pytest.raises(UserError, match="cannot write"):
        executable.write_header(tmp_path / "nowhere" / "m.h")


def test_export_after_the_cache_was_deleted(path: Path, cache: Path, tmp_path: Path) -> None:
    executable = heddle.compile(path)
    shutil.rmtree(cache / "models")
    with pytest.raises(UserError, match="is gone; compile the model again"):
        executable.export_library(tmp_path / "m.so")
    right(executable)
    heddle.compile(path).export_library(tmp_path / "m.so")
    right(heddle.load(tmp_path / "m.so"))


def test_two_processes_at_once(path: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    program = PROGRAM.format(setup="")
    running = [
        start(program, path, tmp_path / f"{k}.so", HEDDLE_CACHE_DIR=str(cache)) for k in range(3)
    ]
    for process in running:
        printed_right(finish(process))
    entries = [entry for entry in (cache / "models").iterdir() if not entry.name.startswith(".")]
    assert len(entries) == 1
    assert not [entry for entry in (cache / "models").iterdir() if entry.name.startswith(".")]
    for k in range(3):
        right(heddle.load(tmp_path / f"{k}.so"))


def test_a_compilation_that_was_killed(path: Path, cache: Path) -> None:
    """What a killed process leaves behind is in nobody's way."""
    shutil.rmtree(cache / "models")
    right(heddle.compile(path))
    (entry,) = [item for item in (cache / "models").iterdir() if not item.name.startswith(".")]
    half = cache / "models" / f".{entry.name[:8]}-left"
    shutil.copytree(entry, half)
    (entry / "complete").unlink()
    (entry / "library.so").write_bytes(b"half")
    right(heddle.compile(path))
    assert (entry / "complete").exists()
