# SPDX-License-Identifier: Apache-2.0
"""Residual networks (He et al., 2015), with the stride in the 3x3 convolution (version 1.5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, then batch normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """One residual block: `relu(body(x) + shortcut(x))`."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = width * (4 if bottleneck else 1)
        relu = nn.ReLU(inplace=True)
        if bottleneck:
            self.body = nn.Sequential(
                conv_bn(inputs, width, 1),
                relu,
                conv_bn(width, width, 3, stride),
                relu,
                conv_bn(width, outputs, 1),
            )
        else:
            self.body = nn.Sequential(
                conv_bn(inputs, width, 3, stride), relu, conv_bn(width, outputs, 3)
            )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.shortcut(x))


def resnet(
    *, blocks: tuple[int, ...], bottleneck: bool, width: int = 64, classes: int = 1000
) -> nn.Module:
    """ResNet with `blocks[i]` blocks in stage i; (1, 3, 224, 224) to (1, classes) logits."""
    layers: list[nn.Module] = [
        conv_bn(3, width, 7, 2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = width
    for stage, count in enumerate(blocks):
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            layers.append(Block(channels, width << stage, stride, bottleneck))
            channels = (width << stage) * (4 if bottleneck else 1)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return torch.nn.Sequential(*layers, *head)
