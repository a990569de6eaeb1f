# SPDX-License-Identifier: Apache-2.0
"""Tensor intrinsics of 64-bit ARM processors.

| name | does | needs |
|---|---|---|
| `arm.sdot` | 4 x 4: int8 x int8, added to int32 | dotprod |
| `arm.udot` | 4 x 4: uint8 x uint8, added to uint32 | dotprod |
| `arm.smmla` | 2 x 2 x 8: int8 x int8, added to int32 | i8mm |
| `arm.fma` | 4: float32 multiply-add with one factor for all lanes | neon |

    sdot   C[i] = C[i] + A[k] * B[i * 4 + k]
    smmla  C[i * 2 + j] = C[i * 2 + j] + A[i * 8 + k] * B[j * 8 + k]
    fma    C[i] = C[i] + A[0] * B[i]
"""

from __future__ import annotations

import numpy as np

from heddle.ir.expr import Broadcast, Expr, Var, const
from heddle.tir.build import decl_buffer, for_nest, load, store
from heddle.tir.intrin import call_llvm_intrin, fma, llvm_reference
from heddle.tir.intrinsics_x86 import broadcast_bits, declare_dot, ramp
from heddle.tir.nodes import Buffer, PrimFunc
from heddle.tir.tensor_intrin import register


def _dot(acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    products = (a.astype(np.int64) * b.astype(np.int64)).reshape(-1, 4).sum(axis=1)
    total: np.ndarray = (acc + products).astype(acc.dtype)
    return total


def _declare_dot(kind: str, result: str) -> None:
    llvm = f"llvm.aarch64.neon.{'s' if kind == 'int8' else 'u'}dot.v4i32.v16i8"
    llvm_reference(llvm)(_dot)

    def combine(old: Expr, a: Expr, b: Expr) -> Expr:
        return call_llvm_intrin(
            llvm, old, b, broadcast_bits(a, 4, f"{kind}x16"), dtype=f"{result}x4"
        )

    name = "arm.sdot" if kind == "int8" else "arm.udot"
    declare_dot(name, 4, 4, (kind, kind, result), {"dotprod"}, combine)


_declare_dot("int8", "int32")
_declare_dot("uint8", "uint32")

_SMMLA = "llvm.aarch64.neon.smmla.v4i32.v16i8"


@llvm_reference(_SMMLA)
def _smmla_reference(acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    left, right = (x.reshape(2, 8).astype(np.int64) for x in (a, b))
    total: np.ndarray = (acc + (left @ right.T).reshape(4)).astype(np.int32)
    return total


def _declare_smmla() -> None:
    def parameters() -> tuple[Buffer, Buffer, Buffer]:
        return (
            decl_buffer((16,), "int8", "A"),
            decl_buffer((16,), "int8", "B"),
            decl_buffer((4,), "int32", "C"),
        )

    a, b, c = parameters()
    i, j, k = Var("i"), Var("j"), Var("k")
    step = load(a, i * 8 + k).astype("int32") * load(b, j * 8 + k).astype("int32")
    body = store(c, load(c, i * 2 + j) + step, i * 2 + j)
    nest = for_nest([(i, 2), (j, 2), (k, 8)], body)
    description = PrimFunc((a, b, c), nest, {"name": "description"})
    a, b, c = parameters()
    operands = load(c, ramp(0, 4)), load(a, ramp(0, 16)), load(b, ramp(0, 16))
    made = store(c, call_llvm_intrin(_SMMLA, *operands, dtype="int32x4"), ramp(0, 4))
    implementation = PrimFunc((a, b, c), made, {"name": "arm.smmla"})
    register("arm.smmla", description, implementation, features={"i8mm"})


def _declare_fma() -> None:
    def parameters() -> tuple[Buffer, Buffer, Buffer]:
        return (
            decl_buffer((1,), "float32", "A"),
            decl_buffer((4,), "float32", "B"),
            decl_buffer((4,), "float32", "C"),
        )

    a, b, c = parameters()
    i = Var("i")
    body = store(c, load(c, i) + load(a, const(0)) * load(b, i), i)
    description = PrimFunc((a, b, c), for_nest([(i, 4)], body), {"name": "description"})
    a, b, c = parameters()
    lanes = ramp(0, 4)
    value = fma(Broadcast(load(a, const(0)), 4), load(b, lanes), load(c, lanes))
    implementation = PrimFunc((a, b, c), store(c, value, lanes), {"name": "arm.fma"})
    register("arm.fma", description, implementation, features={"neon"})


_declare_smmla()
_declare_fma()
