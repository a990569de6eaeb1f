# SPDX-License-Identifier: Apache-2.0
"""Inverses, determinants and solutions of linear equations, exported and under `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import heddle
import heddle.torch


class Call(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *xs: torch.Tensor) -> Any:
        return self.function(*xs)


def solve_from_the_right(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.linalg.solve(a, b, left=False)


CASES: dict[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]] = {
    "inverse": (torch.linalg.inv, ((3, 4, 4),)),
    "inverse of one": (torch.linalg.inv, ((9, 9),)),
    "negative power": (lambda x: torch.linalg.matrix_power(x, -2), ((4, 4),)),
    "det": (torch.linalg.det, ((3, 5, 5),)),
    "slogdet": (torch.linalg.slogdet, ((5, 5),)),
    "solve": (torch.linalg.solve, ((3, 4, 4), (3, 4, 2))),
    "solve vector": (torch.linalg.solve, ((4, 4), (4,))),
    "solve vectors": (torch.linalg.solve, ((3, 4, 4), (3, 4))),
    "solve batch": (torch.linalg.solve, ((3, 4, 4), (4, 2))),
    "solve from the right": (solve_from_the_right, ((3, 4, 4), (3, 2, 4))),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(CASES))
def test_values(name: str, dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    function, shapes = CASES[name]
    inputs = tuple(torch.randn(shape, dtype=dtype) for shape in shapes)
    expected = function(*inputs)
    wanted = tuple(expected) if isinstance(expected, tuple) else (expected,)
    near = {torch.float32: 1e-3, torch.float64: 1e-10}[dtype]

    exe = heddle.compile(Call(function), example_inputs=inputs, cache=False)
    found = exe(*inputs)
    found = found if isinstance(found, tuple) else (found,)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(torch.from_dlpack(a), b, rtol=near, atol=near)

    compiled = torch.compile(function, backend="heddle", options={"strict": True})(*inputs)
    compiled = compiled if isinstance(compiled, tuple) else (compiled,)
    for a, b in zip(compiled, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=near, atol=near)


def test_a_singular_matrix() -> None:
    """Where PyTorch raises an error, the result is not finite; `inv_ex` tells the pivot."""
    x = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    exe = heddle.compile(Call(torch.linalg.inv_ex), example_inputs=(x,), cache=False)
    inverse, info = (torch.from_dlpack(item) for item in exe(x))
    assert not inverse.isfinite().any()
    assert info.item() == torch.linalg.inv_ex(x).info.item() == 2
