# SPDX-License-Identifier: Apache-2.0
"""The disk cache under damage, full disks and other processes; the registry of variables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from heddle.support import UserError, cache, env
from heddle.support.cache import DiskCache


def test_round_trip_and_replacement(tmp_path: Path) -> None:
    kept = DiskCache("k", directory=tmp_path)
    assert kept.get("a") is None
    kept.put("a", b"one")
    kept.put("a", b"two")
    kept.put("b", b"")
    assert (kept.get("a"), kept.get("b")) == (b"two", b"")
    assert DiskCache("k", directory=tmp_path).get("a") == b"two"
    kept.clear()
    assert kept.get("a") is None


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_entry_is_dropped(tmp_path: Path, damage: bytes | None) -> None:
    kept = DiskCache("k", directory=tmp_path)
    kept.put("a", b"x" * 1000)
    path = kept.path_of("a")
    path.write_bytes(path.read_bytes()[:-1] + b"y" if damage is None else damage)
    assert kept.get("a") is None
    assert not path.exists()


@pytest.mark.parametrize("reason", ["No space left on device", "Read-only file system"])
def test_a_disk_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    kept = DiskCache(f"k{len(reason)}", directory=tmp_path)

    def fail(*_: object) -> None:
        raise OSError(5, reason)

    monkeypatch.setattr(cache, "_write_whole", fail)
    with pytest.warns(UserWarning, match=reason):
        kept.put("a", b"1")
    kept.put("b", b"2")  # warned once
    assert kept.get("a") is None


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    kept = DiskCache("k", directory=tmp_path, max_bytes=1000)
    for position in range(10):
        kept.put(str(position), bytes(84))
        os.utime(kept.path_of(str(position)), (position, position))
    assert kept.get("0") is not None  # used now
    kept.put("10", bytes(84))
    kept.prune()
    assert kept.get("0") is not None
    assert kept.get("1") is None
    assert kept.get("10") is not None


def test_processes_share_one_cache(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from heddle.support.cache import DiskCache\n"
        "c = DiskCache('k', directory=Path(sys.argv[1]))\n"
        "for i in range(300):\n"
        "    c.put(str(i % 7), bytes([i % 7]) * 5000)\n"
        "    v = c.get(str(i % 5)); assert v is None or v == bytes([i % 5]) * 5000\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert DiskCache("k", directory=tmp_path).get("6") == bytes([6]) * 5000


def test_variables_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDDLE_NUM_THREADS", "3")
    assert env.HEDDLE_NUM_THREADS.get() == 3
    monkeypatch.setenv("HEDDLE_NUM_THREADS", "")
    assert env.HEDDLE_NUM_THREADS.get() is None
    monkeypatch.setenv("HEDDLE_NUM_THREADS", "many")
    with pytest.raises(UserError, match="HEDDLE_NUM_THREADS=many: expected a positive integer"):
        env.HEDDLE_NUM_THREADS.get()
    assert all(variable.doc for variable in env.registered())


def test_a_misspelt_variable_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDDLE_NUM_THREAD", "3")
    env.warn_unknown.cache_clear()
    with pytest.warns(UserWarning, match="HEDDLE_NUM_THREAD .did you mean HEDDLE_NUM_THREADS"):
        env.HEDDLE_CC.get()
    env.HEDDLE_CC.get()  # once
