# SPDX-License-Identifier: Apache-2.0
"""Random graphs through all graph passes: verified after each, and executed from the plan."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from heddle import op
from heddle.graph import GraphBuilder, GraphExpr, Tuple, TupleGetItem, Var, verify_module
from heddle.ir import IRModule, TensorType
from heddle.ir.expr import Var as Symbol
from heddle.ir.passes import Pass, Pipeline, Verify
from heddle.op.interp import interpret
from heddle.passes.graph.assign_layouts import AssignLayouts
from heddle.passes.graph.canonicalise import canonicalise
from heddle.passes.graph.eliminate import eliminate_common_subexpressions, eliminate_dead_code
from heddle.passes.graph.fold_constants import fold_constants
from heddle.passes.graph.fuse import fuse
from heddle.passes.graph.gradient import gradient
from heddle.passes.graph.lower import Lower
from heddle.passes.graph.normalise import normalise
from heddle.passes.graph.plan import plan_memory
from tests.passes.graph.support import as_tuple, draw
from tests.passes.graph.test_plan import execute

F = np.float32
PIPELINE = Pipeline(
    [
        Pass("normalise", normalise),
        Pass("fold_constants", fold_constants),
        Pass("canonicalise", canonicalise),
        Pass("merge", eliminate_common_subexpressions),
        Pass("assign_layouts", AssignLayouts(4, lambda rows, columns, depth: 4)),
        Pass("remove", eliminate_dead_code),
        Pass("fuse", fuse),
        Pass("lower", Lower(in_place=True)),
    ]
)


class Images:
    """Values of shape [1, C, H, W], C from 1 to 8, H and W 1, 2 or 4."""

    def __init__(self, seed: int, number: type[np.floating] = F) -> None:
        self.number = number
        self.rng = np.random.default_rng(seed)
        self.builder = GraphBuilder("main")
        self.values: list[Var] = []
        for at in range(2):
            channels = int(self.rng.integers(1, 9))
            type_ = TensorType.of((1, channels, 4, 4), np.dtype(number).name)
            self.values.append(self.builder.param(f"x{at}", type_))

    def weights(self, *shape: int) -> np.ndarray:
        return (self.rng.uniform(-1, 1, shape) / max(1, np.prod(shape[1:])) ** 0.5).astype(
            self.number
        )

    def pick(self) -> tuple[Var, tuple[int, ...]]:
        chosen = self.values[int(self.rng.integers(max(0, len(self.values) - 5), len(self.values)))]
        shape = chosen.type.static_shape  # type: ignore[attr-defined]
        return chosen, shape

    def partner(self, shape: tuple[int, ...]) -> Var | np.ndarray:
        fitting = [v for v in self.values if v.type.static_shape == shape]  # type: ignore[attr-defined]
        if self.rng.random() < 0.3:
            return self.weights(*((shape[1], 1, 1) if self.rng.random() < 0.5 else (1,)))
        return fitting[int(self.rng.integers(len(fitting)))]

    def grow(self) -> None:
        x, shape = self.pick()
        steps: list[Callable[[], GraphExpr]] = [
            lambda: self.convolution(x, shape),
            lambda: self.convolution(x, shape),
            lambda: op.relu(x),
            lambda: op.mul(x, op.sigmoid(x)),
            lambda: op.tanh(x),
            lambda: op.add(x, self.partner(shape)),
            lambda: op.mul(x, self.partner(shape)),
            lambda: op.div(x, self.number(self.rng.choice([2.0, 3.0]))),
            lambda: op.mean(x, axes=(2, 3), keepdims=True),
            lambda: op.mul(x, op.sigmoid(op.mean(x, axes=(2, 3), keepdims=True))),
            lambda: op.max_pool(x, kernel=(2, 2), strides=(1, 1), pads=(0, 0, 1, 1)),
            lambda: op.concat(x, self.pick_like(shape), axis=1),
            lambda: op.transpose(x, permutation=(0, 1, 3, 2)),
            lambda: op.softmax(op.mul(x, self.number(0.5)), axis=-1),
            lambda: op.reshape(op.transpose(x, permutation=(0, 2, 3, 1)), shape=shape),
            lambda: op.matmul(x, self.weights(shape[3], shape[3])),
            lambda: self.batch_norm(x, shape[1]),
            lambda: self.halves(x, shape),
        ]
        made = steps[int(self.rng.integers(len(steps)))]()
        result = self.builder.emit(made)
        if result.type.static_shape[1] <= 12:  # type: ignore[attr-defined]
            self.values.append(result)

    def pick_like(self, shape: tuple[int, ...]) -> Var:
        partner = self.partner(shape)
        return (
            partner
            if isinstance(partner, Var)
            else self.builder.emit(op.broadcast_to(partner, shape=shape))
        )

    def convolution(self, x: Var, shape: tuple[int, ...]) -> GraphExpr:
        outputs = int(self.rng.integers(1, 9))
        kernel = int(self.rng.choice([1, 3]))
        pads = (kernel // 2,) * 4
        if self.rng.random() < 0.3:
            return op.conv(x, self.weights(shape[1], 1, kernel, kernel), groups=shape[1], pads=pads)
        weight = self.weights(outputs, shape[1], kernel, kernel)
        bias = self.weights(outputs) if self.rng.random() < 0.5 else None
        return op.conv(x, weight, bias, pads=pads)

    def batch_norm(self, x: Var, channels: int) -> GraphExpr:
        parts = [self.weights(channels) for _ in range(3)]
        return op.batch_norm(x, *parts, np.abs(self.weights(channels)) + self.number(0.5))

    def halves(self, x: Var, shape: tuple[int, ...]) -> GraphExpr:
        if shape[1] < 2:
            return op.exp(op.minimum(x, self.number(1)))
        first = shape[1] // 2
        parts = self.builder.emit(op.split(x, sizes=(first, shape[1] - first), axis=1))
        return op.concat(TupleGetItem(parts, 1), op.negative(TupleGetItem(parts, 0)), axis=1)

    def finish(self) -> IRModule:
        results = (self.values[-1], self.values[-3], self.builder.atom(op.relu(self.values[-2])))
        return IRModule({"main": self.builder.finish(Tuple(results))})


@pytest.mark.parametrize("seed", range(25))
def test_random_images(seed: int) -> None:
    graph = Images(seed)
    for _ in range(14):
        graph.grow()
    check(graph.finish())


def loss_of(graph: Images) -> IRModule:
    """The sum of the results of a random graph, each times weights of its own."""
    terms = []
    for value in (graph.values[-1], graph.values[-3], graph.values[-2]):
        terms.append(op.sum(value * graph.weights(*value.type.static_shape)))  # type: ignore[attr-defined]
    total = graph.builder.emit(terms[0] + terms[1] + terms[2])
    return IRModule({"main": graph.builder.finish(total)})


@pytest.mark.parametrize("seed", range(25))
def test_gradients_of_random_images(seed: int) -> None:
    """In float64 against a central difference along a random direction; in float32 the module of
    the gradients goes through all passes as any other does."""
    graph, exact = Images(seed), Images(seed, np.float64)
    for _ in range(14):
        graph.grow()
        exact.grow()
    check(gradient(loss_of(graph)))
    module = loss_of(exact)
    rng = np.random.default_rng(seed)
    inputs = draw(module, seed)
    step = [1e-6 * rng.uniform(-1, 1, x.shape) for x in inputs]
    ahead = interpret(module, [x + s for x, s in zip(inputs, step, strict=True)])
    behind = interpret(module, [x - s for x, s in zip(inputs, step, strict=True)])
    found = as_tuple(interpret(gradient(module), inputs))
    slope = sum(float(np.sum(g * s)) for g, s in zip(found, step, strict=True)) / 1e-6
    size = 1 + sum(float(np.abs(g).sum()) for g in found)
    # A difference of float64 over 2e-6 is good to about 1e-9 of the values; sums are a few hundred.
    assert abs(slope - float(ahead - behind) / 2e-6) <= 1e-6 * size


def check(before: IRModule, **symbols: int) -> None:
    lowered = PIPELINE.run(before, instruments=[Verify(verify_module)])
    plan = plan_memory(lowered)
    inputs = draw(before, **symbols)
    wanted = as_tuple(interpret(before, inputs))
    for result, expected in zip(execute(lowered, plan, inputs), wanted, strict=True):
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(result / scale, expected / scale, rtol=0, atol=1e-5)
    assert plan.report.arena >= plan.report.live_peak or not plan.calls


@pytest.mark.parametrize("size", [1, 5])
def test_a_transformer_layer_of_any_length(size: int) -> None:
    n = Symbol("n")
    rng = np.random.default_rng(3)

    def weights(*shape: int) -> np.ndarray:
        return (rng.uniform(-1, 1, shape) / shape[0] ** 0.5).astype(F)

    builder = GraphBuilder("main")
    x = builder.param("x", TensorType.of((1, n, 8), "float32"))
    heads = []
    for _ in range(3):
        projected = op.add(op.matmul(x, weights(8, 8)), weights(8))
        split = op.reshape(projected, shape=(1, n, 2, 4))
        heads.append(builder.emit(op.transpose(split, permutation=(0, 2, 1, 3))))
    scores = op.mul(op.matmul(heads[0], op.transpose(heads[1], permutation=(0, 1, 3, 2))), F(0.5))
    mixed = op.transpose(op.matmul(op.softmax(scores), heads[2]), permutation=(0, 2, 1, 3))
    joined = op.matmul(op.reshape(mixed, shape=(1, n, 8)), weights(8, 8))
    y = builder.emit(op.layer_norm(op.add(x, joined), weights(8), weights(8)))
    hidden = builder.emit(op.matmul(y, weights(8, 16)))
    gate = op.add(op.erf(op.div(hidden, F(2**0.5))), F(1))
    z = op.matmul(op.mul(op.mul(hidden, F(0.5)), gate), weights(16, 8))
    check(IRModule({"main": builder.finish(op.add(z, y))}), n=size)
