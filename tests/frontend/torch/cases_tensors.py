# SPDX-License-Identifier: Apache-2.0
"""Views, indexing, creation of tensors and layers of networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from tests.frontend.torch.case import ALL_FLOATS, FLOATS, Case, Spec, b, f, i


def _views() -> list[Case]:
    rows: list[tuple[str, Callable[..., Any]]] = [
        ("view", lambda x: x.view(6, 4)),
        ("view -1", lambda x: x.view(-1)),
        ("reshape transposed", lambda x: x.transpose(0, 2).reshape(4, -1)),
        ("flatten", lambda x: x.flatten(1)),
        ("unflatten", lambda x: x.unflatten(-1, (2, 2))),
        ("permute", lambda x: x.permute(2, 0, -2)),
        ("transpose", lambda x: x.transpose(-1, 0)),
        ("t", lambda x: x[0].t()),
        ("squeeze", lambda x: x[:1].squeeze()),
        ("squeeze dim", lambda x: x[:1].squeeze(0)),
        ("squeeze none", lambda x: x.squeeze(1)),
        ("unsqueeze", lambda x: x.unsqueeze(-1)),
        ("expand", lambda x: x[:, :1].expand(2, 5, 4)),
        ("expand new", lambda x: x.expand(3, -1, -1, -1)),
        ("repeat", lambda x: x.repeat(2, 1, 3)),
        ("repeat new", lambda x: x.repeat(2, 1, 1, 1)),
        ("repeat_interleave", lambda x: x.repeat_interleave(2, 1)),
        ("cat", lambda x: torch.cat([x, x + 1], -1)),
        ("cat promotes", lambda x: torch.cat([x, x.long()], 0)),
        ("cat legacy", lambda x: torch.cat([torch.empty(0), x], 0)),
        ("stack", lambda x: torch.stack([x, x * 2], 1)),
        ("slice", lambda x: x[:, 1:3]),
        ("slice step", lambda x: x[..., ::2]),
        ("slice negative", lambda x: x[..., -3:-1]),
        ("slice beyond", lambda x: x[:, 1:100]),
        ("slice empty", lambda x: x[:, 3:]),
        ("select", lambda x: x[:, -1]),
        ("narrow", lambda x: x.narrow(2, 1, 2)),
        ("split", lambda x: torch.split(x, 2, 2)),
        ("split uneven", lambda x: torch.split(x, 3, -1)),
        ("split sizes", lambda x: torch.split(x, [1, 3], 2)),
        ("chunk", lambda x: x.chunk(3, 1)),
        ("unbind", lambda x: x.unbind(1)),
        ("flip", lambda x: x.flip(0, -1)),
        ("roll", lambda x: x.roll((1, -1), (0, 2))),
        ("roll flat", lambda x: x.roll(5)),
        ("tril", lambda x: x.tril()),
        ("triu", lambda x: x.triu(1)),
        ("diagonal", lambda x: x.diagonal(1, 1, 2)),
        ("diagonal below", lambda x: x.diagonal(-1, 0, 2)),
        ("unfold", lambda x: x.unfold(2, 3, 1)),
        ("unfold first", lambda x: x.unfold(0, 1, 1)),
        ("as_strided", lambda x: x.as_strided((2, 3), (4, 1), 2)),
        ("movedim", lambda x: x.movedim(0, -1)),
        ("pad", lambda x: F.pad(x, (1, 2, 0, 1), value=3)),
        ("pad negative", lambda x: F.pad(x, (-1, 1))),
        ("meshgrid", lambda x: torch.meshgrid(x[0, 0], x[0, :, 0], indexing="ij")),
        ("slice_scatter", lambda x: torch.slice_scatter(x, x[:, :1] + 1, 1, 1, 2)),
        ("slice_scatter step", lambda x: torch.slice_scatter(x, x[..., :2] + 1, 2, 0, 4, 2)),
        ("select_scatter", lambda x: torch.select_scatter(x, x[:, 0] + 1, 1, -1)),
        ("clone", torch.clone),
    ]
    dtypes = (torch.float32, torch.int64, torch.bool)
    fills = ("scatter", "pad", "cat", "tri")
    cases = [
        Case(n, g, (f(2, 3, 4),), dtypes[:2] if any(w in n for w in fills) else dtypes)
        for n, g in rows
    ]
    cases += [
        Case("pad reflect", lambda x: F.pad(x, (1, 2), mode="reflect"), (f(2, 3, 4),)),
        Case("pad replicate", lambda x: F.pad(x, (1, 2, 2, 0), mode="replicate"), (f(1, 2, 3, 4),)),
        Case("pad circular", lambda x: F.pad(x, (1, 2), mode="circular"), (f(2, 3, 4),)),
        Case("transpose 0-d", lambda x: x.reshape(1).squeeze(), (f(),)),
        Case("view empty", lambda x: x.view(3, 0), (f(0, 3),)),
    ]
    return cases


def _indexing() -> list[Case]:
    cases: list[Case] = []
    x = f(4, 5, 6)
    rows: list[tuple[str, Callable[..., Any], tuple[Spec, ...]]] = [
        ("embedding", F.embedding, (i(2, 3), f(4, 5))),
        ("embedding int32", F.embedding, (i(2, 3, dtype=torch.int32), f(4, 5))),
        ("index_select", lambda a, j: a.index_select(1, j), (x, i(7, high=4))),
        ("gather", lambda a, j: a.gather(1, j), (x, i(4, 2, 6, high=4))),
        ("gather smaller", lambda a, j: a.gather(2, j), (x, i(2, 3, 7, high=5))),
        ("x[i]", lambda a, j: a[j], (x, i(2, 3, low=-4))),
        ("x[:, i]", lambda a, j: a[:, j], (x, i(3, high=4))),
        ("x[i, j]", lambda a, j, k: a[j, k], (x, i(3), i(3, high=4))),
        ("x[i, :, j]", lambda a, j, k: a[j, :, k], (x, i(3), i(3, high=5))),
        ("x[:, i, j]", lambda a, j, k: a[:, j, k], (x, i(3, high=4), i(2, 1, high=5))),
        ("x[i, j, k]", lambda a, j, k: a[j, k, k], (x, i(3, 1), i(4, high=4))),
        ("index_put", lambda a, j, v: a.index_put((j,), v), (x, i(2), f(2, 5, 6))),
        ("index_put broadcast", lambda a, j, v: a.index_put((j,), v), (x, i(2), f(6))),
        (
            "index_put adds",
            lambda a, j, v: a.index_put((j,), v, accumulate=True),
            (x, i(6), f(6, 5, 6)),
        ),
        (
            "index_put second",
            lambda a, j: torch.ops.aten.index_put(a, [None, j], a[:, :2]),
            (x, i(2, high=1)),
        ),
        ("index_put mask", lambda a, m: a.index_put((m,), torch.tensor(7.0)), (x, b(4, 5))),
        ("scatter", lambda a, j, s: a.scatter(1, j, s), (f(3, 5), i(3, 1, high=4), f(3, 1))),
        ("scatter value", lambda a, j: a.scatter(0, j, 2.0), (f(4, 3), i(1, 3))),
        ("scatter_add", lambda a, j, s: a.scatter_add(0, j, s), (f(4, 3), i(6, 3), f(6, 3))),
        ("scatter_add larger", lambda a, j, s: a.scatter_add(0, j, s), (f(4, 3), i(2, 3), f(6, 3))),
        ("scatter_reduce", lambda a, j, s: a.scatter_reduce(0, j, s, "amax"), (f(4), i(6), f(6))),
        ("index_add", lambda a, j, s: a.index_add(1, j, s), (f(2, 5), i(3, high=4), f(2, 3))),
        ("index_copy", lambda a, j, s: a.index_copy(0, j, s), (f(5, 2), i(1), f(1, 2))),
        ("index_fill", lambda a, j: a.index_fill(1, j, 3.0), (f(2, 5), i(2, high=4))),
        ("take_along_dim", lambda a, j: torch.take_along_dim(a, j, 1), (f(3, 4), i(3, 2))),
        ("one_hot", lambda j: F.one_hot(j, 5), (i(2, 3),)),
        ("masked assignment", _masked_assignment, (f(3, 4),)),
        ("slice assignment", _slice_assignment, (f(3, 4),)),
        ("bucketize by hand", lambda a, c: (a[:, None] > c).sum(-1), (f(5), f(3))),
    ]
    cases += [Case(n, g, inputs) for n, g, inputs in rows]
    return cases


def _masked_assignment(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[y > 0] = -1.0
    return y


def _slice_assignment(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[1:, ::2] = 5.0
    y[0] += 1.0
    return y


def _creation() -> list[Case]:
    x = f(3, 4)
    rows: list[tuple[str, Callable[..., Any]]] = [
        ("arange", lambda a: torch.arange(5) + a[0, 0].long()),
        ("arange float", lambda a: torch.arange(0.5, 2.0, 0.25) + a[0, 0]),
        ("arange down", lambda a: torch.arange(5, 0, -2) + a.long()[0, 0]),
        ("zeros", lambda a: torch.zeros(3, 4) + a),
        ("ones int", lambda a: torch.ones(3, 1, dtype=torch.int32) + a),
        ("full", lambda a: torch.full((2, 2), 7) + a[0, 0]),
        ("full bool", lambda a: torch.full((3, 4), True) & (a > 0)),
        ("eye", lambda a: torch.eye(3, 4) * a),
        ("linspace", lambda a: torch.linspace(-1, 1, 4) * a),
        ("new_zeros", lambda a: a.new_zeros(2, 4) + a[0]),
        ("new_full", lambda a: a.new_full((4,), 2.5) + a),
        ("scalar_tensor", lambda a: torch.scalar_tensor(2.5) * a),
        ("tensor", lambda a: torch.tensor([1.0, 2.0, 3.0, 4.0]) * a),
        ("tril mask", lambda a: torch.ones(3, 4).tril() * a),
        ("masked by inf", lambda a: a + torch.full((3, 4), float("-inf")).triu(1)),
    ]
    return [Case(n, g, (x,)) for n, g in rows]


def _networks() -> list[Case]:
    image = f(2, 4, 9, 8)
    q = f(2, 4, 5, 8)
    rows: list[tuple[str, Callable[..., Any], tuple[Spec, ...]]] = [
        ("mm", torch.mm, (f(3, 4), f(4, 5))),
        ("bmm", torch.bmm, (f(2, 3, 4), f(2, 4, 5))),
        ("mv", torch.mv, (f(3, 4), f(4))),
        ("dot", torch.dot, (f(4), f(4))),
        ("matmul broadcast", torch.matmul, (f(2, 1, 3, 4), f(5, 4, 2))),
        ("matmul vector", torch.matmul, (f(2, 3, 4), f(4))),
        (
            "addmm",
            lambda c, a, d: torch.addmm(c, a, d, beta=0.5, alpha=2.0),
            (f(5), f(3, 4), f(4, 5)),
        ),
        ("baddbmm", torch.baddbmm, (f(2, 3, 5), f(2, 3, 4), f(2, 4, 5))),
        ("linear", F.linear, (f(2, 3, 4), f(5, 4), f(5))),
        ("linear without bias", F.linear, (f(4), f(5, 4))),
        ("einsum", lambda a, c: torch.einsum("bij,bkj->bik", a, c), (f(2, 3, 4), f(2, 5, 4))),
        ("outer", torch.outer, (f(3), f(4))),
        ("cdist by hand", lambda a, c: (a[:, None] - c[None]).norm(dim=-1), (f(3, 4), f(2, 4))),
        ("conv1d", lambda x, w: F.conv1d(x, w, padding=1), (f(2, 3, 8), f(4, 3, 3))),
        ("conv2d", F.conv2d, (image, f(6, 4, 3, 3), f(6))),
        (
            "conv2d strided",
            lambda x, w: F.conv2d(x, w, stride=2, padding=(1, 0), dilation=(1, 2)),
            (image, f(6, 4, 3, 2)),
        ),
        ("conv2d groups", lambda x, w: F.conv2d(x, w, groups=2), (image, f(6, 2, 1, 1))),
        (
            "conv2d depthwise",
            lambda x, w: F.conv2d(x, w, groups=4, padding="same"),
            (image, f(4, 1, 3, 3)),
        ),
        ("conv2d unbatched", F.conv2d, (f(4, 9, 8), f(6, 4, 3, 3))),
        ("conv3d", F.conv3d, (f(1, 2, 4, 5, 6), f(3, 2, 2, 2, 2))),
        (
            "conv_transpose2d",
            lambda x, w, c: F.conv_transpose2d(x, w, c, stride=2, padding=1, output_padding=1),
            (image, f(4, 3, 3, 3), f(3)),
        ),
        ("max_pool2d", lambda x: F.max_pool2d(x, 3, 2, 1), (image,)),
        ("max_pool2d ceil", lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True), (image,)),
        ("max_pool2d indices", lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True), (image,)),
        ("max_pool1d", lambda x: F.max_pool1d(x, 2), (f(2, 3, 8),)),
        ("max_pool3d", lambda x: F.max_pool3d(x, 2), (f(1, 2, 4, 4, 4),)),
        ("avg_pool2d", lambda x: F.avg_pool2d(x, 3, 2, 1), (image,)),
        (
            "avg_pool2d inside",
            lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
            (image,),
        ),
        ("avg_pool2d ceil", lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True), (image,)),
        ("avg_pool2d divisor", lambda x: F.avg_pool2d(x, 2, divisor_override=3), (image,)),
        ("avg_pool1d", lambda x: F.avg_pool1d(x, 3, 1, 1), (f(2, 3, 8),)),
        ("adaptive 1", lambda x: F.adaptive_avg_pool2d(x, 1), (image,)),
        ("adaptive even", lambda x: F.adaptive_avg_pool2d(x, (3, 4)), (image,)),
        ("adaptive uneven", lambda x: F.adaptive_avg_pool2d(x, (4, 3)), (image,)),
        ("adaptive 1d", lambda x: F.adaptive_avg_pool1d(x, 3), (f(2, 3, 8),)),
        ("layer_norm", lambda x, w, c: F.layer_norm(x, (4,), w, c), (f(2, 3, 4), f(4), f(4))),
        ("layer_norm bare", lambda x: F.layer_norm(x, (3, 4)), (f(2, 3, 4),)),
        ("group_norm", lambda x, w, c: F.group_norm(x, 2, w, c), (image, f(4), f(4))),
        ("group_norm bare", lambda x: F.group_norm(x, 2), (f(2, 4),)),
        ("instance_norm", F.instance_norm, (image,)),
        ("batch_norm", lambda x, m, v: F.batch_norm(x, m, v + 3), (image, f(4), f(4))),
        (
            "batch_norm affine",
            lambda x, m, v, w, c: F.batch_norm(x, m, v + 3, w, c),
            (image, f(4), f(4), f(4), f(4)),
        ),
        ("rms_norm", lambda x, w: F.rms_norm(x, (4,), w, 1e-5), (f(2, 3, 4), f(4))),
        ("attention", F.scaled_dot_product_attention, (q, f(2, 4, 6, 8), f(2, 4, 6, 8))),
        (
            "attention causal",
            lambda a, k, v: F.scaled_dot_product_attention(a, k, v, is_causal=True),
            (q, q, q),
        ),
        ("attention mask", F.scaled_dot_product_attention, (q, q, q, f(5, 5))),
        (
            "attention bool mask",
            lambda a, k, v, m: F.scaled_dot_product_attention(a, k, v, m | torch.eye(5).bool()),
            (q, q, q, b(2, 1, 5, 5)),
        ),
        (
            "attention scale",
            lambda a, k, v: F.scaled_dot_product_attention(a, k, v, scale=0.3),
            (f(2, 5, 8), f(2, 5, 8), f(2, 5, 8)),
        ),
        ("nearest", lambda x: F.interpolate(x, scale_factor=2), (image,)),
        ("nearest down", lambda x: F.interpolate(x, size=(4, 5)), (image,)),
        ("bilinear", lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"), (image,)),
        (
            "bilinear corners",
            lambda x: F.interpolate(x, size=(5, 11), mode="bilinear", align_corners=True),
            (image,),
        ),
        ("bicubic", lambda x: F.interpolate(x, size=(12, 11), mode="bicubic"), (image,)),
        ("linear 1d", lambda x: F.interpolate(x, size=5, mode="linear"), (f(1, 2, 8),)),
        (
            "grid_sample",
            lambda x, g: F.grid_sample(x, g, align_corners=False),
            (image, f(2, 3, 3, 2, low=-1.2, high=1.2)),
        ),
        ("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), (image,)),
        ("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), (f(1, 2, 4, 6),)),
        ("cross_entropy", F.cross_entropy, (f(5, 4), i(5))),
        ("mse_loss", F.mse_loss, (f(5, 4), f(5, 4))),
        ("smooth_l1_loss", F.smooth_l1_loss, (f(5, 4), f(5, 4))),
        (
            "binary_cross_entropy",
            lambda x, t: F.binary_cross_entropy_with_logits(x, t.sigmoid()),
            (f(5, 4), f(5, 4)),
        ),
        ("kl_div", lambda x, t: F.kl_div(x, t.exp(), reduction="batchmean"), (f(5, 4), f(5, 4))),
        ("cosine_similarity", F.cosine_similarity, (f(5, 4), f(5, 4))),
        (
            "multi_head_attention",
            lambda x, w, o: F.multi_head_attention_forward(
                x, x, x, 4, 2, w, None, None, None, False, 0.0, o, None, training=False
            )[0],
            (f(3, 2, 4), f(12, 4), f(4, 4)),
        ),
    ]
    return [
        Case(n, g, inputs, (None, torch.bfloat16) if n in _HALF else (None,))
        for n, g, inputs in rows
    ]


_HALF = frozenset(
    (
        "mm",
        "linear",
        "conv2d",
        "layer_norm",
        "rms_norm",
        "batch_norm",
        "group_norm",
        "attention",
        "avg_pool2d",
        "adaptive uneven",
    )
)


def _segments() -> list[Case]:
    def lengths(reduce: str) -> Callable[..., Any]:
        return lambda x: torch.segment_reduce(
            x, reduce, lengths=torch.tensor([2, 0, 3, 1]), unsafe=True
        )

    def offsets(reduce: str) -> Callable[..., Any]:
        return lambda x: torch.segment_reduce(
            x, reduce, offsets=torch.tensor([0, 3, 3, 6]), unsafe=True, initial=1.5
        )

    names = ("sum", "mean", "max", "min", "prod")
    doubles = (torch.float32, torch.float64)
    cases = [Case(f"segment {n}", lengths(n), (f(6, 3),), doubles) for n in names]
    cases += [Case(f"segment {n} from", offsets(n), (f(6, 2, 3),)) for n in names]
    return cases


def _bags() -> list[Case]:
    """Embedding bags, grouped products, distances of pairs."""
    table, index = f(9, 4), i(6, high=8)

    def bag(**how: Any) -> Callable[..., Any]:
        return lambda w, x: F.embedding_bag(x, w, torch.tensor([0, 2, 2, 5]), **how)

    def grouped(a: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        ends = torch.tensor([2, 2, 5], dtype=torch.int32)
        return torch._grouped_mm(a, m, ends)[:5]  # PyTorch leaves the rows behind them open

    half = (torch.bfloat16,)  # what PyTorch traces

    def weighted(w: torch.Tensor, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        starts = torch.tensor([0, 2, 2, 5])
        return F.embedding_bag(x, w, starts, mode="sum", per_sample_weights=s)

    return [
        Case("bag sum", bag(mode="sum"), (table, index), FLOATS),
        Case("bag mean", bag(mode="mean"), (table, index)),
        Case("bag max", bag(mode="max"), (table, index)),
        Case("bag with padding", bag(mode="mean", padding_idx=3), (table, index)),
        Case("bag to the end", bag(mode="sum", include_last_offset=True), (table, index)),
        Case("bag weighted", weighted, (table, index, f(6))),
        Case("bag of rows", lambda w, x: F.embedding_bag(x, w), (table, i(3, 2, high=8))),
        *_segments(),
        Case("grouped product", grouped, (f(7, 16), f(3, 16, 8)), half),
        Case("grouped batch", torch._grouped_mm, (f(3, 4, 16), f(3, 16, 8)), half),
        Case("pdist", F.pdist, (f(5, 3),)),
        Case("pdist 1", lambda x: F.pdist(x, 1.0), (f(5, 3),)),
        Case("pdist 3", lambda x: F.pdist(x, 3.0), (f(5, 3),)),
        Case("erfc", torch.erfc, (f(9, low=-3, high=6),), ALL_FLOATS),
        Case("col2im", lambda x: F.fold(x, (5, 6), (2, 3), stride=(1, 2)), (f(2, 18, 8),)),
    ]


CASES = (*_views(), *_indexing(), *_creation(), *_networks(), *_bags())
