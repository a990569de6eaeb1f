# SPDX-License-Identifier: Apache-2.0
"""What random schedules are tried on: one small function for each kind of work.

A workload's outputs are the parameters that it writes. Integer inputs are drawn from [0, 5), so
that they may index a table of five rows; symbolic dimensions get the sizes in `SIZES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from heddle import te
from heddle.ir.expr import Var, const, if_then_else, logical_and
from heddle.script import parse
from heddle.tir.build import buffer_params, written_buffers
from heddle.tir.interp import run
from heddle.tir.intrin import sqrt
from heddle.tir.nodes import Buffer, PrimFunc
from tests.schedule.kernels import KERNELS

SIZES = {"n": 7, "m": 10}


def batched_product(batch: int = 2, m: int = 4, n: int = 6, k: int = 5) -> PrimFunc:
    """`C[b] = A[b] @ B[b]`"""
    a, b = te.placeholder((batch, m, k), name="A"), te.placeholder((batch, k, n), name="B")
    r = te.reduce_axis(k, "k")
    c = te.compute((batch, m, n), lambda s, i, j: te.sum(a[s, i, r] * b[s, r, j], axis=r), name="C")
    return te.create_prim_func([a, b, c], name="batched_product")


def depthwise(size: int = 6, channels: int = 4) -> PrimFunc:
    """A 3x3 depthwise convolution with padding 1, and a bias."""
    x = te.placeholder((size, size, channels), name="X")
    w, bias = te.placeholder((3, 3, channels), name="W"), te.placeholder((channels,), name="bias")

    def pad(h: Var, v: Var, c: Var):
        inside = logical_and(logical_and(h >= 1, h < size + 1), logical_and(v >= 1, v < size + 1))
        return if_then_else(inside, x[h - 1, v - 1, c], 0.0)

    p = te.compute((size + 2, size + 2, channels), pad, name="P")
    kh, kw = te.reduce_axis(3, "kh"), te.reduce_axis(3, "kw")
    y = te.compute(
        (size, size, channels),
        lambda h, v, c: te.sum(p[h + kh, v + kw, c] * w[kh, kw, c], axis=[kh, kw]),
        name="Y",
    )
    z = te.compute((size, size, channels), lambda h, v, c: y[h, v, c] + bias[c], name="Z")
    return te.create_prim_func([x, w, bias, z], name="depthwise")


def max_pool(size: int = 9) -> PrimFunc:
    """The largest of overlapping 3x3 windows of stride 2."""
    x = te.placeholder((size, size, 3), name="X")
    out = (size - 3) // 2 + 1
    kh, kw = te.reduce_axis(3, "kh"), te.reduce_axis(3, "kw")
    y = te.compute(
        (out, out, 3),
        lambda h, v, c: te.max(x[h * 2 + kh, v * 2 + kw, c], axis=[kh, kw]),
        name="Y",
    )
    return te.create_prim_func([x, y], name="max_pool")


def layer_norm(rows: int = 5, columns: int = 8) -> PrimFunc:
    """Each row less its mean, over its standard deviation."""
    x = te.placeholder((rows, columns), name="X")
    r, s = te.reduce_axis(columns, "r"), te.reduce_axis(columns, "s")
    mean = te.compute((rows,), lambda i: te.sum(x[i, r] / float(columns), axis=r), name="M")
    away = te.compute((rows, columns), lambda i, j: x[i, j] - mean[i], name="D")
    power = te.compute((rows,), lambda i: te.sum(away[i, s] * away[i, s], axis=s), name="V")
    y = te.compute(
        (rows, columns), lambda i, j: away[i, j] / sqrt(power[i] / float(columns) + 0.1), name="Y"
    )
    return te.create_prim_func([x, y], name="layer_norm")


def scan() -> PrimFunc:
    """A decaying sum over time, doubled."""
    x, state = te.placeholder((6, 4), name="X"), te.placeholder((6, 4), name="state")
    start = te.compute((1, 4), lambda t, i: x[t, i], name="start")
    step = te.compute((6, 4), lambda t, i: state[t - 1, i] * 0.5 + x[t, i], name="step")
    decay = te.scan(start, step, state, name="decay")
    twice = te.compute((6, 4), lambda t, i: decay[t, i] * 2.0, name="twice")
    return te.create_prim_func([x, twice], name="scan")


def argmax(rows: int = 6, columns: int = 9) -> PrimFunc:
    """The place of the largest element of each row, and the element."""
    a, k = te.placeholder((rows, columns), name="A"), te.reduce_axis(columns, "k")
    where, best = te.compute((rows,), lambda i: te.argmax((k, a[i, k]), axis=k), name="best")
    return te.create_prim_func([a, where, best], name="argmax")


def gather(tokens: int = 8, width: int = 6) -> PrimFunc:
    """Rows of a table, plus the positions' own."""
    table = te.placeholder((5, width), name="T")
    at = te.placeholder((tokens,), "int64", name="at")
    position = te.placeholder((tokens, width), name="P")
    e = te.compute((tokens, width), lambda i, j: table[at[i], j], name="E")
    y = te.compute((tokens, width), lambda i, j: e[i, j] + position[i, j], name="Y")
    return te.create_prim_func([table, at, position, y], name="gather")


def triangular_product(n: int = 7) -> PrimFunc:
    """The product with a lower triangle: the mask is part of the sum."""
    a, b = te.placeholder((n, n), name="A"), te.placeholder((n, n), name="B")
    k = te.reduce_axis(n, "k")
    zero = const(0, "float32")

    def term(i: Var, j: Var):
        return te.sum(if_then_else(k.var <= i, a[i, k], zero) * b[k, j], axis=k)

    return te.create_prim_func([a, b, te.compute((n, n), term, name="C")], name="triangular")


_TRIANGLE = """
@T.prim_func
def triangle(A: T.Buffer((8, 8), "float32"), C: T.Buffer((8, 8), "float32")):
    for i, j in T.grid(8, 8):
        with T.block("fill"):
            vi, vj = T.axis.remap("SS", [i, j])
            C[vi, vj] = 0.0
    for i in T.serial(8):
        for j in T.serial(i + 1):
            with T.block("lower"):
                vi = T.axis.spatial(8, i)
                vj = T.axis.spatial(8, j)
                C[vi, vj] = A[vi, vj] * 2.0
"""


def triangular_loops() -> PrimFunc:
    """Twice the lower triangle: the bound of a loop depends on another loop."""
    return parse(_TRIANGLE)


def symbolic_sum() -> PrimFunc:
    """Row sums of `A + 1` of any size."""
    n, m = Var("n"), Var("m")
    a = te.placeholder((n, m), name="A")
    k = te.reduce_axis(m, "k")
    b = te.compute((n, m), lambda i, j: a[i, j] + 1.0, name="B")
    s = te.compute((n,), lambda i: te.sum(b[i, k], axis=k), name="S")
    return te.create_prim_func([a, s], name="symbolic_sum")


WORKLOADS: dict[str, Callable[[], PrimFunc]] = {
    **KERNELS,
    "batched_product": batched_product,
    "depthwise": depthwise,
    "max_pool": max_pool,
    "layer_norm": layer_norm,
    "scan": scan,
    "argmax": argmax,
    "gather": gather,
    "triangular_product": triangular_product,
    "triangular_loops": triangular_loops,
    "symbolic_sum": symbolic_sum,
}


def _shape(buffer: Buffer) -> tuple[int, ...]:
    return tuple(SIZES[d.name] if isinstance(d, Var) else d.value for d in buffer.shape)


def outputs_of(func: PrimFunc) -> list[Buffer]:
    """The parameters that a workload writes."""
    written = written_buffers(func)
    return [buffer for buffer in buffer_params(func) if buffer in written]


def random_inputs(func: PrimFunc, seed: int) -> list[np.ndarray]:
    """Random arrays for the parameters that a workload reads, in order."""
    generator = np.random.default_rng(seed)
    arrays: list[np.ndarray] = []
    for buffer in buffer_params(func):
        if buffer in outputs_of(func):
            continue
        if buffer.dtype.is_int:
            arrays.append(generator.integers(0, 5, _shape(buffer)).astype(buffer.dtype.numpy))
        else:
            arrays.append(generator.standard_normal(_shape(buffer)).astype(buffer.dtype.numpy))
    return arrays


def results(
    func: PrimFunc, inputs: Sequence[np.ndarray], call: Callable[..., object] | None = None
):
    """What `func` writes, by the interpreter or by `call`. Elements that nobody writes are NaN, or
    the smallest integer."""
    outs = []
    for buffer in outputs_of(func):
        dtype = buffer.dtype.numpy
        blank = np.iinfo(dtype).min if buffer.dtype.is_int else np.nan
        outs.append(np.full(_shape(buffer), blank, dtype))
    if call is None:
        run(func, *inputs, *outs)
    else:
        call(*inputs, *outs)
    return outs


def check_results(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> None:
    """Equal, but that float32 sums of a few dozen terms of size 1 may be ordered differently, which
    costs some 1e-6."""
    for a, b in zip(got, want, strict=True):
        assert not (b.dtype.kind == "f" and np.isnan(b).any())
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
