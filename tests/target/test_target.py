# SPDX-License-Identifier: Apache-2.0
"""Targets from text and from the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from heddle.codegen.machine import machine_of
from heddle.support import UserError
from heddle.target import Cache, native, parse
from heddle.target.detect import host_caches


def test_native() -> None:
    target = native()
    assert parse("native") is target is parse("llvm")
    assert target.cores == len(os.sched_getaffinity(0))
    assert target.vector_bits in (128, 256, 512)
    assert [cache.size for cache in target.caches] == sorted(c.size for c in target.caches)


@pytest.mark.parametrize(
    "text, bits, registers",
    [
        ("llvm -mcpu=haswell", 256, 16),
        ("x86-64", 128, 16),
        ("-mcpu=skylake-avx512", 512, 32),
        ("-mcpu=znver5 -mattr=-avx512f", 256, 16),
        ("-mtriple=aarch64-linux-gnu", 128, 32),
        ("--mcpu=neoverse-v1", 128, 32),
    ],
)
def test_named(text: str, bits: int, registers: int) -> None:
    target = parse(text)
    assert (target.vector_bits, target.vector_registers) == (bits, registers)


def test_cores_and_feature_changes() -> None:
    target = parse("znver5 -mattr=-avx512f -cores=1")
    assert target.cores == 1
    assert not target.has("avx512f")
    assert "-avx512f" in machine_of(target).features.split(",")


@pytest.mark.parametrize(
    "text, message",
    [
        ("cuda9", "unknown word `cuda9`"),
        ("-mcpu=pentium9", "unknown processor `pentium9`"),
        ("-mcpu=haswell -mtriple=aarch64-linux-gnu", "`haswell` is x86_64, the triple is aarch64"),
        ("native -cores=0", "-cores= needs a positive number, got `0`"),
        ("", "empty"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(text)


def test_caches_from_files(tmp_path: Path) -> None:
    def write(index: int, kind: str, level: int, size: str, cpus: str) -> None:
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        contents = {
            "type": kind,
            "level": str(level),
            "size": size,
            "coherency_line_size": "64",
            "shared_cpu_list": cpus,
        }
        for name, text in contents.items():
            (folder / name).write_text(f"{text}\n")

    write(0, "Data", 1, "48K", "0,8")
    write(1, "Instruction", 1, "32K", "0,8")
    write(2, "Unified", 2, "1024K", "0,8")
    write(3, "Unified", 3, "32M", "0-7")
    assert host_caches(tmp_path) == (
        Cache(48 << 10, 64, 2),
        Cache(1 << 20, 64, 2),
        Cache(32 << 20, 64, 8),
    )
    assert host_caches(tmp_path / "nowhere") == ()
