# SPDX-License-Identifier: Apache-2.0
"""Converters, one file per family of operators; importing this package declares them."""

from heddle.frontend.torch.ops import (
    attention,
    complex_numbers,
    convolution,
    creation,
    embedding,
    indexing,
    linear,
    normalization,
    pointwise,
    pooling,
    reduction,
    spectral,
    views,
)

__all__ = [
    "attention",
    "complex_numbers",
    "convolution",
    "creation",
    "embedding",
    "indexing",
    "linear",
    "normalization",
    "pointwise",
    "pooling",
    "reduction",
    "spectral",
    "views",
]
