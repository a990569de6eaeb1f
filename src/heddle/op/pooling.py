# SPDX-License-Identifier: Apache-2.0
"""Pooling over sliding windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import TensorType
from heddle.ir.expr import Expr, cast, const, maximum, minimum
from heddle.op.adjoint import dims_of, dtype_of, mask, ndim_of
from heddle.op.attribute import Ints
from heddle.op.common import accumulator_dtype, cast_tensor, plain_dims, require_ndim, wide
from heddle.op.registry import Op, operator, ops
from heddle.op.sample import Sample, case, floats, ints
from heddle.op.window import Window, canonical_window, pad_tensor, window_shape, windows
from heddle.support import UserError
from heddle.te import identity_element
from heddle.tir import intrin


def make_window(attrs: dict[str, Any]) -> Window:
    """The window of a pooling's attributes."""
    kernel = [const(size) for size in attrs["kernel"]]
    return Window.of(
        kernel,
        attrs["strides"],
        attrs["pads"],
        attrs["dilations"],
        ceil_mode=attrs["ceil_mode"],
    )


def canonical_pool(rank: int, attrs: dict[str, Any]) -> dict[str, Any]:
    """Defaults spelled out; `UserError` when the kernel does not fit the rank."""
    if len(attrs["kernel"]) != rank or min(attrs["kernel"]) < 1:
        raise UserError(
            f"attribute `kernel` is {attrs['kernel']}, expected {rank} positive integers"
        )
    return canonical_window(rank, attrs["strides"], attrs["pads"], attrs["dilations"])


def window_reduce(
    x: te.Tensor,
    window: Window,
    combine: Callable[[Expr, Sequence[te.ReduceAxis]], Expr],
    transform: Callable[[Expr], Expr],
    fill: Expr,
    name: str,
) -> te.Tensor:
    """`combine` of `transform` over each window of x[N, C, *spatial, *rest], padded by `fill`."""
    rank = len(window.kernel)
    spatial = x.shape[2 : 2 + rank]
    padded = pad_tensor(x, window.overhang(spatial), fill, first=2)
    taps = [te.reduce_axis(size, f"k{axis}") for axis, size in enumerate(window.kernel)]

    def body(n: Expr, c: Expr, *i: Expr) -> Expr:
        at = [window.at(axis, i[axis], taps[axis]) for axis in range(rank)]
        return combine(transform(padded[(n, c, *at, *i[rank:])]), taps)

    shape = (*x.shape[:2], *window.output(spatial), *x.shape[2 + rank :])
    return te.compute(shape, body, name=name)


def infer_pool(x: TensorType, attrs: dict[str, Any]) -> TensorType:
    """The type of a pooling of x[N, C, *spatial, *rest]."""
    window = make_window(attrs)
    rank = len(window.kernel)
    spatial = window.output(x.shape[2 : 2 + rank])
    return TensorType((*x.shape[:2], *spatial, *x.shape[2 + rank :]), x.dtype)


def average(
    x: te.Tensor, attrs: dict[str, Any], *, count_include_pad: bool, name: str
) -> te.Tensor:
    """Sums over windows, divided by the number of elements counted."""
    window = make_window(attrs)
    rank = len(window.kernel)
    zero = const(0, accumulator_dtype(x.dtype))
    total = window_reduce(x, window, te.sum, wide, cast(zero, x.dtype), f"{name}_sum")

    def count(axis: int, position: Expr) -> Expr:
        size, step = x.shape[2 + axis], window.dilations[axis]
        before, after = window.pads[axis]
        reaches_out = before or after or window.ceil_mode
        if not reaches_out or (count_include_pad and not window.ceil_mode):
            return window.kernel[axis]
        low, high = (-before, size + after) if count_include_pad else (0, size)
        start = position * window.strides[axis] - before
        first = maximum(const(0), (low - start + (step - 1)) // step)
        last = minimum(window.kernel[axis], (high - start + (step - 1)) // step)
        return last - first

    def body(*i: Expr) -> Expr:
        counted: Expr = const(1)
        for axis in range(rank):
            counted = counted * count(axis, i[2 + axis])
        return cast(total[i] / cast(counted, total.dtype), x.dtype)

    return te.compute(total.shape, body, name=name)


def _reference_windows(x: np.ndarray, attrs: dict[str, Any], fill: float) -> np.ndarray:
    window = make_window(attrs)
    positions = window_shape(x.shape, window)
    return windows(
        x, attrs["kernel"], window.strides, window.pads, window.dilations, positions, fill
    )


def _taps(x: np.ndarray) -> tuple[int, ...]:
    return tuple(range(2 + (x.ndim - 2), 2 + 2 * (x.ndim - 2)))


def _lowest(x: np.ndarray) -> float:
    return -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min


def reference_average(
    x: np.ndarray, attrs: dict[str, Any], *, count_include_pad: bool
) -> np.ndarray:
    """Average pooling by gathering windows of the data and of what counts."""
    found = _reference_windows(x, attrs, 0)
    ones = np.ones((1, 1, *x.shape[2:]), x.dtype)
    if count_include_pad:
        rank = x.ndim - 2
        pads = attrs["pads"]
        pairs = [(pads[axis], pads[axis + rank]) for axis in range(rank)]
        ones = np.pad(ones, [(0, 0), (0, 0), *pairs], constant_values=1)
        plain = {**attrs, "pads": (0,) * (2 * rank), "ceil_mode": False}
        window = make_window(plain)
        positions = window_shape(x.shape, make_window(attrs))
        counts = windows(
            ones, attrs["kernel"], window.strides, window.pads, window.dilations, positions, 0
        )
    else:
        counts = _reference_windows(ones, attrs, 0)
    axes = _taps(x)
    return found.sum(axis=axes) / counts.sum(axis=axes)  # type: ignore[no-any-return]


def reference_max(x: np.ndarray, attrs: dict[str, Any]) -> np.ndarray:
    """Max pooling by gathering windows."""
    return _reference_windows(x, attrs, _lowest(x)).max(axis=_taps(x))  # type: ignore[no-any-return]


_SAMPLES = (
    case(floats(1, 2, 6, 6), kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
    case(floats(1, 2, 5, 6), kernel=(2, 3), strides=(2, 2), pads=(0, 1, 1, 0), ceil_mode=True),
    case(floats(1, 2, 7), kernel=(3,), dilations=(2,)),
    case(floats(1, 1, 4, 4, 4), kernel=(2, 2, 2), strides=(2, 2, 2)),
    case(floats(1, 2, 4, 4, dtype="float16"), kernel=(2, 2)),
)


@operator("max_pool", kind="reduction", dtypes="number")
def max_pool(
    x: TensorType,
    *,
    kernel: Ints,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    ceil_mode: bool = False,
) -> TensorType:
    """The largest element of each window of x[N, C, *spatial]; padding never wins. `ceil_mode`
    rounds the number of windows up."""
    return infer_pool(x, {k: v for k, v in locals().items() if k != "x"})


@max_pool.rule("compute")
def _(x: te.Tensor, **attrs: Any) -> te.Tensor:
    lowest = identity_element("max", x.dtype)
    return window_reduce(x, make_window(attrs), te.max, lambda v: v, lowest, "max_pool")


@max_pool.rule("numpy")
def _(x: np.ndarray, **attrs: Any) -> np.ndarray:
    return reference_max(x, attrs)


@max_pool.rule("grad")
def _(x: GraphExpr, *, dout: GraphExpr, out: GraphExpr, **attrs: Any) -> GraphExpr:
    """Elements that tie for the largest of a window share its gradient equally."""
    found = ops.unfold(x, value=-math.inf, **attrs)
    largest = mask(ops.equal(found, _over_taps(out, attrs)), x)
    taps = tuple(range(ndim_of(x), ndim_of(found)))
    ties = ops.sum(largest, axes=taps)
    return _folded(largest * _over_taps(dout / ties, attrs), x, attrs)


def _over_taps(value: GraphExpr, attrs: dict[str, Any]) -> GraphExpr:
    """A value for each window, with axes of size 1 for its taps."""
    rank = ndim_of(value)
    return ops.unsqueeze(value, axes=tuple(range(rank, rank + len(attrs["kernel"]))))


def _folded(windows: GraphExpr, x: GraphExpr, attrs: dict[str, Any]) -> GraphExpr:
    """The sum, at each element of x, of what the windows that read it have there."""
    shape = (*dims_of(windows)[: ndim_of(x)], *(const(size) for size in attrs["kernel"]))
    whole = ops.broadcast_to(windows, shape=plain_dims(shape))
    rest = {name: item for name, item in attrs.items() if name != "kernel"}
    return ops.fold(whole, shape=plain_dims(dims_of(x)[2:]), **rest)


max_pool.samples(*_SAMPLES, case(ints(1, 1, 4, 4, dtype="int8", low=-9), kernel=(2, 2)))


@operator("avg_pool", kind="reduction", dtypes="float")
def avg_pool(
    x: TensorType,
    *,
    kernel: Ints,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> TensorType:
    """The mean of each window of x[N, C, *spatial], over the elements inside the input (and
    inside the padding when `count_include_pad`)."""
    return infer_pool(x, {k: v for k, v in locals().items() if k != "x"})


@avg_pool.rule("compute")
def _(x: te.Tensor, *, count_include_pad: bool, **attrs: Any) -> te.Tensor:
    return average(x, attrs, count_include_pad=count_include_pad, name="avg_pool")


@avg_pool.rule("numpy")
def _(x: np.ndarray, *, count_include_pad: bool, **attrs: Any) -> np.ndarray:
    return reference_average(x, attrs, count_include_pad=count_include_pad)


def _including_pad(sample: Sample) -> Sample:
    return Sample(sample.args, {**sample.attrs, "count_include_pad": True})


@avg_pool.rule("grad")
def _(
    x: GraphExpr, *, dout: GraphExpr, out: GraphExpr, count_include_pad: bool, **attrs: Any
) -> GraphExpr:
    if not any(attrs["pads"]) and not attrs["ceil_mode"]:
        share = dout * (1 / math.prod(attrs["kernel"]))
    else:
        # The mean of ones is the share of a window that is inside, their sum is how many are.
        shape = plain_dims((const(1), const(1), *dims_of(x)[2:]))
        ones = ops.full(shape=shape, value=1.0, dtype=dtype_of(x))
        mean = ops.avg_pool(ones, count_include_pad=count_include_pad, **attrs)
        windows = ops.unfold(ones, **attrs)
        inside = ops.sum(windows, axes=tuple(range(ndim_of(x), ndim_of(windows))))
        share = dout * (mean / ops.maximum(inside, 1.0))
    return _folded(_over_taps(share, attrs), x, attrs)


avg_pool.samples(*_SAMPLES, *(_including_pad(sample) for sample in _SAMPLES))


@operator("lp_pool", kind="reduction", dtypes="float")
def lp_pool(
    x: TensorType,
    *,
    kernel: Ints,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    ceil_mode: bool = False,
    p: int = 2,
) -> TensorType:
    """The p-norm of each window of x[N, C, *spatial]."""
    return infer_pool(x, {k: v for k, v in locals().items() if k != "x"})


@lp_pool.rule("compute")
def _(x: te.Tensor, *, p: int, **attrs: Any) -> te.Tensor:
    def magnitude(v: Expr) -> Expr:
        v = intrin.fabs(wide(v))
        return v if p == 1 else v * v if p == 2 else intrin.pow(v, const(p, v.dtype))

    total = window_reduce(
        x, make_window(attrs), te.sum, magnitude, const(0, x.dtype), "lp_pool_sum"
    )
    if p == 1:
        return cast_tensor(total, x.dtype)

    def root(v: Expr) -> Expr:
        return intrin.sqrt(v) if p == 2 else intrin.pow(v, const(1 / p, v.dtype))

    return te.compute(total.shape, lambda *i: cast(root(total[i]), x.dtype), name="lp_pool")


@lp_pool.rule("numpy")
def _(x: np.ndarray, *, p: int, **attrs: Any) -> np.ndarray:
    found = np.abs(_reference_windows(x, attrs, 0)) ** p
    return found.sum(axis=_taps(x)) ** (1 / p)  # type: ignore[no-any-return]


@lp_pool.rule("grad")
def _(x: GraphExpr, *, dout: GraphExpr, out: GraphExpr, p: int, **attrs: Any) -> GraphExpr:
    """sign(x) * |x / out|^(p - 1), and 0 in a window of zeros."""
    if p == 1:
        return ops.sign(x) * _folded(_over_taps(dout, attrs), x, attrs)
    length = ops.where(ops.equal(out, 0.0), 1.0, out)
    share = _folded(_over_taps(dout * ops.pow(length, float(1 - p)), attrs), x, attrs)
    return x * share if p == 2 else ops.sign(x) * ops.pow(ops.abs(x), float(p - 1)) * share


lp_pool.samples(*_SAMPLES, case(floats(1, 2, 4, 4), kernel=(2, 2), p=3))


def _declare_normalise(op: Op) -> None:
    @op.rule("normalise")
    def _(x: TensorType, **attrs: Any) -> dict[str, Any]:
        require_ndim(x, "x", 3, 5)
        return canonical_pool(x.ndim - 2, attrs)


for _op in (max_pool, avg_pool, lp_pool):
    _declare_normalise(_op)
