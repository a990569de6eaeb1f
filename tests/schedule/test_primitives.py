# SPDX-License-Identifier: Apache-2.0
"""Each primitive: the function it makes, and that the values stay."""

from __future__ import annotations

import numpy as np
import pytest

from heddle import te
from heddle.ir import structural_equal
from heddle.ir.expr import Var, as_int
from heddle.schedule import Schedule
from heddle.schedule.compact import compact_buffers
from heddle.tir.build import collect
from heddle.tir.nodes import Allocate, Block, For, ForKind, PrimFunc
from heddle.tir.predicate import conjuncts
from heddle.tir.verify import verify
from tests.schedule.kernels import chain, check_same, conv2d, inputs_of, matmul, output_of, softmax
from tests.schedule.kernels import stencil as make_stencil


def extents(sch: Schedule, block: str) -> list[int | None]:
    return [as_int(sch.loop(loop).extent) for loop in sch.get_loops(block)]


def names(sch: Schedule) -> list[str]:
    return [block.name for block in sch.get_blocks()]


def check(sch: Schedule, before: PrimFunc, **symbols: int) -> None:
    verify(sch.func)
    check_same(before, sch.func, **symbols)
    compacted = compact_buffers(sch.func)
    verify(compacted)
    check_same(before, compacted, **symbols)


@pytest.mark.parametrize(
    "factors, expected, guarded",
    [
        ([None, 4], [6, 4], False),
        ([4, None], [4, 6], False),
        ([2, 3, 4], [2, 3, 4], False),
        ([None, 5], [5, 5], True),
        ([None, 2, 5], [3, 2, 5], True),
        ([7, 4], [7, 4], True),
    ],
)
def test_split(factors: list[int | None], expected: list[int], guarded: bool) -> None:
    func = chain()
    sch = Schedule(func)
    loops = sch.split(sch.get_loops("C")[0], factors)
    assert extents(sch, "C") == expected
    assert [loop.name for loop in loops] == [f"i_{n}" for n in range(len(factors))]
    assert (as_int(sch.block("C").predicate) != 1) == guarded
    check(sch, func)


def test_split_peel_leaves_the_main_loop_clean() -> None:
    func = matmul(13, 20, 7)
    sch = Schedule(func)
    i, j, _ = sch.get_loops("C")
    sch.split(i, [None, 6], tail="peel")
    sch.split(j, [None, 8], tail="peel")
    assert names(sch) == ["C", "C_tail_1", "C_tail"]
    assert all(as_int(sch.block(block).predicate) == 1 for block in sch.get_blocks())
    assert extents(sch, "C") == [2, 6, 2, 8, 7]
    assert extents(sch, "C_tail") == [1, 20, 7]
    check(sch, func)


def test_split_peel_of_a_reduction_initialises_once() -> None:
    func = matmul(3, 4, 7)
    sch = Schedule(func)
    sch.split(sch.get_loops("C")[2], [None, 4], tail="peel")
    assert sch.block("C").init is not None
    assert sch.block("C_tail").init is None
    check(sch, func)


@pytest.mark.parametrize("tail", ["predicate", "peel"])
@pytest.mark.parametrize("size", [1, 3, 4, 9, 16])
def test_split_of_a_symbolic_extent(tail: str, size: int) -> None:
    func = chain(Var("n"))
    sch = Schedule(func)
    loops = sch.split(sch.get_loops("C")[0], [None, 4], tail=tail)
    sch.compute_at("B", loops[0]) if tail == "predicate" else sch.compute_inline("B")
    sch.vectorize(loops[1])
    check(sch, func, n=size)


def test_fuse() -> None:
    func = matmul(3, 4, 5)
    sch = Schedule(func)
    i, j, _ = sch.get_loops("C")
    fused = sch.fuse(i, j)
    assert fused.name == "i_j_fused"
    assert extents(sch, "C") == [12, 5]
    check(sch, func)


def test_fuse_undoes_split() -> None:
    func = chain(24)
    sch = Schedule(func)
    sch.fuse(*sch.split(sch.get_loops("C")[0], [None, 6]))
    assert structural_equal(sch.func, func)


def test_reorder_keeps_the_loops_between() -> None:
    func = matmul(3, 4, 5)
    sch = Schedule(func)
    i, _, k = sch.get_loops("C")
    sch.reorder(k, i)
    assert [loop.name for loop in sch.get_loops("C")] == ["k", "j", "i"]
    check(sch, func)


def test_loop_kinds_and_annotations() -> None:
    func = matmul(4, 8, 5)
    sch = Schedule(func)
    i, j, k = sch.get_loops("C")
    sch.parallel(i)
    sch.reorder(k, j)
    sch.vectorize(j)
    sch.unroll(k)
    kinds = [sch.loop(loop).kind for loop in (i, k, j)]
    assert kinds == [ForKind.PARALLEL, ForKind.UNROLLED, ForKind.VECTORIZED]
    sch.annotate(i, "grain", 4)
    sch.annotate("C", "note", "tile")
    assert sch.loop(i).annotations == {"grain": 4}
    assert sch.block("C").annotations == {"note": "tile"}
    sch.unannotate(i, "grain")
    sch.serial(k)
    assert sch.loop(i).annotations == {}
    assert sch.loop(k).kind is ForKind.SERIAL
    check(sch, func)


def test_add_unit_loop() -> None:
    func = chain()
    sch = Schedule(func)
    unit = sch.add_unit_loop("C")
    assert sch.get_loops("C")[0] == unit
    sch.compute_at("B", unit)
    assert extents(sch, "B") == [1, 24]
    check(sch, func)


def test_compute_inline() -> None:
    func = matmul(4, 6, 5, epilogue=True)
    sch = Schedule(func)
    sch.compute_inline("D")
    assert names(sch) == ["C", "E"]
    assert [b.name for b in sch.state.root.alloc_buffers] == ["C"]
    assert [r.buffer.name for r in sch.block("E").reads] == ["C"]
    check(sch, func)


def test_compute_inline_into_a_reduction_and_a_lazy_branch() -> None:
    for func, block in ((conv2d(), "P"), (make_stencil(), "B")):
        sch = Schedule(func)
        sch.compute_inline(block)
        assert block not in names(sch)
        check(sch, func)


def test_reverse_compute_inline() -> None:
    func = matmul(4, 6, 5, epilogue=True)
    sch = Schedule(func)
    sch.reverse_compute_inline("E")
    assert names(sch) == ["C", "D"]
    assert [r.buffer.name for r in sch.block("D").writes] == ["E"]
    check(sch, func)


def test_reverse_compute_inline_of_a_transpose_and_a_slice() -> None:
    a = te.placeholder((6, 5), name="A")
    b = te.compute((6, 5), lambda i, j: a[i, j] * 2.0, name="B")
    c = te.compute((5, 4), lambda i, j: b[j, i] + 1.0, name="C")
    func = te.create_prim_func([a, c])
    sch = Schedule(func)
    sch.reverse_compute_inline("C")
    assert names(sch) == ["B"]
    sch.split(sch.get_loops("B")[0], [None, 4])
    check(sch, func)


def test_compute_at_computes_the_needed_box() -> None:
    func = make_stencil(18)
    sch = Schedule(func)
    outer, _ = sch.split(sch.get_loops("C")[0], [None, 6])
    sch.compute_at("B", outer)
    assert extents(sch, "B") == [3, 8]
    check(sch, func)
    (small,) = [a.buffer for a in collect(compact_buffers(sch.func), Allocate)]
    assert small.static_shape == (8,)


def test_compute_at_of_a_padded_strided_convolution() -> None:
    func = conv2d(9, 3, 4)
    sch = Schedule(func)
    h, v, *_ = sch.get_loops("Y")
    v_0, _ = sch.split(v, [None, 2])
    sch.reorder(h, v_0)
    sch.compute_at("P", v_0)
    sch.reverse_compute_at("Z", v_0)
    compacted = compact_buffers(sch.func)
    shapes = {a.buffer.name: a.buffer.static_shape for a in collect(compacted, Allocate)}
    assert shapes == {"P": (3, 5, 3), "Y": (1, 2, 4)}
    check(sch, func)


def test_compute_at_of_a_reduction() -> None:
    func = softmax()
    sch = Schedule(func)
    i, _ = sch.get_loops("O")
    for block in ("S", "E", "M"):
        sch.compute_at(block, i)
    assert names(sch) == ["M", "E", "S", "O"]
    assert len(sch.state.root.body.children()) == 4 or isinstance(sch.state.root.body, For)
    shapes = {
        a.buffer.name: a.buffer.static_shape for a in collect(compact_buffers(sch.func), Allocate)
    }
    assert shapes == {"M": (1,), "E": (1, 9), "S": (1,)}
    check(sch, func)


def test_reverse_compute_at_of_fused_rows_mirrors_the_points() -> None:
    a = te.placeholder((7, 7, 4), name="A")
    b = te.placeholder((4, 16), name="B")
    r = te.reduce_axis(4, "c")
    y = te.compute((7, 7, 16), lambda h, w, k: te.sum(a[h, w, r] * b[r, k], axis=r), name="Y")
    z = te.compute((7, 7, 16), lambda h, w, k: y[h, w, k] + 1.0, name="Z")
    func = te.create_prim_func([a, b, z])
    sch = Schedule(func)
    h, w, k, c = sch.get_loops("Y")
    outer, inner = sch.split(sch.fuse(h, w), [None, 6])
    k_0, k_1, k_2 = sch.split(k, [None, 2, 4])
    sch.reorder(outer, k_0, c, inner, k_1, k_2)
    sch.reverse_compute_at("Z", k_0)
    sch.decompose_reduction("Y", c)
    assert extents(sch, "Z") == extents(sch, "Y_init") == [9, 2, 6, 2, 4]
    (small,) = [a.buffer for a in collect(compact_buffers(sch.func), Allocate)]
    assert small.static_shape == (6, 2, 4)
    check(sch, func)


def test_reverse_compute_at_that_mirrors_cuts_what_is_not_needed() -> None:
    """The consumer's last axis is shorter than the producer's, and as long as another of them."""
    a = te.placeholder((7, 5, 4), name="A")
    b = te.placeholder((4, 8), name="B")
    r = te.reduce_axis(4, "c")
    y = te.compute((7, 5, 8), lambda h, w, k: te.sum(a[h, w, r] * b[r, k], axis=r), name="Y")
    z = te.compute((7, 5, 5), lambda h, w, k: y[h, w, k] + 1.0, name="Z")
    func = te.create_prim_func([a, b, z])
    sch = Schedule(func)
    h, w, k, c = sch.get_loops("Y")
    outer, inner = sch.split(sch.fuse(h, w), [None, 3])
    sch.reorder(outer, c, inner, k)
    sch.reverse_compute_at("Z", outer)
    assert extents(sch, "Z") == [12, 3, 8]
    column = sch.block("Z").iters[2].binding
    assert any(structural_equal(p, column < 5) for p in conjuncts(sch.block("Z").predicate))
    check(sch, func)


def test_cache_read_and_write() -> None:
    func = matmul(5, 6, 7)
    sch = Schedule(func)
    read = sch.cache_read("C", 1, "local")
    write = sch.cache_write("C", 0, "local")
    assert (read.name, write.name) == ("B_local", "C_write")
    assert names(sch) == ["B_local", "C", "C_write"]
    assert {b.name: b.scope for b in sch.state.root.alloc_buffers} == {
        "B_local": "local",
        "C_local": "local",
    }
    sch.compute_at(read, sch.get_loops("C")[0])
    sch.reverse_compute_at(write, sch.get_loops("C")[0])
    check(sch, func)


def test_set_scope() -> None:
    func = chain()
    sch = Schedule(func)
    sch.set_scope("B", 0, "local")
    assert [b.scope for b in sch.state.root.alloc_buffers] == ["local"]
    check(sch, func)


def test_decompose_reduction() -> None:
    func = matmul(5, 6, 7)
    sch = Schedule(func)
    i, j, k = sch.get_loops("C")
    sch.reorder(i, k, j)
    init = sch.decompose_reduction("C", k)
    assert init.name == "C_init"
    assert extents(sch, "C_init") == [5, 6]
    assert sch.block("C").init is None
    assert "C" in [region.buffer.name for region in sch.block("C").reads]
    check(sch, func)


def test_matmul_tiled_like_a_cpu_kernel() -> None:
    func = matmul(26, 40, 9, epilogue=True)
    sch = Schedule(func)
    sch.compute_inline("D")
    i, j, k = sch.get_loops("C")
    i_0, i_1 = sch.split(i, [None, 6])
    j_0, j_1, j_2 = sch.split(j, [None, 2, 8])
    sch.reorder(j_0, i_0, k, i_1, j_1, j_2)
    sch.set_scope("C", 0, "local")
    sch.reverse_compute_at("E", i_0)
    sch.decompose_reduction("C", k)
    sch.unroll(i_1)
    sch.unroll(j_1)
    sch.vectorize(j_2)
    sch.parallel(sch.fuse(j_0, i_0))
    compacted = compact_buffers(sch.func)
    (allocation,) = collect(compacted, Allocate)
    assert allocation.buffer.static_shape == (6, 16)
    assert allocation.buffer.scope == "local"
    stores = [block.body for block in collect(compacted, Block) if block.name.startswith("C")]
    for store in stores:
        assert isinstance(store.indices[0], Var), "rows of the tile are indexed by a loop alone"
    check(sch, func)


def test_compaction_leaves_what_crosses_iterations_alone() -> None:
    """A running sum reads what an earlier iteration wrote: its buffer must not shrink."""
    a = te.placeholder((6,), name="A")
    b = te.compute((6,), lambda i: a[i] * 2.0, name="B")
    c = te.compute((6,), lambda i: b[5 - i] + 1.0, name="C")
    func = te.create_prim_func([a, c])
    compacted = compact_buffers(func)
    assert compacted is func
    sch = Schedule(func)
    sch.compute_at("B", sch.get_loops("C")[0])
    check(sch, func)


def test_unaffected_subtrees_keep_their_identity() -> None:
    func = matmul(4, 6, 5, epilogue=True)
    sch = Schedule(func)
    untouched = [sch.block("D"), sch.loop(sch.get_loops("E")[0])]
    sch.split(sch.get_loops("C")[0], [None, 2])
    assert [sch.block("D"), sch.loop(sch.get_loops("E")[0])] == untouched


def test_float64_values_agree_with_numpy() -> None:
    func = matmul(5, 7, 6)
    sch = Schedule(func)
    i, j, _ = sch.get_loops("C")
    sch.split(sch.fuse(i, j), [None, 4])
    a, b = inputs_of(func, 3)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(output_of(sch.func, [a, b]), expected, rtol=1e-5, atol=1e-5)


def test_fusing_unit_loops_leaves_no_arithmetic_on_constants() -> None:
    func = matmul(4, 16, 3)
    sch = Schedule(func)
    i, j, _ = sch.get_loops("C")
    j_0, j_1, _ = sch.split(j, [None, 4, 4])
    sch.reorder(i, j_0, j_1)
    sch.fuse(i, j_0)
    assert "i_j_0_fused" in str(sch.block("C").iters[0].binding)
    assert str(sch.block("C").iters[1].binding) == "j_1 * 4 + j_2"
    check(sch, func)


def test_transform_layout() -> None:
    func = matmul(8, 12, 5, epilogue=True)
    sch = Schedule(func)
    sch.transform_layout("C", "write", 0, "lambda i, j: (j // 4, i, j % 4)")
    (c, _) = sch.state.root.alloc_buffers
    assert c.static_shape == (3, 8, 4)
    sch.transform_layout("E", "read", 0, "lambda i, j: (j * 8 + i,)")
    assert sch.state.root.alloc_buffers[1].static_shape == (96,)
    sch.compute_at("C", sch.get_loops("D")[0])
    check(sch, func)
