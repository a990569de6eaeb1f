# SPDX-License-Identifier: Apache-2.0
"""Deep products with few outputs: which are computed in parts, and that values stay."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import heddle
from heddle import te
from heddle.ir.expr import Max, const
from heddle.schedule import Schedule
from heddle.schedule.rules import default_schedule, depth_parts
from heddle.schedule.rules.depth_parts import ProductShape, part_count
from heddle.schedule.sketch import sketch
from heddle.target import Cache, parse
from heddle.tir.nodes import PrimFunc

WIDE = dataclasses.replace(
    parse("llvm -mcpu=skylake-avx512 -cores=2"),
    caches=(Cache(32 << 10), Cache(1 << 20), Cache(32 << 20)),
)
MANY = dataclasses.replace(WIDE, cores=16)


def biased(rows: int, columns: int, depth: int, batch: tuple[int, ...] = ()) -> PrimFunc:
    """relu(A @ B + bias)"""
    a = te.placeholder((*batch, rows, depth), name="A")
    b = te.placeholder((*batch, depth, columns), name="B")
    bias = te.placeholder((columns,), name="bias")
    k = te.reduce_axis(depth, "k")
    shape = (*batch, rows, columns)
    c = te.compute(
        shape, lambda *at: te.sum(a[*at[:-1], k.var] * b[*at[:-2], k.var, at[-1]], axis=k), name="C"
    )
    d = te.compute(shape, lambda *at: Max(c[at] + bias[at[-1]], const(0.0, "float32")), name="D")
    return te.create_prim_func([a, b, bias, d])


@pytest.mark.parametrize(
    ("shape", "in_parts"),
    [
        (ProductShape(1, rows=5, depth=5648, vectors=1), True),  # one tile for two cores
        (ProductShape(1, rows=64, depth=8192, vectors=4, pitch=8192), True),  # 2 MiB a panel
        (ProductShape(1, rows=48, depth=1442, vectors=3, turned=True), True),  # turned once
        (ProductShape(1, rows=512, depth=512, vectors=32), False),  # tiles enough
        (ProductShape(1, rows=128, depth=3072, vectors=48, panel=2), False),  # many outputs
        (ProductShape(64, rows=8, depth=1024, vectors=1), False),  # a batch
        (ProductShape(1, rows=5, depth=5647, vectors=1), False),  # no parts of one depth
        (ProductShape(1, rows=5, depth=128, vectors=1), False),  # little work
    ],
)
def test_which_are_computed_in_parts(shape: ProductShape, in_parts: bool) -> None:
    assert (part_count(shape, WIDE) > 1) is in_parts


def test_more_cores_take_more_parts() -> None:
    shape = ProductShape(1, rows=24, depth=5792, vectors=1)
    assert part_count(shape, WIDE) < part_count(shape, MANY)


def test_parts_run_side_by_side_and_are_added_up() -> None:
    text = sketch(default_schedule(biased(5, 16, 4096), WIDE).func)
    first, last = text.split("# C_rf\n", 1)
    assert "in parallel(" in first
    assert "max(C[" in last  # what follows the product follows the sum
    assert "C_rf" not in sketch(default_schedule(biased(5, 16, 100), WIDE).func)


@pytest.mark.parametrize("target", ["native", "llvm -mcpu=haswell"])
@pytest.mark.parametrize(
    ("batch", "rows", "columns", "depth"),
    [((), 5, 16, 512), ((), 13, 8, 1024), ((), 1, 40, 640), ((3,), 7, 21, 256), ((), 30, 3, 300)],
)
def test_values(
    batch: tuple[int, ...],
    rows: int,
    columns: int,
    depth: int,
    target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(depth_parts, "part_count", lambda shape, target: 4)
    func = biased(rows, columns, depth, batch)
    assert Schedule(func).get_blocks() != default_schedule(func, parse(target)).get_blocks()
    rng = np.random.default_rng(rows)
    a, b, bias = (
        rng.standard_normal(shape, dtype=np.float32)
        for shape in ((*batch, rows, depth), (*batch, depth, columns), (columns,))
    )
    got = np.empty((*batch, rows, columns), np.float32)
    heddle.build(func, target, schedule=True)(a, b, bias, got)
    want = np.maximum(a.astype(np.float64) @ b + bias, 0)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
