# SPDX-License-Identifier: Apache-2.0
"""`heddle targets`: what code can be generated for."""

from __future__ import annotations

import platform
from typing import Any

from heddle.cli.console import Console, size, table
from heddle.target import Target, native, parse, processor_names
from heddle.target.registry import PROCESSORS


def run_targets(console: Console) -> None:
    """List this machine and the processors that have a name."""
    host = native()
    named = {name: parse(f"llvm -mcpu={name}") for name in processor_names()}
    data = {
        "native": describe(host),
        "processors": [
            {**describe(target), "name": name, "arch": PROCESSORS[name].arch}
            for name, target in named.items()
        ],
    }
    rows = [["processor", "arch", "vectors", "registers", "runs here"]]
    for name, target in named.items():
        rows.append(
            [
                name,
                PROCESSORS[name].arch,
                f"{target.vector_bits} bit",
                str(target.vector_registers),
                "yes" if runs_here(name, host) else "",
            ]
        )
    text = (
        f"native: {host}\n{vectors(host)}; {caches(host)}; {host.cores} cores\n\n"
        f"{table(rows, right=(2, 3))}\n\n"
        'Name one as --target "llvm -mcpu=haswell"; add -mattr=+feature,-feature for single '
        "features."
    )
    console.result(text, data)


def runs_here(name: str, host: Target) -> bool:
    """Whether the machine has the features that schedules use of a named processor."""
    processor = PROCESSORS[name]
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    return processor.arch == machine and processor.features <= host.features


def describe(target: Target) -> dict[str, Any]:
    """A target for programs."""
    return {
        "target": str(target),
        "cpu": target.cpu,
        "triple": target.triple,
        "vector_bits": target.vector_bits,
        "vector_registers": target.vector_registers,
        "cache_bytes": [cache.size for cache in target.caches],
        "cores": target.cores,
        "features": sorted(target.features),
    }


def vectors(target: Target) -> str:
    """The vector unit in words."""
    return f"{target.vector_registers} vector registers of {target.vector_bits} bits"


def caches(target: Target) -> str:
    """The data caches in words."""
    if not target.caches:
        return "caches not known"
    return "caches " + ", ".join(size(cache.size).replace(".0 ", " ") for cache in target.caches)
