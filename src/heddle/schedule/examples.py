# SPDX-License-Identifier: Apache-2.0
"""The small functions that the documentation of the primitives works on."""

from __future__ import annotations

from heddle import te
from heddle.ir.expr import Expr, Var, if_then_else, logical_and
from heddle.tir.nodes import PrimFunc


def chain(n: int | Var = 32) -> PrimFunc:
    """`B = A + 1`, `C = B * 2`"""
    a = te.placeholder((n,), name="A")
    b = te.compute((n,), lambda i: a[i] + 1.0, name="B")
    c = te.compute((n,), lambda i: b[i] * 2.0, name="C")
    return te.create_prim_func([a, c], name="chain")


def row_sum(rows: int = 8, columns: int = 64) -> PrimFunc:
    """`S[i] = sum(A[i, k] for k)`"""
    a = te.placeholder((rows, columns), name="A")
    r = te.reduce_axis(columns, "k")
    s = te.compute((rows,), lambda i: te.sum(a[i, r], axis=r), name="S")
    return te.create_prim_func([a, s], name="row_sum")


def product(m: int = 16, n: int = 32, k: int = 24) -> PrimFunc:
    """`C = A @ B`"""
    a = te.placeholder((m, k), name="A")
    b = te.placeholder((k, n), name="B")
    r = te.reduce_axis(k, "k")
    c = te.compute((m, n), lambda i, j: te.sum(a[i, r] * b[r, j], axis=r), name="C")
    return te.create_prim_func([a, b, c], name="product")


def biased_product(m: int = 16, n: int = 32, k: int = 24) -> PrimFunc:
    """`D = A @ B + bias`"""
    a = te.placeholder((m, k), name="A")
    b = te.placeholder((k, n), name="B")
    bias = te.placeholder((n,), name="bias")
    r = te.reduce_axis(k, "k")
    c = te.compute((m, n), lambda i, j: te.sum(a[i, r] * b[r, j], axis=r), name="C")
    d = te.compute((m, n), lambda i, j: c[i, j] + bias[j], name="D")
    return te.create_prim_func([a, b, bias, d], name="biased_product")


def padded(n: int = 30) -> PrimFunc:
    """`P` is `A` between two zeros, `C[i] = P[i] + P[i + 2]`"""
    a = te.placeholder((n,), name="A")

    def pad(i: Var) -> Expr:
        return if_then_else(logical_and(i >= 1, i < n + 1), a[i - 1], 0.0)

    p = te.compute((n + 2,), pad, name="P")
    c = te.compute((n,), lambda i: p[i] + p[i + 2], name="C")
    return te.create_prim_func([a, c], name="padded")


def padded_windows(n: int = 32) -> PrimFunc:
    """`P` is `A` between fours of zeros, `C[i] = sum(P[i + k] * W[k] for k in range(9))`"""
    a = te.placeholder((n,), name="A")
    w = te.placeholder((9,), name="W")

    def pad(i: Var) -> Expr:
        return if_then_else(logical_and(i >= 4, i < n + 4), a[i - 4], 0.0)

    p = te.compute((n + 8,), pad, name="P")
    r = te.reduce_axis(9, "k")
    c = te.compute((n,), lambda i: te.sum(p[i + r] * w[r], axis=r), name="C")
    return te.create_prim_func([a, w, c], name="padded_windows")


def windows(n: int = 15) -> PrimFunc:
    """`C[i] = sum(A[i * 2 + k] for k in range(4))`"""
    a = te.placeholder((2 * n + 2,), name="A")
    r = te.reduce_axis(4, "k")
    c = te.compute((n,), lambda i: te.sum(a[i * 2 + r], axis=r), name="C")
    return te.create_prim_func([a, c], name="windows")


def blurred(rows: int = 14, columns: int = 8) -> PrimFunc:
    """`B = A + 1`, `C[i, j] = sum(B[i + k, j] for k in range(3))`"""
    a = te.placeholder((rows + 2, columns), name="A")
    b = te.compute((rows + 2, columns), lambda i, j: a[i, j] + 1.0, name="B")
    r = te.reduce_axis(3, "k")
    c = te.compute((rows, columns), lambda i, j: te.sum(b[i + r, j], axis=r), name="C")
    return te.create_prim_func([a, c], name="blurred")


def resized(rows: int = 20, columns: int = 8) -> PrimFunc:
    """`C[i, j] = A[i * 3 // 5, j]`: an image of 12 rows resized to 20"""
    a = te.placeholder((rows * 3 // 5, columns), name="A")
    c = te.compute((rows, columns), lambda i, j: a[i * 3 // 5, j], name="C")
    return te.create_prim_func([a, c], name="resized")


def integer_product(m: int = 4, n: int = 16, k: int = 8) -> PrimFunc:
    """`C = A @ B` of int8, summed in int32"""
    a = te.placeholder((m, k), "int8", name="A")
    b = te.placeholder((k, n), "int8", name="B")
    r = te.reduce_axis(k, "k")

    def term(i: Var, j: Var) -> Expr:
        return te.sum(a[i, r].astype("int32") * b[r, j].astype("int32"), axis=r)

    c = te.compute((m, n), term, name="C")
    return te.create_prim_func([a, b, c], name="integer_product")


EXAMPLES = {
    f.__name__: f
    for f in (
        chain,
        row_sum,
        product,
        biased_product,
        padded,
        padded_windows,
        windows,
        blurred,
        resized,
        integer_product,
    )
}
