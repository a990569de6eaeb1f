# SPDX-License-Identifier: Apache-2.0
"""`torch.while_loop`: exported, compiled to a loop, compared with eager mode."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch._higher_order_ops.while_loop import while_loop  # noqa: E402

import heddle  # noqa: E402
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


def test_a_number_is_refused() -> None:
    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * 2), (0, x))[1]

    try:
        program = torch.export.export(Counting(), (torch.ones(2),))
    except Exception:
        pytest.skip("this PyTorch does not export a loop that carries a number")
    with pytest.raises(UserError, match="carries a number"):
        heddle.compile(program, cache=False)
