# SPDX-License-Identifier: Apache-2.0
"""Resize, in the coordinate and interpolation modes of ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np

from heddle.frontend.onnx.node import Node, dtype, normal_axis, rank, shape
from heddle.frontend.onnx.report import Unsupported
from heddle.graph import GraphExpr
from heddle.support import UserError

_COORDINATES = "coordinate_transformation_mode"


def resize(node: Node) -> Any:
    """The operator of the library; with antialiasing, a product with weights known at import."""
    x = node.tensor(0)
    axes, sizes, scales = _target(node, x)
    box = _region(node, x, axes)
    if node.attr.flag("antialias"):
        return _antialiased(node, x, axes, sizes, scales, box)
    dims, factors, roi = list(shape(x)), [1.0] * rank(x), [0.0] * rank(x) + [1.0] * rank(x)
    for axis, size, scale, (start, stop) in zip(axes, sizes, scales, box, strict=True):
        dims[axis], factors[axis] = size, scale
        roi[axis], roi[axis + rank(x)] = start, stop
    known = None if any(factor is None for factor in factors) else tuple(factors)
    old = node.version < 11 or node.op_type == "Upsample"
    return node.op.resize(
        x,
        shape=tuple(dims),
        scales=known,
        mode=node.attr.string("mode", "nearest"),
        coordinates="asymmetric" if old else node.attr.string(_COORDINATES, "half_pixel"),
        rounding="floor" if old else node.attr.string("nearest_mode", "round_prefer_floor"),
        cubic_coefficient=node.attr.float("cubic_coeff_a", -0.75),
        exclude_outside=node.attr.flag("exclude_outside"),
        extrapolation=node.attr.float("extrapolation_value", 0.0),
        roi=tuple(roi),
    )


def _antialiased(
    node: Node,
    x: GraphExpr,
    axes: list[int],
    sizes: list[Any],
    scales: list[Any],
    box: list[tuple[float, float]],
) -> Any:
    mode = node.attr.string("mode", "nearest")
    if mode not in ("linear", "cubic"):
        raise UserError(f"antialias with mode `{mode}`, expected linear or cubic")
    result = x
    for axis, size, scale, (start, stop) in zip(axes, sizes, scales, box, strict=True):
        have = node.static_dim(x, axis, "X")
        if size == have and scale == 1.0:
            continue
        places = coordinates(node, have, size, scale, start, stop)
        weights = _weights(node, places, have, scale, mode)
        kind = dtype(result)
        wide = result if kind.is_float and kind.bits > 16 else node.cast(result, "float32")
        product = _product(node, wide, axis, weights.astype(dtype(wide).numpy))
        result = node.cast(node.op.round(product) if kind.is_int else product, kind)
    return node.op.identity(x) if result is x else result


def _target(node: Node, x: GraphExpr) -> tuple[list[int], list[Any], list[Any]]:
    """The axes, their new sizes, and the scales (None where a symbolic size decides)."""
    axes = [normal_axis(a, rank(x)) for a in node.attr.ints("axes", tuple(range(rank(x))))]
    have = [shape(x)[axis] for axis in axes]
    first = 1 if node.version < 11 or node.op_type == "Upsample" else 2
    if node.version < 9 and node.op_type == "Upsample":
        given = np.asarray(node.attr.floats("scales"))
    else:
        given = node.constant(first, "scales") if node.has(first) else np.zeros(0)
    if given.size:
        if given.size != len(axes):
            raise UserError(f"`scales` has {given.size} elements for {len(axes)} axes")
        scales = [float(item) for item in given.ravel()]
        if not all(0 < scale < 2**31 for scale in scales):
            raise UserError(f"`scales` is {scales}, expected positive numbers")
        return axes, [_scaled(h, s) for h, s in zip(have, scales, strict=True)], scales
    wanted = list(node.dims(3, "sizes"))
    if len(wanted) != len(axes):
        raise UserError(f"`sizes` has {len(wanted)} elements for {len(axes)} axes")
    if not all(isinstance(item, int) for item in have + wanted):
        return axes, wanted, [None] * len(axes)
    policy = node.attr.string("keep_aspect_ratio_policy", "stretch")
    scales = [w / h if h else 1.0 for w, h in zip(wanted, have, strict=True)]
    if policy != "stretch":
        common = min(scales) if policy == "not_larger" else max(scales)
        scales = [common] * len(axes)
        wanted = [int(np.floor(common * h + 0.5)) for h in have]
    return axes, wanted, scales


def _scaled(size: Any, scale: float) -> Any:
    if isinstance(size, int):
        return int(size * scale)
    if not scale.is_integer():
        raise Unsupported(f"a symbolic dimension scaled by {scale}")
    return size * int(scale)


def _region(node: Node, x: GraphExpr, axes: list[int]) -> list[tuple[float, float]]:
    """The part of the input to resize, for tf_crop_and_resize, as fractions."""
    crop = node.attr.string(_COORDINATES, "half_pixel") == "tf_crop_and_resize"
    if not crop or not node.has(1):
        return [(0.0, 1.0)] * len(axes)
    roi = [float(item) for item in node.constant(1, "roi").ravel()]
    if len(roi) != 2 * len(axes):
        raise UserError(f"`roi` has {len(roi)} elements for {len(axes)} axes")
    return [(roi[at], roi[at + len(axes)]) for at in range(len(axes))]


def coordinates(
    node: Node, have: int, want: int, scale: float, start: float, stop: float
) -> np.ndarray:
    """Where each output element lies in the input."""
    mode = node.attr.string(_COORDINATES, "half_pixel")
    if node.version < 11 or node.op_type == "Upsample":
        mode = "asymmetric"
    x = np.arange(want, dtype=np.float64)
    if mode == "half_pixel":
        return (x + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        adjustment = want / (scale * have)
        center = have / 2
        return center * (1 - adjustment) + (x + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return (x + 0.5) / scale - 0.5 if want > 1 else np.zeros(want)
    if mode == "align_corners":
        return x * (have - 1) / (want - 1) if want > 1 else np.zeros(want)
    if mode == "asymmetric":
        return x / scale
    if mode == "tf_crop_and_resize":
        if want > 1:
            return start * (have - 1) + x * (stop - start) * (have - 1) / (want - 1)
        return np.full(want, 0.5 * (start + stop) * (have - 1))
    raise UserError(f"attribute `coordinate_transformation_mode` is `{mode}`")


def _product(node: Node, x: GraphExpr, axis: int, weights: np.ndarray) -> GraphExpr:
    """x with `axis` multiplied by weights[want, have]."""
    if dtype(x).bits == 16:
        x = node.cast(x, "float32")
    if axis == rank(x) - 1:
        return node.op.matmul(x, np.ascontiguousarray(weights.T))  # type: ignore[no-any-return]
    if axis == rank(x) - 2:
        return node.op.matmul(weights, x)  # type: ignore[no-any-return]
    order = list(range(rank(x)))
    order[axis], order[-1] = order[-1], order[axis]
    moved = node.op.transpose(x, permutation=tuple(order))
    product = node.op.matmul(moved, np.ascontiguousarray(weights.T))
    return node.op.transpose(product, permutation=tuple(order))  # type: ignore[no-any-return]


def _weights(node: Node, places: np.ndarray, have: int, scale: float, mode: str) -> np.ndarray:
    """The matrix [want, have] that interpolates; with antialias, the kernel is widened."""
    stretch = min(scale, 1.0) if node.attr.flag("antialias") else 1.0
    reach = (1 if mode == "linear" else 2) / stretch
    sharpness = node.attr.float("cubic_coeff_a", -0.75)
    exclude = node.attr.flag("exclude_outside")
    count = 2 * int(np.ceil(reach)) + 1
    matrix = np.zeros((len(places), have))
    for row, place in enumerate(places):
        taps = np.floor(place) + np.arange(1 - int(np.ceil(reach)) - 1, count)
        distance = np.abs(taps - place) * stretch
        if mode == "linear":
            weights = np.maximum(0.0, 1.0 - distance)
        else:
            weights = _cubic(distance, sharpness)
        inside = (taps >= 0) & (taps <= have - 1)
        if exclude:
            weights = np.where(inside, weights, 0.0)
        total = weights.sum()
        if (exclude or stretch != 1.0) and total != 0:
            weights = weights / total
        np.add.at(matrix[row], np.clip(taps, 0, have - 1).astype(int), weights)
    return matrix


def _cubic(t: np.ndarray, a: float) -> np.ndarray:
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))
