# SPDX-License-Identifier: Apache-2.0
"""Converters, one module per family of operators. Importing this package declares them."""

from heddle.frontend.onnx.ops import (
    classical,
    contraction,
    control,
    deform,
    math,
    nn,
    normalization,
    qlinear,
    quantize,
    random,
    recurrent,
    reduction,
    selection,
    sequence,
    shape,
    signal,
    training,
)

__all__ = [
    "classical",
    "contraction",
    "control",
    "deform",
    "math",
    "nn",
    "normalization",
    "qlinear",
    "quantize",
    "random",
    "recurrent",
    "reduction",
    "selection",
    "sequence",
    "shape",
    "signal",
    "training",
]
