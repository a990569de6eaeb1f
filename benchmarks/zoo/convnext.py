# SPDX-License-Identifier: Apache-2.0
"""ConvNeXt (Liu et al., 2022): 7x7 depthwise convolutions, layer norms over channels, GELU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """A layer norm over the channels of an image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """x + scale * (a depthwise convolution, a norm, and two products over the channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, 4 * channels)
        self.project = nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.project(nn.functional.gelu(self.expand(y))) * self.scale
        return x + y.permute(0, 3, 1, 2)


def convnext(
    *,
    blocks: tuple[int, ...] = (3, 3, 9, 3),
    width: int = 96,
    classes: int = 1000,
) -> nn.Module:
    """ConvNeXt-T by default; (1, 3, 224, 224) to (1, classes) logits."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 4), ChannelNorm(width)]
    for stage, count in enumerate(blocks):
        channels = width << stage
        if stage:
            layers += [ChannelNorm(channels // 2), nn.Conv2d(channels // 2, channels, 2, 2)]
        layers += [Block(channels) for _ in range(count)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(channels, eps=1e-6)]
    return nn.Sequential(*layers, *head, nn.Linear(channels, classes))
