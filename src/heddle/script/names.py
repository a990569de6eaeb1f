# SPDX-License-Identifier: Apache-2.0
"""Names for printing: every variable and buffer gets an identifier that is unique in its scope."""

from __future__ import annotations

import keyword
import re
from typing import Final

from heddle.ir import Node

RESERVED: Final = frozenset(("T", "G", "I", "op", "range", "float", "min", "max"))
_INVALID: Final = re.compile(r"\W", re.ASCII)


def is_identifier(name: str) -> bool:
    """Whether `name` can be printed as it is."""
    return (
        name.isascii()
        and name.isidentifier()
        and not keyword.iskeyword(name)
        and name not in RESERVED
    )


def identifier(name: str) -> str:
    """The identifier nearest to `name`."""
    cleaned = _INVALID.sub("_", name)
    if not cleaned or cleaned[0].isdigit():
        cleaned = f"_{cleaned}"
    return cleaned if is_identifier(cleaned) else f"{cleaned}_"


def quote(text: str) -> str:
    """`text` as a Python string, in double quotes where that needs no escape."""
    plain = repr(text)
    return f'"{plain[1:-1]}"' if plain[0] == "'" and '"' not in plain else plain


class Names:
    """Identifiers of nodes, in nested scopes: a name is free again once its scope is left."""

    def __init__(self) -> None:
        self._names: dict[Node, str] = {}
        self._used: set[str] = set()
        self._counts: dict[str, int] = {}
        self._scopes: list[list[tuple[Node | None, str, str]]] = [[]]

    def push(self) -> None:
        """Enter a scope."""
        self._scopes.append([])

    def pop(self) -> None:
        """Leave the scope; its names are free again."""
        for node, stem, name in self._scopes.pop():
            if node is not None:
                self._names.pop(node, None)
            self._used.discard(name)
            self._counts.pop(stem, None)

    def define(self, node: Node, stem: str) -> str:
        """Name `node` after `stem` in the current scope."""
        return self._enter(node, identifier(stem))

    def reserve(self, stem: str) -> str:
        """A name of the current scope that belongs to no node."""
        return self._enter(None, identifier(stem))

    def find(self, node: Node) -> str | None:
        """The name of `node`, or None when it has none here."""
        return self._names.get(node)

    def of(self, node: Node) -> str:
        """The name of `node`; one that is defined nowhere gets its name here."""
        found = self._names.get(node)
        return self.define(node, getattr(node, "name", "value")) if found is None else found

    def _enter(self, node: Node | None, stem: str) -> str:
        name, count = stem, self._counts.get(stem, 0)
        while name in self._used:
            count += 1
            name = f"{stem}_{count}"
        self._counts[stem] = count
        self._used.add(name)
        self._scopes[-1].append((node, stem, name))
        if node is not None:
            self._names[node] = name
        return name
