# SPDX-License-Identifier: Apache-2.0
"""Operands that lie along the reduction are turned by the tasks that read them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import heddle
from heddle import op, te
from heddle.graph import GraphExpr
from heddle.ir.expr import Call
from heddle.ir.walk import pre_order
from heddle.passes.graph.canonicalise import canonicalise
from heddle.passes.tir.lower import lower
from heddle.schedule import Schedule
from heddle.schedule.rules import default_schedule
from heddle.schedule.rules.turned_operand import turn_operand
from heddle.schedule.sketch import sketch
from heddle.target import parse
from heddle.tir.nodes import PrimFunc
from tests.passes.graph.support import build, check_values, draw, ops_of

HASWELL = parse("llvm -mcpu=haswell")


def across(
    rows: int, columns: int, depth: int, batch: tuple[int, ...] = (), dtype: str = "float32"
) -> PrimFunc:
    """A @ B^T"""
    a = te.placeholder((*batch, rows, depth), dtype, name="A")
    b = te.placeholder((*batch, columns, depth), dtype, name="B")
    k = te.reduce_axis(depth, "k")
    c = te.compute(
        (*batch, rows, columns),
        lambda *at: te.sum(a[*at[:-1], k.var] * b[*at[:-2], at[-1], k.var], axis=k),
        name="C",
    )
    return te.create_prim_func([a, b, c])


def test_the_copy_lies_along_the_vectors() -> None:
    sch = Schedule(across(40, 24, 16))
    assert str(turn_operand(sch, sch.get_blocks()[0], HASWELL)) == "block `B_global`"
    assert sketch(sch.func) == (
        "B_global = alloc((16, 24))\n"
        "for ax0, ax1 in grid(24, 16):\n"
        "    B_global[ax1, ax0] = B[ax0, ax1]\n"
        "for at0, at1, k in grid(40, 24, 16):\n"
        "    with init: C[at0, at1] = 0.0\n"
        "    C[at0, at1] = C[at0, at1] + A[at0, k] * B_global[k, at1]"
    )


@pytest.mark.parametrize(
    "func",
    [
        across(4, 24, 16),  # dot products of few rows
        across(40, 24, 1),  # nothing to turn
        across(40, 24, 16, dtype="float64"),
    ],
)
def test_what_stays_as_it_lies(func: PrimFunc) -> None:
    sch = Schedule(func)
    assert turn_operand(sch, sch.get_blocks()[0], HASWELL) is None


def test_each_task_turns_its_panel_in_registers() -> None:
    func = default_schedule(across(64, 48, 96), HASWELL).func
    text = sketch(func)
    task = text.index("in parallel(")
    assert task < text.index("B_global[") < text.index("# C_init")
    calls = [n.name for n in pre_order(lower(func, HASWELL).body) if isinstance(n, Call)]
    assert "transpose_tile" in calls


@pytest.mark.parametrize("target", ["native", "llvm -mcpu=haswell", "llvm -mcpu=x86-64"])
@pytest.mark.parametrize(
    ("batch", "rows", "columns", "depth"),
    [
        ((), 24, 33, 40),
        ((), 17, 89, 89),
        ((), 200, 107, 61),
        ((), 48, 48, 722),
        ((3,), 20, 24, 30),
        ((2, 2), 33, 8, 65),
        ((), 40, 5, 7),
    ],
)
def test_values(batch: tuple[int, ...], rows: int, columns: int, depth: int, target: str) -> None:
    rng = np.random.default_rng(columns)
    a = rng.standard_normal((*batch, rows, depth), dtype=np.float32)
    b = rng.standard_normal((*batch, columns, depth), dtype=np.float32)
    got = np.empty((*batch, rows, columns), np.float32)
    heddle.build(across(rows, columns, depth, batch), target, schedule=True)(a, b, got)
    want = a.astype(np.float64) @ np.swapaxes(b, -1, -2)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


def by_itself(*permutation: int) -> Callable[[GraphExpr], GraphExpr]:
    """x @ transpose(relu(x))"""
    return lambda x: op.matmul(x, op.transpose(op.relu(x), permutation=permutation))


def test_products_take_transposed_matrices_of_a_batch_as_they_lie() -> None:
    module = build(by_itself(0, 2, 1), (2, 7, 9))
    after = canonicalise(module)
    assert ops_of(after) == ["relu", "matmul"]
    check_values(module, after)
    other = build(by_itself(1, 2, 0), (5, 5, 5))
    assert "transpose" in ops_of(canonicalise(other))


def test_networks_with_transposed_operands() -> None:
    module = build(by_itself(0, 2, 1), (3, 37, 45))
    inputs = draw(module, 5)
    got = heddle.compile(module, cache=False)(*inputs).numpy()
    x = inputs[0].astype(np.float64)
    np.testing.assert_allclose(got, x @ np.swapaxes(np.maximum(x, 0), -1, -2), rtol=1e-5, atol=1e-4)
