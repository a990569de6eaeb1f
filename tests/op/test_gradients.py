# SPDX-License-Identifier: Apache-2.0
"""Every operator's gradient: by the numpy rules in float64, against differences of values.

For a sample with arguments x, a random cotangent c and random directions v, the derivative of
sum(c * f(x)) along v is computed twice: from the rule "grad", in the reference interpreter, and as
a central difference. Directions are random, so that one of them sees any wrong element.
"""

from __future__ import annotations

import functools
import zlib
from typing import Any

import numpy as np
import pytest

from heddle import op
from heddle.graph import Function, GraphBuilder, TupleGetItem, verify_module
from heddle.ir import DType, IRModule, TensorType
from heddle.op.interp import interpret
from heddle.op.sample import Sample
from heddle.passes.graph.gradient import gradient

OPS = sorted(op.all_ops())
STEP = 1e-6
# The difference of order STEP^2 loses half the digits of float64 to rounding: 1e-16 / 1e-6, times
# sums of a few dozen terms.
TOLERANCE = 1e-6
DIRECTIONS = 3
MISSING = {"pack_dot", "matmul_dot", "conv2d_dot", "row_taps", "winograd_conv2d_nchwc"}
"""Differentiable, but without a rule: products in a form for one processor, which passes choose
after a graph was differentiated. Asking for their gradient is a `UserError`."""
LINEAR_IN_FLOAT32 = {"dequantize": 0.5}
"""Computed in float32 whatever the dtype: a difference needs a long step, which costs nothing."""
FIXED = {("pow", 1): {"x1"}}
"""Arguments that cannot be moved: a negative base has powers at whole exponents only."""


def _float_samples(name: str) -> list[int]:
    """The samples that can be differentiated: of finite floats, with results of floats."""
    found = []
    for index, sample in enumerate(op.get(name).sample_cases):
        arrays = _draw(name, index)
        floats = [a for a in arrays if a is not None and a.dtype == np.float64]
        if not floats or not all(np.isfinite(a).all() for a in floats):
            continue
        call = op.get(name)(*arrays, **sample.attrs)
        values = op.get(name).evaluate([a for a in arrays if a is not None], call.attrs)
        results = values if isinstance(values, tuple) else (values,)
        # A cast to half precision has steps where its gradient has none.
        smooth = [r for r in results if r.dtype in (np.float32, np.float64)]
        if smooth and all(np.isfinite(r).all() for r in smooth):
            found.append(index)
    return found


def _draw(name: str, index: int) -> list[np.ndarray | None]:
    """The arguments of a sample, floats as float64."""
    sample = op.get(name).sample_cases[index]
    seed = zlib.crc32(f"gradient {name} {index}".encode())
    return [
        a.astype(np.float64) if a is not None and DType.of(a.dtype).is_float else a
        for a in sample.draw(seed)
    ]


def _module(name: str, sample: Sample, arrays: list[np.ndarray | None]) -> IRModule:
    """`main` gives the sum over all results of floats of result times a cotangent parameter."""
    builder = GraphBuilder("main")
    args = [
        None if a is None else builder.param(f"x{i}", TensorType.of(a.shape, DType.of(a.dtype)))
        for i, a in enumerate(arrays)
    ]
    value = builder.emit(op.get(name)(*args, **sample.attrs))
    fields = (
        [value]
        if isinstance(value.type, TensorType)
        else [builder.emit(TupleGetItem(value, i)) for i in range(len(value.type.fields))]
    )
    total: Any = None
    for position, part in enumerate(f for f in fields if f.type.dtype.is_float):
        weight = builder.param(f"c{position}", TensorType(part.type.shape, DType.of("float64")))
        term = op.sum(op.cast(part, dtype="float64") * weight)
        total = term if total is None else total + term
    return IRModule({"main": builder.finish(builder.emit(total, name="total"))})


def _function(module: IRModule) -> Function:
    found = module["main"]
    assert isinstance(found, Function)
    return found


def _feeds(module: IRModule, arrays: list[np.ndarray | None], rng: Any) -> dict[str, np.ndarray]:
    feeds = {f"x{i}": a for i, a in enumerate(arrays) if a is not None}
    for param in _function(module).params:
        if param.name not in feeds:
            feeds[param.name] = rng.uniform(-1, 1, param.type.static_shape)
    return feeds


def _movable(name: str, index: int, feeds: dict[str, np.ndarray]) -> list[str]:
    fixed = FIXED.get((name, index), ())
    return [n for n, a in feeds.items() if n[0] == "x" and n not in fixed and a.dtype == np.float64]


def check_directions(
    module: IRModule,
    wrt: list[str],
    feeds: dict[str, np.ndarray],
    rng: np.random.Generator,
    step: float = STEP,
) -> None:
    """The gradients of the scalar `main` by `wrt` against central differences."""
    differentiated = gradient(module, wrt)
    verify_module(differentiated)
    gradients = interpret(differentiated, feeds)
    for name, found in zip(wrt, gradients, strict=True):
        assert found.shape == feeds[name].shape
    for _ in range(DIRECTIONS):
        steps = {name: rng.uniform(-1, 1, feeds[name].shape) for name in wrt}
        ahead = {**feeds, **{n: feeds[n] + step * v for n, v in steps.items()}}
        behind = {**feeds, **{n: feeds[n] - step * v for n, v in steps.items()}}
        wanted = (interpret(module, ahead) - interpret(module, behind)) / (2 * step)
        terms = [np.sum(g * steps[n]) for n, g in zip(wrt, gradients, strict=True)]
        size = 1.0 + sum(float(np.abs(g).sum()) for g in gradients)
        assert abs(sum(terms) - wanted) <= TOLERANCE * size, (sum(terms), wanted)


DIFFERENTIABLE = [name for name in OPS if op.get(name).has_rule("grad")]
CASES = [
    pytest.param(name, index, id=f"{name}-{index}")
    for name in DIFFERENTIABLE
    for index in _float_samples(name)
]


@pytest.mark.parametrize("name", OPS)
def test_every_operator_says_what_its_gradient_is(name: str) -> None:
    found = op.get(name)
    said = found.has_rule("grad") or bool(found.no_gradient)
    assert said != (name in MISSING), "neither a rule nor the reason for none"
    assert not (found.has_rule("grad") and found.no_gradient)


@pytest.mark.parametrize("name, index", CASES)
def test_gradient_is_the_slope(name: str, index: int) -> None:
    arrays = _draw(name, index)
    rng = np.random.default_rng(zlib.crc32(f"slope {name} {index}".encode()))
    module = _module(name, op.get(name).sample_cases[index], arrays)
    feeds = _feeds(module, arrays, rng)
    step = LINEAR_IN_FLOAT32.get(name, STEP)
    check_directions(module, _movable(name, index, feeds), feeds, rng, step)


SECOND = [name for name in DIFFERENTIABLE if _float_samples(name)]


@pytest.mark.parametrize("name", SECOND)
def test_gradients_have_gradients(name: str) -> None:
    """The gradient of the gradients, along random cotangents of both, of the first sample."""
    index = _float_samples(name)[0]
    arrays = _draw(name, index)
    rng = np.random.default_rng(zlib.crc32(f"curvature {name}".encode()))
    module = _module(name, op.get(name).sample_cases[index], arrays)
    feeds = _feeds(module, arrays, rng)
    wrt = _movable(name, index, feeds)
    first = _function(gradient(module, wrt))
    builder = GraphBuilder.continuing(first)
    terms = []
    for position, part in enumerate(first.result.fields):
        weight = builder.param(f"w{position}", part.type)
        terms.append(op.sum(part * weight))
    total = functools.reduce(op.add, terms)
    second = IRModule({"main": builder.finish(builder.emit(total))})
    step = LINEAR_IN_FLOAT32.get(name, STEP)
    check_directions(second, wrt, _feeds(second, arrays, rng) | feeds, rng, step)
