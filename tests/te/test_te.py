# SPDX-License-Identifier: Apache-2.0
"""Tensor expressions: what they compute, and the errors they give."""

import numpy as np
import pytest

from heddle import te
from heddle.ir import DType, structural_equal, structural_hash
from heddle.ir.expr import Var, if_then_else
from heddle.support import UserError
from heddle.tir import Block, IterKind, collect, intrin
from heddle.tir.interp import run


def product(rows: int = 5, columns: int = 7, depth: int = 3):
    a = te.placeholder((rows, depth), name="A")
    b = te.placeholder((depth, columns), name="B")
    k = te.reduce_axis(depth, name="k")
    c = te.compute((rows, columns), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="C")
    return te.create_prim_func([a, b, c], name="product")


def test_product_has_one_block_with_named_axes():
    blocks = [block for block in collect(product(), Block) if block.name != "root"]
    assert [block.name for block in blocks] == ["C"]
    assert [axis.var.name for axis in blocks[0].iters] == ["vi", "vj", "vk"]
    assert [axis.kind for axis in blocks[0].iters] == [IterKind.SPATIAL] * 2 + [IterKind.REDUCTION]


def test_product_values():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((5, 3), np.float32), rng.standard_normal((3, 7), np.float32)
    c = np.empty((5, 7), np.float32)
    run(product(), a, b, c)
    np.testing.assert_allclose(c, a @ b, rtol=1e-5, atol=1e-6)


def test_equal_definitions_give_equal_functions():
    assert structural_equal(product(), product())
    assert structural_hash(product()) == structural_hash(product())
    assert not structural_equal(product(), product(rows=6))


def test_chain_with_padding_and_rank_zero():
    x = te.placeholder((4,), name="x")
    scale = te.placeholder((), name="scale")
    pad = te.compute((6,), lambda i: if_then_else((i >= 1) & (i < 5), x[i - 1], 0.0), name="pad")
    out = te.compute((6,), lambda *i: intrin.exp(pad[i]) * scale(), name="out")
    func = te.create_prim_func([x, scale, out])
    data = np.array([1, 2, -1, 0.5], np.float32)
    result = np.empty(6, np.float32)
    run(func, data, np.array(3, np.float32), result)
    np.testing.assert_allclose(result, np.exp(np.pad(data, 1)) * 3, rtol=1e-6)


@pytest.mark.parametrize("combiner", ["sum", "prod", "max", "min"])
@pytest.mark.parametrize("dtype", ["float32", "int32", "float64"])
def test_reductions(combiner, dtype):
    rng = np.random.default_rng(2)
    data = rng.integers(-4, 5, (3, 4)).astype(dtype)
    x = te.placeholder((3, 4), dtype, name="x")
    k = te.reduce_axis(4, name="k")
    y = te.compute((3,), lambda i: getattr(te, combiner)(x[i, k], axis=k), name="y")
    result = np.empty(3, dtype)
    run(te.create_prim_func([x, y]), data, result)
    np.testing.assert_array_equal(result, getattr(np, combiner)(data, axis=1))


def test_symbolic_shape():
    n = Var("n")
    x = te.placeholder((n,), name="x")
    y = te.compute((n,), lambda i: x[i] + 1.0, name="y")
    data, result = np.arange(5, dtype=np.float32), np.empty(5, np.float32)
    run(te.create_prim_func([x, y]), data, result)
    np.testing.assert_array_equal(result, data + 1)


def test_identity_elements():
    assert te.identity_element("max", DType.of("int8")).value == -128
    assert te.identity_element("min", DType.of("float32")).value == float("inf")


def test_errors():
    x = te.placeholder((3, 4), name="x")
    with pytest.raises(UserError, match="tensor `x` has 2 dimensions, got 1 indices"):
        te.compute((3,), lambda i: x[i], name="bad")
    with pytest.raises(UserError, match="`y`: 1 dimensions, but 2 parameters"):
        te.compute((3,), lambda i, j: x[i, j], name="y")
    k = te.reduce_axis(4, "k")
    y = te.compute((3,), lambda i: te.sum(x[i, k], axis=k) * 2.0, name="y")
    with pytest.raises(UserError, match="the reduction must be the outermost expression"):
        te.create_prim_func([x, y])
    z = te.compute((3, 4), lambda i, j: x[i, j] + 1.0, name="z")
    with pytest.raises(UserError, match="placeholder `x` is used but not among the parameters"):
        te.create_prim_func([z])
    with pytest.raises(UserError, match="an index must be an integer, got float32"):
        x[1.5, 0]
