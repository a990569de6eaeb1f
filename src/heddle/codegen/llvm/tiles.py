# SPDX-License-Identifier: Apache-2.0
"""Instructions on tile registers (AMX), which code names by number.

tile_config(rows of each of 8)          ldtilecfg; every register then holds zeros
tile_release()                          tilerelease; threads are switched faster without tiles
tile_zero(t)                            tilezero
tile_load(t, address, pitch)            tileloadd: rows of 64 bytes, `pitch` bytes apart
tile_store(t, address, pitch)           tilestored
tile_dot(instruction, c, a, b)          tdpbusd, tdpbf16ps: c = c + a * b
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from heddle.ir.expr import Call, Expr, StringImm, as_int
from heddle.ir.walk import pre_order
from heddle.support import InternalError
from heddle.tir.intrinsics_amx import TILE_BYTES
from heddle.tir.nodes import PrimFunc

if TYPE_CHECKING:
    from heddle.codegen.llvm.builder import FunctionBuilder
    from heddle.codegen.llvm.expressions import ExpressionEmitter

TILE_CALLS: Final = frozenset(
    f"tile_{name}" for name in ("config", "release", "zero", "load", "store", "dot")
)


def uses_tiles(func: PrimFunc) -> bool:
    """Whether a lowered function works on tile registers."""
    return any(isinstance(n, Call) and n.name == "tile_config" for n in pre_order(func.body))


def ask_for_tiles(b: FunctionBuilder) -> str:
    """The status of asking the operating system for tile registers."""
    b.module.declare("i32 @hd_use_tiles()")
    return b.instr("call i32 @hd_use_tiles()")


def emit_tile_call(emitter: ExpressionEmitter, found: Call) -> str:
    """The instruction of one call; there is no value."""
    b = emitter.b
    if found.name == "tile_config":
        b.module.declare("void @llvm.x86.ldtilecfg(ptr)")
        b.void(f"call void @llvm.x86.ldtilecfg(ptr {_configuration(b, found.args)})")
    elif found.name == "tile_release":
        b.module.declare("void @llvm.x86.tilerelease()")
        b.void("call void @llvm.x86.tilerelease()")
    elif found.name == "tile_zero":
        b.module.declare("void @llvm.x86.tilezero(i8 immarg)")
        b.void(f"call void @llvm.x86.tilezero({_register(found.args[0])})")
    elif found.name in ("tile_load", "tile_store"):
        word = "tileloadd64" if found.name == "tile_load" else "tilestored64"
        b.module.declare(f"void @llvm.x86.{word}(i8 immarg, ptr, i64)")
        address, pitch = emitter.emit(found.args[1]), emitter.emit(found.args[2])
        operands = f"{_register(found.args[0])}, ptr {address}, i64 {pitch}"
        b.void(f"call void @llvm.x86.{word}({operands})")
    else:
        name = found.args[0]
        assert isinstance(name, StringImm)
        b.module.declare(f"void @llvm.x86.{name.value}(i8 immarg, i8 immarg, i8 immarg)")
        operands = ", ".join(_register(arg) for arg in found.args[1:])
        b.void(f"call void @llvm.x86.{name.value}({operands})")
    return "0"


def _register(number: Expr) -> str:
    value = as_int(number)
    if value is None:
        raise InternalError("a tile register is named by a number")
    return f"i8 {value}"


def _configuration(b: FunctionBuilder, rows: tuple[Expr, ...]) -> str:
    """The 64 bytes that say how large registers are: palette 1, then bytes of a row as 16 bit
    numbers from byte 16 on, rows from byte 48 on."""
    table = bytearray(64)
    table[0] = 1
    for number, count in enumerate(rows):
        table[16 + 2 * number] = TILE_BYTES
        table[48 + number] = as_int(count) or 0
    text = "".join(f"\\{byte:02X}" for byte in table)
    name = f"@.tiles.{'.'.join(str(as_int(count)) for count in rows)}"
    line = f'{name} = private unnamed_addr constant [64 x i8] c"{text}", align 64'
    if line not in b.module.globals:
        b.module.globals.append(line)
    return name
