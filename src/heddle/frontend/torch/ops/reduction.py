# SPDX-License-Identifier: Apache-2.0
"""Reductions, scans and what orders elements."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from heddle.frontend.torch.node import Node, dtype, normal_axes, normal_axis, rank, shape
from heddle.frontend.torch.registry import converts
from heddle.graph import Constant, GraphExpr


def _accumulated(node: Node, x: GraphExpr) -> GraphExpr:
    """x in the dtype of the result, which is where torch adds up integers and truth values."""
    return node.cast(x, node.dtype)


@converts("aten.sum.dim_IntList", "aten.sum.default")
def _sum(
    node: Node, x: GraphExpr, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    return (
        node.op.sum(_accumulated(node, x), axes=normal_axes(dim, rank(x)), keepdims=keepdim)
        if rank(x)
        else _accumulated(node, x)
    )


@converts("aten.mean.dim", "aten.mean.default")
def _mean(
    node: Node, x: GraphExpr, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    if not rank(x):
        return _accumulated(node, x)
    return node.op.mean(_accumulated(node, x), axes=normal_axes(dim, rank(x)), keepdims=keepdim)


@converts("aten.prod.default")
def _prod(node: Node, x: GraphExpr, *, dtype: Any = None) -> Any:
    return node.op.prod(_accumulated(node, x)) if rank(x) else _accumulated(node, x)


@converts("aten.prod.dim_int")
def _prod_dim(
    node: Node, x: GraphExpr, dim: int, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    if not rank(x):
        return _accumulated(node, x)
    return node.op.prod(_accumulated(node, x), axes=normal_axes(dim, rank(x)), keepdims=keepdim)


@converts("aten.amax.default", "aten.amin.default")
def _extreme(node: Node, x: GraphExpr, dim: Any = (), keepdim: bool = False) -> Any:
    return _extreme_of(node, x, "amax" in node.target, normal_axes(dim, rank(x)), keepdim)


@converts("aten.max.default", "aten.min.default")
def _extreme_all(node: Node, x: GraphExpr) -> Any:
    return _extreme_of(node, x, "max" in node.target, normal_axes(None, rank(x)), False)


def _extreme_of(node: Node, x: GraphExpr, largest: bool, axes: Any, keepdims: bool) -> GraphExpr:
    if not rank(x):
        return x
    if dtype(x).is_bool:
        return node.call("any" if largest else "all", x, axes=axes, keepdims=keepdims)  # type: ignore[no-any-return]
    return node.call("max" if largest else "min", x, axes=axes, keepdims=keepdims)  # type: ignore[no-any-return]


@converts("aten.max.dim", "aten.min.dim")
def _extreme_dim(node: Node, x: GraphExpr, dim: int, keepdim: bool = False) -> Any:
    largest = "max" in node.target
    value = _extreme_of(node, x, largest, normal_axes(dim, rank(x)), keepdim)
    return value, _position(node, x, dim, keepdim, largest)


@converts("aten.argmax.default", "aten.argmin.default")
def _arg_extreme(node: Node, x: GraphExpr, dim: int | None = None, keepdim: bool = False) -> Any:
    largest = "argmax" in node.target
    if dim is None:
        flat = node.op.reshape(x, shape=(-1,))
        return node.reshape(_position(node, flat, 0, False, largest), node.shape)
    return _position(node, x, dim, keepdim, largest)


def _position(node: Node, x: GraphExpr, dim: int, keepdim: bool, largest: bool) -> GraphExpr:
    if not rank(x):
        return node.tensor(0)
    x = node.cast(x, "uint8") if dtype(x).is_bool else x
    name = "argmax" if largest else "argmin"
    return node.call(name, x, axis=normal_axis(dim, rank(x)), keepdims=keepdim)  # type: ignore[no-any-return]


@converts(
    *(
        f"aten.{name}.{overload}"
        for name in ("any", "all")
        for overload in ("default", "dim", "dims")
    )
)
def _truth(node: Node, x: GraphExpr, dim: Any = None, keepdim: bool = False) -> Any:
    name = "any" if ".any." in node.target else "all"
    holds = node.cast(x, "bool")
    if not rank(x):
        return holds
    return node.call(name, holds, axes=normal_axes(dim, rank(x)), keepdims=keepdim)


@converts("aten.var.correction", "aten.var_mean.correction", "aten.std.correction")
def _variance(
    node: Node, x: GraphExpr, dim: Any = None, *, correction: Any = 1, keepdim: bool = False
) -> Any:
    wide = node.cast(x, "float32") if dtype(x).bits == 16 else x
    axes = normal_axes(dim, rank(x))
    count: Any = math.prod((shape(x)[axis] for axis in axes), start=1)
    middle = node.op.mean(wide, axes=axes, keepdims=True)
    distance = node.op.sub(wide, middle)
    total = node.op.sum(node.op.mul(distance, distance), axes=axes, keepdims=keepdim)
    correction = 1 if correction is None else correction
    free = node.tensor(count, dtype(wide))
    if correction:
        less = node.op.sub(free, float(correction))
        free = node.op.maximum(less, 0.0)
    variance = node.op.div(total, free)
    if "std" in node.target:
        return node.op.sqrt(variance)
    if "var_mean" not in node.target:
        return variance
    mean = middle if keepdim else node.op.squeeze(middle, axes=axes)
    return variance, mean


@converts("aten.var.dim", "aten.std.dim")
def _variance_dim(
    node: Node, x: GraphExpr, dim: Any, unbiased: bool = True, keepdim: bool = False
) -> Any:
    return _variance(node, x, dim, correction=int(unbiased), keepdim=keepdim)


@converts("aten._cdist_forward.default")
def _cdist(node: Node, a: GraphExpr, b: GraphExpr, p: float, compute_mode: int | None) -> Any:
    left = node.op.unsqueeze(a, axes=(rank(a) - 1,))
    right = node.op.unsqueeze(b, axes=(rank(b) - 2,))
    return _lengths(node, node.op.sub(left, right), p)


@converts("aten._cdist_backward.default")
def _cdist_backward(
    node: Node, grad: GraphExpr, a: GraphExpr, b: GraphExpr, p: float, distance: GraphExpr
) -> Any:
    """The gradient of the first: sum over j of grad[i, j] times the slope of |a_i - b_j|, which is
    zero where they are equal."""
    left = node.op.unsqueeze(a, axes=(rank(a) - 1,))
    right = node.op.unsqueeze(b, axes=(rank(b) - 2,))
    apart = node.op.sub(left, right)
    far, given = (node.op.unsqueeze(v, axes=(rank(v),)) for v in (distance, grad))
    slope = _length_slope(node, apart, far, p)
    zero = node.scalar(0.0, slope)
    slope = node.op.where(node.op.equal(far, 0.0), zero, node.op.mul(slope, given))
    return node.op.sum(slope, axes=(rank(slope) - 2,))


def _length_slope(node: Node, apart: GraphExpr, far: GraphExpr, p: float) -> GraphExpr:
    """How the p-norm `far` along the last axis changes with each difference."""
    sign = node.op.sign(apart)
    if p == 0.0:
        return node.full(shape(apart), 0.0, dtype(apart))
    if p == 1.0:
        return sign  # type: ignore[no-any-return]
    if p == 2.0:
        return node.op.div(apart, far)  # type: ignore[no-any-return]
    size = node.op.abs(apart)
    if p == math.inf:
        largest = node.cast(node.op.equal(size, far), dtype(apart))
        return node.op.mul(sign, largest)  # type: ignore[no-any-return]
    powers = node.op.pow(node.op.div(size, far), float(p - 1.0))
    return node.op.mul(sign, powers)  # type: ignore[no-any-return]


@converts("aten.dist.default")
def _dist(node: Node, a: GraphExpr, b: GraphExpr, p: float = 2.0) -> Any:
    apart = node.op.sub(node.cast(a, node.dtype), node.cast(b, node.dtype))
    return _norm(node, node.op.reshape(apart, shape=(-1,)), p)


@converts("aten._pdist_forward.default")
def _pdist(node: Node, x: GraphExpr, p: float = 2.0) -> Any:
    """The distance of each pair of rows i < j, in row-major order."""
    first, second = _pairs(node, shape(x)[0], node.shape[0])
    left, right = (node.op.gather(x, rows, axis=0) for rows in (first, second))
    return _lengths(node, node.op.sub(left, right), p)


@converts("aten._pdist_backward.default")
def _pdist_backward(
    node: Node, grad: GraphExpr, x: GraphExpr, p: float, distance: GraphExpr
) -> Any:
    first, second = _pairs(node, shape(x)[0], shape(distance)[0])
    left, right = (node.op.gather(x, rows, axis=0) for rows in (first, second))
    far, given = (node.op.unsqueeze(v, axes=(1,)) for v in (distance, grad))
    slope = _length_slope(node, node.op.sub(left, right), far, p)
    zero = node.scalar(0.0, slope)
    slope = node.op.where(node.op.equal(far, 0.0), zero, node.op.mul(slope, given))
    found = node.full(shape(x), 0.0, dtype(x))
    found = node.op.index_copy(found, first, slope, axis=0, reduction="add")
    away = node.op.negative(slope)
    return node.op.index_copy(found, second, away, axis=0, reduction="add")


def _pairs(node: Node, count: Any, pairs: Any) -> tuple[GraphExpr, GraphExpr]:
    """The rows i < j of each pair, in row-major order."""
    if isinstance(count, int):
        first, second = np.triu_indices(count, 1)
        return Constant(first), Constant(second)
    column = node.op.range(count=count, dtype="int64")
    row = node.op.unsqueeze(column, axes=(1,))
    places, _ = node.op.nonzero(node.op.less(row, column))
    found = node.op.prefix(places, shape=(2, pairs))
    axis = (0,)
    upper = node.op.squeeze(node.op.slice(found, starts=(0,), ends=(1,), axes=axis), axes=axis)
    lower = node.op.squeeze(node.op.slice(found, starts=(1,), ends=(2,), axes=axis), axes=axis)
    return upper, lower


def _lengths(node: Node, distance: GraphExpr, p: float) -> Any:
    """The p-norms along the last axis."""
    if p == 0.0:
        some = node.cast(node.op.not_equal(distance, 0.0), dtype(distance))
        return node.op.sum(some, axes=(rank(distance) - 1,))
    if p in (1.0, 2.0):
        return node.call(f"l{int(p)}_norm", distance, axes=(rank(distance) - 1,))
    if p == math.inf:
        return node.op.max(node.op.abs(distance), axes=(rank(distance) - 1,))
    powers = node.op.pow(node.op.abs(distance), float(p))
    total = node.op.sum(powers, axes=(rank(distance) - 1,))
    return node.op.pow(total, 1.0 / p)


@converts("aten.logsumexp.default")
def _logsumexp(node: Node, x: GraphExpr, dim: Any, keepdim: bool = False) -> Any:
    return node.op.logsumexp(
        node.cast(x, node.dtype), axes=normal_axes(dim, rank(x)), keepdims=keepdim
    )


@converts("aten.linalg_vector_norm.default", "aten.norm.ScalarOpt_dim")
def _norm(
    node: Node,
    x: GraphExpr,
    ord: Any = 2,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Any:
    x = node.cast(x, node.dtype)
    axes = normal_axes(dim, rank(x))
    ord = 2 if ord is None else ord
    if not rank(x):
        return node.op.abs(x) if ord != 0 else node.cast(node.op.not_equal(x, 0.0), node.dtype)
    if ord in (1, 2):
        return node.call(f"l{int(ord)}_norm", x, axes=axes, keepdims=keepdim)
    size = node.op.abs(x)
    if ord == math.inf:
        return node.op.max(size, axes=axes, keepdims=keepdim)
    if ord == -math.inf:
        return node.op.min(size, axes=axes, keepdims=keepdim)
    if ord == 0:
        some = node.cast(node.op.not_equal(x, 0.0), node.dtype)
        return node.op.sum(some, axes=axes, keepdims=keepdim)
    total = node.op.sum(node.op.pow(size, float(ord)), axes=axes, keepdims=keepdim)
    return node.op.pow(total, 1.0 / float(ord))


# -- scans and orders ------------------------------------------------------------------------


@converts("aten.cumsum.default", "aten.cumprod.default")
def _scan(node: Node, x: GraphExpr, dim: int, *, dtype: Any = None) -> Any:
    x = _accumulated(node, x)
    if not rank(x):
        return x
    name = "cumsum" if "cumsum" in node.target else "cumprod"
    return node.call(name, x, axis=normal_axis(dim, rank(x)))


@converts("aten.topk.default")
def _topk(
    node: Node, x: GraphExpr, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True
) -> Any:
    if not rank(x):
        return x, node.tensor(0)
    return node.op.topk(x, k=k, axis=normal_axis(dim, rank(x)), largest=largest)


@converts("aten.sort.default", "aten.sort.stable")
def _sort(
    node: Node,
    x: GraphExpr,
    *given: Any,
    dim: int | None = None,
    descending: bool | None = None,
    stable: bool | None = None,
) -> Any:
    positional = list(given)
    if "stable" in node.target and positional and not isinstance(positional[0], int):
        positional.pop(0)
    axis = dim if dim is not None else positional[0] if positional else -1
    order = descending if descending is not None else len(positional) > 1 and positional[1]
    return _sorted(node, x, axis, bool(order))


def _sorted(node: Node, x: GraphExpr, dim: int, descending: bool) -> Any:
    if not rank(x):
        return x, node.tensor(0)
    axis = normal_axis(dim, rank(x))
    found = node.cast(x, "uint8") if dtype(x).is_bool else x
    # The one order is stable in either direction: of equals the first comes first.
    return node.op.topk(found, k=shape(x)[axis], axis=axis, largest=descending)


@converts("aten.argsort.default", "aten.argsort.stable")
def _argsort(
    node: Node, x: GraphExpr, dim: int = -1, descending: bool = False, *, stable: bool = False
) -> Any:
    return _sorted(node, x, dim, descending)[1]
