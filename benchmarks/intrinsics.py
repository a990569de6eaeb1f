# SPDX-License-Identifier: Apache-2.0
"""Products by tensor intrinsics, as a share of what the instruction can do on one core.

    python -m benchmarks.intrinsics [--size 1024] [--rounds 5]

The peak is a C loop of independent instructions on registers. Both run on one thread and are timed
by the time that the thread had a core, in turns; each row says how the result compares with numpy.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from heddle import te
from heddle.codegen.build import build_kernel
from heddle.runtime.toolchain import find_toolchain
from heddle.schedule import Schedule, auto_tensorize
from heddle.support import UserError
from heddle.target import native
from heddle.tir import tensor_intrin
from heddle.tir.nodes import PrimFunc

_LOOP = """
#include <immintrin.h>
#define REPEAT(X) \\
  X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) \\
  X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23)
#define DECLARE(n) VECTOR c##n = ZERO;
#define STEP(n) c##n = INSTRUCTION(c##n); __asm__ volatile("" : "+v"(c##n));
#define ADD(n) _mm512_storeu_si512(out + 64 * n, *(__m512i *)&c##n);
void peak(long count, char *out) {
  REPEAT(DECLARE)
  __m512i a = _mm512_set1_epi8(0x3f), b = _mm512_set1_epi8(0x3f);
  __asm__ volatile("" : "+v"(a), "+v"(b));
  for (long i = 0; i < count; ++i) { REPEAT(STEP) }
  REPEAT(ADD)
}
"""
_COPIES = 24


@dataclass(frozen=True, slots=True)
class Case:
    """An instruction: the dtypes of its product, and how C writes one step on c, a, b."""

    intrin: str
    a: str
    b: str
    c: str
    vector: str
    step: str
    operations: int

    @property
    def name(self) -> str:
        return f"{self.intrin} {self.a} x {self.b}"


_BYTES = "_mm512_dpbusd_epi32(c, a, b)"
_BF16 = "_mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b)"
CASES = (
    Case("x86.vpdpbusd.512", "uint8", "int8", "int32", "__m512i", _BYTES, 128),
    Case("x86.vpdpbusd.512", "int8", "int8", "int32", "__m512i", _BYTES, 128),
    Case("x86.dpbf16ps.512", "bfloat16", "bfloat16", "float32", "__m512", _BF16, 64),
)


def _peak(case: Case, folder: Path) -> Callable[[], float]:
    """A function that measures billions of operations a second of the instruction."""
    source = folder / f"{case.intrin}.{case.a}.c"
    source.write_text(_LOOP)
    library = source.with_suffix(".so")
    zero = "_mm512_setzero_ps()" if case.vector == "__m512" else "_mm512_setzero_si512()"
    defines = [f"-DVECTOR={case.vector}", f"-DZERO={zero}", f"-DINSTRUCTION(c)={case.step}"]
    flags = ["-O2", "-march=native", "-shared", "-fPIC", *defines]
    find_toolchain().run([*flags, source, "-o", library], doing="compiling the peak loop")
    function = ctypes.CDLL(str(library)).peak
    function.argtypes = [ctypes.c_long, ctypes.c_void_p]
    room = ctypes.create_string_buffer(64 * _COPIES)
    count = 1 << 20

    def measure() -> float:
        begin = time.thread_time_ns()
        function(count, room)
        return count * _COPIES * case.operations / (time.thread_time_ns() - begin)

    return measure


def _product(size: int, case: Case) -> PrimFunc:
    a = te.placeholder((size, size), dtype=case.a, name="A")
    b = te.placeholder((size, size), dtype=case.b, name="B")
    r = te.reduce_axis(size, "k")

    def step(i: object, j: object) -> object:
        return te.sum(a[i, r].astype(case.c) * b[r, j].astype(case.c), axis=r)

    c = te.compute((size, size), step, name="C")
    return te.create_prim_func([a, b, c], name="product")


def _operand(size: int, dtype: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "bfloat16":
        return rng.standard_normal((size, size)).astype(ml_dtypes.bfloat16)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, (size, size), endpoint=True).astype(dtype)


def _kernel(case: Case, size: int) -> tuple[Callable[[], float], float]:
    """A function that measures the product, and the largest relative error of its result."""
    sch = Schedule(_product(size, case))
    auto_tensorize(sch, "C", case.intrin, target=native().with_cores(1))
    a, b = _operand(size, case.a, 0), _operand(size, case.b, 1)
    out = np.zeros((size, size), case.c)
    call = build_kernel(sch.func).prepare(a, b, out)
    call()
    left, right = a.astype(np.float64), b.astype(np.float64)
    error = float(np.max(np.abs(out - left @ right) / (np.abs(left) @ np.abs(right))))

    def measure(*_kept: np.ndarray) -> float:
        begin = time.thread_time_ns()
        call()
        return 2.0 * size**3 / (time.thread_time_ns() - begin)

    return functools.partial(measure, a, b, out), error  # the call has only their addresses


def _best(measure: Callable[[], float], seconds: float) -> float:
    """The best rate within a turn: what else runs on the machine only ever takes away."""
    end = time.perf_counter() + seconds
    rates = [measure()]
    while time.perf_counter() < end:
        rates.append(measure())
    return max(rates)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a product is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.intrinsics")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    if os.environ.get("HEDDLE_NUM_THREADS") != "1":  # the pool is sized once: start anew
        given = sys.argv[1:] if arguments is None else list(arguments)
        command = [sys.executable, "-m", "benchmarks.intrinsics", *given]
        return subprocess.run(command, env=os.environ | {"HEDDLE_NUM_THREADS": "1"}).returncode
    size, wrong = options.size, False
    print(f"{size} x {size} x {size}, one core; packing of the right operand included")
    print(f"{'intrinsic':36s} {'Gop/s':>7s} {'peak':>7s} {'share':>7s}   error")
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            missing = tensor_intrin.get(case.intrin).features - native().features
            if missing:
                print(f"{case.name:36s} left out: this machine has no {', '.join(missing)}")
                continue
            try:
                peak = _peak(case, Path(folder))
            except UserError as error:
                parser.exit(1, f"error: {error}\n")
            product, error = _kernel(case, size)
            turns = [(_best(product, 0.1), _best(peak, 0.05)) for _ in range(options.rounds)]
            rate, top = (statistics.median(values) for values in zip(*turns, strict=True))
            share = statistics.median(mine / best for mine, best in turns)
            print(f"{case.name:36s} {rate:7.0f} {top:7.0f} {share:7.1%}   {error:.1e}")
            wrong |= error > (0 if case.c == "int32" else size * 2.0**-24)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
