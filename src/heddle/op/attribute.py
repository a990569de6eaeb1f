# SPDX-License-Identifier: Apache-2.0
"""Attributes of operators: what an annotation admits, and the check that a value is such.

| annotation             | admits                                                          |
|------------------------|-----------------------------------------------------------------|
| `int`, `float`, `bool` | numbers (numpy scalars are converted)                           |
| `str`                  | a string                                                        |
| `Literal["a", "b"]`    | one of these strings                                            |
| `DType`                | a dtype or its spelling                                         |
| `Ints`                 | a sequence of integers (an integer counts as one)               |
| `Floats`               | a sequence of numbers                                           |
| `Strs`                 | a sequence of strings                                           |
| `Dim`                  | an integer or an integer expression                             |
| `Dims`                 | a sequence of those: a shape                                    |
| `Scalar`               | a number or an integer expression                               |
| `... | None`           | also None                                                       |
"""

from __future__ import annotations

import ast
import inspect
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np

from heddle.ir import DType
from heddle.ir.expr import Expr, as_int
from heddle.support import InternalError, UserError

Ints: TypeAlias = tuple[int, ...]
Floats: TypeAlias = tuple[float, ...]
Strs: TypeAlias = tuple[str, ...]
Dim: TypeAlias = int | Expr
Dims: TypeAlias = tuple[Dim, ...]
Scalar: TypeAlias = int | float | Expr


class _NotSuch(Exception):
    """The value is not what the annotation admits."""


def _to_int(value: Any) -> int:
    if isinstance(value, numbers.Integral):
        return int(value)
    constant = as_int(value) if isinstance(value, Expr) else None
    if constant is None:
        raise _NotSuch
    return constant


def _to_float(value: Any) -> float:
    if not isinstance(value, numbers.Real):
        raise _NotSuch
    return float(value)


def _to_bool(value: Any) -> bool:
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise _NotSuch


def _to_str(value: Any) -> str:
    if not isinstance(value, str):
        raise _NotSuch
    return value


def _to_dtype(value: Any) -> DType:
    if value is None:
        raise _NotSuch
    return DType.of(value)


def _to_dim(value: Any) -> Dim:
    if isinstance(value, Expr) and as_int(value) is None:
        if not value.dtype.is_int:
            raise _NotSuch
        return value
    return _to_int(value)


def _to_scalar(value: Any) -> Scalar:
    return float(value) if isinstance(value, (float, np.floating)) else _to_dim(value)


def _sequence(convert: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def to_tuple(value: Any) -> tuple[Any, ...]:
        if isinstance(value, (str, Mapping)):
            raise _NotSuch
        if not isinstance(value, Iterable):
            value = (value,)
        return tuple(convert(item) for item in value)

    return to_tuple


_CONVERTERS: Final[Mapping[str, tuple[Callable[[Any], Any], str]]] = {
    "int": (_to_int, "an integer"),
    "float": (_to_float, "a number"),
    "bool": (_to_bool, "a bool"),
    "str": (_to_str, "a string"),
    "DType": (_to_dtype, "a dtype"),
    "Ints": (_sequence(_to_int), "integers"),
    "Floats": (_sequence(_to_float), "numbers"),
    "Strs": (_sequence(_to_str), "strings"),
    "Dim": (_to_dim, "an integer or integer expression"),
    "Scalar": (_to_scalar, "a number or integer expression"),
    "Dims": (_sequence(_to_dim), "integers or integer expressions"),
}


class Attribute:
    """One attribute of an operator: its name, whether it may be left out, and what it admits."""

    __slots__ = ("_convert", "choices", "default", "expected", "name", "nullable", "owner")

    def __init__(self, owner: str, name: str, annotation: Any, default: Any) -> None:
        self.owner = owner
        self.name = name
        self.default = default
        if not isinstance(annotation, str):
            raise UserError(
                f"operator {owner}: the annotation of attribute `{name}` is evaluated; "
                "start its file with `from __future__ import annotations`"
            )
        base = annotation.removesuffix(" | None")
        self.nullable = base != annotation
        self.choices: tuple[str, ...] = ()
        if base.startswith("Literal["):
            choices = ast.literal_eval(f"({base[len('Literal[') : -1]},)")
            self.choices = choices
            self._convert: Callable[[Any], Any] = self._choose
            self.expected = "one of " + ", ".join(f'"{choice}"' for choice in choices)
        elif base in _CONVERTERS:
            self._convert, self.expected = _CONVERTERS[base]
        else:
            raise InternalError(f"operator {owner}: attribute {name} has annotation {annotation}")
        if self.nullable:
            self.expected += " or None"

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    def _choose(self, value: Any) -> str:
        if value not in self.choices:
            raise _NotSuch
        return str(value)

    def convert(self, given: Mapping[str, Any]) -> Any:
        """The value of this attribute among those `given`, checked; or its default."""
        if self.name not in given:
            if self.required:
                raise UserError(f"op.{self.owner}: attribute `{self.name}` is missing")
            return self.default
        value = given[self.name]
        if value is None and self.nullable:
            return None
        try:
            return self._convert(value)
        except _NotSuch:
            raise UserError(
                f"op.{self.owner}: attribute `{self.name}` is {value!r}, expected {self.expected}"
            ) from None
