# SPDX-License-Identifier: Apache-2.0
"""Reducers of several values, recurrences and hand-written statements in tensor expressions."""

from __future__ import annotations

import numpy as np
import pytest

import heddle
from heddle import te
from heddle.ir import structural_equal
from heddle.ir.expr import Var
from heddle.script import parse, to_text
from heddle.support import UserError
from heddle.tir import Block, PrimFunc, collect, load, loop, store
from heddle.tir.interp import run
from heddle.tir.verify import verify


def check(func: PrimFunc, inputs: list[np.ndarray], *expected: np.ndarray) -> None:
    """Interpreted, compiled and compiled as C, against what is expected."""
    verify(func)
    assert structural_equal(parse(to_text(func)), func)
    for call in (lambda *args: run(func, *args), heddle.build(func), heddle.build(func, "c")):
        results = [np.zeros_like(item) for item in expected]
        call(*inputs, *results)
        for got, want in zip(results, expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", ["argmax", "argmin"])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_positions(which: str, dtype: str, rng: np.random.Generator) -> None:
    n = Var("n")
    a, k = te.placeholder((n, 9), dtype, name="A"), te.reduce_axis(9, "k")
    where, best = te.compute((n,), lambda i: getattr(te, which)((k, a[i, k]), axis=k), name="best")
    func = te.create_prim_func([a, where, best], name=which)
    x = (rng.standard_normal((6, 9)) * 3).astype(dtype)  # of integers, many are equal
    if dtype == "float32":
        x[1, 3] = np.nan
        x[2, 1] = x[2, 4] = 9 if which == "argmax" else -9
        x[3] = -np.inf
    positions = getattr(np, which)(x, axis=1)
    check(func, [x], positions, x[np.arange(6), positions])
    (block,) = [found for found in collect(func, Block) if found.name != "root"]
    assert len(block.writes) == 2
    check(te.create_prim_func([a, where], name="only"), [x], positions)


def test_reducer(rng: np.random.Generator) -> None:
    moments = te.reducer(lambda a, b: (a[0] + b[0], a[1] + b[1]), lambda x, y: (0.0, 0.0))
    a, k = te.placeholder((4, 8), name="A"), te.reduce_axis(8, "k")
    sums, squares = te.compute((4,), lambda i: moments((a[i, k], a[i, k] * a[i, k]), axis=k))
    variance = te.compute((4,), lambda i: squares[i] / 8.0 - sums[i] * sums[i] / 64.0, name="v")
    x = rng.standard_normal((4, 8)).astype(np.float32)
    check(te.create_prim_func([a, variance]), [x], x.var(1))


def test_reducer_errors() -> None:
    a, k = te.placeholder((4, 8), name="A"), te.reduce_axis(8, "k")
    short = te.reducer(lambda a, b: (a[0],), lambda *_: (0.0, 0.0), "short")
    pair = te.compute((4,), lambda i: short((a[i, k], a[i, k]), axis=k))
    with pytest.raises(UserError, match="short: the combiner gives 1 values, expected 2"):
        te.create_prim_func([a, *pair])
    wrong = te.reducer(lambda a, b: (a[0] < b[0], b[1]), lambda *_: (0.0, 0.0), "wrong")
    pair = te.compute((4,), lambda i: wrong((a[i, k], a[i, k]), axis=k))
    with pytest.raises(UserError, match="gives bool for value 0, which is float32"):
        te.create_prim_func([a, *pair])
    with pytest.raises(UserError, match="the identity gives 1 values, expected 2"):
        te.reducer(lambda a, b: a, lambda *_: (0.0,), "lone")((a[0, k], k), axis=k)


def test_scan(rng: np.random.Generator) -> None:
    n, m = Var("n"), Var("m")
    x, state = te.placeholder((n, m), name="X"), te.placeholder((n, m), name="state")
    start = te.compute((1, m), lambda t, i: x[t, i], name="start")
    step = te.compute((n, m), lambda t, i: state[t - 1, i] * 0.5 + x[t, i], name="step")
    decay = te.scan(start, step, state, name="decay")
    twice = te.compute((n, m), lambda t, i: decay[t, i] * 2.0, name="twice")
    a = rng.standard_normal((6, 4)).astype(np.float32)
    expected = a.copy()
    for t in range(1, 6):
        expected[t] += expected[t - 1] * np.float32(0.5)
    check(te.create_prim_func([x, twice]), [a], expected * 2)


def test_scan_with_a_product(rng: np.random.Generator) -> None:
    x, w = te.placeholder((3,), name="X"), te.placeholder((3, 3), name="W")
    state, k = te.placeholder((5, 3), name="state"), te.reduce_axis(3, "k")
    start = te.compute((1, 3), lambda t, i: x[i])
    step = te.compute((5, 3), lambda t, i: te.sum(state[t - 1, k] * w[k, i], axis=k))
    func = te.create_prim_func([x, w, te.scan(start, step, state, name="h")])
    a, b = rng.standard_normal(3).astype(np.float32), rng.standard_normal((3, 3)).astype(np.float32)
    rows = [a]
    for _ in range(4):
        rows.append(rows[-1] @ b)
    check(func, [a, b], np.stack(rows))


def test_scan_of_two_states() -> None:
    """The Fibonacci numbers, as pairs."""
    one = te.placeholder((1,), "int64", name="one")
    first, second = (te.placeholder((8, 1), "int64", name=name) for name in "ab")
    starts = [te.compute((1, 1), lambda t, i: one[i]) for _ in range(2)]
    steps = [
        te.compute((8, 1), lambda t, i: second[t - 1, i]),
        te.compute((8, 1), lambda t, i: first[t - 1, i] + second[t - 1, i]),
    ]
    a, b = te.scan(starts, steps, [first, second], name="fib")
    numbers = np.array([1, 1, 2, 3, 5, 8, 13, 21, 34])
    check(te.create_prim_func([one, a, b]), [np.array([1])], numbers[:8, None], numbers[1:, None])


def test_scan_errors() -> None:
    x, state = te.placeholder((6, 4), name="X"), te.placeholder((6, 4), name="s")
    start = te.compute((1, 4), lambda t, i: x[t, i])
    step = te.compute((6, 4), lambda t, i: state[t - 1, i])
    with pytest.raises(UserError, match=r"`scan`: init has shape \(1, 3\), the state \(6, 4\)"):
        te.scan(te.compute((1, 3), lambda t, i: x[t, i]), step, state)
    with pytest.raises(UserError, match=r"update `X` must be a te\.compute"):
        te.scan(start, x, state)
    with pytest.raises(UserError, match="1, 1, 2 tensors for init, update and state"):
        te.scan(start, step, [state, state])


def test_extern(rng: np.random.Generator) -> None:
    x = te.placeholder((6,), name="X")

    def reverse(ins: list, outs: list):
        i = Var("i")
        return loop(i, 6, store(outs[0], load(ins[0], [5 - i]) * 3.0, [i]))

    back = te.extern((6,), [x], reverse, name="back")
    func = te.create_prim_func([x, te.compute((6,), lambda i: back[i] + 1.0, name="y")])
    a = rng.standard_normal(6).astype(np.float32)
    check(func, [a], a[::-1] * 3 + 1)
    with pytest.raises(UserError, match="`odd`: the function gives a int, not a statement"):
        te.create_prim_func([x, te.extern((6,), [x], lambda ins, outs: 3, name="odd")])


def test_one_value_where_a_tuple_is_needed() -> None:
    x, k = te.placeholder((4, 8), name="X"), te.reduce_axis(8, "k")
    with pytest.raises(UserError, match=r"argmax: the values are a tuple .* got TensorElement"):
        te.compute((4,), lambda i: te.argmax(x[i, k], axis=k), name="best")
