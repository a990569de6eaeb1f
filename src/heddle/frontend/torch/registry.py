# SPDX-License-Identifier: Apache-2.0
"""Which converter handles which ATen operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

Converter: TypeAlias = Callable[..., Any]
"""`converter(node, *args, **kwargs)`: the arguments of the operator as its schema has them, with
tensors as graph expressions, symbolic integers as `Expr`. Returns a graph expression, or a tuple of
one per result (None for results that are not computed)."""

_CONVERTERS: Final[dict[str, Converter]] = {}
_COMPLEX: Final[dict[str, Converter]] = {}


def converts(*names: str) -> Callable[[Converter], Converter]:
    """Decorator: this function converts these operators, as in "aten.add.Tensor"."""

    def declare(converter: Converter) -> Converter:
        for name in names:
            if name in _CONVERTERS:
                raise ValueError(f"two converters of {name}")
            _CONVERTERS[name] = converter
        return converter

    return declare


def converts_complex(*names: str) -> Callable[[Converter], Converter]:
    """Decorator: this function converts these operators where an operand or a result is complex;
    such a tensor is a `Complex`."""

    def declare(converter: Converter) -> Converter:
        for name in names:
            if name in _COMPLEX:
                raise ValueError(f"two converters of {name} for complex numbers")
            _COMPLEX[name] = converter
        return converter

    return declare


def find_complex_converter(name: str) -> Converter | None:
    """The converter of an operator on complex numbers."""
    return _COMPLEX.get(name)


def find_converter(name: str) -> Converter | None:
    """The converter of an operator, by its name with the overload. A view and its copy are one:
    "aten.permute_copy.default" is found as "aten.permute.default"."""
    return _CONVERTERS.get(name) or _CONVERTERS.get(name.replace("_copy.", ".", 1))


def supported_operators() -> tuple[str, ...]:
    """The names of all operators that can be imported, sorted."""
    return tuple(sorted({*_CONVERTERS, *_COMPLEX}))
