# SPDX-License-Identifier: Apache-2.0
"""Small functions that the schedule tests work on, with what they should compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from heddle import te
from heddle.ir.expr import Var, if_then_else, logical_and
from heddle.tir.build import buffer_params
from heddle.tir.interp import run
from heddle.tir.nodes import PrimFunc


def matmul(m: int = 13, n: int = 20, k: int = 7, *, epilogue: bool = False) -> PrimFunc:
    """`C = A @ B`, or `E = (A @ B + 1) * 2`."""
    a = te.placeholder((m, k), name="A")
    b = te.placeholder((k, n), name="B")
    r = te.reduce_axis(k, "k")
    c = te.compute((m, n), lambda i, j: te.sum(a[i, r] * b[r, j], axis=r), name="C")
    if not epilogue:
        return te.create_prim_func([a, b, c], name="matmul")
    d = te.compute((m, n), lambda i, j: c[i, j] + 1.0, name="D")
    e = te.compute((m, n), lambda i, j: d[i, j] * 2.0, name="E")
    return te.create_prim_func([a, b, e], name="matmul_epilogue")


def chain(n: int | Var = 24) -> PrimFunc:
    """`C = (A + 1) * 2` through B."""
    a = te.placeholder((n,), name="A")
    b = te.compute((n,), lambda i: a[i] + 1.0, name="B")
    c = te.compute((n,), lambda i: b[i] * 2.0, name="C")
    return te.create_prim_func([a, c], name="chain")


def stencil(n: int = 18) -> PrimFunc:
    """`C[i] = B[i - 1] + B[i + 1]` with zeros outside, `B = A * 3`."""
    a = te.placeholder((n,), name="A")
    b = te.compute((n,), lambda i: a[i] * 3.0, name="B")

    def padded(i: Var, offset: int):
        inside = logical_and(i + offset >= 0, i + offset < n)
        return if_then_else(inside, b[i + offset], 0.0)

    c = te.compute((n,), lambda i: padded(i, -1) + padded(i, 1), name="C")
    return te.create_prim_func([a, c], name="stencil")


def conv2d(size: int = 7, channels: int = 3, filters: int = 5) -> PrimFunc:
    """A 3x3 convolution of stride 2 with padding 1 (channels last), and a ReLU."""
    x = te.placeholder((size, size, channels), name="X")
    w = te.placeholder((3, 3, channels, filters), name="W")

    def pad(h: Var, v: Var, c: Var):
        inside = logical_and(logical_and(h >= 1, h < size + 1), logical_and(v >= 1, v < size + 1))
        return if_then_else(inside, x[h - 1, v - 1, c], 0.0)

    p = te.compute((size + 2, size + 2, channels), pad, name="P")
    out = (size + 2 - 3) // 2 + 1
    kh, kw, c = te.reduce_axis(3, "kh"), te.reduce_axis(3, "kw"), te.reduce_axis(channels, "c")
    y = te.compute(
        (out, out, filters),
        lambda h, v, f: te.sum(p[h * 2 + kh, v * 2 + kw, c] * w[kh, kw, c, f], axis=[kh, kw, c]),
        name="Y",
    )
    z = te.compute((out, out, filters), lambda h, v, f: te_max(y[h, v, f]), name="Z")
    return te.create_prim_func([x, w, z], name="conv2d")


def te_max(value):
    """`max(value, 0)`"""
    from heddle.ir.expr import maximum

    return maximum(value, 0.0)


def softmax(rows: int = 5, columns: int = 9) -> PrimFunc:
    """Row-wise softmax in four blocks."""
    from heddle.tir.intrin import exp

    x = te.placeholder((rows, columns), name="X")
    r1, r2 = te.reduce_axis(columns, "r"), te.reduce_axis(columns, "r")
    top = te.compute((rows,), lambda i: te.max(x[i, r1], axis=r1), name="M")
    power = te.compute((rows, columns), lambda i, j: exp(x[i, j] - top[i]), name="E")
    total = te.compute((rows,), lambda i: te.sum(power[i, r2], axis=r2), name="S")
    out = te.compute((rows, columns), lambda i, j: power[i, j] / total[i], name="O")
    return te.create_prim_func([x, out], name="softmax")


KERNELS: dict[str, Callable[[], PrimFunc]] = {
    "matmul": matmul,
    "matmul_epilogue": lambda: matmul(6, 10, 5, epilogue=True),
    "chain": chain,
    "stencil": stencil,
    "conv2d": conv2d,
    "softmax": softmax,
}


def inputs_of(func: PrimFunc, seed: int = 0, **symbols: int) -> list[np.ndarray]:
    """Random arrays for all parameters but the last, the output."""
    generator = np.random.default_rng(seed)
    arrays = []
    for buffer in buffer_params(func)[:-1]:
        shape = _shape(buffer, symbols)
        arrays.append(generator.standard_normal(shape).astype(buffer.dtype.numpy))
    return arrays


def _shape(buffer, symbols: dict[str, int]) -> tuple[int, ...]:
    return tuple(symbols[dim.name] if isinstance(dim, Var) else dim.value for dim in buffer.shape)


def output_of(func: PrimFunc, inputs: Sequence[np.ndarray], **symbols: int) -> np.ndarray:
    """What `func` writes to its last parameter, by the interpreter."""
    last = buffer_params(func)[-1]
    out = np.full(_shape(last, symbols), np.nan, dtype=last.dtype.numpy)
    run(func, *inputs, out)
    return out


def check_same(before: PrimFunc, after: PrimFunc, seed: int = 0, **symbols: int) -> None:
    """Both functions compute the same values (sums may be ordered differently)."""
    inputs = inputs_of(before, seed, **symbols)
    expected = output_of(before, inputs, **symbols)
    assert not np.isnan(expected).any()
    # float32 sums of a few dozen terms of size 1: reordering costs some 1e-6.
    np.testing.assert_allclose(output_of(after, inputs, **symbols), expected, rtol=1e-5, atol=1e-5)
