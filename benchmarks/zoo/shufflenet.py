# SPDX-License-Identifier: Apache-2.0
"""ShuffleNetV2 (Ma et al., 2018): half of the channels pass untouched, then channels mix."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _pointwise(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


def _shuffle(x: Tensor) -> Tensor:
    """Channels of two halves taken in turns."""
    batch, channels, height, width = x.shape
    x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2)
    return x.reshape(batch, channels, height, width)


class Unit(nn.Module):
    """A unit of stride 1 (half of the channels pass) or 2 (both branches read all)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.stride = stride
        source = inputs if stride == 2 else half
        self.deep = nn.Sequential(
            *_pointwise(source, half), *_depthwise(half, stride), *_pointwise(half, half)
        )
        if stride == 2:
            self.around = nn.Sequential(*_depthwise(inputs, 2), *_pointwise(inputs, half))

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 2:
            return _shuffle(torch.cat([self.around(x), self.deep(x)], dim=1))
        around, deep = x.chunk(2, dim=1)
        return _shuffle(torch.cat([around, self.deep(deep)], dim=1))


def shufflenetv2(
    *,
    stages: tuple[tuple[int, int], ...] = ((116, 4), (232, 8), (464, 4)),
    head: int = 1024,
    classes: int = 1000,
) -> nn.Module:
    """ShuffleNetV2 x1.0 by default, stages as (channels, units); (1, 3, 224, 224) to logits."""
    channels = 24
    layers: list[nn.Module] = [
        nn.Conv2d(3, channels, 3, 2, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    for outputs, count in stages:
        for index in range(count):
            layers.append(Unit(channels, outputs, 1 if index else 2))
            channels = outputs
    layers += _pointwise(channels, head)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(head, classes))
