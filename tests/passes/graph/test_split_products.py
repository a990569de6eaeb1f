# SPDX-License-Identifier: Apache-2.0
"""Which products become sums of parts, what else is computed by parts, and that values stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

import heddle
from heddle import op
from heddle.graph import GraphBuilder, GraphExpr
from heddle.ir.expr import Var
from heddle.passes.graph.split_products import SplitProducts
from heddle.schedule.rules import split_depth
from heddle.target import Cache, parse
from tests.passes.graph.support import build, check_values, ops_of, weights

IN_EIGHTS = SplitProducts(lambda rows, columns, depth: (8,) * (depth // 8) or (depth,))
SUM = ["matmul", "matmul", "add"]


def product(x: GraphExpr, depth: int, columns: int, **attrs: object) -> GraphExpr:
    shape = (columns, depth) if attrs.get("transpose_b") else (depth, columns)
    return op.matmul(x, weights(*shape, seed=depth + columns), **attrs)


def feed_forward(x: GraphExpr) -> GraphExpr:
    hidden = op.gelu(op.add(product(x, 6, 16), weights(16)))
    return op.add(product(hidden, 16, 5), weights(5))


def gated(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
    gate = builder.emit(product(x, 6, 16))
    gate = op.mul(gate, op.sigmoid(gate))
    return product(op.mul(gate, product(x, 6, 16, transpose_b=True)), 16, 5, transpose_b=True)


def wanted_too(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
    hidden = builder.emit(op.relu(product(x, 6, 16)))
    return op.concat(product(hidden, 16, 5), hidden, axis=-1)


def with_a_residual(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
    wide = builder.emit(op.concat(x, x, x, axis=-1))
    return product(op.sub(wide, product(x, 6, 18)), 18, 4)


def per_row(x: GraphExpr) -> GraphExpr:
    scale = op.sum(x, axes=(-1,), keepdims=True)
    return product(op.mul(product(x, 6, 16), op.mul(scale, np.float32(2))), 16, 5)


def three_deep(x: GraphExpr) -> GraphExpr:
    return product(op.relu(product(op.relu(product(x, 6, 16)), 16, 24)), 24, 3)


CASES: list[tuple[str, Callable[..., GraphExpr], list[str]]] = [
    ("shallow", lambda x: product(x, 6, 16), ["matmul"]),
    ("feed forward", feed_forward, [*2 * ["matmul", "add", "gelu", "matmul"], "add", "add"]),
    (
        "several readers within",
        gated,
        [*2 * ["matmul", "sigmoid", "mul", "matmul", "mul", "matmul"], "add"],
    ),
    (
        "a reader outside",
        wanted_too,
        ["matmul", "relu", "slice", "matmul", "slice", "matmul", "add", "concat"],
    ),
    (
        "no product behind",
        lambda x: product(op.exp(op.concat(x, x, x, axis=-1)), 18, 5),
        ["concat", "exp", "slice", "matmul", "slice", "matmul", "add"],
    ),
    (
        "an operand that is there",
        with_a_residual,
        ["concat", *2 * ["slice", "matmul", "sub", "matmul"], "add"],
    ),
    ("one for all columns", per_row, ["sum", "mul", *2 * ["matmul", "mul", "matmul"], "add"]),
]


@pytest.mark.parametrize("body, expected", [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_split(body: Callable[..., GraphExpr], expected: list[str]) -> None:
    before = build(body, (2, 3, 6))
    parts = {16: (8, 8), 18: (10, 8)}
    after = SplitProducts(lambda rows, columns, depth: parts.get(depth, (depth,)))(before)
    assert sorted(ops_of(after)) == sorted(expected)
    check_values(before, after)


def test_columns_of_deep_products_are_shared() -> None:
    before = build(three_deep, (4, 6))
    after = IN_EIGHTS(before)
    # 2 columns of the first product; 3 columns of the second, sums of 2; the third, a sum of 3.
    assert ops_of(after).count("matmul") == 2 + 3 * 2 + 3
    check_values(before, after)


def test_rows_of_symbolic_number() -> None:
    seen = []

    def parts(rows: int, columns: int, depth: int) -> tuple[int, ...]:
        seen.append((rows, columns, depth))
        return (depth - 7, 7)

    before = build(lambda x: product(x, 12, 5), (Var("n"), 12))
    after = SplitProducts(parts)(before)
    assert seen[0] == (128, 5, 12)
    check_values(before, after, n=9)


@pytest.mark.parametrize(
    "body, shape",
    [
        (
            lambda x: op.matmul(op.cast(x, dtype="float16"), weights(16, 5).astype("float16")),
            (2, 16),
        ),
        (lambda x: op.matmul(x, weights(2, 16, 5)), (2, 3, 16)),
        (lambda x: op.matmul(x, weights(16, 4), transpose_a=True), (16, 2)),
        (lambda x: op.matmul(weights(5, 16), x), (16, 2)),
        (lambda x: op.matmul(x, op.exp(x), transpose_b=True), (2, 16)),
        (lambda x: op.matmul(x, weights(16, 4)), (16,)),
    ],
    ids=["half precision", "a stack", "turned", "on the left", "not constant", "a vector"],
)
def test_what_stays(body: Callable[[GraphExpr], GraphExpr], shape: tuple[int, ...]) -> None:
    before = build(body, shape)
    assert IN_EIGHTS(before) is before


def test_depths() -> None:
    target = dataclasses.replace(
        parse("llvm -mcpu=skylake-avx512"),
        caches=(Cache(32 << 10), Cache(1 << 20), Cache(32 << 20)),
    )
    larger = dataclasses.replace(target, caches=(Cache(48 << 10), Cache(2 << 20)))
    assert split_depth(128, 768, 768, target) == (768,)
    assert split_depth(128, 768, 3072, target) == (1040, 1040, 992)  # 1024 share sets of a cache
    assert split_depth(128, 768, 3072, larger) == (1536, 1536)
    assert split_depth(1, 4096, 4096, target) == (4096,)
    assert split_depth(128, 64, 3072, target) == (3072,)
    for depth in range(1, 20000, 61):
        parts = split_depth(197, 1000, depth, target)
        assert sum(parts) == depth
        assert min(parts) > 0


@pytest.mark.parametrize("rows, sizes", [(128, (257, 3072, 300)), (33, (4100, 256))])
def test_compiled(rows: int, sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(rows)
    x = rng.standard_normal((rows, sizes[0]), dtype=np.float32)
    matrices = [
        rng.standard_normal((a, b), dtype=np.float32) / np.float32(a) ** 0.5
        for a, b in pairwise(sizes)
    ]

    def body(value: GraphExpr) -> GraphExpr:
        for matrix in matrices[:-1]:
            value = op.relu(op.matmul(value, matrix))
        return op.matmul(value, matrices[-1])

    expected = x.astype(np.float64)
    for matrix in matrices[:-1]:
        expected = np.maximum(expected @ matrix, 0)
    expected = expected @ matrices[-1]
    result = np.asarray(heddle.compile(build(body, x.shape))(x))
    assert np.abs(result - expected).max() <= 3e-6 * np.abs(expected).max()
