# SPDX-License-Identifier: Apache-2.0
"""From what a user passes to what the C interface takes."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_void_p
from typing import Any

import numpy as np

from heddle.runtime import dlpack
from heddle.runtime.abi import DLTensor, describe
from heddle.runtime.info import ModelInfo, TensorInfo
from heddle.runtime.tensor import Tensor
from heddle.support.errors import UserError

_ACCEPTED = "a numpy array, a torch tensor or another object with __dlpack__"


def arrange(model: ModelInfo, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    """The inputs in the model's order. Raises `UserError` for missing, unknown and double ones."""
    names = [tensor.name for tensor in model.inputs]
    expected = ", ".join(f"`{tensor}`" for tensor in model.inputs) or "none"
    if len(args) > len(names):
        raise UserError(
            f"{model.name}: got {len(args)} inputs, expected {len(names)}: {expected}"
        )
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
    """The C structures of one call, made once and used again.

    Static shapes cost one store per argument: the structure that describes the declared shape is
    reused when the array has it, and every other array gets a structure of its own, whose
    mismatches the library then names.
    """

    __slots__ = ("_fast", "_keep", "_model_name", "_structs", "infos", "pointers", "role")

    def __init__(self, model: ModelInfo, role: str) -> None:
        self.role = role
        self.infos = model.inputs if role == "input" else model.outputs
        self._model_name = model.name
        count = len(self.infos)
        self.pointers = (POINTER(DLTensor) * count)()
        self._structs: list[DLTensor | None] = []
        self._fast: list[tuple[np.dtype, tuple[int, ...]] | None] = []
        self._keep: list[Any] = [None] * count
        for info in self.infos:
            if not info.is_static or info.dtype.startswith("code"):
                self._structs.append(None)
                self._fast.append(None)
                continue
            shape = tuple(int(dim) for dim in info.shape)
            # A view of one byte has the shape without the memory.
            dtype = np.dtype(info.dtype)
            struct = describe(np.empty(shape, dtype) if 0 in shape else _shaped(shape, dtype))
            self._structs.append(struct)
            self._fast.append((dtype, shape))

    def fill(self, values: tuple[Any, ...]) -> None:
        """Points the structures at the memory of `values`, which the frame keeps until `clear`."""
        for index, value in enumerate(values):
            array = value._array if type(value) is Tensor else value
            fast = self._fast[index]
            if (
                fast is not None
                and type(array) is np.ndarray
                and array.dtype == fast[0]
                and array.shape == fast[1]
                and array.flags.c_contiguous
            ):
                struct = self._structs[index]
                struct.data = array.ctypes.data  # type: ignore[union-attr]
                self._keep[index] = array
            else:
                struct = self._general(index, array)
            self.pointers[index] = ctypes.pointer(struct)

    def clear(self) -> None:
        """Lets go of the values."""
        for index in range(len(self._keep)):
            self._keep[index] = None

    def _general(self, index: int, value: Any) -> DLTensor:
        info = self.infos[index]
        if isinstance(value, np.generic):
            value = np.asarray(value)
        elif isinstance(value, (bool, int, float)):
            number = _from_number(value, info)
            value = value if number is None else number
        if isinstance(value, np.ndarray):
            if self.role == "output" and not value.flags.writeable:
                raise self._error(info, "is read-only")
            struct = describe(value)
            self._keep[index] = (value, struct)
            return struct
        if not hasattr(value, "__dlpack__"):
            raise self._error(info, f"got {type(value).__name__}, expected {info.dtype} as {_ACCEPTED}")
        try:
            capsule, struct = dlpack.capsule_of(value)
        except UserError as error:
            raise self._error(info, error.message) from error
        self._keep[index] = (value, capsule)
        return struct

    def _error(self, info: TensorInfo, text: str) -> UserError:
        return UserError(f"{self._model_name}: {self.role} `{info.name}`: {text}")


def _shaped(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array with the strides of a contiguous one of `shape`, over the memory of one element."""
    strides = [dtype.itemsize] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return np.lib.stride_tricks.as_strided(np.empty(1, dtype), shape, strides)


def address(array: ctypes.Array[Any]) -> c_void_p:
    """The array of pointers as the C functions take it."""
    return ctypes.cast(array, c_void_p)
