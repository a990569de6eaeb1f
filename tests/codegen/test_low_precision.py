# SPDX-License-Identifier: Apache-2.0
"""What low precision asks of code: conversions that saturate, narrow stores, tiles."""

from __future__ import annotations

import numpy as np
import pytest

from heddle import op, te
from heddle.codegen.build import build_kernel
from heddle.ir.dtype import DType
from heddle.ir.expr import all_of, cast, if_then_else
from heddle.passes.tir.lower import lower
from heddle.schedule.rules import default_schedule
from heddle.script import to_text
from heddle.target import Target, native, parse

ODD = [0.0, -0.0, 0.4, -0.4, 0.6, 254.9, 255.0, 256.0, -1.0, 127.5, -128.9, -129.0, 3e9, -3e9]
ODD += [np.inf, -np.inf, np.nan, 2147483520.0, 2147483648.0, -2147483648.0, 65535.5, -32769.0]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32"])
@pytest.mark.parametrize("count", [16, 17, 22])
def test_floats_saturate_and_nan_is_zero(dtype: str, count: int) -> None:
    x = te.placeholder((count,), dtype="float32", name="x")
    y = te.compute((count,), lambda i: cast(x[i], dtype), name="y")
    func = default_schedule(te.create_prim_func([x, y], name="k"), native()).func
    values = np.resize(np.array(ODD, np.float32), count)
    room = np.full(count + 8, 77, dtype)
    build_kernel(func)(values, room[:count])
    info = np.iinfo(dtype)
    wide = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=1e30, neginf=-1e30)
    np.testing.assert_array_equal(
        room[:count], np.clip(np.trunc(wide), info.min, info.max).astype(dtype)
    )
    assert (room[count:] == 77).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("count", [16, 21, 1])
def test_what_is_only_moved_keeps_its_bits(dtype: str, count: int) -> None:
    """A choice between elements of memory rounds nothing, and no NaN becomes another."""
    x = te.placeholder((count,), dtype=dtype, name="x")
    y = te.compute(
        (count + 2,), lambda i: if_then_else(all_of(i >= 1, i < count + 1), x[i - 1], 0), name="y"
    )
    func = default_schedule(te.create_prim_func([x, y], name="k"), native()).func
    bits = np.random.default_rng(count).integers(0, 1 << 16, count).astype(np.uint16)
    bits[0] = 0x7F81  # bfloat16: a signalling NaN
    out = np.zeros(count + 2, np.uint16)
    kind = DType.of(dtype).numpy
    build_kernel(func)(bits.view(kind), out.view(kind))
    np.testing.assert_array_equal(out, [0, *bits, 0])


@pytest.mark.parametrize("columns", [17, 18, 33, 47])
def test_rows_end_where_they_end(columns: int) -> None:
    """The last column of a row is stored alone, without touching the next row."""
    x = te.placeholder((5, columns), dtype="int32", name="x")
    y = te.compute((5, columns), lambda i, j: cast(x[i, j] + 1, "uint8"), name="y")
    func = default_schedule(te.create_prim_func([x, y], name="k"), native()).func
    values = np.arange(5 * columns, dtype=np.int32).reshape(5, columns)
    out = np.zeros((5, columns), np.uint8)
    build_kernel(func)(values, out)
    np.testing.assert_array_equal(out, (values + 1).astype(np.uint8))


def _product(rows: int, depth: int, columns: int, width: int) -> tuple[object, list[np.ndarray]]:
    rng = np.random.default_rng(rows + depth + columns)
    a = rng.integers(0, 256, (rows, depth)).astype(np.uint8)
    w = rng.integers(-128, 128, (depth, columns)).astype(np.int8)
    packed = op.get("pack_dot").evaluate([w], {"width": width, "depth": 4})
    p0 = te.placeholder(a.shape, dtype="uint8", name="p0")
    p1 = te.placeholder(packed.shape, dtype="int8", name="p1")  # type: ignore[union-attr]
    outs = op.get("matmul_dot").compute([p0, p1], {"n": columns})
    func = te.create_prim_func([p0, p1, *outs], name="k")
    return func, [a, np.asarray(packed), a.astype(np.int32) @ w.astype(np.int32)]


SHAPES = [
    (1, 64, 16),
    (16, 64, 16),
    (32, 128, 64),
    (49, 64, 33),
    (14, 192, 48),
    (13, 64, 32),
    (96, 64, 40),
]
CPUS = ["native", "llvm -mcpu=cascadelake", "llvm -mcpu=haswell", "llvm -mcpu=x86-64"]


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_exact(cpu: str, shape: tuple[int, int, int]) -> None:
    target = parse(cpu)
    if not target.features <= native().features:
        pytest.skip("this processor lacks features of the target")
    rows, depth, columns = shape
    for width in (16, 32):
        func, (a, packed, want) = _product(rows, depth, columns, width)
        out = np.zeros(want.shape, np.int32)
        build_kernel(default_schedule(func, target).func, target)(a, packed, out)  # type: ignore[arg-type]
        np.testing.assert_array_equal(out, want)


def _tiles() -> Target:
    target = parse("llvm -mcpu=sapphirerapids -mattr=+amx-tile,+amx-int8,+amx-bf16")
    return target.with_cores(1)


def test_accumulators_stay_in_tile_registers() -> None:
    func, _ = _product(32, 256, 32, 32)
    text = to_text(lower(default_schedule(func, _tiles()).func, _tiles()))  # type: ignore[arg-type]
    loop = text[text.index("for k") :]
    before = text[: text.index("for k")]
    assert [before.count(f"tile_{name}(") for name in ("config", "zero", "load")] == [1, 4, 0]
    inside = loop[: loop.index("tile_store")]
    assert inside.count("tile_dot(") == 4
    assert inside.count("tile_load(") == 4  # two operands of each side, shared
    assert text.count("tile_store(") == 4
    assert text.count("tile_release(") == 1


def test_the_next_panel_comes_while_tiles_work_on_this_one() -> None:
    func, _ = _product(64, 1024, 1024, 32)
    text = to_text(lower(default_schedule(func, _tiles()).func, _tiles()))  # type: ignore[arg-type]
    assert text.index("prefetch(") < text.index("tile_dot(")


def test_without_tiles_vectors_do_it() -> None:
    func, _ = _product(32, 256, 32, 32)
    target = parse("llvm -mcpu=cascadelake")
    text = to_text(default_schedule(func, target).func)  # type: ignore[arg-type]
    assert 'tensor_intrin": "x86.vpdpbusd.512"' in text
    text = to_text(default_schedule(func, parse("llvm -mcpu=haswell")).func)  # type: ignore[arg-type]
    assert 'tensor_intrin": "x86.pmaddwd.quads.u8s8"' in text
