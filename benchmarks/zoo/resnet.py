# SPDX-License-Identifier: Apache-2.0
"""Residual networks (He et al., 2015), with the stride in the 3x3 convolution (version 1.5), and
ResNeXt (Xie et al., 2016), whose 3x3 convolutions are in groups."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution without bias, then batch normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """One residual block: `relu(body(x) + shortcut(x))`."""

    def __init__(
        self, inputs: int, width: int, stride: int, bottleneck: bool, groups: int, group_width: int
    ) -> None:
        super().__init__()
        outputs = width * (4 if bottleneck else 1)
        relu = nn.ReLU(inplace=True)
        if bottleneck:
            inner = width * group_width * groups // 64
            self.body = nn.Sequential(
                conv_bn(inputs, inner, 1),
                relu,
                conv_bn(inner, inner, 3, stride, groups),
                relu,
                conv_bn(inner, outputs, 1),
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
    *,
    blocks: tuple[int, ...],
    bottleneck: bool,
    width: int = 64,
    groups: int = 1,
    group_width: int = 64,
    classes: int = 1000,
) -> nn.Module:
    """ResNet with `blocks[i]` blocks in stage i; (1, 3, 224, 224) to (1, classes) logits.

    A 3x3 convolution of a bottleneck has `groups` groups; at the first stage of the usual width
    (64) each has `group_width` channels, at the others in proportion.
    """
    layers: list[nn.Module] = [
        conv_bn(3, width, 7, 2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = width
    for stage, count in enumerate(blocks):
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            block = Block(channels, width << stage, stride, bottleneck, groups, group_width)
            layers.append(block)
            channels = (width << stage) * (4 if bottleneck else 1)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return torch.nn.Sequential(*layers, *head)
