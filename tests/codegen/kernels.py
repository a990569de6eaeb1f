# SPDX-License-Identifier: Apache-2.0
"""Small kernels for the tests of code generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from heddle.codegen import build_kernel
from heddle.ir.dtype import DType
from heddle.ir.expr import Expr, Var
from heddle.target import Target, native
from heddle.tir import ForKind, PrimFunc, decl_buffer, load, loop, make_block, prim_func, store
from heddle.tir.nodes import Stmt


def function(params: Sequence[object], body: Stmt, name: str = "kernel") -> PrimFunc:
    """A function of loops without blocks."""
    return prim_func(params, make_block("body", [], body, reads=[], writes=[]), name=name)


def elementwise_function(
    make: Callable[..., Expr],
    dtypes: Sequence[str],
    result: str,
    size: int,
    *,
    kind: ForKind = ForKind.VECTORIZED,
) -> PrimFunc:
    """`out[i] = make(a0[i], a1[i], ...)` for i in one loop of `kind`."""
    buffers = [decl_buffer((size,), dtype, f"a{n}") for n, dtype in enumerate(dtypes)]
    out = decl_buffer((size,), result, "out")
    i = Var("i")
    value = make(*(load(buffer, i) for buffer in buffers))
    return function([*buffers, out], loop(i, size, store(out, value, i), kind))


def run_elementwise(
    make: Callable[..., Expr],
    inputs: Sequence[np.ndarray],
    result: str,
    *,
    kind: ForKind = ForKind.VECTORIZED,
    target: Target | None = None,
) -> np.ndarray:
    """The values of `make` over arrays of equal length."""
    size = len(inputs[0])
    dtypes = [DType.of(value.dtype).name for value in inputs]
    func = elementwise_function(make, dtypes, result, size, kind=kind)
    out = np.zeros(size, DType.of(result).numpy)
    build_kernel(func, target or native())(*inputs, out)
    return out
