# SPDX-License-Identifier: Apache-2.0
"""blockize and tensorize: the functions they make, what they refuse, and that values stay."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from heddle import te
from heddle.ir import structural_equal
from heddle.ir.expr import as_int
from heddle.passes.tir.lower import lower
from heddle.schedule import LoopRef, Schedule, ScheduleError, Trace, replay
from heddle.schedule.compact import compact_buffers
from heddle.script import parse, to_text
from heddle.support import UserError
from heddle.target import parse as parse_target
from heddle.tir.build import collect
from heddle.tir.interp import run
from heddle.tir.nodes import Block, For, PrimFunc
from heddle.tir.verify import verify
from tests.schedule import test_random
from tests.schedule.kernels import KERNELS, check_same, conv2d, matmul, softmax

VNNI = "x86.vpdpbusd.512"


def packed_product(m: int = 6, n: int = 32, k: int = 16, a: str = "uint8") -> PrimFunc:
    """`C = A @ B` in integers, B stored as [n // 16, k // 4, 16 x 4]."""
    left = te.placeholder((m, k), dtype=a, name="A")
    right = te.placeholder((n // 16, k // 4, 64), dtype="int8", name="B")
    r = te.reduce_axis(k, "k")

    def step(i, j):
        weight = right[j // 16, r // 4, j % 16 * 4 + r % 4]
        return te.sum(left[i, r].astype("int32") * weight.astype("int32"), axis=r)

    return te.create_prim_func([left, right, te.compute((m, n), step, name="C")], name="product")


def tiled(func: PrimFunc, lanes: int = 16, depth: int = 4):
    """A schedule whose two innermost loops are `lanes` columns by `depth` steps."""
    sch = Schedule(func)
    i, j, k = sch.get_loops("C")
    j_0, j_1 = sch.split(j, [None, lanes])
    k_0, k_1 = sch.split(k, [None, depth])
    sch.reorder(i, j_0, k_0, j_1, k_1)
    return sch, k_0, j_1


def operands(m: int = 6, n: int = 32, k: int = 16):
    """Random bytes, B also packed, and the product."""
    rng = np.random.default_rng(3)
    a = rng.integers(0, 256, (m, k)).astype(np.uint8)
    b = rng.integers(-128, 128, (k, n)).astype(np.int8)
    packed = b.reshape(k // 4, 4, n // 16, 16).transpose(2, 0, 3, 1).reshape(n // 16, k // 4, 64)
    return a, np.ascontiguousarray(packed), a.astype(np.int32) @ b.astype(np.int32)


def values(func: PrimFunc, *arrays: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    out = np.full(shape, 77, np.int32)
    run(func, *arrays, out)
    return out


# -- blockize ------------------------------------------------------------------------------------


def test_blockize_makes_one_block_of_a_tile() -> None:
    func = matmul(8, 12, 6)
    sch = Schedule(func)
    i, j, k = sch.get_loops("C")
    i_0, i_1 = sch.split(i, [None, 4])
    j_0, j_1 = sch.split(j, [None, 3])
    sch.reorder(i_0, j_0, k, i_1, j_1)
    outer = sch.blockize(i_1)
    assert outer.name == "C_o"
    assert [as_int(bound.extent) for bound in sch.block(outer).iters] == [2, 4, 6]
    assert [as_int(part.extent) for part in sch.block(outer).writes[0].ranges] == [4, 3]
    assert [loop.name for loop in sch.get_loops(outer)] == ["i_0", "j_0", "k"]
    assert [loop.name for loop in sch.get_loops("C")] == ["i_1", "j_1"]
    verify(sch.func)
    check_same(func, sch.func)
    sch.decompose_reduction(outer, k)
    verify(sch.func)
    check_same(func, sch.func)
    assert structural_equal(parse(to_text(sch.func)), sch.func)


def test_a_blockized_block_moves_as_one() -> None:
    func = matmul(8, 12, 6)
    sch = Schedule(func)
    i, j, k = sch.get_loops("C")
    i_0, i_1 = sch.split(i, [None, 4])
    j_0, j_1 = sch.split(j, [None, 6])
    sch.reorder(i_0, j_0, k, i_1, j_1)
    outer = sch.blockize(i_1)
    copy = sch.cache_write(outer, 0, "local")
    sch.reverse_compute_at(copy, j_0)
    read = sch.cache_read(outer, 1, "global")
    sch.compute_at(read, j_0)
    verify(sch.func)
    check_same(func, sch.func)
    small = compact_buffers(sch.func)
    verify(small)
    check_same(func, small)


def test_blockize_of_a_convolution_window() -> None:
    func = conv2d()
    sch = Schedule(func)
    loops = sch.get_loops("Y")
    sch.blockize(loops[3])
    verify(sch.func)
    check_same(func, sch.func)


@pytest.mark.parametrize(
    "factors, tail, message",
    [
        ([None, 5], "predicate", "cuts through the tile"),
        ([5, None], "predicate", "cuts through the tile"),
    ],
)
def test_blockize_refuses_tiles_that_are_cut(factors, tail, message) -> None:
    sch = Schedule(matmul(8, 12, 6))
    i, _, _ = sch.get_loops("C")
    _, i_1 = sch.split(i, factors, tail=tail)
    before = sch.func
    with pytest.raises(ScheduleError, match=message):
        sch.blockize(i_1)
    assert sch.func is before


def test_blockize_refuses_what_is_no_tile() -> None:
    sch = Schedule(matmul(8, 12, 6))
    i, j, k = sch.get_loops("C")
    i_0, i_1 = sch.split(i, [None, 4])
    sch.reorder(i_1, j, k, i_0)
    with pytest.raises(ScheduleError, match="does not run through a whole tile"):
        sch.blockize(i_0)
    other = Schedule(softmax())
    i = other.get_loops("M")[0]
    other.reverse_compute_at("E", i)
    with pytest.raises(ScheduleError, match=r"directly nested.*`M`, `E`"):
        other.blockize(i)


def test_blocks_inside_are_no_longer_moved() -> None:
    sch = Schedule(matmul(8, 12, 6))
    sch.blockize(sch.get_loops("C")[1])
    with pytest.raises(ScheduleError, match="block `C` is a part of block `C_o`"):
        sch.cache_read("C", 0, "local")


# -- tensorize -----------------------------------------------------------------------------------


def test_tensorize_keeps_values_before_and_after_lowering() -> None:
    func = packed_product()
    sch, k_0, j_1 = tiled(func)
    block = sch.tensorize(j_1, VNNI)
    sch.decompose_reduction(block, k_0)
    verify(sch.func)
    a, b, want = operands()
    assert np.array_equal(values(sch.func, a, b, shape=want.shape), want)
    lowered = lower(sch.func, parse_target("llvm -mcpu=icelake-server"))
    assert "llvm.x86.avx512.vpdpbusd.512" in to_text(lowered)
    out = np.full(want.size, 77, np.int32)
    run(lowered, a.ravel(), b.ravel(), out)
    assert np.array_equal(out.reshape(want.shape), want)


def test_tensorized_blocks_print_parse_and_replay() -> None:
    func = packed_product()
    sch, k_0, j_1 = tiled(func)
    block = sch.tensorize(j_1, VNNI)
    sch.decompose_reduction(block, k_0)
    assert structural_equal(parse(to_text(sch.func)), sch.func)
    again = replay(Trace.from_json(sch.trace.to_json()), func)
    assert structural_equal(again.func, sch.func)
    assert "sch.tensorize(j_1, 'x86.vpdpbusd.512')" in str(sch.trace)
    assert "blockize" not in str(sch.trace)


def test_tensorize_takes_loops_in_either_order() -> None:
    func = packed_product()
    sch = Schedule(func)
    i, j, k = sch.get_loops("C")
    j_0, j_1 = sch.split(j, [None, 16])
    k_0, k_1 = sch.split(k, [None, 4])
    sch.reorder(i, j_0, k_0, k_1, j_1)
    block = sch.blockize(k_1)
    sch.tensorize(block, VNNI)
    a, b, want = operands()
    lowered = lower(sch.func, parse_target("llvm -mcpu=icelake-server"))
    out = np.full(want.size, 77, np.int32)
    run(lowered, a.ravel(), b.ravel(), out)
    assert np.array_equal(out.reshape(want.shape), want)


def test_accumulators_in_registers() -> None:
    func = packed_product()
    sch, k_0, j_1 = tiled(func)
    block = sch.tensorize(j_1, VNNI)
    _i, j_0, k_0 = sch.get_loops(block)
    sch.reverse_compute_at(sch.cache_write(block, 0, "local"), j_0)
    sch.decompose_reduction(block, k_0)
    a, b, want = operands()
    small = compact_buffers(sch.func)
    verify(small)
    assert np.array_equal(values(small, a, b, shape=want.shape), want)
    lowered = lower(sch.func, parse_target("llvm -mcpu=icelake-server"))
    out = np.full(want.size, 77, np.int32)
    run(lowered, a.ravel(), b.ravel(), out)
    assert np.array_equal(out.reshape(want.shape), want)


def _error(sch: Schedule, loop, name: str = VNNI) -> str:
    before, steps = sch.func, len(sch.trace)
    with pytest.raises(ScheduleError) as caught:
        sch.tensorize(loop, name)
    assert sch.func is before
    assert len(sch.trace) == steps
    return str(caught.value)


def test_the_difference_of_dtypes_is_shown() -> None:
    sch, _, j_1 = tiled(packed_product(a="int8"))
    text = _error(sch, j_1)
    assert "block `C_o` is not what `x86.vpdpbusd.512` does" in text
    assert "`A` is int8, `A` is uint8" in text
    assert "The intrinsic does:" in text
    assert "The block is:" in text
    assert 'A: T.Buffer((4,), "uint8")' in text


def test_the_difference_of_extents_is_shown() -> None:
    sch, _, j_1 = tiled(packed_product(), 8, 4)
    assert "the loops have the extents [8, 4], the intrinsic's [16, 4]" in _error(sch, j_1)


def test_the_difference_of_layouts_is_shown() -> None:
    left = te.placeholder((6, 16), dtype="uint8", name="A")
    right = te.placeholder((16, 32), dtype="int8", name="B")
    r = te.reduce_axis(16, "k")
    out = te.compute(
        (6, 32),
        lambda i, j: te.sum(left[i, r].astype("int32") * right[r, j].astype("int32"), axis=r),
        name="C",
    )
    sch, _, j_1 = tiled(te.create_prim_func([left, right, out], name="product"))
    text = _error(sch, j_1)
    assert "`B` has stride `1` along loop `j_1`, the intrinsic's `B` has `4`" in text
    assert "packed layout" in text


def test_the_difference_of_expressions_is_shown() -> None:
    left = te.placeholder((6, 16), dtype="uint8", name="A")
    r = te.reduce_axis(16, "k")
    out = te.compute((6, 32), lambda i, j: te.sum(left[i, r].astype("int32"), axis=r), name="C")
    sch, _, j_1 = tiled(te.create_prim_func([left, out], name="sums"))
    text = _error(sch, j_1)
    assert "at value.b:" in text
    assert "is not" in text


def test_unknown_intrinsics_are_named() -> None:
    sch, _, j_1 = tiled(packed_product())
    assert "there is no tensor intrinsic `nope`; there are `arm.fma`" in _error(sch, j_1, "nope")


def test_a_target_without_the_feature_is_an_error() -> None:
    sch, _, j_1 = tiled(packed_product())
    sch.tensorize(j_1, VNNI)
    with pytest.raises(UserError, match=r"`x86.vpdpbusd.512` needs avx512vnni, which the target"):
        lower(sch.func, parse_target("llvm -mcpu=haswell"))


def test_inner_loops_are_gone_for_handles() -> None:
    sch, _, j_1 = tiled(packed_product())
    block = sch.tensorize(j_1, VNNI)
    with pytest.raises(ScheduleError, match="does not exist"):
        sch.split(j_1, [None, 4])
    inside = collect(sch.block(block).body, For)
    assert inside[0].annotations["tensor_intrin"] == VNNI
    assert [found.name for found in collect(sch.block(block), Block)] == ["C_o"]


# -- random sequences ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", KERNELS)
def test_random_sequences_with_blockize_keep_values(
    name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(rng: Random, sch: Schedule) -> None:
        loops = list(sch.state.loop_links)
        if not loops:
            raise ScheduleError("no loops")
        sch.blockize(LoopRef(rng.choice(loops)))

    monkeypatch.setitem(test_random.ACTIONS, "blockize", (step, 8))
    sch = test_random.random_schedule(name, seed)
    func = KERNELS[name]()
    verify(sch.func)
    check_same(func, sch.func, seed)
    small = compact_buffers(sch.func)
    verify(small)
    check_same(func, small, seed)
    again = replay(Trace.from_json(sch.trace.to_json()), func)
    assert structural_equal(again.func, sch.func, map_free_vars=True)
