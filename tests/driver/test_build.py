# SPDX-License-Identifier: Apache-2.0
"""`heddle.build`: functions on tensors of several libraries, modules of several functions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import heddle
from heddle import te, tir
from heddle.ir import first_mismatch
from heddle.ir.expr import Var
from heddle.script import parse, to_text

TARGETS = ["native", "c"]


@heddle.hybrid
def add_one(a, b):
    n = var("n")
    A = bind_buffer(a, shape=[n])
    B = bind_buffer(b, shape=[n])
    for i in iter_range(n, iter_type="parallel"):
        B[i] = A[i] + 1


@heddle.hybrid
def cubes(a, b):
    A = bind_buffer(a, shape=[8])
    B = bind_buffer(b, shape=[8])
    assert A[0] < 100, "too large"
    for i in iter_range(8, iter_type="data_par"):
        B[i] = call_extern("my_cube", A[i], dtype="float32")


SOURCE = """
#include <stdint.h>
float my_cube(float x) { return x * x * x; }
int32_t times_ten(const float *x, float *y) {
  for (int i = 0; i < 8; ++i) y[i] = 10 * x[i];
  return 0;
}
int32_t add_one(const float *, float *, int64_t);
int32_t through_a_loop(const float *x, float *y) { return add_one(x, y, 8); }
"""
GRAPHS = """
    ten = I.extern("times_ten")
    through = I.extern("through_a_loop")

    @G.function
    def main(x: G.Tensor((8,), "float32")) -> G.Tensor((8,), "float32"):
        a = G.call_dps(ten, (x,), out=G.Tensor((8,), "float32"))
        b = op.exp(a)
        c = G.call_dps(cubes, (b,), out=G.Tensor((8,), "float32"))
        d = G.call_dps(add_one, (c,), out=G.Tensor((8,), "float32"))
        e = G.call_dps(through, (d,), out=G.Tensor((8,), "float32"))
        return e

    @G.function
    def second(x: G.Tensor((m,), "float32")) -> G.Tensor((m,), "float32"):
        d = G.call_dps(add_one, (x,), out=G.Tensor((m,), "float32"))
        e = op.tanh(d)
        return e
"""


def module() -> heddle.IRModule:
    loops = "\n".join(to_text(func) for func in (add_one, cubes))
    indented = "\n".join(f"    {line}" for line in loops.splitlines())
    made = parse(f"@I.ir_module\nclass M:\n{indented}\n{GRAPHS}")
    assert isinstance(made, heddle.IRModule)
    return made


@pytest.mark.parametrize("target", TARGETS)
def test_graph_loop_and_c_functions_run_as_one(
    target: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    source = tmp_path / "helpers.c"
    source.write_text(SOURCE)
    built = heddle.build(module(), target, libs=[source])
    assert list(built) == ["add_one", "cubes", "main", "second"]
    x = rng.uniform(0, 0.1, 8).astype(np.float32)
    np.testing.assert_allclose(built.main(x).numpy(), np.exp(10 * x) ** 3 + 2, rtol=1e-5)
    for size in (5, 6):
        got = built["second"](x[:size].copy()).numpy()
        np.testing.assert_allclose(got, np.tanh(x[:size] + 1), rtol=1e-5)
    y = np.zeros_like(x)
    built.cubes(x, y)
    np.testing.assert_allclose(y, x**3, rtol=1e-6)
    for call in (lambda: built.cubes(x + 100, y), lambda: built.main(x + 1)):
        with pytest.raises(heddle.UserError, match="too large"):
            call()
    assert ("int32_t cubes(" in built.source) == (target == "c")


@pytest.mark.parametrize("target", TARGETS)
def test_tensors_of_other_libraries(target: str) -> None:
    torch = pytest.importorskip("torch")
    built = heddle.build(add_one, target)
    a = torch.arange(6, dtype=torch.float32)
    b = torch.zeros(6)
    built(a, b)
    assert torch.equal(b, a + 1)
    out = heddle.Tensor.empty((6,), "float32")
    built(B=out, A=a[:6])
    np.testing.assert_array_equal(out.numpy(), a.numpy() + 1)
    with pytest.raises(heddle.UserError, match="must be contiguous"):
        built(torch.zeros(6, 2)[:, 0], b)
    with pytest.raises(heddle.UserError, match="expected float32, got float64"):
        built(a.double(), b)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("target", TARGETS)
def test_sixteen_bits(target: str, dtype: str, rng: np.random.Generator) -> None:
    x = te.placeholder((7,), dtype, name="x")
    func = te.create_prim_func([x, te.compute((7,), lambda i: x[i] * x[i], name="y")])
    a = rng.standard_normal(7).astype(np.float16 if dtype == "float16" else ml_dtypes.bfloat16)
    y = np.empty_like(a)
    heddle.build(func, target)(a, y)
    wanted = (a.astype(np.float32) ** 2).astype(a.dtype)
    np.testing.assert_array_equal(y.view(np.uint16), wanted.view(np.uint16))


STRIDED = """
@T.prim_func
def f(A: T.Buffer((n, m), "float32", strides=(s, 1)), B: T.Buffer((n, n + m), "float32"),
      m_out: T.int64):
    for i, j in T.grid(n, m):
        B[i, j] = A[i, j] * T.cast(m_out, "float32")
"""


@pytest.mark.parametrize("target", TARGETS)
def test_strides_expressions_and_scalars(target: str, rng: np.random.Generator) -> None:
    built = heddle.build(parse(STRIDED), target)
    whole = rng.standard_normal((3, 9)).astype(np.float32)
    b = np.zeros((3, 8), np.float32)
    built(whole[:, :5], b, 2)
    np.testing.assert_array_equal(b[:, :5], whole[:, :5] * 2)
    with pytest.raises(heddle.UserError, match=r"dimension 1 is 7, expected n \+ m = 8"):
        built(whole[:, :5], b[:, :7].copy(), 2)
    with pytest.raises(heddle.UserError, match="stride 1 is 2, expected 1"):
        built(whole[:, ::2], b, 2)


def test_default_schedule(rng: np.random.Generator) -> None:
    n = Var("n")
    a, b = te.placeholder((n, 32), name="A"), te.placeholder((32, 48), name="B")
    k = te.reduce_axis(32, "k")
    c = te.compute((n, 48), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="C")
    func = te.create_prim_func([a, b, c], name="matmul")
    x, y = (rng.standard_normal(s).astype(np.float32) for s in ((21, 32), (32, 48)))
    for target in TARGETS:
        z = np.zeros((21, 48), np.float32)
        heddle.build(func, target, schedule=True)(x, y, z)
        np.testing.assert_allclose(z, x @ y, rtol=1e-4, atol=1e-4)


def test_private_functions_are_linked_but_not_shown() -> None:
    built = heddle.build(heddle.IRModule({"_hidden": add_one, "shown": add_one}), "c")
    assert list(built) == ["shown"]
    assert "int32_t _hidden(" in built.source


def test_calls_from_several_threads(rng: np.random.Generator) -> None:
    built = heddle.build(add_one)
    inputs = [rng.standard_normal(100 + i).astype(np.float32) for i in range(16)]

    def call(a: np.ndarray) -> np.ndarray:
        b = np.empty_like(a)
        built(a, b)
        return b

    with ThreadPoolExecutor(4) as pool:
        for a, b in zip(inputs, pool.map(call, inputs), strict=True):
            np.testing.assert_array_equal(b, a + 1)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["exp", "sin", "memcpy", "main", "double", "größe", "3d", "a.b"])
def test_functions_with_names_that_c_does_not_take(name, target):
    x = te.placeholder((5,), "float64", name="x")
    y = te.compute((5,), lambda i: tir.intrin.exp(x[i]) + tir.intrin.sin(x[i]), name="y")
    data, result = np.linspace(-1, 1, 5), np.empty(5)
    heddle.build(te.create_prim_func([x, y], name=name), target)(data, result)
    np.testing.assert_allclose(result, np.exp(data) + np.sin(data), rtol=1e-14)


@pytest.mark.parametrize("target", TARGETS)
def test_letters_of_other_languages(target: str) -> None:
    func = parse(
        """
@T.prim_func
def größe(Ä: T.Buffer((ñ,), "float32"), β: T.float32, 出: T.Buffer((ñ,), "float32")):
    for ï in T.parallel(ñ):
        with T.block("блок"):
            vï = T.axis.spatial(ñ, ï)
            出[vï] = Ä[vï] * β
"""
    )
    assert first_mismatch(func, parse(to_text(func))) is None
    data, result = np.arange(5, dtype=np.float32), np.empty(5, np.float32)
    heddle.build(func, target)(data, 2.0, result)
    np.testing.assert_array_equal(result, 2 * data)


def test_memory_that_elements_share_is_not_written() -> None:
    func = parse(
        """
@T.prim_func
def f(A: T.Buffer((n,), "float32", strides=(s,))):
    for i in T.serial(n):
        A[i] = 1.0
"""
    )
    torch = pytest.importorskip("torch")
    with pytest.raises(heddle.UserError, match="is written, and stride 0 is 0"):
        heddle.build(func)(torch.zeros(1).expand(4))
