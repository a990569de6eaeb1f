# SPDX-License-Identifier: Apache-2.0
"""Loops of every kind, masks, reductions, allocations, errors: values against numpy."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from heddle import te
from heddle.codegen import asm, build_kernel, llvm_ir
from heddle.ir.expr import IntImm, Ramp, Var, cast, const, if_then_else, maximum, minimum
from heddle.support import UserError
from heddle.target import native, parse
from heddle.tir import (
    Assert,
    Buffer,
    For,
    ForKind,
    IfThenElse,
    LetStmt,
    While,
    decl_buffer,
    load,
    loop,
    make_block,
    prim_func,
    seq,
    store,
)
from tests.codegen.kernels import elementwise_function, function

VECTOR, SERIAL, PARALLEL = ForKind.VECTORIZED, ForKind.SERIAL, ForKind.PARALLEL
UNROLLED = ForKind.UNROLLED
CPUS = ["native", "-mcpu=haswell", "-mcpu=x86-64"]


@contextmanager
def guarded(values: np.ndarray) -> Iterator[np.ndarray]:
    """A copy of the values that ends where memory that cannot be touched begins, and starts after
    such memory, so that the slightest overrun ends the process."""
    page = mmap.PAGESIZE
    inner = max(page, -(-values.nbytes // page) * page)
    region = mmap.mmap(-1, inner + 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(region))
    libc = ctypes.CDLL(None, use_errno=True)
    for place in (start, start + page + inner):
        assert libc.mprotect(ctypes.c_void_p(place), page, 0) == 0
    offset = page + inner - values.nbytes
    array = np.frombuffer(region, values.dtype, values.size, offset).reshape(values.shape)
    array[...] = values
    yield array
    for place in (start, start + page + inner):
        libc.mprotect(ctypes.c_void_p(place), page, 3)


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 15, 16, 17, 31, 64, 100])
def test_vector_loops_stay_in_bounds(size: int, cpu: str, rng: np.random.Generator) -> None:
    a = rng.normal(size=size).astype(np.float32)
    func = elementwise_function(lambda x: x * 3.0, ["float32"], "float32", size)
    with guarded(a) as source, guarded(np.zeros_like(a)) as out:
        build_kernel(func, parse(cpu))(source, out)
        np.testing.assert_array_equal(out, a * 3)


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("size", [5, 16, 33, 47])
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "bfloat16"])
def test_masked_remainder(dtype: str, size: int, cpu: str, rng: np.random.Generator) -> None:
    """A split that does not divide: the last vector is masked, and touches nothing beyond."""
    n, o, i = Var("n"), Var("o"), Var("i")
    a, out = decl_buffer((n,), dtype, "a"), decl_buffer((n,), dtype, "out")
    index = o * 16 + i
    body = IfThenElse(index < n, store(out, load(a, index), index))
    func = function([a, out], loop(o, (n + 15) // 16, loop(i, 16, body, VECTOR)))
    values = (rng.normal(size=size) * 4).astype(a.dtype.numpy)
    with guarded(values) as source, guarded(np.zeros_like(values)) as result:
        build_kernel(func, parse(cpu))(source, result)
        assert result.tobytes() == values.tobytes()


@pytest.mark.parametrize("cpu", CPUS)
def test_lazy_loads_under_a_mask(cpu: str, rng: np.random.Generator) -> None:
    """Padding: lanes outside of the input load nothing (guard pages on both sides)."""
    size, pad = 1024, 3
    a, out = decl_buffer((size,), "float32", "a"), decl_buffer((size + 2 * pad,), "float32", "out")
    i = Var("i")
    inside = (i >= pad) & (i < size + pad)
    value = if_then_else(inside, load(a, i - pad), -1.0)
    func = function([a, out], loop(i, size + 2 * pad, store(out, value, i), VECTOR))
    values = rng.normal(size=size).astype(np.float32)
    result = np.zeros(size + 2 * pad, np.float32)
    with guarded(values) as source:
        build_kernel(func, parse(cpu))(source, result)
    np.testing.assert_array_equal(result, np.pad(values, pad, constant_values=-1))


@pytest.mark.parametrize("stride", [-1, 0, 1, 2, 3, 4, 5, -2])
@pytest.mark.parametrize("cpu", CPUS)
def test_strided_loads_and_stores(stride: int, cpu: str, rng: np.random.Generator) -> None:
    size = 37
    span = abs(stride) * (size - 1) + 1
    i = Var("i")
    first = 0 if stride >= 0 else span - 1
    a, out = decl_buffer((span,), "float32", "a"), decl_buffer((size,), "float32", "out")
    gather = function([a, out], loop(i, size, store(out, load(a, i * stride + first), i), VECTOR))
    values = rng.normal(size=span).astype(np.float32)
    picks = np.arange(size) * stride + first
    with guarded(values) as source, guarded(np.zeros(size, np.float32)) as result:
        build_kernel(gather, parse(cpu))(source, result)
        np.testing.assert_array_equal(result, values[picks])
    if stride == 0:
        return
    back = function([out, a], loop(i, size, store(a, load(out, i), i * stride + first), VECTOR))
    spread = np.zeros(span, np.float32)
    build_kernel(back, parse(cpu))(values[:size].copy(), spread)
    np.testing.assert_array_equal(spread[picks], values[:size])


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8"])
@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("size", [1, 5, 16, 31])
def test_strided_loads_under_masks(
    size: int, stride: int, dtype: str, cpu: str, rng: np.random.Generator
) -> None:
    """Lanes that are off read nothing: the page after the last element may not be touched."""
    span, lanes = stride * (size - 1) + 1, 32
    i = Var("i")
    a, out = decl_buffer((span,), dtype, "a"), decl_buffer((lanes,), dtype, "out")
    value = if_then_else(i < size, load(a, i * stride), const(0, dtype))
    func = function([a, out], loop(i, lanes, store(out, value, i), VECTOR))
    values = (rng.normal(size=span) * 9).astype(dtype)
    result = np.ones(lanes, dtype)
    with guarded(values) as source:
        build_kernel(func, parse(cpu))(source, result)
    np.testing.assert_array_equal(result[:size], values[::stride])
    assert not result[size:].any()


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("dtype", ["float32", "int8", "bfloat16"])
def test_gather_and_scatter(dtype: str, cpu: str, rng: np.random.Generator) -> None:
    size, rows = 45, 70
    i = Var("i")
    picks = decl_buffer((size,), "int64", "picks")
    a, out = decl_buffer((rows,), dtype, "a"), decl_buffer((size,), dtype, "out")
    body = store(out, load(a, load(picks, i)), i)
    values = (rng.normal(size=rows) * 9).astype(a.dtype.numpy)
    order = rng.permutation(rows)[:size]
    result = np.zeros(size, values.dtype)
    build_kernel(function([picks, a, out], loop(i, size, body, VECTOR)), parse(cpu))(
        order, values, result
    )
    assert result.tobytes() == values[order].tobytes()
    body = store(a, load(out, i), load(picks, i))
    spread = np.zeros(rows, values.dtype)
    build_kernel(function([picks, out, a], loop(i, size, body, VECTOR)), parse(cpu))(
        order, result, spread
    )
    assert spread[order].tobytes() == result.tobytes()


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("divisor", [4, 16, 32, 7])
def test_divided_indices_of_vectors(divisor: int, cpu: str, rng: np.random.Generator) -> None:
    size = 96
    a, out = (
        decl_buffer((size // divisor + 1, divisor), "float32", "a"),
        decl_buffer((size,), "float32", "out"),
    )
    o, i = Var("o"), Var("i")
    index = o * 32 + i
    body = store(out, load(a, (index // divisor, index % divisor)), index)
    values = rng.normal(size=(size // divisor + 1, divisor)).astype(np.float32)
    result = np.zeros(size, np.float32)
    func = function([a, out], loop(o, 3, loop(i, 32, body, VECTOR)))
    build_kernel(func, parse(cpu))(values, result)
    np.testing.assert_array_equal(result, values.reshape(-1)[:size])


@pytest.mark.parametrize("kind", [VECTOR, SERIAL, UNROLLED])
@pytest.mark.parametrize("dtype", ["float32", "int32", "bfloat16"])
@pytest.mark.parametrize("combiner", ["sum", "max", "min"])
def test_reductions(combiner: str, dtype: str, kind: ForKind, rng: np.random.Generator) -> None:
    size = 83
    a, out = decl_buffer((size,), dtype, "a"), decl_buffer((1,), dtype, "out")
    k = Var("k")
    combine = {"sum": lambda x, y: x + y, "max": maximum, "min": minimum}
    body = store(out, combine[combiner](load(out, 0), load(a, k)), 0)
    func = function([a, out], loop(k, size, body, kind))
    values = (rng.normal(size=size) * 5).astype(a.dtype.numpy)
    result = values[:1].copy()
    build_kernel(func)(values, result)
    wide = values.astype(np.float64)
    wanted = {"sum": wide.sum() + wide[0], "max": wide.max(), "min": wide.min()}[combiner]
    # a float32 sum of 83 terms; bfloat16 keeps eight bits, and rounds at every serial step
    tolerance = {"float32": 1e-5, "int32": 0, "bfloat16": 1.0}[dtype] if combiner == "sum" else 0
    np.testing.assert_allclose(result.astype(np.float64)[0], wanted, rtol=tolerance, atol=tolerance)


def test_reduction_under_a_condition(rng: np.random.Generator) -> None:
    n, o, i = Var("n"), Var("o"), Var("i")
    a, out = decl_buffer((n,), "float32", "a"), decl_buffer((1,), "float32", "out")
    index = o * 32 + i
    body = IfThenElse(index < n, store(out, load(out, 0) + load(a, index), 0))
    func = function([a, out], loop(o, (n + 31) // 32, loop(i, 32, body, VECTOR)))
    for size in (3, 32, 77):
        values = rng.normal(size=size).astype(np.float32)
        result = np.zeros(1, np.float32)
        with guarded(values) as source:
            build_kernel(func)(source, result)
        np.testing.assert_allclose(result[0], values.sum(), rtol=1e-5)


@pytest.mark.parametrize("kind", [SERIAL, UNROLLED, PARALLEL])
@pytest.mark.parametrize("inner", [SERIAL, UNROLLED, VECTOR])
def test_loop_kinds_nest(kind: ForKind, inner: ForKind, rng: np.random.Generator) -> None:
    rows, columns = Var("rows"), 21
    a, out = (decl_buffer((rows, columns), "float32", name) for name in ("a", "out"))
    factor = Var("factor", a.dtype)
    i, j = Var("i"), Var("j")
    body = store(out, load(a, (i, j)) * factor + cast(i, "float32"), (i, j))
    func = function([a, factor, out], loop(i, rows, loop(j, columns, body, inner), kind))
    values = rng.normal(size=(50, columns)).astype(np.float32)
    result = np.zeros_like(values)
    build_kernel(func)(values, 2.5, result)
    expected = values * np.float32(2.5) + np.arange(50, dtype=np.float32)[:, None]
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-5)  # multiply-adds are fused


def test_empty_and_offset_loops(rng: np.random.Generator) -> None:
    """A loop may start anywhere and run zero times."""
    n, start = Var("n"), Var("start")
    a, out = decl_buffer((n,), "float32", "a"), decl_buffer((n,), "float32", "out")
    i = Var("i")
    body = store(out, load(a, i) + 1.0, i)
    for kind in (SERIAL, PARALLEL):
        func = function([a, out, start], For(start, n - start, kind, i, body))
        kernel = build_kernel(func)
        values = rng.normal(size=20).astype(np.float32)
        result = np.zeros_like(values)
        kernel(values, result, 13)
        np.testing.assert_array_equal(result[13:], values[13:] + 1)
        assert not result[:13].any()
        kernel(np.zeros(0, np.float32), np.zeros(0, np.float32), 0)


def test_allocations_on_the_stack_and_on_the_heap(rng: np.random.Generator) -> None:
    for size in (8, 100_000):
        a, out = decl_buffer((size,), "float32", "a"), decl_buffer((4, size), "float32", "out")
        scratch = decl_buffer((size,), "float32", "scratch", scope="local")
        r, i, j = Var("r"), Var("i"), Var("j")
        body = seq(
            loop(i, size, store(scratch, load(a, i) + cast(r, "float32"), i), SERIAL),
            loop(j, size, store(out, load(scratch, size - 1 - j), (r, j)), SERIAL),
        )
        inner = make_block("inner", [], body, reads=[], writes=[], alloc_buffers=[scratch])
        func = prim_func([a, out], loop(r, 4, inner, PARALLEL))
        values = rng.normal(size=size).astype(np.float32)
        result = np.zeros((4, size), np.float32)
        build_kernel(func)(values, result)
        expected = values[::-1] + np.arange(4, dtype=np.float32)[:, None]
        np.testing.assert_array_equal(result, expected)
        assert ("hd_alloc" in llvm_ir(func, native())) == (size > 8)


def test_allocation_inside_a_vectorized_loop(rng: np.random.Generator) -> None:
    size, depth = 40, 9
    a, out = decl_buffer((depth, size), "float32", "a"), decl_buffer((size,), "float32", "out")
    total = decl_buffer((1,), "float32", "total", scope="local")
    i, k = Var("i"), Var("k")
    body = seq(
        store(total, 0.0, 0),
        loop(k, depth, store(total, load(total, 0) + load(a, (k, i)), 0)),
        store(out, load(total, 0), i),
    )
    inner = make_block("inner", [], body, reads=[], writes=[], alloc_buffers=[total])
    func = prim_func([a, out], loop(i, size, inner, VECTOR))
    values = rng.normal(size=(depth, size)).astype(np.float32)
    result = np.zeros(size, np.float32)
    build_kernel(func)(values, result)
    np.testing.assert_allclose(result, values.sum(0), rtol=1e-5, atol=1e-6)
    assert "ramp" not in llvm_ir(func, native())


def test_let_while_and_branches(rng: np.random.Generator) -> None:
    out = decl_buffer((2,), "int64", "out")
    t = Var("t")
    body = seq(
        store(out, const(27), 0),
        store(out, const(0), 1),
        While(
            load(out, 0).not_equal(1),
            LetStmt(
                load(out, 0),
                t,
                seq(
                    IfThenElse((t % 2).equal(0), store(out, t // 2, 0), store(out, t * 3 + 1, 0)),
                    store(out, load(out, 1) + 1, 1),
                ),
            ),
        ),
    )
    result = np.zeros(2, np.int64)
    build_kernel(function([out], body))(result)
    assert result.tolist() == [1, 111]  # the Collatz sequence of 27 takes 111 steps


@pytest.mark.parametrize("kind", [SERIAL, PARALLEL])
def test_failed_assertion_is_an_error(kind: ForKind) -> None:
    n, i = Var("n"), Var("i")
    a = decl_buffer((n,), "int64", "a")
    check = seq(Assert(load(a, i) >= 0, "negative index in `a`"), store(a, load(a, i) + 1, i))
    kernel = build_kernel(function([a], loop(i, n, check, kind)))
    values = np.arange(8)
    kernel(values)
    assert values.tolist() == list(range(1, 9))
    values[5] = -3
    with pytest.raises(UserError, match="negative index in `a`"):
        kernel(values)


def test_explicit_vectors(rng: np.random.Generator) -> None:
    a, out = decl_buffer((32,), "float32", "a"), decl_buffer((32,), "float32", "out")
    ramp = Ramp(IntImm(8), IntImm(1), 16)
    func = function(
        [a, out], store(out, load(a, ramp) + load(a, Ramp(IntImm(0), IntImm(2), 16)), ramp)
    )
    values = rng.normal(size=32).astype(np.float32)
    result = np.zeros(32, np.float32)
    build_kernel(func)(values, result)
    np.testing.assert_array_equal(result[8:24], values[8:24] + values[::2])


def test_arguments_are_checked() -> None:
    func = elementwise_function(lambda x: x, ["float32"], "float32", 8)
    kernel = build_kernel(func)
    good = np.zeros(8, np.float32)
    for bad, message in (
        ((good,), "takes 2 arguments, got 1"),
        ((good.astype(np.int32), good), "argument `a0`: expected float32, got int32"),
        ((good[:4], good), "argument `a0`: dimension 0 is 4, expected 8"),
        ((np.zeros(16, np.float32)[::2], good), "argument `a0`: must be contiguous"),
    ):
        with pytest.raises(UserError, match=message):
            kernel(*bad)


def tile(rows: int, columns: int, depth: int) -> object:
    """A register tile of a product of packed panels."""
    a = decl_buffer((depth, rows), "float32", "a")
    b = decl_buffer((depth, columns), "float32", "b")
    c = decl_buffer((rows, columns), "float32", "c")
    acc = decl_buffer((rows, columns), "float32", "acc", scope="local")
    k, i, j = Var("k"), [Var("i") for _ in range(3)], [Var("j") for _ in range(3)]

    def nest(place: int, value: object, target: Buffer) -> object:
        body = store(target, value, (i[place], j[place]))
        return loop(i[place], rows, loop(j[place], columns, body, VECTOR))

    step = load(acc, (i[1], j[1])) + load(a, (k, i[1])) * load(b, (k, j[1]))
    body = seq(
        nest(0, 0.0, acc), loop(k, depth, nest(1, step, acc)), nest(2, load(acc, (i[2], j[2])), c)
    )
    inner = make_block("tile", [], body, reads=[], writes=[], alloc_buffers=[acc])
    return prim_func([a, b, c], inner, name="tile")


@pytest.mark.parametrize(
    "cpu, rows, columns", [("znver5", 14, 32), ("znver5", 6, 64), ("haswell", 6, 16)]
)
def test_register_tiles_stay_in_registers(cpu: str, rows: int, columns: int) -> None:
    """Accumulators are never spilled: the inner loop has one FMA per accumulator and no store."""
    target = parse(f"-mcpu={cpu}")
    text = asm(tile(rows, columns, 64), target)
    accumulators = rows * columns * 32 // target.vector_bits
    assert text.count("vfmadd") == accumulators
    assert not [line for line in text.splitlines() if "vmov" in line and "rsp" in line]


@pytest.mark.parametrize("cpu", CPUS)
def test_register_tile_values(cpu: str, rng: np.random.Generator) -> None:
    a = rng.normal(size=(33, 6)).astype(np.float32)
    b = rng.normal(size=(33, 24)).astype(np.float32)
    c = np.zeros((6, 24), np.float32)
    build_kernel(tile(6, 24, 33), parse(cpu))(a, b, c)
    np.testing.assert_allclose(c, a.T @ b, rtol=1e-5, atol=1e-5)


def test_tensor_expression_with_init(rng: np.random.Generator) -> None:
    n = Var("n")
    a = te.placeholder((n, 19), "float32", name="a")
    k = te.reduce_axis(19, name="k")
    out = te.compute((n,), lambda i: te.max(a[i, k], axis=[k]), name="out")
    func = te.create_prim_func([a, out], name="row_max")
    values = rng.normal(size=(6, 19)).astype(np.float32)
    result = np.zeros(6, np.float32)
    build_kernel(func)(values, result)
    np.testing.assert_array_equal(result, values.max(1))


def test_a_prepared_call_keeps_its_arguments() -> None:
    func = elementwise_function(lambda a: a + 1, ["float32"], "float32", 8)
    given, out = np.arange(8, dtype=np.float32), np.zeros(8, np.float32)
    kept = weakref.ref(given)
    run = build_kernel(func).prepare(given, out)
    del given
    assert kept() is not None
    run()
    np.testing.assert_array_equal(out, np.arange(1, 9))
    del run
    assert kept() is None
