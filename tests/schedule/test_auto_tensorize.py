# SPDX-License-Identifier: Apache-2.0
"""auto_tensorize: the mapping it finds, the steps it takes, and that values stay exact."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from heddle import te
from heddle.passes.tir.lower import lower
from heddle.schedule import Schedule, ScheduleError, Trace, replay
from heddle.schedule.auto_tensorize import auto_tensorize, find_mapping
from heddle.script import to_text
from heddle.target import parse as parse_target
from heddle.tir import tensor_intrin
from heddle.tir.interp import run
from heddle.tir.nodes import PrimFunc
from heddle.tir.verify import verify

SERVER = parse_target("llvm -mcpu=sapphirerapids").with_cores(2)
RESULT = {"int8": "int32", "uint8": "int32", "bfloat16": "float32", "float32": "float32"}


def product(m: int, n: int, k: int, a: str, b: str, *, transposed: bool = False) -> PrimFunc:
    """`C = A @ B`, or `A @ B.T`, in the wider dtype."""
    wide = RESULT[a]
    left = te.placeholder((m, k), dtype=a, name="A")
    right = te.placeholder((n, k) if transposed else (k, n), dtype=b, name="B")
    r = te.reduce_axis(k, "k")

    def step(i, j):
        weight = right[j, r] if transposed else right[r, j]
        return te.sum(left[i, r].astype(wide) * weight.astype(wide), axis=r)

    return te.create_prim_func([left, right, te.compute((m, n), step, name="C")], name="product")


def convolution(channels: int = 8, filters: int = 32) -> PrimFunc:
    """A 3x3 convolution, channels last, of bytes."""
    x = te.placeholder((6, 7, channels), dtype="uint8", name="X")
    w = te.placeholder((3, 3, channels, filters), dtype="int8", name="W")
    kh, kw, c = te.reduce_axis(3, "kh"), te.reduce_axis(3, "kw"), te.reduce_axis(channels, "c")

    def step(h, v, f):
        value = x[h + kh, v + kw, c].astype("int32") * w[kh, kw, c, f].astype("int32")
        return te.sum(value, axis=[kh, kw, c])

    return te.create_prim_func([x, w, te.compute((4, 5, filters), step, name="C")], name="conv")


def random(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "bfloat16":
        return rng.standard_normal(shape).astype(ml_dtypes.bfloat16)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)


def check(func: PrimFunc, sch: Schedule, *, lowered: bool = True) -> None:
    """`sch.func` computes what `func` does, and so does its lowered form."""
    verify(sch.func)
    buffers = func.params
    arrays = [
        random(buffer.static_shape, buffer.dtype.name, seed)
        for seed, buffer in enumerate(buffers[:-1])
    ]
    shape, dtype = buffers[-1].static_shape, buffers[-1].dtype.numpy
    want, got = np.full(shape, 99, dtype), np.full(shape, 77, dtype)
    run(func, *arrays, want)
    run(sch.func, *arrays, got)
    tolerance = 0 if dtype.kind == "i" else 1e-5  # another order of float32 sums
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    if lowered:
        got = np.full(shape, 77, dtype).ravel()
        run(lower(sch.func, SERVER), *(array.ravel() for array in arrays), got)
        np.testing.assert_allclose(got.reshape(shape), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "a, b, intrin",
    [
        ("uint8", "int8", "x86.vpdpbusd.512"),
        ("int8", "int8", "x86.vpdpbusd.512"),
        ("bfloat16", "bfloat16", "x86.dpbf16ps.512"),
        ("uint8", "int8", "x86.pmaddwd.u8s8"),
        ("int8", "int8", "x86.pmaddwd.s8s8"),
    ],
)
@pytest.mark.parametrize("size", [(7, 32, 8), (5, 19, 9)])
def test_products_with_a_target(a: str, b: str, intrin: str, size: tuple[int, int, int]) -> None:
    func = product(*size, a, b)
    sch = Schedule(func)
    block = auto_tensorize(sch, "C", intrin, target=SERVER)
    assert block.name == "C_o"
    check(func, sch)
    assert "llvm.x86" in to_text(lower(sch.func, SERVER))


def test_without_a_target_only_the_instruction_is_placed() -> None:
    func = product(6, 32, 8, "uint8", "int8")
    sch = Schedule(func)
    block = auto_tensorize(sch, "C", "x86.vpdpbusd.512")
    assert [loop.name for loop in sch.get_loops(block)] == ["i", "j_0", "k_0"]
    check(func, sch)


def test_transposed_weights_are_packed_too() -> None:
    func = product(6, 32, 8, "uint8", "int8", transposed=True)
    sch = Schedule(func)
    auto_tensorize(sch, "C", "x86.vpdpbusd.512", target=SERVER)
    assert "d0 // 16, d1 // 4, d0 % 16 * 4 + d1 % 4" in str(sch.trace)
    check(func, sch)


def test_a_convolution_maps_channels_and_filters() -> None:
    func = convolution()
    sch = Schedule(func)
    found = find_mapping(sch.block("C"), tensor_intrin.get("x86.vpdpbusd.512"))
    assert not isinstance(found, str)
    assert [(bound.var.name, size) for _, size, bound in found.axes] == [("vf", 16), ("vc", 4)]
    auto_tensorize(sch, "C", "x86.vpdpbusd.512", target=SERVER)
    check(func, sch)


def test_smmla_packs_all_three() -> None:
    func = product(4, 6, 16, "int8", "int8")
    sch = Schedule(func)
    auto_tensorize(sch, "C", "arm.smmla")
    check(func, sch, lowered=False)
    arm = parse_target("llvm -mtriple=aarch64-unknown-linux-gnu -mcpu=neoverse-n2 -mattr=+i8mm")
    assert "neon.smmla" in to_text(lower(sch.func, arm))


def test_the_trace_replays() -> None:
    func = product(5, 19, 9, "int8", "int8")
    sch = Schedule(func)
    auto_tensorize(sch, "C", "x86.vpdpbusd.512", target=SERVER)
    for step in ("pad_einsum", "shift_to_unsigned", "cache_read", "transform_layout", "tensorize"):
        assert f"sch.{step}(" in str(sch.trace)
    again = replay(Trace.from_json(sch.trace.to_json()), func)
    check(func, again)


@pytest.mark.parametrize(
    "func, intrin, message",
    [
        (product(4, 16, 4, "float32", "float32"), "x86.vpdpbusd.512", "`C` is float32"),
        (product(4, 16, 4, "uint8", "uint8"), "x86.vpdpbusd.512", "`B` is uint8"),
        (product(4, 1, 4, "uint8", "int8"), "no.such", "no tensor intrinsic `no.such`"),
    ],
)
def test_what_does_not_map_is_refused(func: PrimFunc, intrin: str, message: str) -> None:
    sch = Schedule(func)
    with pytest.raises(Exception, match=message):
        auto_tensorize(sch, "C", intrin, target=SERVER)
    assert sch.func is func
    assert len(sch.trace) == 0


def test_sums_without_products_are_refused() -> None:
    a = te.placeholder((4, 8), dtype="int8", name="A")
    r = te.reduce_axis(8, "k")
    c = te.compute((4,), lambda i: te.sum(a[i, r].astype("int32"), axis=r), name="C")
    sch = Schedule(te.create_prim_func([a, c], name="sums"))
    with pytest.raises(ScheduleError, match="only sums of products"):
        auto_tensorize(sch, "C", "x86.vpdpbusd.512")


def test_shift_to_unsigned_wants_bytes() -> None:
    sch = Schedule(product(4, 16, 4, "uint8", "int8"))
    with pytest.raises(ScheduleError, match="`A` is uint8; int8 and an integer sum wanted"):
        sch.shift_to_unsigned("C", 0)
