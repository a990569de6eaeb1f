# SPDX-License-Identifier: Apache-2.0
"""From what a user passes to what the C interface takes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_void_p
from typing import Any

import numpy as np

from heddle.runtime import dlpack
from heddle.runtime.abi import DLTensor, describe
from heddle.runtime.info import ModelInfo, TensorInfo
from heddle.runtime.memory import data_address
from heddle.runtime.tensor import Tensor
from heddle.support.errors import UserError

_ACCEPTED = "a numpy array, a torch tensor or another object with __dlpack__"


def arrange(model: ModelInfo, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    """The inputs in the model's order. Raises `UserError` for missing, unknown and double ones."""
    names = [tensor.name for tensor in model.inputs]
    expected = ", ".join(f"`{tensor}`" for tensor in model.inputs) or "none"
    if len(args) > len(names):
        raise UserError(f"{model.name}: got {len(args)} inputs, expected {len(names)}: {expected}")
    values = dict(zip(names, args, strict=False))
    for name, value in named.items():
        if name not in names:
            raise UserError(f"{model.name}: unknown input `{name}`, expected {expected}")
        if name in values:
            raise UserError(f"{model.name}: input `{name}` is given by position and by name")
        values[name] = value
    missing = [f"`{name}`" for name in names if name not in values]
    if missing:
        raise UserError(f"{model.name}: missing input {', '.join(missing)}, expected {expected}")
    return tuple(values[name] for name in names)


def _from_number(value: Any, info: TensorInfo) -> np.ndarray | None:
    """A rank-0 array of a Python number, if the input takes it without losing anything."""
    if info.shape or not isinstance(value, (bool, int, float)):
        return None
    dtype = np.dtype(info.dtype)
    if isinstance(value, float) and dtype.kind in "iub":
        return None
    if isinstance(value, bool) != (dtype.kind == "b"):
        return None
    try:
        return np.array(value, dtype)
    except OverflowError:
        return None


class ArgumentFrame:
    """The C structures of the inputs or outputs of one call, made once and used again.

    An array with the dtype and shape that the argument had in the call before costs one store; any
    other array gets a new structure. Whether it fits the model is for the library to say.
    """

    __slots__ = (
        "_borrowed",
        "_last",
        "_model_name",
        "_structs",
        "_written",
        "infos",
        "pointers",
        "role",
    )

    def __init__(self, model: ModelInfo, role: str) -> None:
        self.role = role
        self.infos = model.inputs if role == "input" else model.outputs
        self._model_name = model.name
        self._written = [role == "output" or info.donated for info in self.infos]
        count = len(self.infos)
        self.pointers = (POINTER(DLTensor) * count)()
        self._structs: list[DLTensor | None] = [None] * count
        self._last: list[tuple[np.dtype, tuple[int, ...]] | None] = [None] * count
        self._borrowed: list[Any] = []

    def fill(self, values: Sequence[Any]) -> None:
        """Points the structures at the memory of `values`, which must live until `clear`."""
        for index, value in enumerate(values):
            array = value._array if type(value) is Tensor else value
            last = self._last[index]
            if (
                last is not None
                and type(array) is np.ndarray
                and array.dtype == last[0]
                and array.shape == last[1]
                and (flags := array.flags).c_contiguous
                and (flags.writeable or not self._written[index])
            ):
                struct: Any = self._structs[index]
                struct.data = data_address(array)
            else:
                self.pointers[index] = ctypes.pointer(self._describe(index, array))

    def take_shapes(self) -> list[tuple[int, ...]]:
        """The shapes as the library has left them; the structures are not used again."""
        self._last = [None] * len(self.infos)
        found = [self.pointers[place].contents for place in range(len(self.infos))]
        return [tuple(item.shape[: item.ndim]) for item in found]

    def clear(self) -> None:
        """Lets go of what was made on behalf of the values."""
        if self._borrowed:
            self._borrowed.clear()

    def _describe(self, index: int, value: Any) -> DLTensor:
        info = self.infos[index]
        self._last[index] = None
        if info.donated and isinstance(value, (np.generic, bool, int, float)):
            raise self._error(info, f"is donated: got {type(value).__name__}, expected an array")
        if isinstance(value, np.generic):
            value = np.asarray(value)
        elif isinstance(value, (bool, int, float)):
            number = _from_number(value, info)
            value = value if number is None else number
        if isinstance(value, np.ndarray):
            if self._written[index] and not value.flags.writeable:
                raise self._error(
                    info, "is donated but read-only" if info.donated else "is read-only"
                )
            self._structs[index] = struct = describe(value)
            self._borrowed.append(value)
            if type(value) is np.ndarray and value.flags.c_contiguous:
                self._last[index] = (value.dtype, value.shape)
            return struct
        if not hasattr(value, "__dlpack__"):
            raise self._error(
                info, f"got {type(value).__name__}, expected {info.dtype} as {_ACCEPTED}"
            )
        try:
            capsule, struct = dlpack.capsule_of(value)
        except UserError as error:
            raise self._error(info, error.message) from error
        self._borrowed.append((value, capsule))
        return struct

    def _error(self, info: TensorInfo, text: str) -> UserError:
        return UserError(f"{self._model_name}: {self.role} `{info.name}`: {text}")


def address(array: ctypes.Array[Any]) -> c_void_p:
    """The array of pointers as the C functions take it."""
    return ctypes.cast(array, c_void_p)
