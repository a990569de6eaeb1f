# SPDX-License-Identifier: Apache-2.0
"""The operator library: `op.relu(x)`, `op.get("relu")`, `op.all_ops()`.

Each operator is declared in one block: its type rule, what it computes, its reference, samples.
See `heddle.op.registry`.
"""

from __future__ import annotations

from heddle.op import (  # declare the operators
    activation,
    attend,
    binary,
    channel_norm,
    compaction,
    convolution,
    coupling,
    create,
    dot,
    einstein,
    grid,
    index,
    integers,
    join,
    layout,
    linear,
    narrow,
    norm,
    pooling,
    quantization,
    random,
    reduce,
    resample,
    running,
    scattering,
    shape,
    solving,
    sorting,
    special,
    unary,
    windowed,
    winograd,
)
from heddle.op.interp import interpret
from heddle.op.registry import Op, all_ops, get, operator
from heddle.support import UserError

_ = (
    activation,
    attend,
    binary,
    channel_norm,
    compaction,
    convolution,
    coupling,
    create,
    dot,
    einstein,
    grid,
    index,
    integers,
    join,
    layout,
    linear,
    narrow,
    norm,
    pooling,
    quantization,
    random,
    reduce,
    resample,
    running,
    scattering,
    shape,
    solving,
    sorting,
    special,
    unary,
    windowed,
    winograd,
)


def __getattr__(name: str) -> Op:
    """`heddle.op.<name>` is the operator of that name."""
    try:
        return get(name)
    except UserError as error:
        raise AttributeError(error.message) from None


__all__ = ["Op", "all_ops", "get", "interpret", "operator"]
