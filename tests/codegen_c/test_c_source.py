# SPDX-License-Identifier: Apache-2.0
"""Generated C: it compiles without a warning and computes what the LLVM code computes."""

from __future__ import annotations

import ctypes
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

import heddle
from heddle import op, te
from heddle.codegen.c import c_source
from heddle.driver.function import BuiltFunction, c_signature
from heddle.graph import Var
from heddle.ir import DType, TensorType, TupleType
from heddle.runtime.toolchain import CRT, find_toolchain
from heddle.schedule.rules import default_schedule
from heddle.script import parse
from heddle.target import native
from heddle.tir import PrimFunc

STRICT = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]
TOLERANCE = {"bfloat16": 2e-2, "float16": 2e-3, "float32": 2e-5, "float64": 1e-12}


def compiled(functions: dict[str, PrimFunc], folder: Path, *flags: str) -> dict[str, BuiltFunction]:
    """The functions, through a compiler that takes warnings for errors."""
    made = c_source(functions)
    (folder / made.header_name).write_text(made.header)
    (folder / "functions.c").write_text(made.source)
    library = folder / "functions.so"
    arguments = [*STRICT, *flags, "-fPIC", "-shared", folder / "functions.c", "-o", library, "-lm"]
    find_toolchain().run(arguments, doing="compiling generated C")
    loaded = ctypes.CDLL(str(library))
    callables = {}
    for symbol, func in functions.items():
        function = getattr(loaded, symbol)
        function.argtypes, function.restype = c_signature(func), ctypes.c_int32
        callables[symbol] = BuiltFunction(func, symbol, function, lambda: "")
    return callables


def kernels(names: list[str]) -> dict[str, tuple[PrimFunc, list, list, tuple]]:
    """Function, inputs, result types and expected results of the samples of operators."""
    made = {}
    for name in names:
        found = op.get(name)
        for index, sample in enumerate(found.sample_cases):
            arrays = sample.draw(zlib.crc32(f"{name} {index}".encode()))
            variables = [
                None if a is None else Var(f"x{i}", TensorType.of(a.shape, DType.of(a.dtype)))
                for i, a in enumerate(arrays)
            ]
            call = found(*variables, **sample.attrs)
            present = [a for a in arrays if a is not None]
            expected = found.evaluate(present, call.attrs)
            fields = call.type.fields if isinstance(call.type, TupleType) else (call.type,)
            inputs = [te.placeholder(a.type.shape, a.type.dtype, name=a.name) for a in call.args]
            outputs = found.compute(inputs, call.attrs)
            func = te.create_prim_func([*inputs, *outputs], name=f"op_{name}_{index}")
            results = [np.empty(t.static_shape, t.dtype.numpy) for t in fields]
            wanted = expected if isinstance(expected, tuple) else (expected,)
            made[f"op_{name}_{index}"] = (func, present, results, wanted)
    return made


@pytest.mark.parametrize("scheduled", [False, True])
def test_every_operator(scheduled: bool, tmp_path: Path) -> None:
    cases = kernels(sorted(op.all_ops()))
    functions = {symbol: case[0] for symbol, case in cases.items()}
    if scheduled:
        functions = {s: default_schedule(f, native()).func for s, f in functions.items()}
    for symbol, function in compiled(functions, tmp_path, "-O1").items():
        _, present, results, expected = cases[symbol]
        function(*present, *results)
        for got, want in zip(results, expected, strict=True):
            if want.dtype.kind in "iub":
                np.testing.assert_array_equal(got, want, err_msg=symbol)
            else:
                near = TOLERANCE[want.dtype.name]
                got, want = got.astype(np.float64), want.astype(np.float64)
                np.testing.assert_allclose(got, want, rtol=near, atol=near, err_msg=symbol)


@heddle.hybrid
def rows(a, b):
    n = var("n")
    A = bind_buffer(a, shape=[n, 4])
    B = bind_buffer(b, shape=[n])
    assert n > 1, 'two "rows"?'
    for i in iter_range(n, iter_type="parallel"):
        B[i] = 0.0
        for k in iter_range(4, iter_type="reduce"):
            B[i] += A[i, k] * A[i, k]


def test_source_reads_like_the_script() -> None:
    made = c_source({"rows": rows}, name="rows")
    body = made.source[made.source.index("static int32_t rows_loop0") :]
    assert (
        body
        == """\
static int32_t rows_loop0(int64_t begin, int64_t end, void *env) {
  const struct rows_loop0_env *const outer = env;
  float *restrict B = outer->B;
  const float *restrict A = outer->A;
  for (int64_t i = begin; i < end; ++i) {
    B[i] = 0.0f;
    for (int64_t k = 0; k < 4; ++k) {
      B[i] = B[i] + A[i * 4 + k] * A[i * 4 + k];
    }
  }
  return 0;
}

int32_t rows(const float *restrict A, float *restrict B, int64_t n) {
  if (!(n > 1)) {
    heddle_fail("two \\042rows\\042\\077");
    return 1;
  }
  {
    struct rows_loop0_env env = {B, A};
    const int32_t status = HEDDLE_PARALLEL(rows_loop0, &env, n);
    if (status != 0) {
      return status;
    }
  }
  return 0;
}
"""
    )
    assert "/* A: float32[n, 4], B: float32[n] */" in made.header
    assert "int32_t rows(const float *restrict A, float *restrict B, int64_t n);" in made.header


def test_a_c_program_needs_nothing_else(tmp_path: Path) -> None:
    made = c_source({"rows": rows}, name="rows")
    (tmp_path / "rows.h").write_text(made.header)
    (tmp_path / "rows.c").write_text(made.source)
    (tmp_path / "main.c").write_text("""
#include <stdio.h>
#include "rows.h"
int main(void) {
  const float a[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  float b[2];
  if (rows(a, b, 2) != 0) return 1;
  printf("%g %g ", b[0], b[1]);
  printf("%d ", (int)rows(a, b, 1));
  printf("%s\\n", rows_last_error());
  return 0;
}
""")
    program = tmp_path / "program"
    sources = [tmp_path / "main.c", tmp_path / "rows.c"]
    find_toolchain().run([*STRICT, *sources, "-o", program, "-lm"], doing="compiling")
    out = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert out == '30 174 1 two "rows"?\n'


def test_with_the_runtime_it_compiles_too(tmp_path: Path) -> None:
    made = c_source({"rows": rows})
    (tmp_path / made.header_name).write_text(made.header)
    (tmp_path / "rows.c").write_text(made.source)
    flags = [*STRICT, "-DHEDDLE_RUNTIME", f"-I{CRT}", "-c"]
    find_toolchain().run(
        [*flags, tmp_path / "rows.c", "-o", tmp_path / "rows.o"], doing="compiling"
    )


WRAPPING = """
@T.prim_func
def f(A: T.Buffer((4,), "int32"), B: T.Buffer((4,), "int8"), F: T.Buffer((4,), "float32"),
      C: T.Buffer((4,), "int32"), D: T.Buffer((4,), "int8"), E: T.Buffer((4,), "int8"),
      double: T.Buffer((4,), "int32")):
    for i in range(4):
        C[i] = A[i] * A[i] + A[i]
        D[i] = B[i] + B[i]
        E[i] = T.cast(F[i], "int8")
        double[i] = A[i] // T.int32(-3) + A[i] % T.int32(7) + T.truncdiv(A[i], T.int32(2))
"""


def test_integers_wrap_and_conversions_saturate() -> None:
    """And a buffer may be called `double`."""
    a = np.array([2**31 - 1, -(2**31), 46341, -7], np.int32)
    b = np.array([100, -128, 127, 3], np.int8)
    f = np.array([1e9, -300.0, np.nan, -1.7], np.float32)
    func = parse(WRAPPING)
    runs = []
    for target in ("native", "c"):
        out = [np.zeros(4, t) for t in (np.int32, np.int8, np.int8, np.int32)]
        heddle.build(func, target)(a, b, f, *out)
        runs.append(out)
    np.testing.assert_array_equal(runs[0], runs[1])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(runs[1][0], a * a + a)
        np.testing.assert_array_equal(runs[1][1], b + b)
    np.testing.assert_array_equal(runs[1][2], [127, -128, 0, -1])


def test_shared_parts_are_computed_once_and_guards_hold() -> None:
    text = """
@T.prim_func
def f(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
    for i in range(8):
        B[i] = T.let(x, T.exp(A[i]), x * x + (x * A[i + 1] if i < 7 else x))
"""
    source = c_source({"f": parse(text)}).source
    assert source.count("expf(") == 1
    assert "i < 7 ? t * A[i + 1] : t" in source
