# SPDX-License-Identifier: Apache-2.0
"""Where the time of a model goes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class KernelTime:
    """The time of one kernel in one call of the model."""

    name: str
    count: float
    """Runs per call of the model."""
    median_ms: float
    mean_ms: float
    share: float
    """Part of the time of all kernels, 0 to 1."""
    gflops: float | None
    """Billions of floating-point operations a second; None when the compiler did not count them."""
    gbps: float | None
    """Billions of bytes a second, of what the kernel has to read and write."""
    min_ms: float = math.nan
    """The least over the rounds: what the kernel takes where nothing disturbs it."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Kernels in the order of the model; `print` it for a table, slowest first."""

    kernels: tuple[KernelTime, ...]
    rounds: int
    total_ms: float
    """Median wall time of a call, checks and the host function included."""

    def __str__(self) -> str:
        def cell(value: float | None) -> str:
            return f"{'-':>9}" if value is None else f"{value:9.1f}"

        width = max([6, *(len(kernel.name) for kernel in self.kernels)])
        lines = [
            f"{'kernel':<{width}}  {'count':>6} {'ms':>9} {'share':>6} {'GFLOP/s':>9} {'GB/s':>9}"
        ]
        for kernel in sorted(self.kernels, key=lambda kernel: -kernel.median_ms):
            lines.append(
                f"{kernel.name:<{width}}  {kernel.count:6g} {kernel.median_ms:9.4f} "
                f"{kernel.share:6.1%} {cell(kernel.gflops)} {cell(kernel.gbps)}"
            )
        lines.append(
            f"{'total':<{width}}  {self.rounds:6d} {self.total_ms:9.4f}   (rounds, median)"
        )
        return "\n".join(lines)


def _rate(entry: dict[str, Any], key: str, milliseconds: float) -> float | None:
    amount = entry.get(key)
    if not isinstance(amount, (int, float)) or milliseconds <= 0:
        return None
    return float(amount) / milliseconds / 1e6


def _entries(metadata: dict[str, Any], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The compiler's record of each kernel: by position when the names agree, else by name."""
    listed = metadata.get("kernels")
    records = [entry for entry in listed if isinstance(entry, dict)] if listed else []
    if [record.get("name") for record in records] == list(names):
        return records
    by_name = {record.get("name"): record for record in records}
    return [by_name.get(name, {}) for name in names]


def summarize(
    metadata: dict[str, Any],
    names: tuple[str, ...],
    times_ns: np.ndarray,
    counts: np.ndarray,
    totals_ns: np.ndarray,
) -> Profile:
    """Makes a profile of int64 arrays: times and counts are [rounds, kernels], totals [rounds].

    "flops" and "bytes" in the metadata are those of one run of the kernel.
    """
    medians, means = np.median(times_ns, axis=0) / 1e6, np.mean(times_ns, axis=0) / 1e6
    per_call = np.mean(counts, axis=0)
    whole = float(medians.sum()) or 1.0
    kernels = []
    for k, (name, entry) in enumerate(zip(names, _entries(metadata, names), strict=True)):
        once = float(medians[k]) / float(per_call[k]) if per_call[k] else 0.0
        kernels.append(
            KernelTime(
                name,
                float(per_call[k]),
                float(medians[k]),
                float(means[k]),
                float(medians[k]) / whole,
                _rate(entry, "flops", once),
                _rate(entry, "bytes", once),
                float(times_ns[:, k].min()) / 1e6,
            )
        )
    return Profile(tuple(kernels), len(totals_ns), float(np.median(totals_ns)) / 1e6)
