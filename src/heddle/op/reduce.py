# SPDX-License-Identifier: Apache-2.0
"""Reductions over axes: sums, products, extremes, norms, positions of extremes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import DType, TensorType
from heddle.ir.expr import (
    EQ,
    Expr,
    cast,
    compare,
    const,
    logical_or,
    mul,
    select,
)
from heddle.op.adjoint import (
    broadcast_like,
    count_value,
    dims_of,
    dtype_of,
    kept,
    mask,
    ndim_of,
    reshape_like,
)
from heddle.op.attribute import Ints
from heddle.op.common import (
    accumulator_dtype,
    cast_tensor,
    elementwise,
    normal_axes,
    normal_axis,
    plain_dims,
    product,
    wide,
)
from heddle.op.registry import Op, operator, ops
from heddle.op.sample import Sample, bools, case, floats, ints, values
from heddle.tir import intrin

Pullback = Callable[[GraphExpr, GraphExpr, GraphExpr, Ints], GraphExpr]
Combiner = Callable[[Expr, Sequence[te.ReduceAxis]], Expr]
_SAMPLES: Final = (
    case(floats(3, 4, 5), axes=(1,)),
    case(floats(3, 4), axes=None, keepdims=False),
    case(floats(2, 3, 4), axes=(0, -1), keepdims=True),
    case(floats(3, 4), axes=()),
    case(floats(4, 5, dtype="float16"), axes=(1,)),
)
_INT_SAMPLE: Final = case(ints(3, 4, low=-5, high=5, dtype="int32"), axes=(1,))


def reduced_shape(shape: Sequence[Expr], axes: Sequence[int], keepdims: bool) -> tuple[Expr, ...]:
    """The shape after reducing `axes`."""
    kept = [
        (const(1) if position in axes else dim)
        for position, dim in enumerate(shape)
        if keepdims or position not in axes
    ]
    return tuple(kept)


def reduce_tensor(
    x: te.Tensor,
    axes: Sequence[int],
    combine: Combiner,
    transform: Callable[[Expr], Expr],
    name: str,
    *,
    keepdims: bool = False,
) -> te.Tensor:
    """One reduction: `combine` over `axes` of `transform(x[...])`."""
    loops = {axis: te.reduce_axis(x.shape[axis], f"r{axis}") for axis in axes}

    def body(*i: Expr) -> Expr:
        spatial = iter(i)
        index: list[Any] = []
        for position in range(x.ndim):
            if position in loops:
                index.append(loops[position])
                if keepdims:
                    next(spatial)
            else:
                index.append(next(spatial))
        return combine(transform(x[tuple(index)]), list(loops.values()))

    return te.compute(reduced_shape(x.shape, axes, keepdims), body, name=name)


def _canonical(x: TensorType, *, axes: Ints | None, keepdims: bool) -> dict[str, Any]:
    return {"axes": normal_axes(axes, x.ndim)}


def reduction(
    name: str,
    doc: str,
    combine: Combiner,
    numpy: Callable[..., Any],
    *samples: Sample,
    grad: Pullback,
    dtypes: str = "number",
    before: Callable[[Expr], Expr] = lambda x: x,
    after: Callable[[Expr, Expr], Expr] | None = None,
) -> Op:
    """Declare `after(combine(before(x)), count)` over axes; None stands for all axes.

    grad: from the gradient `d` of the result, x, the result y and the axes, the gradient of x;
    d and y have the axes that were reduced, as axes of size 1.
    """

    def infer(x: TensorType, *, axes: Ints | None = None, keepdims: bool = False) -> TensorType:
        assert axes is not None
        return TensorType(reduced_shape(x.shape, axes, keepdims), x.dtype)

    infer.__doc__ = doc
    op = operator(name, kind="reduction", dtypes=dtypes)(infer)
    op.rule("normalise")(_canonical)

    @op.rule("compute")
    def _(x: te.Tensor, *, axes: Ints, keepdims: bool) -> te.Tensor:
        count = product(x.shape[axis] for axis in axes)
        dtype = accumulator_dtype(x.dtype)
        stage = reduce_tensor(x, axes, combine, lambda v: before(wide(v)), name, keepdims=keepdims)
        if after is not None:
            stage = elementwise(stage, lambda v: after(v, cast(count, dtype)), f"{name}_finish")
        return cast_tensor(stage, x.dtype)

    @op.rule("grad")
    def _(x: GraphExpr, *, dout: GraphExpr, out: GraphExpr, axes: Ints, keepdims: bool) -> Any:
        d, y = kept(dout, axes, keepdims=keepdims), kept(out, axes, keepdims=keepdims)
        return broadcast_like(grad(d, x, y, axes), x)

    op.rule("numpy")(lambda x, *, axes, keepdims: numpy(x, axis=axes, keepdims=keepdims))
    op.samples(*(samples or _SAMPLES))
    return op


def _plain_sum(x: np.ndarray, **where: Any) -> np.ndarray:
    return np.sum(x, dtype=x.dtype, **where)  # type: ignore[no-any-return]


def _mean(total: Expr, count: Expr) -> Expr:
    if total.dtype.is_float:
        return total / count
    positive = total.dtype.kind == "uint"
    return total // count if positive else select(total < 0, -((-total) // count), total // count)


def _mean_reference(x: np.ndarray, **where: Any) -> np.ndarray:
    return np.trunc(np.mean(x, **where)) if x.dtype.kind in "iu" else np.mean(x, **where)  # type: ignore[no-any-return]


sum_ = reduction(
    "sum",
    "The sum; integers wrap.",
    te.sum,
    _plain_sum,
    *_SAMPLES,
    _INT_SAMPLE,
    grad=lambda d, x, y, axes: d,
)
mean = reduction(
    "mean",
    "The arithmetic mean; of integers, truncated.",
    te.sum,
    _mean_reference,
    *_SAMPLES,
    _INT_SAMPLE,
    grad=lambda d, x, y, axes: d / count_value(x, axes, dtype_of(x)),
    after=_mean,
)


def _prod_grad(d: GraphExpr, x: GraphExpr, y: GraphExpr, axes: Ints) -> GraphExpr:
    """The product of all others, also where one is zero."""
    rest = tuple(axis for axis in range(ndim_of(x)) if axis not in axes)
    order = (*rest, *axes)
    moved = ops.transpose(x, permutation=order)
    lead = plain_dims(dims_of(moved)[: len(rest)])
    rows = ops.reshape(moved, shape=(*lead, -1))
    before = ops.cumprod(rows, axis=-1, exclusive=True)
    after = ops.cumprod(rows, axis=-1, exclusive=True, reverse=True)
    others = reshape_like(before * after, moved)
    return d * ops.transpose(others, permutation=tuple(order.index(at) for at in range(len(order))))


prod = reduction(
    "prod",
    "The product; integers wrap.",
    te.prod,
    lambda x, **where: np.prod(x, dtype=x.dtype, **where),
    *_SAMPLES,
    _INT_SAMPLE,
    grad=_prod_grad,
)


def _extreme_grad(d: GraphExpr, x: GraphExpr, y: GraphExpr, axes: Ints) -> GraphExpr:
    """Elements that tie for the extreme share its gradient equally."""
    extreme = mask(ops.equal(x, y), x)
    return d / ops.sum(extreme, axes=axes, keepdims=True) * extreme


def _extreme_reference(function: Callable[..., Any], sign: int) -> Callable[..., Any]:
    """`function`, with the extreme of nothing the other end of the dtype's range."""

    def reference(x: np.ndarray, **where: Any) -> np.ndarray:
        if x.dtype.kind in "iu":
            limits = np.iinfo(x.dtype)
            start: Any = limits.max if sign > 0 else limits.min
        else:
            start = x.dtype.type(sign * np.inf)
        return function(x, initial=start, **where)  # type: ignore[no-any-return]

    return reference


max_ = reduction(
    "max",
    "The largest element; NaN if any is NaN.",
    te.max,
    _extreme_reference(np.max, -1),
    *_SAMPLES,
    _INT_SAMPLE,
    grad=_extreme_grad,
)
min_ = reduction(
    "min",
    "The smallest element; NaN if any is NaN.",
    te.min,
    _extreme_reference(np.min, 1),
    *_SAMPLES,
    _INT_SAMPLE,
    grad=_extreme_grad,
)
sum_square = reduction(
    "sum_square",
    "The sum of squares.",
    te.sum,
    lambda x, **where: _plain_sum(x * x, **where),
    *_SAMPLES,
    _INT_SAMPLE,
    grad=lambda d, x, y, axes: d * (x + x),
    before=lambda x: mul(x, x),
)


def _magnitude(x: Expr) -> Expr:
    return intrin.fabs(x) if x.dtype.is_float else select(x < 0, -x, x)


l1_norm = reduction(
    "l1_norm",
    "The sum of absolute values.",
    te.sum,
    lambda x, **where: _plain_sum(np.abs(x), **where),
    *_SAMPLES,
    grad=lambda d, x, y, axes: d * ops.sign(x),
    before=_magnitude,
)


def _length_grad(d: GraphExpr, x: GraphExpr, y: GraphExpr, axes: Ints) -> GraphExpr:
    """x / |x|, and 0 where x is: the length has a kink there."""
    return d * x / ops.where(ops.equal(y, 0.0), 1.0, y)


l2_norm = reduction(
    "l2_norm",
    "The square root of the sum of squares.",
    te.sum,
    lambda x, **where: np.sqrt(_plain_sum(x * x, **where)),
    grad=_length_grad,
    dtypes="float",
    before=lambda x: mul(x, x),
    after=lambda total, count: intrin.sqrt(total),
)
log_sum = reduction(
    "log_sum",
    "The logarithm of the sum.",
    te.sum,
    lambda x, **where: np.log(_plain_sum(x, **where)),
    case(floats(3, 4, low=0.1), axes=(1,)),
    grad=lambda d, x, y, axes: d * ops.exp(-y),
    dtypes="float",
    after=lambda total, count: intrin.log(total),
)


def logical_reduction(name: str, doc: str, combine: Combiner, numpy: Any) -> Op:
    """Declare a reduction of truth values (as extremes of 0 and 1)."""

    def infer(x: TensorType, *, axes: Ints | None = None, keepdims: bool = False) -> TensorType:
        assert axes is not None
        return TensorType(reduced_shape(x.shape, axes, keepdims), x.dtype)

    infer.__doc__ = doc
    op = operator(name, kind="reduction", dtypes="bool")(infer)
    op.rule("normalise")(_canonical)

    @op.rule("compute")
    def _(x: te.Tensor, *, axes: Ints, keepdims: bool) -> te.Tensor:
        stage = reduce_tensor(x, axes, combine, lambda v: cast(v, "int8"), name, keepdims=keepdims)
        # Not a cast: the least int8, which the reduction of nothing gives, is no truth.
        return te.compute(stage.shape, lambda *i: stage[i] > 0, name=f"{name}_truth")

    op.rule("numpy")(lambda x, *, axes, keepdims: numpy(x, axis=axes, keepdims=keepdims))
    op.not_differentiable("the result is a truth value")
    op.samples(case(bools(3, 4), axes=(1,)), case(bools(2, 3, 4), axes=(0, 2), keepdims=True))
    return op


any_ = logical_reduction("any", "Whether any element holds.", te.max, np.any)
all_ = logical_reduction("all", "Whether all elements hold.", te.min, np.all)


@operator("logsumexp", kind="reduction", dtypes="float")
def logsumexp(x: TensorType, *, axes: Ints | None = None, keepdims: bool = False) -> TensorType:
    """log(sum(exp(x))), computed without overflow."""
    assert axes is not None
    return TensorType(reduced_shape(x.shape, axes, keepdims), x.dtype)


logsumexp.rule("normalise")(_canonical)


@logsumexp.rule("compute")
def _(x: te.Tensor, *, axes: Ints, keepdims: bool) -> te.Tensor:
    kept = reduce_tensor(x, axes, te.max, wide, "logsumexp_max", keepdims=True)

    def finite(value: Expr) -> Expr:
        return select(intrin.isinf(value), const(0, value.dtype), value)

    def shifted(*i: Expr) -> Expr:
        at = tuple(const(0) if position in axes else index for position, index in enumerate(i))
        return intrin.exp(wide(x[i]) - finite(kept[at]))

    exponentials = te.compute(x.shape, shifted, name="logsumexp_exp")
    total = reduce_tensor(exponentials, axes, te.sum, lambda v: v, "logsumexp_sum", keepdims=True)
    full = te.compute(
        total.shape, lambda *i: intrin.log(total[i]) + finite(kept[i]), name="logsumexp"
    )
    if not keepdims:
        full = squeeze_tensor(full, axes)
    return cast_tensor(full, x.dtype)


def squeeze_tensor(x: te.Tensor, axes: Sequence[int]) -> te.Tensor:
    """`x` without its axes of size 1 named by `axes`."""

    def body(*i: Expr) -> Expr:
        rest = iter(i)
        return x[tuple(const(0) if p in axes else next(rest) for p in range(x.ndim))]

    return te.compute(reduced_shape(x.shape, axes, keepdims=False), body, name=f"{x.name}_squeeze")


@logsumexp.rule("numpy")
def _(x: np.ndarray, *, axes: Ints, keepdims: bool) -> np.ndarray:
    result = x
    for axis in reversed(axes):
        result = np.logaddexp.reduce(result, axis=axis, keepdims=keepdims)  # type: ignore[call-overload]
    return result


@logsumexp.rule("grad")
def _(x: GraphExpr, *, dout: GraphExpr, out: GraphExpr, axes: Ints, keepdims: bool) -> GraphExpr:
    """The softmax of x."""
    d, y = kept(dout, axes, keepdims=keepdims), kept(out, axes, keepdims=keepdims)
    return d * ops.exp(x - y)


logsumexp.samples(*_SAMPLES, case(floats(2, 3, low=80, high=120), axes=(1,)))

# -- positions of extremes -------------------------------------------------------------------


def extreme_position(name: str, doc: str, combine: Combiner, numpy: Any) -> Op:
    """Declare argmax or argmin."""

    def infer(
        x: TensorType, *, axis: int = 0, keepdims: bool = False, select_last_index: bool = False
    ) -> TensorType:
        return TensorType(reduced_shape(x.shape, (axis,), keepdims), DType.of("int64"))

    infer.__doc__ = doc
    op = operator(name, kind="reduction", dtypes="number")(infer)

    @op.rule("normalise")
    def _(x: TensorType, *, axis: int, **_rest: Any) -> dict[str, Any]:
        return {"axis": normal_axis(axis, x.ndim)}

    @op.rule("compute")
    def _(x: te.Tensor, *, axis: int, keepdims: bool, select_last_index: bool) -> te.Tensor:
        best = reduce_tensor(x, (axis,), combine, lambda v: v, f"{name}_value")
        loop = te.reduce_axis(x.shape[axis], f"r{axis}")
        worst = const(-1) if select_last_index else x.shape[axis]

        def body(*i: Expr) -> Expr:
            rest = (*i[:axis], *i[axis + 1 :]) if keepdims else i
            value = x[(*rest[:axis], loop, *rest[axis:])]
            found = compare(EQ, value, best[rest])
            if x.dtype.is_float:  # NaN counts as the extreme, as in numpy
                found = logical_or(found, intrin.isnan(value))
            position = select(found, loop.var, worst)
            return (te.max if select_last_index else te.min)(position, axis=[loop])

        return te.compute(reduced_shape(x.shape, (axis,), keepdims), body, name=name)

    @op.rule("numpy")
    def _(x: np.ndarray, *, axis: int, keepdims: bool, select_last_index: bool) -> np.ndarray:
        if select_last_index:
            found = x.shape[axis] - 1 - numpy(np.flip(x, axis), axis=axis, keepdims=keepdims)
        else:
            found = numpy(x, axis=axis, keepdims=keepdims)
        return np.asarray(found, dtype=np.int64)

    op.not_differentiable("the result is a position")
    op.samples(
        case(floats(3, 4), axis=1),
        case(ints(4, 5, high=2), axis=0, keepdims=True),
        case(ints(4, 5, high=2), axis=-1, select_last_index=True),
        case(values([[1.0, np.nan, 3.0], [2.0, -np.inf, 2.0]]), axis=1),
    )
    return op


argmax = extreme_position(
    "argmax", "Position of the first (or last) largest element along an axis.", te.max, np.argmax
)
argmin = extreme_position(
    "argmin", "Position of the first (or last) smallest element along an axis.", te.min, np.argmin
)
