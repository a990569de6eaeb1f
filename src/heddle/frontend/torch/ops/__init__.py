# SPDX-License-Identifier: Apache-2.0
"""Converters, one file per family of operators; importing this package declares them."""

from heddle.frontend.torch.ops import (
    attention,
    convolution,
    creation,
    embedding,
    indexing,
    linear,
    normalization,
    pointwise,
    pooling,
    reduction,
    views,
)

__all__ = [
    "attention",
    "convolution",
    "creation",
    "embedding",
    "indexing",
    "linear",
    "normalization",
    "pointwise",
    "pooling",
    "reduction",
    "views",
]
