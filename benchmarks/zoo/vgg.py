# SPDX-License-Identifier: Apache-2.0
"""VGG (Simonyan and Zisserman, 2014), configuration D (16 layers) when so asked."""

from __future__ import annotations

from torch import nn


def vgg(
    *, layers: tuple[tuple[int, ...], ...], hidden: int = 4096, classes: int = 1000
) -> nn.Module:
    """VGG with biased convolutions, no normalisation; (1, 3, 224, 224) to (1, classes) logits.

    The last feature map is reduced to at most 7x7 by the pooling alone, as in the paper.
    """
    body: list[nn.Module] = []
    channels = 3
    for stage in layers:
        for outputs in stage:
            body += [nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU(inplace=True)]
            channels = outputs
        body.append(nn.MaxPool2d(2, 2))
    flat = channels * (7 * 7 if len(layers) == 5 else 4 * 4)
    head = [
        nn.Flatten(),
        nn.Linear(flat, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(hidden, classes),
    ]
    return nn.Sequential(*body, *head)
