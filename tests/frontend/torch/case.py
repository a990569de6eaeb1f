# SPDX-License-Identifier: Apache-2.0
"""What a row of the cases is made of: random tensors and a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

FLOATS = (torch.float32, torch.bfloat16)
ALL_FLOATS = (*FLOATS, torch.float16, torch.float64)
NUMBERS = (torch.float32, torch.bfloat16, torch.int64, torch.uint8)
INTS = (torch.int64, torch.bool)


@dataclass(frozen=True)
class Spec:
    """A random tensor: of floats in [low, high), of integers in [low, high]."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    low: float = -2.0
    high: float = 2.0

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        if self.dtype is torch.bool:
            return torch.randint(0, 2, self.shape, generator=generator).bool()
        if self.dtype.is_floating_point:
            wide = torch.rand(self.shape, generator=generator, dtype=torch.float64)
            return (self.low + wide * (self.high - self.low)).to(self.dtype)
        low = max(int(self.low), 0) if self.dtype is torch.uint8 else int(self.low)
        values = torch.randint(low, int(self.high) + 1, self.shape, generator=generator)
        return values.to(self.dtype)


@dataclass(frozen=True)
class Case:
    """One call: `function(*inputs)`, tried with each of `dtypes` in place of the inputs' own."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[Spec, ...]
    dtypes: tuple[torch.dtype | None, ...] = (None,)


def f(*shape: int, low: float = -2.0, high: float = 2.0) -> Spec:
    """Floats."""
    return Spec(shape, torch.float32, low, high)


def i(*shape: int, low: int = 0, high: int = 3, dtype: torch.dtype = torch.int64) -> Spec:
    """Integers, which keep their dtype."""
    return Spec(shape, dtype, low, high)


def b(*shape: int) -> Spec:
    """Truth values, which keep their dtype."""
    return Spec(shape, torch.bool)
