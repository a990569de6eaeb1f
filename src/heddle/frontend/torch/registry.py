# SPDX-License-Identifier: Apache-2.0
"""Which converter handles which ATen operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

Converter: TypeAlias = Callable[..., Any]
"""`converter(node, *args, **kwargs)`: the arguments of the operator as its schema has them, with
tensors as graph expressions, symbolic integers as `Expr`. Returns a graph expression, or a tuple of
one per result (None for results that are not computed)."""

REFUSED: Final[dict[str, str]] = {
    **dict.fromkeys(
        ("aten._fft_r2c.default", "aten._fft_c2r.default", "aten._fft_c2c.default"),
        "complex numbers: Heddle has no dtype for them",
    ),
    **dict.fromkeys(
        ("aten.rand.default", "aten.randn.default", "aten.randperm.default"),
        "it draws from the generator of PyTorch, whose numbers nothing else has",
    ),
}
"""Operators without a converter, and why. What is in no table at all nobody has met."""

_CONVERTERS: Final[dict[str, Converter]] = {}


def converts(*names: str) -> Callable[[Converter], Converter]:
    """Decorator: this function converts these operators, as in "aten.add.Tensor"."""

    def declare(converter: Converter) -> Converter:
        for name in names:
            if name in _CONVERTERS:
                raise ValueError(f"two converters of {name}")
            _CONVERTERS[name] = converter
        return converter

    return declare


def find_converter(name: str) -> Converter | None:
    """The converter of an operator, by its name with the overload."""
    return _CONVERTERS.get(name)


def supported_operators() -> tuple[str, ...]:
    """The names of all operators that can be imported, sorted."""
    return tuple(sorted(_CONVERTERS))
