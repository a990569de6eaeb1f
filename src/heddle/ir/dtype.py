# SPDX-License-Identifier: Apache-2.0
"""Scalar and vector element types, interned: `DType.of("float32") is DType.of("float32")`."""

from __future__ import annotations

from typing import Final

import ml_dtypes
import numpy as np

from heddle.support import UserError

_KINDS: Final = {
    "bool": ("bool", 8),
    "handle": ("handle", 64),
    "bfloat16": ("bfloat", 16),
    **{f"float{bits}": ("float", bits) for bits in (16, 32, 64)},
    **{f"int{bits}": ("int", bits) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": ("uint", bits) for bits in (8, 16, 32, 64)},
}
_INTERNED: dict[str, DType] = {}


class DType:
    """An element type: `name` is its spelling ("float32", "int8x16"), `lanes` its vector width.

    Instances are interned by `DType.of`, so they compare and hash by identity.
    """

    __slots__ = ("base", "bits", "is_bool", "is_float", "is_int", "kind", "lanes", "name")

    name: str
    base: str
    kind: str
    bits: int
    lanes: int
    is_float: bool
    is_int: bool
    is_bool: bool

    @staticmethod
    def of(spelling: str | DType | np.dtype | type) -> DType:
        """The dtype of a spelling, a numpy dtype, or itself.

        Raises `UserError` for a name that is no element type.
        """
        if isinstance(spelling, DType):
            return spelling
        if not isinstance(spelling, str):
            spelling = np.dtype(spelling).name
        found = _INTERNED.get(spelling)
        return found if found is not None else _make(spelling)

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return DType.of, (self.name,)

    @property
    def nbytes(self) -> int:
        """Bytes of one element in memory (all lanes)."""
        return self.bits // 8 * self.lanes

    @property
    def element(self) -> DType:
        """The scalar type of one lane."""
        return self if self.lanes == 1 else DType.of(self.base)

    def with_lanes(self, lanes: int) -> DType:
        """The vector of `lanes` such elements; `lanes` 1 gives the scalar."""
        return DType.of(self.base if lanes == 1 else f"{self.base}x{lanes}")

    @property
    def is_signed(self) -> bool:
        return self.kind in ("int", "float", "bfloat")

    @property
    def min_value(self) -> int:
        """Smallest value of an integer type."""
        return -(1 << (self.bits - 1)) if self.kind == "int" else 0

    @property
    def max_value(self) -> int:
        """Largest value of an integer type (1 for bool)."""
        if self.kind == "bool":
            return 1
        return (1 << (self.bits - (self.kind == "int"))) - 1

    @property
    def numpy(self) -> np.dtype:
        """The numpy dtype of one lane (bfloat16 through ml_dtypes)."""
        if self.kind == "bfloat":
            found: np.dtype = np.dtype(ml_dtypes.bfloat16)
            return found
        return np.dtype(np.uintp if self.kind == "handle" else self.base)


def _make(spelling: str) -> DType:
    base, _, lanes = spelling.partition("x")
    if base not in _KINDS or (lanes and (not lanes.isdigit() or int(lanes) < 2)):
        known = ", ".join(_KINDS)
        raise UserError(f"unknown dtype `{spelling}`; expected one of {known}, or e.g. float32x16")
    made = DType()
    made.name, made.base = spelling, base
    made.kind, made.bits = _KINDS[base]
    made.lanes = int(lanes) if lanes else 1
    made.is_float = made.kind in ("float", "bfloat")
    made.is_int = made.kind in ("int", "uint")
    made.is_bool = made.kind == "bool"
    return _INTERNED.setdefault(spelling, made)


BOOL: Final = DType.of("bool")
INT32: Final = DType.of("int32")
INT64: Final = DType.of("int64")
FLOAT32: Final = DType.of("float32")
FLOAT64: Final = DType.of("float64")
HANDLE: Final = DType.of("handle")
