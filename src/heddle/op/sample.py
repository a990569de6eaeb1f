# SPDX-License-Identifier: Apache-2.0
"""Small calls declared beside an operator; the tests check all of its rules with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from heddle.ir import DType


@dataclass(frozen=True, slots=True)
class Argument:
    """A random tensor: values in [low, high] (integers) or [low, high) (floats), or `values`."""

    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float
    values: Any = None

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """The tensor with values from `rng`."""
        dtype = DType.of(self.dtype).numpy
        if self.values is not None:
            return np.asarray(self.values, dtype=dtype).reshape(self.shape)
        if self.dtype == "bool":
            return rng.integers(0, 2, self.shape).astype(bool)
        if DType.of(self.dtype).is_int:
            return rng.integers(int(self.low), int(self.high) + 1, self.shape).astype(dtype)
        return rng.uniform(self.low, self.high, self.shape).astype(dtype)


@dataclass(frozen=True, slots=True)
class Sample:
    """One call: its arguments (None where an optional tensor is missing) and attributes."""

    args: tuple[Argument | None, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def draw(self, seed: int) -> list[np.ndarray | None]:
        """The arguments as arrays."""
        rng = np.random.default_rng(seed)
        return [None if item is None else item.draw(rng) for item in self.args]


def case(*args: Argument | None, **attrs: Any) -> Sample:
    """A sample call."""
    return Sample(args, attrs)


def floats(*shape: int, low: float = -2.0, high: float = 2.0, dtype: str = "float32") -> Argument:
    """Random floats in [low, high)."""
    return Argument(shape, dtype, low, high)


def ints(*shape: int, low: int = 0, high: int = 9, dtype: str = "int64") -> Argument:
    """Random integers in [low, high]."""
    return Argument(shape, dtype, low, high)


def bools(*shape: int) -> Argument:
    """Random truth values."""
    return Argument(shape, "bool", 0, 1)


def values(data: Any, dtype: str = "float32") -> Argument:
    """These values."""
    return Argument(np.shape(data), dtype, 0, 0, data)
