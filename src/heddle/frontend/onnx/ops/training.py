# SPDX-License-Identifier: Apache-2.0
"""Steps of optimisers (domain ai.onnx.preview.training), in operators on whole tensors."""

from __future__ import annotations

from typing import Any, Final

from heddle.frontend.onnx.node import Node, dtype
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.report import Unsupported
from heddle.graph import GraphExpr
from heddle.support import UserError

_DOMAIN: Final = "ai.onnx.preview.training"


def _groups(node: Node, count: int) -> list[list[GraphExpr]]:
    """The tensors after rate and step, `count` for each of those that are trained."""
    rest = [node.tensor(position) for position in range(2, len(node.inputs))]
    if not rest or len(rest) % count:
        raise UserError(f"{len(rest)} tensors, expected {count} for each that is trained")
    each = len(rest) // count
    return [[rest[kind * each + at] for kind in range(count)] for at in range(each)]


def _ordered(rows: list[tuple[GraphExpr, ...]]) -> tuple[GraphExpr, ...]:
    """All new values, then all first moments, and so on."""
    return tuple(value for column in zip(*rows, strict=True) for value in column)


def _regularized(node: Node, x: GraphExpr, gradient: GraphExpr) -> GraphExpr:
    norm = node.attr.float("norm_coefficient", 0.0)
    if norm == 0.0:
        return gradient
    return node.op.add(node.op.mul(x, norm), gradient)  # type: ignore[no-any-return]


@converts("Adagrad", domain=_DOMAIN)
def _adagrad(node: Node) -> Any:
    rate, step = node.reshape(node.tensor(0), ()), node.reshape(node.tensor(1), ())
    decay, epsilon = node.attr.float("decay_factor", 0.0), node.attr.float("epsilon", 0.0)
    rows = []
    for x, given, total in _groups(node, 3):
        slower = node.op.add(node.op.mul(node.cast(step, dtype(x)), decay), 1.0)
        gradient = _regularized(node, x, given)
        grown = node.op.add(total, node.op.mul(gradient, gradient))
        size = node.op.add(node.op.sqrt(grown), epsilon)
        scale = node.op.div(node.cast(rate, dtype(x)), slower)
        moved = node.op.sub(x, node.op.div(node.op.mul(scale, gradient), size))
        rows.append((moved, grown))
    return _ordered(rows)


@converts("Adam", domain=_DOMAIN)
def _adam(node: Node) -> Any:
    rate, step = node.reshape(node.tensor(0), ()), node.reshape(node.tensor(1), ())
    alpha, beta = node.attr.float("alpha", 0.9), node.attr.float("beta", 0.999)
    epsilon = node.attr.float("epsilon", 0.0)
    post = node.attr.float("norm_coefficient_post", 0.0)
    rows = []
    for x, given, first, second in _groups(node, 4):
        gradient = _regularized(node, x, given)
        velocity = _mixed(node, first, gradient, alpha)
        square = _mixed(node, second, node.op.mul(gradient, gradient), beta)
        time = node.cast(step, dtype(x))
        unbiased = node.op.div(
            node.op.sqrt(_missing(node, beta, time)), _missing(node, alpha, time)
        )
        started = node.op.greater(time, 0.0)
        # Before the first step both would be 0 / 0.
        factor = node.op.where(started, unbiased, node.scalar(1, x))
        scale = node.op.mul(node.cast(rate, dtype(x)), factor)
        size = node.op.add(node.op.sqrt(square), epsilon)
        moved = node.op.sub(x, node.op.mul(scale, node.op.div(velocity, size)))
        rows.append((node.op.mul(moved, 1.0 - post) if post else moved, velocity, square))
    return _ordered(rows)


def _mixed(node: Node, old: GraphExpr, new: GraphExpr, weight: float) -> Any:
    return node.op.add(node.op.mul(old, weight), node.op.mul(new, 1.0 - weight))


def _missing(node: Node, base: float, time: GraphExpr) -> Any:
    """1 - base ** time"""
    return node.op.sub(node.scalar(1, time), node.op.pow(node.scalar(base, time), time))


@converts("Momentum", domain=_DOMAIN)
def _momentum(node: Node) -> Any:
    rate, step = node.reshape(node.tensor(0), ()), node.reshape(node.tensor(1), ())
    alpha, beta = node.attr.float("alpha"), node.attr.float("beta")
    mode = node.attr.string("mode")
    if mode not in ("standard", "nesterov"):
        raise UserError(f"attribute `mode` is `{mode}`, expected standard or nesterov")
    rows = []
    for x, given, velocity in _groups(node, 3):
        gradient = _regularized(node, x, given)
        started = node.op.greater(step, 0)
        weight = node.op.where(started, node.scalar(beta, x), node.scalar(1, x))
        new = node.op.add(node.op.mul(velocity, alpha), node.op.mul(weight, gradient))
        way = node.op.add(gradient, node.op.mul(new, alpha)) if mode == "nesterov" else new
        moved = node.op.sub(x, node.op.mul(node.cast(rate, dtype(x)), way))
        rows.append((moved, new))
    return _ordered(rows)


@converts("Gradient", domain=_DOMAIN)
def _gradient(node: Node) -> Any:
    raise Unsupported("the gradient of a part of the model; heddle.grad(module) makes gradients")
