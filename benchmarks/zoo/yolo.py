# SPDX-License-Identifier: Apache-2.0
"""A one-stage detector in the manner of YOLOv5: a backbone of split stages, features joined up and
down the scales, one head a scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps=1e-3), nn.SiLU())


class Bottleneck(nn.Module):
    """1x1 and 3x3, added to the input where `residual`."""

    def __init__(self, channels: int, residual: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(channels, channels), _conv(channels, channels, 3))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class SplitStage(nn.Module):
    """Half of the channels goes through bottlenecks, half around them."""

    def __init__(self, inputs: int, outputs: int, count: int, *, residual: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.deep = nn.Sequential(
            _conv(inputs, half), *(Bottleneck(half, residual) for _ in range(count))
        )
        self.around = _conv(inputs, half)
        self.join = _conv(2 * half, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([self.deep(x), self.around(x)], dim=1))


class PyramidPool(nn.Module):
    """The input beside three maximum poolings of growing reach."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.reduce, self.join = _conv(channels, half), _conv(4 * half, channels)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.reduce(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.join(torch.cat(parts, dim=1))


class Detector(nn.Module):
    """An image to one map of raw predictions a scale: strides 8, 16 and 32."""

    def __init__(self, width: int, depth: int, predictions: int) -> None:
        super().__init__()
        a, b, c, d, e = (width << level for level in range(5))
        self.stem = nn.Sequential(_conv(3, a, 3, 2), _conv(a, b, 3, 2), SplitStage(b, b, depth))
        self.stage3 = nn.Sequential(_conv(b, c, 3, 2), SplitStage(c, c, 2 * depth))
        self.stage4 = nn.Sequential(_conv(c, d, 3, 2), SplitStage(d, d, 3 * depth))
        self.stage5 = nn.Sequential(_conv(d, e, 3, 2), SplitStage(e, e, depth), PyramidPool(e))
        self.lateral5, self.lateral4 = _conv(e, d), _conv(d, c)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.top4 = SplitStage(2 * d, d, depth, residual=False)
        self.top3 = SplitStage(2 * c, c, depth, residual=False)
        self.down3, self.down4 = _conv(c, c, 3, 2), _conv(d, d, 3, 2)
        self.out4 = SplitStage(2 * c, d, depth, residual=False)
        self.out5 = SplitStage(2 * d, e, depth, residual=False)
        self.heads = nn.ModuleList(nn.Conv2d(n, predictions, 1) for n in (c, d, e))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        third = self.stage3(self.stem(x))
        fourth = self.stage4(third)
        fifth = self.lateral5(self.stage5(fourth))
        middle = self.lateral4(self.top4(torch.cat([self.up(fifth), fourth], dim=1)))
        low = self.top3(torch.cat([self.up(middle), third], dim=1))
        mid = self.out4(torch.cat([self.down3(low), middle], dim=1))
        high = self.out5(torch.cat([self.down4(mid), fifth], dim=1))
        maps = zip(self.heads, (low, mid, high), strict=True)
        return tuple(head(value) for head, value in maps)


def yolo(*, width: int = 32, depth: int = 1, predictions: int = 255) -> nn.Module:
    """The size of YOLOv5s by default; (1, 3, n, n) to (1, predictions, n/8, n/8), /16 and /32."""
    return Detector(width, depth, predictions)
