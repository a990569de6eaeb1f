# SPDX-License-Identifier: Apache-2.0
"""What a machine can do at most: arithmetic, and bytes from each cache and from memory."""

from __future__ import annotations

from dataclasses import dataclass

from heddle.runtime.peak import bandwidth_gbps, peak_gflops
from heddle.schedule.workbench.footprint import cache_names, share_of_cache
from heddle.support import UserError
from heddle.target import Target, native


@dataclass(frozen=True, slots=True)
class Machine:
    """peak_gflops: float32 multiply-adds, two operations each. bandwidth: GB/s of reading from
    each cache and from memory, by name, nearest first."""

    peak_gflops: float
    bandwidth: dict[str, float]

    def attainable(self, intensity: float, source: str) -> float:
        """GFLOP/s of a kernel that does `intensity` operations per byte from `source`."""
        return min(self.peak_gflops, intensity * self.bandwidth[source])


def machine_of(target: Target, cores: int) -> Machine | None:
    """The figures of this machine, measured once and remembered; None for a `target` that it is
    not, or where they cannot be measured (there is no C compiler)."""
    here = native()
    if (target.triple, target.cpu) != (here.triple, here.cpu):
        return None
    try:
        bandwidth = {}
        for name, cache in zip(cache_names(target), (*target.caches, None), strict=True):
            size = 256.0 if cache is None else share_of_cache(cache, cores) / 2 / (1 << 20)
            bandwidth[name] = bandwidth_gbps(cores, mebibytes=size)
        return Machine(peak_gflops(cores), bandwidth)
    except UserError:
        return None
