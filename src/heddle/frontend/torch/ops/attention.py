# SPDX-License-Identifier: Apache-2.0
"""Attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

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


# -- the fused layer of nn.TransformerEncoderLayer -----------------------------------------------


@converts("aten._transformer_encoder_layer_fwd.default")
def _encoder_layer(
    node: Node,
    src: GraphExpr,
    embed_dim: int,
    num_heads: int,
    qkv_weight: GraphExpr,
    qkv_bias: GraphExpr,
    proj_weight: GraphExpr,
    proj_bias: GraphExpr,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    *weights: Any,
) -> Any:
    """weights: scale and bias of both normalisations, weight and bias of both linear layers, then
    the mask (True, or what is not zero, leaves a key out) and its kind."""
    scale_1, bias_1, scale_2, bias_2, up, up_bias, down, down_bias, *masks = weights
    mask, kind = [*masks, None, None][:2]

    def linear(x: GraphExpr, weight: GraphExpr, bias: GraphExpr) -> GraphExpr:
        return node.op.add(node.op.matmul(x, weight, transpose_b=True), bias)  # type: ignore[no-any-return]

    def norm(x: GraphExpr, scale: GraphExpr, bias: GraphExpr) -> GraphExpr:
        return node.op.layer_norm(x, scale, bias, axis=rank(x) - 1, epsilon=eps)  # type: ignore[no-any-return]

    def attention(x: GraphExpr) -> GraphExpr:
        mixed = _self_attention(node, linear(x, qkv_weight, qkv_bias), num_heads, mask, kind)
        return linear(mixed, proj_weight, proj_bias)

    def feed_forward(x: GraphExpr) -> GraphExpr:
        inner = linear(x, up, up_bias)
        return linear(node.op.gelu(inner) if use_gelu else node.op.relu(inner), down, down_bias)

    if norm_first:
        src = node.op.add(src, attention(norm(src, scale_1, bias_1)))
        return node.op.add(src, feed_forward(norm(src, scale_2, bias_2)))
    src = norm(node.op.add(src, attention(src)), scale_1, bias_1)
    return norm(node.op.add(src, feed_forward(src)), scale_2, bias_2)


@converts("aten._native_multi_head_attention.default")
def _native_multi_head_attention(
    node: Node,
    query: GraphExpr,
    key: GraphExpr,
    value: GraphExpr,
    embed_dim: int,
    num_head: int,
    qkv_weight: GraphExpr,
    qkv_bias: GraphExpr,
    proj_weight: GraphExpr,
    proj_bias: GraphExpr,
    mask: GraphExpr | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> Any:
    if query is not key or key is not value:
        raise Unsupported("fused attention of a query, a key and a value that differ")
    if need_weights and node.uses(1):
        raise Unsupported("fused attention that gives its weights")
    product = node.op.matmul(query, qkv_weight, transpose_b=True)
    mixed = _self_attention(node, node.op.add(product, qkv_bias), num_head, mask, mask_type)
    out = node.op.add(node.op.matmul(mixed, proj_weight, transpose_b=True), proj_bias)
    return out, None


def _self_attention(
    node: Node, qkv: GraphExpr, heads: int, mask: GraphExpr | None, kind: int | None
) -> GraphExpr:
    """Attention over qkv[N, S, 3 * heads * D], gives [N, S, heads * D]. Kinds of masks: 0 is
    [S, S], 1 is [N, S] of keys, 2 has all axes of the scores."""
    batch, length, width = shape(qkv)
    apart = node.reshape(qkv, (batch, length, 3, heads, width // (3 * heads)))
    turned = node.op.transpose(apart, permutation=(2, 0, 3, 1, 4))
    q, k, v = (node.op.gather(turned, Constant(np.asarray(at)), axis=0) for at in range(3))
    kept = None
    if mask is not None:
        kept = node.op.logical_not(node.cast(mask, "bool"))
        kept = node.op.unsqueeze(kept, axes=(1, 2)) if kind == 1 else kept
    mixed = attend(node, q, k, v, kept, causal=False, scale=None)
    back = node.op.transpose(mixed, permutation=(0, 2, 1, 3))
    return node.reshape(back, (batch, length, width // 3))
