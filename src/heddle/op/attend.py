# SPDX-License-Identifier: Apache-2.0
"""Scaled dot-product attention (Vaswani et al., 2017) as one operator.

Exported graphs spell it as product, scale, mask, softmax, product; the pass `recognise_attention`
brings them here, and one kernel computes it without ever storing the scores in memory
(`schedule/rules/attention.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heddle import te
from heddle.ir import TensorType
from heddle.ir.expr import Expr, as_int, cast, const, select
from heddle.op.common import (
    accumulator_dtype,
    require_ndim,
    require_same_dtype,
    same_dim,
    show_dim,
    show_shape,
    wide,
)
from heddle.op.registry import operator
from heddle.op.sample import bools, case, floats
from heddle.support import UserError
from heddle.tir import intrin

_AXES = "NHSD"
_MASK_LAYOUTS = ("NHST", "NHTS")


def _sizes(x: TensorType | te.Tensor, layout: str, name: str) -> dict[str, Expr]:
    """The size of each axis, by its letter in the layout."""
    if sorted(layout) != sorted(_AXES):
        raise UserError(f"`{name}_layout` is `{layout}`, expected N, H, S and D in some order")
    return dict(zip(layout, x.shape, strict=True))


def _group_size(heads: Expr, kv_heads: Expr) -> int:
    """How many heads of the query share one of keys and values."""
    if same_dim(heads, kv_heads):
        return 1
    many, few = as_int(heads), as_int(kv_heads)
    if many is None or few is None or few == 0 or many % few:
        raise UserError(
            f"`q` has {show_dim(heads)} heads and `k` has {show_dim(kv_heads)}, expected a multiple"
        )
    return many // few


def _require_axis(name: str, axis: str, dim: Expr, other: str, wanted: Expr) -> None:
    if not same_dim(dim, wanted):
        raise UserError(
            f"axis {axis} of `{name}` is {show_dim(dim)}, that of `{other}` is {show_dim(wanted)}"
        )


def _check_mask(mask: TensorType, layout: str, sizes: Mapping[str, Expr]) -> None:
    require_ndim(mask, "mask", 4, 4)
    if layout not in _MASK_LAYOUTS:
        raise UserError(f"`mask_layout` is `{layout}`, expected one of {', '.join(_MASK_LAYOUTS)}")
    if not (mask.dtype.is_float or mask.dtype.is_bool):
        raise UserError(f"argument `mask` has dtype {mask.dtype}, expected bool or a float")
    for axis, dim in zip(layout, mask.shape, strict=True):
        if as_int(dim) != 1 and not same_dim(dim, sizes[axis]):
            wanted = tuple(sizes[letter] for letter in layout)
            raise UserError(
                f"argument `mask` has shape {show_shape(mask.shape)}, expected one that broadcasts "
                f"to {show_shape(wanted)}"
            )


@operator(
    "attention",
    kind="opaque",
    dtypes={"q": "float", "k": "float", "v": "float", "mask": "any"},
)
def attention(
    q: TensorType,
    k: TensorType,
    v: TensorType,
    mask: TensorType | None = None,
    *,
    scale: float,
    causal: bool = False,
    q_layout: str = "NHSD",
    k_layout: str = "NHSD",
    v_layout: str = "NHSD",
    out_layout: str = "NHSD",
    mask_layout: str = "NHST",
) -> TensorType:
    """softmax(scale * q k^T + mask) v for each batch N and head H, the softmax over the keys.

    q[N, H, S, D], k[N, G, T, D] and v[N, G, T, E] with G dividing H: H / G neighbouring heads share
    keys and values; the result is [N, H, S, E]. `*_layout` says in which order the axes of each lie
    (keys count as S there). A float mask is added to the scores, a bool mask keeps those where it
    is true; it broadcasts to [N, H, S, T], or to [N, H, T, S] with `mask_layout` "NHTS". `causal`
    keeps key j of query i where j <= i + T - S. Where nothing is kept the result is that of a
    softmax of -inf only: NaN.

        op.attention(q, k, v, scale=0.125, causal=True)
    """
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        require_ndim(tensor, name, 4, 4)
    require_same_dtype(q, k, v)
    queries, keys = _sizes(q, q_layout, "q"), _sizes(k, k_layout, "k")
    values = _sizes(v, v_layout, "v")
    _group_size(queries["H"], keys["H"])
    _require_axis("k", "D", keys["D"], "q", queries["D"])
    for axis in "NHS":
        _require_axis("v", axis, values[axis], "k", keys[axis])
    _require_axis("k", "N", keys["N"], "q", queries["N"])
    if mask is not None:
        _check_mask(mask, mask_layout, {**queries, "T": keys["S"]})
    out = {**queries, "D": values["D"]}
    _sizes(q, out_layout, "out")
    if out_layout[-1] != "D":
        raise UserError(f"`out_layout` is `{out_layout}`, expected one that ends in D")
    return TensorType(tuple(out[axis] for axis in out_layout), q.dtype)


def _at(x: te.Tensor, layout: str, n: Expr, h: Expr, s: Expr, d: Any) -> Expr:
    places = {"N": n, "H": h, "S": s, "D": d}
    return x[tuple(places[axis] for axis in layout)]


def _masked(score: Expr, mask: te.Tensor, layout: str, places: Mapping[str, Expr]) -> Expr:
    """A score under the mask, which broadcasts along its axes of size 1."""
    index = tuple(
        const(0) if as_int(dim) == 1 else places[axis]
        for axis, dim in zip(layout, mask.shape, strict=True)
    )
    if mask.dtype.is_bool:
        return select(mask[index], score, const(float("-inf"), score.dtype))
    return score + cast(mask[index], score.dtype)


@attention.rule("compute")
def _(
    q: te.Tensor,
    k: te.Tensor,
    v: te.Tensor,
    mask: te.Tensor | None,
    *,
    scale: float,
    causal: bool,
    q_layout: str,
    k_layout: str,
    v_layout: str,
    out_layout: str,
    mask_layout: str,
) -> te.Tensor:
    """Scores lie with the queries along the lanes, [keys, queries]: maxima and sums then run from
    vector to vector, and the second product broadcasts the weights as it reads them."""
    dtype = accumulator_dtype(q.dtype)
    queries, keys = _sizes(q, q_layout, "q"), _sizes(k, k_layout, "k")
    count, heads, length, depth = (queries[axis] for axis in _AXES)
    keys_count, width = keys["S"], _sizes(v, v_layout, "v")["D"]
    group = _group_size(heads, keys["H"])

    def shared(h: Expr) -> Expr:
        return h if group == 1 else h // group

    query = te.compute(
        (count, heads, depth, length),
        lambda n, h, d, s: wide(_at(q, q_layout, n, h, s, d)) * const(scale, dtype),
        name="attention_query",
    )
    r = te.reduce_axis(depth, "r")
    scores = te.compute(
        (count, heads, keys_count, length),
        lambda n, h, t, s: te.sum(
            wide(_at(k, k_layout, n, shared(h), t, r)) * query[n, h, r, s], axis=[r]
        ),
        name="attention_scores",
    )
    kept = scores
    if mask is not None or causal:

        def keep(n: Expr, h: Expr, t: Expr, s: Expr) -> Expr:
            score = scores[n, h, t, s]
            if mask is not None:
                score = _masked(score, mask, mask_layout, {"N": n, "H": h, "S": s, "T": t})
            if causal:
                hidden = const(float("-inf"), dtype)
                near = cast(t, "int32") <= cast(s + (keys_count - length), "int32")
                score = select(near, score, hidden)
            return score

        kept = te.compute(scores.shape, keep, name="attention_masked")
    t_max, t_sum, t_mix = (te.reduce_axis(keys_count, "t") for _ in range(3))
    rows = (count, heads, length)
    largest = te.compute(
        rows, lambda n, h, s: te.max(kept[n, h, t_max, s], axis=[t_max]), name="attention_max"
    )
    weights = te.compute(
        kept.shape,
        lambda n, h, t, s: intrin.exp(kept[n, h, t, s] - largest[n, h, s]),
        name="attention_weights",
    )
    total = te.compute(
        rows, lambda n, h, s: te.sum(weights[n, h, t_sum, s], axis=[t_sum]), name="attention_sum"
    )
    inverse = te.compute(
        rows, lambda n, h, s: const(1, dtype) / total[n, h, s], name="attention_inverse"
    )
    order = [_AXES.index(axis) for axis in out_layout]

    def places(i: Sequence[Expr]) -> list[Expr]:
        return [i[order.index(axis)] for axis in range(len(_AXES))]

    def mix(*i: Expr) -> Expr:
        n, h, s, d = places(i)
        value = wide(_at(v, v_layout, n, shared(h), t_mix.var, d))
        return te.sum(weights[n, h, t_mix, s] * value, axis=[t_mix])

    sizes = {**queries, "D": width}
    shape = tuple(sizes[axis] for axis in out_layout)
    mixed = te.compute(shape, mix, name="attention_mixed")
    return te.compute(
        shape,
        lambda *i: cast(inverse[tuple(places(i)[:3])] * mixed[i], q.dtype),
        name="attention",
    )


@attention.rule("numpy")
def _(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    mask: np.ndarray | None,
    *,
    scale: float,
    causal: bool,
    q_layout: str,
    k_layout: str,
    v_layout: str,
    out_layout: str,
    mask_layout: str,
) -> np.ndarray:
    def heads_first(x: np.ndarray, layout: str, wanted: str = _AXES) -> np.ndarray:
        return x.transpose([layout.index(axis) for axis in wanted])

    query, key, value = (
        heads_first(x, layout) for x, layout in ((q, q_layout), (k, k_layout), (v, v_layout))
    )
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat(group, axis=1), value.repeat(group, axis=1)
    scores = query @ key.swapaxes(-1, -2) * query.dtype.type(scale)
    if mask is not None:
        kept = heads_first(mask, mask_layout, "NHST")
        scores = np.where(kept, scores, -np.inf) if kept.dtype == bool else scores + kept
    if causal:
        length, keys_count = scores.shape[-2:]
        ones = np.ones((length, keys_count), bool)
        scores = np.where(np.tril(ones, keys_count - length), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = weights / weights.sum(axis=-1, keepdims=True)
    return (weights @ value).transpose([_AXES.index(axis) for axis in out_layout])  # type: ignore[no-any-return]


attention.samples(
    case(floats(1, 2, 5, 8), floats(1, 2, 7, 8), floats(1, 2, 7, 8), scale=0.35),
    case(
        *(floats(2, 19, 3, 16), floats(2, 19, 3, 16), floats(2, 19, 3, 16), floats(2, 1, 1, 19)),
        scale=0.25,
        **dict.fromkeys(("q_layout", "k_layout", "v_layout", "out_layout"), "NSHD"),
    ),
    case(*(floats(1, 4, 33, 8), floats(1, 2, 33, 8), floats(1, 2, 33, 5)), scale=0.35, causal=True),
    case(floats(1, 2, 3, 4), floats(1, 2, 4, 9), floats(1, 2, 9, 4), scale=1.0, k_layout="NHDS"),
    case(
        *(floats(1, 1, 17, 24), floats(1, 1, 40, 24), floats(1, 1, 40, 24), bools(1, 1, 17, 1)),
        scale=0.2,
    ),
    case(
        *(floats(1, 2, 20, 8), floats(1, 2, 20, 8), floats(1, 2, 20, 8), floats(1, 2, 20, 20)),
        scale=0.35,
        mask_layout="NHTS",
    ),
    case(*(floats(1, 2, 6, 8, dtype="float16") for _ in range(3)), scale=0.35),
    case(floats(1, 3, 1, 8), floats(1, 3, 21, 8), floats(1, 3, 21, 8), scale=0.35),
)
