# SPDX-License-Identifier: Apache-2.0
"""Columns that fill no whole vectors: lanes of zeros are multiplied, not lanes under masks."""

from __future__ import annotations

import numpy as np
import pytest

import heddle
from heddle import te
from heddle.ir.walk import pre_order
from heddle.passes.tir.lower import lower
from heddle.schedule import Schedule
from heddle.schedule.examples import product
from heddle.schedule.rules import default_schedule
from heddle.schedule.rules.whole_vectors import fill_vectors
from heddle.schedule.sketch import sketch
from heddle.target import parse
from heddle.tir.nodes import BufferStore, For, IfThenElse, PrimFunc
from tests.schedule.kernels import check_same

HASWELL = parse("llvm -mcpu=haswell")


def packed(rows: int, columns: int, depth: int, width: int) -> PrimFunc:
    """A product with a matrix in panels of `width` columns."""
    a = te.placeholder((rows, depth), name="A")
    panels = te.placeholder((-(-columns // width), depth, width), name="P")
    k = te.reduce_axis(depth, "k")
    c = te.compute(
        (rows, columns),
        lambda i, j: te.sum(a[i, k] * panels[j // width, k, j % width], axis=k),
        name="C",
    )
    return te.create_prim_func([a, panels, c])


def test_what_is_read_is_filled_up_and_what_is_written_cut() -> None:
    func = product(6, 13, 4)
    sch = Schedule(func)
    (block,) = sch.get_blocks()
    assert str(fill_vectors(sch, block, None, HASWELL)) == "block `C_crop`"
    assert sketch(sch.func) == (
        "C_pad = alloc((6, 16))\n"
        "for i, j, k in grid(6, 16, 4):\n"
        "    with init: C_pad[i, j] = 0.0  # C\n"
        "    C_pad[i, j] = C_pad[i, j] + A[i, k] * T.if_then_else(j < 13, B[k, j], 0.0)\n"
        "for ax0, ax1 in grid(6, 13):\n"
        "    C[ax0, ax1] = C_pad[ax0, ax1]  # C_crop"
    )
    check_same(func, sch.func)


def test_panels_are_full_already() -> None:
    func = packed(6, 13, 4, 16)
    sch = Schedule(func)
    fill_vectors(sch, sch.get_blocks()[0], None, HASWELL)
    assert "C_pad[i, j] = C_pad[i, j] + A[i, k] * P[j // 16, k, j % 16]" in sketch(sch.func)
    check_same(func, sch.func)


@pytest.mark.parametrize("columns", [16, 4, 2])
def test_whole_vectors_stay(columns: int) -> None:
    sch = Schedule(product(6, columns, 4))
    assert fill_vectors(sch, sch.get_blocks()[0], None, HASWELL) is None
    assert len(sch.get_blocks()) == 1


@pytest.mark.parametrize("target", ["llvm -mcpu=haswell", "llvm -mcpu=skylake-avx512"])
@pytest.mark.parametrize("columns", [3, 13, 17, 24, 41])
def test_no_mask_in_the_reduction(columns: int, target: str) -> None:
    """Accumulators under masks do not stay in registers."""
    func = lower(default_schedule(product(12, columns, 40), parse(target)).func, parse(target))
    loops = [n for n in pre_order(func.body) if isinstance(n, For) and n.var.name == "k"]
    assert loops
    for loop in loops:
        assert any(isinstance(n, BufferStore) for n in pre_order(loop))
        assert not any(isinstance(n, IfThenElse) for n in pre_order(loop))


@pytest.mark.parametrize("target", ["native", "llvm -mcpu=haswell"])
@pytest.mark.parametrize("rows", [1, 5, 30])
@pytest.mark.parametrize("columns", [3, 13, 17, 24, 41, 100])
@pytest.mark.parametrize("constant", [False, True])
def test_values(rows: int, columns: int, target: str, *, constant: bool) -> None:
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(rows * columns)
    left, right = (
        rng.standard_normal(shape, dtype=np.float32) for shape in ((rows, 19), (19, columns))
    )
    bias = rng.standard_normal(columns, dtype=np.float32)

    def declare(name: str, shape: tuple[int, ...]) -> object:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    inputs = [declare("a", left.shape)] + ([] if constant else [declare("b", right.shape)])
    weights = [numpy_helper.from_array(bias, "bias")]
    if constant:
        weights.append(numpy_helper.from_array(right, "b"))
    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["t"]),
        helper.make_node("Add", ["t", "bias"], ["u"]),
        helper.make_node("Relu", ["u"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", inputs, [declare("y", (rows, columns))], weights)
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    executable = heddle.compile(model, target)
    got = executable(left) if constant else executable(left, right)
    want = np.maximum(left.astype(np.float64) @ right + bias, 0)
    np.testing.assert_allclose(np.from_dlpack(got), want, rtol=1e-5, atol=1e-5)
