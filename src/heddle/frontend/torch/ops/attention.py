# SPDX-License-Identifier: Apache-2.0
"""Attention."""

from __future__ import annotations

import math
from typing import Any

from heddle.frontend.torch.node import Node, dtype, rank, same_shape, shape
from heddle.frontend.torch.registry import converts
from heddle.frontend.torch.report import Unsupported
from heddle.graph import Constant, GraphExpr
from heddle.ir.expr import Expr


@converts("aten.scaled_dot_product_attention.default")
def _attention(
    node: Node,
    query: GraphExpr,
    key: GraphExpr,
    value: GraphExpr,
    attn_mask: GraphExpr | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if dropout_p:
        raise Unsupported("dropout in attention is random")
    out = attend(node, query, key, value, attn_mask, causal=is_causal, scale=scale)
    return node.reshape(out, node.shape)


@converts("aten._scaled_dot_product_flash_attention_for_cpu.default")
def _flash_attention(
    node: Node,
    query: GraphExpr,
    key: GraphExpr,
    value: GraphExpr,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: GraphExpr | None = None,
    scale: float | None = None,
) -> Any:
    if dropout_p:
        raise Unsupported("dropout in attention is random")
    return attend(node, query, key, value, attn_mask, causal=is_causal, scale=scale), None


def attend(
    node: Node,
    query: GraphExpr,
    key: GraphExpr,
    value: GraphExpr,
    mask: GraphExpr | None,
    *,
    causal: bool,
    scale: float | None,
) -> GraphExpr:
    """softmax(scale * q k^T + mask) v over [N, H, S, D], zero for queries that keep no key."""
    depth = shape(query)[-1]
    if scale is None:
        if isinstance(depth, Expr):
            raise Unsupported("the size of a head is symbolic")
        scale = 1.0 / math.sqrt(depth) if depth else 1.0
    queries, keys = shape(query)[-2], shape(key)[-2]
    if causal and not same_shape([queries], [keys]):
        # torch aligns the diagonal with the first key, the operator with the last one.
        mask, causal = _lower_triangle(node, queries, keys), False
    q, k, v = (_four_axes(node, x) for x in (query, key, value))
    if mask is not None:
        mask = _mask(node, mask, query)
    out = node.op.attention(q, k, v, mask, scale=float(scale), causal=causal)
    return out if mask is None else _without_masked(node, out, mask)


def _four_axes(node: Node, x: GraphExpr) -> GraphExpr:
    if rank(x) == 4:
        return x
    if rank(x) < 4:
        return node.op.unsqueeze(x, axes=tuple(range(4 - rank(x))))  # type: ignore[no-any-return]
    batch: Any = 1
    for dim in shape(x)[:-3]:
        batch = batch * dim
    return node.reshape(x, (batch, *shape(x)[-3:]))


def _mask(node: Node, mask: GraphExpr, query: GraphExpr) -> GraphExpr:
    """The mask with four axes, in the dtype of the query when it is added."""
    if not dtype(mask).is_bool:
        mask = node.cast(mask, dtype(query))
    if rank(mask) > 4:
        if not same_shape(shape(mask)[:-2], shape(query)[:-2]):
            raise Unsupported("a mask of more than four axes that broadcasts")
        return _four_axes(node, mask)
    return _four_axes(node, mask)


def _lower_triangle(node: Node, queries: Any, keys: Any) -> GraphExpr:
    """Whether key j counts for query i: j <= i."""
    rows = node.op.unsqueeze(node.op.range(count=queries, dtype="int64"), axes=(1,))
    columns = node.op.unsqueeze(node.op.range(count=keys, dtype="int64"), axes=(0,))
    return node.op.less_equal(columns, rows)  # type: ignore[no-any-return]


def _without_masked(node: Node, out: GraphExpr, mask: GraphExpr) -> GraphExpr:
    """`out`, but zero for queries of which the mask keeps no key, as torch has it."""
    if isinstance(mask, Constant) and mask.data.dtype == bool and mask.data.any(axis=-1).all():
        return out
    if dtype(mask).is_bool:
        kept = node.op.any(mask, axes=(3,), keepdims=True)
    else:
        largest = node.op.max(mask, axes=(3,), keepdims=True)
        kept = node.op.greater(largest, node.scalar(-math.inf, mask))
    return node.op.where(kept, out, node.scalar(0.0, out))  # type: ignore[no-any-return]
