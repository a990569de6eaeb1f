# SPDX-License-Identifier: Apache-2.0
"""Graph functions, loop functions and C functions that call each other: compiled, as C source and
in the reference interpreter; numbers for scalar parameters on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import heddle
from heddle.codegen.build import llvm_ir
from heddle.graph.nodes import CallDPS, Scalar
from heddle.ir import DType, IRModule, first_mismatch
from heddle.op.interp import interpret
from heddle.script import parse, to_text
from heddle.support import UserError
from heddle.target import native
from heddle.tir.interp import run

TARGETS = ["native", "c"]
SOURCE = """
#include <stdint.h>
float cube(float x) { return x * x * x; }
int32_t scaled(const float *x, float *y, float s, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = s * x[i];
  return s == 0.0f;
}
int32_t add_two(const float *x, float *y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] + 2;
  return 0;
}
int32_t axpy(const float *, const float *, float *, float, int64_t, int64_t);
int32_t through_axpy(const float *x, float *y) { return axpy(x, x, y, 2.0f, 1, 8); }
"""
MODULE = """
@I.ir_module
class M:
    scaled = I.extern("scaled")
    through = I.extern("through_axpy")

    @T.prim_func
    def axpy(
        X: T.Buffer((n,), "float32"),
        alpha: T.float32,
        Y: T.Buffer((n,), "float32"),
        k: T.int64,
        Z: T.Buffer((n,), "float32"),
    ):
        for i in T.serial(n):
            with T.block("Z"):
                vi = T.axis.spatial(n, i)
                Z[vi] = alpha * X[vi] + Y[vi] * T.cast(k // 2, "float32")

    @T.prim_func
    def cubes(X: T.Buffer((n,), "float32"), Y: T.Buffer((n,), "float32")):
        T.evaluate(
            T.call_extern(
                "add_two",
                T.address_of(X[0], dtype="handle"),
                T.address_of(Y[0], dtype="handle"),
                n,
                dtype="int32",
            )
        )
        for i in T.vectorized(8):
            Y[i] = T.call_extern("cube", Y[i], dtype="float32")

    @G.function
    def main(
        x: G.Tensor((n,), "float32"), s: G.Tensor((), "float32"), q: G.Tensor((), "int64")
    ) -> G.Tensor((n,), "float32"):
        a = G.call_dps(axpy, (x, 0.5, x, n * 2 - 7), out=G.Tensor((n,), "float32"))
        b = G.call_dps(axpy, (a, s, x, q), out=G.Tensor((n,), "float32"))
        t: G.Tensor((), "float32") = op.sum(op.mul(b, 0.01))
        c = G.call_dps(axpy, (b, t, a, -3), out=G.Tensor((n,), "float32"))
        d = G.call_dps(scaled, (c, 0.25, n), out=G.Tensor((n,), "float32"))
        return d

    @G.function
    def second(x: G.Tensor((8,), "float32")) -> G.Tensor((8,), "float32"):
        a = G.call_dps(cubes, (op.tanh(x),), out=G.Tensor((8,), "float32"))
        b = G.call_dps(through, (a,), out=G.Tensor((8,), "float32"))
        return G.call_dps(axpy, (b, G.const(3.0, "float32"), x, 5), out=G.Tensor((8,), "float32"))
"""


def axpy(x, alpha, y, k):
    return (alpha * x + y * np.float32(k // 2)).astype(np.float32)


def expected(x: np.ndarray, s: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `main` and `second` compute, in numpy."""
    a = axpy(x, 0.5, x, 2 * x.size - 7)
    b = axpy(a, s, x, int(q))
    first = 0.25 * axpy(b, np.sum(b * np.float32(0.01)), a, -3)
    cubes = (np.tanh(x) + 2) ** 3
    return first, axpy(axpy(cubes, 2.0, cubes, 1), 3.0, x, 5)


def module(text: str = MODULE) -> IRModule:
    made = parse(text)
    assert isinstance(made, IRModule)
    return made


@pytest.fixture
def helpers(tmp_path: Path) -> Path:
    path = tmp_path / "helpers.c"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def inputs(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = rng.standard_normal(8).astype(np.float32)
    return x, np.array(1.5, np.float32), np.array(-5, np.int64)


def test_numbers_print_and_parse() -> None:
    made = module()
    text = to_text(made)
    assert "G.call_dps(axpy, (x, 0.5, x, n * 2 - 7)" in text
    assert first_mismatch(made, parse(text)) is None
    calls = [b.value for b in made["main"].bindings if isinstance(b.value, CallDPS)]  # type: ignore[attr-defined]
    assert [isinstance(arg, Scalar) for arg in calls[0].args] == [False, True, False, True]


@pytest.mark.parametrize("target", TARGETS)
def test_all_kinds_of_functions_run_as_one(target: str, helpers: Path, inputs) -> None:
    built = heddle.build(module(), target, libs=[helpers])
    first, second = expected(*inputs)
    np.testing.assert_allclose(built.main(*inputs).numpy(), first, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(built.second(inputs[0]).numpy(), second, rtol=1e-5, atol=1e-5)


def test_the_interpreter_takes_the_compiled_functions(helpers: Path, inputs) -> None:
    made = module()
    library = heddle.build(made, libs=[helpers]).library
    first, second = expected(*inputs)
    got = interpret(made, inputs, externs=library)
    np.testing.assert_allclose(got, first, rtol=1e-5, atol=1e-5)
    got = interpret(made, inputs[:1], function="second", externs=library)
    np.testing.assert_allclose(got, second, rtol=1e-5, atol=1e-5)


def test_the_interpreter_takes_python_functions(inputs) -> None:
    def scaled(x, y, s, n):
        y[:n] = s * x

    def add_two(x, y, n):
        y[:n] = x[:n] + 2

    def through_axpy(x, y):
        y[:] = axpy(x, 2.0, x, 1)

    functions = {
        "scaled": scaled, "add_two": add_two, "through_axpy": through_axpy,
        "cube": lambda x: x**3,
    }  # fmt: skip
    first, second = expected(*inputs)
    got = interpret(module(), inputs, externs=functions)
    np.testing.assert_allclose(got, first, rtol=1e-5, atol=1e-5)
    got = interpret(module(), inputs[:1], function="second", externs=functions)
    np.testing.assert_allclose(got, second, rtol=1e-5, atol=1e-5)


def test_c_functions_that_nothing_is_known_of(inputs) -> None:
    for externs in (None, {"cube": lambda x: x**3}):
        with pytest.raises(UserError, match="nothing says what the C function `scaled` computes"):
            interpret(module(), inputs, externs=externs)
    y = np.zeros(8, np.float32)
    with pytest.raises(UserError, match="nothing says what the C function `add_two` computes"):
        run(module()["cubes"], inputs[0], y)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="calls the C function `scaled`, which compile does not"):
        heddle.compile(module(), cache=False)


def test_a_status_other_than_zero_is_an_error(helpers: Path, inputs) -> None:
    made = module(MODULE.replace("(c, 0.25, n)", "(c, 0.0, n)"))
    built = heddle.build(made, libs=[helpers])
    with pytest.raises(UserError, match="`scaled` failed: it returned 1"):
        interpret(made, inputs, externs=built.library)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("(x, x, x, n)", r"`alpha` of `axpy` is a number of float32, got float32 \(n,\)"),
        ("(x, 0.5, x, 0.5)", r"`k` of `axpy` is a number of int64, got float32 \(\)"),
        ("(x, 0.5, x)", "`axpy` has 5 parameters, got 3 arguments and 1 outputs"),
        ("(1, 0.5, x, 1)", "`X` of `axpy` is no number"),
        ("(x, 0.5, x, x * 2)", "`x` is a tensor: combine it by operators"),
        ("(x, 0.5, x, m)", "`m` is not defined"),
    ],
)
def test_numbers_that_do_not_fit(given: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        heddle.build(module(MODULE.replace("(x, 0.5, x, n * 2 - 7)", given)))


SIZED = """
@I.ir_module
class M:
    @T.prim_func
    def f(n: T.int64, X: T.Buffer((n,), "float32"), Y: T.Buffer((n,), "float32", STRIDES)):
        for i in T.serial(n):
            Y[i] = X[i]

    @G.function
    def main(x: G.Tensor((m,), "float32"), k: G.Tensor((), "int64")):
        return G.call_dps(f, (SIZE, x), out=G.Tensor((m,), "float32"))
"""


@pytest.mark.parametrize(
    ("size", "strides", "message"),
    [
        ("m + 1", "", r"buffer `X` of `f` is float32 \(n,\), got float32 \(m,\)"),
        ("k", "", "`n` of `f` is in the shape of a buffer: it must be a number or an expression"),
        ("m", "strides=(2,)", r"`Y` of `f` is float32 \(n,\), strides \(2,\), got float32 \(m,\)"),
        ("m", "elem_offset=1", r"`Y` of `f` is float32 \(n,\), elem_offset 1, got float32 \(m,\)"),
    ],
)
def test_memory_that_the_graph_does_not_have(size: str, strides: str, message: str) -> None:
    """A loop function may not be made to read or write beyond the tensors of the graph."""
    text = SIZED.replace("SIZE", size).replace("STRIDES", strides)
    with pytest.raises(UserError, match=message):
        heddle.build(module(text))


def test_layouts_of_dense_tensors_are_known(rng: np.random.Generator) -> None:
    text = SIZED.replace("SIZE", "m").replace("STRIDES", "strides=(s,), elem_offset=o")
    x = rng.standard_normal(5).astype(np.float32)
    made = module(text)
    for run_it in (heddle.build(made).main, heddle.compile(made, cache=False)):
        np.testing.assert_array_equal(run_it(x, np.int64(0)).numpy(), x)


DTYPES = (
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool"
).split()
FILL = """
@I.ir_module
class M:
    @T.prim_func
    def fill(x: T.TYPE, A: T.Buffer((n,), "TYPE")):
        for i in T.serial(n):
            A[i] = x

    @G.function
    def main(s: G.Tensor((), "TYPE"), y: G.Tensor((n,), "TYPE")):
        a = G.call_dps(fill, (s,), out=G.Tensor((n,), "TYPE"))
        b = G.call_dps(fill, (T.TYPE(VALUE),), out=G.Tensor((n,), "TYPE"))
        c = G.call_dps(fill, (G.const(VALUE, "TYPE"),), out=G.Tensor((n,), "TYPE"))
        return (a, b, c)
"""


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_of_every_dtype(dtype: str) -> None:
    kind, value = DType.of(dtype), 1 if dtype == "bool" else 3
    made = module(
        FILL.replace("TYPE", dtype).replace("VALUE", str(bool(value)) if value == 1 else "3")
    )
    s, y = np.array(value).astype(kind.numpy), np.zeros(4, kind.numpy)
    for result in interpret(made, [s, y]):
        assert (result == s).all()
    for target in TARGETS:
        built = heddle.build(made, target)
        for result in built.main(s, y):
            assert (result.numpy() == s).all()
        built.fill(bool(value) if dtype == "bool" else value, y)
        assert (y == s).all()


@pytest.mark.parametrize("target", TARGETS)
def test_scalar_parameters_may_be_negative(target: str) -> None:
    """Sizes are never negative, and divided as such; scalar parameters are no sizes."""
    func = parse(
        """
@T.prim_func
def f(B: T.Buffer((4,), "int64"), m: T.int64, q: T.int8):
    B[0] = m // 3
    B[1] = m % 4
    B[2] = T.truncdiv(m, 2)
    B[3] = T.cast(q // T.int8(2), "int64")
"""
    )
    got = np.zeros(4, np.int64)
    heddle.build(func, target)(got, -5, -3)
    assert got.tolist() == [-2, 3, -2, -2]


def test_a_number_that_is_too_large() -> None:
    func = parse('@T.prim_func\ndef f(A: T.Buffer((1,), "float32"), x: T.float32):\n    A[0] = x\n')
    with pytest.raises(UserError, match="argument `x`: the integer is too large for a float"):
        heddle.build(func)(np.zeros(1, np.float32), 10**400)


NARROW = """
@T.prim_func
def f(A: T.Buffer((n,), "int8"), U: T.Buffer((n,), "uint16"), B: T.Buffer((n,), "int64")):
    for i in T.serial(n):
        B[i] = T.cast(
            T.call_extern("wide", A[i] - T.int8(100), U[i], A[i] < T.int8(0), dtype="int8"), "int64"
        )
"""


@pytest.mark.parametrize("target", TARGETS)
def test_narrow_integers_reach_c_functions_widened(target: str, tmp_path: Path, rng) -> None:
    """Clang takes for granted that its callers widen them; gcc does not."""
    source = tmp_path / "wide.c"
    source.write_text(
        "#include <stdbool.h>\n#include <stdint.h>\n"
        "int8_t wide(int8_t a, uint16_t b, bool c) { return (int8_t)(a + b + c); }\n"
    )
    func = parse(NARROW)
    a = rng.integers(-128, 128, 50).astype(np.int8)
    u = rng.integers(0, 1 << 16, 50).astype(np.uint16)
    got = np.zeros(50, np.int64)
    heddle.build(func, target, libs=[source])(a, u, got)
    sums = (a - np.int8(100)).astype(np.int64) + u + (a < 0)
    np.testing.assert_array_equal(got, sums.astype(np.int8))
    text = llvm_ir(func, native())  # type: ignore[arg-type]
    assert "declare signext i8 @wide(i8 signext, i16 zeroext, i1 zeroext)" in text
