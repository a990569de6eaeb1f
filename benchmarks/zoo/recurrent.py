# SPDX-License-Identifier: Apache-2.0
"""Recurrent networks."""

from __future__ import annotations

from torch import Tensor, nn


class Tagger(nn.Module):
    """A stack of LSTM layers and a linear head at every position."""

    def __init__(self, inputs: int, hidden: int, layers: int, classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


def lstm(*, inputs: int = 512, hidden: int = 512, layers: int = 2, classes: int = 64) -> nn.Module:
    """(batch, length, inputs) to (batch, length, classes) logits."""
    return Tagger(inputs, hidden, layers, classes)
