# SPDX-License-Identifier: Apache-2.0
"""Tensor intrinsics of AMX, whose registers are tiles of up to 16 rows of 64 bytes.

| name | does | needs |
|---|---|---|
| `x86.amx.u8s8.M` | M x 16 x 64: uint8 x int8, added to int32 | amx-int8 |
| `x86.amx.bf16.M` | M x 16 x 32: bfloat16 x bfloat16, added to float32 | amx-bf16 |

for M = 1 to 16 rows. All of them compute, with rows any distance apart and d = 4 bytes or 2
bfloat16,

    C[i, j] = C[i, j] + A[i, k * d + e] * B[k, j * d + e]      i < M, j < 16, k < 16, e < d

`tdpbf16ps` rounds each of its sums to nearest, and takes subnormal operands and results for zero.

The implementation is one `tile_product`, which works on memory; `passes.tir.tile_registers` keeps
accumulators in registers over loops.
"""

from __future__ import annotations

from typing import Final

from heddle.ir.dtype import INT32
from heddle.ir.expr import Call, Expr, StringImm, Var, as_expr
from heddle.tir.build import decl_buffer, for_nest, load, store
from heddle.tir.intrin import address_of
from heddle.tir.nodes import Buffer, Evaluate, PrimFunc
from heddle.tir.tensor_intrin import register

REGISTERS: Final = 8
TILE_ROWS: Final = 16
TILE_BYTES: Final = 64
"""Bytes of a row of a tile; a tile of accumulators has 16 columns of 4 bytes."""

COLUMNS: Final = 16
STEPS: Final = 16
"""Rows of the right operand: as many groups of d products that one instruction adds up."""


def _buffers(rows: int, depth: int, a: str, b: str, c: str) -> tuple[list[Buffer], list[Var]]:
    pitches = [Var(f"pitch_{name}") for name in "abc"]
    shapes = ((rows, STEPS * depth), (STEPS, COLUMNS * depth), (rows, COLUMNS))
    parts = zip(shapes, (a, b, c), "ABC", pitches, strict=True)
    buffers = [
        decl_buffer(shape, dtype, name, strides=(pitch, 1)) for shape, dtype, name, pitch in parts
    ]
    return buffers, pitches


def _declare(
    name: str, instruction: str, rows: int, depth: int, dtypes: tuple[str, str, str], feature: str
) -> None:
    (a, b, c), _ = _buffers(rows, depth, *dtypes)
    i, j, k, e = Var("i"), Var("j"), Var("k"), Var("e")
    kind = dtypes[2]
    product = load(a, (i, k * depth + e)).astype(kind) * load(b, (k, j * depth + e)).astype(kind)
    body = store(c, load(c, (i, j)) + product, (i, j))
    nest = for_nest([(i, rows), (j, COLUMNS), (k, STEPS), (e, depth)], body)
    description = PrimFunc((a, b, c), nest, {"name": "description"})
    buffers, pitches = _buffers(rows, depth, *dtypes)
    args: list[Expr] = [StringImm(instruction), as_expr(rows)]
    for buffer, pitch in zip(buffers, pitches, strict=True):
        args += [address_of(load(buffer, (0, 0))), pitch * buffer.dtype.nbytes]
    made = Evaluate(Call("tile_product", tuple(args), INT32))
    register(name, description, PrimFunc(tuple(buffers), made, {"name": name}), features={feature})


for _rows in range(1, TILE_ROWS + 1):
    _BYTES = ("uint8", "int8", "int32")
    _HALVES = ("bfloat16", "bfloat16", "float32")
    _declare(f"x86.amx.u8s8.{_rows}", "tdpbusd", _rows, 4, _BYTES, "amx-int8")
    _declare(f"x86.amx.bf16.{_rows}", "tdpbf16ps", _rows, 2, _HALVES, "amx-bf16")
