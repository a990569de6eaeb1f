# SPDX-License-Identifier: Apache-2.0
"""What a compilation did and what it cost: filled in as it goes, told to whoever listens."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Listener = Callable[[str, float | None], None]
"""Called with the name of a stage, and the share of it that is done (None: it just began)."""


@dataclass(frozen=True, slots=True)
class KernelCost:
    """What one kernel cost: seconds of lowering and of LLVM, and the size of its object."""

    name: str
    lowering_seconds: float
    llvm_seconds: float
    object_bytes: int

    @property
    def seconds(self) -> float:
        """Of both parts, which run in different processes."""
        return self.lowering_seconds + self.llvm_seconds


@dataclass(slots=True)
class CompileReport:
    """seconds: of each stage, in order. passes: seconds of each pass of the stage "graph".
    kernels: how many were compiled, and how many of these came from the cache. kernel_costs: of
    those that were compiled now. arena_bytes against live_bytes: the memory plan and the least
    possible. from_cache: whether the whole model was compiled before; then the rest is empty.

    >>> report = CompileReport()
    >>> exe = heddle.compile("resnet50.onnx", report=report)     # doctest: +SKIP
    >>> print(report.table())                                    # doctest: +SKIP
    """

    seconds: dict[str, float] = field(default_factory=dict)
    passes: dict[str, float] = field(default_factory=dict)
    kernel_costs: list[KernelCost] = field(default_factory=list)
    kernels: int = 0
    cached_kernels: int = 0
    arena_bytes: int = 0
    live_bytes: int = 0
    constant_bytes: int = 0
    from_cache: bool = False
    listener: Listener | None = None

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage and tells the listener that it began."""
        self.tell(name, None)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def table(self, *, kernels: int = 20) -> str:
        """What took how long, as lines of text: stages, passes, and the costliest `kernels`; then
        the memory that the model works in."""
        if self.from_cache:
            return (
                f"found in the cache of models in {1e3 * self.total:.0f} ms: nothing was compiled"
            )
        lines = [f"{'stage':<34}{'ms':>9}"]
        for stage, seconds in self.seconds.items():
            lines.append(f"{stage:<34}{1e3 * seconds:9.1f}")
            if stage == "graph":
                lines += [f"  {name:<32}{1e3 * took:9.1f}" for name, took in self.passes.items()]
        lines.append(f"{'total':<34}{1e3 * self.total:9.1f}")
        costs = sorted(self.kernel_costs, key=lambda cost: -cost.seconds)
        lines += ["", f"{'kernel':<34}{'lower ms':>9}{'LLVM ms':>9}{'KiB':>7}"]
        for cost in costs[:kernels]:
            lines.append(
                f"{cost.name:<34}{1e3 * cost.lowering_seconds:9.1f}"
                f"{1e3 * cost.llvm_seconds:9.1f}{cost.object_bytes / 1024:7.1f}"
            )
        rest = costs[kernels:]
        if rest:
            lowering = sum(cost.lowering_seconds for cost in rest)
            llvm = sum(cost.llvm_seconds for cost in rest)
            lines.append(f"{f'{len(rest)} others':<34}{1e3 * lowering:9.1f}{1e3 * llvm:9.1f}")
        lines.append(f"{self.kernels} kernels, {self.cached_kernels} of them compiled before")
        lines += ["", f"arena      {self.arena_bytes / 2**20:9.2f} MiB"]
        lines.append(f"alive      {self.live_bytes / 2**20:9.2f} MiB at the fullest moment")
        lines.append(f"constants  {self.constant_bytes / 2**20:9.2f} MiB")
        return "\n".join(lines)

    def tell(self, name: str, share: float | None) -> None:
        """Report progress within a stage."""
        if self.listener is not None:
            self.listener(name, share)
