# SPDX-License-Identifier: Apache-2.0
"""The interpreter against numpy: blocks, loops, vectors, dtypes, and what it refuses."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from heddle import te
from heddle.ir.expr import (
    Broadcast,
    Ramp,
    Var,
    cast,
    const,
    if_then_else,
    maximum,
    select,
    truncdiv,
    truncmod,
)
from heddle.support import UserError
from heddle.tir import intrin
from heddle.tir.build import decl_buffer, load, loop, prim_func, seq, store
from heddle.tir.interp import convert, run
from heddle.tir.nodes import Allocate, BufferStore, IfThenElse, LetStmt, While


def elementwise(function, dtype: str, values: np.ndarray) -> np.ndarray:
    """`function` applied to each of `values` by the interpreter."""
    x = te.placeholder((len(values),), dtype, name="X")
    y = te.compute((len(values),), lambda i: function(x[i]), name="Y")
    out = np.zeros(len(values), dtype=y.dtype.numpy)
    run(te.create_prim_func([x, y]), values, out)
    return out


def test_reduction_with_init(rng: np.random.Generator) -> None:
    x = te.placeholder((4, 6), name="X")
    r = te.reduce_axis(6, "r")
    y = te.compute((4,), lambda i: te.max(x[i, r], axis=r), name="Y")
    data = rng.standard_normal((4, 6)).astype(np.float32)
    out = np.zeros(4, np.float32)
    run(te.create_prim_func([x, y]), data, out)
    np.testing.assert_array_equal(out, data.max(axis=1))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_float_dtypes(dtype: str, rng: np.random.Generator) -> None:
    numpy_dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    data = rng.standard_normal(9).astype(numpy_dtype)
    got = elementwise(lambda v: v * v + v, dtype, data)
    assert got.dtype == numpy_dtype
    np.testing.assert_array_equal(got, data * data + data)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64"])
def test_integers_wrap(dtype: str) -> None:
    info = np.iinfo(dtype)
    data = np.array([info.min, info.max, 3], dtype)
    got = elementwise(lambda v: v + v, dtype, data)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got, data + data)


def test_division_rounding() -> None:
    data = np.array([-7, -6, 7, 6], np.int32)
    for function, expected in (
        (lambda v: v // 4, [-2, -2, 1, 1]),
        (lambda v: v % 4, [1, 2, 3, 2]),
        (lambda v: truncdiv(v, 4), [-1, -1, 1, 1]),
        (lambda v: truncmod(v, 4), [-3, -2, 3, 2]),
    ):
        np.testing.assert_array_equal(elementwise(function, "int32", data), expected)


def test_casts_saturate() -> None:
    data = np.array([1.9, -1.9, 300.0, -300.0, math.nan, math.inf], np.float32)
    got = elementwise(lambda v: cast(v, "int8"), "float32", data)
    np.testing.assert_array_equal(got, np.array([1, -1, 127, -128, 0, 127], np.int8))
    got = elementwise(lambda v: cast(v, "int64"), "float32", np.array([1e30, -1e30], np.float32))
    np.testing.assert_array_equal(got, [np.iinfo(np.int64).max, np.iinfo(np.int64).min])
    np.testing.assert_array_equal(convert(np.int64(257), const(0, "uint8").dtype), 1)


def test_nan_and_selection() -> None:
    data = np.array([math.nan, -1.0, 2.0], np.float32)
    got = elementwise(lambda v: maximum(v, 0.0), "float32", data)
    np.testing.assert_array_equal(got, np.array([math.nan, 0.0, 2.0], np.float32))
    got = elementwise(lambda v: select(v > 0.0, v, -v), "float32", data[1:])
    np.testing.assert_array_equal(got, np.array([1.0, 2.0], np.float32))


def test_intrinsics(rng: np.random.Generator) -> None:
    data = rng.uniform(0.1, 0.9, 7).astype(np.float32)
    pairs = {
        "exp": np.exp,
        "log": np.log,
        "tanh": np.tanh,
        "rsqrt": lambda v: 1 / np.sqrt(v),
        "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
        "erf": lambda v: np.array([math.erf(item) for item in v], np.float32),
        "atanh": np.arctanh,
        "round": np.rint,
    }
    for name, reference in pairs.items():
        got = elementwise(getattr(intrin, name), "float32", data)
        np.testing.assert_allclose(got, reference(data), rtol=1e-6, err_msg=name)
    bits = elementwise(lambda v: intrin.reinterpret(v, "int32"), "float32", data)
    np.testing.assert_array_equal(bits, data.view(np.int32))


def test_vectors() -> None:
    a, c = decl_buffer((16,), name="A"), decl_buffer((16,), name="C")
    o = Var("o")
    ramp = Ramp(o * 4, const(1), 4)
    value = load(a, ramp) * Broadcast(const(2.0, "float32"), 4)
    func = prim_func([a, c], loop(o, 4, BufferStore(c, value, (ramp,))))
    data = np.arange(16, dtype=np.float32)
    out = np.zeros(16, np.float32)
    run(func, data, out)
    np.testing.assert_array_equal(out, 2 * data)


def test_statements() -> None:
    c, count = decl_buffer((6,), "int64", name="C"), decl_buffer((1,), "int64", name="count")
    i, twice = Var("i"), Var("twice")
    zero = const(0)
    body = LetStmt(i * 2, twice, store(c, twice, i))
    guarded = loop(i, 6, IfThenElse(i < 3, body, store(c, -1, i)))
    step = store(count, load(count, zero) + 1, zero)
    counted = seq(store(count, 0, zero), While(load(count, zero) < 5, step))
    func = prim_func([c], Allocate(count, seq(guarded, counted, store(c, load(count, zero), 5))))
    out = np.zeros(6, np.int64)
    run(func, out)
    np.testing.assert_array_equal(out, [0, 2, 4, -1, -1, 5])


def test_lazy_branches_guard_loads() -> None:
    x = te.placeholder((4,), name="X")
    y = te.compute((6,), lambda i: if_then_else(i < 4, x[i], -1.0), name="Y")
    out = np.zeros(6, np.float32)
    run(te.create_prim_func([x, y]), np.arange(4, dtype=np.float32), out)
    np.testing.assert_array_equal(out, [0, 1, 2, 3, -1, -1])


def test_out_of_bounds_is_refused() -> None:
    x = te.placeholder((4,), name="X")
    y = te.compute((6,), lambda i: x[i], name="Y")
    with pytest.raises(UserError, match=r"load of `X`\[4\] is out of bounds of the shape \(4,\)"):
        run(te.create_prim_func([x, y]), np.zeros(4, np.float32), np.zeros(6, np.float32))


def test_unwritten_intermediates_are_nan() -> None:
    tmp, c = decl_buffer((2,), name="tmp"), decl_buffer((2,), name="C")
    i = Var("i")
    func = prim_func([c], loop(i, 2, store(c, load(tmp, i), i)), alloc_buffers=[tmp])
    out = np.zeros(2, np.float32)
    run(func, out)
    assert np.isnan(out).all()


def test_wrong_arguments() -> None:
    n = Var("n")
    x = te.placeholder((n, 2), name="X")
    y = te.compute((n, 2), lambda i, j: x[i, j], name="Y")
    func = te.create_prim_func([x, y])
    good = np.ones((3, 2), np.float32)
    out = np.zeros((3, 2), np.float32)
    run(func, good, out)
    np.testing.assert_array_equal(out, good)
    for arguments, message in (
        ([good], "2 parameters, got 1 arguments"),
        ([good, good[0]], "`Y` needs an array of 2 dimensions"),
        ([good.astype(np.float64), out], "`X` is float32, got float64"),
        ([good, np.zeros((4, 2), np.float32)], r"`Y` must have shape \(3, 2\), got \(4, 2\)"),
    ):
        with pytest.raises(UserError, match=message):
            run(func, *arguments)


def test_masked_vectors() -> None:
    """A condition with lanes switches loads and stores lane by lane; lanes that are off may point
    anywhere."""
    a, c = decl_buffer((6,), name="A"), decl_buffer((6,), name="C")
    ramp = Ramp(const(0), const(1), 8)
    inside = ramp < Broadcast(const(6), 8)
    zeros = Broadcast(const(0.0, "float32"), 8)
    value = if_then_else(inside, load(a, ramp), zeros) + Broadcast(const(1.0, "float32"), 8)
    func = prim_func([a, c], IfThenElse(inside, BufferStore(c, value, (ramp,))))
    data = np.arange(6, dtype=np.float32)
    out = np.zeros(6, np.float32)
    run(func, data, out)
    np.testing.assert_array_equal(out, data + 1)
    with pytest.raises(UserError, match="out of bounds"):
        run(prim_func([a, c], BufferStore(c, zeros, (ramp,))), data, out)
