# SPDX-License-Identifier: Apache-2.0
"""Resampling of any axes: nearest, linear and cubic interpolation, one axis after the other.

Per axis, small tables say which places an output position reads and with what weight; the
resampling itself is then a sum of a few products.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import DType, TensorType
from heddle.ir.expr import (
    Expr,
    as_int,
    cast,
    const,
    logical_and,
    logical_or,
    maximum,
    minimum,
    select,
)
from heddle.op.adjoint import mix, static_shape
from heddle.op.attribute import Dims, Floats, Ints
from heddle.op.common import accumulator_dtype, as_dims, cast_tensor, require_shape, same_dim
from heddle.op.registry import operator, ops
from heddle.op.sample import case, floats, ints, values
from heddle.support import UserError
from heddle.tir import intrin

TAPS = {"nearest": 1, "linear": 2, "cubic": 4}


@operator("resize", kind="opaque", dtypes={"x": "number", "frame": "float"})
def resize(
    x: TensorType,
    frame: TensorType | None = None,
    *,
    shape: Dims,
    scales: Floats | None = None,
    mode: Literal["nearest", "linear", "cubic"] = "nearest",
    coordinates: Literal[
        "half_pixel",
        "half_pixel_symmetric",
        "pytorch_half_pixel",
        "align_corners",
        "asymmetric",
        "tf_crop_and_resize",
    ] = "half_pixel",
    rounding: Literal[
        "round_prefer_floor", "round_prefer_ceil", "floor", "ceil"
    ] = "round_prefer_floor",
    cubic_coefficient: float = -0.75,
    exclude_outside: bool = False,
    extrapolation: float = 0.0,
    roi: Floats | None = None,
    antialias: bool = False,
) -> TensorType:
    """x resampled to `shape`. `scales`, one number per axis, is what positions are scaled by
    (default: the ratio of the sizes); the other attributes are those of ONNX Resize
    (`coordinates`: coordinate_transformation_mode, `rounding`: nearest_mode), for all axes.

    frame: (3, x.ndim) of float64, the scales, the starts and the ends of the region of interest
    where they are known at run time only; they go before the attributes. The size of an axis is
    about that of x times its scale, from which the reach of antialiasing follows."""
    if len(shape) != x.ndim or (scales is not None and len(scales) != x.ndim):
        raise UserError(f"attributes `shape` and `scales` need one entry for each of {x.ndim} axes")
    if roi is not None and len(roi) != 2 * x.ndim:
        raise UserError(f"attribute `roi` needs {2 * x.ndim} numbers, got {len(roi)}")
    if roi is None and frame is None and coordinates == "tf_crop_and_resize":
        raise UserError("coordinates tf_crop_and_resize need the attribute `roi`")
    if frame is not None:
        require_shape(frame, "frame", [const(3), const(x.ndim)])
        if frame.dtype.bits != 64:
            raise UserError(f"`frame` is {frame.dtype}, expected float64")
    if antialias and mode == "nearest":
        raise UserError("antialias with mode `nearest`, expected linear or cubic")
    return TensorType(as_dims(shape), x.dtype)


def _double(value: float | Expr) -> Expr:
    return const(value, "float64") if isinstance(value, (int, float)) else cast(value, "float64")


def _coordinate(at: Expr, old: Expr, new: Expr, scale: Expr, attrs: dict[str, Any]) -> Expr:
    """The place in an axis of size `old` that position `at` of `new` falls on (float64)."""
    i, length, target = _double(at), _double(old), _double(new)
    half, one, zero = _double(0.5), _double(1.0), _double(0.0)
    centred = (i + half) / scale - half
    match attrs["coordinates"]:
        case "half_pixel":
            return centred
        case "pytorch_half_pixel":
            return select(target > one, centred, zero)
        case "half_pixel_symmetric":
            adjusted = target / (scale * length)
            return length * half * (one - adjusted) + centred
        case "align_corners":
            last = maximum(target - one, one)
            return select(target > one, i * (length - one) / last, zero)
        case "asymmetric":
            return i / scale
    start, end = _double(attrs["start"]), _double(attrs["end"])
    last = maximum(target - one, one)
    moved = start * (length - one) + i * (end - start) * (length - one) / last
    return select(target > one, moved, half * (start + end) * (length - one))


def _rounded(place: Expr, rounding: str) -> Expr:
    half = _double(0.5)
    match rounding:
        case "round_prefer_floor":
            return intrin.ceil(place - half)
        case "round_prefer_ceil":
            return intrin.floor(place + half)
        case "floor":
            return intrin.floor(place)
    return intrin.ceil(place)


def tap_weight(mode: str, tap: Expr, ratio: Expr, a: float) -> Expr:
    """Weight of tap 0, 1 (linear) or 0..3 (cubic, tap 1 being the floor) at `ratio` past it, in
    the dtype of `ratio`; `a` is the coefficient of the cubic."""
    if mode == "nearest":
        return const(1.0, ratio.dtype)
    if mode == "linear":
        return select(tap < 1, const(1.0, ratio.dtype) - ratio, ratio)
    return _cubic(intrin.fabs(cast(tap - 1, ratio.dtype) - ratio), a)


def _cubic(d: Expr, a: float) -> Expr:
    """The weight of a tap at distance d, in the dtype of d."""

    def number(value: float) -> Expr:
        return const(value, d.dtype)

    near = (number(a + 2) * d - number(a + 3)) * d * d + number(1.0)
    far = (((d - number(5.0)) * d + number(8.0)) * d - number(4.0)) * number(a)
    return select(d <= number(1.0), near, select(d < number(2.0), far, number(0.0)))


def _stretched(mode: str, distance: Expr, a: float) -> Expr:
    if mode == "cubic":
        return _cubic(distance, a)
    return maximum(_double(0.0), _double(1.0) - distance)


def _reach(old: Expr, new: Expr, scale: float | None, mode: str) -> Expr:
    """How many places to either side antialiasing reads: those within the radius of the kernel
    over the scale, if that is less than 1. A scale that is not known is at least that of half an
    element less than `new`."""
    radius = TAPS[mode] // 2
    if scale is not None:
        return const(math.ceil(radius / min(scale, 1.0)))
    return maximum(const(radius), radius * 2 * old // maximum(new * 2 - 1, const(1)) + 1)


def _tables(
    old: Expr, new: Expr, scale: Expr, attrs: dict[str, Any], axis: int, dtype: Any
) -> tuple[te.Tensor, te.Tensor]:
    """[new, taps]: the places to read, and their weights."""
    mode = attrs["mode"]
    smooth = attrs["antialias"]
    reach = _reach(old, new, attrs["known_scale"], mode) if smooth else const(0)
    taps = reach * 2 + 1 if smooth else const(TAPS[mode])
    place = te.compute(
        (new,), lambda i: _coordinate(i, old, new, scale, attrs), name=f"resize_place_{axis}"
    )

    def first(i: Expr) -> Expr:
        if mode == "nearest":
            return _rounded(place[i], attrs["rounding"])
        return intrin.floor(place[i]) - (1.0 if mode == "cubic" and not smooth else 0.0)

    def raw(i: Expr, t: Expr) -> Expr:
        return cast(first(i), "int64") - reach + t

    def outside(i: Expr, t: Expr) -> Expr:
        return logical_or(raw(i, t) < 0, raw(i, t) >= old)

    index = te.compute(
        (new, taps),
        lambda i, t: maximum(const(0), minimum(raw(i, t), old - 1)),
        name=f"resize_index_{axis}",
    )

    def weight(i: Expr, t: Expr) -> Expr:
        if smooth:
            distance = intrin.fabs(cast(raw(i, t), "float64") - place[i])
            stretch = minimum(scale, _double(1.0))
            value = _stretched(mode, distance * stretch, attrs["cubic_coefficient"])
        else:
            ratio = place[i] - intrin.floor(place[i])
            value = tap_weight(mode, t, ratio, attrs["cubic_coefficient"])
        if attrs["exclude_outside"] and mode != "nearest":
            value = select(outside(i, t), _double(0.0), value)
        return value

    weights = te.compute((new, taps), weight, name=f"resize_raw_weight_{axis}")
    loop = te.reduce_axis(taps, "t")
    total = te.compute(
        (new,), lambda i: te.sum(weights[i, loop], axis=[loop]), name=f"resize_total_{axis}"
    )
    normal = te.compute(
        (new, taps),
        lambda i, t: cast(weights[i, t] / total[i], dtype),
        name=f"resize_weight_{axis}",
    )
    return index, normal


@resize.rule("compute")
def _(
    x: te.Tensor,
    frame: te.Tensor | None,
    *,
    shape: Dims,
    scales: Floats | None,
    roi: Floats | None,
    **attrs: Any,
) -> te.Tensor:
    dtype = accumulator_dtype(x.dtype) if x.dtype.is_float else x.dtype
    if not x.dtype.is_float and attrs["mode"] != "nearest":
        dtype = TensorType.of((), "float32").dtype
    current = cast_tensor(x, dtype)
    crop = attrs["coordinates"] == "tf_crop_and_resize"
    valid: list[tuple[int, te.Tensor]] = []
    for axis, (old, new) in enumerate(zip(x.shape, as_dims(shape), strict=True)):
        known = None if scales is None or frame is not None else scales[axis]
        if frame is not None:
            scale, start, end = (frame[const(row), const(axis)] for row in range(3))
            same = same_dim(old, new) and not crop
        else:
            box = (0.0, 1.0) if roi is None else (roi[axis], roi[axis + x.ndim])
            same = same_dim(old, new) and known in (None, 1.0) and box == (0.0, 1.0)
            scale = _double(new) / _double(old) if known is None else _double(known)
            start, end = map(_double, box)
        if same:
            continue
        sizes = as_int(old), as_int(new)
        if known is None and frame is None and sizes[0] and sizes[1]:
            known = sizes[1] / sizes[0]
        local = {**attrs, "start": start, "end": end, "known_scale": known}
        index, weight = _tables(old, new, scale, local, axis, dtype)
        current = _resample(current, index, weight, axis, new, attrs["mode"])
        if crop:
            valid.append((axis, _inside(old, new, scale, local, axis)))
    if valid:
        fill = const(attrs["extrapolation"], current.dtype)
        current = _extrapolate(current, valid, fill)
    if current is x:
        return te.compute(x.shape, lambda *i: x[i], name="resize")
    if attrs["antialias"] and x.dtype.is_int:
        current = _whole(current, x.dtype)
    return cast_tensor(current, x.dtype)


def _whole(x: te.Tensor, dtype: DType) -> te.Tensor:
    """Rounded to what integers of the dtype can be."""
    low, high = (const(float(v), x.dtype) for v in (dtype.min_value, dtype.max_value))
    return te.compute(
        x.shape, lambda *i: maximum(low, minimum(intrin.round(x[i]), high)), name="resize_whole"
    )


def _resample(
    x: te.Tensor, index: te.Tensor, weight: te.Tensor, axis: int, new: Expr, mode: str
) -> te.Tensor:
    target = (*x.shape[:axis], new, *x.shape[axis + 1 :])
    if mode == "nearest":
        return te.compute(
            target, lambda *i: x[(*i[:axis], index[i[axis], 0], *i[axis + 1 :])], name="resize"
        )
    loop = te.reduce_axis(index.shape[1], "t")

    def body(*i: Expr) -> Expr:
        at = index[i[axis], loop]
        return te.sum(x[(*i[:axis], at, *i[axis + 1 :])] * weight[i[axis], loop], axis=[loop])

    return te.compute(target, body, name="resize")


def _inside(old: Expr, new: Expr, scale: Expr, attrs: dict[str, Any], axis: int) -> te.Tensor:
    def body(i: Expr) -> Expr:
        place = _coordinate(i, old, new, scale, attrs)
        return cast(logical_and(place >= 0.0, place <= _double(old) - 1.0), "int8")

    return te.compute((new,), body, name=f"resize_inside_{axis}")


def _extrapolate(x: te.Tensor, valid: list[tuple[int, te.Tensor]], fill: Expr) -> te.Tensor:
    def body(*i: Expr) -> Expr:
        kept: Expr = const(1, "int8")
        for axis, inside in valid:
            kept = kept * inside[i[axis]]
        return select(kept > 0, x[i], fill)

    return te.compute(x.shape, body, name="resize_extrapolate")


# -- reference -------------------------------------------------------------------------------


def _places(old: int, new: int, scale: float, attrs: dict[str, Any]) -> np.ndarray:
    i = np.arange(new, dtype=np.float64)
    match attrs["coordinates"]:
        case "half_pixel":
            return (i + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (i + 0.5) / scale - 0.5 if new > 1 else np.zeros(1)
        case "half_pixel_symmetric":
            return old / 2 * (1 - new / (scale * old)) + (i + 0.5) / scale - 0.5
        case "align_corners":
            return i * (old - 1) / (new - 1) if new > 1 else np.zeros(new)
        case "asymmetric":
            return i / scale
    start, end = attrs["start"], attrs["end"]
    if new == 1:
        return np.full(1, (start + end) * (old - 1) / 2)
    return start * (old - 1) + i * (end - start) * (old - 1) / (new - 1)  # type: ignore[no-any-return]


def _matrix(old: int, places: np.ndarray, scale: float, attrs: dict[str, Any]) -> np.ndarray:
    """[new, old]: the weights of one axis, dense."""
    matrix = np.zeros((len(places), old))
    stretch = min(scale, 1.0) if attrs["antialias"] else 1.0
    reach = math.ceil(TAPS[attrs["mode"]] / 2 / stretch)
    for row, place in enumerate(places):
        whole = int(np.floor(place))
        if attrs["mode"] == "nearest":
            rounded = {
                "round_prefer_floor": np.ceil(place - 0.5),
                "round_prefer_ceil": np.floor(place + 0.5),
                "floor": np.floor(place),
                "ceil": np.ceil(place),
            }[attrs["rounding"]]
            matrix[row, min(max(int(rounded), 0), old - 1)] = 1
            continue
        for tap in range(whole - reach, whole + reach + 1):
            if attrs["exclude_outside"] and not 0 <= tap < old:
                continue
            weight = _kernel(abs(tap - place) * stretch, attrs)
            matrix[row, min(max(tap, 0), old - 1)] += weight
        matrix[row] /= matrix[row].sum()
    return matrix


def _kernel(distance: float, attrs: dict[str, Any]) -> float:
    if attrs["mode"] == "linear":
        return max(0.0, 1 - distance)
    a, d = attrs["cubic_coefficient"], distance
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1  # type: ignore[no-any-return]
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def _axes(
    old_shape: Ints, new_shape: Ints, scales: Floats | None, roi: Floats | None, attrs: Any
) -> Iterator[tuple[int, float, np.ndarray]]:
    """Each axis that is resampled, its scale, and the places that its new positions fall on."""
    rank = len(old_shape)
    roi = roi or (0.0,) * rank + (1.0,) * rank
    for axis, (old, new) in enumerate(zip(old_shape, new_shape, strict=True)):
        scale = new / old if scales is None else scales[axis]
        start, end = roi[axis], roi[axis + rank]
        if (old, scale) != (new, 1.0) or (start, end) != (0.0, 1.0):
            yield axis, scale, _places(old, new, scale, {**attrs, "start": start, "end": end})


@resize.rule("numpy")
def _(
    x: np.ndarray,
    frame: np.ndarray | None,
    *,
    shape: Ints,
    scales: Floats | None,
    roi: Floats | None,
    **attrs: Any,
) -> np.ndarray:
    if frame is not None:
        scales, roi = tuple(map(float, frame[0])), tuple(map(float, frame[1:].ravel()))
    result, kept = x.astype(np.float64), np.ones(shape, dtype=bool)
    for axis, scale, places in _axes(x.shape, shape, scales, roi, attrs):
        matrix = _matrix(x.shape[axis], places, scale, attrs)
        result = np.moveaxis(np.tensordot(matrix, result, axes=(1, axis)), 0, axis)
        inside = (places >= 0) & (places <= x.shape[axis] - 1)
        kept &= inside.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    if attrs["coordinates"] == "tf_crop_and_resize":
        result = np.where(kept, result, attrs["extrapolation"])
    if attrs["antialias"] and x.dtype.kind in "iu":
        limits = np.iinfo(x.dtype)
        result = np.clip(np.rint(result), limits.min, limits.max)
    return result


@resize.rule("grad")
def _(
    x: GraphExpr,
    frame: GraphExpr | None,
    *,
    dout: GraphExpr,
    out: GraphExpr,
    shape: Dims,
    scales: Floats | None,
    roi: Floats | None,
    **attrs: Any,
) -> tuple[GraphExpr | None, ...]:
    """Resampling mixes the elements of one axis after the other: the transposed mixtures."""
    if frame is not None:
        raise UserError("resize has no gradient where its scales are known at run time only")
    old, new = static_shape(x, "resize"), static_shape(out, "resize")
    axes = list(_axes(old, new, scales, roi, attrs))
    if attrs["coordinates"] == "tf_crop_and_resize":
        for axis, _scale, places in axes:
            inside = (places >= 0) & (places <= old[axis] - 1)
            line = inside.reshape([-1 if at == axis else 1 for at in range(len(old))])
            dout = ops.where(line, dout, 0.0)
    for axis, scale, places in axes:
        dout = mix(dout, _matrix(old[axis], places, scale, attrs), axis)
    return dout, None


def _grow(**attrs: Any) -> Any:
    return case(floats(1, 2, 3, 4), shape=(1, 2, 7, 5), **attrs)


resize.samples(
    _grow(),
    _grow(mode="nearest", coordinates="asymmetric", rounding="floor"),
    _grow(mode="nearest", rounding="round_prefer_ceil"),
    _grow(mode="nearest", coordinates="align_corners", rounding="ceil"),
    _grow(mode="linear"),
    _grow(mode="linear", coordinates="align_corners"),
    _grow(mode="linear", coordinates="half_pixel_symmetric", scales=(1.0, 1.0, 2.5, 1.3)),
    _grow(mode="linear", coordinates="pytorch_half_pixel"),
    _grow(mode="cubic"),
    _grow(mode="cubic", cubic_coefficient=-0.5, exclude_outside=True, coordinates="asymmetric"),
    _grow(
        mode="linear",
        coordinates="tf_crop_and_resize",
        roi=(0.0, 0.0, 0.4, 0.6, 1.0, 1.0, 1.2, 1.7),
        extrapolation=10.0,
    ),
    *(
        case(
            ints(1, 2, 3, 4),  # of integers there is no gradient, of this form neither
            values([[1.0, 1.0, 2.4, 1.3], [0, 0, 0.4, 0.6], [1, 1, 1.2, 1.7]], dtype="float64"),
            shape=(1, 2, 7, 5),
            coordinates=coordinates,
        )
        for coordinates in ("asymmetric", "tf_crop_and_resize")
    ),
    _grow(mode="linear", antialias=True, scales=(1.0, 1.0, 2.4, 1.3)),
    case(floats(1, 1, 5, 6), shape=(1, 1, 2, 3), mode="linear"),
    case(floats(1, 1, 9, 11), shape=(1, 1, 3, 4), mode="linear", antialias=True),
    case(
        floats(2, 17, dtype="float16"),
        shape=(2, 5),
        mode="cubic",
        antialias=True,
        exclude_outside=True,
    ),
    case(ints(1, 9, 11, dtype="uint8"), shape=(1, 3, 4), mode="cubic", antialias=True),
    case(ints(1, 1, 2, 2, dtype="uint8"), shape=(1, 1, 4, 4)),
    case(floats(2, 3), shape=(2, 3)),
)
