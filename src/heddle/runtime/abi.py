# SPDX-License-Identifier: Apache-2.0
"""The C structures of the runtime (`heddle_abi.h`, `heddle_dlpack.h`) as ctypes sees them."""

from __future__ import annotations

import ctypes
import functools
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char_p,
    c_int32,
    c_int64,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)

import ml_dtypes
import numpy as np

ABI_VERSION = 4
CPU = 1
"""DLPack's number for CPU memory."""


class DLTensor(Structure):
    """A tensor as DLPack describes it; `device` and `dtype` are flattened into their fields."""

    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class ManagedTensor(Structure):
    """DLManagedTensor: what a capsule named "dltensor" points at."""


Deleter = CFUNCTYPE(None, c_void_p)
ManagedTensor._fields_ = [
    ("tensor", DLTensor),
    ("context", c_void_p),
    ("deleter", Deleter),
]


class ArgDesc(Structure):
    """hd_arg_desc."""

    _fields_ = [
        ("name", c_char_p),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("ndim", c_int32),
        ("dims", POINTER(c_int64)),
        ("memory", c_int32),
    ]


class Model(Structure):
    """hd_model."""

    _fields_ = [
        ("abi_version", c_uint32),
        ("name", c_char_p),
        ("num_inputs", c_int32),
        ("num_outputs", c_int32),
        ("num_symbols", c_int32),
        ("num_late_symbols", c_int32),
        ("num_kernels", c_int32),
        ("inputs", POINTER(ArgDesc)),
        ("outputs", POINTER(ArgDesc)),
        ("symbol_names", POINTER(c_char_p)),
        ("symbol_min", POINTER(c_int64)),
        ("symbol_max", POINTER(c_int64)),
        ("kernel_names", POINTER(c_char_p)),
        ("constants_size", c_int64),
        ("arena_alignment", c_int64),
        ("arena_size", c_void_p),
        ("output_dims", c_void_p),
        ("final_dims", c_void_p),
        ("main", c_void_p),
        ("metadata_json", c_char_p),
        ("num_data", c_int32),
        ("data", c_void_p),
    ]


_CODE_OF_KIND = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
_NUMPY_OF_CODE = {0: "int", 1: "uint", 2: "float", 5: "complex"}
_BFLOAT16: np.dtype = np.dtype(ml_dtypes.bfloat16)
_BFLOAT_CODE = 4
_BOOL_CODE = 6


@functools.cache
def dlpack_code(dtype: np.dtype) -> tuple[int, int] | None:
    """DLPack's (type code, bits) of a numpy dtype; None when it has none that models take.

    Byte-swapped dtypes have none: DLPack knows native order only.
    """
    if dtype == _BFLOAT16:
        return (_BFLOAT_CODE, 16)
    code = _CODE_OF_KIND.get(dtype.kind)
    if code is None or not dtype.isnative:
        return None
    return (code, dtype.itemsize * 8)


def numpy_dtype(code: int, bits: int, lanes: int = 1) -> np.dtype | None:
    """The numpy dtype of a DLPack type; None when there is none."""
    if lanes != 1:
        return None
    if code == _BFLOAT_CODE and bits == 16:
        return _BFLOAT16
    if code == _BOOL_CODE and bits == 8:
        return np.dtype(np.bool_)
    base = _NUMPY_OF_CODE.get(code)
    if base is None:
        return None
    try:
        dtype: np.dtype = np.dtype(f"{base}{bits}")
    except TypeError:
        return None
    return dtype


def describe(array: np.ndarray) -> DLTensor:
    """A DLTensor over the memory of `array`, which must outlive it.

    A dtype that DLPack lacks gets the opaque code 3, so that the callee's check names the mismatch.
    """
    ndim = array.ndim
    tensor = DLTensor()
    tensor.data = array.ctypes.data
    tensor.device_type = CPU
    tensor.ndim = ndim
    tensor.code, tensor.bits = dlpack_code(array.dtype) or (3, min(array.dtype.itemsize * 8, 255))
    tensor.lanes = 1
    if ndim:
        itemsize = array.dtype.itemsize or 1
        tensor.shape = (c_int64 * ndim)(*array.shape)
        # Strides that are no whole number of elements become 0: not contiguous for certain.
        tensor.strides = (c_int64 * ndim)(
            *(0 if step % itemsize else step // itemsize for step in array.strides)
        )
    return tensor


def declare(library: ctypes.CDLL) -> None:
    """Gives the exported functions of a model library their types."""
    tensors = c_void_p  # const DLTensor *const *
    for name, result, arguments in (
        ("heddle_run", c_int32, [tensors, c_int32, tensors, c_int32]),
        (
            "heddle_run_profiled",
            c_int32,
            [tensors, c_int32, tensors, c_int32, POINTER(c_int64), POINTER(c_int64)],
        ),
        ("heddle_infer_shapes", c_int32, [tensors, c_int32, POINTER(c_int64), c_int32]),
        ("heddle_last_error", c_char_p, []),
        ("heddle_get_model", POINTER(Model), []),
        ("heddle_metadata", c_char_p, []),
        ("heddle_set_constants", c_int32, [c_void_p, c_int64]),
        ("heddle_set_num_threads", c_int32, [c_int32]),
        ("heddle_get_num_threads", c_int32, []),
        ("heddle_trim", None, []),
    ):
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
