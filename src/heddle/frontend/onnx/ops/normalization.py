# SPDX-License-Identifier: Apache-2.0
"""Normalisations and softmax."""

from __future__ import annotations

from typing import Any

from heddle.frontend.onnx.node import Node, dtype, normal_axis, rank, shape
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.report import Unsupported
from heddle.graph import GraphExpr


@converts("BatchNormalization")
def _batch_norm(node: Node) -> Any:
    if node.attr.flag("training_mode"):
        return _training_batch_norm(node)
    if len([name for name in node.outputs if name]) > 1 and node.version >= 14:
        raise Unsupported("batch normalisation in training mode")
    x = node.tensor(0)
    kind = dtype(x)
    rest = [node.cast(node.tensor(position), kind) for position in range(1, 5)]
    return node.op.batch_norm(x, *rest, epsilon=node.attr.float("epsilon", 1e-5))


def _training_batch_norm(node: Node) -> Any:
    x, scale, bias, mean, variance = (node.tensor(position) for position in range(5))
    axes = (0, *range(2, rank(x)))
    momentum = node.attr.float("momentum", 0.9)
    now = node.op.mean(x, axes=axes)
    distance = node.op.sub(x, _per_channel(node, now, x))
    spread = node.op.mean(node.op.mul(distance, distance), axes=axes)
    result = node.op.batch_norm(
        x, scale, bias, now, spread, epsilon=node.attr.float("epsilon", 1e-5)
    )

    def running(old: GraphExpr, new: GraphExpr) -> Any:
        return node.op.add(node.op.mul(old, momentum), node.op.mul(new, 1.0 - momentum))

    return (result, running(mean, now), running(variance, spread))[: len(node.outputs)]


def _per_channel(node: Node, value: GraphExpr, like: GraphExpr) -> GraphExpr:
    return node.reshape(value, (1, *shape(value), *(1,) * (rank(like) - 2)))


@converts("InstanceNormalization")
def _instance_norm(node: Node) -> Any:
    return node.op.instance_norm(
        node.tensor(0),
        node.tensor(1),
        node.tensor(2),
        epsilon=node.attr.float("epsilon", 1e-5),
    )


@converts("GroupNormalization", since=21)
def _group_norm(node: Node) -> Any:
    return node.op.group_norm(
        node.tensor(0),
        node.tensor(1),
        node.tensor(2),
        num_groups=node.attr.int("num_groups"),
        epsilon=node.attr.float("epsilon", 1e-5),
    )


@converts("LayerNormalization")
def _layer_norm(node: Node) -> Any:
    x = node.tensor(0)
    axis = normal_axis(node.attr.int("axis", -1), rank(x))
    epsilon = node.attr.float("epsilon", 1e-5)
    tail = shape(x)[axis:]
    scale = _spread(node, node.tensor(1), tail)
    bias = node.optional(2)
    bias = bias if bias is None else _spread(node, bias, tail)
    result = node.op.layer_norm(x, scale, bias, axis=axis, epsilon=epsilon)
    if len(node.outputs) == 1:
        return result
    axes = tuple(range(axis, rank(x)))
    wide = node.cast(x, "float32") if dtype(x).bits == 16 else x
    mean = node.op.mean(wide, axes=axes, keepdims=True)
    distance = node.op.sub(wide, mean)
    variance = node.op.mean(node.op.mul(distance, distance), axes=axes, keepdims=True)
    inverse = node.op.rsqrt(node.op.add(variance, epsilon))
    return (result, mean, inverse)[: len(node.outputs)]


def _spread(node: Node, value: GraphExpr, tail: tuple[Any, ...]) -> GraphExpr:
    """scale or bias, which may broadcast, in the shape of the normalised axes."""
    if len(shape(value)) == len(tail) and 1 not in shape(value):
        return value
    return node.op.broadcast_to(value, shape=tail)  # type: ignore[no-any-return]


@converts("RMSNormalization")
def _rms_norm(node: Node) -> Any:
    x = node.tensor(0)
    axis = normal_axis(node.attr.int("axis", -1), rank(x))
    scale = _spread(node, node.tensor(1), shape(x)[axis:])
    return node.op.rms_norm(x, scale, axis=axis, epsilon=node.attr.float("epsilon", 1e-5))


@converts("SimplifiedLayerNormalization")
def _simplified_layer_norm(node: Node) -> Any:
    return _rms_norm(node)


@converts("LRN")
def _lrn(node: Node) -> Any:
    return node.op.lrn(
        node.tensor(0),
        size=node.attr.int("size"),
        alpha=node.attr.float("alpha", 1e-4),
        beta=node.attr.float("beta", 0.75),
        bias=node.attr.float("bias", 1.0),
    )


@converts("Softmax", "LogSoftmax", "Hardmax")
def _softmax(node: Node) -> Any:
    x = node.tensor(0)
    if node.version >= 13:
        return _along(node, x, node.attr.int("axis", -1))
    # Until opset 12 the input was made a matrix first, its rows the axes from `axis` on.
    axis = normal_axis(node.attr.int("axis", 1), rank(x)) if rank(x) > 1 else 0
    if axis == rank(x) - 1:
        return _along(node, x, axis)
    flat = node.op.flatten(x, axis=axis)
    return node.reshape(_along(node, flat, -1), shape(x))


def _along(node: Node, x: GraphExpr, axis: int) -> Any:
    if node.op_type == "Softmax":
        return node.op.softmax(x, axis=axis)
    if node.op_type == "LogSoftmax":
        return node.op.log_softmax(x, axis=axis)
    at = normal_axis(axis, rank(x))
    largest = node.op.argmax(x, axis=at, keepdims=True)
    count = shape(x)[at]
    places = node.op.range(count=count, dtype="int64")
    positions = node.reshape(places, (count, *[1] * (rank(x) - at - 1)))
    return node.cast(node.op.equal(largest, positions), dtype(x))


@converts("LpNormalization")
def _lp_norm(node: Node) -> Any:
    x, axis, p = node.tensor(0), node.attr.int("axis", -1), node.attr.int("p", 2)
    norm = node.call("l1_norm" if p == 1 else "l2_norm", x, axes=(axis,), keepdims=True)
    zero = node.op.equal(norm, 0.0)
    safe = node.op.where(zero, node.scalar(1, x), norm)
    return node.op.where(zero, node.scalar(0, x), node.op.div(x, safe))
