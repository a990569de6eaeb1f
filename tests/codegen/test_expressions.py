# SPDX-License-Identifier: Apache-2.0
"""Values of every expression node and dtype, as scalars and as vectors, against numpy."""

from __future__ import annotations

import math
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from heddle.codegen import llvm_ir
from heddle.ir import expr as ir
from heddle.ir.dtype import DType
from heddle.ir.expr import Expr, Var, cast, floordiv, floormod, truncdiv, truncmod
from heddle.target import native, parse
from heddle.tir import ForKind, intrin
from tests.codegen.kernels import elementwise_function, run_elementwise

SIZE = 77  # vectors of every length down to one
INTS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float64", "float32", "float16", "bfloat16"]
KINDS = [ForKind.VECTORIZED, ForKind.SERIAL]
BF16 = ml_dtypes.bfloat16


def sample(dtype: str, rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """Random values: the whole range of integers, ordinary floats."""
    kind = DType.of(dtype)
    if kind.is_bool:
        return rng.integers(0, 2, size).astype(bool)
    if kind.is_int:
        info = np.iinfo(dtype)
        values = rng.integers(info.min, info.max, size, dtype=dtype, endpoint=True)
        values[:4] = [info.min, info.max, 0, 1]
        return values
    return rng.normal(0, 8, size).astype(kind.numpy)


ARITHMETIC: dict[str, tuple[Callable[..., Expr], Callable[..., np.ndarray]]] = {
    "add": (lambda a, b: a + b, np.add),
    "sub": (lambda a, b: a - b, np.subtract),
    "mul": (lambda a, b: a * b, np.multiply),
    "min": (ir.minimum, np.minimum),
    "max": (ir.maximum, np.maximum),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", INTS + FLOATS)
@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic(name: str, dtype: str, kind: ForKind, rng: np.random.Generator) -> None:
    make, reference = ARITHMETIC[name]
    a, b = sample(dtype, rng), sample(dtype, rng)
    got = run_elementwise(make, [a, b], dtype, kind=kind)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got, reference(a, b).astype(a.dtype))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_division(dtype: str, kind: ForKind, rng: np.random.Generator) -> None:
    a, b = sample(dtype, rng), sample(dtype, rng)
    b[b == 0] = 1
    got = run_elementwise(lambda x, y: x / y, [a, b], dtype, kind=kind)
    np.testing.assert_array_equal(got, (a / b).astype(a.dtype))


def _c_division(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    exact = [
        (abs(int(x)) // abs(int(y))) * (1 if (x < 0) == (y < 0) else -1)
        for x, y in zip(a.tolist(), b.tolist(), strict=True)
    ]
    bits = a.dtype.itemsize * 8
    return np.array([value & ((1 << bits) - 1) for value in exact], f"uint{bits}").view(a.dtype)


DIVISIONS: dict[str, tuple[Callable[..., Expr], Callable[..., np.ndarray]]] = {
    "floordiv": (floordiv, np.floor_divide),
    "floormod": (floormod, np.remainder),
    "truncdiv": (truncdiv, _c_division),
    "truncmod": (truncmod, np.fmod),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", INTS)
@pytest.mark.parametrize("name", DIVISIONS)
def test_integer_division(name: str, dtype: str, kind: ForKind, rng: np.random.Generator) -> None:
    """By variables, with the lowest value over -1 among them, which x86 traps on."""
    make, reference = DIVISIONS[name]
    a, b = sample(dtype, rng), (sample(dtype, rng) % 11).astype(dtype)
    if np.iinfo(dtype).min < 0:
        b = (b - 5).astype(dtype)
        a[7], b[7] = np.iinfo(dtype).min, -1
    b[b == 0] = 3
    got = run_elementwise(make, [a, b], dtype, kind=kind)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got, reference(a, b))


@pytest.mark.parametrize("divisor", [1, 3, 8, -3, 7])
@pytest.mark.parametrize("name", DIVISIONS)
def test_division_by_a_constant(name: str, divisor: int, rng: np.random.Generator) -> None:
    make, reference = DIVISIONS[name]
    for dtype in ("int32", "int64"):
        a = sample(dtype, rng)
        got = run_elementwise(lambda x: make(x, divisor), [a], dtype)
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(got, reference(a, np.full_like(a, divisor)))


COMPARISONS: dict[str, tuple[type[ir.CompareExpr], Callable[..., np.ndarray]]] = {
    "EQ": (ir.EQ, np.equal),
    "NE": (ir.NE, np.not_equal),
    "LT": (ir.LT, np.less),
    "LE": (ir.LE, np.less_equal),
    "GT": (ir.GT, np.greater),
    "GE": (ir.GE, np.greater_equal),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64", *FLOATS, "bool"])
def test_comparisons(dtype: str, kind: ForKind, rng: np.random.Generator) -> None:
    a, b = sample(dtype, rng), sample(dtype, rng)
    b[::3] = a[::3]
    if DType.of(dtype).is_float:
        a[5], b[9] = np.nan, np.nan
    for node, reference in COMPARISONS.values():
        got = run_elementwise(lambda x, y, n=node: ir.compare(n, x, y), [a, b], "bool", kind=kind)
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(got, reference(a, b))


@pytest.mark.parametrize("kind", KINDS)
def test_logic(kind: ForKind, rng: np.random.Generator) -> None:
    a, b = sample("bool", rng), sample("bool", rng)
    for make, wanted in (
        (lambda x, y: x & y, a & b),
        (lambda x, y: x | y, a | b),
        (lambda x, y: ~x | y, ~a | b),
    ):
        np.testing.assert_array_equal(run_elementwise(make, [a, b], "bool", kind=kind), wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int32", "bool"])
def test_choices(dtype: str, kind: ForKind, rng: np.random.Generator) -> None:
    c, a, b = sample("bool", rng), sample(dtype, rng), sample(dtype, rng)
    for choose in (ir.select, ir.if_then_else):
        got = run_elementwise(choose, [c, a, b], dtype, kind=kind)
        np.testing.assert_array_equal(got, np.where(c, a, b))


@pytest.mark.parametrize("cpu", ["native", "-mcpu=haswell", "-mcpu=x86-64"])
@pytest.mark.parametrize("source", [*INTS, *FLOATS, "bool"])
def test_casts(source: str, cpu: str, rng: np.random.Generator) -> None:
    """Integers wrap, floats saturate and NaN becomes 0, booleans are `!= 0`."""
    a = sample(source, rng)
    if DType.of(source).is_float:
        a = (a * 100).astype(a.dtype)
        with np.errstate(over="ignore"):
            large = np.array([np.inf, -np.inf, np.nan, -0.5, 3e38, -3e38], np.float32)
            a[:6] = large.astype(a.dtype)
    for wanted in [*INTS, "float32", "float64", "bool"]:
        got = run_elementwise(lambda x, w=wanted: cast(x, w), [a], wanted, target=parse(cpu))
        np.testing.assert_array_equal(got, _cast_reference(a, wanted), err_msg=wanted)


def _cast_reference(a: np.ndarray, wanted: str) -> np.ndarray:
    if not DType.of(a.dtype).is_float or not DType.of(wanted).is_int:
        with np.errstate(over="ignore", invalid="ignore"):
            return a.astype(wanted) if wanted != "bool" else a != 0
    info = np.iinfo(wanted)

    def one(value: float) -> int:
        if math.isnan(value):
            return 0
        if math.isinf(value):
            return int(info.max if value > 0 else info.min)
        return int(min(max(math.trunc(value), info.min), info.max))

    return np.array([one(float(value)) for value in a], wanted)


@pytest.mark.parametrize("cpu", ["native", "-mcpu=haswell"])
@pytest.mark.parametrize("wanted", [np.float16, BF16])
def test_rounding_to_16_bits(wanted: type, cpu: str, rng: np.random.Generator) -> None:
    """To the nearest, ties to even, over all bit patterns: subnormals, overflow, NaN."""
    bits = rng.integers(0, 1 << 32, 1 << 12, dtype=np.uint64).astype(np.uint32)
    bits[:2048] &= 0xFFFF8000  # many ties
    a = bits.view(np.float32)
    a[:4] = [65519.9, 65520.0, 1e-8, np.nan]
    name = DType.of(wanted).name
    got = run_elementwise(lambda x: cast(x, name), [a], name, target=parse(cpu))
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(got.astype(np.float32), a.astype(wanted).astype(np.float32))


def assert_same(got: np.ndarray, wanted: np.ndarray) -> None:
    """Equal values, NaN included (which numpy cannot tell of bfloat16)."""
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(got.astype(np.float64), wanted.astype(np.float64))


@pytest.mark.parametrize("dtype", FLOATS)
def test_extremes_keep_nan(dtype: str, rng: np.random.Generator) -> None:
    a, b = sample(dtype, rng), sample(dtype, rng)
    a[3], b[5], a[6], b[6] = np.nan, np.nan, np.nan, np.nan
    for make, reference in ((ir.minimum, np.minimum), (ir.maximum, np.maximum)):
        with np.errstate(invalid="ignore"):
            both, zero = reference(a, b), reference(a, np.zeros_like(a))
        assert_same(run_elementwise(make, [a, b], dtype), both)
        assert_same(run_elementwise(lambda x, m=make: m(x, 0.0), [a], dtype), zero)


INTRINSICS: dict[str, Callable[..., np.ndarray]] = {
    **{n: getattr(np, n) for n in ("floor", "ceil", "trunc", "sqrt", "fabs", "tan", "sinh")},
    **{n: getattr(np, n) for n in ("cosh", "exp", "log1p", "isnan", "isinf")},
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "round": np.rint,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "log2": np.log2,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "sin": np.sin,
    "cos": np.cos,
    "log": np.log,
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_float_intrinsics(dtype: str, rng: np.random.Generator) -> None:
    a = sample(dtype, rng)
    a[:8] = [0.5, -0.5, 1.5, 2.5, np.nan, np.inf, -np.inf, 0.25]
    tolerance = 1e-6 if dtype == "float32" else 1e-15
    for name, reference in INTRINSICS.items():
        result = "bool" if name.startswith("is") else dtype
        got = run_elementwise(getattr(intrin, name), [a], result)
        with np.errstate(all="ignore"):
            wanted = reference(a.astype(np.float64))
        np.testing.assert_allclose(got, wanted.astype(got.dtype), rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_intrinsics(dtype: str, rng: np.random.Generator) -> None:
    a = sample(dtype, rng)
    for name in ("exp", "tanh", "floor", "sqrt", "isnan"):
        result = "bool" if name == "isnan" else dtype
        got = run_elementwise(getattr(intrin, name), [a], result)
        with np.errstate(all="ignore"):
            wanted = INTRINSICS[name](a.astype(np.float32)).astype(DType.of(result).numpy)
        tolerance = 0.001 if dtype == "float16" else 0.008  # one unit in the last place
        np.testing.assert_allclose(
            got.astype(np.float32), wanted.astype(np.float32), rtol=tolerance, err_msg=name
        )


@pytest.mark.parametrize("dtype", INTS)
def test_bits(dtype: str, rng: np.random.Generator) -> None:
    a, b = sample(dtype, rng), sample(dtype, rng)
    shift = (sample(dtype, rng) % DType.of(dtype).bits).astype(dtype)
    for make, second, wanted in (
        (intrin.bitwise_and, b, a & b),
        (intrin.bitwise_or, b, a | b),
        (intrin.bitwise_xor, b, a ^ b),
        (intrin.shift_left, shift, a << shift),
        (intrin.shift_right, shift, a >> shift),
    ):
        np.testing.assert_array_equal(run_elementwise(make, [a, second], dtype), wanted)
    np.testing.assert_array_equal(run_elementwise(intrin.bitwise_not, [a], dtype), ~a)
    unsigned = a.view(f"uint{a.itemsize * 8}")
    wanted = [bin(int(value)).count("1") for value in unsigned]
    np.testing.assert_array_equal(run_elementwise(intrin.popcount, [a], dtype), wanted)


def test_two_operand_intrinsics(rng: np.random.Generator) -> None:
    a, b = sample("float32", rng), sample("float32", rng)
    for make, reference in (
        (intrin.pow, lambda x, y: np.power(np.abs(x), y)),
        (intrin.fmod, np.fmod),
        (intrin.atan2, np.arctan2),
    ):
        first = np.abs(a) if make is intrin.pow else a
        got = run_elementwise(make, [first, b], "float32")
        np.testing.assert_allclose(got, reference(first, b), rtol=1e-6)
    got = run_elementwise(lambda x, y: intrin.fma(x, y, x), [a, b], "float32")
    exact = a.astype(np.float64) * b + a
    np.testing.assert_array_equal(got, exact.astype(np.float32))


def test_reinterpret(rng: np.random.Generator) -> None:
    for source, wanted in (
        ("float32", "int32"),
        ("int64", "float64"),
        ("float16", "uint16"),
        ("uint16", "bfloat16"),
        ("int16", "float16"),
    ):
        a = sample(source, rng)
        if DType.of(source).is_int:
            a = (np.abs(a.astype(np.int64)) % 0x3C00).astype(source)  # no NaN, which may be quieted
        got = run_elementwise(lambda x, w=wanted: intrin.reinterpret(x, w), [a], wanted)
        np.testing.assert_array_equal(got, a.view(DType.of(wanted).numpy), err_msg=source)


def test_let(rng: np.random.Generator) -> None:
    a = sample("float32", rng)
    t = Var("t", DType.of("float32"))
    got = run_elementwise(lambda x: ir.Let(x * 2.0, t, t * t), [a], "float32")
    np.testing.assert_array_equal(got, (a * 2) * (a * 2))


def test_deep_expressions_need_no_deep_stack() -> None:
    def deep(x: Expr) -> Expr:
        for _ in range(20_000):
            x = ir.maximum(x, -x)
        return x

    func = elementwise_function(deep, ["float32"], "float32", SIZE)
    assert llvm_ir(func, native()).count("fcmp ogt") >= 20_000


def test_shared_subexpressions_are_written_once(rng: np.random.Generator) -> None:
    a = np.abs(sample("float32", rng)) / 1e6

    def doubled(x: Expr) -> Expr:
        for _ in range(40):
            x = x * 0.5 + x * 0.5
        return x

    np.testing.assert_allclose(run_elementwise(doubled, [a], "float32"), a, rtol=1e-6)
