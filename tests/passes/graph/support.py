# SPDX-License-Identifier: Apache-2.0
"""Building small graphs, and checking that a pass keeps what they compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from heddle.graph import Call, Function, GraphBuilder, GraphExpr, verify_module
from heddle.ir import GlobalVar, IRModule, TensorType
from heddle.op.interp import interpret

ModulePass = Callable[[IRModule], IRModule]


def build(body: Callable[..., GraphExpr], *shapes: tuple[Any, ...]) -> IRModule:
    """A module whose `main` computes `body` of float32 parameters of these shapes."""
    builder = GraphBuilder("main")
    params = [
        builder.param(f"x{at}", TensorType.of(shape, "float32")) for at, shape in enumerate(shapes)
    ]
    result = body(*params) if body.__code__.co_argcount == len(params) else body(builder, *params)
    return IRModule({"main": builder.finish(result)})


def main_of(module: IRModule) -> Function:
    found = module["main"]
    assert isinstance(found, Function)
    return found


def ops_of(module: IRModule, function: str = "main") -> list[str]:
    """Names of what the bindings of a function call, in order."""
    found = module[function]
    assert isinstance(found, Function)
    names = []
    for binding in found.bindings:
        value = binding.value
        if isinstance(value, Call) or hasattr(value, "callee"):
            names.append(value.callee.name)
        else:
            names.append(type(value).__name__)
    return names


def kernels_of(module: IRModule) -> list[str]:
    """Names of the kernels that `main` calls, in order."""
    return [
        binding.value.callee.name
        for binding in main_of(module).bindings
        if isinstance(getattr(binding.value, "callee", None), GlobalVar)
    ]


def draw(module: IRModule, seed: int = 0, **symbols: int) -> list[np.ndarray]:
    """Random inputs of `main`."""
    rng = np.random.default_rng(seed)
    inputs = []
    for param in main_of(module).params:
        assert isinstance(param.type, TensorType)
        shape = [
            dim.value if hasattr(dim, "value") else symbols[dim.name] for dim in param.type.shape
        ]
        inputs.append(rng.uniform(-2, 2, shape).astype(param.type.dtype.numpy))
    return inputs


def as_tuple(value: Any) -> tuple[np.ndarray, ...]:
    return value if isinstance(value, tuple) else (value,)


def check_values(
    before: IRModule, after: IRModule, *, tolerance: float = 2e-6, **symbols: int
) -> None:
    """Both modules give the same results on random inputs, relative to the largest."""
    verify_module(after)
    inputs = draw(before, **symbols)
    wanted = as_tuple(interpret(before, inputs))
    results = as_tuple(interpret(after, inputs))
    assert len(results) == len(wanted)
    for result, expected in zip(results, wanted, strict=True):
        assert result.dtype == expected.dtype
        scale = max(1.0, float(np.abs(expected).max(initial=0)))
        np.testing.assert_allclose(result / scale, expected / scale, rtol=0, atol=tolerance)


def weights(*shape: int, seed: int = 1) -> np.ndarray:
    """Random constants."""
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)
