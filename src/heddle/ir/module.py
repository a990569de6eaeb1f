# SPDX-License-Identifier: Apache-2.0
"""`IRModule`: named functions of both levels, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from heddle.ir.node import Node, field, node
from heddle.support import UserError


@node
class GlobalVar(Node):
    """The name of a function of the module, as a call refers to it."""

    name: str


class BaseFunc(Node):
    """Base of the functions that a module holds: graph functions, loop functions, externs."""

    __slots__ = ()


@node
class ExternFunc(BaseFunc):
    """A C function provided at link time, called with raw pointers to its tensors."""

    symbol: str


@node
class IRModule(Node):
    """An immutable map from names to functions, with attributes of the whole module."""

    functions: Mapping[str, BaseFunc]
    attrs: Mapping[str, object] = field(default={})

    def __getitem__(self, name: str) -> BaseFunc:
        found = self.functions.get(name)
        if found is None:
            known = ", ".join(f"`{key}`" for key in self.functions)
            raise UserError(f"the module has no function `{name}`; it has {known or 'none'}")
        return found

    def __contains__(self, name: object) -> bool:
        return name in self.functions

    def __iter__(self) -> Iterator[str]:
        return iter(self.functions)

    def __len__(self) -> int:
        return len(self.functions)

    def with_functions(self, functions: Mapping[str, BaseFunc | None]) -> IRModule:
        """A module with these functions added or replaced; None removes one."""
        merged = {**self.functions, **functions}
        kept = {name: func for name, func in merged.items() if func is not None}
        same = kept.keys() == self.functions.keys() and all(
            kept[name] is self.functions[name] for name in kept
        )
        return self if same else self.replace(functions=kept)

    def fresh_name(self, stem: str) -> str:
        """`stem`, or `stem_1`, `stem_2`, ...: the first that no function has."""
        name, count = stem, 0
        while name in self.functions:
            count += 1
            name = f"{stem}_{count}"
        return name
