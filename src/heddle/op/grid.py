# SPDX-License-Identifier: Apache-2.0
"""Sampling a tensor at the places that another tensor says."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
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
from heddle.op.adjoint import cast_like, full_like, reshape_like, static_shape, widened
from heddle.op.common import accumulator_dtype, cast_tensor, require_ndim, same_dim, show_shape
from heddle.op.index import full_tuples
from heddle.op.registry import operator, ops
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


# -- gradient --------------------------------------------------------------------------------


def _fold_back(place: GraphExpr, size: int, *, align_corners: bool) -> tuple[GraphExpr, GraphExpr]:
    """`_reflected` in operators, and its slope."""
    edge = 0.0 if align_corners else 0.5
    span = max(size - 1 + 2 * edge, 1.0)
    distance = ops.fmod(ops.abs(place + edge), 2 * span)
    ahead = ops.less_equal(distance, span)
    folded = ops.where(ahead, distance, 2 * span - distance) - edge
    slope = ops.sign(place + edge)
    return folded, ops.where(ahead, slope, -slope)


def _place_and_slope(
    coordinate: GraphExpr, size: int, attrs: dict[str, Any]
) -> tuple[GraphExpr, GraphExpr]:
    """`_place` in operators, and how it changes with the coordinate."""
    step = (size - 1) / 2 if attrs["align_corners"] else size / 2
    place = (coordinate + 1.0) * step - (0.0 if attrs["align_corners"] else 0.5)
    slope: GraphExpr = full_like(coordinate, step)
    if attrs["mode"] == "nearest":
        place, slope = ops.round(place), full_like(coordinate, 0.0)
    if attrs["padding"] == "border":
        within = ops.logical_and(ops.greater(place, 0.0), ops.less(place, size - 1.0))
        place, slope = ops.clip(place, min=0.0, max=size - 1.0), ops.where(within, slope, 0.0)
    elif attrs["padding"] == "reflection":
        place, turned = _fold_back(place, size, align_corners=attrs["align_corners"])
        slope = slope * turned
    return ops.clip(place, min=-_FAR, max=_FAR), slope


def _weights_and_slopes(mode: str, r: GraphExpr) -> list[tuple[GraphExpr, GraphExpr]]:
    """Of each tap at ratio r past the floor: its weight, and how that changes with r."""
    one = full_like(r, 1.0)
    if mode == "nearest":
        return [(one, full_like(r, 0.0))]
    if mode == "linear":
        return [(1.0 - r, -one), (r, one)]
    a = _CUBIC

    def near(d: GraphExpr) -> GraphExpr:
        return (d * (a + 2) - (a + 3)) * d * d + 1.0

    def far(d: GraphExpr) -> GraphExpr:
        return (((d - 5.0) * d + 8.0) * d - 4.0) * a

    def near_slope(d: GraphExpr) -> GraphExpr:
        return (d * (3 * (a + 2)) - 2 * (a + 3)) * d

    def far_slope(d: GraphExpr) -> GraphExpr:
        return ((d * 3.0 - 10.0) * d + 8.0) * a

    return [
        (far(r + 1.0), far_slope(r + 1.0)),
        (near(r), near_slope(r)),
        (near(1.0 - r), -near_slope(1.0 - r)),
        (far(2.0 - r), -far_slope(2.0 - r)),
    ]


def _taps_of(
    place: GraphExpr, size: int, attrs: dict[str, Any]
) -> list[tuple[GraphExpr, GraphExpr, GraphExpr]]:
    """Of each tap along an axis: index, weight and slope; both are 0 where it reads a zero."""
    mode, base = attrs["mode"], ops.floor(place)
    found: list[tuple[GraphExpr, GraphExpr, GraphExpr]] = []
    for tap, (weight, slope) in enumerate(_weights_and_slopes(mode, place - base)):
        at = base + float(tap - (1 if mode == "cubic" else 0))
        if attrs["padding"] == "zeros":
            inside = ops.logical_and(ops.greater_equal(at, 0.0), ops.less(at, float(size)))
            weight, slope = ops.where(inside, weight, 0.0), ops.where(inside, slope, 0.0)
        elif attrs["padding"] == "reflection":
            at, _ = _fold_back(at, size, align_corners=attrs["align_corners"])
        index = ops.cast(ops.clip(at, min=0.0, max=size - 1.0), dtype="int64")
        found.append((index, weight, slope))
    return found


def _product(factors: Sequence[GraphExpr]) -> GraphExpr:
    return functools.reduce(lambda a, b: a * b, factors)


@grid_sample.rule("grad")
def _(
    x: GraphExpr, grid: GraphExpr, *, dout: GraphExpr, out: GraphExpr, **attrs: Any
) -> tuple[GraphExpr, ...]:
    """Each combination of taps adds dout to where it read x; the sum over channels of what it read
    times dout says how its weight matters, and so its place."""
    batch, channels, *sizes = static_shape(x, "grid_sample")
    rank = len(sizes)
    coordinates = ops.reshape(widened(grid), shape=(batch, -1, rank))
    lines, slopes = [], []
    for axis, size in enumerate(sizes):
        column = ops.slice(coordinates, starts=(rank - 1 - axis,), ends=(rank - axis,), axes=(2,))
        place, slope = _place_and_slope(ops.squeeze(column, axes=(2,)), size, attrs)
        lines.append(_taps_of(place, size, attrs))
        slopes.append(slope)
    rows = _pixels(widened(x), (batch, channels))
    d = _pixels(widened(dout), (batch, channels))
    d_rows: GraphExpr = full_like(rows, 0.0)
    d_places: list[GraphExpr | None] = [None] * rank
    for taps in itertools.product(*lines):
        at = functools.reduce(
            lambda flat, step: flat * step[1] + step[0],
            [(tap[0], size) for tap, size in zip(taps, sizes, strict=True)][1:],
            taps[0][0],
        )
        where = full_tuples(ops.unsqueeze(at, axes=(2,)), rows, 1)
        weights = [tap[1] for tap in taps]
        added = d * ops.unsqueeze(_product(weights), axes=(2,))
        d_rows = ops.scatter_nd(d_rows, where, added, reduction="add")
        matter = ops.sum(ops.gather_nd(rows, where) * d, axes=(2,))
        for axis in range(rank):
            part = matter * _product([*weights[:axis], taps[axis][2], *weights[axis + 1 :]])
            before = d_places[axis]
            d_places[axis] = part if before is None else before + part
    d_x = reshape_like(ops.transpose(d_rows, permutation=(0, 2, 1)), x)
    columns = [d * s for d, s in zip(d_places, slopes, strict=True) if d is not None]
    d_grid = ops.concat(*(ops.unsqueeze(c, axes=(2,)) for c in reversed(columns)), axis=2)
    return cast_like(d_x, x), cast_like(reshape_like(d_grid, grid), grid)


def _pixels(x: GraphExpr, lead: tuple[int, int]) -> GraphExpr:
    """x[N, C, ...] as [N, pixels, C]."""
    return ops.transpose(ops.reshape(x, shape=(*lead, -1)), permutation=(0, 2, 1))


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
