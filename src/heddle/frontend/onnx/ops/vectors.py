# SPDX-License-Identifier: Apache-2.0
"""Support vector machines (domain ai.onnx.ml)."""

from __future__ import annotations

import itertools
from typing import Any, Final

import numpy as np

from heddle.frontend.onnx.node import Node, rank, shape
from heddle.frontend.onnx.ops.classical import class_names, label_of, transformed
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.report import Unsupported
from heddle.graph import Constant, GraphExpr
from heddle.ir.expr import as_int
from heddle.support import UserError

_DOMAIN: Final = "ai.onnx.ml"
_PROBABLE: Final = 1e-7
"""Probabilities of pairs keep this distance from 0 and 1."""


def _constant(data: Any) -> Constant:
    return Constant(np.ascontiguousarray(data, np.float32))


def _rows(node: Node) -> GraphExpr:
    """Input 0 as rows of float32: a vector is one."""
    x = node.cast(node.tensor(0), "float32")
    return node.reshape(x, (1, shape(x)[0])) if rank(x) == 1 else x


def _matrix(node: Node, x: GraphExpr, name: str, count: int) -> np.ndarray:
    """An attribute as `count` rows of as many numbers as x has features."""
    data = np.asarray(node.attr.floats(name), np.float32)
    if not count or data.size % count:
        raise UserError(f"attribute `{name}` has {data.size} numbers for {count} rows")
    width = as_int(shape(x)[1])
    if width is not None and data.size // count != width:
        raise UserError(f"attribute `{name}` has {data.size // count} in a row, X has {width}")
    return data.reshape(count, -1)


def _kernel(node: Node, x: GraphExpr, vectors: np.ndarray, name: str) -> GraphExpr:
    """[rows, vectors]: how alike each row of x is to each vector."""
    gamma, offset, degree = [*node.attr.floats("kernel_params", ()), 0.0, 0.0, 0.0][:3]
    if name == "RBF":
        away = node.op.sub(node.op.unsqueeze(x, axes=(1,)), _constant(vectors))
        distance = node.op.sum(node.op.mul(away, away), axes=(2,))
        return node.op.exp(node.op.mul(distance, node.scalar(-gamma, x)))  # type: ignore[no-any-return]
    product: GraphExpr = node.op.matmul(x, _constant(vectors.T))
    if name == "LINEAR":
        return product
    moved = node.op.add(node.op.mul(product, node.scalar(gamma, x)), node.scalar(offset, x))
    if name == "SIGMOID":
        return node.op.tanh(moved)  # type: ignore[no-any-return]
    if name != "POLY":
        raise UserError(f"attribute `kernel_type` is `{name}`, expected LINEAR, POLY, RBF, SIGMOID")
    return node.op.pow(moved, node.scalar(degree, x))  # type: ignore[no-any-return]


@converts("SVMRegressor", domain=_DOMAIN)
def _regressor(node: Node) -> Any:
    """A weighted sum of kernels, or of the features where there are no vectors."""
    x = _rows(node)
    count = node.attr.int("n_supports", 0)
    weights = np.asarray(node.attr.floats("coefficients"), np.float32).reshape(-1, 1)
    features = x
    if count:
        vectors = _matrix(node, x, "support_vectors", count)
        features = _kernel(node, x, vectors, node.attr.string("kernel_type", "LINEAR"))
    rho = node.attr.floats("rho", (0.0,))
    sums = node.op.add(node.op.matmul(features, _constant(weights)), node.scalar(rho[0], x))
    if node.attr.flag("one_class"):
        inside = node.op.greater(sums, node.scalar(0, x))
        return node.op.where(inside, node.scalar(1, x), node.scalar(-1, x))
    return sums  # ONNX Runtime does not look at `post_transform` either


@converts("SVMClassifier", domain=_DOMAIN)
def _classifier(node: Node) -> Any:
    """The class, and scores: of pairs of classes, or of classes where there are probabilities or no
    vectors."""
    x = _rows(node)
    names = class_names(node)
    counts = node.attr.ints("vectors_per_class", ())
    if not counts:
        return _linear(node, x, names)
    pairs = list(itertools.combinations(range(len(counts)), 2))
    vectors = _matrix(node, x, "support_vectors", sum(counts))
    alike = _kernel(node, x, vectors, node.attr.string("kernel_type", "LINEAR"))
    rho = np.asarray(node.attr.floats("rho"), np.float32)
    if len(rho) != len(pairs) or len(names) != len(counts):
        raise UserError(
            f"{len(rho)} of `rho` and {len(names)} names for {len(counts)} classes, "
            f"expected {len(pairs)} and {len(counts)}"
        )
    weights = _pair_weights(node, counts, pairs)
    sums = node.op.add(node.op.matmul(alike, _constant(weights)), _constant(rho))
    first = node.cast(node.op.greater(sums, node.scalar(0, x)), "float32")
    elected = np.zeros((2, len(pairs), len(counts)), np.float32)
    for at, (one, other) in enumerate(pairs):
        elected[0, at, one] = elected[1, at, other] = 1
    second = node.op.sub(node.scalar(1, x), first)
    votes = node.op.add(
        node.op.matmul(first, _constant(elected[0])), node.op.matmul(second, _constant(elected[1]))
    )
    label = label_of(node, names, node.op.argmax(votes, axis=1))
    return label, _scores(node, sums, len(counts))


def _pair_weights(node: Node, counts: tuple[int, ...], pairs: list[tuple[int, int]]) -> np.ndarray:
    """[vectors, pairs]: of a pair, the vectors of the first class weigh what the row of the other
    says, those of the second what the row of the first says; the row of oneself is left out."""
    total = sum(counts)
    rows = np.asarray(node.attr.floats("coefficients"), np.float32)
    if rows.size != total * (len(counts) - 1):
        raise UserError(
            f"attribute `coefficients` has {rows.size} numbers, expected {len(counts) - 1} for "
            f"each of {total} vectors"
        )
    rows = rows.reshape(-1, total)
    ends = np.cumsum([0, *counts])
    weights = np.zeros((total, len(pairs)), np.float32)
    for at, (one, other) in enumerate(pairs):
        mine, theirs = slice(*ends[one : one + 2]), slice(*ends[other : other + 2])
        weights[mine, at] = rows[other - 1, mine]
        weights[theirs, at] = rows[one, theirs]
    return weights


def _scores(node: Node, sums: GraphExpr, classes: int) -> GraphExpr:
    """What the second output is, of the sums of pairs."""
    transform = node.attr.string("post_transform", "NONE")
    slopes = np.asarray(node.attr.floats("prob_a", ()), np.float32)
    if slopes.size:
        offsets = np.asarray(node.attr.floats("prob_b"), np.float32)
        line = node.op.add(node.op.mul(sums, _constant(slopes)), _constant(offsets))
        pairs = node.op.clip(
            node.op.sigmoid(node.op.negative(line)), min=_PROBABLE, max=1 - _PROBABLE
        )
        return transformed(node, node.op.couple(pairs, classes=classes), transform)
    if classes > 2:
        return transformed(node, sums, transform)
    # Of two classes a score each, of which the second is that of the pair.
    if transform == "PROBIT":
        raise Unsupported("post_transform PROBIT")
    opposite = node.op.negative(sums)
    if transform == "LOGISTIC":
        sums, opposite = node.op.sigmoid(sums), node.op.sigmoid(opposite)
    elif transform != "NONE":
        opposite = node.op.sub(node.scalar(1, sums), sums)
    return node.op.concat(opposite, sums, axis=1)  # type: ignore[no-any-return]


def _linear(node: Node, x: GraphExpr, names: np.ndarray) -> Any:
    """Without vectors: weights of the features for each class."""
    weights = _matrix(node, x, "coefficients", len(names))
    rho = node.attr.floats("rho", (0.0,))
    sums = node.op.add(node.op.matmul(x, _constant(weights.T)), node.scalar(rho[0], x))
    place = node.op.argmax(sums, axis=1)
    if len(rho) == 1 and len(names) == 2:
        best = node.op.max(sums, axes=(1,))
        limit = node.op.greater(best, node.scalar(0, x))
        if (weights >= 0).all():
            limit = node.op.greater_equal(best, node.scalar(0.5, x))
        place = node.op.where(limit, Constant(np.asarray(1)), place)
    found = transformed(node, sums, node.attr.string("post_transform", "NONE"))
    return label_of(node, names, place), found
