# SPDX-License-Identifier: Apache-2.0
"""Results whose size is counted in the data: `repeat_interleave`, `bincount`."""

from __future__ import annotations

import pytest
import torch

import heddle
from heddle.support import UserError


class Repeated(torch.nn.Module):
    def forward(self, x: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        found = torch.repeat_interleave(x, counts, dim=0)
        torch._check(found.shape[0] <= 12)
        return found * 2


class Counted(torch.nn.Module):
    def __init__(self, minlength: int) -> None:
        super().__init__()
        self.minlength = minlength

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = torch.bincount(x, minlength=self.minlength)
        weighted = torch.bincount(x, w, minlength=self.minlength)
        torch._check(found.shape[0] <= 12)
        torch._check(weighted.shape[0] <= 12)
        return found, weighted * 2


class Bare(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.bincount(x)


def test_repetitions() -> None:
    x = torch.randn(4, 3)
    exe = heddle.compile(Repeated(), example_inputs=(x, torch.tensor([1, 0, 3, 2])), cache=False)
    for counts in ([1, 0, 3, 2], [0, 0, 0, 0], [0, 5, 7, 0], [1, 1, 1, 1]):
        given = torch.tensor(counts)
        found = torch.from_dlpack(exe(x, given))
        torch.testing.assert_close(found, Repeated()(x, given))
    with pytest.raises(UserError):
        exe(x, torch.tensor([1, 0, 3, 9]))


@pytest.mark.parametrize("minlength", [0, 8])
def test_counts(minlength: int) -> None:
    model = Counted(minlength)
    x, w = torch.randint(0, 6, (20,)), torch.rand(20)
    exe = heddle.compile(model, example_inputs=(x, w), cache=False)
    for high in (6, 1, 12):
        given = torch.randint(0, high, (20,))
        for found, wanted in zip(exe(given, w), model(given, w), strict=True):
            torch.testing.assert_close(torch.from_dlpack(found), wanted)
    with pytest.raises(UserError):
        exe(torch.full((20,), 12), w)


def test_a_size_without_a_bound_is_refused() -> None:
    with pytest.raises(UserError, match=r"no upper bound; `torch._check"):
        heddle.compile(Bare(), example_inputs=(torch.arange(4),), cache=False)
