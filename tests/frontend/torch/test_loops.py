# SPDX-License-Identifier: Apache-2.0
"""Control flow of PyTorch (`while_loop`, `scan`, `map`, `cond`), compiled, against eager mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch._higher_order_ops.map import map as map_rows  # noqa: E402
from torch._higher_order_ops.scan import scan  # noqa: E402
from torch._higher_order_ops.while_loop import while_loop  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

import heddle  # noqa: E402
import heddle.torch  # noqa: E402
from heddle.frontend.torch import from_exported_program  # noqa: E402
from heddle.passes.graph.plan import plan_memory  # noqa: E402
from heddle.support import UserError  # noqa: E402


class Powers(nn.Module):
    """x times 2 until the sum is large: the condition depends on data, `scale` on none."""

    def forward(self, x: Tensor, most: Tensor) -> tuple[Tensor, ...]:
        scale = most / 2.0

        def going(i: Tensor, y: Tensor) -> Tensor:
            return (y.sum() < most) & (i < 20)

        def step(i: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return i + 1, y * 2 + scale * 0.01

        return while_loop(going, step, (torch.tensor(0), x))


WIDTH, HEADS, WORDS, CAPACITY = 16, 2, 32, 12


class Decoder(nn.Module):
    """A one-layer language model that feeds itself its most likely token, with a cache of keys and
    values, until it writes token 0 or `limit` tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.place = nn.Embedding(CAPACITY, WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.head = nn.Linear(WIDTH, WORDS)

    def step(self, at: Tensor, token: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        x = self.embed(token) + self.place(at)
        q, k, v = self.qkv(x).view(3, 1, HEADS, 1, WIDTH // HEADS)
        keys = keys.index_copy(2, at.reshape(1), k)
        values = values.index_copy(2, at.reshape(1), v)
        mask = (torch.arange(CAPACITY) <= at)[None, None, None, :]
        mixed = nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        logits = self.head(torch.tanh(mixed.reshape(WIDTH) + x))
        return logits.argmax(-1), keys, values

    def forward(self, token: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
        def going(at: Tensor, word: Tensor, *_rest: Tensor) -> Tensor:
            return (at < limit) & (word != 0)

        def body(
            at: Tensor, word: Tensor, out: Tensor, keys: Tensor, values: Tensor
        ) -> tuple[Tensor, ...]:
            following, keys, values = self.step(at, word, keys, values)
            out = out.index_copy(0, at.reshape(1), following.reshape(1))
            return at + 1, following, out, keys, values

        cache = torch.zeros(1, HEADS, CAPACITY, WIDTH // HEADS)
        start = (torch.tensor(0), token, torch.zeros(CAPACITY, dtype=torch.int64), cache, cache + 0)
        count, _, out, _, _ = while_loop(going, body, start)
        return count, out


def test_condition_of_data() -> None:
    model = Powers()
    x, most = torch.tensor([1.0, 2.0, 3.0]), torch.tensor(500.0)
    executable = heddle.compile(torch.export.export(model, (x, most)), cache=False)
    for start in (x, x * 1000, -x):
        count, y = executable(start, most)
        want = model(start, most)
        assert int(count.numpy()) == int(want[0])
        torch.testing.assert_close(torch.from_dlpack(y), want[1])


def test_greedy_decoder() -> None:
    torch.manual_seed(3)
    model = Decoder().eval()
    example = (torch.tensor(5), torch.tensor(7))
    program = torch.export.export(model, example)
    module = from_exported_program(program)
    executable = heddle.compile(module, cache=False)
    lengths = set()
    for first in range(0, WORDS, 3):
        for limit in (0, 1, 4, CAPACITY):
            given = torch.tensor(first), torch.tensor(limit)
            count, out = executable(*given)
            want = model(*given)
            assert int(count.numpy()) == int(want[0])
            assert out.numpy().tolist() == want[1].tolist()
            lengths.add(int(want[0]))
    assert len(lengths) > 2
    plan = plan_memory(heddle.optimize(module))
    (body,) = plan.functions.values()
    assert {3, 4, 5} <= set(body.shared)  # the tokens, the keys and the values: in place
    assert "index_copy" not in plan.kernels


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def counting(x: Tensor) -> Any:
    """Two numbers, which may be negative, and a tensor that one of them goes into."""
    return while_loop(
        lambda i, j, y: i * 2 + j < 9,
        lambda i, j, y: (i + 1, j - i // 3, y * 2 + i),
        (0, 1, x),
    )


def inside_another(x: Tensor) -> Any:
    def rows(i: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        inner = while_loop(lambda j, z: j < 3, lambda j, z: (j + 1, z + 1.0), (torch.tensor(0), y))
        return i + 1, inner[1]

    return while_loop(lambda i, y: i < 2, rows, (torch.tensor(0), x))


def running_sum(x: Tensor) -> Any:
    return scan(lambda c, row: (c + row, c * row), torch.zeros(3), x)


def running_pair(x: Tensor) -> Any:
    start = (torch.zeros(3), torch.ones(3))
    return scan(lambda c, row: ((c[0] + row, c[1] * 0.5), c[0] * row), start, x, reverse=True)


def each_row(x: Tensor) -> Any:
    return map_rows(lambda row: row.sin() + row.sum(), x)


def either(x: Tensor) -> Any:
    return torch.cond(x.shape[0] > 4, lambda y: y * 2, lambda y: y - 1, (x,))


LOOPS = [counting, running_sum, running_pair, each_row]


def check(found: Any, expected: Any) -> None:
    for got, want in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(want))


@pytest.mark.parametrize("function", LOOPS)
def test_exported(function: Callable[..., Any]) -> None:
    x = torch.randn(5, 3)
    dynamic = (({0: torch.export.Dim("rows", min=2, max=64)},),)
    program = torch.export.export(Function(function), (x,), dynamic_shapes=dynamic)
    executable = heddle.compile(program, cache=False)
    for rows in (2, 5, 20):
        x = torch.randn(rows, 3)
        found = executable(x)
        found = found if isinstance(found, tuple) else (found,)
        check([torch.from_dlpack(item) for item in found], function(x))


@pytest.mark.filterwarnings("ignore:Pred is a Python constant")
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("function", [*LOOPS, inside_another, either])
def test_compiled(function: Callable[..., Any], dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(function, backend="heddle", dynamic=dynamic, options={"strict": True})
    with torch.no_grad():
        for rows in (5, 2, 7):
            x = torch.randn(rows, 3)
            check(compiled(x), function(x))


def test_what_pytorch_refuses_is_an_error_of_the_user() -> None:
    """torch itself cannot make this loop functional."""

    def sized(x: Tensor) -> Any:
        return while_loop(lambda i, y: i < x.shape[0], lambda i, y: (i + 1, y + x.sum()), (0, x))

    program = torch.export.export(Function(sized), (torch.ones(2),))
    with pytest.raises(UserError, match="PyTorch cannot decompose it"):
        heddle.compile(program, cache=False)
