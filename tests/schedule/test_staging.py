# SPDX-License-Identifier: Apache-2.0
"""reindex, pad_einsum, decompose_padding and other iteration variables: values, refusals."""

from __future__ import annotations

import pytest

from heddle import te
from heddle.ir.expr import Var, as_int
from heddle.schedule import Schedule, ScheduleError
from heddle.schedule.compact import compact_buffers
from heddle.schedule.examples import chain, padded, product, row_sum, windows
from heddle.tir.nodes import PrimFunc
from heddle.tir.verify import verify
from tests.schedule.kernels import check_same, conv2d, stencil


def check(sch: Schedule, before: PrimFunc, **symbols: int) -> None:
    verify(sch.func)
    check_same(before, sch.func, **symbols)
    compacted = compact_buffers(sch.func)
    verify(compacted)
    check_same(before, compacted, **symbols)


def test_reindex_makes_an_image_matrix() -> None:
    func = conv2d()
    sch = Schedule(func)
    made = sch.reindex("Y", "read", 0)
    sch.reindex("Y", "write", 0)
    assert sch.block(made).writes[0].buffer.static_shape == (4, 4, 3, 3, 3)
    sch.compute_inline("P")
    # (h, v, f, kh, kw, c) to the product (m, n, k)
    sch.transform_block_layout("Y", "lambda h, v, f, a, b, c: (h * 4 + v, f, a * 9 + b * 3 + c)")
    assert [as_int(b.extent) for b in sch.block("Y").iters] == [16, 5, 27]
    check(sch, func)


def test_reindex_cache_moves_into_loops() -> None:
    func = product(8, 32, 12)
    sch = Schedule(func)
    packed = sch.reindex_cache_read("C", 1, "global", "lambda i, j, k: (j // 8, k, j % 8)")
    written = sch.reindex_cache_write("C", 0, "local", "lambda i, j, k: (j // 8, i, j % 8)")
    i, j, k = sch.get_loops("C")
    j_0, j_1 = sch.split(j, [None, 8])
    sch.reorder(j_0, i, k, j_1)
    sch.compute_at(packed, j_0)
    sch.reverse_compute_at(written, j_0)
    check(sch, func)


def test_reindex_refuses() -> None:
    sch = Schedule(padded())
    with pytest.raises(ScheduleError, match="accesses `P` at several places"):
        sch.reindex("C", "read", 0)
    with pytest.raises(ScheduleError, match=r"accesses dimension 0 of `A` at `.*`, which leaves"):
        sch.reindex("P", "read", 0)
    sch = Schedule(product())
    with pytest.raises(ScheduleError, match="`index_map` does not use `vk`"):
        sch.reindex_cache_read("C", 1, "global", "lambda i, j, k: (j,)")
    with pytest.raises(ScheduleError, match="puts several elements at one place"):
        sch.reindex_cache_read("C", 1, "global", "lambda i, j, k: (j + k,)")
    with pytest.raises(ScheduleError, match="`vk` of block `C` is a reduction variable"):
        sch.reindex_cache_write("C", 0, "global", "lambda i, j, k: (i, j, k)")
    with pytest.raises(ScheduleError, match="iterations: 3, `index_map` takes 2"):
        sch.reindex_cache_write("C", 0, "global", "lambda i, j: (i, j)")
    sch.decompose_reduction("C", sch.get_loops("C")[2])
    with pytest.raises(ScheduleError, match="`C` is also written by"):
        sch.reindex("C", "write", 0)


@pytest.mark.parametrize("padding", [[4, 1, 1], [4, 8, 16], [1, 1, 5], [1, 1, 1]])
def test_pad_einsum(padding: list[int]) -> None:
    func = product(6, 10, 7)
    sch = Schedule(func)
    sch.pad_einsum("C", padding)
    for bound, multiple in zip(sch.block("C").iters, padding, strict=True):
        assert as_int(bound.extent) % multiple == 0
    check(sch, func)


def test_pad_einsum_of_symbolic_sizes() -> None:
    n = Var("n")
    a = te.placeholder((n, 5), name="A")
    b = te.placeholder((5, 6), name="B")
    r = te.reduce_axis(5, "k")
    c = te.compute((n, 6), lambda i, j: te.sum(a[i, r] * b[r, j], axis=r), name="C")
    func = te.create_prim_func([a, b, c])
    sch = Schedule(func)
    sch.pad_einsum("C", [8, 8, 8])
    for size in (1, 8, 11):
        check_same(func, sch.func, n=size)


def test_pad_einsum_refuses() -> None:
    sch = Schedule(row_sum(4, 6))
    sch.pad_einsum("S", [3, 4])
    x = te.placeholder((4, 6), name="X")
    r = te.reduce_axis(6, "r")
    func = te.create_prim_func([x, te.compute((4,), lambda i: te.max(x[i, r], axis=r), name="M")])
    sch = Schedule(func)
    with pytest.raises(ScheduleError, match="padding the reduction variable `vr` would change"):
        sch.pad_einsum("M", [1, 4])
    sch = Schedule(windows(7))
    with pytest.raises(ScheduleError, match="each index must be an iteration variable of its own"):
        sch.pad_einsum("C", [4, 1])
    sch = Schedule(product(6, 6, 6))
    sch.split(sch.get_loops("C")[0], [None, 2])
    with pytest.raises(ScheduleError, match="not to a loop of its own; call pad_einsum before"):
        sch.pad_einsum("C", [4, 4, 4])


def test_decompose_padding() -> None:
    func = conv2d()
    sch = Schedule(func)
    h = sch.get_loops("P")[0]
    sch.decompose_padding("P", h)
    assert [as_int(sch.loop(loop).extent) for loop in sch.get_loops("P")] == [7, 7, 3]
    assert as_int(sch.block("P").predicate) == 1
    check(sch, func)


def test_decompose_padding_of_fused_loops_needs_a_predicate() -> None:
    func = conv2d()
    sch = Schedule(func)
    h, v, _ = sch.get_loops("P")
    fused = sch.fuse(h, v)
    sch.parallel(fused)
    sch.decompose_padding("P", sch.get_loops("P")[1])
    assert as_int(sch.block("P").predicate) != 1
    check(sch, func)


def test_decompose_padding_refuses() -> None:
    sch = Schedule(chain())
    with pytest.raises(ScheduleError, match="must store if_then_else"):
        sch.decompose_padding("B", sch.get_loops("B")[0])
    sch = Schedule(stencil())
    with pytest.raises(ScheduleError, match="must store if_then_else"):
        sch.decompose_padding("C", sch.get_loops("C")[0])


def test_block_iteration_variables() -> None:
    func = product(4, 6, 8)
    sch = Schedule(func)
    sch.reorder_block_iter_var("C", [2, 0, 1])
    assert [b.var.name for b in sch.block("C").iters] == ["vk", "vi", "vj"]
    with pytest.raises(ScheduleError, match="`order` must hold each of 0 to 2 once"):
        sch.reorder_block_iter_var("C", [0, 0, 1])
    with pytest.raises(ScheduleError, match="mixes reduction and spatial variables"):
        sch.transform_block_layout("C", "lambda k, i, j: (k * 4 + i, j)")
    with pytest.raises(ScheduleError, match="is no bijection"):
        sch.transform_block_layout("C", "lambda k, i, j: (k, i)")
    sch.transform_block_layout("C", "lambda k, i, j: (i // 2, j, i % 2, k)")
    check(sch, func)
