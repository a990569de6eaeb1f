# SPDX-License-Identifier: Apache-2.0
"""Algebraic data types: values in Python, and their layout in flat arrays.

    Tree = adt("Tree", Leaf=[((), "int64")], Node=[Self, Self])
    tree = Tree.Node(Tree.Leaf(3), Tree.Leaf(4))

A value of n nodes (a node that is used twice counts once) crosses over to compiled code as arrays,
the children of a node before the node itself, the root last:

    tag       int64 (n,)         which constructor made the node
    row       int64 (n,)         the node's row in the arrays of that constructor
    children  int64 (n, most)    the fields that are nodes, in order; -1 where there are fewer
    Leaf.0    dtype (rows, ...)  one array for each field that is a tensor, at least one row

Nothing is allocated node by node, and the arrays are ordinary tensors for every language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from heddle.support.errors import UserError


class SelfField:
    """The class of `Self`."""

    def __repr__(self) -> str:
        return "Self"


Self: Final = SelfField()
"""A field that holds a value of the type that is declared."""

TensorField: TypeAlias = "tuple[tuple[int, ...], str]"
Field: TypeAlias = "SelfField | TensorField"


def adt(name: str, **constructors: Sequence[Any]) -> Adt:
    """Declare an algebraic data type.

    Each constructor has a list of fields: `Self`, or shape and dtype of a tensor. Raises
    `UserError` for other fields, and when every constructor needs another value first.

    >>> List = adt("List", Nil=[], Cons=[((4,), "float32"), Self])
    >>> List.Cons([1, 2, 3, 4], List.Nil()).fields[0].shape
    (4,)
    """
    made = {
        key: tuple(_field(name, key, f) for f in fields) for key, fields in constructors.items()
    }
    if all(Self in fields for fields in made.values()):
        raise UserError(f"{name}: no constructor is without {name} itself, so there are no values")
    return Adt(name, made)


def list_of(shape: Sequence[int], dtype: str, *, name: str = "List") -> Adt:
    """The lists of tensors of one shape: `Nil`, and `Cons` of a tensor and a list."""
    return adt(name, Nil=[], Cons=[(tuple(shape), dtype), Self])


def _field(name: str, constructor: str, field: Any) -> Field:
    if field is Self:
        return Self
    try:
        shape, dtype = field
        return tuple(int(dim) for dim in shape), np.dtype(dtype).name
    except (TypeError, ValueError):
        raise UserError(
            f'{name}.{constructor}: a field is Self or a pair such as ((4,), "float32"), '
            f"got {field!r}"
        ) from None


class Adt:
    """A declared data type. Its constructors are attributes: `Tree.Leaf(3)`."""

    def __init__(self, name: str, constructors: Mapping[str, tuple[Field, ...]]) -> None:
        """Use `adt`."""
        self.name = name
        self.constructors = dict(constructors)

    def __getattr__(self, name: str) -> Any:
        constructors = self.__dict__.get("constructors", {})
        if name not in constructors:
            known = ", ".join(constructors)
            raise AttributeError(f"{self.__dict__.get('name')} has no {name}; it has {known}")
        return lambda *fields: Value(self, name, fields)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Adt):
            return NotImplemented
        return self.name == other.name and list(self.constructors.items()) == list(
            other.constructors.items()
        )

    def __hash__(self) -> int:
        return hash((self.name, tuple(self.constructors)))

    def __repr__(self) -> str:
        forms = (
            f"{name}({', '.join('Self' if f is Self else f'{f[1]} {f[0]}' for f in fields)})"  # type: ignore[index]
            for name, fields in self.constructors.items()
        )
        return f"{self.name} = {' | '.join(forms)}"

    @property
    def arrays(self) -> tuple[str, ...]:
        """The names of the arrays that a value is laid out in, in order."""
        pools = [
            f"{name}.{place}"
            for name, fields in self.constructors.items()
            for place, field in enumerate(fields)
            if field is not Self
        ]
        return ("tag", "row", "children", *pools)

    @property
    def arity(self) -> int:
        """The columns of `children`: the most nodes below one, at least 1."""
        counts = [sum(field is Self for field in fields) for fields in self.constructors.values()]
        return max(1, *counts) if counts else 1

    def to_json(self) -> dict[str, Any]:
        """The declaration as JSON has it."""
        forms = {
            name: [None if field is Self else field for field in fields]
            for name, fields in self.constructors.items()
        }
        return {"name": self.name, "constructors": forms}

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> Adt:
        """The declaration that `to_json` gave."""
        forms = {
            name: tuple(Self if f is None else (tuple(f[0]), f[1]) for f in fields)
            for name, fields in found["constructors"].items()
        }
        return Adt(found["name"], forms)


class Value:
    """A value of an algebraic data type; it does not change."""

    __slots__ = ("_arrays", "adt", "constructor", "fields")

    def __init__(self, adt: Adt, constructor: str, fields: Sequence[Any]) -> None:
        """Use the constructors of the type. Raises `UserError` for fields that do not fit."""
        expected = adt.constructors[constructor]
        if len(fields) != len(expected):
            raise UserError(
                f"{adt.name}.{constructor} takes {len(expected)} fields, got {len(fields)}"
            )
        self.adt, self.constructor = adt, constructor
        self.fields = tuple(
            self._checked(place, field, given)
            for place, (field, given) in enumerate(zip(expected, fields, strict=True))
        )
        self._arrays: tuple[np.ndarray, ...] | None = None

    def _checked(self, place: int, field: Field, given: Any) -> Any:
        where = f"{self.adt.name}.{self.constructor}: field {place}"
        if isinstance(field, SelfField):
            if not isinstance(given, Value) or given.adt != self.adt:
                raise UserError(f"{where} must be a {self.adt.name}, got {type(given).__name__}")
            return given
        shape, dtype = field
        array = np.asarray(given)
        if array.shape != shape:
            raise UserError(f"{where} has shape {array.shape}, expected {shape}")
        if not np.can_cast(array.dtype, dtype, "same_kind"):
            raise UserError(f"{where} is {array.dtype}, expected {dtype}")
        return array.astype(dtype)

    @property
    def children(self) -> tuple[Value, ...]:
        """The fields that are values of the type."""
        return tuple(field for field in self.fields if isinstance(field, Value))

    def __repr__(self) -> str:
        inner = ", ".join(
            f"{f.adt.name}.{f.constructor}(...)" if isinstance(f, Value) else str(f.tolist())
            for f in self.fields
        )
        return f"{self.adt.name}.{self.constructor}({inner})"

    def arrays(self) -> tuple[np.ndarray, ...]:
        """The value as flat arrays, as `Adt.arrays` names them; made once."""
        if self._arrays is None:
            self._arrays = _arrays(self)
        return self._arrays


def in_order(root: Value) -> list[Value]:
    """The nodes of a value, each once, children first. Deep values do not exhaust the stack."""
    found: list[Value] = []
    seen: set[int] = set()
    stack: list[tuple[Value, bool]] = [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            found.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(node.children))
    return found


def _arrays(root: Value) -> tuple[np.ndarray, ...]:
    adt, nodes = root.adt, in_order(root)
    tags = {name: place for place, name in enumerate(adt.constructors)}
    number = {id(node): place for place, node in enumerate(nodes)}
    tag, row = (np.zeros(len(nodes), np.int64) for _ in range(2))
    children = np.full((len(nodes), adt.arity), -1, np.int64)
    pools: dict[str, list[tuple[Any, ...]]] = {name: [] for name in adt.constructors}
    for place, node in enumerate(nodes):
        below = [number[id(child)] for child in node.children]
        tag[place], row[place] = tags[node.constructor], len(pools[node.constructor])
        children[place, : len(below)] = below
        pools[node.constructor].append(node.fields)
    arrays = [tag, row, children]
    for name, fields in adt.constructors.items():
        for place, field in enumerate(fields):
            if not isinstance(field, SelfField):
                shape, dtype = field
                rows = [given[place] for given in pools[name]] or [np.zeros(shape, dtype)]
                arrays.append(np.ascontiguousarray(rows, dtype))
    return tuple(arrays)


def from_arrays(adt: Adt, arrays: Sequence[np.ndarray]) -> Value:
    """The value that arrays hold: the last node, and what is below it. Parts that are one node are
    one value. Other nodes do not count."""
    tag, row, children, *pools = arrays
    by_field = dict(zip(adt.arrays[3:], pools, strict=True))
    names = list(adt.constructors)
    counts = [sum(f is Self for f in fields) for fields in adt.constructors.values()]
    below = [children[at, : counts[tag[at]]].tolist() for at in range(len(tag))]
    needed = np.zeros(len(tag), bool)
    needed[-1:] = True
    for at in range(len(tag) - 1, -1, -1):
        if needed[at]:
            needed[below[at]] = True
    made: dict[int, Value] = {}
    for at in np.flatnonzero(needed).tolist():
        name, rest = names[tag[at]], iter(below[at])
        fields = [
            made[next(rest)] if field is Self else by_field[f"{name}.{place}"][row[at]]
            for place, field in enumerate(adt.constructors[name])
        ]
        made[at] = Value(adt, name, fields)
    return made[len(tag) - 1]


class Results:
    """The results of a model some of which are values of data types."""

    def __init__(self, described: Sequence[tuple[str, Any]]) -> None:
        """described: name and declaration (None for a tensor) of each, from the metadata."""
        self.adts = [None if form is None else Adt.from_json(form) for _, form in described]

    def collect(self, found: Sequence[Any]) -> Any:
        """The results: values of data types made of their arrays, the others as they are."""
        rest, results = iter(found), []
        for adt in self.adts:
            if adt is None:
                results.append(next(rest))
            else:
                arrays = [np.asarray(next(rest).numpy()) for _ in adt.arrays]
                results.append(from_arrays(adt, arrays))
        return results[0] if len(results) == 1 else tuple(results)


class Parameters:
    """The parameters of a model some of which are values of data types."""

    def __init__(self, described: Sequence[tuple[str, Any]]) -> None:
        """described: name and declaration (None for a tensor) of each, from the metadata."""
        self.names = [name for name, _ in described]
        self.adts = [None if form is None else Adt.from_json(form) for _, form in described]

    def expand(
        self, args: Sequence[Any], named: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments with every value of a data type as its arrays. Raises `UserError` for a value
        of another type."""
        flat: list[Any] = []
        for place, arg in enumerate(args):
            adt = self.adts[place] if place < len(self.adts) else None
            flat += [arg] if adt is None else _checked(self.names[place], adt, arg).arrays()
        by_name: dict[str, Any] = {}
        for name, arg in named.items():
            adt = self.adts[self.names.index(name)] if name in self.names else None
            if adt is None:
                by_name[name] = arg
                continue
            arrays = _checked(name, adt, arg).arrays()
            keys = (f"{name}.{part}" for part in adt.arrays)
            by_name.update(zip(keys, arrays, strict=True))
        return tuple(flat), by_name


def _checked(name: str, adt: Adt, value: Any) -> Value:
    if not isinstance(value, Value) or value.adt != adt:
        got = value.adt if isinstance(value, Value) else type(value).__name__
        raise UserError(f"input `{name}` is {got}, expected {adt}")
    return value
