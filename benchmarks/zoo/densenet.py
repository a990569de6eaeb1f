# SPDX-License-Identifier: Apache-2.0
"""DenseNet (Huang et al., 2016): every layer reads what all layers of its block wrote."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _norm_relu_conv(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return [nn.BatchNorm2d(inputs), nn.ReLU(), conv]


class DenseLayer(nn.Module):
    """Adds `growth` channels to the ones it reads, through a 1x1 bottleneck of four times that."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_norm_relu_conv(inputs, 4 * growth, 1), *_norm_relu_conv(4 * growth, growth, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], dim=1)


def densenet(
    *,
    blocks: tuple[int, ...] = (6, 12, 24, 16),
    growth: int = 32,
    classes: int = 1000,
) -> nn.Module:
    """DenseNet-121 by default; (1, 3, 224, 224) to (1, classes) logits."""
    channels = 2 * growth
    layers: list[nn.Module] = [
        nn.Conv2d(3, channels, 7, 2, 3, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    for stage, count in enumerate(blocks):
        for _ in range(count):
            layers.append(DenseLayer(channels, growth))
            channels += growth
        if stage + 1 < len(blocks):
            layers += [*_norm_relu_conv(channels, channels // 2, 1), nn.AvgPool2d(2, 2)]
            channels //= 2
    layers += [nn.BatchNorm2d(channels), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return nn.Sequential(*layers, *head)
