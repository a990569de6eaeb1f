# SPDX-License-Identifier: Apache-2.0
"""What the machine can do at most: multiply-adds in registers, and bytes from memory.

    python -m benchmarks.peak

The measuring is done by a small C program, one process a core, all started together.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("peak.c")


class PeakError(Exception):
    """The program could not be compiled or run."""


@cache
def _program() -> Path:
    """Compile peak.c once; the binary stays in the temporary folder."""
    compiler = next(filter(shutil.which, (os.environ.get("CC", ""), "cc", "gcc", "clang")), None)
    if compiler is None:
        raise PeakError("no C compiler found: install one or set CC")
    digest = hashlib.sha256(SOURCE.read_bytes() + compiler.encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"heddle-peak-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"peak-{digest}"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        flags = ["-O3", "-march=native", "-ffast-math", "-std=gnu11"]
        command = [compiler, *flags, str(SOURCE), "-o", str(part)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PeakError(f"{' '.join(command)}\n{done.stderr}")
        part.replace(path)
    return path


def _measure(threads: int, *arguments: str) -> float:
    """Run the program on `threads` cores at once and add what they did."""
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(cores):
        raise PeakError(f"threads must be 1 to {len(cores)} (the cores of this process): {threads}")

    def pin(core: int) -> object:
        return lambda: os.sched_setaffinity(0, {core})

    running = [
        subprocess.Popen(
            [str(_program()), *arguments], stdout=subprocess.PIPE, text=True, preexec_fn=pin(core)
        )
        for core in cores[:threads]
    ]
    texts = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise PeakError("the measuring program failed")
    return sum(float(text) for text in texts)


def measure_peak(threads: int = 1, *, seconds: float = 0.5) -> float:
    """GFLOP/s of float32 multiply-add (two operations each) on `threads` cores."""
    return _measure(threads, "fma", str(seconds))


def measure_bandwidth(
    threads: int = 1, *, mebibytes: float = 256, seconds: float = 0.5, copy: bool = False
) -> float:
    """GB/s of reading (or copying: read plus written) a buffer of `mebibytes` on each core."""
    return _measure(threads, "copy" if copy else "read", str(seconds), str(mebibytes))


def main() -> int:
    """Print a table."""
    cores = len(os.sched_getaffinity(0))
    counts = sorted({1, min(2, cores), cores})
    buffers = (("32 KiB", 1 / 32), ("512 KiB", 0.5), ("8 MiB", 8.0), ("256 MiB", 256.0))
    print(f"{'cores':28s}" + "".join(f"{count:>9d}" for count in counts))
    try:
        peaks = [measure_peak(count) for count in counts]
        print(f"{'float32 FMA, GFLOP/s':28s}" + "".join(f"{value:9.0f}" for value in peaks))
        for label, size in buffers:
            rates = [measure_bandwidth(count, mebibytes=size) for count in counts]
            print(f"{'read ' + label + ', GB/s':28s}" + "".join(f"{v:9.0f}" for v in rates))
        rates = [measure_bandwidth(count, copy=True) for count in counts]
        print(f"{'copy 256 MiB, GB/s':28s}" + "".join(f"{value:9.0f}" for value in rates))
    except PeakError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
