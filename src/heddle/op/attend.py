# SPDX-License-Identifier: Apache-2.0
"""Scaled dot-product attention (Vaswani et al., 2017) as one operator.

Exported graphs spell it as product, scale, mask, softmax, product; the pass `recognise_attention`
brings them here, and one kernel computes it without ever storing the scores in memory
(`schedule/rules/attention.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import DType, TensorType
from heddle.ir.expr import Expr, as_int, cast, const, minimum, select
from heddle.op.adjoint import (
    cast_like,
    count_value,
    dims_of,
    dtype_of,
    positions,
    sum_to,
    widened,
)
from heddle.op.attribute import Dim
from heddle.op.common import (
    accumulator_dtype,
    plain_dims,
    require_ndim,
    require_same_dtype,
    same_dim,
    show_dim,
    show_shape,
    simplify_dim,
    wide,
)
from heddle.op.registry import operator, ops
from heddle.op.sample import bools, case, floats
from heddle.support import UserError
from heddle.tir import intrin

_AXES = "NHSD"
_INDEX = DType.of("int64")
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


def _check_mask(mask: TensorType, layout: str, sizes: Mapping[str, Expr], *, partial: bool) -> None:
    require_ndim(mask, "mask", 4, 4)
    if layout not in _MASK_LAYOUTS:
        raise UserError(f"`mask_layout` is `{layout}`, expected one of {', '.join(_MASK_LAYOUTS)}")
    if not (mask.dtype.is_float or mask.dtype.is_bool):
        raise UserError(f"argument `mask` has dtype {mask.dtype}, expected bool or a float")
    for axis, dim in zip(layout, mask.shape, strict=True):
        if axis == "T" and partial:
            count, room = as_int(dim), as_int(sizes["T"])
            if count is not None and room is not None and count > room:
                raise UserError(f"argument `mask` is for {count} keys, there are {room}")
            continue
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
    partial: bool = False,
) -> TensorType:
    """softmax(scale * q k^T + mask) v for each batch N and head H, the softmax over the keys.

    q[N, H, S, D], k[N, G, T, D] and v[N, G, T, E] with G dividing H: H / G neighbouring heads share
    keys and values; the result is [N, H, S, E]. `*_layout` says in which order the axes of each lie
    (keys count as S there). A float mask is added to the scores, a bool mask keeps those where it
    is true; it broadcasts to [N, H, S, T], or to [N, H, T, S] with `mask_layout` "NHTS". `causal`
    keeps key j of query i where j <= i + T - S. Where nothing is kept the result is that of a
    softmax of -inf only: NaN.

    With `partial` the mask says how many keys there are: T is its size, and k and v may have room
    for more, which is not read. So a step of a decoder looks at the filled part of its cache.

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
        _check_mask(mask, mask_layout, {**queries, "T": keys["S"]}, partial=partial)
    elif partial:
        raise UserError("`partial` needs a mask, which says how many keys there are")
    out = {**queries, "D": values["D"]}
    _sizes(q, out_layout, "out")
    if out_layout[-1] != "D":
        raise UserError(f"`out_layout` is `{out_layout}`, expected one that ends in D")
    return TensorType(tuple(out[axis] for axis in out_layout), q.dtype)


def _key_count(
    k: TensorType | te.Tensor,
    k_layout: str,
    mask: TensorType | te.Tensor | None,
    mask_layout: str,
    *,
    partial: bool,
) -> Expr:
    """How many keys are read."""
    room = _sizes(k, k_layout, "k")["S"]
    if not partial or mask is None:
        return room
    count = mask.shape[mask_layout.index("T")]
    return count if same_dim(count, room) else simplify_dim(minimum(count, room))


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


@dataclass(frozen=True, slots=True)
class _Plan:
    """The attributes of one call, and the sizes of its axes: `sizes` of the queries, T of the keys
    and E of the values."""

    q_layout: str
    k_layout: str
    v_layout: str
    mask_layout: str
    sizes: Mapping[str, Expr]
    group: int
    dtype: DType

    @property
    def rows(self) -> tuple[Expr, ...]:
        """One element per query: what maxima and sums are of."""
        return tuple(self.sizes[axis] for axis in "NHS")

    def shape(self, layout: str) -> tuple[Expr, ...]:
        return tuple(self.sizes[axis] for axis in layout)

    def kv_head(self, head: Expr) -> Expr:
        """The head of keys and values that a head of the queries reads."""
        return head if self.group == 1 else head // self.group


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
    partial: bool,
) -> te.Tensor:
    """Scores lie with the queries along the lanes, [keys, queries]: maxima and sums then run from
    vector to vector, and the second product broadcasts the weights as it reads them."""
    queries, keys = _sizes(q, q_layout, "q"), _sizes(k, k_layout, "k")
    count = _key_count(k, k_layout, mask, mask_layout, partial=partial)
    width = _sizes(v, v_layout, "v")["D"]
    plan = _Plan(
        q_layout,
        k_layout,
        v_layout,
        mask_layout,
        {**queries, "T": count, "E": width},
        _group_size(queries["H"], keys["H"]),
        accumulator_dtype(q.dtype),
    )
    scores = _product(plan, q, k, scale)
    if mask is not None or causal:
        scores = _kept(plan, scores, mask, causal=causal)
    weights, inverse = _softmax(plan, scores)
    return _mix(plan, weights, inverse, v, out_layout.replace("D", "E"))


def _product(plan: _Plan, q: te.Tensor, k: te.Tensor, scale: float) -> te.Tensor:
    """scale * k q^T: [N, H, T, S]"""
    query = te.compute(
        plan.shape("NHDS"),
        lambda n, h, d, s: wide(_at(q, plan.q_layout, n, h, s, d)) * const(scale, plan.dtype),
        name="attention_query",
    )
    r = te.reduce_axis(plan.sizes["D"], "r")

    def body(n: Expr, h: Expr, t: Expr, s: Expr) -> Expr:
        key = wide(_at(k, plan.k_layout, n, plan.kv_head(h), t, r))
        return te.sum(key * query[n, h, r, s], axis=[r])

    return te.compute(plan.shape("NHTS"), body, name="attention_scores")


def _kept(plan: _Plan, scores: te.Tensor, mask: te.Tensor | None, *, causal: bool) -> te.Tensor:
    """The scores under the mask; -inf where nothing is to be seen."""
    ahead = plan.sizes["T"] - plan.sizes["S"]

    def body(n: Expr, h: Expr, t: Expr, s: Expr) -> Expr:
        score = scores[n, h, t, s]
        if mask is not None:
            score = _masked(score, mask, plan.mask_layout, {"N": n, "H": h, "S": s, "T": t})
        if causal:
            # In 32 bits, so that a vector of conditions is as long as one of scores.
            near = cast(t, "int32") <= cast(s + ahead, "int32")
            score = select(near, score, const(float("-inf"), plan.dtype))
        return score

    return te.compute(scores.shape, body, name="attention_masked")


def _softmax(plan: _Plan, scores: te.Tensor) -> tuple[te.Tensor, te.Tensor]:
    """exp(scores - maximum), and one over its sum for each query."""
    t_max, t_sum = (te.reduce_axis(plan.sizes["T"], "t") for _ in range(2))
    largest = te.compute(
        plan.rows, lambda n, h, s: te.max(scores[n, h, t_max, s], axis=[t_max]), "attention_max"
    )
    weights = te.compute(
        scores.shape,
        lambda n, h, t, s: intrin.exp_normal(scores[n, h, t, s] - largest[n, h, s]),
        name="attention_weights",
    )
    total = te.compute(
        plan.rows, lambda n, h, s: te.sum(weights[n, h, t_sum, s], axis=[t_sum]), "attention_sum"
    )
    inverse = te.compute(
        plan.rows, lambda n, h, s: const(1, plan.dtype) / total[n, h, s], "attention_inverse"
    )
    return weights, inverse


def _mix(
    plan: _Plan, weights: te.Tensor, inverse: te.Tensor, v: te.Tensor, layout: str
) -> te.Tensor:
    """The values by their weights, divided by the sums of these, in the layout of the result."""
    t = te.reduce_axis(plan.sizes["T"], "t")

    def row(i: Sequence[Expr]) -> tuple[Expr, Expr, Expr]:
        n, h, s = (i[layout.index(axis)] for axis in "NHS")
        return n, h, s

    def body(*i: Expr) -> Expr:
        n, h, s = row(i)
        value = wide(_at(v, plan.v_layout, n, plan.kv_head(h), t.var, i[-1]))
        return te.sum(weights[n, h, t, s] * value, axis=[t])

    mixed = te.compute(plan.shape(layout), body, name="attention_mixed")
    # The sums are read first, so that they are computed before the product they divide.
    return te.compute(
        mixed.shape, lambda *i: cast(inverse[row(i)] * mixed[i], v.dtype), name="attention"
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
    partial: bool,
) -> np.ndarray:
    def heads_first(x: np.ndarray, layout: str, wanted: str = _AXES) -> np.ndarray:
        return x.transpose([layout.index(axis) for axis in wanted])

    query, key, value = (
        heads_first(x, layout) for x, layout in ((q, q_layout), (k, k_layout), (v, v_layout))
    )
    if partial and mask is not None:
        count = min(mask.shape[mask_layout.index("T")], key.shape[2])
        key, value = key[:, :, :count], value[:, :, :count]
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


@attention.rule("grad")
def _(
    q: GraphExpr,
    k: GraphExpr,
    v: GraphExpr,
    mask: GraphExpr | None,
    *,
    dout: GraphExpr,
    out: GraphExpr,
    scale: float,
    causal: bool,
    q_layout: str,
    k_layout: str,
    v_layout: str,
    out_layout: str,
    mask_layout: str,
    partial: bool,
) -> tuple[GraphExpr | None, ...]:
    """The weights are computed once more, and stored: with p the weights, d p = d out v^T and
    d scores = p (d p - sum(d out * out)). Heads that share keys are an axis of their own."""
    if partial:
        attrs = {"scale": scale, "causal": causal, "q_layout": q_layout, "k_layout": k_layout}
        attrs |= {"v_layout": v_layout, "out_layout": out_layout, "mask_layout": mask_layout}
        return _partial_gradients(q, k, v, mask, {"dout": dout, "out": out, **attrs})
    query, d = _heads_first(q, q_layout), _heads_first(dout, out_layout)
    keys, values = _heads_first(k, k_layout), _heads_first(v, v_layout)
    groups = plain_dims(dims_of(keys))[1]
    query, d, result = (_grouped(x, groups) for x in (query, d, _heads_first(out, out_layout)))
    keys, values = ops.unsqueeze(keys, axes=(2,)), ops.unsqueeze(values, axes=(2,))
    scores = ops.matmul(query, _swapped(keys)) * scale
    if mask is not None:
        kept = _grouped(_ordered(mask, mask_layout, "NHST"), groups)
        is_bool = dtype_of(kept).is_bool
        scores = ops.where(kept, scores, -np.inf) if is_bool else scores + widened(kept)
    if causal:
        offset = count_value(keys, (3,), _INDEX) - count_value(query, (3,), _INDEX)
        reach = positions(scores, 3) + offset
        scores = ops.where(ops.less_equal(positions(scores, 4), reach), scores, -np.inf)
    weights = ops.softmax(scores)
    inner = ops.sum(d * result, axes=(4,), keepdims=True)
    d_scores = weights * (ops.matmul(d, _swapped(values)) - inner)
    d_query = ops.matmul(d_scores, keys) * scale
    d_keys = ops.sum(ops.matmul(d_scores, query, transpose_a=True), axes=(2,)) * scale
    d_values = ops.sum(ops.matmul(weights, d, transpose_a=True), axes=(2,))
    d_query = ops.reshape(d_query, shape=plain_dims(_in_order(q, q_layout, _AXES)))
    found = [
        cast_like(_ordered(d_query, _AXES, q_layout), q),
        cast_like(_ordered(d_keys, _AXES, k_layout), k),
        cast_like(_ordered(d_values, _AXES, v_layout), v),
    ]
    if mask is None or dtype_of(mask).is_bool:
        return *found, None
    d_mask = sum_to(d_scores, kept)
    d_mask = ops.reshape(d_mask, shape=plain_dims(_in_order(mask, mask_layout, "NHST")))
    return *found, cast_like(_ordered(d_mask, "NHST", mask_layout), mask)


def _partial_gradients(
    q: GraphExpr, k: GraphExpr, v: GraphExpr, mask: GraphExpr | None, attrs: Mapping[str, Any]
) -> tuple[GraphExpr | None, ...]:
    """The gradients with `partial`: those of the rows that are read, and zeros behind them."""
    layouts = (attrs["k_layout"], attrs["v_layout"])
    read = [
        _first_rows(x, layout, mask, attrs["mask_layout"])
        for x, layout in zip((k, v), layouts, strict=True)
    ]
    rule = attention.get_rule("grad")
    d_q, d_k, d_v, d_mask = rule(q, *read, mask, **attrs, partial=False)
    d_k, d_v = (ops.extend(d, shape=plain_dims(dims_of(x))) for d, x in ((d_k, k), (d_v, v)))
    return d_q, d_k, d_v, d_mask


def _first_rows(x: GraphExpr, layout: str, mask: GraphExpr | None, mask_layout: str) -> GraphExpr:
    """The keys or values that are read with `partial`."""
    assert mask is not None
    dims = dims_of(x)
    kinds = [TensorType.of(plain_dims(dims_of(item)), dtype_of(item)) for item in (x, mask)]
    count = _key_count(kinds[0], layout, kinds[1], mask_layout, partial=True)
    cut = [count if axis == "S" else dim for axis, dim in zip(layout, dims, strict=True)]
    return ops.prefix(x, shape=plain_dims(cut))


def _ordered(x: GraphExpr, layout: str, wanted: str) -> GraphExpr:
    """x with its axes in the order `wanted`."""
    if layout == wanted:
        return x
    return ops.transpose(x, permutation=tuple(layout.index(axis) for axis in wanted))


def _in_order(x: GraphExpr, layout: str, wanted: str) -> list[Expr]:
    """The sizes of x in the order `wanted`."""
    return [dims_of(x)[layout.index(axis)] for axis in wanted]


def _heads_first(x: GraphExpr, layout: str) -> GraphExpr:
    """x as [N, H, S, D], half precision in float32."""
    return _ordered(widened(x), layout, _AXES)


def _grouped(x: GraphExpr, groups: Dim) -> GraphExpr:
    """x[N, H, ...] as [N, G, H / G, ...]; one head that stands for all as [N, 1, 1, ...]."""
    n, heads, *rest = plain_dims(dims_of(x))
    return ops.reshape(x, shape=(n, 1 if heads == 1 else groups, -1, *rest))


def _swapped(x: GraphExpr) -> GraphExpr:
    """The last two of five axes exchanged."""
    return ops.transpose(x, permutation=(0, 1, 2, 4, 3))


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
    case(
        *(floats(1, 4, 1, 8), floats(1, 2, 9, 8), floats(1, 2, 9, 8), bools(1, 1, 1, 6)),
        scale=0.35,
        partial=True,
    ),
    case(*(floats(1, 2, 6, 8, dtype="float16") for _ in range(3)), scale=0.35),
    case(floats(1, 3, 1, 8), floats(1, 3, 21, 8), floats(1, 3, 21, 8), scale=0.35),
)
