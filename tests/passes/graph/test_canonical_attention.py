# SPDX-License-Identifier: Apache-2.0
"""Attention as exporters spell it becomes one operator that computes the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from heddle import op
from heddle.graph import Call, GraphExpr
from heddle.ir import IRModule
from heddle.passes.graph.canonicalise import canonicalise
from tests.passes.graph.support import build, check_values, main_of, ops_of, weights

F = np.float32
N, S, H, D = 2, 6, 4, 8
HEADS = (N, H, S, D)
ROWS = (N, S, H * D)
CAUSAL = np.triu(np.full((S, S), np.finfo(F).min, F), 1)
SCALE = F(0.35)


def heads_of(x: GraphExpr, heads: int = H) -> GraphExpr:
    """[N, S, H * D] as [N, H, S, D], the way exporters do it."""
    return op.transpose(op.reshape(x, shape=(N, S, heads, D)), permutation=(0, 2, 1, 3))


def attend(scores: GraphExpr, v: GraphExpr) -> GraphExpr:
    return op.matmul(op.softmax(scores, axis=-1), v)


def product(q: GraphExpr, k: GraphExpr) -> GraphExpr:
    return op.matmul(q, op.transpose(k, permutation=(0, 1, 3, 2)))


def bert(q: GraphExpr, k: GraphExpr, v: GraphExpr) -> GraphExpr:
    """Keys transposed at once, a mask of keys, and back to rows."""
    turned = op.transpose(op.reshape(k, shape=(N, S, H, D)), permutation=(0, 2, 3, 1))
    scores = op.add(op.mul(op.matmul(heads_of(q), turned), SCALE), weights(N, 1, 1, S))
    mixed = op.transpose(attend(scores, heads_of(v)), permutation=(0, 2, 1, 3))
    return op.reshape(mixed, shape=ROWS)


def llama(q: GraphExpr, k: GraphExpr, v: GraphExpr) -> GraphExpr:
    """Keys and values of two heads serve four; a causal mask of two axes."""

    def expanded(x: GraphExpr) -> GraphExpr:
        narrow = op.reshape(heads_of(x, 2), shape=(N, 2, 1, S, D))
        return op.reshape(op.broadcast_to(narrow, shape=(N, 2, 2, S, D)), shape=HEADS)

    scores = op.add(op.div(product(heads_of(q), expanded(k)), F(2.8)), CAUSAL)
    return attend(scores, expanded(v))


def scaled_before(q: GraphExpr, k: GraphExpr, v: GraphExpr) -> GraphExpr:
    """Both operands by the root of the scale, as torch decomposes its own operator."""
    return attend(product(op.mul(q, SCALE), op.mul(k, SCALE)), v)


def transpose_b(q: GraphExpr, k: GraphExpr, v: GraphExpr) -> GraphExpr:
    return attend(op.matmul(q, k, transpose_b=True), v)


def position_bias(q: GraphExpr, k: GraphExpr, v: GraphExpr) -> GraphExpr:
    """A bias of each head and a mask, added one after the other, as T5 has it."""
    biased = op.add(product(q, k), weights(1, H, S, S))
    return attend(op.add(biased, weights(N, 1, 1, S, seed=2)), v)


def chosen(q: GraphExpr, k: GraphExpr, v: GraphExpr) -> GraphExpr:
    kept = np.tril(np.ones((S, S), bool))
    return attend(op.where(kept, op.mul(product(q, k), SCALE), F(-np.inf)), v)


def filled(q: GraphExpr, k: GraphExpr, v: GraphExpr) -> GraphExpr:
    """masked_fill by the least float: a row that is hidden as a whole stays uniform."""
    hidden = np.zeros((1, 1, S, S), bool)
    hidden[..., 2:] = True
    hidden[..., 3, :] = True
    return attend(op.where(hidden, np.finfo(F).min, op.mul(product(q, k), SCALE)), v)


def three_axes(q: GraphExpr, k: GraphExpr, v: GraphExpr) -> GraphExpr:
    def flat(x: GraphExpr) -> GraphExpr:
        return op.reshape(x, shape=(N * H, S, D))

    turned = op.transpose(flat(k), permutation=(0, 2, 1))
    return attend(op.add(op.matmul(flat(q), turned), weights(N * H, S, S)), flat(v))


PATTERNS = [
    (bert, (ROWS,) * 3, {"mask_layout": "NHST", "k_layout": "NSHD", "out_layout": "NSHD"}),
    (llama, (ROWS, (N, S, 2 * D), (N, S, 2 * D)), {"causal": True, "q_layout": "NSHD"}),
    (scaled_before, (HEADS,) * 3, {"scale": float(SCALE) ** 2, "q_layout": "NHSD"}),
    (transpose_b, (HEADS,) * 3, {"scale": 1.0, "causal": False}),
    (position_bias, (HEADS,) * 3, {"mask_layout": "NHTS"}),
    (chosen, (HEADS,) * 3, {"causal": True}),
    (filled, (HEADS,) * 3, {"causal": False, "mask_layout": "NHTS"}),
    (three_axes, (HEADS,) * 3, {"mask_layout": "NHTS"}),
]


def attention_of(module: IRModule) -> Call:
    found = [b.value for b in main_of(module).bindings if ops_name(b.value) == "attention"]
    assert len(found) == 1
    return found[0]


def ops_name(value: Any) -> str:
    return getattr(getattr(value, "callee", None), "name", "")


@pytest.mark.parametrize(("body", "shapes", "attrs"), PATTERNS)
def test_patterns(
    body: Callable[..., GraphExpr], shapes: tuple[tuple[int, ...], ...], attrs: dict[str, Any]
) -> None:
    before = build(body, *shapes)
    after = canonicalise(before)
    assert not {"matmul", "softmax", "transpose", "broadcast_to"} & set(ops_of(after))
    call = attention_of(after)
    for name, value in attrs.items():
        assert call.attrs[name] == value, name
    check_values(before, after)


def test_a_zero_mask_is_none() -> None:
    before = build(
        lambda q, k, v: attend(op.add(product(q, k), np.zeros((1, 1, S, S), F)), v), *(HEADS,) * 3
    )
    after = canonicalise(before)
    assert len(attention_of(after).args) == 3
    check_values(before, after)


def torch_attention(q: GraphExpr, k: GraphExpr, v: GraphExpr, mask: GraphExpr) -> GraphExpr:
    """As the PyTorch importer has it: rows that are masked whole are zero."""
    keep = op.greater(mask, F(0))
    mixed = op.attention(heads_of(q), heads_of(k), heads_of(v), keep, scale=SCALE)
    mixed = op.where(op.any(keep, axes=(3,), keepdims=True), mixed, F(0))
    return op.reshape(op.transpose(mixed, permutation=(0, 2, 1, 3)), shape=ROWS)


def test_layouts_go_into_the_operator() -> None:
    before = build(torch_attention, ROWS, ROWS, ROWS, (N, 1, S, S))
    after = canonicalise(before)
    call = attention_of(after)
    assert [call.attrs[f"{name}_layout"] for name in ("q", "k", "v", "out")] == ["NSHD"] * 4
    assert call.attrs["mask_layout"] == "NHTS"
    check_values(before, after)


@pytest.mark.parametrize(
    "mask, causal",
    [(np.ones((1, 1, S, S), bool), False), (np.tril(np.ones((1, 1, S, S), bool)), True)],
)
def test_constant_masks_are_read(mask: np.ndarray, causal: bool) -> None:
    before = build(lambda q, k, v: op.attention(q, k, v, mask, scale=SCALE), *(HEADS,) * 3)
    call = attention_of(canonicalise(before))
    assert len(call.args) == 3
    assert call.attrs["causal"] == causal
    check_values(before, canonicalise(before))


def scale_after_mask(q: GraphExpr, k: GraphExpr, v: GraphExpr) -> GraphExpr:
    return attend(op.mul(op.add(product(q, k), weights(1, 1, S, S)), SCALE), v)


def another_axis(q: GraphExpr, k: GraphExpr, v: GraphExpr) -> GraphExpr:
    return op.matmul(op.softmax(product(q, k), axis=2), v)


def mild_fill(q: GraphExpr, k: GraphExpr, v: GraphExpr) -> GraphExpr:
    """-10000 hides a score only in part, and replaces it: not a sum."""
    return attend(op.where(np.tril(np.ones((S, S), bool)), product(q, k), F(-1e4)), v)


def scores_used_twice(q: GraphExpr, k: GraphExpr, v: GraphExpr) -> GraphExpr:
    weights_ = op.softmax(product(q, k), axis=-1)
    return op.add(op.matmul(weights_, v), op.sum(weights_, axes=(3,), keepdims=True))


def mask_that_widens(q: GraphExpr, k: GraphExpr, v: GraphExpr) -> GraphExpr:
    def first(x: GraphExpr) -> GraphExpr:
        return op.slice(x, starts=(0,), ends=(1,), axes=(0,))

    return attend(op.add(product(first(q), first(k)), weights(N, 1, 1, S)), v)


@pytest.mark.parametrize(
    "body", [scale_after_mask, another_axis, mild_fill, scores_used_twice, mask_that_widens]
)
def test_what_is_not_attention_stays(body: Callable[..., GraphExpr]) -> None:
    before = build(body, *(HEADS,) * 3)
    after = canonicalise(before)
    assert "attention" not in ops_of(after)
    check_values(before, after)
