# SPDX-License-Identifier: Apache-2.0
"""Windows of a tensor as axes of their own, and back: either operator is the other's gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import TensorType
from heddle.ir.expr import EQ, Expr, all_of, as_int, cast, compare, const, if_then_else
from heddle.op.adjoint import dims_of
from heddle.op.attribute import Dims, Ints
from heddle.op.common import (
    accumulator_dtype,
    as_dims,
    cast_tensor,
    plain_dims,
    require_ndim,
    require_shape,
    show_shape,
)
from heddle.op.pooling import canonical_pool, make_window
from heddle.op.registry import operator, ops
from heddle.op.sample import case, floats
from heddle.op.window import pad_tensor, window_shape, windows
from heddle.support import UserError


@operator("unfold", kind="injective", dtypes="float")
def unfold(
    x: TensorType,
    *,
    kernel: Ints,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    ceil_mode: bool = False,
    value: float = 0.0,
) -> TensorType:
    """All windows of x[N, C, *spatial]: [N, C, *positions, *kernel], windows as poolings have them.
    Beyond the input is `value`."""
    window = make_window(
        {"kernel": kernel, "strides": strides, "pads": pads, "dilations": dilations}
        | {"ceil_mode": ceil_mode}
    )
    taps = tuple(const(size) for size in kernel)
    return TensorType((*x.shape[:2], *window.output(x.shape[2:]), *taps), x.dtype)


@unfold.rule("normalise")
def _(x: TensorType, **attrs: Any) -> dict[str, Any]:
    require_ndim(x, "x", 3, 5)
    return canonical_pool(x.ndim - 2, attrs)


@unfold.rule("compute")
def _(x: te.Tensor, *, value: float, **attrs: Any) -> te.Tensor:
    window, rank = make_window(attrs), x.ndim - 2
    spatial = x.shape[2:]
    padded = pad_tensor(x, window.overhang(spatial), const(value, x.dtype), first=2)

    def body(n: Expr, c: Expr, *i: Expr) -> Expr:
        at = [
            i[axis] * window.strides[axis] + i[rank + axis] * window.dilations[axis]
            for axis in range(rank)
        ]
        return padded[(n, c, *at)]

    taps = [const(size) for size in attrs["kernel"]]
    return te.compute((*x.shape[:2], *window.output(spatial), *taps), body, name="unfold")


@unfold.rule("numpy")
def _(x: np.ndarray, *, value: float, **attrs: Any) -> np.ndarray:
    window = make_window(attrs)
    positions = window_shape(x.shape, window)
    kernel = attrs["kernel"]
    return windows(x, kernel, window.strides, window.pads, window.dilations, positions, value)


@unfold.rule("grad")
def _(
    x: GraphExpr, *, dout: GraphExpr, out: GraphExpr, kernel: Ints, value: float, **attrs: Any
) -> GraphExpr:
    return ops.fold(dout, shape=plain_dims(dims_of(x)[2:]), **attrs)


@operator("fold", kind="reduction", dtypes="float")
def fold(
    x: TensorType,
    *,
    shape: Dims,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    ceil_mode: bool = False,
) -> TensorType:
    """The sum of windows x[N, C, *positions, *kernel], each at its place: [N, C, *shape]. What
    reaches beyond is dropped."""
    rank = len(shape)
    sizes = as_dims(shape)
    window = make_window(
        {"kernel": _kernel(x, rank), "strides": strides, "pads": pads, "dilations": dilations}
        | {"ceil_mode": ceil_mode}
    )
    require_shape(x, "x", (*x.shape[:2], *window.output(sizes), *x.shape[2 + rank :]))
    return TensorType((*x.shape[:2], *sizes), x.dtype)


def _kernel(x: Any, rank: int) -> Ints:
    sizes = [as_int(dim) for dim in x.shape[2 + rank :]]
    if x.ndim != 2 + 2 * rank or None in sizes:
        raise UserError(
            f"argument `x` has shape {show_shape(x.shape)}, expected two axes, {rank} of positions "
            f"and {rank} of a known kernel"
        )
    return tuple(size for size in sizes if size is not None)


@fold.rule("normalise")
def _(x: TensorType, *, shape: Dims, **attrs: Any) -> dict[str, Any]:
    attrs["kernel"] = _kernel(x, len(shape))
    return canonical_pool(len(shape), attrs)


@fold.rule("compute")
def _(x: te.Tensor, *, shape: Dims, **attrs: Any) -> te.Tensor:
    """Each element sums over the taps by which a window may have read it: without dilation those
    congruent to its place modulo the stride, else all."""
    rank, dtype = len(shape), accumulator_dtype(x.dtype)
    kernel = _kernel(x, rank)
    window = make_window({"kernel": kernel, **attrs})
    steps = [
        stride if dilation == 1 else 1
        for stride, dilation in zip(window.strides, window.dilations, strict=True)
    ]
    loops = [
        te.reduce_axis(-(-size // step), f"k{axis}")
        for axis, (size, step) in enumerate(zip(kernel, steps, strict=True))
    ]

    def body(n: Expr, c: Expr, *i: Expr) -> Expr:
        legal, at, taps = [], [], []
        for axis, step in enumerate(steps):
            place, stride = i[axis] + window.pads[axis][0], window.strides[axis]
            tap: Expr = loops[axis].var
            if step > 1:
                tap = place % step + tap * step
                position = place // step - loops[axis].var
                legal += [tap < kernel[axis]] if kernel[axis] % step else []
            else:
                start = place - tap * window.dilations[axis]
                position = start // stride
                legal += [compare(EQ, start % stride, 0)] if stride > 1 else []
            legal += [position >= 0, position < x.shape[2 + axis]]
            at.append(position)
            taps.append(tap)
        value = if_then_else(all_of(*legal), x[(n, c, *at, *taps)], const(0, x.dtype))
        return te.sum(cast(value, dtype), axis=loops)

    return cast_tensor(te.compute((*x.shape[:2], *as_dims(shape)), body, name="fold"), x.dtype)


@fold.rule("numpy")
def _(x: np.ndarray, *, shape: Ints, **attrs: Any) -> np.ndarray:
    rank = len(shape)
    window = make_window({"kernel": _kernel(x, rank), **attrs})
    result = np.zeros((*x.shape[:2], *shape), x.dtype)
    for place in np.ndindex(*x.shape[2:]):
        at = tuple(
            place[axis] * window.strides[axis]
            + place[rank + axis] * window.dilations[axis]
            - window.pads[axis][0]
            for axis in range(rank)
        )
        if all(0 <= k < size for k, size in zip(at, shape, strict=True)):
            result[(slice(None), slice(None), *at)] += x[(slice(None), slice(None), *place)]
    return result


@fold.rule("grad")
def _(x: GraphExpr, *, dout: GraphExpr, out: GraphExpr, shape: Dims, **attrs: Any) -> GraphExpr:
    kernel = plain_dims(dims_of(x)[2 + len(shape) :])
    return ops.unfold(dout, kernel=kernel, **attrs)


unfold.samples(
    case(floats(1, 2, 5, 6), kernel=(3, 2), strides=(2, 1), pads=(1, 0, 1, 1), value=-1.5),
    case(floats(1, 2, 7), kernel=(3,), dilations=(2,)),
    case(floats(1, 1, 5, 6), kernel=(2, 2), strides=(2, 2), ceil_mode=True),
    case(floats(1, 1, 2, 3, 2), kernel=(2, 2, 1)),
)
fold.samples(
    case(floats(1, 2, 3, 6, 3, 2), shape=(5, 6), strides=(2, 1), pads=(1, 0, 1, 1)),
    case(floats(1, 2, 3, 3), shape=(7,), dilations=(2,)),
    case(floats(1, 1, 3, 3, 2, 2), shape=(5, 6), strides=(2, 2), ceil_mode=True),
    case(floats(1, 1, 4, 3, dtype="float16"), shape=(6,)),
)
