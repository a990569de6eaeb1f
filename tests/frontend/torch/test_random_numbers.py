# SPDX-License-Identifier: Apache-2.0
"""Programs that are random, with the key of their numbers as an input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import heddle
from heddle.frontend.torch import from_exported_program
from heddle.support import UserError

COUNT = 20000


class Call(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def drawn(function: Callable[..., Any], x: torch.Tensor, *keys: int) -> list[np.ndarray]:
    """The results for each key; the module is compiled once."""
    with torch.no_grad():
        program = torch.export.export(Call(function), (x,), strict=False)
    exe = heddle.compile(from_exported_program(program, random_key=True), cache=False)
    return [exe(x, np.array([key, 7], np.uint32)).numpy() for key in keys]


# A function of zeros; mean and standard deviation of what it gives.
MOMENTS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], float, float]] = {
    "rand": (torch.rand_like, 0.5, 12**-0.5),
    "rand of a shape": (lambda x: torch.rand(COUNT), 0.5, 12**-0.5),
    "randn": (torch.randn_like, 0.0, 1.0),
    "randn double": (lambda x: torch.randn(COUNT, dtype=torch.float64), 0.0, 1.0),
    "uniform": (lambda x: x.uniform_(-1.0, 3.0), 1.0, 4 * 12**-0.5),
    "normal": (lambda x: x.normal_(2.0, 3.0), 2.0, 3.0),
    "normal of tensors": (lambda x: torch.normal(x + 1.0, x + 2.0), 1.0, 2.0),
    "exponential": (lambda x: x.exponential_(0.5), 2.0, 2.0),
    "randint": (lambda x: torch.randint(-3, 8, (COUNT,)), 2.0, 10**0.5),
    "randint like": (lambda x: torch.randint_like(x, 11), 5.0, 10**0.5),
    "bernoulli": (lambda x: torch.bernoulli(x + 0.2), 0.2, 0.4),
    "bernoulli p": (lambda x: x.bernoulli_(0.8), 0.8, 0.4),
    "dropout": (lambda x: F.dropout(x + 1, 0.2, True), 1.0, 0.5),
    "gumbel": (lambda x: -torch.log(x.exponential_(1.0)), np.euler_gamma, np.pi / 6**0.5),
}


@pytest.mark.parametrize("name", list(MOMENTS))
def test_moments(name: str) -> None:
    function, mean, deviation = MOMENTS[name]
    x = torch.zeros(COUNT)
    expected = function(x.clone())
    first, again, other = drawn(lambda x: function(x.clone()), x, 1, 1, 2)
    assert first.dtype == expected.numpy().dtype
    assert first.shape == expected.shape
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.2
    for found in (first, other, expected.numpy()):  # six standard errors
        assert abs(found.mean() - mean) < 6 * deviation / COUNT**0.5
        assert abs(found.std() - deviation) < 0.05 * deviation


def test_permutations() -> None:
    first, other = drawn(lambda x: torch.randperm(1000), torch.zeros(1), 1, 2)
    for found in (first, other):
        assert sorted(found.tolist()) == list(range(1000))
    assert (first != other).mean() > 0.9


@pytest.mark.parametrize("replacement", [False, True])
def test_multinomial(replacement: bool) -> None:
    def sample(x: torch.Tensor) -> torch.Tensor:
        return torch.multinomial(x.expand(COUNT, 4), 2, replacement)

    (found,) = drawn(sample, torch.tensor([0.0, 1.0, 3.0, 6.0]), 3)
    shares = np.bincount(found[:, 0], minlength=4) / COUNT
    np.testing.assert_allclose(shares, [0.0, 0.1, 0.3, 0.6], atol=0.02)
    assert bool((found[:, 0] == found[:, 1]).any()) == replacement


def test_operators_draw_different_numbers() -> None:
    (found,) = drawn(lambda x: torch.rand(100) - torch.rand(100), torch.zeros(1), 1)
    assert (found != 0).all()


def test_without_a_key_it_is_refused() -> None:
    program = torch.export.export(Call(torch.rand_like), (torch.zeros(3),), strict=False)
    with pytest.raises(UserError, match=r"random_key=True"):
        from_exported_program(program)
