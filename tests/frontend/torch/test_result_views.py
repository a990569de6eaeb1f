# SPDX-License-Identifier: Apache-2.0
"""Results of `torch.compile` that are views: of inputs, and of other results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import heddle.torch

_ = heddle.torch


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


def of_results(x: torch.Tensor) -> Any:
    y = x + 1
    return y, y[1:], y.t(), y.t()[:, 1:].unsqueeze(0), y[:, :2].transpose(0, 1)


def written_input(x: torch.Tensor) -> Any:
    x.mul_(2.0)
    return x[1:]


def of_inputs(x: torch.Tensor) -> Any:
    return x[1], x.reshape(-1)[3:], x.expand(2, *x.shape)[1], x.unbind(0)[2], x.split(2)[1]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "chunk": lambda x: torch.chunk(x, 2, 0)[1],
    "split": lambda x: torch.split(x, [1, x.shape[1] - 1], 1)[1],
    "transposed": lambda x: x.transpose(0, 1)[2:],
    "both halves": lambda x: (lambda y: (y[1:], y[:1]))(x * 2),
    "of results": of_results,
    "of inputs": of_inputs,
    "written input": written_input,
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_views(name: str, dynamic: bool) -> None:
    function = FUNCTIONS[name]
    compiled = torch.compile(function, backend="heddle", dynamic=dynamic, options={"strict": True})
    for x in (torch.randn(4, 6), torch.randn(4, 9), torch.randn(8, 9)[::2], torch.randn(9, 4).t()):
        expected, found = function(x.clone()), compiled(x.clone())
        pairs = zip(*(y if isinstance(y, tuple) else (y,) for y in (expected, found)), strict=True)
        for wanted, value in pairs:
            torch.testing.assert_close(value, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("dynamic", [False, True])
def test_views_share_memory(dynamic: bool) -> None:
    compiled = torch.compile(lambda x: x[1:], backend="heddle", dynamic=dynamic)
    x = torch.randn(4, 6)
    compiled(x).zero_()
    assert x[0].abs().sum() > 0
    assert x[1:].abs().sum() == 0


def test_views_of_complex_numbers() -> None:
    def parts(x: torch.Tensor) -> Any:
        return torch.view_as_complex(x)[1:], torch.view_as_complex(x).conj()[:, 1:]

    compiled = torch.compile(parts, backend="heddle", dynamic=True)
    for size in (5, 8):
        x = torch.randn(3, size, 2)
        for found, wanted in zip(compiled(x), parts(x), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)
