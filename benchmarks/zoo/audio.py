# SPDX-License-Identifier: Apache-2.0
"""Networks of one-dimensional convolutions over a waveform or over its features."""

from __future__ import annotations

from torch import Tensor, nn

# (kernel, stride) of each layer of wav2vec 2.0's feature encoder (Baevski et al., 2020)
WAV2VEC2 = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))


def wav2vec_encoder(
    *, layers: tuple[tuple[int, int], ...] = WAV2VEC2, width: int = 512
) -> nn.Module:
    """The feature encoder of wav2vec 2.0 (base); (1, 1, samples) to (1, width, frames)."""
    body: list[nn.Module] = []
    channels = 1
    for kernel, stride in layers:
        body.append(nn.Conv1d(channels, width, kernel, stride, bias=False))
        if channels == 1:
            body.append(nn.GroupNorm(width, width))
        body.append(nn.GELU())
        channels = width
    return nn.Sequential(*body)


class TemporalBlock(nn.Module):
    """Two causal dilated convolutions and what they read, added."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.pad = nn.ConstantPad1d(((kernel - 1) * dilation, 0), 0.0)
        self.first = nn.Conv1d(inputs, outputs, kernel, dilation=dilation)
        self.second = nn.Conv1d(outputs, outputs, kernel, dilation=dilation)
        same = inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv1d(inputs, outputs, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.first(self.pad(x)))
        y = self.relu(self.second(self.pad(y)))
        return self.relu(y + self.shortcut(x))


def tcn(
    *, inputs: int = 80, width: int = 128, levels: int = 6, kernel: int = 3, classes: int = 32
) -> nn.Module:
    """A temporal convolutional network (Bai et al., 2018); (1, inputs, frames) to
    (1, classes, frames) logits. The dilation doubles at each level."""
    body = [
        TemporalBlock(width if level else inputs, width, kernel, 1 << level)
        for level in range(levels)
    ]
    return nn.Sequential(*body, nn.Conv1d(width, classes, 1))
