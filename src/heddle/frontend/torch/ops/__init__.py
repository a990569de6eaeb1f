# SPDX-License-Identifier: Apache-2.0
"""Converters, one file per family of operators; importing this package declares them."""

from heddle.frontend.torch.ops import (
    attention,
    complex_numbers,
    convolution,
    creation,
    embedding,
    indexing,
    integers,
    linear,
    normalization,
    ordering,
    pointwise,
    pooling,
    quantization,
    reduction,
    resampling,
    scattering,
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
    "integers",
    "linear",
    "normalization",
    "ordering",
    "pointwise",
    "pooling",
    "quantization",
    "resampling",
    "reduction",
    "scattering",
    "spectral",
    "views",
]
