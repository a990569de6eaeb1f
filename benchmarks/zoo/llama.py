# SPDX-License-Identifier: Apache-2.0
"""A decoder stack in the manner of Llama (Touvron et al., 2023).

RMSNorm, rotary positions, grouped-query attention with a causal mask, SwiGLU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

Cache = tuple[Tensor, Tensor]


class RMSNorm(nn.Module):
    """x / rms(x) * weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


class Attention(nn.Module):
    """Grouped-query attention: `heads` queries share `kv_heads` keys and values."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, width // heads
        self.query = nn.Linear(width, heads * self.size, bias=False)
        self.key = nn.Linear(width, kv_heads * self.size, bias=False)
        self.value = nn.Linear(width, kv_heads * self.size, bias=False)
        self.output = nn.Linear(heads * self.size, width, bias=False)

    def forward(
        self, x: Tensor, cosine: Tensor, sine: Tensor, mask: Tensor, past: Cache | None = None
    ) -> tuple[Tensor, Cache]:
        """The result, and the keys and values of `past` and of `x` (batch, kv_heads, length, size)
        for a later call."""
        batch, length, _ = x.shape
        group = self.heads // self.kv_heads

        def split(y: Tensor, heads: int) -> Tensor:
            return y.view(batch, length, heads, self.size).transpose(1, 2)

        query = _rotate(split(self.query(x), self.heads), cosine, sine)
        key = _rotate(split(self.key(x), self.kv_heads), cosine, sine)
        value = split(self.value(x), self.kv_heads)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        cache = key, value
        key, value = (
            y[:, :, None]
            .expand(batch, self.kv_heads, group, y.shape[2], self.size)
            .reshape(batch, self.heads, y.shape[2], self.size)
            for y in cache
        )
        scores = query @ key.transpose(-1, -2) / self.size**0.5 + mask
        mixed = torch.softmax(scores, dim=-1) @ value
        return self.output(mixed.transpose(1, 2).reshape(batch, length, -1)), cache


class Layer(nn.Module):
    """Attention and a gated feed-forward network, each normalised before and added after."""

    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int) -> None:
        super().__init__()
        self.attention_norm, self.feed_norm = RMSNorm(width), RMSNorm(width)
        self.attention = Attention(width, heads, kv_heads)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(
        self, x: Tensor, cosine: Tensor, sine: Tensor, mask: Tensor, past: Cache | None = None
    ) -> tuple[Tensor, Cache]:
        mixed, cache = self.attention(self.attention_norm(x), cosine, sine, mask, past)
        x = x + mixed
        y = self.feed_norm(x)
        return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y)), cache


class Llama(nn.Module):
    """Token ids (batch, length) to logits (batch, length, vocabulary).

    With `past` tokens, the keys and values of these are inputs after the ids, two a layer, and the
    result goes on with those of all tokens.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int,
        layers: int,
        heads: int,
        kv_heads: int,
        hidden: int,
        length: int,
        past: int = 0,
    ) -> None:
        super().__init__()
        self.past = past
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Layer(width, heads, kv_heads, hidden) for _ in range(layers))
        self.norm = RMSNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        size = width // heads
        frequency = 1e4 ** (-torch.arange(0, size, 2) / size)
        positions = torch.arange(past, past + length).float()
        angle = torch.outer(positions, frequency).repeat(1, 2)
        self.register_buffer("cosine", angle.cos())
        self.register_buffer("sine", angle.sin())
        mask = torch.full((length, past + length), torch.finfo(torch.float32).min).triu(past + 1)
        self.register_buffer("mask", mask)

    def forward(self, input_ids: Tensor, *cache: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = self.embedding(input_ids)
        present: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            past = (cache[2 * index], cache[2 * index + 1]) if self.past else None
            x, both = layer(x, self.cosine, self.sine, self.mask, past)
            present += both
        logits = self.head(self.norm(x))
        return (logits, *present) if self.past else logits


def llama(
    *,
    vocabulary: int = 8192,
    width: int = 1024,
    layers: int = 4,
    heads: int = 16,
    kv_heads: int = 4,
    hidden: int = 2816,
    length: int = 128,
    past: int = 0,
) -> nn.Module:
    """A Llama-style stack; it reads `length` tokens after `past` tokens whose keys and values are
    given."""
    return Llama(
        vocabulary=vocabulary,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        hidden=hidden,
        length=length,
        past=past,
    )
