# SPDX-License-Identifier: Apache-2.0
"""Tensor intrinsics of x86-64 processors, and packing steps that any target can do.

| name | does | needs |
|---|---|---|
| `x86.vpdpbusd.512` | 16 x 4: uint8 x int8, added to int32 | avx512vnni |
| `x86.vpdpbusd.256` | 8 x 4: uint8 x int8, added to int32 | avx512vnni and avx512vl |
| `x86.avxvnni.256` | 8 x 4: uint8 x int8, added to int32 | avxvnni |
| `x86.pmaddwd.u8s8` | 8 x 2: uint8 x int8, added to int32, exact | avx2 |
| `x86.pmaddwd.quads.u8s8` | 8 x 4: uint8 x int8, added to int32, exact | avx2 |
| `x86.pmaddwd.s8s8` | 8 x 2: int8 x int8, added to int32, exact | avx2 |
| `x86.dpbf16ps.512` | 16 x 2: bfloat16 x bfloat16, added to float32 | avx512bf16 |
| `pack4.int8`, `pack4.uint8` | 16 x 4: four rows of bytes become groups of four | nothing |
| `pack2.int8`, `pack2.uint8` | 8 x 2: two rows of bytes become pairs | nothing |
| `pack2.bfloat16` | 16 x 2: two rows of bfloat16 become pairs | nothing |

All of the products compute, over `lanes x depth`,

    C[i] = C[i] + A[k] * B[i * depth + k]

`dpbf16ps` adds the two products of a pair with one rounding each, to nearest, and takes subnormal
operands and results for zero.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from heddle.ir.dtype import DType
from heddle.ir.expr import Broadcast, Expr, Ramp, Var, const
from heddle.tir.build import decl_buffer, for_nest, load, seq, store
from heddle.tir.intrin import (
    bitwise_and,
    bitwise_or,
    call_llvm_intrin,
    llvm_reference,
    reinterpret,
    shift_left,
    shift_right,
)
from heddle.tir.nodes import Buffer, PrimFunc
from heddle.tir.tensor_intrin import dot_description, register

Combine = Callable[[Expr, Expr, Expr], Expr]


def ramp(base: int, lanes: int) -> Expr:
    """Consecutive indices."""
    return Ramp(const(base), const(1), lanes)


def broadcast_bits(value: Expr, lanes: int, dtype: str) -> Expr:
    """The 32 bits of `value` (all its lanes) in each of `lanes` words, read as `dtype`."""
    word = reinterpret(value, "int32")
    return reinterpret(Broadcast(word, lanes), dtype)


def dot_parameters(lanes: int, depth: int, a: str, b: str, c: str) -> tuple[Buffer, Buffer, Buffer]:
    """The buffers of `dot_description`."""
    return (
        decl_buffer((depth,), a, "A"),
        decl_buffer((lanes * depth,), b, "B"),
        decl_buffer((lanes,), c, "C"),
    )


def declare_dot(
    name: str,
    lanes: int,
    depth: int,
    dtypes: tuple[str, str, str],
    features: set[str],
    combine: Combine,
) -> None:
    """Register a dot product: `combine(accumulators, A as a vector, B as a vector)`."""
    left, right, out = dot_parameters(lanes, depth, *dtypes)
    old = load(out, ramp(0, lanes))
    a = load(left, ramp(0, depth))
    b = load(right, ramp(0, lanes * depth))
    body = store(out, combine(old, a, b), ramp(0, lanes))
    implementation = PrimFunc((left, right, out), body, {"name": name})
    register(name, dot_description(lanes, depth, *dtypes), implementation, features=features)


def _groups(acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What the dot instructions do: products of neighbours are added to one lane."""
    depth = len(a) // len(acc)
    products = a.astype(np.int64) * b.astype(np.int64)
    total: np.ndarray = (acc + products.reshape(-1, depth).sum(axis=1)).astype(np.int32)
    return total


def _vpdpbusd(acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _groups(acc, a.view(np.uint8), b.view(np.int8))


def _dpbf16(acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    products = a.astype(np.float32) * b.astype(np.float32)
    pairs = products.reshape(-1, 2)
    total: np.ndarray = (acc + pairs[:, 1]) + pairs[:, 0]
    return total


def _declare_bytes(name: str, llvm: str, lanes: int, features: set[str]) -> None:
    llvm_reference(llvm)(_vpdpbusd)

    def combine(old: Expr, a: Expr, b: Expr) -> Expr:
        spread = broadcast_bits(a, lanes, f"uint8x{lanes * 4}")
        return call_llvm_intrin(llvm, old, spread, b, dtype=f"int32x{lanes}")

    declare_dot(name, lanes, 4, ("uint8", "int8", "int32"), features, combine)


_declare_bytes("x86.vpdpbusd.512", "llvm.x86.avx512.vpdpbusd.512", 16, {"avx512vnni"})
_declare_bytes("x86.vpdpbusd.256", "llvm.x86.avx512.vpdpbusd.256", 8, {"avx512vnni", "avx512vl"})
_declare_bytes("x86.avxvnni.256", "llvm.x86.avx512.vpdpbusd.256", 8, {"avxvnni"})

# -- AVX2: bytes widened to 16 bits, where a product of a pair and its sum are exact -------------

_PMADDWD = "llvm.x86.avx2.pmadd.wd"


@llvm_reference(_PMADDWD)
def _pmaddwd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _groups(np.zeros(len(a) // 2, np.int32), a, b)


def _pmaddwd_step(old: Expr, a: Expr, b: Expr) -> Expr:
    spread = broadcast_bits(a.astype("int16x2"), 8, "int16x16")
    return old + call_llvm_intrin(_PMADDWD, spread, b.astype("int16x16"), dtype="int32x8")


declare_dot("x86.pmaddwd.u8s8", 8, 2, ("uint8", "int8", "int32"), {"avx2"}, _pmaddwd_step)
declare_dot("x86.pmaddwd.s8s8", 8, 2, ("int8", "int8", "int32"), {"avx2"}, _pmaddwd_step)


def _pmaddwd_quads(old: Expr, a: Expr, b: Expr) -> Expr:
    """Bytes 0 and 2 of each word as one pair of 16-bit numbers, bytes 1 and 3 as another."""
    x, w = broadcast_bits(a, 8, "uint16x16"), reinterpret(b, "int16x16")
    eight = Broadcast(const(8, "int16"), 16)
    low = bitwise_and(x, Broadcast(const(255, "uint16"), 16))
    high = shift_right(x, Broadcast(const(8, "uint16"), 16))
    pairs = ((low, shift_right(shift_left(w, eight), eight)), (high, shift_right(w, eight)))
    for left, right in pairs:
        words = reinterpret(left, "int16x16")
        old = old + call_llvm_intrin(_PMADDWD, words, right, dtype="int32x8")
    return old


declare_dot("x86.pmaddwd.quads.u8s8", 8, 4, ("uint8", "int8", "int32"), {"avx2"}, _pmaddwd_quads)

# -- AVX-512 BF16 --------------------------------------------------------------------------------

_DPBF16 = "llvm.x86.avx512bf16.dpbf16ps.512"
llvm_reference(_DPBF16)(_dpbf16)


def _dpbf16_step(old: Expr, a: Expr, b: Expr) -> Expr:
    spread = broadcast_bits(a, 16, "bfloat16x32")
    return call_llvm_intrin(_DPBF16, old, spread, b, dtype="float32x16")


declare_dot(
    "x86.dpbf16ps.512", 16, 2, ("bfloat16", "bfloat16", "float32"), {"avx512bf16"}, _dpbf16_step
)

# -- packing: rows side by side, so that what a dot adds up lies together ------------------------


def declare_pack(name: str, lanes: int, depth: int, dtype: str) -> None:
    """Register `P[i * depth + k] = B[k, i]`, rows of B being any distance apart."""
    bits = DType.of(dtype).bits
    word = f"uint{bits * depth}"

    def parameters() -> tuple[Buffer, Buffer, Var]:
        pitch = Var("pitch")
        rows = decl_buffer((depth, lanes), dtype, "B", strides=(pitch, 1))
        return rows, decl_buffer((lanes * depth,), dtype, "P"), pitch

    rows, packed, _ = parameters()
    i, k = Var("i"), Var("k")
    body = store(packed, load(rows, (k, i)), i * depth + k)
    description = PrimFunc(
        (rows, packed), for_nest([(k, depth), (i, lanes)], body), {"name": "description"}
    )
    rows, packed, _ = parameters()
    total: Expr | None = None
    for row in range(depth):
        value = load(rows, (const(row), ramp(0, lanes)))
        wide = reinterpret(value, f"uint{bits}x{lanes}").astype(f"{word}x{lanes}")
        if row:
            wide = shift_left(wide, Broadcast(const(bits * row, word), lanes))
        total = wide if total is None else bitwise_or(total, wide)
    assert total is not None
    made = store(packed, reinterpret(total, f"{dtype}x{lanes * depth}"), ramp(0, lanes * depth))
    register(name, description, PrimFunc((rows, packed), seq(made), {"name": name}))


for _dtype in ("int8", "uint8"):
    declare_pack(f"pack4.{_dtype}", 16, 4, _dtype)
    declare_pack(f"pack2.{_dtype}", 8, 2, _dtype)
declare_pack("pack2.bfloat16", 16, 2, "bfloat16")
