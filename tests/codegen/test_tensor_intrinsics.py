# SPDX-License-Identifier: Apache-2.0
"""Tensor intrinsics as machine code: exact on this machine, and on ARM under an emulator."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from heddle import te
from heddle.codegen.build import asm, build_kernel, llvm_ir
from heddle.codegen.kernels import compile_text
from heddle.ir.expr import Var
from heddle.schedule import Schedule, auto_tensorize
from heddle.support import UserError
from heddle.target import native
from heddle.target import parse as parse_target
from heddle.tir import tensor_intrin
from heddle.tir.build import decl_buffer, for_nest, load, store
from heddle.tir.intrin import address_of, call_extern, call_llvm_intrin, reinterpret
from heddle.tir.nodes import Evaluate, PrimFunc
from tests.codegen.arm import run_on_arm

WIDE = {"int8": "int32", "uint8": "int32", "bfloat16": "float32", "float32": "float32"}
ARM = parse_target("llvm -mtriple=aarch64-unknown-linux-gnu -mcpu=neoverse-n2 -mattr=+i8mm")


def product(m: int | Var, n: int, k: int, a: str, b: str) -> PrimFunc:
    """`C = A @ B` in the wider dtype."""
    left = te.placeholder((m, k), dtype=a, name="A")
    right = te.placeholder((k, n), dtype=b, name="B")
    r = te.reduce_axis(k, "k")

    def step(i, j):
        return te.sum(left[i, r].astype(WIDE[a]) * right[r, j].astype(WIDE[a]), axis=r)

    return te.create_prim_func([left, right, te.compute((m, n), step, name="C")], name="product")


def random(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.standard_normal(shape).astype(np.float32)
    if dtype == "bfloat16":
        return rng.standard_normal(shape).astype(ml_dtypes.bfloat16)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)


def expected(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The exact product, rounded once."""
    return a.astype(np.float64) @ b.astype(np.float64)


def check(got: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    want = expected(a, b)
    if got.dtype.kind == "i":
        assert np.array_equal(got, want)
    else:
        # products of bfloat16 are exact in float32; the sums of k terms round k times
        scale = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))
        assert np.max(np.abs(got - want) / scale) < a.shape[1] * 2.0**-24


def _need(name: str) -> None:
    missing = tensor_intrin.get(name).features - native().features
    if missing:
        pytest.skip(f"this machine has no {', '.join(sorted(missing))}")


@pytest.mark.parametrize(
    "name, a, b, word",
    [
        ("x86.vpdpbusd.512", "uint8", "int8", "vpdpbusd"),
        ("x86.vpdpbusd.512", "int8", "int8", "vpdpbusd"),
        ("x86.vpdpbusd.256", "uint8", "int8", "vpdpbusd"),
        ("x86.avxvnni.256", "uint8", "int8", "vpdpbusd"),
        ("x86.pmaddwd.u8s8", "uint8", "int8", "vpmaddwd"),
        ("x86.pmaddwd.s8s8", "int8", "int8", "vpmaddwd"),
        ("x86.dpbf16ps.512", "bfloat16", "bfloat16", "vdpbf16ps"),
    ],
)
@pytest.mark.parametrize("size", [(13, 96, 64), (7, 35, 21)])
def test_products_on_this_machine(
    name: str, a: str, b: str, word: str, size: tuple[int, int, int]
) -> None:
    _need(name)
    m, n, k = size
    sch = Schedule(product(m, n, k, a, b))
    auto_tensorize(sch, "C", name, target=native())
    left, right = random((m, k), a), random((k, n), b, 1)
    out = np.full((m, n), 77, WIDE[a])
    build_kernel(sch.func)(left, right, out)
    check(out, left, right)
    assert word in asm(sch.func)


def test_extreme_bytes_do_not_saturate() -> None:
    for name, a, low in (("x86.vpdpbusd.512", "uint8", 255), ("x86.pmaddwd.u8s8", "uint8", 255)):
        _need(name)
        sch = Schedule(product(6, 16, 256, a, "int8"))
        auto_tensorize(sch, "C", name, target=native())
        left, right = np.full((6, 256), low, a), np.full((256, 16), -128, np.int8)
        out = np.zeros((6, 16), np.int32)
        build_kernel(sch.func)(left, right, out)
        assert np.array_equal(out, np.full((6, 16), -255 * 128 * 256))


@pytest.mark.parametrize("a", ["uint8", "int8"])
def test_symbolic_rows(a: str) -> None:
    _need("x86.vpdpbusd.512")
    sch = Schedule(product(Var("m"), 48, 32, a, "int8"))
    auto_tensorize(sch, "C", "x86.vpdpbusd.512", target=native())
    kernel = build_kernel(sch.func)
    for m in (1, 5, 12, 31):
        left, right = random((m, 32), a, m), random((32, 48), "int8", 1)
        out = np.full((m, 48), 77, np.int32)
        kernel(left, right, out)
        check(out, left, right)


def test_subnormals_are_taken_for_zero_by_dpbf16ps_only() -> None:
    _need("x86.dpbf16ps.512")
    sch = Schedule(product(1, 16, 2, "bfloat16", "bfloat16"))
    auto_tensorize(sch, "C", "x86.dpbf16ps.512", target=native())
    left = np.array([[1e-39, 2.0]], ml_dtypes.bfloat16)
    right = np.ones((2, 16), ml_dtypes.bfloat16)
    out = np.zeros((1, 16), np.float32)
    build_kernel(sch.func)(left, right, out)
    assert np.all(out == 2.0)


# -- calls that implementations are made of ------------------------------------------------------


def test_llvm_intrinsics_and_bits() -> None:
    x, y = decl_buffer((8,), "uint8", "X"), decl_buffer((2,), "int32", "Y")
    i = Var("i")
    word = reinterpret(load(y, i), "int32")
    swapped = call_llvm_intrin("llvm.bswap.i32", word, dtype="int32")
    func = PrimFunc((x, y), for_nest([(i, 2)], store(y, swapped, i)), {"name": "swap"})
    data = np.array([0x01020304, -2], np.int32)
    build_kernel(func)(np.zeros(8, np.uint8), data)
    assert data.tolist() == [0x04030201, np.array([-2], ">i4").view("<i4")[0]]


def test_an_implementation_in_c(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    source = tmp_path / "dot.c"
    source.write_text(
        "#include <stdint.h>\n"
        "int32_t test_dot4(int32_t *c, const int8_t *a, const int8_t *b) {\n"
        "  for (int i = 0; i < 4; ++i) for (int k = 0; k < 4; ++k) c[i] += a[k] * b[4 * i + k];\n"
        "  return 0;\n}\n"
    )
    library = tmp_path / "dot.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", source, "-o", library], check=True)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    description = tensor_intrin.dot_description(4, 4, "int8", "int8", "int32")
    a, b, c = (buffer.replace() for buffer in description.params)
    pointers = [address_of(load(buffer, 0)) for buffer in (c, a, b)]
    call = Evaluate(call_extern("test_dot4", *pointers, dtype="int32"))
    implementation = PrimFunc((a, b, c), call, {"name": "dot4"})
    tensor_intrin.register("test.dot4", description, implementation)
    sch = Schedule(product(5, 8, 12, "int8", "int8"))
    auto_tensorize(sch, "C", "test.dot4")
    left, right = random((5, 12), "int8"), random((12, 8), "int8", 1)
    out = np.full((5, 8), 77, np.int32)
    build_kernel(sch.func)(left, right, out)
    check(out, left, right)


def test_registering_checks_the_two_functions() -> None:
    description = tensor_intrin.dot_description(4, 4, "int8", "int8", "int32")
    other = tensor_intrin.dot_description(4, 4, "uint8", "int8", "int32")
    with pytest.raises(UserError, match=r"`A` is int8 in the description and uint8"):
        tensor_intrin.register("test.wrong", description, other)
    empty = PrimFunc(description.params, Evaluate(call_extern("f")), {"name": "empty"})
    with pytest.raises(UserError, match="the description must be loops"):
        tensor_intrin.register("test.wrong", empty, description)
    assert "test.wrong" not in tensor_intrin.names()


# -- ARM -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, a, b, word",
    [
        ("arm.sdot", "int8", "int8", "sdot"),
        ("arm.smmla", "int8", "int8", "smmla"),
        ("arm.fma", "float32", "float32", "fmla"),
    ],
)
@pytest.mark.parametrize("size", [(6, 16, 24), (5, 7, 9)])
def test_products_on_arm(
    name: str, a: str, b: str, word: str, size: tuple[int, int, int], tmp_path: Path
) -> None:
    m, n, k = size
    sch = Schedule(product(m, n, k, a, b))
    target = None if name == "arm.smmla" else ARM.with_cores(1)
    auto_tensorize(sch, "C", name, target=target)
    left, right = random((m, k), a), random((k, n), b, 1)
    func = sch.func.replace(attrs={**sch.func.attrs, "name": "kernel"})
    out, assembly = run_on_arm(func, [left, right], np.zeros((m, n), WIDE[a]), ARM, tmp_path)
    check(out, left, right)
    assert word in assembly


def test_arm_code_is_made_without_an_emulator() -> None:
    sch = Schedule(product(8, 16, 16, "int8", "int8"))
    auto_tensorize(sch, "C", "arm.sdot", target=ARM)
    assert "sdot" in compile_text("product", llvm_ir(sch.func, ARM), ARM, assembly=True).assembly
    plain = parse_target("llvm -mtriple=aarch64-unknown-linux-gnu -mcpu=cortex-a53")
    with pytest.raises(UserError, match=r"`arm\.sdot` needs dotprod"):
        llvm_ir(sch.func, plain)
