# SPDX-License-Identifier: Apache-2.0
"""Typed access to the attributes of a node."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto

from heddle.frontend.onnx.tensors import to_array, to_value
from heddle.frontend.onnx.values import Value
from heddle.support import UserError

_KIND = AttributeProto.AttributeType


class Attributes:
    """The attributes of one node; a wrong type is a `UserError` that names the attribute.

    given: the attributes by name. where: how errors name the node.
    """

    def __init__(
        self, given: Mapping[str, onnx.AttributeProto], where: str, folder: Path | None
    ) -> None:
        self.given = given
        self._where = where
        self._folder = folder

    def __contains__(self, name: object) -> bool:
        return name in self.given

    def _get(self, name: str, kind: int, field: str, default: Any) -> Any:
        found = self.given.get(name)
        if found is None:
            if default is ...:
                raise UserError(f"{self._where}: attribute `{name}` is missing")
            return default
        if found.type != kind:
            raise UserError(
                f"{self._where}: attribute `{name}` has type {_kind_name(found.type)}, "
                f"expected {_kind_name(kind)}"
            )
        return getattr(found, field)

    def int(self, name: str, default: Any = ...) -> Any:
        """An integer; without a default the attribute is required."""
        return self._get(name, AttributeProto.INT, "i", default)

    def flag(self, name: str, default: bool = False) -> bool:
        """An integer that stands for a truth value."""
        return bool(self.int(name, int(default)))

    def float(self, name: str, default: Any = ...) -> Any:
        """A number, rounded to float32 as ONNX stores it, in its shortest decimal form."""
        value = self._get(name, AttributeProto.FLOAT, "f", default)
        return value if name not in self.given else float(str(np.float32(value)))

    def string(self, name: str, default: Any = ...) -> Any:
        """A string."""
        value = self._get(name, AttributeProto.STRING, "s", default)
        if not isinstance(value, bytes):
            return value
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise UserError(f"{self._where}: attribute `{name}` is not UTF-8") from None

    def ints(self, name: str, default: Any = ...) -> Any:
        """A tuple of integers."""
        value = self._get(name, AttributeProto.INTS, "ints", default)
        return tuple(value) if name in self.given else value

    def floats(self, name: str, default: Any = ...) -> Any:
        """A tuple of numbers."""
        value = self._get(name, AttributeProto.FLOATS, "floats", default)
        return tuple(value) if name in self.given else value

    def strings(self, name: str, default: Any = ...) -> Any:
        """A tuple of strings."""
        value = self._get(name, AttributeProto.STRINGS, "strings", default)
        if name not in self.given:
            return value
        return tuple(item.decode(errors="replace") for item in value)

    def tensor(self, name: str, default: Any = ...) -> Any:
        """A numpy array."""
        value = self._get(name, AttributeProto.TENSOR, "t", default)
        if name not in self.given:
            return value
        return to_array(value, self._folder, f"{self._where}: attribute `{name}`")

    def value(self, name: str) -> Value:
        """A tensor of any element type as a constant."""
        found = self._get(name, AttributeProto.TENSOR, "t", ...)
        return to_value(found, self._folder, f"{self._where}: attribute `{name}`")

    def graph(self, name: str) -> onnx.GraphProto:
        """A subgraph."""
        return self._get(name, AttributeProto.GRAPH, "g", ...)  # type: ignore[no-any-return]


def _kind_name(kind: int) -> str:
    return _KIND.Name(kind) if kind in _KIND.values() else str(kind)
