# SPDX-License-Identifier: Apache-2.0
"""`sch.check()`: a schedule may change everything but the values."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from heddle.codegen import build_kernel
from heddle.driver.build import Library, build
from heddle.driver.workbench.arguments import aligned_copy, arguments_of
from heddle.ir import IRModule
from heddle.ir.expr import as_int
from heddle.schedule.errors import ScheduleError
from heddle.schedule.schedule import Schedule
from heddle.schedule.state import blocks_below
from heddle.schedule.workbench import tool
from heddle.support import UserError
from heddle.tir import interp
from heddle.tir.build import written_buffers
from heddle.tir.nodes import Buffer, IterKind, PrimFunc

_REFERENCES: Final = ("auto", "interpreted", "compiled")
_QUICK: Final = 200_000
"""Runs of blocks that the interpreter does in about a second."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """errors: by output, the largest difference as a share of the largest value. tolerance: what
    is allowed. elements: how many were compared. reference: "interpreted" or "compiled"."""

    errors: dict[str, float]
    tolerance: dict[str, float]
    elements: int
    reference: str

    def __str__(self) -> str:
        parts = [f"{name} within {error:.2g}" for name, error in self.errors.items()]
        return (
            f"check: {', '.join(parts)} of the largest value "
            f"({self.elements} elements, {self.reference})"
        )


@tool
def check(
    sch: Schedule,
    inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    reference: str = "auto",
    tolerance: float | None = None,
    libs: Sequence[Library] = (),
) -> CheckResult:
    """See `Schedule.check`."""
    if reference not in _REFERENCES:
        raise UserError(f"check: `reference` must be one of {_REFERENCES}, got {reference!r}")
    arguments = arguments_of(sch.original, inputs, seed=seed, sizes=sizes)
    if reference == "auto":
        steps = _steps(sch.original, arguments)
        reference = "interpreted" if steps <= _QUICK else "compiled"
    expected = [_copy(value) for value in arguments]
    externs = build(IRModule({"original": sch.original}), libs=libs).library if libs else None
    if reference == "compiled":
        prepared(sch.original, expected, libs)()
    else:
        interp.run(sch.original, *expected, externs=externs)
    prepared(sch.func, arguments, libs)()
    return _compare(sch, expected, arguments, reference, tolerance)


def prepared(
    func: PrimFunc, arguments: Sequence[Any], libs: Sequence[Library]
) -> Callable[[], object]:
    """The call of the compiled function with these arguments."""
    if libs:
        return functools.partial(build(func, libs=libs), *arguments)
    call: Callable[[], object] = build_kernel(func).prepare(*arguments)
    return call


def _copy(value: Any) -> Any:
    return aligned_copy(value) if isinstance(value, np.ndarray) else value


def _steps(func: PrimFunc, arguments: Sequence[Any]) -> int:
    """About how often blocks run; a symbolic size counts as the longest dimension there is."""
    arrays = [value for value in arguments if isinstance(value, np.ndarray)]
    longest = max((max(array.shape, default=1) for array in arrays), default=1)
    return sum(
        math.prod(as_int(axis.extent) or longest for axis in block.iters)
        for block in blocks_below(func.body)
    )


def _compare(
    sch: Schedule,
    expected: Sequence[Any],
    got: Sequence[Any],
    reference: str,
    tolerance: float | None,
) -> CheckResult:
    written = written_buffers(sch.original)
    errors: dict[str, float] = {}
    allowed: dict[str, float] = {}
    elements = 0
    depth = _depth(sch.original)
    for param, want, have in zip(sch.original.params, expected, got, strict=True):
        if not isinstance(param, Buffer) or param not in written:
            continue
        name = param.name
        elements += want.size
        allowed[name] = _tolerance(param, depth) if tolerance is None else tolerance
        errors[name], where = largest_difference(want, have)
        if not errors[name] <= allowed[name]:
            place = ", ".join(map(str, where))
            raise ScheduleError(
                f"check: the schedule changed the values of `{name}`: at [{place}] it is "
                f"{have[where]}, the unscheduled function gives {want[where]}; the difference is "
                f"{errors[name]:.3g} of the largest value, {allowed[name]:.3g} is allowed",
                func=sch.func,
            )
    return CheckResult(errors, allowed, elements, reference)


def largest_difference(want: np.ndarray, have: np.ndarray) -> tuple[float, tuple[int, ...]]:
    """The largest difference of two arrays as a share of the largest value, and where it is.

    Where both are NaN, or the same infinity, they agree; where only one is, they differ by inf.
    """
    if want.size == 0:
        return 0.0, ()
    a, b = (np.asarray(value).astype(np.float64) for value in (want, have))
    finite = np.isfinite(a) & np.isfinite(b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.where(same, 0.0, np.where(finite, np.abs(a - b), np.inf))
    scale = float(np.max(np.abs(a[np.isfinite(a)]), initial=0.0)) or 1.0
    where = tuple(int(n) for n in np.unravel_index(np.argmax(difference), difference.shape))
    return float(difference[where]) / scale, where


def _depth(func: PrimFunc) -> int:
    """The length of the longest sum; what is symbolic counts as 1024."""
    return max(
        math.prod(
            as_int(axis.extent) or 1024 for axis in block.iters if axis.kind is IterKind.REDUCTION
        )
        for block in blocks_below(func.body)
    )


def _tolerance(param: Buffer, depth: int) -> float:
    """Rounding of a sum grows with the root of its length; integers are exact."""
    if not param.dtype.is_float:
        return 0.0
    bits = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}.get(param.dtype.name, 2)
    return float(8 * math.sqrt(depth) * 2.0**-bits)
