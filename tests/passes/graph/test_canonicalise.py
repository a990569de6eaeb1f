# SPDX-License-Identifier: Apache-2.0
"""Each canonical form: what is left, and that it computes the same."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from heddle import op
from heddle.graph import GraphBuilder, GraphExpr, TupleGetItem
from heddle.ir.expr import Var
from heddle.passes.graph.canonicalise import RULES, canonicalise
from tests.passes.graph.support import build, check_values, ops_of, weights

F = np.float32


def gelu_erf(x: GraphExpr) -> GraphExpr:
    return op.mul(op.mul(x, F(0.5)), op.add(op.erf(op.div(x, F(math.sqrt(2)))), F(1)))


def gelu_erf_other_order(x: GraphExpr) -> GraphExpr:
    return op.mul(F(0.5), op.mul(op.add(F(1), op.erf(op.mul(x, F(math.sqrt(0.5))))), x))


def gelu_tanh(x: GraphExpr) -> GraphExpr:
    inner = op.add(x, op.mul(F(0.044715), op.pow(x, F(3))))
    gate = op.add(F(1), op.tanh(op.mul(F(math.sqrt(2 / math.pi)), inner)))
    return op.mul(op.mul(F(0.5), x), gate)


def layer_norm(x: GraphExpr) -> GraphExpr:
    centred = op.sub(x, op.mean(x, axes=(-1,), keepdims=True))
    variance = op.mean(op.pow(centred, F(2)), axes=(-1,), keepdims=True)
    normal = op.div(centred, op.sqrt(op.add(variance, F(1e-5))))
    return op.add(op.mul(normal, weights(8)), weights(8, seed=2))


def rms_norm(x: GraphExpr) -> GraphExpr:
    square = op.mean(op.pow(x, F(2)), axes=(2,), keepdims=True)
    return op.mul(weights(8), op.mul(x, op.reciprocal(op.sqrt(op.add(square, F(1e-6))))))


PATTERNS = [
    ("silu", lambda x: op.mul(x, op.sigmoid(x)), ["silu"]),
    ("gelu", gelu_erf, ["gelu"]),
    ("gelu, other order", gelu_erf_other_order, ["gelu"]),
    ("gelu by tanh", gelu_tanh, ["gelu"]),
    ("layer norm", layer_norm, ["layer_norm"]),
    ("rms norm", rms_norm, ["rms_norm"]),
    (
        "no gelu: the factor is wrong",
        lambda x: op.mul(op.mul(x, F(0.25)), op.add(op.erf(op.div(x, F(math.sqrt(2)))), F(1))),
        ["mul", "div", "erf", "add", "mul"],
    ),
    (
        "silu of another value",
        lambda x: op.mul(x, op.sigmoid(op.exp(x))),
        ["exp", "sigmoid", "mul"],
    ),
]


@pytest.mark.parametrize("body, expected", [p[1:] for p in PATTERNS], ids=[p[0] for p in PATTERNS])
def test_patterns(body: Callable[[GraphExpr], GraphExpr], expected: list[str]) -> None:
    before = build(lambda x: body(x), (2, 3, 8))
    after = canonicalise(before)
    assert sorted(ops_of(after)) == sorted(expected)
    check_values(before, after)


ALGEBRA = [
    ("identity", lambda x: op.identity(op.relu(x)), ["relu"]),
    ("times one", lambda x: op.relu(op.mul(F(1), x)), ["relu"]),
    ("a choice that is made", lambda x: op.where(np.asarray(True), op.relu(x), F(0)), ["relu"]),
    ("float plus zero stays", lambda x: op.add(x, F(0)), ["add"]),
    ("chain of products", lambda x: op.mul(op.mul(x, F(3)), F(0.7)), ["mul"]),
    ("chain of sums", lambda x: op.add(F(2), op.add(x, F(0.3))), ["add"]),
    ("division by 8", lambda x: op.div(x, F(8)), ["mul"]),
    ("division by 3 stays", lambda x: op.div(x, F(3)), ["div"]),
    ("square", lambda x: op.pow(x, F(2)), ["mul"]),
    ("root of anything stays", lambda x: op.pow(x, F(0.5)), ["pow"]),
    (
        "two transposes",
        lambda x: op.transpose(op.transpose(x, permutation=(1, 2, 0)), permutation=(2, 1, 0)),
        ["transpose"],
    ),
    (
        "transposes that cancel",
        lambda x: op.relu(
            op.transpose(op.transpose(x, permutation=(1, 2, 0)), permutation=(2, 0, 1))
        ),
        ["relu"],
    ),
    (
        "reshapes",
        lambda x: op.unsqueeze(op.reshape(op.flatten(x, axis=1), shape=(4, 12)), axes=(0,)),
        ["reshape"],
    ),
    ("slice of everything", lambda x: op.relu(op.slice(x, starts=(0,), ends=(99,))), ["relu"]),
    (
        "work moves before a reshape",
        lambda x: op.relu(op.reshape(op.exp(x), shape=(-1,))),
        ["exp", "relu", "reshape"],
    ),
]


@pytest.mark.parametrize("body, expected", [a[1:] for a in ALGEBRA], ids=[a[0] for a in ALGEBRA])
def test_algebra(body: Callable[[GraphExpr], GraphExpr], expected: list[str]) -> None:
    before = build(lambda x: body(x), (2, 3, 8))
    after = canonicalise(before)
    assert ops_of(after) == expected
    check_values(before, after)


def test_product_with_a_transposed_matrix() -> None:
    before = build(lambda x, w: op.matmul(x, op.transpose(w)), (2, 3, 8), (5, 8))
    after = canonicalise(before)
    assert ops_of(after) == ["matmul"]
    check_values(before, after)


def test_transpose_that_moves_only_ones_is_a_reshape() -> None:
    before = build(lambda x: op.transpose(op.relu(x), permutation=(1, 0, 2)), (1, 4, 5))
    after = canonicalise(before)
    assert ops_of(after) == ["relu", "reshape"]
    check_values(before, after)


def batch_norm(x: GraphExpr, channels: int) -> GraphExpr:
    return op.batch_norm(
        x,
        weights(channels, seed=3),
        weights(channels, seed=4),
        weights(channels, seed=5),
        np.abs(weights(channels, seed=6)) + F(0.1),
        epsilon=1e-3,
    )


def test_batch_norm_goes_into_the_convolution() -> None:
    def body(x: GraphExpr) -> GraphExpr:
        y = op.conv(x, weights(6, 3, 3, 3), weights(6), pads=(1, 1, 1, 1))
        return op.relu(batch_norm(y, 6))

    before = build(body, (1, 3, 7, 7))
    after = canonicalise(before)
    assert ops_of(after) == ["conv", "relu"]
    check_values(before, after)


def test_batch_norm_goes_into_a_transposed_and_a_depthwise_convolution() -> None:
    def body(x: GraphExpr) -> GraphExpr:
        y = batch_norm(op.conv_transpose(x, weights(3, 4, 2, 2), strides=(2, 2)), 4)
        return batch_norm(op.conv(y, weights(4, 1, 3, 3), groups=4), 4)

    before = build(body, (1, 3, 4, 4))
    after = canonicalise(before)
    assert ops_of(after) == ["conv_transpose", "conv"]
    check_values(before, after)


def test_batch_norm_of_a_shared_convolution_is_scale_and_shift() -> None:
    def body(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
        y = builder.emit(op.conv(x, weights(6, 3, 1, 1)))
        return op.add(batch_norm(y, 6), y)

    before = build(body, (1, 3, 4, 4))
    after = canonicalise(before)
    assert ops_of(after) == ["conv", "mul", "add", "add"]
    check_values(before, after)


def test_pad_goes_into_the_convolution() -> None:
    before = build(
        lambda x: op.conv(op.pad(x, pads=(0, 0, 1, 2, 0, 0, 1, 0)), weights(4, 3, 3, 3)),
        (1, 3, 6, 6),
    )
    after = canonicalise(before)
    assert ops_of(after) == ["conv"]
    check_values(before, after)


def test_scale_and_bias_go_into_the_matrix() -> None:
    def body(x: GraphExpr) -> GraphExpr:
        y = op.add(op.matmul(x, weights(5, 6)), weights(6, seed=2))
        return op.relu(batch_norm(y, 6))

    before = build(body, (4, 5))
    after = canonicalise(before)
    assert ops_of(after) == ["matmul", "add", "relu"]
    check_values(before, after)


def test_product_of_rows_keeps_its_leading_axes() -> None:
    def body(x: GraphExpr) -> GraphExpr:
        rows = op.reshape(op.relu(x), shape=(-1, 5))
        return op.reshape(op.add(op.matmul(rows, weights(5, 6)), weights(6)), shape=(2, 3, 6))

    before = build(body, (2, 3, 5))
    after = canonicalise(before)
    assert ops_of(after) == ["relu", "matmul", "add"]
    check_values(before, after)
    before = build(lambda x: body(op.transpose(x)), (5, 3, 2))
    after = canonicalise(before)
    assert ops_of(after) == ["transpose", "relu", "matmul", "add"]
    check_values(before, after)


def test_reshape_that_breaks_columns_stays_behind_the_product() -> None:
    before = build(lambda x: op.reshape(op.matmul(x, weights(5, 6)), shape=(2, 3, 2, 3)), (2, 3, 5))
    assert canonicalise(before) is before


def test_split_becomes_slices() -> None:
    def body(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
        parts = builder.emit(op.split(x, sizes=(2, 4), axis=1))
        return op.concat(TupleGetItem(parts, 1), TupleGetItem(parts, 0), axis=1)

    before = build(body, (4, 6))
    after = canonicalise(before)
    assert ops_of(after) == ["slice", "slice", "concat"]
    check_values(before, after)


def test_symbolic_shapes_are_kept() -> None:
    n = Var("n")
    before = build(
        lambda x: op.relu(op.reshape(op.unsqueeze(x, axes=(0,)), shape=(n, 2, 4))), (n, 8)
    )
    after = canonicalise(before)
    assert ops_of(after) == ["reshape", "relu"]
    check_values(before, after, n=3)


def test_nothing_to_do_keeps_the_module() -> None:
    before = build(lambda x, y: op.add(op.exp(x), y), (2, 3), (2, 3))
    assert canonicalise(before) is before


def test_rules_are_documented_and_located() -> None:
    rules = {id(rule): rule for rules in RULES.values() for rule in rules}.values()
    assert all("->" in rule.doc for rule in rules), [r.place for r in rules if "->" not in r.doc]
    assert all("canonical_" in rule.place for rule in rules)
