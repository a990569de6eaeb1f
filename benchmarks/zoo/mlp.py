# SPDX-License-Identifier: Apache-2.0
"""A multilayer perceptron with batch normalisation and a softmax."""

from __future__ import annotations

import itertools

from torch import nn


def mlp(*, sizes: tuple[int, ...] = (784, 2048, 2048, 1024, 10)) -> nn.Module:
    """(batch, sizes[0]) to (batch, sizes[-1]) probabilities."""
    layers: list[nn.Module] = []
    activations = (nn.ReLU(), nn.Tanh(), nn.GELU())
    for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes[:-1])):
        layers.append(nn.Linear(inputs, outputs))
        if index == 0:
            layers.append(nn.BatchNorm1d(outputs))
        layers.append(activations[index % len(activations)])
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]), nn.Softmax(dim=-1))
