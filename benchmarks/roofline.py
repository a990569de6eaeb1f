# SPDX-License-Identifier: Apache-2.0
"""Where a network loses time: each kernel beside the least time that the machine allows it.

    python -m benchmarks.roofline resnet50 [--threads 2] [--top 20]
    python -m benchmarks.roofline path/to/model.onnx

The least time of a kernel is the longer of two. Arithmetic: its float operations at the measured
peak of multiply-adds. Memory: its constants at the bandwidth of reading a buffer as large as all
that the model touches (in between, the rest of the model has passed through the caches), and its
other operands at the bandwidth of a buffer of their own size (a kernel before may just have written
them). Kernels are sorted by what they lose: the time above that.

Times are medians over the rounds. On a machine that does other work too, `--fastest` takes each
kernel's fastest round instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import heddle
from benchmarks import zoo
from heddle.cli.values import random_inputs
from heddle.runtime import Executable
from heddle.runtime.peak import bandwidth_gbps, peak_gflops


@dataclass(frozen=True)
class Limits:
    """What `threads` cores can do: GFLOP/s, and GB/s of reading `bytes` again and again."""

    threads: int
    peak_gflops: float

    def bandwidth(self, size: float) -> float:
        """GB/s of reading `size` bytes shared by the cores, from wherever they then lie."""
        mebibyte, share = float(1 << 20), max(size / self.threads, 16 << 10)
        power = 1 << (int(share) - 1).bit_length()  # few sizes: each is measured once
        return bandwidth_gbps(self.threads, mebibytes=min(power / mebibyte, 256.0))


@dataclass(frozen=True)
class Line:
    """One kernel in one call of the model. ideal_ms: the least time; bound: what it waits for."""

    name: str
    count: float
    ms: float
    gflops: float
    share_of_peak: float
    gbps: float
    share_of_bandwidth: float
    ideal_ms: float
    bound: str
    operands: tuple[str, ...] = ()
    label: str = ""

    @property
    def loss_ms(self) -> float:
        """Time above the least."""
        return self.ms - self.ideal_ms


def line_of(kernel: Any, record: Mapping[str, Any], limits: Limits, footprint: float) -> Line:
    """A kernel's profile beside what the compiler knows of it and what the machine can do."""
    flops, moved = record.get("flops", 0), record.get("bytes", 0)
    constant = record.get("constant_bytes", 0)
    seconds = 1e-3 * kernel.median_ms / kernel.count
    arithmetic = flops / limits.peak_gflops / 1e9
    memory = constant / limits.bandwidth(footprint) / 1e9 if constant else 0.0
    if moved > constant:
        memory += (moved - constant) / limits.bandwidth(moved - constant) / 1e9
    return Line(
        kernel.name,
        kernel.count,
        kernel.median_ms,
        flops / seconds / 1e9,
        arithmetic / seconds,
        moved / seconds / 1e9,
        memory / seconds,
        1e3 * max(arithmetic, memory) * kernel.count,
        "arithmetic" if arithmetic > memory else "memory",
        tuple(record.get("operands", ())),
        record.get("label", ""),
    )


def measure(
    executable: Executable,
    values: Mapping[str, np.ndarray],
    limits: Limits,
    *,
    rounds: int = 20,
    fastest: bool = False,
) -> tuple[list[Line], float]:
    """The kernels of a model, the most wasteful first, and the milliseconds of a whole call.

    With `fastest` each kernel counts with its fastest round, and the call as the sum of them.
    """
    profile = executable.profile(rounds=rounds, **values)
    kernels, total = profile.kernels, profile.total_ms
    if fastest:
        kernels = tuple(replace(kernel, median_ms=kernel.min_ms) for kernel in kernels)
        total = sum(kernel.median_ms for kernel in kernels)
    records = {record["name"]: record for record in executable.metadata["kernels"]}
    weights = sum(record.get("constant_bytes", 0) for record in executable.metadata["kernels"])
    footprint = weights + executable.metadata["arena"]
    lines = [
        line_of(kernel, records.get(kernel.name, {}), limits, footprint)
        for kernel in kernels
        if kernel.count and kernel.median_ms > 0
    ]
    lines.sort(key=lambda line: -line.loss_ms)
    return lines, total


def table(lines: Sequence[Line], total_ms: float, top: int, *, operands: bool) -> str:
    """The `top` most wasteful kernels, then all others in one line, then the whole."""
    rest = lines[top:]
    name = max([24, *(len(line.name) for line in lines[:top])])
    head = f"{'kernel':{name}} {'count':>5} {'ms':>8} {'GFLOP/s':>8} {'peak':>6} {'GB/s':>7} "
    text = [f"{head}{'bw':>6} {'ideal':>8} {'loss':>8}  bound"]
    for line in lines[:top]:
        text.append(
            f"{line.name:{name}} {line.count:5g} {line.ms:8.3f} {line.gflops:8.1f} "
            f"{line.share_of_peak:6.1%} {line.gbps:7.1f} {line.share_of_bandwidth:6.1%} "
            f"{line.ideal_ms:8.3f} {line.loss_ms:8.3f}  {line.bound}"
        )
        if operands and line.operands:
            text.append(f"    {' '.join(line.operands)}")

    def whole(label: str, count: float, ms: float, ideal: float) -> str:
        gap = " " * 31
        return f"{label:{name}} {count:5g} {ms:8.3f} {gap}{ideal:8.3f} {ms - ideal:8.3f}"

    if rest:
        sums = sum(line.ms for line in rest), sum(line.ideal_ms for line in rest)
        text.append(whole(f"({len(rest)} other kernels)", sum(line.count for line in rest), *sums))
    inside = sum(line.ms for line in lines)
    text.append(whole("(between kernels)", 0, max(total_ms - inside, 0.0), 0.0))
    text.append(whole("all", sum(x.count for x in lines), total_ms, sum(x.ideal_ms for x in lines)))
    return "\n".join(text)


def _open(name: str, *, threads: int, small: bool) -> tuple[Executable, dict[str, np.ndarray]]:
    """A network of the zoo or an ONNX file, compiled, and values for its inputs."""
    known = name in zoo.models()
    path = zoo.onnx_path(name, small=small) if known else Path(name)
    executable = heddle.compile(path, num_threads=threads)
    executable.set_num_threads(threads)
    if known:
        return executable, zoo.inputs(name, small=small)
    return executable, random_inputs(executable, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.roofline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", help="a network of the zoo, or the path of an ONNX file")
    add("--threads", type=int, default=2)
    add("--rounds", type=int, default=20, help="calls that are measured; default 20")
    add("--top", type=int, default=20, help="kernels to print; default 20")
    add("--small", action="store_true", help="the network's small variant")
    add("--fastest", action="store_true", help="the fastest round of each kernel, not the median")
    add("--operands", action="store_true", help="print the shapes of each kernel's operands")
    add("--json", type=Path, metavar="FILE", help="write everything measured")
    options = parser.parse_args(arguments)
    executable, values = _open(options.model, threads=options.threads, small=options.small)
    limits = Limits(options.threads, peak_gflops(options.threads))
    lines, total_ms = measure(
        executable, values, limits, rounds=options.rounds, fastest=options.fastest
    )
    print(
        f"{options.model}, {limits.threads} threads: {total_ms:.3f} ms; peak "
        f"{limits.peak_gflops:.0f} GFLOP/s, memory {limits.bandwidth(256 << 20):.0f} GB/s"
    )
    print(table(lines, total_ms, options.top, operands=options.operands))
    if options.json:
        records = [asdict(line) | {"loss_ms": line.loss_ms} for line in lines]
        about = {"model": options.model, "threads": limits.threads, "total_ms": total_ms}
        options.json.write_text(json.dumps(about | {"kernels": records}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
