# SPDX-License-Identifier: Apache-2.0
"""Gradients that PyTorch keeps as operators of their own, with nothing left to PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils import parametrizations


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


def results(function: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...]) -> list[Any]:
    """The value of a call, and the gradients of the inputs of floats."""
    given = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
    value = function(*given)
    (value * torch.arange(value.numel()).sin().reshape(value.shape)).sum().backward()
    return [value.detach(), *(x.grad for x in given if x.requires_grad)]


def check(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> None:
    expected = results(function, inputs)
    compiled = torch.compile(function, backend="heddle", options={"strict": True})
    for found, wanted in zip(results(compiled, inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


INDEX = torch.tensor([1, 2, 2, 3, 4, 2, 5, 1, 1, 1, 6, 2])
BAGS: list[dict[str, Any]] = [
    {"mode": "sum"},
    {"mode": "mean"},
    {"mode": "max"},
    {"mode": "mean", "padding_idx": 2},
    {"mode": "max", "padding_idx": 1},
    {"mode": "sum", "padding_idx": 1},
]


@pytest.mark.parametrize("how", BAGS, ids=lambda how: " ".join(map(str, how.values())))
def test_bags(how: dict[str, Any]) -> None:
    table = torch.randn(9, 4)
    starts = torch.tensor([0, 3, 3, 8])
    check(lambda w, i, at: F.embedding_bag(i, w, at, **how), table, INDEX, starts)
    ends = torch.tensor([0, 3, 3, 8, 12])
    check(
        lambda w, i, at: F.embedding_bag(i, w, at, include_last_offset=True, **how),
        table,
        INDEX,
        ends,
    )
    check(lambda w, i: F.embedding_bag(i, w, **how), table, INDEX.reshape(3, 4))


def test_weighted_bags() -> None:
    def weighted(w: torch.Tensor, i: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        starts = torch.tensor([0, 3, 3, 8])
        return F.embedding_bag(i, w, starts, mode="sum", per_sample_weights=s, padding_idx=3)

    check(weighted, torch.randn(9, 4), INDEX, torch.rand(12))


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min", "prod"])
@pytest.mark.parametrize("initial", [None, 1.5])
def test_segments(reduce: str, initial: float | None) -> None:
    x = torch.randn(6, 3)
    x[0, 0] = x[3, 1] = x[4, 1] = 0.0  # products beside one zero and beside two
    if reduce in ("max", "min"):  # PyTorch shares only positive gradients among equals
        x = torch.randn(6, 3)
    how = {"unsafe": True, "initial": initial}
    lengths, offsets = torch.tensor([2, 3, 1]), torch.tensor([0, 2, 4, 6])
    check(lambda x, n: torch.segment_reduce(x, reduce, lengths=n, **how), x, lengths)
    check(lambda x, n: torch.segment_reduce(x, reduce, offsets=n, **how), x, offsets)


def test_fractional_pooling() -> None:
    def flat(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return F.fractional_max_pool2d(x, 2, output_size=(5, 4), _random_samples=u.detach())

    def deep(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return F.fractional_max_pool3d(
            x, (2, 3, 2), output_size=(3, 1, 4), _random_samples=u.detach()
        )

    check(flat, torch.randn(2, 3, 12, 11), torch.rand(2, 3, 2))
    check(flat, torch.randn(3, 12, 11), torch.rand(1, 3, 2))
    check(deep, torch.randn(2, 3, 8, 12, 11), torch.rand(2, 3, 3))


def test_special_functions() -> None:
    x = torch.rand(3, 5) * 5 + 0.3
    check(torch.lgamma, x)
    check(torch.digamma, x)
    check(lambda x: torch.polygamma(2, x), x)
    check(torch.erfinv, torch.rand(3, 5) * 1.8 - 0.9)


def test_weight_norm() -> None:
    for dim in (0, 2):
        layer = torch.nn.Conv1d(4, 6, 3)
        model = parametrizations.weight_norm(layer, dim=dim)
        names = dict(model.named_parameters())

        def run(
            x: torch.Tensor, *values: torch.Tensor, model: Any = model, names: Any = names
        ) -> torch.Tensor:
            given = dict(zip(names, values, strict=True))
            return torch.func.functional_call(model, given, (x,))

        check(run, torch.randn(2, 4, 9), *(p.detach() for p in names.values()))


def test_masked_scatter() -> None:
    mask = torch.rand(4, 5) > 0.4
    check(lambda x, m, y: x.masked_scatter(m, y), torch.randn(4, 5), mask, torch.randn(30))


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, float("inf")])
def test_distances(p: float) -> None:
    check(lambda a, b: torch.cdist(a, b, p), torch.randn(2, 4, 3), torch.randn(2, 5, 3))
    check(lambda a: torch.pdist(a, p), torch.randn(5, 3))


def test_leaks() -> None:
    check(lambda x: F.rrelu(x, training=False), torch.randn(4, 5))


def test_repetitions() -> None:
    def repeated(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        return torch.repeat_interleave(x, n, dim=1, output_size=7)

    check(repeated, torch.randn(2, 5, 3), torch.tensor([2, 0, 3, 1, 1]))
