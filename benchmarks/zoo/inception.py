# SPDX-License-Identifier: Apache-2.0
"""Inception-v3 (Szegedy et al., 2015): branches of several kernel sizes, joined by channels."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

_Size = int | tuple[int, int]
_Conv = Callable[..., nn.Module]


class Branches(nn.Module):
    """Applies each branch to the same input and joins the results by channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _conv(
    inputs: int,
    outputs: int,
    kernel: _Size = 1,
    stride: int = 1,
    padding: int | tuple[int, int] | None = None,
) -> nn.Module:
    if padding is None:
        padding = kernel // 2 if isinstance(kernel, int) else tuple(k // 2 for k in kernel)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps=1e-3), nn.ReLU())


def _pool() -> nn.Module:
    return nn.AvgPool2d(3, 1, 1)


def _block_a(inputs: int, pooled: int, n: Callable[[int], int]) -> nn.Module:
    """1x1, 5x5 and twice 3x3."""
    return Branches(
        _conv(inputs, n(64)),
        nn.Sequential(_conv(inputs, n(48)), _conv(n(48), n(64), 5)),
        nn.Sequential(_conv(inputs, n(64)), _conv(n(64), n(96), 3), _conv(n(96), n(96), 3)),
        nn.Sequential(_pool(), _conv(inputs, n(pooled))),
    )


def _reduce_a(inputs: int, n: Callable[[int], int]) -> nn.Module:
    """Half the height and width."""
    deep = (_conv(inputs, n(64)), _conv(n(64), n(96), 3), _conv(n(96), n(96), 3, 2, 0))
    return Branches(_conv(inputs, n(384), 3, 2, 0), nn.Sequential(*deep), nn.MaxPool2d(3, 2))


def _block_b(inputs: int, width: int, n: Callable[[int], int]) -> nn.Module:
    """7x7 as 1x7 and 7x1, once and twice."""
    c, row, column = n(width), (1, 7), (7, 1)
    once = (_conv(inputs, c), _conv(c, c, row), _conv(c, n(192), column))
    twice = (
        _conv(inputs, c),
        _conv(c, c, column),
        _conv(c, c, row),
        _conv(c, c, column),
        _conv(c, n(192), row),
    )
    return Branches(
        _conv(inputs, n(192)),
        nn.Sequential(*once),
        nn.Sequential(*twice),
        nn.Sequential(_pool(), _conv(inputs, n(192))),
    )


def _reduce_b(inputs: int, n: Callable[[int], int]) -> nn.Module:
    c = n(192)
    deep = (_conv(inputs, c), _conv(c, c, (1, 7)), _conv(c, c, (7, 1)), _conv(c, c, 3, 2, 0))
    return Branches(
        nn.Sequential(_conv(inputs, c), _conv(c, n(320), 3, 2, 0)),
        nn.Sequential(*deep),
        nn.MaxPool2d(3, 2),
    )


def _block_c(inputs: int, n: Callable[[int], int]) -> nn.Module:
    """3x3 as 1x3 beside 3x1."""

    def cross() -> nn.Module:
        return Branches(_conv(n(384), n(384), (1, 3)), _conv(n(384), n(384), (3, 1)))

    return Branches(
        _conv(inputs, n(320)),
        nn.Sequential(_conv(inputs, n(384)), cross()),
        nn.Sequential(_conv(inputs, n(448)), _conv(n(448), n(384), 3), cross()),
        nn.Sequential(_pool(), _conv(inputs, n(192))),
    )


def _scaled(count: int, *, width: float) -> int:
    return max(4, int(count * width))


def inception_v3(*, width: float = 1.0, repeats: int = 3, classes: int = 1000) -> nn.Module:
    """Inception-v3 without its auxiliary head; (1, 3, 299, 299) to (1, classes) logits.

    `width` scales all channels, `repeats` is the number of blocks with equal sizes.
    """
    n = functools.partial(_scaled, width=width)
    stem = [
        _conv(3, n(32), 3, 2, 0),
        _conv(n(32), n(32), 3, 1, 0),
        _conv(n(32), n(64), 3),
        nn.MaxPool2d(3, 2),
        _conv(n(64), n(80)),
        _conv(n(80), n(192), 3, 1, 0),
        nn.MaxPool2d(3, 2),
    ]
    layers: list[nn.Module] = []
    channels = n(192)
    for pooled in (32, 64, 64)[:repeats]:
        layers.append(_block_a(channels, pooled, n))
        channels = 2 * n(64) + n(96) + n(pooled)
    layers.append(_reduce_a(channels, n))
    channels += n(384) + n(96)
    for middle in (128, 160, 160, 192)[: repeats + 1]:
        layers.append(_block_b(channels, middle, n))
        channels = 4 * n(192)
    layers.append(_reduce_b(channels, n))
    channels += n(320) + n(192)
    for _ in range(max(1, repeats - 1)):
        layers.append(_block_c(channels, n))
        channels = n(320) + 4 * n(384) + n(192)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return nn.Sequential(*stem, *layers, *head)
