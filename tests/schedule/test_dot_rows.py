# SPDX-License-Identifier: Apache-2.0
"""Few rows times a matrix that lies along the reduction: tiles of dot products."""

from __future__ import annotations

import numpy as np
import pytest

import heddle
from heddle import te
from heddle.ir.expr import Expr, Max, const
from heddle.schedule import Schedule
from heddle.schedule.examples import product
from heddle.schedule.rules import default_schedule
from heddle.schedule.rules.analysis import contraction_of, dot_rows_of
from heddle.target import parse
from heddle.tir.nodes import PrimFunc


def rows_of_dots(batch: tuple[int, ...], rows: int, columns: int, depth: int) -> PrimFunc:
    """relu(A @ B^T + bias), B as it lies."""
    a = te.placeholder((*batch, rows, depth), name="A")
    b = te.placeholder((*batch, columns, depth), name="B")
    bias = te.placeholder((columns,), name="bias")
    k = te.reduce_axis(depth, "k")

    def dot(*at: Expr) -> Expr:
        *lead, i, j = at
        return te.sum(a[(*lead, i, k.var)] * b[(*lead, j, k.var)], axis=[k])

    c = te.compute((*batch, rows, columns), dot, name="C")
    d = te.compute(c.shape, lambda *at: Max(c[at] + bias[at[-1]], const(0.0, "float32")), name="D")
    return te.create_prim_func([a, b, bias, d])


def test_what_counts_as_few_rows() -> None:
    cases = ((1, 40, True), (4, 40, True), (5, 40, False), (5, 80, True), (17, 800, False))
    for rows, depth, few in cases:
        sch = Schedule(rows_of_dots((), rows, 20, depth))
        block = sch.block("C")
        assert (dot_rows_of(block) is not None) is few
        assert (contraction_of(block) is None) is few
    assert dot_rows_of(Schedule(product(2, 8, 8)).block("C")) is None


def test_the_matrix_goes_by_once() -> None:
    sch = default_schedule(rows_of_dots((), 3, 40, 64), parse("llvm -mcpu=haswell"))
    steps = [sch.loop(loop) for loop in sch.get_loops("C_rf")]
    extents = [str(loop.extent) for loop in steps]
    # columns, vectors of the reduction, then the tile of rows by columns by lanes
    assert extents == ["20", "8", "3", "2", "8"]


@pytest.mark.parametrize("target", ["native", "llvm -mcpu=haswell"])
@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize(
    ("rows", "columns", "depth"),
    [
        (1, 30, 64),
        (1, 31, 65),
        (2, 7, 100),
        (3, 50, 13),
        (4, 9, 259),
        (4, 1000, 48),
        (7, 21, 130),
        (16, 33, 256),
    ],
)
def test_values(batch: tuple[int, ...], rows: int, columns: int, depth: int, target: str) -> None:
    rng = np.random.default_rng(rows * columns)
    shapes = ((*batch, rows, depth), (*batch, columns, depth), (columns,))
    a, b, bias = (rng.standard_normal(shape, dtype=np.float32) for shape in shapes)
    got = np.empty((*batch, rows, columns), np.float32)
    heddle.build(rows_of_dots(batch, rows, columns, depth), target, schedule=True)(a, b, bias, got)
    want = np.maximum(a.astype(np.float64) @ np.swapaxes(b, -1, -2) + bias, 0)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
