# SPDX-License-Identifier: Apache-2.0
"""What a program writes to its inputs and buffers under `torch.compile`: in place, as PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    with torch.no_grad():
        yield
    torch._dynamo.reset()


class Cache(nn.Module):
    """Keys of the tokens so far, and how many there are."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(2, capacity, 4))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(1, at, x * self.scale)
        self.count += 1
        return self.keys.sum(1), self.keys


@pytest.mark.parametrize("freeze", [False, True])
def test_a_cache_is_written_where_it_lies(freeze: bool) -> None:
    model, eager = Cache(6), Cache(6)
    compiled = torch.compile(model, backend="heddle", options={"strict": True, "freeze": freeze})
    for step in range(5):
        x, at = torch.randn(2, 1, 4), torch.tensor([step])
        home, version = model.keys.data_ptr(), model.keys._version
        found, expected = compiled(x, at), eager(x, at)
        assert model.keys.data_ptr() == found[1].data_ptr() == home
        assert model.keys._version > version
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(model.keys, eager.keys)
        assert int(model.count) == step + 1


def test_the_cache_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The new value that the executable gives lies in the memory of the old one."""
    from heddle.driver.dynamo import part

    in_place: list[bool] = []
    overwrite = part._overwrite

    def watch(target: Tensor, value: Tensor) -> None:
        if target.ndim == 3:
            in_place.append(target.data_ptr() == value.data_ptr())
        overwrite(target, value)

    monkeypatch.setattr(part, "_overwrite", watch)
    compiled = torch.compile(Cache(1000), backend="heddle", options={"strict": True})
    for step in range(3):
        compiled(torch.randn(2, 1, 4), torch.tensor([step]))
    assert in_place == [True] * 3


def another_result_from_the_old(c: Tensor, x: Tensor) -> Any:
    y = c.clone()
    y[0] = x
    c.copy_(y * 2)
    return y


def results_of_the_new(c: Tensor, x: Tensor) -> Any:
    c[0] = x
    return c + 1, c.clone()


def a_view_of_the_input(c: Tensor, x: Tensor) -> Any:
    c.mul_(2)
    c[1] += x
    return c[1]


def the_old_value(c: Tensor, x: Tensor) -> Any:
    old = c.clone()
    c.fill_(3.0)
    return old


def two_inputs_swapped(c: Tensor, x: Tensor) -> Any:
    before = x.clone()
    x.copy_(c[0])
    c[0] = before
    return None


def an_operator_in_pytorch(c: Tensor, x: Tensor) -> Any:
    c.copy_(torch.special.i0(c) + x)
    return c.sum() + torch.special.i0(c / 10).sum()


@pytest.mark.filterwarnings("ignore::heddle.torch.FallbackWarning")
@pytest.mark.parametrize(
    "function",
    [
        another_result_from_the_old,
        results_of_the_new,
        a_view_of_the_input,
        the_old_value,
        two_inputs_swapped,
        an_operator_in_pytorch,
    ],
)
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.rand(4, 5),
        lambda: torch.rand(5, 4).T,
        lambda: torch.rand(4, 10)[:, ::2],
    ],
    ids=["dense", "transposed", "strided"],
)
def test_writes(function: Callable[..., Any], make: Callable[[], Tensor]) -> None:
    c, x = make(), torch.rand(5)
    eager_c, eager_x = make(), x.clone()
    eager_c.copy_(c)
    compiled = torch.compile(function, backend="heddle")
    kept: list[tuple[Any, list[Any]]] = []
    for _ in range(2):
        found = compiled(c, x)
        expected = function(eager_c, eager_x)
        kept.append((expected, tree_leaves(found)))
        torch.testing.assert_close((found, c, x), (expected, eager_c, eager_x))
    if function is not a_view_of_the_input:  # no later call changes what an earlier one gave
        for expected, leaves in kept:
            for a, b in zip(leaves, tree_leaves(expected), strict=True):
                assert a is b is None or torch.allclose(a, b)


def test_a_complex_input_is_written() -> None:
    def turn(c: Tensor) -> None:
        c.mul_(1j)

    c = torch.randn(3, dtype=torch.complex64)
    expected = c * 1j
    torch.compile(turn, backend="heddle", options={"strict": True})(c)
    torch.testing.assert_close(c, expected)
