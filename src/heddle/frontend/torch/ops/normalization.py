# SPDX-License-Identifier: Apache-2.0
"""Normalisations and softmax."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from heddle.frontend.torch.node import Node, dtype, normal_axis, rank, shape
from heddle.frontend.torch.registry import converts
from heddle.frontend.torch.report import Unsupported
from heddle.graph import Constant, GraphExpr
from heddle.ir.expr import Expr


@converts("aten._softmax.default", "aten._log_softmax.default")
def _softmax(node: Node, x: GraphExpr, dim: int, half_to_float: bool = False) -> Any:
    if not rank(x):
        return node.full((), 0.0 if "log" in node.target else 1.0, node.dtype)
    name = "log_softmax" if "log" in node.target else "softmax"
    return node.call(name, node.cast(x, node.dtype), axis=normal_axis(dim, rank(x)))


@converts("aten._safe_softmax.default")
def _safe_softmax(node: Node, x: GraphExpr, dim: int, dtype: Any = None) -> Any:
    x = node.cast(x, node.dtype)
    axis = normal_axis(dim, rank(x))
    largest = node.op.max(x, axes=(axis,), keepdims=True)
    kept = node.op.greater(largest, node.scalar(-math.inf, x))
    return node.op.where(kept, node.op.softmax(x, axis=axis), node.scalar(0.0, x))


@converts("aten.softmax.int", "aten.log_softmax.int")
def _softmax_int(node: Node, x: GraphExpr, dim: int, dtype: Any = None) -> Any:
    return _softmax(node, x, dim)


# -- over the last axes ----------------------------------------------------------------------


@converts("aten.layer_norm.default")
def _layer_norm(
    node: Node,
    x: GraphExpr,
    normalized_shape: Any,
    weight: GraphExpr | None = None,
    bias: GraphExpr | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:
    axis = rank(x) - len(normalized_shape)
    return node.op.layer_norm(x, *_affine(node, x, weight, bias), axis=axis, epsilon=eps)


def _affine(node: Node, x: GraphExpr, *given: GraphExpr | None) -> list[GraphExpr | None]:
    return [None if value is None else node.cast(value, dtype(x)) for value in given]


@converts("aten.native_layer_norm.default")
def _native_layer_norm(
    node: Node,
    x: GraphExpr,
    normalized_shape: Any,
    weight: GraphExpr | None,
    bias: GraphExpr | None,
    eps: float,
) -> Any:
    axis = rank(x) - len(normalized_shape)
    out = _layer_norm(node, x, normalized_shape, weight, bias, eps)
    mean, inverse = _statistics(node, x, tuple(range(axis, rank(x))), eps)
    return out, mean, inverse


def _statistics(node: Node, x: GraphExpr, axes: tuple[int, ...], eps: float) -> Any:
    """Mean and 1 / sqrt(variance + eps) over `axes`, which stay with size 1; (None, None) when
    neither is read."""
    if not (node.uses(1) or node.uses(2)):
        return None, None
    wide = node.cast(x, "float32") if dtype(x).bits == 16 else x
    mean = node.op.mean(wide, axes=axes, keepdims=True)
    distance = node.op.sub(wide, mean)
    variance = node.op.mean(node.op.mul(distance, distance), axes=axes, keepdims=True)
    return mean, node.op.rsqrt(node.op.add(variance, float(eps)))


@converts("aten.rms_norm.default", "aten._fused_rms_norm.default")
def _rms_norm(
    node: Node,
    x: GraphExpr,
    normalized_shape: Any,
    weight: GraphExpr | None = None,
    eps: float | None = None,
) -> Any:
    axis = rank(x) - len(normalized_shape)
    if eps is None:  # the machine epsilon of the dtype that torch computes in
        eps = float(np.finfo(np.float64 if dtype(x).bits == 64 else np.float32).eps)
    out = node.op.rms_norm(x, *_affine(node, x, weight), axis=axis, epsilon=eps)
    if "fused" not in node.target:
        return out
    if not node.uses(1):
        return out, None
    wide = node.cast(x, "float32") if dtype(x).bits == 16 else x
    square = node.op.mean(node.op.mul(wide, wide), axes=tuple(range(axis, rank(x))), keepdims=True)
    return out, node.op.rsqrt(node.op.add(square, float(eps)))


# -- over channels ---------------------------------------------------------------------------


@converts("aten.native_group_norm.default")
def _native_group_norm(
    node: Node,
    x: GraphExpr,
    weight: GraphExpr | None,
    bias: GraphExpr | None,
    n: Any,
    c: Any,
    hxw: Any,
    group: int,
    eps: float,
) -> Any:
    out = _group_norm(node, x, group, weight, bias, eps)
    if not (node.uses(1) or node.uses(2)):
        return out, None, None
    apart = node.reshape(x, (n, group, c // group * hxw))
    mean, inverse = _statistics(node, apart, (2,), eps)
    return out, node.reshape(mean, (n, group)), node.reshape(inverse, (n, group))


@converts("aten.group_norm.default")
def _group_norm(
    node: Node,
    x: GraphExpr,
    num_groups: int,
    weight: GraphExpr | None = None,
    bias: GraphExpr | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    channels = shape(x)[1]
    scale, shift = _affine(node, x, weight, bias)
    scale = scale if scale is not None else _vector(node, channels, 1.0, x)
    shift = shift if shift is not None else _vector(node, channels, 0.0, x)
    if rank(x) == 2:  # no spatial axes
        deep = node.op.unsqueeze(x, axes=(2,))
        flat = node.op.group_norm(deep, scale, shift, num_groups=num_groups, epsilon=eps)
        return node.op.squeeze(flat, axes=(2,))
    return node.op.group_norm(x, scale, shift, num_groups=num_groups, epsilon=eps)


def _vector(node: Node, size: Any, value: float, like: GraphExpr) -> GraphExpr:
    if isinstance(size, Expr):
        return node.full((size,), value, dtype(like))
    return Constant(np.full(size, value, dtype(like).numpy))


@converts(
    "aten._native_batch_norm_legit_no_training.default",
    "aten._batch_norm_no_update.default",
)
def _batch_norm(
    node: Node,
    x: GraphExpr,
    weight: GraphExpr | None,
    bias: GraphExpr | None,
    running_mean: GraphExpr,
    running_var: GraphExpr,
    momentum: float,
    eps: float,
) -> Any:
    out = _normalised(node, x, weight, bias, running_mean, running_var, eps)
    empty = [node.full((0,), 0.0, dtype(x)) if node.uses(at) else None for at in (1, 2)]
    return out, *empty, *([None] if len(node.result) == 4 else [])


def _normalised(
    node: Node,
    x: GraphExpr,
    weight: GraphExpr | None,
    bias: GraphExpr | None,
    mean: GraphExpr,
    variance: GraphExpr,
    eps: float,
) -> GraphExpr:
    channels = shape(x)[1]
    scale, shift = _affine(node, x, weight, bias)
    scale = scale if scale is not None else _vector(node, channels, 1.0, x)
    shift = shift if shift is not None else _vector(node, channels, 0.0, x)
    means, variances = _affine(node, x, mean, variance)
    return node.op.batch_norm(x, scale, shift, means, variances, epsilon=eps)  # type: ignore[no-any-return]


@converts("aten.native_batch_norm.default", "aten._native_batch_norm_legit.default")
def _batch_norm_in_place(
    node: Node,
    x: GraphExpr,
    weight: GraphExpr | None,
    bias: GraphExpr | None,
    running_mean: GraphExpr | None,
    running_var: GraphExpr | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    if running_mean is None or running_var is None:
        return _batch_norm_no_stats(node, x, weight, bias, training, momentum, eps)
    if training:
        raise Unsupported("it updates its running statistics in place")
    return _batch_norm(node, x, weight, bias, running_mean, running_var, momentum, eps)


@converts("aten._native_batch_norm_legit_functional.default")
def _batch_norm_training(
    node: Node,
    x: GraphExpr,
    weight: GraphExpr | None,
    bias: GraphExpr | None,
    running_mean: GraphExpr,
    running_var: GraphExpr,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """Results: out, mean, 1 / sqrt(variance + eps), and both running statistics updated."""
    if not training:
        out = _normalised(node, x, weight, bias, running_mean, running_var, eps)
        return out, None, None, running_mean, running_var
    out, mean, inverse, variance = _batch_statistics(node, x, weight, bias, eps)
    count: Any = math.prod(dim for axis, dim in enumerate(shape(x)) if axis != 1)
    free = node.op.sub(node.tensor(count, dtype(variance)), 1.0)
    corrected = node.op.mul(variance, node.op.div(node.tensor(count, dtype(variance)), free))

    def updated(old: GraphExpr, new: GraphExpr) -> GraphExpr:
        kept = node.op.mul(old, 1.0 - momentum)
        return node.op.add(kept, node.op.mul(node.cast(new, dtype(old)), momentum))  # type: ignore[no-any-return]

    return out, mean, inverse, updated(running_mean, mean), updated(running_var, corrected)


@converts("aten._native_batch_norm_legit.no_stats")
def _batch_norm_no_stats(
    node: Node,
    x: GraphExpr,
    weight: GraphExpr | None,
    bias: GraphExpr | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    return _batch_statistics(node, x, weight, bias, eps)[:3]


def _batch_statistics(
    node: Node, x: GraphExpr, weight: GraphExpr | None, bias: GraphExpr | None, eps: float
) -> Any:
    """x normalised over all axes but the channels; mean, inverse deviation and variance."""
    axes = (0, *range(2, rank(x)))
    wide = node.cast(x, "float32") if dtype(x).bits == 16 else x
    mean = node.op.mean(wide, axes=axes, keepdims=True)
    distance = node.op.sub(wide, mean)
    variance = node.op.mean(node.op.mul(distance, distance), axes=axes)
    mean = node.op.squeeze(mean, axes=axes)
    inverse = node.op.rsqrt(node.op.add(variance, float(eps)))
    out = _normalised(node, wide, weight, bias, mean, variance, eps)
    return out, mean, inverse, variance


@converts("aten._weight_norm_interface_backward.default")
def _weight_norm_backward(
    node: Node, grad: GraphExpr, v: GraphExpr, g: GraphExpr, norms: GraphExpr, dim: int
) -> Any:
    """Of w = g v / |v|, the norms taken over all axes but `dim`, the gradients of v and g."""
    axes = tuple(axis for axis in range(rank(v)) if axis != normal_axis(dim, rank(v)))
    along = node.op.div(node.op.sum(node.op.mul(grad, v), axes=axes, keepdims=True), norms)
    across = node.op.sub(grad, node.op.mul(v, node.op.div(along, norms)))
    return node.op.mul(node.op.div(g, norms), across), along
