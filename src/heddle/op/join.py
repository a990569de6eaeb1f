# SPDX-License-Identifier: Apache-2.0
"""Cutting tensors up, putting them together, padding them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr, TupleGetItem
from heddle.ir import DType, TensorType
from heddle.ir.expr import (
    Expr,
    all_of,
    as_expr,
    as_int,
    const,
    if_then_else,
    maximum,
    minimum,
    select,
)
from heddle.op.adjoint import dims_of, full_like, mix, ndim_of, scalar, static_shape
from heddle.op.attribute import Dims, Ints
from heddle.op.common import (
    as_dims,
    normal_axes,
    normal_axis,
    plain_dims,
    require_same_dtype,
    same_dim,
    show_dim,
    show_shape,
    simplify_dim,
)
from heddle.op.registry import operator, ops
from heddle.op.sample import bools, case, floats, ints
from heddle.support import UserError

# -- concat and split ------------------------------------------------------------------------


@operator("concat", kind="injective")
def concat(*xs: TensorType, axis: int) -> TensorType:
    """The tensors one after the other along an axis; all other dimensions must agree."""
    first = xs[0]
    require_same_dtype(*xs)
    total: Expr = const(0)
    for position, x in enumerate(xs):
        fits = x.ndim == first.ndim and all(
            at == axis or same_dim(a, b)
            for at, (a, b) in enumerate(zip(x.shape, first.shape, strict=True))
        )
        if not fits:
            raise UserError(
                f"tensor {position} has shape {show_shape(x.shape)}, which does not join "
                f"{show_shape(first.shape)} along axis {axis}"
            )
        total = total + x.shape[axis]
    shape = (*first.shape[:axis], simplify_dim(total), *first.shape[axis + 1 :])
    return TensorType(shape, first.dtype)


@concat.rule("normalise")
def _(*xs: TensorType, axis: int) -> dict[str, Any]:
    return {"axis": normal_axis(axis, xs[0].ndim)}


@concat.rule("compute")
def _(*xs: te.Tensor, axis: int) -> te.Tensor:
    starts: list[Expr] = [const(0)]
    for x in xs:
        starts.append(starts[-1] + x.shape[axis])

    def body(*i: Expr) -> Expr:
        def element(position: int) -> Expr:
            at = i[axis] - starts[position]
            return xs[position][(*i[:axis], at, *i[axis + 1 :])]

        value = element(len(xs) - 1)
        for position in reversed(range(len(xs) - 1)):
            value = if_then_else(i[axis] < starts[position + 1], element(position), value)
        return value

    total = simplify_dim(starts[-1])
    shape = (*xs[0].shape[:axis], total, *xs[0].shape[axis + 1 :])
    return te.compute(shape, body, name="concat")


@concat.rule("numpy")
def _(*xs: np.ndarray, axis: int) -> np.ndarray:
    return np.concatenate(xs, axis=axis)


@concat.rule("grad")
def _(*xs: GraphExpr, dout: GraphExpr, out: GraphExpr, axis: int) -> tuple[GraphExpr, ...]:
    sizes = plain_dims(dims_of(x)[axis] for x in xs)
    parts = ops.split(dout, sizes=sizes, axis=axis)
    return tuple(TupleGetItem(parts, position) for position in range(len(xs)))


concat.samples(
    case(floats(2, 3), floats(2, 1), floats(2, 2), axis=1),
    case(ints(2, 3), ints(1, 3), axis=0),
    case(bools(2, 3), axis=-1),
)


@operator("split", kind="injective")
def split(x: TensorType, *, sizes: Dims, axis: int = 0) -> tuple[TensorType, ...]:
    """A tuple of parts of these sizes along an axis; the sizes must add up."""
    total: Expr = const(0)
    for size in sizes:
        total = total + size
    if not same_dim(total, x.shape[axis]):
        raise UserError(
            f"sizes {show_shape(sizes)} do not add up to {show_dim(x.shape[axis])}, "
            f"the size of axis {axis}"
        )
    head, tail = x.shape[:axis], x.shape[axis + 1 :]
    return tuple(TensorType((*head, size, *tail), x.dtype) for size in as_dims(sizes))


@split.rule("normalise")
def _(x: TensorType, *, axis: int, **_rest: Any) -> dict[str, Any]:
    return {"axis": normal_axis(axis, x.ndim)}


@split.rule("compute")
def _(x: te.Tensor, *, sizes: Dims, axis: int) -> tuple[te.Tensor, ...]:
    def part(start: Expr, size: Expr) -> te.Tensor:
        return te.compute(
            (*x.shape[:axis], size, *x.shape[axis + 1 :]),
            lambda *i: x[(*i[:axis], i[axis] + start, *i[axis + 1 :])],
            name="split",
        )

    parts, start = [], const(0)
    for size in as_dims(sizes):
        parts.append(part(start, size))
        start = start + size
    return tuple(parts)


@split.rule("numpy")
def _(x: np.ndarray, *, sizes: Ints, axis: int) -> tuple[np.ndarray, ...]:
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis=axis))


@split.rule("grad")
def _(
    x: GraphExpr,
    *,
    dout: tuple[GraphExpr, ...],
    out: tuple[GraphExpr, ...],
    sizes: Dims,
    axis: int,
) -> GraphExpr:
    return ops.concat(*dout, axis=axis)


split.samples(case(floats(2, 6), sizes=(1, 3, 2), axis=1), case(ints(4, 2), sizes=(2, 2)))

_BEYOND = 2**31 - 1
"""A position at least this far out means the end, whatever the size of the axis."""

# -- slice -----------------------------------------------------------------------------------


def slice_bounds(dim: Expr, start: Expr, end: Expr, step: int) -> tuple[Expr, Expr]:
    """First index and number of elements of `start:end:step`, as ONNX means it: as Python does, but
    a backward slice from before the first element starts at the first."""
    first = _clamped(start, dim, low=0, high=dim if step > 0 else dim - 1)
    last = _clamped(end, dim, low=0 if step > 0 else -1, high=dim if step > 0 else dim - 1)
    span = last - first if step > 0 else first - last
    count = maximum(const(0), (span + (abs(step) - 1)) // abs(step))
    if (
        step < 0 and (as_int(dim) or 0) < 1
    ):  # an axis that is empty, or may be, has no first element
        count = minimum(count, dim)
    return simplify_dim(first), simplify_dim(count)


def _clamped(at: Expr, dim: Expr, *, low: int, high: Expr) -> Expr:
    position = as_int(at)
    if position is not None and abs(position) >= _BEYOND:
        return high if position > 0 else const(low)
    if position is None:
        at = select(at < 0, at + dim, at)
    elif position < 0:
        at = at + dim
    return maximum(const(low), minimum(at, high))


def _slices(shape: Sequence[Expr], attrs: dict[str, Any]) -> dict[int, tuple[Expr, Expr, int]]:
    """Per sliced axis: first index, count, step."""
    found = {}
    for start, end, axis, step in zip(
        attrs["starts"], attrs["ends"], attrs["axes"], attrs["steps"], strict=True
    ):
        first, count = slice_bounds(shape[axis], as_expr(start), as_expr(end), step)
        found[axis] = (first, count, step)
    return found


@operator("prefix", kind="injective")
def prefix(x: TensorType, *, shape: Dims) -> TensorType:
    """x[: shape[0], : shape[1], ...]: the first elements along each axis. Unlike those of `slice`,
    the dimensions are taken as they are: none may be larger than that of x.

    It cuts what was computed in memory of the largest size down to a size that is known at run
    time (see `graph.BindDim`).
    """
    dims = as_dims(shape)
    if len(dims) != x.ndim:
        raise UserError(f"`shape` has {len(dims)} dimensions, x has {x.ndim}")
    for axis, (dim, size) in enumerate(zip(dims, x.shape, strict=True)):
        known, room = as_int(dim), as_int(size)
        if known is not None and (known < 0 or (room is not None and known > room)):
            raise UserError(f"dimension {axis} of `shape` is {known}, that of x {show_dim(size)}")
    return TensorType(dims, x.dtype)


@prefix.rule("compute")
def _(x: te.Tensor, *, shape: Dims) -> te.Tensor:
    return te.compute(as_dims(shape), lambda *i: x[i], name="prefix")


@prefix.rule("numpy")
def _(x: np.ndarray, *, shape: Ints) -> np.ndarray:
    return x[tuple(slice(0, size) for size in shape)]


@prefix.rule("grad")
def _(x: GraphExpr, *, dout: GraphExpr, out: GraphExpr, shape: Dims) -> GraphExpr:
    return ops.extend(dout, shape=plain_dims(dims_of(x)))


prefix.samples(
    case(floats(4, 5), shape=(2, 5)),
    case(floats(3), shape=(3,)),
    case(floats(3, 2), shape=(0, 1)),
)


@operator("extend", kind="injective")
def extend(x: TensorType, *, shape: Dims) -> TensorType:
    """x at the beginning of a tensor of `shape`, zeros behind it along each axis. None of the
    dimensions may be smaller than that of x; `prefix` takes it out again."""
    dims = as_dims(shape)
    if len(dims) != x.ndim:
        raise UserError(f"`shape` has {len(dims)} dimensions, x has {x.ndim}")
    for axis, (dim, size) in enumerate(zip(dims, x.shape, strict=True)):
        room, known = as_int(dim), as_int(size)
        if room is not None and (room < 0 or (known is not None and room < known)):
            raise UserError(f"dimension {axis} of `shape` is {room}, that of x {show_dim(size)}")
    return TensorType(dims, x.dtype)


@extend.rule("compute")
def _(x: te.Tensor, *, shape: Dims) -> te.Tensor:
    def body(*i: Expr) -> Expr:
        inside = all_of(*(at < size for at, size in zip(i, x.shape, strict=True)))
        return if_then_else(inside, x[i], const(0, x.dtype))

    return te.compute(as_dims(shape), body, name="extend")


@extend.rule("numpy")
def _(x: np.ndarray, *, shape: Ints) -> np.ndarray:
    return np.pad(x, [(0, room - size) for room, size in zip(shape, x.shape, strict=True)])


@extend.rule("grad")
def _(x: GraphExpr, *, dout: GraphExpr, out: GraphExpr, shape: Dims) -> GraphExpr:
    return ops.prefix(dout, shape=plain_dims(dims_of(x)))


extend.samples(
    case(floats(2, 5), shape=(4, 5)),
    case(floats(3), shape=(3,)),
    case(floats(0, 1), shape=(2, 2)),
)


@operator("slice", kind="injective")
def slice_(
    x: TensorType, *, starts: Dims, ends: Dims, axes: Ints | None = None, steps: Ints | None = None
) -> TensorType:
    """x[starts:ends:steps] along these axes (None: the first ones), as Python slices: negative
    positions count from the end, those outside are clamped, steps may be negative (then a start
    before the first element means the first, as in ONNX)."""
    cuts = _slices(x.shape, {"starts": starts, "ends": ends, "axes": axes, "steps": steps})
    return TensorType(
        tuple(cuts[axis][1] if axis in cuts else dim for axis, dim in enumerate(x.shape)), x.dtype
    )


@slice_.rule("normalise")
def _(
    x: TensorType, *, starts: Dims, ends: Dims, axes: Ints | None, steps: Ints | None
) -> dict[str, Any]:
    count = len(starts)
    axes = tuple(range(count)) if axes is None else axes
    steps = (1,) * count if steps is None else steps
    if not len(ends) == len(axes) == len(steps) == count:
        raise UserError("starts, ends, axes and steps differ in length")
    if 0 in steps:
        raise UserError("a step is 0")
    normal = tuple(normal_axis(axis, x.ndim) for axis in axes)
    normal_axes(normal, x.ndim)
    return {"axes": normal, "steps": steps}


@slice_.rule("compute")
def _(x: te.Tensor, **attrs: Any) -> te.Tensor:
    cuts = _slices(x.shape, attrs)

    def body(*i: Expr) -> Expr:
        index = list(i)
        for axis, (first, _count, step) in cuts.items():
            index[axis] = first + i[axis] * step
        return x[tuple(index)]

    shape = [cuts[axis][1] if axis in cuts else dim for axis, dim in enumerate(x.shape)]
    return te.compute(shape, body, name="slice")


@slice_.rule("numpy")
def _(x: np.ndarray, *, starts: Ints, ends: Ints, axes: Ints, steps: Ints) -> np.ndarray:
    cuts = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        # Before the start of a backward slice there is nothing: None says so, -1 would wrap.
        last = None if step < 0 and end < -size else end
        if step < 0:
            start = max(start, -size)
        cuts[axis] = slice(start, last, step)
    return x[tuple(cuts)]


@slice_.rule("grad")
def _(x: GraphExpr, *, dout: GraphExpr, out: GraphExpr, **attrs: Any) -> GraphExpr:
    """Zeros around the slice: by padding where its place is known, else by looking up, for each
    element of x, whether the slice has it."""
    shape, rank = dims_of(x), ndim_of(x)
    pads = [0] * (2 * rank)
    for axis, (first, count, step) in _slices(shape, attrs).items():
        if as_int(count) == 0:
            return full_like(x, 0.0)
        start, after = as_int(first), as_int(simplify_dim(shape[axis] - first - count))
        if step == 1 and start is not None and after is not None:
            pads[axis], pads[axis + rank] = start, after
        else:
            dout = _spread(dout, axis, shape[axis], (first, count, step))
    return ops.pad(dout, pads=tuple(pads)) if any(pads) else dout


def _spread(dout: GraphExpr, axis: int, size: Expr, cut: tuple[Expr, Expr, int]) -> GraphExpr:
    """The adjoint of taking `cut` of an axis of `size`."""
    first, count, step = cut
    index = DType.of("int64")
    at = ops.range(count=plain_dims([size])[0], dtype=index) - scalar(first, index)
    source = ops.div(at, step)  # truncates, but where it does, the rest is not 0
    exact = ops.equal(ops.mul(source, step), at)
    legal = ops.logical_and(ops.greater_equal(source, 0), ops.less(source, scalar(count, index)))
    found = ops.gather(dout, ops.where(legal, source, 0), axis=axis)
    lead = tuple(other for other in range(ndim_of(dout)) if other != axis)
    hit = ops.logical_and(exact, legal)
    return ops.where(ops.unsqueeze(hit, axes=lead) if lead else hit, found, 0.0)


slice_.samples(
    case(floats(5, 6), starts=(1,), ends=(4,)),
    case(floats(5, 6), starts=(0, -3), ends=(2**60, -1), axes=(0, 1)),
    case(floats(5, 6), starts=(5,), ends=(-(2**60),), axes=(1,), steps=(-1,)),
    case(floats(7), starts=(-100,), ends=(100,), axes=(-1,), steps=(3,)),
    case(floats(7), starts=(6,), ends=(1,), steps=(-2,)),
    case(floats(4), starts=(3,), ends=(1,)),
    case(floats(4), starts=(-9,), ends=(-9,), steps=(-2,)),
    case(floats(3, 0), starts=(-1,), ends=(-9,), axes=(1,), steps=(-1,)),
)

# -- pad -------------------------------------------------------------------------------------


@operator("pad", kind="injective")
def pad(
    x: TensorType,
    *,
    pads: Ints,
    mode: Literal["constant", "reflect", "edge", "wrap"] = "constant",
    value: float = 0.0,
) -> TensorType:
    """x with elements added around it: `pads` lists how many before each axis, then how many
    after; negative ones cut off. Added elements are `value`, or mirrored, repeated or wrapped."""
    if len(pads) != 2 * x.ndim:
        raise UserError(f"attribute `pads` is {pads}, expected {2 * x.ndim} integers")
    shape = []
    for axis, dim in enumerate(x.shape):
        size = dim + (pads[axis] + pads[axis + x.ndim])
        known = as_int(size)
        if known is not None and known < 0:
            raise UserError(f"axis {axis} of size {show_dim(dim)} would get size {known}")
        if mode != "constant" and as_int(dim) == 0 and known:
            raise UserError(f"axis {axis} is empty: there is nothing to {mode}")
        shape.append(size)
    return TensorType(tuple(shape), x.dtype)


def _source_index(at: Expr, dim: Expr, mode: str) -> Expr:
    if mode == "edge":
        return maximum(const(0), minimum(at, dim - 1))
    if mode == "wrap":
        return at % dim
    period = maximum(const(1), 2 * dim - 2)
    folded = at % period
    return select(folded < dim, folded, period - folded)


@pad.rule("compute")
def _(x: te.Tensor, *, pads: Ints, mode: str, value: float) -> te.Tensor:
    rank = x.ndim
    shape = [dim + (pads[axis] + pads[axis + rank]) for axis, dim in enumerate(x.shape)]

    def body(*i: Expr) -> Expr:
        index, inside = [], []
        for axis, dim in enumerate(x.shape):
            before, after = pads[axis], pads[axis + rank]
            at = i[axis] - before
            if before <= 0 and after <= 0:
                index.append(at)
            elif mode == "constant":
                index.append(at)
                inside += [i[axis] >= before] if before > 0 else []
                inside += [at < dim] if after > 0 else []
            else:
                index.append(_source_index(at, dim, mode))
        fill = const(bool(value) if x.dtype.is_bool else value, x.dtype)
        return if_then_else(all_of(*inside), x[tuple(index)], fill)

    return te.compute(shape, body, name="pad")


@pad.rule("numpy")
def _(x: np.ndarray, *, pads: Ints, mode: str, value: float) -> np.ndarray:
    pairs = [(pads[axis], pads[axis + x.ndim]) for axis in range(x.ndim)]
    extra: dict[str, Any] = {"constant_values": value} if mode == "constant" else {}
    kept = [slice(max(0, -b), x.shape[axis] - max(0, -a)) for axis, (b, a) in enumerate(pairs)]
    grown = [(max(0, before), max(0, after)) for before, after in pairs]
    return np.pad(x[tuple(kept)], grown, mode=mode, **extra)  # type: ignore[call-overload, no-any-return]


@pad.rule("grad")
def _(
    x: GraphExpr, *, dout: GraphExpr, out: GraphExpr, pads: Ints, mode: str, value: float
) -> GraphExpr:
    """What was added is cut off; what was a copy of an element of x counts for it."""
    rank = ndim_of(x)
    if mode == "constant" or max(pads) <= 0:
        return ops.pad(dout, pads=tuple(-amount for amount in pads))
    for axis, size in enumerate(static_shape(x, "pad")):
        before, after = pads[axis], pads[axis + rank]
        if before <= 0 and after <= 0:
            outside = (*(0,) * axis, -before, *(0,) * (rank - 1), -after, *(0,) * (rank - 1 - axis))
            dout = ops.pad(dout, pads=outside)
            continue
        kept = np.arange(size)[max(0, -before) : size - max(0, -after)]
        index = np.pad(kept, (max(0, before), max(0, after)), mode=mode)  # type: ignore[call-overload]
        dout = mix(dout, np.eye(size)[index], axis)
    return dout


pad.samples(
    case(floats(3, 4), pads=(1, 0, 2, 1), value=1.5),
    case(floats(3, 4), pads=(0, 2, 0, 3), mode="reflect"),
    case(floats(3, 4), pads=(1, 2, 2, 0), mode="edge"),
    case(floats(3, 4), pads=(1, 2, 2, 0), mode="wrap"),
    case(floats(3, 4), pads=(-1, 0, 0, -2)),
    case(ints(3), pads=(2, 2), value=7),
)
