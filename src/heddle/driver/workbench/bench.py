# SPDX-License-Identifier: Apache-2.0
"""`sch.bench()`: how fast a scheduled function runs, beside what the machine can do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from heddle.driver.build import Library
from heddle.driver.workbench.arguments import arguments_of
from heddle.driver.workbench.values import prepared
from heddle.ir.expr import Var
from heddle.runtime.peak import peak_gflops
from heddle.schedule.schedule import Schedule
from heddle.schedule.workbench import explain, tool
from heddle.support import UserError
from heddle.target import native
from heddle.tir.nodes import Buffer

_ROUND_SECONDS: Final = 0.005
_LEAST_CALLS: Final = 3


@dataclass(frozen=True, slots=True)
class BenchResult:
    """milliseconds: the median of the rounds, each the median of its calls. spread: between the
    fastest and the slowest round, as a share of the median. gflops, peak_gflops, share: None where
    the operations or the peak are not known."""

    milliseconds: float
    spread: float
    rounds: int
    calls: int
    gflops: float | None
    peak_gflops: float | None

    @property
    def share(self) -> float | None:
        """Share of the peak."""
        if self.gflops is None or self.peak_gflops is None:
            return None
        return self.gflops / self.peak_gflops

    def __str__(self) -> str:
        parts = [f"{self.milliseconds:.3g} ms"]
        if self.gflops:
            parts.append(f"{self.gflops:.3g} GFLOP/s")
        if self.gflops and self.share is not None:
            parts.append(f"{self.share:.0%} of the peak of {self.peak_gflops:.0f}")
        return f"{', '.join(parts)} ({self.rounds} rounds, spread {self.spread:.0%})"


@tool
def bench(
    sch: Schedule,
    *,
    rounds: int = 20,
    inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    libs: Sequence[Library] = (),
) -> BenchResult:
    """See `Schedule.bench`."""
    if rounds < 1:
        raise UserError(f"bench: rounds must be at least 1, got {rounds}")
    arguments = arguments_of(sch.func, inputs, seed=seed, sizes=sizes)
    run = prepared(sch.func, arguments, libs)
    run()
    medians, calls = [], 0
    for _ in range(rounds):
        times: list[float] = []
        run()  # wakes threads that sleep
        end = time.perf_counter() + _ROUND_SECONDS
        while len(times) < _LEAST_CALLS or time.perf_counter() < end:
            begin = time.perf_counter()
            run()
            times.append(time.perf_counter() - begin)
        medians.append(statistics.median(times))
        calls += len(times)
    median = statistics.median(medians)
    found = explain(sch, sizes=_sizes(sch, arguments), measure=False)
    return BenchResult(
        milliseconds=1e3 * median,
        spread=(max(medians) - min(medians)) / median,
        rounds=rounds,
        calls=calls,
        gflops=None if found.flops is None else found.flops / median / 1e9,
        peak_gflops=_peak(found.cores),
    )


def _sizes(sch: Schedule, arguments: Sequence[Any]) -> dict[str, int]:
    """The symbolic dimensions as the arguments have them."""
    return {
        dim.name: size
        for param, value in zip(sch.func.params, arguments, strict=True)
        if isinstance(param, Buffer)
        for dim, size in zip(param.shape, value.shape, strict=True)
        if isinstance(dim, Var)
    }


def _peak(cores: int) -> float | None:
    try:
        return peak_gflops(min(cores, native().cores))
    except UserError:  # no compiler: the time still holds
        return None
