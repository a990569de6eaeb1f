# SPDX-License-Identifier: Apache-2.0
"""Scripts, tensor expressions and plain loops: three ways to write a kernel, one result."""

from __future__ import annotations

import numpy as np
import pytest

import heddle
from heddle import te
from heddle.ir import structural_equal
from heddle.ir.expr import Var, if_then_else
from heddle.script import T, parse, to_text
from heddle.tir import Block, IterKind, PrimFunc, collect, intrin
from heddle.tir.interp import run


@T.prim_func
def add_script(A: T.Buffer((n,), "float32"), B: T.Buffer((n,), "float32")):
    for i in T.serial(n):
        with T.block("B"):
            vi = T.axis.spatial(n, i)
            B[vi] = A[vi] + 1.0


@heddle.hybrid
def add_loops(a, b):
    n = var("n")
    A = bind_buffer(a, shape=[n])
    B = bind_buffer(b, shape=[n])
    for i in iter_range(n, iter_type="data_par"):
        B[i] = A[i] + 1


def add_tensors() -> PrimFunc:
    n = Var("n")
    a = te.placeholder((n,), name="A")
    return te.create_prim_func([a, te.compute((n,), lambda i: a[i] + 1.0, name="B")], name="add")


@T.prim_func
def matmul_script(
    A: T.Buffer((n, 6), "float32"), B: T.Buffer((6, 5), "float32"), C: T.Buffer((n, 5), "float32")
):
    for i, j, k in T.grid(n, 5, 6):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = 0.0
            C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]


@heddle.hybrid
def matmul_loops(a, b, c):
    n = var("n")
    A = bind_buffer(a, shape=[n, 6])
    B = bind_buffer(b, shape=[6, 5])
    C = bind_buffer(c, shape=[n, 5])
    for i in iter_range(n, iter_type="data_par"):
        for j in iter_range(5, iter_type="data_par"):
            C[i, j] = 0.0
            for k in iter_range(6, iter_type="reduce"):
                C[i, j] += A[i, k] * B[k, j]


def matmul_tensors() -> PrimFunc:
    n = Var("n")
    a, b = te.placeholder((n, 6), name="A"), te.placeholder((6, 5), name="B")
    k = te.reduce_axis(6, "k")
    c = te.compute((n, 5), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="C")
    return te.create_prim_func([a, b, c], name="matmul")


@T.prim_func
def softmax_script(X: T.Buffer((n, m), "float32"), Y: T.Buffer((n, m), "float32")):
    top = T.alloc_buffer((n,), "float32")
    total = T.alloc_buffer((n,), "float32")
    for i, k in T.grid(n, m):
        with T.block("top"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                top[vi] = T.float32("-inf")
            top[vi] = T.max(top[vi], X[vi, vk])
    for i, k in T.grid(n, m):
        with T.block("total"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                total[vi] = 0.0
            total[vi] = total[vi] + T.exp(X[vi, vk] - top[vi])
    for i, j in T.grid(n, m):
        with T.block("Y"):
            vi, vj = T.axis.remap("SS", [i, j])
            Y[vi, vj] = T.exp(X[vi, vj] - top[vi]) / total[vi]


@heddle.hybrid
def softmax_loops(x, y):
    n = var("n")
    m = var("m")
    X = bind_buffer(x, shape=[n, m])
    Y = bind_buffer(y, shape=[n, m])
    top = alloc_buffer([n])
    total = alloc_buffer([n])
    for i in iter_range(n, iter_type="data_par"):
        top[i] = float32("-inf")
        for k in iter_range(m, iter_type="reduce"):
            top[i] = max(top[i], X[i, k])
        total[i] = 0.0
        for k in iter_range(m, iter_type="reduce"):
            total[i] += exp(X[i, k] - top[i])
        for j in iter_range(m, iter_type="data_par"):
            Y[i, j] = exp(X[i, j] - top[i]) / total[i]


def softmax_tensors() -> PrimFunc:
    n, m = Var("n"), Var("m")
    x, k, r = te.placeholder((n, m), name="X"), te.reduce_axis(m, "k"), te.reduce_axis(m, "r")
    top = te.compute((n,), lambda i: te.max(x[i, k], axis=k), name="top")
    power = te.compute((n, m), lambda i, j: intrin.exp(x[i, j] - top[i]), name="power")
    total = te.compute((n,), lambda i: te.sum(power[i, r], axis=r), name="total")
    y = te.compute((n, m), lambda i, j: power[i, j] / total[i], name="Y")
    return te.create_prim_func([x, y], name="softmax")


@T.prim_func
def conv_script(
    X: T.Buffer((2, 7, 7), "float32"),
    W: T.Buffer((3, 2, 3, 3), "float32"),
    Y: T.Buffer((3, 7, 7), "float32"),
):
    for o, h, w, c, p, q in T.grid(3, 7, 7, 2, 3, 3):
        with T.block("Y"):
            vo, vh, vw, vc, vp, vq = T.axis.remap("SSSRRR", [o, h, w, c, p, q])
            with T.init():
                Y[vo, vh, vw] = 0.0
            Y[vo, vh, vw] += (
                X[vc, vh + vp - 1, vw + vq - 1]
                if vh + vp >= 1 and vh + vp < 8 and vw + vq >= 1 and vw + vq < 8
                else 0.0
            ) * W[vo, vc, vp, vq]


@heddle.hybrid
def conv_loops(x, weight, y):
    X = bind_buffer(x, shape=[2, 7, 7])
    W = bind_buffer(weight, shape=[3, 2, 3, 3])
    Y = bind_buffer(y, shape=[3, 7, 7])
    for o in iter_range(3, iter_type="parallel"):
        for h in iter_range(7, iter_type="data_par"):
            for w in iter_range(7, iter_type="data_par"):
                Y[o, h, w] = 0.0
                for c in iter_range(2, iter_type="reduce"):
                    for p in iter_range(3, iter_type="reduce"):
                        for q in iter_range(3, iter_type="reduce"):
                            row = h + p - 1
                            column = w + q - 1
                            inside = row >= 0 and row < 7 and column >= 0 and column < 7
                            Y[o, h, w] += (X[c, row, column] if inside else 0.0) * W[o, c, p, q]


def conv_tensors() -> PrimFunc:
    x, weight = te.placeholder((2, 7, 7), name="X"), te.placeholder((3, 2, 3, 3), name="W")
    c, p, q = te.reduce_axis(2, "c"), te.reduce_axis(3, "p"), te.reduce_axis(3, "q")

    def padded(ch: Var, h: Var, w: Var):
        inside = (h >= 1) & (h < 8) & (w >= 1) & (w < 8)
        return if_then_else(inside, x[ch, h - 1, w - 1], 0.0)

    pad = te.compute((2, 9, 9), padded, name="pad")
    y = te.compute(
        (3, 7, 7),
        lambda o, h, w: te.sum(pad[c, h + p, w + q] * weight[o, c, p, q], axis=[c, p, q]),
        name="Y",
    )
    return te.create_prim_func([x, weight, y], name="conv")


def softmax_numpy(x: np.ndarray) -> np.ndarray:
    power = np.exp(x - x.max(1, keepdims=True))
    return power / power.sum(1, keepdims=True)


def conv_numpy(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, ((0, 0), (1, 1), (1, 1))), (3, 3), (1, 2)
    )
    return np.einsum("chwpq,ocpq->ohw", windows, weight)


KERNELS = {
    "add": ((add_script, add_loops, add_tensors()), [(11,)], lambda a: a + 1),
    "matmul": (
        (matmul_script, matmul_loops, matmul_tensors()),
        [(4, 6), (6, 5)],
        lambda a, b: a @ b,
    ),
    "softmax": ((softmax_script, softmax_loops, softmax_tensors()), [(3, 9)], softmax_numpy),
    "conv": ((conv_script, conv_loops, conv_tensors()), [(2, 7, 7), (3, 2, 3, 3)], conv_numpy),
}
STYLES = ["script", "loops", "tensors"]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_values(kernel: str, style: str, rng: np.random.Generator) -> None:
    functions, shapes, reference = KERNELS[kernel]
    func = functions[STYLES.index(style)]
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    expected = reference(*inputs)
    for execute in (lambda *args: run(func, *args), heddle.build(func)):
        result = np.full(expected.shape, np.nan, np.float32)
        execute(*inputs, result)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_c_values(kernel: str, rng: np.random.Generator) -> None:
    """All three through the C target, as one module."""
    functions, shapes, reference = KERNELS[kernel]
    module = heddle.build(heddle.IRModule(dict(zip(STYLES, functions, strict=True))), "c")
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    expected = reference(*inputs)
    for style in STYLES:
        result = np.full(expected.shape, np.nan, np.float32)
        module[style](*inputs, result)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", ["add", "matmul"])
def test_loops_and_tensors_are_one_function(kernel: str) -> None:
    script, loops, tensors = (func.replace(attrs={}) for func in KERNELS[kernel][0])
    assert structural_equal(loops, tensors)
    assert structural_equal(script, loops)


@pytest.mark.parametrize("kernel", KERNELS)
def test_round_trip(kernel: str) -> None:
    for func in KERNELS[kernel][0]:
        assert structural_equal(parse(to_text(func)), func)


def test_reduction_axes() -> None:
    blocks = {block.name: block for block in collect(softmax_loops, Block)}
    kinds = {name: [axis.kind for axis in block.iters] for name, block in blocks.items()}
    spatial, reduction = IterKind.SPATIAL, IterKind.REDUCTION
    assert kinds == {
        "root": [],
        "top": [spatial, reduction],
        "total": [spatial, reduction],
        "Y": [spatial, spatial],
    }
    assert blocks["top"].init is not None
