# SPDX-License-Identifier: Apache-2.0
"""`Target`: one frozen description of a device, from which schedules and code follow."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cache:
    """One level of data cache: bytes, line size in bytes, and how many cores share it."""

    size: int
    line: int = 64
    shared_by: int = 1


@dataclass(frozen=True, slots=True)
class Target:
    """A device to generate code for.

    kind: the code generator, "llvm" or "c". triple, cpu and features are LLVM's. `vector_bits` is
    the width of a vector register that code should use, `vector_registers` their number,
    `fma_per_cycle` how many vector multiply-adds a core starts per cycle and `fma_latency` the
    cycles until the result can be used. `caches` are the data caches from the nearest; `cores` the
    cores that a call may use.
    """

    kind: str
    triple: str
    cpu: str
    features: frozenset[str]
    vector_bits: int
    vector_registers: int
    caches: tuple[Cache, ...]
    cores: int
    fma_per_cycle: int = 2
    fma_latency: int = 4

    def vector_lanes(self, bits: int) -> int:
        """Elements of `bits` bits in one vector register."""
        return max(1, self.vector_bits // bits)

    def has(self, feature: str) -> bool:
        """Whether the device has an LLVM feature such as "avx512f" or "neon"."""
        return feature in self.features

    def with_cores(self, cores: int) -> Target:
        """The same device with another number of cores to use."""
        return dataclasses.replace(self, cores=cores)

    def __str__(self) -> str:
        return f"{self.kind} -mtriple={self.triple} -mcpu={self.cpu}"
