# SPDX-License-Identifier: Apache-2.0
"""Statements of `@heddle.hybrid`, interpreted and compiled."""

from __future__ import annotations

import numpy as np

import heddle
from heddle.ir import structural_equal
from heddle.schedule import Schedule
from heddle.script import T, parse, to_text
from heddle.tir import Block, Buffer, For, ForKind, IterKind, PrimFunc, collect
from heddle.tir.interp import run

SLOPE = 0.25


@T.macro
def square(x):
    return x * x


@heddle.hybrid
def te_add_one(a, b):
    n = var("n")
    A = bind_buffer(a, shape=[n])
    B = bind_buffer(b, shape=[n])
    for i in iter_range(n, iter_type="data_par"):
        B[i] = A[i] + 1


def execute(func: PrimFunc, *args: object) -> list[object]:
    """The arguments after the call: interpreted, compiled and compiled as C, which must agree."""
    assert structural_equal(parse(to_text(func)), func)
    runs = []
    for call in (lambda *given: run(func, *given), heddle.build(func), heddle.build(func, "c")):
        given = [item.copy() if isinstance(item, np.ndarray) else item for item in args]
        call(*given)
        runs.append(given)
    for other in runs[1:]:
        for got, want in zip(other, runs[0], strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    return runs[1]


def test_module_from_a_list() -> None:
    module = heddle.IRModule([te_add_one])
    assert list(module) == ["te_add_one"]
    a, b = module["te_add_one"].args
    assert isinstance(a, Buffer)
    assert (a.name, b.name) == ("A", "B")
    assert structural_equal(parse(to_text(module)), module)


def test_blocks_can_be_scheduled(rng: np.random.Generator) -> None:
    schedule = Schedule(te_add_one)
    (i,) = schedule.get_loops("B")
    outer, inner = schedule.split(i, [None, 8])
    schedule.parallel(outer)
    schedule.vectorize(inner)
    a = rng.standard_normal(21).astype(np.float32)
    for target in ("native", "c"):
        b = np.zeros_like(a)
        heddle.build(schedule.func, target)(a, b)
        np.testing.assert_array_equal(b, a + 1)


@heddle.hybrid(name="leaky")
def clipped_sums(x, y, limit: float32):
    """Names that change, names of Python, macros, conditions, local buffers, plain loops."""
    n = var("n")
    X = bind_buffer(x, shape=[n, 9])
    Y = bind_buffer(y, shape=[n], dtype="float32")
    half = limit / 2
    for i in iter_range(n, iter_type="data_par"):
        s = 0.0
        for k in iter_range(9, iter_type="reduce"):
            v = X[i, k]
            if v > half:
                s += square(v)
            elif v < 0:
                s -= v * SLOPE
            else:
                pass
        parts = alloc_buffer([3])
        for t in range(3):
            parts[t] = s * cast(t, "float32")
        Y[i] = parts[1] + parts[2]


def test_statements(rng: np.random.Generator) -> None:
    x = rng.standard_normal((5, 9)).astype(np.float32)
    terms = np.where(x > 0.3, x * x, np.where(x < 0, -x * np.float32(SLOPE), 0))
    _, y, _ = execute(clipped_sums, x, np.zeros(5, np.float32), 0.6)
    np.testing.assert_allclose(y, 3 * terms.sum(1), rtol=1e-5)
    (block,) = [found for found in collect(clipped_sums, Block) if found.name != "root"]
    assert [buffer.name for buffer in block.alloc_buffers] == ["s", "parts"]


@heddle.hybrid
def collatz(x, y):
    n = var("n")
    X = bind_buffer(x, shape=[n], dtype="int64")
    Y = bind_buffer(y, shape=[n], dtype="int64")
    for i in iter_range(n, iter_type="data_par"):
        v = X[i]
        steps = 0
        while v != 1:
            if v % 2 == 0:
                v = v // 2
            else:
                v = 3 * v + 1
            steps += 1
        Y[i] = steps


def test_while() -> None:
    _, y = execute(collatz, np.array([1, 6, 7, 27]), np.zeros(4, np.int64))
    np.testing.assert_array_equal(y, [0, 8, 16, 111])


@heddle.hybrid
def argmax(x, best, where):
    n = var("n")
    m = var("m")
    X = bind_buffer(x, shape=[n, m])
    V = bind_buffer(best, shape=[n])
    P = bind_buffer(where, shape=[n], dtype="int64")
    for i in iter_range(n, iter_type="data_par"):
        V[i] = float32("-inf")
        P[i] = 0
        for k in iter_range(m, iter_type="reduce"):
            if X[i, k] > V[i]:
                V[i] = X[i, k]
                P[i] = k


def test_reduction_of_two_buffers(rng: np.random.Generator) -> None:
    x = rng.standard_normal((4, 6)).astype(np.float32)
    _, best, where = execute(argmax, x, np.zeros(4, np.float32), np.zeros(4, np.int64))
    np.testing.assert_array_equal(where, x.argmax(1))
    np.testing.assert_array_equal(best, x.max(1))
    (block,) = [found for found in collect(argmax, Block) if found.name != "root"]
    assert len(block.writes) == 2
    assert block.init is not None


@heddle.hybrid
def decay(x, y):
    n = var("n")
    X = bind_buffer(x, shape=[n, 8])
    Y = bind_buffer(y, shape=[n, 8])
    assert n > 1, "needs two rows"
    for j in iter_range(8, iter_type="data_par"):
        Y[0, j] = X[0, j]
    for t in range(1, n):
        for j in iter_range(8, iter_type="data_par"):
            Y[t, j] = Y[t - 1, j] * 0.5 + X[t, j]


def test_a_plain_loop_around_axes_is_ordered(rng: np.random.Generator) -> None:
    x = rng.standard_normal((5, 8)).astype(np.float32)
    expected = x.copy()
    for t in range(1, 5):
        expected[t] += expected[t - 1] * np.float32(0.5)
    _, y = execute(decay, x, np.zeros_like(x))
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    kinds = [[axis.kind for axis in block.iters] for block in collect(decay, Block)]
    assert kinds == [[], [IterKind.SPATIAL], [IterKind.ORDERED, IterKind.SPATIAL]]


@heddle.hybrid
def rnn(x, w, y):
    n = var("n")
    X = bind_buffer(x, shape=[4])
    W = bind_buffer(w, shape=[4, 4])
    Y = bind_buffer(y, shape=[n, 4])
    for j in iter_range(4, iter_type="data_par"):
        Y[0, j] = X[j]
    for t in iter_range(1, n, iter_type="ordered"):
        for j in iter_range(4, iter_type="data_par"):
            Y[t, j] = 0.0
            for k in iter_range(4, iter_type="reduce"):
                Y[t, j] += Y[t - 1, k] * W[k, j]


def test_the_init_of_a_reduction_runs_at_every_ordered_step(rng: np.random.Generator) -> None:
    x, w = rng.standard_normal(4).astype(np.float32), rng.standard_normal((4, 4)).astype(np.float32)
    rows = [x]
    for _ in range(4):
        rows.append(rows[-1] @ w)
    *_, y = execute(rnn, x, w, np.zeros((5, 4), np.float32))
    np.testing.assert_allclose(y, np.stack(rows), rtol=1e-4, atol=1e-4)


@heddle.hybrid
def centred(a, b):
    A = bind_buffer(a, shape=[16])
    B = bind_buffer(b, shape=[16])
    s = 0.0
    for i in iter_range(16, iter_type="reduce"):
        s += A[i]
    s = s / 16
    for i in iter_range(16, iter_type="vectorized"):
        B[i] = A[i] - s


def test_a_name_that_changes_in_the_function(rng: np.random.Generator) -> None:
    a = rng.standard_normal(16).astype(np.float32)
    _, b = execute(centred, a, np.zeros_like(a))
    np.testing.assert_allclose(b, a - a.mean(), rtol=1e-5, atol=1e-6)
    kinds = [loop.kind for loop in collect(centred, For)]
    assert kinds == [ForKind.SERIAL, ForKind.VECTORIZED]


@heddle.hybrid
def upper(a, b):
    n = var("n")
    A = bind_buffer(a, shape=[n, n])
    B = bind_buffer(b, shape=[n, n])
    for i in iter_range(n, iter_type="parallel"):
        for j in iter_range(i, n, iter_type="data_par"):
            B[i, j] = sqrt(fabs(A[j, i])) if i < j else A[i, j]


def test_triangular_loops(rng: np.random.Generator) -> None:
    a = rng.standard_normal((6, 6)).astype(np.float32)
    expected = np.triu(np.sqrt(np.abs(a.T)), 1) + np.diag(np.diag(a))
    _, b = execute(upper, a, np.zeros_like(a))
    np.testing.assert_allclose(b, expected, rtol=1e-6)
