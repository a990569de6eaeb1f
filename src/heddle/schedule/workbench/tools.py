# SPDX-License-Identifier: Apache-2.0
"""The tools of a schedule that compile and run it, found when they are first used.

They need the code generator, which stands above this package, so nothing here may import them:
each is registered by name, and the module that registers them is found by its name.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from heddle.support import UserError
from heddle.target import Target

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule

ToolT = TypeVar("ToolT", bound=Callable[..., Any])

_PROVIDER: Final = "heddle.driver.workbench"
_TOOLS: Final[dict[str, Callable[..., Any]]] = {}


def tool(function: ToolT) -> ToolT:
    """Make `function(sch, ...)` what `Schedule` offers under its name."""
    _TOOLS[function.__name__] = function
    return function


def find_tool(name: str) -> Callable[..., Any]:
    """The tool `name`. Raises `UserError` where Heddle is installed without its compiler."""
    if name not in _TOOLS:
        try:
            importlib.import_module(_PROVIDER)
        except ImportError as error:
            raise UserError(f"{name}: the compiler is not installed: {error}") from error
    return _TOOLS[name]


def check(
    sch: Schedule,
    inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    reference: str = "auto",
    tolerance: float | None = None,
    libs: Sequence[str | os.PathLike[str]] = (),
) -> Any:
    """Compare the scheduled function, compiled, with the function that the schedule began with.

    inputs: arrays for the parameters in order, or by name; what is missing is drawn at random from
    `seed`, with `sizes` for symbolic dimensions by name. reference: how the original runs,
    "interpreted", "compiled" (with no schedule) or "auto": interpreted when that is quick.
    tolerance: the largest difference, as a share of the largest value; by default what the dtype
    and the length of its sums allow. libs: where the C functions are that it calls, as in
    `heddle.build`.

    Returns a `CheckResult`. Raises `ScheduleError` when values differ, and says where most.

    >>> sch.check()                                      # doctest: +SKIP
    check: C within 1.1e-06 of the largest value (16384 elements, interpreted)
    """
    options: dict[str, Any] = {"seed": seed, "sizes": sizes, "libs": libs}
    return find_tool("check")(sch, inputs, reference=reference, tolerance=tolerance, **options)


def bench(
    sch: Schedule,
    *,
    rounds: int = 20,
    inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    libs: Sequence[str | os.PathLike[str]] = (),
) -> Any:
    """Time the scheduled function on this machine: the median of `rounds` rounds.

    inputs, seed, sizes, libs: as in `check`. Returns a `BenchResult` (milliseconds, GFLOP/s, share
    of the peak of the cores it may use).

    >>> sch.bench()                                      # doctest: +SKIP
    0.024 ms, 175 GFLOP/s, 32% of the peak of 543 (20 rounds)
    """
    options: dict[str, Any] = {"seed": seed, "sizes": sizes, "libs": libs}
    return find_tool("bench")(sch, rounds=rounds, inputs=inputs, **options)


def asm(sch: Schedule, block: Any = None, *, target: Target | None = None) -> Any:
    """The assembly, its hot loop marked: the innermost loop with most multiply-adds and vectors.

    block: show the code of this block alone, with the blocks that share its private buffers.
    Returns an `Assembly`; printed, the hot loop has a `>` in the margin.

    >>> print(sch.asm())                                 # doctest: +SKIP
    """
    return find_tool("asm")(sch, block, target=target)


def report(
    sch: Schedule,
    path: str | os.PathLike[str],
    *,
    target: Target | None = None,
    sizes: Mapping[str, int] | None = None,
    measure: bool = True,
) -> None:
    """Write one HTML page of the kernel, that needs no other file: each stage from the script to
    the assembly, and the roofline. measure: whether to time the kernel and the machine.

    >>> sch.report("kernel.html")                        # doctest: +SKIP
    """
    find_tool("report")(sch, path, target=target, sizes=sizes, measure=measure)
