# SPDX-License-Identifier: Apache-2.0
"""Targets from text and from the machine we run on.

>>> parse("llvm -mcpu=haswell").vector_bits
256
"""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
import shlex
from pathlib import Path
from typing import Final

from heddle.support import UserError
from heddle.target.registry import (
    PROCESSORS,
    Processor,
    generic,
    processor_names,
    vector_unit,
    with_features,
)
from heddle.target.target import Cache, Target

_SYSFS: Final = Path("/sys/devices/system/cpu/cpu0/cache")
_ARCH_NAMES: Final = {"amd64": "x86_64", "x86_64": "x86_64", "arm64": "aarch64"}
_OPTIONS: Final = ("-mcpu=", "-mattr=", "-mtriple=", "-cores=")


@functools.cache
def native() -> Target:
    """The machine this process runs on: its processor, caches and the cores it may use.

    Raises `UserError` where LLVM has no code generator for the machine.
    """
    import llvmlite.binding as llvm  # heavy, and only needed here

    features = frozenset(name for name, on in llvm.get_host_cpu_features().items() if on)
    triple = llvm.get_process_triple()
    arch = _arch(triple)
    if arch == "aarch64" and "neon" not in features:
        features |= {"neon"}
    bits, registers = vector_unit(arch, features)
    return Target(
        kind="llvm",
        triple=triple,
        cpu=llvm.get_host_cpu_name(),
        features=features,
        vector_bits=bits,
        vector_registers=registers,
        caches=host_caches() or generic(arch).caches,
        cores=host_cores(),
    )


def host_cores() -> int:
    """How many cores this process may run on (its affinity mask)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def host_caches(root: Path = _SYSFS) -> tuple[Cache, ...]:
    """The data caches of the machine from the nearest out; empty where they cannot be read."""
    found: dict[int, Cache] = {}
    try:
        for folder in sorted(root.glob("index*")):
            if _read(folder / "type") == "Instruction":
                continue
            level, size = int(_read(folder / "level")), _read(folder / "size")
            found[level] = Cache(
                size=_bytes(size),
                line=int(_read(folder / "coherency_line_size")),
                shared_by=_count(_read(folder / "shared_cpu_list")),
            )
    except (OSError, ValueError):
        return ()
    return tuple(found[level] for level in sorted(found))


def parse(text: str | Target) -> Target:
    """The target that `text` describes.

    `"native"` (or `"llvm"`) is this machine; `"llvm -mcpu=haswell"`, `"-mcpu=znver4
    -mattr=-avx512f"`, `"-mtriple=aarch64-linux-gnu -mcpu=neoverse-n1"` name others; a bare
    processor name is short for `-mcpu=`. `-cores=N` says how many cores a call may use. With `"c"`
    as first word, C source is generated. A `Target` passes through. Raises `UserError` for anything
    else.
    """
    if isinstance(text, Target):
        return text
    if not isinstance(text, str):
        raise UserError(f"target: expected a string or a Target, got {type(text).__name__}")
    words = shlex.split(text)
    kind = "c" if words and words[0] == "c" else "llvm"
    if words and words[0] in ("llvm", "cpu", "native", "c"):
        words = words[1:]
    elif words and words[0] in PROCESSORS:
        words[0] = f"-mcpu={words[0]}"
    elif not words:
        raise UserError('target: empty; try "native" or "llvm -mcpu=haswell"')
    options = dict(_option(word, text) for word in words)
    cores = options.pop("-cores=", None)
    target = native() if not options else _named(options, text)
    if kind != target.kind:
        target = dataclasses.replace(target, kind=kind)
    return target if cores is None else target.with_cores(_positive(cores, text))


def _option(word: str, text: str) -> tuple[str, str]:
    word = f"-{word[2:]}" if word.startswith("--") else word
    for option in _OPTIONS:
        if word.startswith(option):
            return option, word.removeprefix(option)
    raise UserError(
        f"target `{text}`: unknown word `{word}`; expected `native`, or options out of "
        f"{', '.join(_OPTIONS)} or a processor out of {', '.join(processor_names())}"
    )


def _named(options: dict[str, str], text: str) -> Target:
    name = options.get("-mcpu=", "")
    triple = options.get("-mtriple=")
    changes = [change for change in options.get("-mattr=", "").split(",") if change]
    processor = _processor(name, triple, text)
    arch = _arch(triple) if triple else processor.arch
    if processor.arch != arch:
        raise UserError(f"target `{text}`: `{name}` is {processor.arch}, the triple is {arch}")
    features = with_features(processor, changes)
    bits, registers = vector_unit(arch, features)
    same = arch == _arch(platform.machine())
    return Target(
        kind="llvm",
        triple=triple or (native().triple if same else f"{arch}-unknown-linux-gnu"),
        cpu=name if name and name != "generic" else _generic_name(arch),
        features=features,
        vector_bits=bits,
        vector_registers=registers,
        caches=(host_caches() if same else ()) or processor.caches,
        cores=host_cores(),
    )


def _processor(name: str, triple: str | None, text: str) -> Processor:
    if name in ("", "generic"):
        return generic(_arch(triple) if triple else _arch(platform.machine()))
    found = PROCESSORS.get(name)
    if found is not None:
        return found
    machine = native()
    if name in ("native", machine.cpu):
        return Processor(_arch(machine.triple), machine.features, machine.caches)
    raise UserError(
        f"target `{text}`: unknown processor `{name}`; expected one of "
        f"{', '.join(processor_names())}"
    )


def _generic_name(arch: str) -> str:
    return "x86-64" if arch == "x86_64" else "generic"


def _arch(triple: str) -> str:
    first = triple.lower().split("-")[0]
    return _ARCH_NAMES.get(first, first)


def _positive(value: str, text: str) -> int:
    if not value.isdigit() or int(value) < 1:
        raise UserError(f"target `{text}`: -cores= needs a positive number, got `{value}`")
    return int(value)


def _read(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()


def _bytes(size: str) -> int:
    scale = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(size[-1:], 0)
    return int(size[:-1]) * scale if scale else int(size)


def _count(cpu_list: str) -> int:
    """How many processors a list such as "0-3,8" names."""
    total = 0
    for part in cpu_list.split(","):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return total
