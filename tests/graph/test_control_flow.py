# SPDX-License-Identifier: Apache-2.0
"""Loops, conditions and dimensions that are known at run time only: text, checks, meaning."""

from __future__ import annotations

import numpy as np
import pytest

import heddle
from heddle.graph import verify_module
from heddle.ir import IRModule, first_mismatch
from heddle.op.interp import interpret
from heddle.script import parse
from heddle.support import UserError

POWERS = """
@I.ir_module
class Module:
    @G.function
    def step(i: G.Tensor((), "int64"), x: G.Tensor((n,), "float32"), a: G.Tensor((n,), "float32")):
        y = op.mul(x, a)
        total = op.sum(y, axes=(0,), keepdims=False)
        going = op.less(total, 1000.0)
        return (going, y, total)

    @G.function
    def main(a: G.Tensor((n,), "float32"), limit: G.Tensor((), "int64")):
        start = op.mul(a, 1.0)
        loop: G.Tuple(
            G.Tensor((), "int64"), G.Tensor((n,), "float32"), G.Tensor((20,), "float32")
        ) = G.loop(
            step, limit=limit, condition=G.const(True, "bool"),
            carried=(start,), captured=(a,), bound=20,
        )
        count = loop[0]
        times = G.bind_dim(count, rows, bound=20)
        power = loop[1]
        table = loop[2]
        totals = op.slice(table, starts=(0,), ends=(rows,), axes=(0,))
        return (times, power, totals)
"""


def powers() -> IRModule:
    return parse(POWERS)


def expected(a: np.ndarray, limit: int) -> tuple[int, np.ndarray, list[float]]:
    x, totals = a.copy(), []
    while len(totals) < limit:
        x = x * a
        totals.append(float(x.sum()))
        if totals[-1] >= 1000:
            break
    return len(totals), x, totals


def test_prints_and_parses() -> None:
    module = powers()
    verify_module(module)
    again = parse(str(module))
    assert first_mismatch(module, again) is None


@pytest.mark.parametrize("limit", [0, 1, 3, 20])
def test_interpreted(limit: int) -> None:
    a = np.asarray([1.5, 2.0, 3.0], np.float32)
    count, power, totals = interpret(powers(), [a, np.asarray(limit)])
    want = expected(a, limit)
    assert int(count) == want[0]
    np.testing.assert_allclose(power, want[1])
    np.testing.assert_allclose(totals, want[2])


def test_more_iterations_than_the_bound() -> None:
    with pytest.raises(UserError, match="the loop over `step` ran more than 20 times"):
        interpret(powers(), [np.ones(2, np.float32), np.asarray(21)])


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 20])
def test_compiled(limit: int) -> None:
    executable = heddle.compile(powers(), cache=False)
    a = np.asarray([1.5, 2.0, 3.0], np.float32)
    count, power, totals = (value.numpy() for value in executable(a, np.asarray(limit)))
    want = expected(a, limit)
    assert int(count) == want[0]
    np.testing.assert_allclose(power, want[1], rtol=1e-6)
    assert totals.shape == (len(want[2]),)
    np.testing.assert_allclose(totals, want[2], rtol=1e-6)
