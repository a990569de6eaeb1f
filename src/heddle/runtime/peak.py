# SPDX-License-Identifier: Apache-2.0
"""What the machine can do at most: multiply-adds in registers, and bytes from memory.

The measuring is done by a small C program, one process a core, all started together.

>>> peak_gflops(2)                                      # doctest: +SKIP
543.1
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

from heddle.runtime.toolchain import cache_directory, find_toolchain
from heddle.support.errors import UserError

_SOURCE = Path(__file__).with_name("peak.c")
_FLAGS = ("-O3", "-march=native", "-ffast-math", "-std=gnu11")


@cache
def _program(vector_bits: int | None) -> Path:
    """Compile peak.c once for this processor; the program stays in the cache directory."""
    toolchain = find_toolchain()
    flags = [*_FLAGS, *([] if vector_bits is None else [f"-DBYTES={vector_bits // 8}"])]
    parts = [*toolchain.command, toolchain.version, *flags, processor_name()]
    digest = hashlib.sha256(_SOURCE.read_bytes() + "\0".join(parts).encode()).hexdigest()[:16]
    path = cache_directory() / f"peak-{digest}"
    if not path.exists():
        part = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            toolchain.run([*flags, _SOURCE, "-o", part], doing="compiling the peak measurement")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return path


@cache
def processor_name() -> str:
    """What the processor calls itself; empty where this cannot be told."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> list[int]:
    """The cores of this process; numbers without a meaning where it cannot be pinned."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _pin(core: int) -> Callable[[], None] | None:
    if not hasattr(os, "sched_setaffinity"):
        return None
    return lambda: os.sched_setaffinity(0, {core})


def _measure(threads: int, *arguments: str, vector_bits: int | None = None) -> float:
    """Run the program on `threads` cores at once and add what they did."""
    cores = _cores()
    if not 1 <= threads <= len(cores):
        raise UserError(
            f"measuring the peak: threads must be 1 to {len(cores)}, the cores of this process; "
            f"got {threads}"
        )
    running = [
        subprocess.Popen(
            [str(_program(vector_bits)), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=_pin(core),
        )
        for core in cores[:threads]
    ]
    texts = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise UserError("measuring the peak: the measuring program failed; is there enough memory?")
    return sum(float(text) for text in texts)


def measure_peak(
    threads: int = 1, *, seconds: float = 0.5, vector_bits: int | None = None
) -> float:
    """GFLOP/s of float32 multiply-add (two operations each) on `threads` cores, with vectors of
    `vector_bits` (128, 256 or 512; the widest by default). UserError when there is no C compiler
    or threads is more than the cores of this process."""
    if vector_bits not in (None, 128, 256, 512):
        raise UserError(
            f"measuring the peak: vector_bits must be 128, 256 or 512, got {vector_bits}"
        )
    return _measure(threads, "fma", str(seconds), vector_bits=vector_bits)


def measure_bandwidth(
    threads: int = 1, *, mebibytes: float = 256, seconds: float = 0.5, copy: bool = False
) -> float:
    """GB/s of reading (or copying: read plus written) a buffer of `mebibytes` on each core."""
    return _measure(threads, "copy" if copy else "read", str(seconds), str(mebibytes))


def peak_gflops(threads: int = 1, *, again: bool = False) -> float:
    """`measure_peak`, measured once for each processor and number of threads and then remembered
    in the cache directory. `again` measures anew. Raises `UserError` as `measure_peak` does."""
    return _remembered(str(threads), lambda: measure_peak(threads), again)


def bandwidth_gbps(threads: int = 1, *, mebibytes: float = 256, again: bool = False) -> float:
    """`measure_bandwidth` of reading, remembered as `peak_gflops` is. A buffer that fits in a cache
    gives the bandwidth of that cache."""
    return _remembered(
        f"{threads} read {mebibytes:g}",
        lambda: measure_bandwidth(threads, mebibytes=mebibytes, seconds=0.2),
        again,
    )


def _remembered(what: str, measure: Callable[[], float], again: bool) -> float:
    path = cache_directory() / "peak.json"
    key = f"{processor_name()} {platform.node()} {what}"
    known = _read(path)
    if not again and key in known:
        return known[key]
    known[key] = measure()
    part = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # not remembered, then
        part.write_text(json.dumps(known))
        part.replace(path)
    return known[key]


def _read(path: Path) -> dict[str, float]:
    try:
        found = json.loads(path.read_text())
        return {str(key): float(value) for key, value in found.items() if float(value) > 0}
    except (OSError, ValueError, TypeError, AttributeError):  # absent or damaged: measure again
        return {}
