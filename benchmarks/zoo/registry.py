# SPDX-License-Identifier: Apache-2.0
"""What is in the zoo: one entry a network, with its sizes and its inputs. Imports no framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class Input:
    """One input of a network and how random values for it are drawn.

    `normal`: standard normal. `tokens`: uniform in [0, limit). `mask`: ones, and zeros for the
    last `limit` positions of each row (padding, as a batch of sentences has it).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    kind: Literal["normal", "tokens", "mask"] = "normal"
    limit: int = 0

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """One random value of this input's shape and dtype."""
        if self.kind == "normal":
            return rng.standard_normal(self.shape).astype(self.dtype)
        if self.kind == "tokens":
            return rng.integers(0, self.limit, self.shape).astype(self.dtype)
        value = np.ones(self.shape, self.dtype)
        value[..., self.shape[-1] - self.limit :] = 0
        return value


@dataclass(frozen=True)
class Variant:
    """One size of a network: the options of its builder, its inputs and its outputs."""

    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """One network. `builder` is a function of `benchmarks.zoo.<module>` that returns a module.

    `exporter` is the torch exporter that is used: "script" keeps batch normalisation as an
    operator of its own (the other one folds it), "graph" gives cleaner graphs for transformers.
    `tokens` is how many a call generates.
    """

    name: str
    module: str
    builder: str
    exporter: Literal["script", "graph"]
    full: Variant
    small: Variant
    tokens: int = 0


def _image(size: int, channels: int = 3) -> tuple[Input, ...]:
    return (Input("image", (1, channels, size, size)),)


def _tokens(length: int, vocabulary: int) -> Input:
    return Input("input_ids", (1, length), "int64", "tokens", vocabulary)


def _mask(length: int, padding: int) -> Input:
    return Input("attention_mask", (1, length), "int64", "mask", padding)


def _text(length: int, vocabulary: int, *, padding: int, types: bool = False) -> tuple[Input, ...]:
    segment = Input("token_type_ids", (1, length), "int64", "tokens", 2)
    return (_tokens(length, vocabulary), _mask(length, padding), *((segment,) if types else ()))


def _features(*shape: int) -> tuple[Input, ...]:
    return (Input("features", shape),)


def _decoding(
    vocabulary: int, *, layers: int, heads: int, size: int, past: int, options: Mapping[str, Any]
) -> Variant:
    """One token after `past` others, whose keys and values (two inputs a layer) are known."""
    parts = [f"{index}.{part}" for index in range(layers) for part in ("key", "value")]
    cache = tuple(Input(f"past.{part}", (1, heads, past, size)) for part in parts)
    outputs = ("logits", *(f"present.{part}" for part in parts))
    return Variant((_tokens(1, vocabulary), *cache), outputs, options)


def _image_model(
    name: str,
    module: str,
    builder: str,
    *,
    options: Mapping[str, Any],
    small: Mapping[str, Any],
    size: int = 224,
    small_size: int = 32,
    output: str = "logits",
    exporter: Literal["script", "graph"] = "script",
) -> Model:
    return Model(
        name,
        module,
        builder,
        exporter,
        Variant(_image(size), (output,), options),
        Variant(_image(small_size), (output,), small),
    )


_MODELS = (
    _image_model(
        "resnet18",
        "resnet",
        "resnet",
        options={"blocks": (2, 2, 2, 2), "bottleneck": False},
        small={"blocks": (1, 1, 1, 1), "bottleneck": False, "width": 8, "classes": 10},
    ),
    _image_model(
        "resnet50",
        "resnet",
        "resnet",
        options={"blocks": (3, 4, 6, 3), "bottleneck": True},
        small={"blocks": (1, 2, 1, 1), "bottleneck": True, "width": 8, "classes": 10},
    ),
    _image_model(
        "mobilenetv2",
        "mobilenet",
        "mobilenetv2",
        options={},
        small={"width": 0.25, "classes": 10, "head": 64, "depth": 0.34},
    ),
    _image_model(
        "efficientnet_b0",
        "mobilenet",
        "efficientnet_b0",
        options={},
        small={"width": 0.25, "classes": 10, "head": 64, "depth": 0.34},
    ),
    _image_model(
        "unet",
        "unet",
        "unet",
        options={"width": 32, "levels": 4, "classes": 2},
        small={"width": 4, "levels": 2, "classes": 2},
        size=256,
        output="mask",
    ),
    _image_model(
        "vgg16",
        "vgg",
        "vgg",
        options={"layers": ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)},
        small={"layers": ((4,) * 2, (8,) * 2, (8,) * 3), "hidden": 32, "classes": 10},
    ),
    Model(
        "bert_base",
        "transformer",
        "bert",
        "graph",
        Variant(
            _text(128, 30522, padding=28, types=True), ("last_hidden_state", "pooler_output"), {}
        ),
        Variant(
            _text(16, 50, padding=3, types=True),
            ("last_hidden_state", "pooler_output"),
            {"vocabulary": 50, "width": 32, "layers": 2, "heads": 4, "positions": 32},
        ),
    ),
    Model(
        "distilbert",
        "transformer",
        "distilbert",
        "graph",
        Variant(_text(128, 30522, padding=28), ("logits",), {}),
        Variant(
            _text(16, 50, padding=3),
            ("logits",),
            {"vocabulary": 50, "width": 32, "layers": 2, "heads": 4, "positions": 32},
        ),
    ),
    _image_model(
        "vit_b16",
        "transformer",
        "vit",
        options={},
        small={"width": 32, "layers": 2, "heads": 4, "image": 32, "patch": 8, "classes": 10},
        exporter="graph",
    ),
    Model(
        "gpt2",
        "transformer",
        "gpt2",
        "graph",
        Variant((_tokens(128, 50257),), ("logits",), {}),
        Variant(
            (_tokens(16, 50),),
            ("logits",),
            {"vocabulary": 50, "width": 32, "layers": 2, "heads": 4, "positions": 32},
        ),
    ),
    Model(
        "llama",
        "llama",
        "llama",
        "graph",
        Variant((_tokens(128, 8192),), ("logits",), {}),
        Variant(
            (_tokens(16, 50),),
            ("logits",),
            {
                "vocabulary": 50,
                "width": 32,
                "layers": 2,
                "heads": 4,
                "kv_heads": 2,
                "hidden": 64,
                "length": 16,
            },
        ),
    ),
    *(
        Model(
            name,
            "mlp",
            "mlp",
            "script",
            Variant(_features(batch, 784), ("probabilities",), {}),
            Variant(
                _features(min(batch, 4), 16), ("probabilities",), {"sizes": (16, 24, 20, 12, 10)}
            ),
        )
        for name, batch in (("mlp", 32), ("mlp_b1", 1), ("mlp_b128", 128))
    ),
    _image_model(
        "resnext50",
        "resnet",
        "resnet",
        options={"blocks": (3, 4, 6, 3), "bottleneck": True, "groups": 32, "group_width": 4},
        small={
            "blocks": (1, 2, 1, 1),
            "bottleneck": True,
            "width": 16,
            "groups": 4,
            "group_width": 32,
            "classes": 10,
        },
    ),
    _image_model(
        "densenet121",
        "densenet",
        "densenet",
        options={},
        small={"blocks": (2, 3, 2), "growth": 6, "classes": 10},
    ),
    _image_model(
        "inception_v3",
        "inception",
        "inception_v3",
        options={},
        small={"width": 0.125, "repeats": 1, "classes": 10},
        size=299,
        small_size=75,
    ),
    _image_model(
        "mobilenetv3_l",
        "mobilenet",
        "mobilenetv3_large",
        options={},
        small={"width": 0.25, "layers": slice(0, 15, 2), "head": 64, "classes": 10},
    ),
    _image_model(
        "shufflenetv2",
        "shufflenet",
        "shufflenetv2",
        options={},
        small={"stages": ((20, 2), (36, 2)), "head": 64, "classes": 10},
    ),
    _image_model(
        "convnext_t",
        "convnext",
        "convnext",
        options={},
        small={"blocks": (1, 2, 1), "width": 12, "classes": 10},
        exporter="graph",
    ),
    _image_model(
        "swin_t",
        "transformer",
        "swin",
        options={},
        small={
            "width": 16,
            "layers": (2, 2),
            "heads": (2, 4),
            "image": 32,
            "window": 4,
            "classes": 10,
        },
        exporter="graph",
    ),
    Model(
        "yolo_s",
        "yolo",
        "yolo",
        "script",
        Variant(_image(320), ("boxes8", "boxes16", "boxes32"), {}),
        Variant(_image(64), ("boxes8", "boxes16", "boxes32"), {"width": 4, "predictions": 18}),
    ),
    Model(
        "t5_encoder",
        "transformer",
        "t5_encoder",
        "graph",
        Variant(_text(128, 32128, padding=28), ("last_hidden_state",), {}),
        Variant(
            _text(16, 50, padding=3),
            ("last_hidden_state",),
            {"vocabulary": 50, "width": 32, "layers": 2, "heads": 4, "hidden": 64},
        ),
    ),
    Model(
        "gpt2_decode",
        "transformer",
        "gpt2_decode",
        "graph",
        _decoding(50257, layers=12, heads=12, size=64, past=128, options={}),
        _decoding(
            50,
            layers=2,
            heads=4,
            size=8,
            past=12,
            options={"vocabulary": 50, "width": 32, "layers": 2, "heads": 4, "positions": 32},
        ),
        tokens=1,
    ),
    Model(
        "llama_decode",
        "llama",
        "llama",
        "graph",
        _decoding(8192, layers=4, heads=4, size=64, past=128, options={"length": 1, "past": 128}),
        _decoding(
            50,
            layers=2,
            heads=2,
            size=8,
            past=12,
            options={
                "vocabulary": 50,
                "width": 32,
                "layers": 2,
                "heads": 4,
                "kv_heads": 2,
                "hidden": 64,
                "length": 1,
                "past": 12,
            },
        ),
        tokens=1,
    ),
    Model(
        "lstm",
        "recurrent",
        "lstm",
        "script",
        Variant(_features(1, 64, 512), ("logits",), {}),
        Variant(_features(1, 7, 12), ("logits",), {"inputs": 12, "hidden": 20, "classes": 5}),
    ),
    Model(
        "wav2vec_encoder",
        "audio",
        "wav2vec_encoder",
        "script",
        Variant((Input("samples", (1, 1, 16000)),), ("frames",), {}),
        Variant(
            (Input("samples", (1, 1, 400)),),
            ("frames",),
            {"layers": ((10, 5), (3, 2), (2, 2)), "width": 20},
        ),
    ),
    Model(
        "tcn",
        "audio",
        "tcn",
        "script",
        Variant(_features(1, 80, 1000), ("logits",), {}),
        Variant(
            _features(1, 12, 50),
            ("logits",),
            {"inputs": 12, "width": 20, "levels": 3, "classes": 5},
        ),
    ),
)

MODELS: dict[str, Model] = {model.name: model for model in _MODELS}
