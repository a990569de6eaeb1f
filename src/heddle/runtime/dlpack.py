# SPDX-License-Identifier: Apache-2.0
"""DLPack capsules, in and out: the types that numpy does not carry, and no copy on the way."""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_void_p, py_object
from typing import Any

import numpy as np

from heddle.runtime.abi import CPU, Deleter, DLTensor, ManagedTensor, describe, numpy_dtype
from heddle.support.errors import UserError

_NAME = b"dltensor"
_api = ctypes.pythonapi
_api.PyCapsule_GetPointer.restype = c_void_p
_api.PyCapsule_GetPointer.argtypes = [py_object, c_char_p]
_api.PyCapsule_New.restype = py_object
_api.PyCapsule_New.argtypes = [c_void_p, c_char_p, c_void_p]
# The destructor handles a capsule that is dying: no new reference to it may be made, so it works
# on its address through separate prototypes.
_raw_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, c_void_p, c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_raw_get_pointer = ctypes.PYFUNCTYPE(c_void_p, c_void_p, c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)

_exported: dict[int, tuple[ManagedTensor, DLTensor, np.ndarray]] = {}
"""What exported capsules still need, by the address of their DLManagedTensor."""


@Deleter  # type: ignore[untyped-decorator]
def _delete(address: int) -> None:
    _exported.pop(address, None)


@ctypes.PYFUNCTYPE(None, c_void_p)  # type: ignore[untyped-decorator]
def _destroy_capsule(capsule: int) -> None:
    if _raw_is_valid(capsule, _NAME):  # nobody took it over
        _exported.pop(_raw_get_pointer(capsule, _NAME), None)


def to_capsule(array: np.ndarray) -> Any:
    """A "dltensor" capsule over the memory of `array`, which lives until the consumer is done."""
    tensor = describe(array)
    managed = ManagedTensor(tensor, None, _delete)
    address = ctypes.addressof(managed)
    _exported[address] = (managed, tensor, array)
    return _api.PyCapsule_New(address, _NAME, ctypes.cast(_destroy_capsule, c_void_p))


def capsule_of(source: Any) -> tuple[Any, DLTensor]:
    """The capsule of an object with `__dlpack__`, and the tensor in it, valid while the capsule is.

    Raises `UserError` for an object that is not in CPU memory or cannot be exported.
    """
    device = getattr(source, "__dlpack_device__", None)
    try:
        kind = CPU if device is None else int(device()[0])
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"cannot be exported by DLPack: {error}") from error
    if kind != CPU:
        raise UserError(f"is on DLPack device type {kind}, expected CPU memory (type 1)")
    if getattr(source, "requires_grad", False):  # torch refuses to export these
        source = source.detach()
    try:
        capsule = source.__dlpack__()
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"cannot be exported by DLPack: {error}") from error
    address = _api.PyCapsule_GetPointer(capsule, _NAME)
    return capsule, DLTensor.from_address(address)


class _Owner:
    """Keeps a capsule alive for the numpy array over its memory."""

    __slots__ = ("__array_interface__", "capsule")

    def __init__(self, capsule: Any, interface: dict[str, Any]) -> None:
        self.capsule = capsule
        self.__array_interface__ = interface


def to_numpy(source: Any) -> np.ndarray:
    """A numpy view of an object with `__dlpack__`. Raises `UserError`, see `from_dlpack`."""
    if not hasattr(source, "__dlpack__"):
        raise UserError(f"from_dlpack: {type(source).__name__} has no __dlpack__")
    try:
        capsule, tensor = capsule_of(source)
    except UserError as error:
        raise UserError(f"from_dlpack: the tensor {error.message}") from error
    dtype = numpy_dtype(tensor.code, tensor.bits, tensor.lanes)
    if dtype is None:
        raise UserError(
            f"from_dlpack: no numpy dtype for DLPack type (code {tensor.code}, {tensor.bits} bits, "
            f"{tensor.lanes} lanes)"
        )
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = None
    if tensor.strides:
        strides = tuple(tensor.strides[i] * dtype.itemsize for i in range(tensor.ndim))
    if 0 in shape or not tensor.data:
        return np.empty(shape, dtype)
    interface = {
        "version": 3,
        "shape": shape,
        "strides": strides,
        "typestr": f"|V{dtype.itemsize}",
        "data": (tensor.data + tensor.byte_offset, False),
    }
    return np.asarray(_Owner(capsule, interface)).view(dtype)
