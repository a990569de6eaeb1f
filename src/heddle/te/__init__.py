# SPDX-License-Identifier: Apache-2.0
"""Tensor expressions and their lowering to loop-level functions."""

from heddle.te.lower import create_prim_func, identity_element
from heddle.te.tensor import (
    Reduce,
    ReduceAxis,
    Tensor,
    TensorElement,
    compute,
    max,
    min,
    placeholder,
    prod,
    reduce_axis,
    sum,
)

__all__ = [
    "Reduce",
    "ReduceAxis",
    "Tensor",
    "TensorElement",
    "compute",
    "create_prim_func",
    "identity_element",
    "max",
    "min",
    "placeholder",
    "prod",
    "reduce_axis",
    "sum",
]
