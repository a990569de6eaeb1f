# SPDX-License-Identifier: Apache-2.0
"""Tensors from nothing but numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from heddle.frontend.torch.node import Node
from heddle.frontend.torch.registry import converts
from heddle.frontend.torch.report import Unsupported
from heddle.graph import Constant, GraphExpr
from heddle.ir.expr import Expr


@converts("aten.full.default", "aten.full_like.default", "aten.new_full.default")
def _full(node: Node, *args: Any, **_kwargs: Any) -> Any:
    value = args[2] if "new_full" in node.target else args[1]
    return node.expand(node.tensor(value, node.dtype), node.shape)


@converts(
    "aten.zeros.default",
    "aten.zeros_like.default",
    "aten.new_zeros.default",
    "aten.ones.default",
    "aten.ones_like.default",
    "aten.new_ones.default",
    "aten.empty.memory_format",
    "aten.empty_like.default",
    "aten.new_empty.default",
    "aten.empty_strided.default",
    "aten.empty_permuted.default",
    "aten.new_empty_strided.default",
)
def _filled(node: Node, *_args: Any, **_kwargs: Any) -> Any:
    # What is left empty holds zeros here: whoever reads it gets the same each time.
    return node.full(node.shape, 1 if "ones" in node.target else 0, node.dtype)


@converts("aten.scalar_tensor.default")
def _scalar_tensor(node: Node, value: Any, **_kwargs: Any) -> Any:
    return node.tensor(value, node.dtype)


@converts("aten.fill.Scalar", "aten.fill.Tensor")
def _fill(node: Node, x: GraphExpr, value: Any) -> Any:
    return node.expand(node.tensor(value, node.dtype), node.shape)


@converts("aten.copy.default")
def _copy(node: Node, x: GraphExpr, src: GraphExpr, non_blocking: bool = False) -> Any:
    return node.expand(node.cast(src, node.dtype), node.shape)


@converts("aten.arange.start_step", "aten.arange.start", "aten.arange.default")
def _arange(node: Node, *args: Any, **_kwargs: Any) -> Any:
    start = args[0] if len(args) > 1 else 0
    step = args[2] if len(args) > 2 else 1
    if isinstance(step, Expr):
        raise Unsupported("a range whose step is a symbolic size")
    if node.dtype.is_int:
        start, step = (int(v) if isinstance(v, float) else v for v in (start, step))
    if not isinstance(start, Expr):
        return node.op.range(count=node.shape[0], start=start, step=step, dtype=node.dtype)
    steps = node.op.range(count=node.shape[0], start=0, step=step, dtype=node.dtype)
    return node.op.add(steps, node.tensor(start, node.dtype))


@converts("prims.iota.default")
def _iota(node: Node, length: Any, *, start: Any, step: Any, **_kwargs: Any) -> Any:
    return _arange(node, start, None, step)


@converts("aten.linspace.default")
def _linspace(node: Node, start: Any, end: Any, steps: int, **_kwargs: Any) -> Any:
    if not all(isinstance(value, (int, float)) for value in (start, end, steps)):
        raise Unsupported("a linspace whose ends or steps are not known")
    if not node.dtype.is_float:
        raise Unsupported("a linspace of integers")
    step = (end - start) / (steps - 1) if steps > 1 else 0.0
    return node.op.range(count=steps, start=float(start), step=float(step), dtype=node.dtype)


@converts("aten.eye.default", "aten.eye.m")
def _eye(node: Node, *_args: Any, **_kwargs: Any) -> Any:
    return node.op.eye(shape=node.shape, dtype=node.dtype)


@converts("aten.one_hot.default")
def _one_hot(node: Node, x: GraphExpr, num_classes: int = -1) -> Any:
    classes = node.op.range(count=node.shape[-1], dtype="int64")
    column = node.op.unsqueeze(x, axes=(len(node.shape) - 1,))
    return node.op.equal(column, classes)


@converts("aten.tril_indices.default", "aten.triu_indices.default")
def _triangle_indices(node: Node, row: int, col: int, offset: int = 0, **_kwargs: Any) -> Any:
    places = np.tril_indices if "tril" in node.target else np.triu_indices
    return Constant(np.stack(places(row, offset, col)).astype(node.dtype.numpy))


@converts("aten.fft_fftfreq.default", "aten.fft_rfftfreq.default")
def _frequencies(node: Node, n: Any, d: float = 1.0, **_kwargs: Any) -> Any:
    """k / (n d), the frequencies from n / 2 on less 1 / d."""
    size = node.tensor(n, "int64")
    place = node.op.range(count=node.shape[0], dtype="int64")
    if ".fft_fftfreq" in node.target:
        half = node.op.div(node.op.add(size, 1), 2)
        late = node.op.greater_equal(place, half)
        place = node.op.where(late, node.op.sub(place, size), place)
    span = node.op.mul(node.cast(size, node.dtype), float(d))
    return node.op.div(node.cast(place, node.dtype), span)
