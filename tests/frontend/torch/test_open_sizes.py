# SPDX-License-Identifier: Apache-2.0
"""Operators along axes whose size is known at run time, exported and under `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._higher_order_ops.associative_scan import associative_scan
from torch.export import Dim
from torch.nn import functional as F

import heddle
import heddle.torch


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


class Call(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def holed(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, 1::2] = y[:, 1::2] * 2
    return y


def tensors(value: Any) -> list[torch.Tensor]:
    found = torch.utils._pytree.tree_leaves(value)
    return [torch.view_as_real(x.resolve_conj()) if x.is_complex() else x for x in found]


EXPORTED: dict[str, Callable[[torch.Tensor], Any]] = {
    "fft": torch.fft.fft,
    "inverse fft": lambda x: torch.fft.ifft(x, dim=0, norm="ortho"),
    "rfft": lambda x: torch.fft.rfft(x, norm="ortho"),
    "fft of two axes": lambda x: torch.fft.fft2(x, norm="forward"),
    "roll": lambda x: (torch.roll(x, 2, 1), torch.roll(x, -3, 1), torch.roll(x, 5)),
    "running extremes": lambda x: (x.cummax(1), x.cummin(0)),
    "logcumsumexp": lambda x: x.logcumsumexp(1),
    "adaptive average": lambda x: F.adaptive_avg_pool1d(x[None], 4),
    "adaptive extreme": lambda x: F.adaptive_max_pool1d(x[None], 3, return_indices=True),
    "unique": lambda x: torch.unique(x.long().flatten(), return_inverse=True)[1],
}
COMPILED: dict[str, Callable[[torch.Tensor], Any]] = {
    **EXPORTED,
    "irfft": lambda x: torch.fft.irfft(torch.fft.rfft(x) * 2, n=x.shape[1]),
    "every second": holed,
    "pdist": lambda x: torch.pdist(x.T),
    "adaptive average of two axes": lambda x: F.adaptive_avg_pool2d(x.expand(2, 3, -1), (2, 3)),
    "roll by a size": lambda x: torch.roll(x, x.shape[1] // 2, 1),
}
SIZES = (16, 7, 40)


def close(found: Any, expected: Any) -> None:
    for value, wanted in zip(tensors(found), tensors(expected), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", list(EXPORTED))
def test_exported(name: str) -> None:
    model = Call(EXPORTED[name])
    shapes = ({1: Dim("n", min=4, max=512)},)
    exe = heddle.compile(
        model, example_inputs=(torch.randn(3, 16),), dynamic_shapes=shapes, cache=False
    )
    for size in SIZES:
        x = torch.randn(3, size)
        found = exe(x)
        found = found if isinstance(found, tuple) else (found,)
        close([torch.from_dlpack(item) for item in found], model(x))


@pytest.mark.parametrize("name", list(COMPILED))
def test_compiled(name: str) -> None:
    function = COMPILED[name]
    compiled = torch.compile(function, backend="heddle", dynamic=True, options={"strict": True})
    for size in SIZES:
        x = torch.randn(3, size)
        close(compiled(x), function(x))


def test_associative_scan() -> None:
    """PyTorch takes it apart into slices whose sizes are equal by conditions of the program."""

    def products(x: torch.Tensor) -> torch.Tensor:
        return associative_scan(torch.mul, x, 0, combine_mode="generic")

    def recurrence(x: torch.Tensor) -> Any:
        def merge(a: Any, b: Any) -> Any:
            return a[0] * b[0], a[1] * b[0] + b[1]

        return associative_scan(merge, (x, x + 1), 1, combine_mode="generic")

    for function, dims in ((products, (1, 0)), (recurrence, (0, 1))):
        torch._dynamo.reset()
        how: dict[str, Any] = {"dynamic": True, "options": {"strict": True}}
        compiled = torch.compile(function, backend="heddle", **how)
        for size in (16, 17, 9):
            x = torch.randn(3, size).permute(dims).contiguous()
            close(compiled(x), function(x))
