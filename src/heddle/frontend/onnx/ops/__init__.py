# SPDX-License-Identifier: Apache-2.0
"""Converters, one module per family of operators. Importing this package declares them."""

from heddle.frontend.onnx.ops import (
    contraction,
    control,
    math,
    nn,
    normalization,
    qlinear,
    quantize,
    recurrent,
    reduction,
    selection,
    sequence,
    shape,
    signal,
)

__all__ = [
    "contraction",
    "control",
    "math",
    "nn",
    "normalization",
    "qlinear",
    "quantize",
    "recurrent",
    "reduction",
    "selection",
    "sequence",
    "shape",
    "signal",
]
