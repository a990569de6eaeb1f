# SPDX-License-Identifier: Apache-2.0
"""Which operators become one kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from heddle import op
from heddle.graph import GraphBuilder, GraphExpr, Tuple, TupleGetItem
from heddle.ir import IRModule
from heddle.ir.expr import Var
from heddle.passes.graph.fuse import Fuse, fuse, kernel_name
from tests.passes.graph.support import build, check_values, kernels_of, main_of, weights

F = np.float32


def conv(x: GraphExpr) -> GraphExpr:
    return op.conv(x, weights(4, 4, 3, 3), pads=(1, 1, 1, 1))


def residual(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
    first = builder.emit(op.relu(conv(x)))
    return op.relu(op.add(conv(first), first))


def two_branches(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
    short = builder.emit(conv(x))
    long = builder.emit(op.conv(builder.emit(op.relu(conv(x))), weights(4, 4, 1, 1)))
    return op.relu(op.add(long, short))


def diamond(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
    y = builder.emit(conv(x))
    return op.add(op.mul(y, F(2)), op.tanh(y))


def used_twice(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
    y = builder.emit(conv(x))
    z = builder.emit(op.relu(y))
    return Tuple((builder.atom(y), builder.atom(z)))


def attention(x: GraphExpr) -> GraphExpr:
    mask = op.mul(op.sub(weights(4), F(1)), F(100))
    scores = op.add(op.mul(op.matmul(x, weights(1, 4, 4, 4)), F(0.125)), mask)
    return op.softmax(scores)


CASES = [
    ("epilogue", lambda x: op.relu(op.add(conv(x), weights(4, 1, 1))), ["conv_add_relu"]),
    ("residual", residual, ["conv_relu", "conv_add_relu"]),
    ("the later branch takes the sum", two_branches, ["conv", "conv_relu", "conv_add_relu"]),
    ("diamond", diamond, ["conv_mul_tanh_add"]),
    ("a value that is a result stays", used_twice, ["conv", "relu"]),
    ("elementwise chain", lambda x: op.exp(op.mul(op.relu(x), F(2))), ["relu_mul_exp"]),
    (
        "two contractions stay two",
        lambda x: conv(op.relu(conv(x))),
        ["conv_relu", "conv"],
    ),
    (
        "work on a smaller value is not repeated",
        lambda x: op.add(x, op.exp(op.mean(x, axes=(2, 3), keepdims=True))),
        ["mean_exp", "add"],
    ),
    (
        "nor gathered",
        lambda x: op.gather(op.exp(x), np.array([0, 0, 1, 1, 1]), axis=1),
        ["exp", "gather"],
    ),
    (
        "prologue of a reduction",
        lambda x: op.softmax(op.add(op.mul(x, F(0.5)), weights(4))),
        ["mul_add_softmax"],
    ),
    (
        "no prologue where windows overlap",
        lambda x: op.max_pool(op.relu(x), kernel=(3, 3)),
        ["relu", "max_pool"],
    ),
    (
        "reduction with work on its result",
        lambda x: op.sqrt(op.add(op.mean(op.mul(x, x), axes=(-1,), keepdims=True), F(1e-6))),
        ["mul_mean_add_sqrt"],
    ),
    (
        "data movement, reshape in the middle, none at the ends",
        lambda x: op.reshape(
            op.transpose(
                op.reshape(op.slice(x, starts=(1,), ends=(3,), axes=(1,)), shape=(2, 4, 2, 2)),
                permutation=(2, 0, 1, 3),
            ),
            shape=(-1,),
        ),
        ["slice_reshape_transpose"],
    ),
    (
        "a reshape between elementwise work stays a view",
        lambda x: op.exp(op.reshape(op.relu(x), shape=(4, 16))),
        ["relu", "exp"],
    ),
    (
        "contraction, view, movement",
        lambda x: op.transpose(op.reshape(conv(x), shape=(4, 16))),
        ["conv", "transpose"],
    ),
]


@pytest.mark.parametrize("body, expected", [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_groups(body: Callable[..., GraphExpr], expected: list[str]) -> None:
    before = build(body, (1, 4, 4, 4))
    after = fuse(before)
    assert sorted(kernels_of(after)) == sorted(expected)
    check_values(before, after)


def test_attention_scores() -> None:
    before = build(attention, (1, 4, 4, 4))
    after = fuse(before)
    assert kernels_of(after)[-2:] == ["matmul_mul_add", "softmax"]
    check_values(before, after)


def test_equal_kernels_are_one_function() -> None:
    def body(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
        for seed in range(3):
            x = builder.emit(op.relu(op.matmul(x, weights(4, 4, seed=seed))))
        return op.relu(op.matmul(x, weights(4, 5)))

    before = build(body, (2, 4))
    after = fuse(before)
    assert kernels_of(after) == ["matmul_relu"] * 3 + ["matmul_relu_1"]
    assert len(after) == 3
    check_values(before, after)


def test_kernels_of_different_symbols_are_kept_apart() -> None:
    n, m = Var("n"), Var("m")
    before = build(lambda x, y: Tuple(()), (n, 4), (m, 4))
    builder = GraphBuilder("main")
    x, y = (builder.param(p.name, p.type) for p in main_of(before).params)
    results = tuple(builder.emit(op.exp(item)) for item in (x, y))
    before = IRModule({"main": builder.finish(Tuple(results))})
    after = fuse(before)
    assert kernels_of(after) == ["exp", "exp_1"]
    check_values(before, after, n=2, m=3)


def test_scalars_stay_in_the_kernel_and_tensors_are_arguments() -> None:
    after = fuse(build(lambda x: op.add(op.mul(x, F(3)), weights(4)), (2, 4)))
    (binding,) = main_of(after).bindings
    assert [arg.type.static_shape for arg in binding.value.args] == [(2, 4), (4,)]  # type: ignore[attr-defined]


def test_labels_name_the_heaviest_layer() -> None:
    def body(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
        y = builder.emit(op.matmul(x, weights(4, 4)), name="layer1")
        return builder.emit(op.relu(y), name="act1")

    (binding,) = main_of(fuse(build(body, (2, 4)))).bindings
    assert binding.value.attrs == {"label": "layer1 .. act1"}  # type: ignore[attr-defined]


def test_size_limits() -> None:
    def chain(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
        for _ in range(10):
            x = builder.emit(op.tanh(x))
        return x

    before = build(chain, (2, 4))
    assert len(kernels_of(fuse(before))) == 1
    after = Fuse(max_ops=4)(before)
    assert len(kernels_of(after)) >= 3
    check_values(before, after)


def test_several_results_of_one_operator() -> None:
    def body(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
        parts = builder.emit(op.split(x, sizes=(1, 3), axis=1))
        return op.concat(op.relu(TupleGetItem(parts, 1)), TupleGetItem(parts, 0), axis=1)

    before = build(body, (2, 4))
    after = fuse(before)
    assert kernels_of(after) == ["split", "relu_concat"]
    check_values(before, after)


def test_long_names_are_cut() -> None:
    assert kernel_name(["a"] * 3) == "a_a_a"
    assert kernel_name([*"abcdefgh"]) == "a_b_c_d_3more_h"
