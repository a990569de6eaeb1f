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
    """

    name: str
    module: str
    builder: str
    exporter: Literal["script", "graph"]
    full: Variant
    small: Variant


def _image(size: int, channels: int = 3) -> tuple[Input, ...]:
    return (Input("image", (1, channels, size, size)),)


def _tokens(length: int, vocabulary: int) -> Input:
    return Input("input_ids", (1, length), "int64", "tokens", vocabulary)


def _mask(length: int, padding: int) -> Input:
    return Input("attention_mask", (1, length), "int64", "mask", padding)


def _text(length: int, vocabulary: int, *, padding: int, types: bool = False) -> tuple[Input, ...]:
    segment = Input("token_type_ids", (1, length), "int64", "tokens", 2)
    return (_tokens(length, vocabulary), _mask(length, padding), *((segment,) if types else ()))


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
    Model(
        "mlp",
        "mlp",
        "mlp",
        "script",
        Variant((Input("features", (32, 784)),), ("probabilities",), {}),
        Variant(
            (Input("features", (4, 16)),),
            ("probabilities",),
            {"sizes": (16, 24, 20, 12, 10)},
        ),
    ),
)

MODELS: dict[str, Model] = {model.name: model for model in _MODELS}
