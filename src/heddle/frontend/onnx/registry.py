# SPDX-License-Identifier: Apache-2.0
"""Which function converts which ONNX operator, by domain and first operator set version."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from heddle.support import UserError

if TYPE_CHECKING:
    from heddle.frontend.onnx.node import Node

Converter = Callable[["Node"], Any]
_CONVERTERS: Final[dict[tuple[str, str], list[tuple[int, Converter]]]] = {}


def converts(*names: str, since: int = 1, domain: str = "") -> Callable[[Converter], Converter]:
    """Declare the converter of the operators `names` from opset `since` on.

    It takes a `Node`, emits operators of Heddle through it, and returns the node's outputs: one
    value, or a tuple of them. Of two converters for the same operator and opset the later one
    counts. `UserError` for what is no such function, or no such name.
    """
    _check_names(names, since, domain)

    def declare(converter: Converter) -> Converter:
        _check_signature(converter)
        for name in names:
            known = _CONVERTERS.setdefault((domain, name), [])
            known.append((since, converter))
            known.sort(key=lambda entry: entry[0])
        return converter

    return declare


def _check_names(names: tuple[Any, ...], since: Any, domain: Any) -> None:
    if len(names) == 1 and callable(names[0]):
        raise UserError(
            'a converter is declared for an operator by name, @converter("Name"), got none'
        )
    if not names or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"a converter is declared for names of operators, got {names}")
    if not isinstance(domain, str):
        raise UserError(f"`domain` of a converter is a string, got {domain!r}")
    if isinstance(since, bool) or not isinstance(since, int) or since < 1:
        raise UserError(f"`since` of a converter is an operator set, 1 or later, got {since!r}")


def _check_signature(converter: Any) -> None:
    """A converter is called with one argument, the node."""
    if not callable(converter):
        raise UserError(f"a converter is a function of a Node, got {converter!r}")
    what = f"converter `{getattr(converter, '__qualname__', type(converter).__name__)}`"
    if inspect.iscoroutinefunction(converter) or inspect.isgeneratorfunction(converter):
        raise UserError(f"{what} must be a plain function, not a coroutine or generator")
    try:
        signature = inspect.signature(converter)
    except (TypeError, ValueError):
        return  # a builtin tells nothing of its parameters
    try:
        signature.bind(None)
    except TypeError:
        raise UserError(
            f"{what} must take one argument, the node; its signature is {signature}"
        ) from None


def find_converter(domain: str, name: str, version: int) -> Converter | None:
    """The converter for an operator of an opset version, or None."""
    fitting = [c for since, c in _CONVERTERS.get((domain, name), ()) if since <= version]
    return fitting[-1] if fitting else None


def supported_operators() -> tuple[str, ...]:
    """The ONNX operators that have a converter, "domain::name" outside the default domain."""
    return tuple(sorted(f"{d}::{n}" if d else n for d, n in _CONVERTERS))
