# SPDX-License-Identifier: Apache-2.0
"""Rounding to few values, and other elementwise operators of training that inference keeps."""

from __future__ import annotations

from typing import Any

from heddle.frontend.torch.node import Node, dtype, rank
from heddle.frontend.torch.registry import converts
from heddle.frontend.torch.report import Unsupported
from heddle.graph import GraphExpr


@converts(
    "aten.fake_quantize_per_tensor_affine_cachemask.default",
    "aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default",
)
def _fake_quantize(node: Node, x: GraphExpr, scale: Any, zero: Any, *rest: Any) -> Any:
    """rest: whether to quantise at all (a tensor, in the second form), the smallest and the largest
    integer. The second result says where x is not cut off."""
    *enabled, low, high = rest
    kind = dtype(x)
    step, origin = node.tensor(scale, kind), node.tensor(zero, kind)
    out, mask = _rounded(node, x, step, origin, low, high)
    if enabled:
        on = node.cast(enabled[0], "bool")
        return node.op.where(on, out, x), node.op.logical_or(node.op.logical_not(on), mask)
    return out, mask


@converts("aten.fake_quantize_per_channel_affine_cachemask.default")
def _fake_quantize_channels(
    node: Node, x: GraphExpr, scale: GraphExpr, zero: GraphExpr, axis: int, low: int, high: int
) -> Any:
    later = tuple(range(1, rank(x) - axis))
    step, origin = (
        node.op.unsqueeze(node.cast(value, dtype(x)), axes=later)
        if later
        else node.cast(value, dtype(x))
        for value in (scale, zero)
    )
    return _rounded(node, x, step, origin, low, high)


def _rounded(
    node: Node, x: GraphExpr, step: GraphExpr, origin: GraphExpr, low: int, high: int
) -> tuple[GraphExpr, GraphExpr]:
    level = node.op.add(node.op.round(node.op.mul(x, node.op.reciprocal(step))), origin)
    kept = node.op.clip(level, min=float(low), max=float(high))
    return node.op.mul(node.op.sub(kept, origin), step), node.op.equal(kept, level)


@converts("aten.rrelu_with_noise_functional.default")
def _rrelu(
    node: Node,
    x: GraphExpr,
    noise: GraphExpr,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    generator: Any = None,
) -> Any:
    if training:
        raise Unsupported("rrelu in training mode is random")
    return node.op.leaky_relu(x, alpha=(lower + upper) / 2), noise


@converts("aten.ldexp.Tensor")
def _ldexp(node: Node, x: GraphExpr, exponent: GraphExpr) -> Any:
    two = node.tensor(2.0, node.dtype)
    return node.op.mul(node.cast(x, node.dtype), node.op.pow(two, node.cast(exponent, node.dtype)))


@converts("aten.rrelu_with_noise_backward.default")
def _rrelu_backward(
    node: Node,
    grad: GraphExpr,
    x: GraphExpr,
    noise: GraphExpr,
    lower: float,
    upper: float,
    training: bool,
    self_is_result: bool,
) -> Any:
    if training and upper - lower > 1e-6:
        return node.op.mul(grad, noise)
    falling = node.op.mul(grad, (float(lower) + float(upper)) / 2.0)
    return node.op.where(node.op.greater(x, 0.0), grad, falling)
