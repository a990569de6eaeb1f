# SPDX-License-Identifier: Apache-2.0
"""Which function converts which ONNX operator, by domain and first operator set version."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from heddle.frontend.onnx.node import Node

Converter = Callable[["Node"], Any]
_CONVERTERS: Final[dict[tuple[str, str], list[tuple[int, Converter]]]] = {}


def converts(*names: str, since: int = 1, domain: str = "") -> Callable[[Converter], Converter]:
    """Declare the converter of the operators `names` from opset `since` on.

    It takes a `Node`, emits operators of Heddle through it, and returns the node's outputs: one
    value, or a tuple of them.
    """

    def declare(converter: Converter) -> Converter:
        for name in names:
            known = _CONVERTERS.setdefault((domain, name), [])
            known.append((since, converter))
            known.sort(key=lambda entry: entry[0])
        return converter

    return declare


def find_converter(domain: str, name: str, version: int) -> Converter | None:
    """The converter for an operator of an opset version, or None."""
    fitting = [c for since, c in _CONVERTERS.get((domain, name), ()) if since <= version]
    return fitting[-1] if fitting else None


def supported_operators() -> tuple[str, ...]:
    """The ONNX operators that have a converter, "domain::name" outside the default domain."""
    return tuple(sorted(f"{d}::{n}" if d else n for d, n in _CONVERTERS))
