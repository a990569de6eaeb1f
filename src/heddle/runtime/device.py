# SPDX-License-Identifier: Apache-2.0
"""Devices that hold tensors."""

from __future__ import annotations

from dataclasses import dataclass

from heddle.support.errors import UserError

_DLPACK_TYPES = {"cpu": 1}


@dataclass(frozen=True, slots=True)
class Device:
    """A place where tensors live.

    >>> Device("cpu")
    Device(kind='cpu', index=0)

    Raises `UserError` for a kind other than "cpu" and for a negative index.
    """

    kind: str
    index: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _DLPACK_TYPES:
            known = ", ".join(repr(kind) for kind in _DLPACK_TYPES)
            raise UserError(f"Device: unknown kind {self.kind!r}, expected one of {known}")
        if self.index < 0:
            raise UserError(f"Device: index must not be negative, got {self.index}")

    @property
    def dlpack(self) -> tuple[int, int]:
        """(device type, device id) as in DLPack."""
        return (_DLPACK_TYPES[self.kind], self.index)
