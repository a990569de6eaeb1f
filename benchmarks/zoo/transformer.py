# SPDX-License-Identifier: Apache-2.0
"""BERT, DistilBERT, ViT and GPT-2 as the transformers package has them, made from a config alone.

Attention is the `eager` form: products, a mask and a softmax, as exported files have it.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    ViTConfig,
    ViTForImageClassification,
)


class _Fields(nn.Module):
    """Calls a model with named inputs and returns the named fields of its result as a tuple."""

    def __init__(
        self, model: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...], **fixed: object
    ) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs, self.fixed = model, inputs, outputs, fixed

    def forward(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(self.inputs, arguments, strict=True))
        result = self.model(**named, **self.fixed)
        return tuple(result[name] for name in self.outputs)


def bert(
    *,
    vocabulary: int = 30522,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    positions: int = 512,
) -> nn.Module:
    """BERT encoder with pooler."""
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=positions,
        attn_implementation="eager",
    )
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    return _Fields(BertModel(config), inputs, ("last_hidden_state", "pooler_output"))


def distilbert(
    *,
    vocabulary: int = 30522,
    width: int = 768,
    layers: int = 6,
    heads: int = 12,
    positions: int = 512,
) -> nn.Module:
    """DistilBERT with its head for two classes."""
    config = DistilBertConfig(
        vocab_size=vocabulary,
        dim=width,
        n_layers=layers,
        n_heads=heads,
        hidden_dim=4 * width,
        max_position_embeddings=positions,
        attn_implementation="eager",
    )
    model = DistilBertForSequenceClassification(config)
    return _Fields(model, ("input_ids", "attention_mask"), ("logits",))


def vit(
    *,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    image: int = 224,
    patch: int = 16,
    classes: int = 1000,
) -> nn.Module:
    """Vision transformer with a linear head on the class token."""
    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        image_size=image,
        patch_size=patch,
        num_labels=classes,
        attn_implementation="eager",
    )
    return _Fields(ViTForImageClassification(config), ("pixel_values",), ("logits",))


def gpt2(
    *,
    vocabulary: int = 50257,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    positions: int = 1024,
) -> nn.Module:
    """GPT-2 reading a whole prompt: logits at every position, no cache."""
    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        n_positions=positions,
        attn_implementation="eager",
        bos_token_id=0,
        eos_token_id=0,
    )
    return _Fields(GPT2LMHeadModel(config), ("input_ids",), ("logits",), use_cache=False)
