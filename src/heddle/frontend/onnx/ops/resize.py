# SPDX-License-Identifier: Apache-2.0
"""Resize, in the coordinate and interpolation modes of ONNX.

Sizes, scales and the region may be known when compiling, be computed from shapes, or be known at
run time only. Scales and regions of the last kind are a tensor, the `frame` of the operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np

from heddle.frontend.onnx.node import Node, normal_axis, rank, shape
from heddle.frontend.onnx.sizes import bound_of, length_of, size_of
from heddle.frontend.onnx.values import Symbolic, of_dims
from heddle.graph import Constant, GraphExpr
from heddle.ir.expr import Expr, as_expr, as_int, const, floordiv, maximum
from heddle.support import UserError

_COORDINATES: Final = "coordinate_transformation_mode"
_PLAIN_SCALE: Final = 1 << 12
"""Scales that are fractions of such numbers are exact in float32 times any size that occurs."""


@dataclass(frozen=True, slots=True)
class _Target:
    """What the axes become. scales: numbers, or float64 scalars of the graph; None where the sizes
    decide."""

    axes: list[int]
    sizes: list[Any]
    scales: list[float] | list[GraphExpr] | None


def resize(node: Node) -> Any:
    """The operator of the library."""
    x = node.tensor(0)
    axes = [normal_axis(a, rank(x)) for a in node.attr.ints("axes", tuple(range(rank(x))))]
    target = _target(node, x, axes)
    box = _region(node, axes)
    dims = list(shape(x))
    for axis, size in zip(axes, target.sizes, strict=True):
        dims[axis] = size
    old = node.version < 11 or node.op_type == "Upsample"
    return node.op.resize(
        x,
        *_frame(node, x, target, box),
        shape=tuple(dims),
        scales=_numbers(target.scales, axes, [1.0] * rank(x)),
        mode=node.attr.string("mode", "nearest"),
        coordinates="asymmetric" if old else node.attr.string(_COORDINATES, "half_pixel"),
        rounding="floor" if old else node.attr.string("nearest_mode", "round_prefer_floor"),
        cubic_coefficient=node.attr.float("cubic_coeff_a", -0.75),
        exclude_outside=node.attr.flag("exclude_outside"),
        extrapolation=node.attr.float("extrapolation_value", 0.0),
        roi=_numbers(box, [*axes, *(axis + rank(x) for axis in axes)], _whole_box(x)),
        antialias=node.attr.flag("antialias"),
    )


def _whole_box(x: GraphExpr) -> list[float]:
    return [0.0] * rank(x) + [1.0] * rank(x)


def _numbers(
    values: Sequence[float] | Sequence[GraphExpr] | GraphExpr | None,
    places: Sequence[int],
    full: list[float],
) -> tuple[float, ...] | None:
    """Numbers that are known, for all axes; None for what is not known."""
    if not isinstance(values, list) or not all(isinstance(value, float) for value in values):
        return None
    for place, value in zip(places, values, strict=True):
        full[place] = value
    return tuple(full)


def _frame(
    node: Node, x: GraphExpr, target: _Target, box: list[float] | GraphExpr
) -> list[GraphExpr]:
    """What is known at run time only, as the tensor that the operator takes, if there is any."""
    scales = target.scales
    if isinstance(box, list) and (scales is None or isinstance(scales[0], float)):
        return []
    if scales is None:
        scales = [
            _ratio(node, size, shape(x)[axis])
            for axis, size in zip(target.axes, target.sizes, strict=True)
        ]
    rows: list[GraphExpr] = [Constant(np.asarray([1.0])) for _ in range(rank(x))]
    rows += [Constant(np.asarray([value])) for value in _whole_box(x)]
    for at, (axis, scale) in enumerate(zip(target.axes, scales, strict=True)):
        rows[axis] = _row(node, scale)
        for corner in range(2):
            place = at + corner * len(target.axes)
            value = box[place] if isinstance(box, list) else _element(node, box, place)
            rows[axis + (1 + corner) * rank(x)] = _row(node, value)
    return [node.reshape(node.op.concat(*rows, axis=0), (3, rank(x)))]


def _row(node: Node, value: float | GraphExpr) -> GraphExpr:
    if isinstance(value, float):
        return Constant(np.asarray([value]))
    return node.reshape(value, (1,))


def _element(node: Node, vector: GraphExpr, at: int) -> GraphExpr:
    """An element of a vector as a float64 scalar."""
    cut = node.op.slice(vector, starts=(at,), ends=(at + 1,), axes=(0,))
    return node.reshape(node.cast(cut, "float64"), ())


def _float(node: Node, size: Any) -> GraphExpr:
    """A dimension as a float64 scalar."""
    return node.reshape(node.cast(node.as_tensor(of_dims([size])), "float64"), ())


def _ratio(node: Node, new: Any, old: Any) -> GraphExpr:
    """new / old, 1 where there is nothing."""
    below = node.op.maximum(_float(node, old), Constant(np.asarray(1.0)))
    return node.op.div(_float(node, new), below)  # type: ignore[no-any-return]


# -- sizes and scales ------------------------------------------------------------------------


def _target(node: Node, x: GraphExpr, axes: list[int]) -> _Target:
    have = [shape(x)[axis] for axis in axes]
    first = 1 if node.version < 11 or node.op_type == "Upsample" else 2
    if node.version < 9 and node.op_type == "Upsample":
        return _of_scales(axes, have, list(node.attr.floats("scales")), node)
    if node.has(first):
        given = node.value(first)
        count = length_of(node, given, "scales")
        if count and count != len(axes):
            raise UserError(f"`scales` has {count} elements for {len(axes)} axes")
        if count and isinstance(given, Constant):
            return _of_scales(axes, have, [float(item) for item in given.data.ravel()], node)
        if count:
            return _of_computed_scales(node, axes, have)
    count = length_of(node, node.value(3), "sizes")
    if count != len(axes):
        raise UserError(f"`sizes` has {count} elements for {len(axes)} axes")
    policy = node.attr.string("keep_aspect_ratio_policy", "stretch")
    if policy not in ("stretch", "not_larger", "not_smaller"):
        raise UserError(
            f"attribute `keep_aspect_ratio_policy` is `{policy}`, expected stretch, not_larger or "
            "not_smaller"
        )
    wanted = [size_of(node, node.value(3), at, "sizes") for at in range(count)]
    return _of_sizes(node, axes, have, wanted, policy)


def _of_scales(axes: list[int], have: list[Any], scales: list[float], node: Node) -> _Target:
    if len(scales) != len(axes):
        raise UserError(f"`scales` has {len(scales)} elements for {len(axes)} axes")
    if not all(0 < scale < 2**31 for scale in scales):
        raise UserError(f"`scales` is {scales}, expected positive numbers")
    sizes = [_scaled(node, size, scale) for size, scale in zip(have, scales, strict=True)]
    return _Target(axes, sizes, scales)


def _scaled(node: Node, size: Any, scale: float) -> Any:
    """floor(size * scale): of a symbolic dimension in integers where the scale is a simple
    fraction, else computed at run time."""
    if isinstance(size, int):
        return int(size * scale)
    over, under = Fraction(scale).as_integer_ratio()
    if under == 1:
        return size * over
    if max(over, under) <= _PLAIN_SCALE:
        return floordiv(size * over, const(under))
    room = size * const(int(np.ceil(scale)))
    return _floor_of_product(node, size, Constant(np.asarray(scale)), room)


def _floor_of_product(node: Node, size: Any, scale: GraphExpr, room: Expr) -> Any:
    product = node.op.floor(node.op.mul(_float(node, size), scale))
    return _plain(node.bind_dim(node.cast(product, "int64"), room))


def _plain(size: Expr) -> Any:
    known = as_int(size)
    return size if known is None else known


def _of_computed_scales(node: Node, axes: list[int], have: list[Any]) -> _Target:
    first = 1 if node.version < 11 or node.op_type == "Upsample" else 2
    vector = node.tensor(first)
    scales = [_element(node, vector, at) for at in range(len(axes))]
    sizes = []
    for at, (size, scale) in enumerate(zip(have, scales, strict=True)):
        room = as_expr(size) * bound_of(node, vector, at, "scales")
        sizes.append(_floor_of_product(node, size, scale, room))
    return _Target(axes, sizes, scales)


def _of_sizes(
    node: Node, axes: list[int], have: list[Any], wanted: list[Any], policy: str
) -> _Target:
    """Stretched to the sizes, or by one scale for all so that none is larger (smaller)."""
    if not all(isinstance(item, int) for item in have + wanted):
        if policy == "stretch":
            return _Target(axes, wanted, None)
        return _in_proportion(node, axes, have, wanted, larger=policy == "not_smaller")
    scales = [w / h if h else 1.0 for w, h in zip(wanted, have, strict=True)]
    if policy != "stretch":
        common = min(scales) if policy == "not_larger" else max(scales)
        scales = [common] * len(axes)
        wanted = [int(np.floor(common * h + 0.5)) for h in have]
    return _Target(axes, wanted, scales)


def _in_proportion(
    node: Node, axes: list[int], have: list[Any], wanted: list[Any], *, larger: bool
) -> _Target:
    ratios = [_ratio(node, new, old) for new, old in zip(wanted, have, strict=True)]
    common = ratios[0]
    for ratio in ratios[1:]:
        common = (node.op.maximum if larger else node.op.minimum)(common, ratio)
    rooms = [
        _room(node, at, wanted[at]) for at in range(len(axes))
    ]  # of what is not larger; else in the proportion of any axis
    sizes = []
    for at, size in enumerate(have):
        room = rooms[at]
        if larger:
            for other, most in zip(have, rooms, strict=True):
                along = floordiv(most * as_expr(size), maximum(as_expr(other), const(1))) + 1
                room = maximum(room, along)
        half = Constant(np.asarray(0.5))
        product = node.op.mul(_float(node, size), common)
        rounded = node.op.floor(node.op.add(product, half))
        sizes.append(_plain(node.bind_dim(node.cast(rounded, "int64"), room)))
    return _Target(axes, sizes, [common] * len(axes))


def _room(node: Node, at: int, size: Any) -> Expr:
    """The most that a size can be."""
    value = node.value(3)
    if isinstance(value, (Constant, Symbolic)):
        return as_expr(size)
    return bound_of(node, value, at, "sizes")


def _region(node: Node, axes: list[int]) -> list[float] | GraphExpr:
    """The part of the input to resize, for tf_crop_and_resize, as fractions: starts, then ends."""
    crop = node.attr.string(_COORDINATES, "half_pixel") == "tf_crop_and_resize"
    if not crop or not node.has(1):
        return [0.0] * len(axes) + [1.0] * len(axes)
    count = length_of(node, node.value(1), "roi")
    if count != 2 * len(axes):
        raise UserError(f"`roi` has {count} elements for {len(axes)} axes")
    if isinstance(node.value(1), Constant):
        return [float(item) for item in node.constant(1, "roi").ravel()]
    return node.tensor(1)
