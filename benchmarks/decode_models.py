# SPDX-License-Identifier: Apache-2.0
"""The networks of `benchmarks.decode`: one greedy step of a causal model with its cache.

The models are GPT-2 and Llama of transformers with seeded random weights. A step reads one token
and gives the most likely next one. `StaticStep` has caches of fixed capacity, in which it writes
the row `position`, and looks at as many rows as `mask` has: what Heddle compiles. `MaskedStep` is
the same for torch.compile, in place and over the whole capacity, as transformers' static cache
is. `GrowingStep` takes and gives caches of the exact length: what ONNX Runtime runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import Cache


@dataclass(frozen=True, slots=True)
class Size:
    """What a cache and its network look like."""

    family: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    vocabulary: int

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    def cache_shape(self, length: int) -> tuple[int, int, int, int]:
        return (1, self.kv_heads, length, self.head_size)


SIZES = {
    "gpt2": Size("gpt2", 12, 768, 12, 12, 3072, 50257),
    "gpt2-small": Size("gpt2", 4, 256, 4, 4, 1024, 8192),
    "llama": Size("llama", 12, 768, 12, 4, 2048, 32000),
    "llama-small": Size("llama", 4, 256, 8, 4, 704, 8192),
}


def build(size: Size, capacity: int) -> nn.Module:
    """The causal model with seeded weights, for at most `capacity` tokens."""
    torch.manual_seed(7)
    if size.family == "gpt2":
        config: Any = GPT2Config(
            vocab_size=size.vocabulary,
            n_embd=size.width,
            n_layer=size.layers,
            n_head=size.heads,
            n_inner=size.hidden,
            n_positions=capacity,
            attn_implementation="sdpa",
            bos_token_id=0,
            eos_token_id=0,
        )
        model: nn.Module = GPT2LMHeadModel(config)
    else:
        config = LlamaConfig(
            vocab_size=size.vocabulary,
            hidden_size=size.width,
            intermediate_size=size.hidden,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.kv_heads,
            max_position_embeddings=capacity,
            attn_implementation="sdpa",
        )
        model = LlamaForCausalLM(config)
    # Weights of the default size leave all tokens nearly equally likely, and the argmax to chance.
    for parameter in model.parameters():
        parameter.data *= 3.0 if parameter.ndim == 2 else 1.0
    return model.eval()


class _Rows(Cache):  # type: ignore[misc]
    """The caches of one step. mode: "functional" makes new ones, "mutable" writes in place, "grow"
    appends; `shown` is how many rows attention sees, None for all."""

    def __init__(self, rows: list[Tensor], position: Tensor, mode: str, shown: Any) -> None:
        super().__init__(layers=[])
        self.rows, self.position, self.mode, self.shown = rows, position, mode, shown

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_a: Any, **_k: Any) -> Any:
        found = []
        for at, new in ((2 * layer_idx, key), (2 * layer_idx + 1, value)):
            old = self.rows[at]
            if self.mode == "grow":
                self.rows[at] = torch.cat([old, new], dim=2)
            elif self.mode == "mutable":
                old.index_copy_(2, self.position, new)
            else:
                self.rows[at] = old.index_copy(2, self.position, new)
            row = self.rows[at]
            found.append(row if self.shown is None else row[:, :, : self.shown])
        return tuple(found)

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        return 0

    def __len__(self) -> int:
        return len(self.rows) // 2


class _Step(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def run(self, token: Tensor, position: Tensor, mask: Tensor, cache: _Rows) -> Tensor:
        result = self.model(
            input_ids=token.reshape(1, 1),
            past_key_values=cache,
            attention_mask=mask,
            position_ids=position.reshape(1, 1),
            use_cache=True,
        )
        return result.logits[:, -1].argmax(-1)


class StaticStep(_Step):
    """(token [1], position [1], mask [1, 1, 1, rows], caches) -> next token [1], caches."""

    def forward(
        self, token: Tensor, position: Tensor, mask: Tensor, *caches: Tensor
    ) -> tuple[Tensor, ...]:
        cache = _Rows(list(caches), position, "functional", mask.shape[-1])
        return (self.run(token, position, mask, cache), *cache.rows)


class MaskedStep(_Step):
    """(token [1], position [1], caches) -> next token [1]; the caches are changed."""

    def forward(self, token: Tensor, position: Tensor, *caches: Tensor) -> Tensor:
        places = torch.arange(caches[0].shape[2])
        mask = (places <= position)[None, None, None, :]
        return self.run(token, position, mask, _Rows(list(caches), position, "mutable", None))


class GrowingStep(_Step):
    """(token [1], caches) -> next token [1], longer caches."""

    def forward(self, token: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        past = caches[0].shape[2]
        position = torch.arange(past, past + 1)
        mask = torch.zeros(1, 1, 1, past + 1)
        cache = _Rows(list(caches), position, "grow", None)
        return (self.run(token, position, mask, cache), *cache.rows)


def cache_names(size: Size) -> list[str]:
    return [f"{part}.{layer}" for layer in range(size.layers) for part in ("key", "value")]


__all__ = ["SIZES", "GrowingStep", "MaskedStep", "Size", "StaticStep", "build", "cache_names"]
