# SPDX-License-Identifier: Apache-2.0
"""Small functions and schedules whose figures can be counted by hand."""

from __future__ import annotations

import dataclasses

from heddle import te
from heddle.ir.expr import Var
from heddle.schedule import Schedule
from heddle.target import Cache, Target, parse
from heddle.tir.nodes import PrimFunc

LARGE = 64


def device(*, registers: int = 32) -> Target:
    """A device whose figures do not depend on the machine of the tests."""
    caches = (Cache(32 << 10), Cache(1 << 20), Cache(32 << 20, shared_by=2))
    target = parse("llvm -mcpu=skylake-avx512 -cores=2")
    return dataclasses.replace(target, caches=caches, vector_registers=registers)


def product(n: int = LARGE) -> PrimFunc:
    """C = A @ B"""
    a, b = te.placeholder((n, n), name="A"), te.placeholder((n, n), name="B")
    k = te.reduce_axis(n, name="k")
    c = te.compute((n, n), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="C")
    return te.create_prim_func([a, b, c], name="product")


def tiled(n: int = LARGE, *, rows: int = 4, vectors: int = 2) -> Schedule:
    """The product with a tile of `rows` x `vectors` vectors of 16 floats."""
    sch = Schedule(product(n))
    i, j, k = sch.get_loops("C")
    i_0, i_1 = sch.split(i, factors=[None, rows])
    j_0, j_1, j_2 = sch.split(j, factors=[None, vectors, 16])
    sch.reorder(i_0, j_0, k, i_1, j_1, j_2)
    sch.parallel(i_0)
    sch.decompose_reduction("C", k)
    for name in ("C", "C_init"):
        *_, i_1, j_1, j_2 = sch.get_loops(name)
        sch.unroll(i_1)
        sch.unroll(j_1)
        sch.vectorize(j_2)
    return sch


def transposed(n: int = 32) -> Schedule:
    """B[i, j] = A[j, i], vectorized along j: the load is strided."""
    a = te.placeholder((n, n), name="A")
    b = te.compute((n, n), lambda i, j: a[j, i] + a[i, 0], name="B")
    sch = Schedule(te.create_prim_func([a, b], name="transpose"))
    j = sch.get_loops("B")[1]
    _, j_1 = sch.split(j, factors=[None, 16])
    sch.vectorize(j_1)
    return sch


def rows_taken(n: int = 32) -> PrimFunc:
    """out[i, j] = table[index[i], j] * 2, with a symbolic number of rows."""
    rows = Var("rows")
    table = te.placeholder((9, n), name="table")
    index = te.placeholder((rows,), "int64", name="index")
    out = te.compute((rows, n), lambda i, j: table[index[i], j] * 2.0, name="out")
    return te.create_prim_func([table, index, out], name="take")
