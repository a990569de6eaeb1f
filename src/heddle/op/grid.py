# SPDX-License-Identifier: Apache-2.0
"""Sampling a tensor at the places that another tensor says."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from heddle import te
from heddle.ir import TensorType
from heddle.ir.expr import (
    Expr,
    all_of,
    as_int,
    cast,
    const,
    if_then_else,
    maximum,
    minimum,
    select,
)
from heddle.op.common import accumulator_dtype, cast_tensor, require_ndim, same_dim, show_shape
from heddle.op.registry import operator
from heddle.op.resample import TAPS, tap_weight
from heddle.op.sample import case, floats
from heddle.support import UserError
from heddle.tir import intrin

_CUBIC = -0.75
_FAR = 1e9
"""Places beyond are as good as this one: it keeps the arithmetic of indices from overflowing."""


@operator("grid_sample", kind="opaque", dtypes="float")
def grid_sample(
    x: TensorType,
    grid: TensorType,
    *,
    mode: Literal["nearest", "linear", "cubic"] = "linear",
    padding: Literal["zeros", "border", "reflection"] = "zeros",
    align_corners: bool = False,
) -> TensorType:
    """x[N, C, *spatial] at the places grid[N, *out, r]: [N, C, *out]. The r coordinates of a place
    run from -1 to 1, the last axis first; -1 and 1 are the centres of the outer elements when
    `align_corners`, else their outer edges. `padding` says what is outside of x."""
    require_ndim(x, "x", 3, 5)
    require_ndim(grid, "grid", x.ndim, x.ndim)
    if not same_dim(x.shape[0], grid.shape[0]) or as_int(grid.shape[-1]) != x.ndim - 2:
        raise UserError(
            f"a grid of shape {show_shape(grid.shape)} does not fit x of shape "
            f"{show_shape(x.shape)}"
        )
    return TensorType((*x.shape[:2], *grid.shape[1:-1]), x.dtype)


def _reflected(place: Expr, size: Expr, *, align_corners: bool) -> Expr:
    """A place folded back into the axis."""
    edge = const(0.0 if align_corners else 0.5, place.dtype)
    one, two = const(1.0, place.dtype), const(2.0, place.dtype)
    span = maximum(cast(size, place.dtype) - one + two * edge, one)
    distance = intrin.fmod(intrin.fabs(place + edge), two * span)
    return select(distance <= span, distance, two * span - distance) - edge


def _place(coordinate: Expr, size: Expr, attrs: dict[str, Any]) -> Expr:
    """Where a coordinate falls on an axis of `size`."""
    length = cast(size, coordinate.dtype)
    one, half = const(1.0, coordinate.dtype), const(0.5, coordinate.dtype)
    if attrs["align_corners"]:
        place = (coordinate + one) * half * (length - one)
    else:
        place = ((coordinate + one) * length - one) * half
    if attrs["mode"] == "nearest":
        place = intrin.round(place)
    if attrs["padding"] == "border":
        place = maximum(const(0.0, place.dtype), minimum(place, length - one))
    elif attrs["padding"] == "reflection":
        place = _reflected(place, size, align_corners=attrs["align_corners"])
    far = const(_FAR, place.dtype)
    return maximum(const(-_FAR, place.dtype), minimum(place, far))


@grid_sample.rule("compute")
def _(x: te.Tensor, grid: te.Tensor, **attrs: Any) -> te.Tensor:
    rank, mode = x.ndim - 2, attrs["mode"]
    dtype = accumulator_dtype(x.dtype)
    sizes = x.shape[2:]
    places = [
        te.compute(
            grid.shape[:-1],
            lambda *o, axis=axis: _place(
                cast(grid[(*o, const(rank - 1 - axis))], dtype), sizes[axis], attrs
            ),
            name=f"grid_sample_place_{axis}",
        )
        for axis in range(rank)
    ]
    taps = [te.reduce_axis(TAPS[mode], f"t{axis}") for axis in range(rank)]

    def body(n: Expr, c: Expr, *o: Expr) -> Expr:
        weight, index, inside = const(1.0, dtype), [], []
        for axis in range(rank):
            place = places[axis][(n, *o)]
            base = intrin.floor(place)
            weight = weight * tap_weight(mode, taps[axis].var, place - base, _CUBIC)
            at = cast(base, "int64") + taps[axis].var - (1 if mode == "cubic" else 0)
            if attrs["padding"] == "zeros":
                inside += [at >= 0, at < sizes[axis]]
            elif attrs["padding"] == "reflection":
                folded = _reflected(
                    cast(at, dtype), sizes[axis], align_corners=attrs["align_corners"]
                )
                at = cast(folded, "int64")
            index.append(maximum(const(0), minimum(at, sizes[axis] - 1)))
        value = if_then_else(all_of(*inside), x[(n, c, *index)], const(0, x.dtype))
        return te.sum(cast(value, dtype) * weight, axis=taps)

    shape = (*x.shape[:2], *grid.shape[1:-1])
    return cast_tensor(te.compute(shape, body, name="grid_sample"), x.dtype)


# -- reference -------------------------------------------------------------------------------


def _fold(value: float, low: float, high: float) -> float:
    """Reflected at the borders until it lies within them."""
    while high > low and not low <= value <= high:
        value = 2 * low - value if value < low else 2 * high - value
    return value if high > low else low


def _sample(image: np.ndarray, where: Sequence[float], attrs: dict[str, Any]) -> np.ndarray:
    """The channels of image[C, *spatial] at one place."""
    edge = 0.0 if attrs["align_corners"] else 0.5
    axes: list[list[tuple[int | None, float]]] = []
    for coordinate, size in zip(where, image.shape[1:], strict=True):
        low, high = -edge, size - 1 + edge
        place = low + (coordinate + 1) / 2 * (high - low)
        place = np.rint(place) if attrs["mode"] == "nearest" else place
        if attrs["padding"] == "border":
            place = min(max(place, 0), size - 1)
        elif attrs["padding"] == "reflection":
            place = _fold(place, low, high)
        reach = {"nearest": (0, 1), "linear": (0, 2), "cubic": (-1, 3)}[attrs["mode"]]
        taps: list[tuple[int | None, float]] = []
        for tap in range(int(np.floor(place)) + reach[0], int(np.floor(place)) + reach[1]):
            at: int | None = tap
            if attrs["padding"] == "reflection":
                at = int(_fold(tap, low, high))
            elif attrs["padding"] == "border":
                at = min(max(tap, 0), size - 1)
            elif not 0 <= tap < size:
                at = None
            taps.append((at, _weight(abs(tap - place), attrs["mode"])))
        axes.append(taps)
    total = np.zeros(image.shape[0])
    for combination in itertools.product(*axes):
        index = [at for at, _ in combination]
        if None not in index:
            weight = float(np.prod([w for _, w in combination]))
            total += weight * image[(slice(None), *index)]
    return total


def _weight(distance: float, mode: str) -> float:
    d, a = distance, _CUBIC
    if mode == "nearest":
        return 1.0
    if mode == "linear":
        return max(0.0, 1 - d)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


@grid_sample.rule("numpy")
def _(x: np.ndarray, grid: np.ndarray, **attrs: Any) -> np.ndarray:
    result = np.empty((*x.shape[:2], *grid.shape[1:-1]))
    for n in range(x.shape[0]):
        for position in np.ndindex(*grid.shape[1:-1]):
            where = [float(v) for v in grid[(n, *position)][::-1]]
            result[(n, slice(None), *position)] = _sample(x[n], where, attrs)
    return result


grid_sample.samples(
    *(
        case(
            floats(1, 2, 4, 3),
            floats(1, 3, 4, 2, low=-1.6, high=1.6),
            mode=mode,
            padding=padding,
            align_corners=align,
        )
        for mode in ("linear", "nearest", "cubic")
        for padding in ("zeros", "border", "reflection")
        for align in (False, True)
    ),
    case(floats(1, 1, 3, 3, 3), floats(1, 2, 2, 2, 3, low=-1.2, high=1.2)),
)
