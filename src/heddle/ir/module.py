# SPDX-License-Identifier: Apache-2.0
"""`IRModule`: named functions of both levels, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

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
    """An immutable map from names to functions, with attributes of the whole module.

    Functions that know their names may be given as a list: `IRModule([add_one, matmul])`. Raises
    `UserError` when one has no name or two have the same.
    """

    functions: Mapping[str, BaseFunc]
    attrs: Mapping[str, object] = field(default={})

    def _derive(self) -> None:
        if not isinstance(self.functions, Mapping):
            object.__setattr__(self, "functions", _by_name(self.functions))

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

    def map_functions(self, change: Callable[[BaseFunc], BaseFunc]) -> IRModule:
        """A module with `change` applied to every function; the same one if nothing changed."""
        return self.with_functions({name: change(func) for name, func in self.functions.items()})

    def fresh_name(self, stem: str) -> str:
        """`stem`, or `stem_1`, `stem_2`, ...: the first that no function has."""
        name, count = stem, 0
        while name in self.functions:
            count += 1
            name = f"{stem}_{count}"
        return name


def _by_name(functions: Iterable[BaseFunc]) -> dict[str, BaseFunc]:
    """The functions under the names in their attributes; an extern's name is its symbol."""
    named: dict[str, BaseFunc] = {}
    for position, func in enumerate(functions):
        if not isinstance(func, BaseFunc):
            kind = type(func).__name__
            raise UserError(f"IRModule: item {position} is a {kind}, expected a function")
        attrs: Mapping[str, object] = getattr(func, "attrs", {})
        name = func.symbol if isinstance(func, ExternFunc) else attrs.get("name")
        if not isinstance(name, str):
            raise UserError(
                f"IRModule: function {position} has no name; give a dictionary of names",
                span=func.span,
            )
        if name in named:
            raise UserError(f"IRModule: two functions are named `{name}`", span=func.span)
        named[name] = func
    return named
