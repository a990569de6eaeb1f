# SPDX-License-Identifier: Apache-2.0
"""U-Net (Ronneberger et al., 2015) with batch normalisation and transposed convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _double(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Encoder, decoder, and a copy of each encoder level joined to its decoder level."""

    def __init__(self, width: int, levels: int, classes: int) -> None:
        super().__init__()
        sizes = [width << level for level in range(levels + 1)]
        self.down = nn.ModuleList(
            _double(inputs, outputs)
            for inputs, outputs in zip([3, *sizes[:-2]], sizes[:-1], strict=True)
        )
        self.bottom = _double(sizes[-2], sizes[-1])
        pairs = list(zip(sizes[:0:-1], sizes[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs)
        self.join = nn.ModuleList(_double(2 * b, b) for _, b in pairs)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        copies = []
        for level in self.down:
            x = level(x)
            copies.append(x)
            x = self.pool(x)
        x = self.bottom(x)
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([copies.pop(), up(x)], dim=1))
        return torch.sigmoid(self.head(x))


def unet(*, width: int, levels: int, classes: int) -> nn.Module:
    """U-Net; (1, 3, 256, 256) to a (1, classes, 256, 256) mask."""
    return UNet(width, levels, classes)
