# SPDX-License-Identifier: Apache-2.0
"""Tensor expressions and their lowering to loop-level functions."""

from heddle.te.lower import create_prim_func, identity_element
from heddle.te.reducer import Reducer, argmax, argmin, reducer
from heddle.te.scan import extern, scan
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
    "Reducer",
    "Tensor",
    "TensorElement",
    "argmax",
    "argmin",
    "compute",
    "create_prim_func",
    "extern",
    "identity_element",
    "max",
    "min",
    "placeholder",
    "prod",
    "reduce_axis",
    "reducer",
    "scan",
    "sum",
]
