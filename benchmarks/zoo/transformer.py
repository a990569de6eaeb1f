# SPDX-License-Identifier: Apache-2.0
"""BERT, DistilBERT, T5, ViT, Swin and GPT-2 of the transformers package, made from a config alone.

Attention is the `eager` form: products, a mask and a softmax, as exported files have it.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    SwinConfig,
    SwinForImageClassification,
    T5Config,
    T5EncoderModel,
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
    model = _gpt2(vocabulary, width, layers, heads, positions)
    return _Fields(model, ("input_ids",), ("logits",), use_cache=False)


def _gpt2(vocabulary: int, width: int, layers: int, heads: int, positions: int) -> nn.Module:
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
    return GPT2LMHeadModel(config)


class _Decoder(nn.Module):
    """One step of a causal model: token ids, then the keys and values of all tokens before (two
    inputs a layer); the result is the logits and the keys and values of all tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        cache = DynamicCache()
        for layer, (key, value) in enumerate(zip(past[::2], past[1::2], strict=True)):
            cache.update(key, value, layer)
        result = self.model(input_ids, cache, use_cache=True)
        present = [item for layer in cache.layers for item in (layer.keys, layer.values)]
        return (result.logits, *present)


def gpt2_decode(
    *,
    vocabulary: int = 50257,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    positions: int = 1024,
) -> nn.Module:
    """GPT-2 generating: the next token after those whose keys and values are given."""
    return _Decoder(_gpt2(vocabulary, width, layers, heads, positions))


def t5_encoder(
    *,
    vocabulary: int = 32128,
    width: int = 512,
    layers: int = 6,
    heads: int = 8,
    hidden: int = 2048,
) -> nn.Module:
    """The encoder of T5-small by default: RMS norms, a bias by relative position."""
    config = T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=width // heads,
        d_ff=hidden,
        num_layers=layers,
        num_heads=heads,
        use_cache=False,
        attn_implementation="eager",
    )
    return _Fields(T5EncoderModel(config), ("input_ids", "attention_mask"), ("last_hidden_state",))


def swin(
    *,
    width: int = 96,
    layers: tuple[int, ...] = (2, 2, 6, 2),
    heads: tuple[int, ...] = (3, 6, 12, 24),
    image: int = 224,
    window: int = 7,
    classes: int = 1000,
) -> nn.Module:
    """Swin-T by default: attention in shifted windows, a bias by relative position."""
    config = SwinConfig(
        image_size=image,
        embed_dim=width,
        depths=list(layers),
        num_heads=list(heads),
        window_size=window,
        num_labels=classes,
        attn_implementation="eager",
    )
    return _Fields(SwinForImageClassification(config), ("pixel_values",), ("logits",))
