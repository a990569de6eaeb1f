# SPDX-License-Identifier: Apache-2.0
"""Attention as ONNX Runtime's optimiser writes it (domain com.microsoft), on `op.attention`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from heddle.frontend.onnx.node import Node, dtype, rank, shape
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.values import Symbolic
from heddle.graph import Constant, GraphExpr
from heddle.ir.expr import Expr, maximum
from heddle.support import UserError

_DOMAIN: Final = "com.microsoft"
_FILTER: Final = -10000.0


@dataclass
class _Heads:
    """Queries, keys and values as [batch, heads, positions, size]."""

    q: GraphExpr
    k: GraphExpr
    v: GraphExpr


def _split_heads(node: Node, x: GraphExpr, heads: int) -> GraphExpr:
    """[batch, positions, heads * size] as [batch, heads, positions, size]."""
    width = node.static_dim(x, -1, "input")
    if heads < 1 or width % heads:
        raise UserError(f"{width} channels for {heads} heads")
    batch, length, _ = shape(x)
    split = node.reshape(x, (batch, length, heads, width // heads))
    return node.op.transpose(split, permutation=(0, 2, 1, 3))  # type: ignore[no-any-return]


def _joined_heads(node: Node, x: GraphExpr) -> GraphExpr:
    batch, heads, length, size = shape(x)
    moved = node.op.transpose(x, permutation=(0, 2, 1, 3))
    return node.reshape(moved, (batch, length, heads * size))


def _heads(node: Node, what: str = "num_heads") -> int:
    heads: int = node.attr.int(what)
    if heads < 1:
        raise UserError(f"attribute `{what}` is {heads}")
    return heads


def _scale(node: Node, q: GraphExpr) -> float:
    given: float = node.attr.float("scale", 0.0)
    return given or 1.0 / math.sqrt(node.static_dim(q, -1, "query"))


def _attend(node: Node, parts: _Heads, mask: GraphExpr | None, *, causal: bool) -> GraphExpr:
    return node.op.attention(  # type: ignore[no-any-return]
        parts.q, parts.k, parts.v, mask, scale=_scale(node, parts.q), causal=causal
    )


def _key_mask(node: Node, mask: GraphExpr, keys: Any, like: GraphExpr) -> GraphExpr:
    """A mask of keys (1 where they count) as what is added to scores; or, per batch, where the keys
    that count end, and then where they begin."""
    filtered = node.attr.float("mask_filter_value", _FILTER)
    if rank(mask) == 1:
        kept = _between(node, mask, keys, shape(like)[0])
    else:
        kept = node.op.greater(node.cast(mask, "int32"), 0)
        axes = {2: (1, 2), 3: (1,), 4: ()}.get(rank(mask))
        if axes is None or (rank(mask) == 4 and shape(mask)[1] != 1):
            raise Unsupported(f"a mask of shape {shape(mask)}")
        kept = node.op.unsqueeze(kept, axes=axes) if axes else kept
    zero = node.scalar(0, like)
    return node.op.where(kept, zero, node.scalar(filtered, like))  # type: ignore[no-any-return]


def _between(node: Node, bounds: GraphExpr, keys: Any, batch: Any) -> GraphExpr:
    """Which keys count, [batch, 1, 1, keys], of bounds[batch] or [2 * batch], last and first."""
    steps = node.op.range(count=keys, dtype="int64")
    places = node.op.reshape(steps, shape=(1, 1, 1, keys))
    whole = node.cast(bounds, "int64")
    if shape(bounds)[0] is batch or shape(bounds) == (batch,):
        return node.op.less(places, node.reshape(whole, (batch, 1, 1, 1)))  # type: ignore[no-any-return]
    if not isinstance(batch, int) or shape(bounds) != (2 * batch,):
        raise Unsupported(f"a mask of shape {shape(bounds)} for a batch of {batch}")
    last, first = (
        node.reshape(part, (batch, 1, 1, 1))
        for part in node.op.split(whole, sizes=(batch, batch), axis=0)
    )
    return node.op.logical_and(node.op.less(places, last), node.op.greater_equal(places, first))  # type: ignore[no-any-return]


def _mask(
    node: Node, mask: GraphExpr | None, bias: GraphExpr | None, parts: _Heads
) -> GraphExpr | None:
    added = None if mask is None else _key_mask(node, mask, shape(parts.k)[2], parts.q)
    if added is None or bias is None:
        return bias if added is None else added
    return node.op.add(added, bias)  # type: ignore[no-any-return]


# -- Attention -------------------------------------------------------------------------------


def _projected(node: Node, product: GraphExpr) -> _Heads:
    """[batch, positions, q + k + v] as heads."""
    heads = _heads(node)
    total = node.static_dim(product, -1, "weights")
    sizes = node.attr.ints("qkv_hidden_sizes", (total // 3,) * 3)
    if len(sizes) != 3 or sum(sizes) != total:
        raise UserError(f"attribute `qkv_hidden_sizes` is {sizes}, the weights have {total}")
    q, k, v = (
        _split_heads(node, part, heads)
        for part in node.op.split(product, sizes=tuple(sizes), axis=2)
    )
    return _Heads(q, k, v)


def _finish_attention(
    node: Node, parts: _Heads, positions: tuple[int, int | None, int | None]
) -> Any:
    """The outputs, with the inputs at `positions`: mask, past, bias of the scores."""
    mask, past, bias = positions
    if node.attr.flag("do_rotary") or node.attr.flag("past_present_share_buffer"):
        raise Unsupported("Attention with rotary embedding or a shared buffer")
    if past is not None and node.has(past):
        before = node.tensor(past)
        joined = []
        for at, new in enumerate((parts.k, parts.v)):
            old = node.op.slice(before, starts=(at,), ends=(at + 1,), axes=(0,))
            joined.append(node.op.concat(node.op.squeeze(old, axes=(0,)), new, axis=2))
        parts = _Heads(parts.q, *joined)
    added = _mask(node, node.optional(mask), bias and node.optional(bias), parts)
    causal = node.attr.flag("unidirectional")
    result = _joined_heads(node, _attend(node, parts, added, causal=causal))
    if len(node.outputs) == 1:
        return result
    both = [node.op.unsqueeze(part, axes=(0,)) for part in (parts.k, parts.v)]
    return result, node.op.concat(*both, axis=0)


@converts("Attention", domain=_DOMAIN)
def _attention(node: Node) -> Any:
    product = node.op.matmul(node.tensor(0), node.tensor(1))
    if node.has(2):
        product = node.op.add(product, node.tensor(2))
    return _finish_attention(node, _projected(node, product), (3, 4, 5))


@converts("QAttention", domain=_DOMAIN)
def _q_attention(node: Node) -> Any:
    """Attention whose first product is that of integers."""

    def quantised(at: int, scale: int, zero: int) -> GraphExpr:
        flat = []
        for position in (scale, zero):
            value = node.optional(position)
            one = value is not None and shape(value) in ((), (1,))
            flat.append(node.reshape(value, ()) if one and value is not None else value)
        return node.op.dequantize(node.tensor(at), *flat)  # type: ignore[no-any-return]

    product = node.op.matmul(quantised(0, 3, 6), quantised(1, 4, 7))
    product = node.op.add(product, node.tensor(2))
    return _finish_attention(node, _projected(node, product), (5, 8, None))


@converts("MultiHeadAttention", domain=_DOMAIN)
def _multi_head_attention(node: Node) -> Any:
    heads = _heads(node)
    if any(node.has(at) for at in (8, 9)) or any(node.outputs[3:]):
        raise Unsupported("decoding with beams, or scores as an output")
    parts = _given_heads(node, heads)
    if node.has(6):
        past = [
            node.op.concat(node.tensor(at), new, axis=2) for at, new in ((6, parts.k), (7, parts.v))
        ]
        parts = _Heads(parts.q, *past)
    added = _mask(node, node.optional(4), node.optional(5), parts)
    causal = node.attr.flag("unidirectional")
    result = _joined_heads(node, _attend(node, parts, added, causal=causal))
    return (result, parts.k, parts.v)[: max(1, len(node.outputs))]


def _given_heads(node: Node, heads: int) -> _Heads:
    """The three, from one packed tensor, from two, or each from its own; with their biases."""
    q = node.tensor(0)
    biases = _biases(node, q, heads)
    if rank(q) == 5:  # [batch, positions, heads, 3, size]
        cuts = [_cut(node, q, at, 3) for at in range(3)]
    elif node.has(1) and rank(node.tensor(1)) == 5:  # [batch, positions, heads, 2, size]
        key = node.tensor(1)
        cuts = [_split_heads(node, q, heads), _cut(node, key, 0, 3), _cut(node, key, 1, 3)]
    elif not node.has(1) or not node.has(2):
        raise Unsupported("MultiHeadAttention without keys or values")
    else:
        cuts = [
            _split_heads(node, x, heads) if rank(x) == 3 else x
            for x in (node.tensor(at) for at in range(3))
        ]
    cuts = [x if b is None else node.op.add(x, b) for x, b in zip(cuts, biases, strict=True)]
    return _Heads(*cuts)


def _cut(node: Node, packed: GraphExpr, at: int, axis: int) -> GraphExpr:
    part = node.op.slice(packed, starts=(at,), ends=(at + 1,), axes=(axis,))
    plain = node.op.squeeze(part, axes=(axis,))
    return node.op.transpose(plain, permutation=(0, 2, 1, 3))  # type: ignore[no-any-return]


def _biases(node: Node, q: GraphExpr, heads: int) -> list[GraphExpr | None]:
    bias = node.optional(3)
    if bias is None:
        return [None, None, None]
    total = node.static_dim(bias, 0, "bias")
    width = node.static_dim(q, -1, "query") * (heads if rank(q) == 5 else 1)
    sizes = (width, width, total - 2 * width)
    parts = node.op.split(bias, sizes=sizes, axis=0)
    pairs = zip(parts, sizes, strict=True)
    return [node.reshape(part, (1, heads, 1, size // heads)) for part, size in pairs]


# -- rotary embedding ------------------------------------------------------------------------


def _rotated(node: Node, x: GraphExpr, tables: list[GraphExpr], *, interleaved: bool) -> GraphExpr:
    """Pairs of the last axis of x[batch, heads, positions, size] turned by angles, whose cosines
    and sines are tables[batch, 1, positions, half]."""
    cosine, sine = (node.cast(table, dtype(x)) for table in tables)
    size, half = node.static_dim(x, -1, "input"), node.static_dim(cosine, -1, "cos_cache")
    if 2 * half > size:
        raise UserError(f"tables of {half} angles for heads of {size}")
    turned = x
    if 2 * half < size:
        turned = node.op.slice(x, starts=(0,), ends=(2 * half,), axes=(3,))
    if interleaved:
        pair = node.reshape(turned, (*shape(turned)[:-1], half, 2))
        first, second = (
            node.op.squeeze(node.op.slice(pair, starts=(a,), ends=(a + 1,), axes=(4,)), axes=(4,))
            for a in range(2)
        )
    else:
        first, second = node.op.split(turned, sizes=(half, half), axis=3)
    real = node.op.sub(node.op.mul(first, cosine), node.op.mul(second, sine))
    imaginary = node.op.add(node.op.mul(second, cosine), node.op.mul(first, sine))
    if interleaved:
        wide = [node.op.unsqueeze(part, axes=(4,)) for part in (real, imaginary)]
        result = node.reshape(node.op.concat(*wide, axis=4), shape(turned))
    else:
        result = node.op.concat(real, imaginary, axis=3)
    if 2 * half == size:
        return result  # type: ignore[no-any-return]
    rest = node.op.slice(x, starts=(2 * half,), ends=(size,), axes=(3,))
    return node.op.concat(result, rest, axis=3)  # type: ignore[no-any-return]


@converts("RotaryEmbedding", domain=_DOMAIN)
def _rotary_embedding(node: Node) -> Any:
    x, cosine = node.tensor(0), node.tensor(2)
    if node.attr.flag("is_packed_batching") or node.attr.float("scale", 1.0) != 1.0:
        raise Unsupported("RotaryEmbedding of packed batches, or with a scale")
    flat = rank(x) == 3
    if flat:
        width, rotary = node.static_dim(x, -1, "input"), node.attr.int("rotary_embedding_dim", 0)
        heads = node.attr.int("num_heads", 0)
        if not heads and rotary:
            raise UserError("`rotary_embedding_dim` without `num_heads`")
        x = _split_heads(node, x, heads or width // (2 * node.static_dim(cosine, -1, "cos_cache")))
    places = node.cast(node.tensor(1), "int64")
    batch, _, length, _ = shape(x)
    if rank(places) == 1:  # the first position of all
        steps = node.op.range(count=length, dtype="int64")
        places = node.op.add(node.reshape(places, (1, 1)), node.op.unsqueeze(steps, axes=(0,)))
        places = node.op.broadcast_to(places, shape=(batch, length))
    tables = [
        node.op.unsqueeze(node.op.gather(node.tensor(at), places, axis=0), axes=(1,))
        for at in (2, 3)
    ]
    result = _rotated(node, x, tables, interleaved=node.attr.flag("interleaved"))
    return _joined_heads(node, result) if flat else result


# -- grouped queries -------------------------------------------------------------------------


@converts("GroupQueryAttention", domain=_DOMAIN)
def _group_query_attention(node: Node) -> Any:
    """New keys and values are put behind those of the past, whose number per batch is
    `seqlens_k` + 1 less the new ones; keys behind the query are masked."""
    heads, groups = _heads(node), _heads(node, "kv_num_heads")
    _check_group_query(node)
    q, k, v = _group_query_parts(node, heads, groups)
    batch, _, length, _ = shape(q)
    total = _total_length(node, 6)
    capacity = shape(node.tensor(3))[2] if node.has(3) else 0
    if isinstance(total, int) and total == length:  # a prompt: nothing before it
        past: GraphExpr = Constant(np.zeros((1, 1), np.int64))
    else:
        kept = node.reshape(node.cast(node.tensor(5), "int64"), (-1, 1))
        past = node.op.sub(node.op.add(kept, 1), _number(node, length))  # [batch, 1]
        # Prompts of which some are shorter have no past either.
        past = node.op.maximum(past, 0)
    if shape(past)[0] is not batch and shape(past)[0] != batch:
        past = node.op.broadcast_to(past, shape=(batch, 1))
    steps = node.op.unsqueeze(node.op.range(count=length, dtype="int64"), axes=(0,))
    places = node.op.add(past, steps)  # [batch, positions]
    if node.attr.flag("do_rotary"):
        q, k = _turned(node, q, k, places)
    present = _larger(total, capacity)
    k, v = (_appended(node, at, new, past, present) for at, new in ((3, k), (4, v)))
    keys = node.op.reshape(node.op.range(count=present, dtype="int64"), shape=(1, 1, 1, present))
    at = node.op.unsqueeze(places, axes=(1, 3))  # [batch, 1, positions, 1]
    mask = node.op.less_equal(keys, at)
    window = node.attr.int("local_window_size", -1)
    if window > 0:
        mask = node.op.logical_and(mask, node.op.greater(keys, node.op.sub(at, window)))
    parts = _Heads(q, k, v)
    softcap = node.attr.float("softcap", 0.0)
    if softcap:
        result = _capped(node, parts, mask, softcap)
    else:
        result = _attend(node, parts, _with_bias(node, mask, q), causal=False)
    return (_joined_heads(node, result), k, v)[: len(node.outputs)]


def _check_group_query(node: Node) -> None:
    quantised = [node.attr.string(f"{side}_quant_type", "NONE") for side in "kv"]
    if quantised != ["NONE", "NONE"] or any(node.has(at) for at in range(11, 17)):
        raise Unsupported("GroupQueryAttention with sinks, norms or a quantised cache")
    if node.attr.int("smooth_softmax", 0) == 1 or any(node.outputs[3:]):
        raise Unsupported("GroupQueryAttention with a smooth softmax, or scores as an output")
    if node.attr.int("causal", 1) == 0:
        raise Unsupported("GroupQueryAttention that is not causal")


def _group_query_parts(node: Node, heads: int, groups: int) -> tuple[GraphExpr, ...]:
    q = node.tensor(0)
    if node.has(1):
        counts = (heads, groups, groups)
        return tuple(_split_heads(node, node.tensor(at), n) for at, n in enumerate(counts))
    width = node.static_dim(q, -1, "query")
    size = width // (heads + 2 * groups)
    cuts = node.op.split(q, sizes=(heads * size, groups * size, groups * size), axis=2)
    return tuple(
        _split_heads(node, x, n) for x, n in zip(cuts, (heads, groups, groups), strict=True)
    )


def _total_length(node: Node, position: int) -> Any:
    """The number of positions with those of the past: an integer or an expression."""
    value = node.value(position)
    if isinstance(value, Symbolic):
        item = value.data.ravel()[0]
        return item if isinstance(item, Expr) else int(item)
    return node.integer(position, "total_sequence_length")


def _turned(
    node: Node, q: GraphExpr, k: GraphExpr, places: GraphExpr
) -> tuple[GraphExpr, GraphExpr]:
    if node.has(9):
        places = node.cast(node.tensor(9), "int64")
    tables = [
        node.op.unsqueeze(node.op.gather(node.tensor(at), places, axis=0), axes=(1,))
        for at in (7, 8)
    ]
    interleaved = node.attr.flag("rotary_interleaved")
    q, k = (_rotated(node, x, tables, interleaved=interleaved) for x in (q, k))
    return q, k


def _number(node: Node, dim: Any) -> GraphExpr:
    """A dimension as an int64 scalar."""
    if isinstance(dim, int):
        return Constant(np.asarray(dim, np.int64))
    data = np.empty((), object)
    data[()] = dim
    return node.as_tensor(Symbolic(data))


def _larger(total: Any, capacity: Any) -> Any:
    """The size of what is kept: all positions, or the buffer of the past where it is larger."""
    if isinstance(total, int) and isinstance(capacity, int):
        return max(total, capacity)
    return total if isinstance(capacity, int) and capacity == 0 else maximum(total, capacity)


def _appended(node: Node, at: int, new: GraphExpr, past: GraphExpr, present: Any) -> GraphExpr:
    """Past and new values, [batch, groups, present, size]: position t holds the new one of number
    t - past where there is such, else the past one."""
    batch, groups, length, size = shape(new)
    if not node.has(at) and (present is length or present == length):
        return new
    old = node.optional(at)
    capacity = 0 if old is None else shape(old)[2]
    keys = node.op.reshape(node.op.range(count=present, dtype="int64"), shape=(1, present))
    number = node.op.sub(keys, past)  # [batch, present]
    is_new = node.op.logical_and(
        node.op.greater_equal(number, 0), node.op.less(number, _number(node, length))
    )
    zero = Constant(np.zeros((), np.int64))
    if old is not None and not (isinstance(capacity, int) and isinstance(present, int)):
        # Past and new in a row, and each position says where in it to look.
        row = node.op.concat(old, new, axis=2)
        index = node.op.where(is_new, node.op.add(number, _number(node, capacity)), keys)
        kept = node.op.logical_or(is_new, node.op.less(number, 0))
    else:
        row, index, kept = new, number, is_new
    safe = node.op.where(kept, index, zero)
    full = (batch, groups, present, size)
    where = node.op.broadcast_to(node.op.unsqueeze(safe, axes=(1, 3)), shape=full)
    moved = node.op.gather_elements(row, where, axis=2)
    other: Any = Constant(np.zeros((), dtype(new).numpy))
    if old is not None and row is new:
        other = old
        if capacity != present:
            other = node.op.pad(old, pads=(0, 0, 0, 0, 0, 0, present - capacity, 0))
    return node.op.where(node.op.unsqueeze(kept, axes=(1, 3)), moved, other)  # type: ignore[no-any-return]


def _with_bias(node: Node, mask: GraphExpr, like: GraphExpr) -> GraphExpr:
    bias = node.optional(10)
    if bias is None:
        return mask
    return node.op.where(mask, bias, node.scalar(-np.inf, like))  # type: ignore[no-any-return]


def _capped(node: Node, parts: _Heads, mask: GraphExpr, cap: float) -> GraphExpr:
    """Attention with scores limited to (-cap, cap) by a tanh."""
    heads, groups = shape(parts.q)[1], shape(parts.k)[1]
    batch, _, length, size = shape(parts.q)
    each = heads // groups
    q = node.reshape(parts.q, (batch, groups, each * length, size))
    scores = node.op.matmul(q, parts.k, transpose_b=True)
    limited = node.op.tanh(node.op.mul(scores, _scale(node, parts.q) / cap))
    split = node.reshape(node.op.mul(limited, cap), (batch, heads, length, shape(parts.k)[2]))
    if node.has(10):
        split = node.op.add(split, node.tensor(10))
    kept = node.op.where(mask, split, node.scalar(-np.inf, split))
    weights = node.op.softmax(kept, axis=3)
    flat = node.reshape(weights, (batch, groups, each * length, shape(parts.k)[2]))
    return node.reshape(node.op.matmul(flat, parts.v), shape(parts.q))
