# SPDX-License-Identifier: Apache-2.0
"""`TensorProto` to numpy array. Nothing is allocated before the data is known to be there."""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from heddle.frontend.onnx import narrow, text
from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.values import Narrow, Value
from heddle.graph import Constant
from heddle.ir import DType
from heddle.support import UserError

_NAMES: Final[dict[int, str]] = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.BOOL: "bool",
    TensorProto.INT8: "int8",
    TensorProto.INT16: "int16",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.UINT8: "uint8",
    TensorProto.UINT16: "uint16",
    TensorProto.UINT32: "uint32",
    TensorProto.UINT64: "uint64",
}
# The field that holds the elements when `raw_data` does not.
_FIELDS: Final[dict[int, str]] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
}
_BITS: Final[dict[int, Any]] = {
    TensorProto.FLOAT16: np.float16,
    TensorProto.BFLOAT16: ml_dtypes.bfloat16,
}


def dtype_of(number: int, what: str) -> DType:
    """The dtype of an ONNX element type. `Unsupported` when Heddle has none such, `UserError`
    when there is none such."""
    name = _NAMES.get(number)
    if name is not None:
        return DType.of(name)
    if number in TensorProto.DataType.values() and number != TensorProto.UNDEFINED:
        shown = TensorProto.DataType.Name(number).lower()
        raise Unsupported(f"{what} has element type {shown}")
    raise UserError(f"{what} has element type {number}, which is not one of ONNX")


def onnx_type(dtype: DType) -> int:
    """The ONNX number of a dtype."""
    return next(number for number, name in _NAMES.items() if name == dtype.name)


def to_array(tensor: onnx.TensorProto, folder: Path | None, what: str) -> np.ndarray:
    """The values of `tensor`; `what` names it in errors, `folder` is where external data lies.

    `UserError` when data and dimensions do not agree, or external data is out of bounds.
    """
    dims = tuple(tensor.dims)
    if any(dim < 0 for dim in dims):
        raise UserError(f"{what} has dimensions {dims}; they must not be negative")
    dtype = dtype_of(tensor.data_type, what).numpy
    if tensor.HasField("segment"):
        raise UserError(f"{what} is stored in segments, which ONNX does not define")
    count = math.prod(dims)
    if tensor.data_location == TensorProto.EXTERNAL:
        raw: Any = _external(tensor, folder, count * dtype.itemsize, what)
    elif tensor.HasField("raw_data"):
        raw = tensor.raw_data
    else:
        return _typed(tensor, dtype, count, what).reshape(dims)
    if len(raw) != count * dtype.itemsize:
        raise UserError(
            f"{what} of dimensions {dims} and dtype {dtype} needs {count * dtype.itemsize} bytes, "
            f"got {len(raw)}"
        )
    if dtype == np.bool_:  # any other byte than 0 and 1 would be no bool to numpy
        return (np.frombuffer(raw, np.uint8) != 0).reshape(dims)
    little = np.dtype(dtype).newbyteorder("<") if dtype.kind in "iuf" else dtype
    return np.frombuffer(raw, little).astype(dtype, copy=False).reshape(dims)


def to_value(tensor: onnx.TensorProto, folder: Path | None, what: str) -> Value:
    """`tensor` as a constant, of whatever element type; as `to_array` otherwise."""
    if text.is_text(tensor.data_type):
        return _strings(tensor, what)
    kind = narrow.kind_of(tensor.data_type)
    if kind is None:
        return Constant(to_array(tensor, folder, what))
    dims = tuple(tensor.dims)
    if any(dim < 0 for dim in dims):
        raise UserError(f"{what} has dimensions {dims}; they must not be negative")
    count = math.prod(dims)
    wanted = narrow.stored_bytes(kind, count)
    if tensor.data_location == TensorProto.EXTERNAL:
        raw: Any = _external(tensor, folder, wanted, what)
    elif tensor.HasField("raw_data"):
        raw = tensor.raw_data
    else:
        raw = (np.asarray(tensor.int32_data, np.int64) & 0xFF).astype(np.uint8).tobytes()
    if len(raw) != wanted:
        raise UserError(
            f"{what} of dimensions {dims} and type {kind} needs {wanted} bytes, got {len(raw)}"
        )
    return Narrow(Constant(narrow.unpack(raw, kind, count).reshape(dims)), kind)


def _strings(tensor: onnx.TensorProto, what: str) -> Value:
    dims = tuple(tensor.dims)
    if any(dim < 0 for dim in dims) or math.prod(dims) != len(tensor.string_data):
        raise UserError(f"{what} of dimensions {dims} has {len(tensor.string_data)} strings")
    data = np.empty(len(tensor.string_data), object)
    data[:] = list(tensor.string_data)
    return text.of_strings(data.reshape(dims))


def _typed(tensor: onnx.TensorProto, dtype: np.dtype, count: int, what: str) -> np.ndarray:
    values = getattr(tensor, _FIELDS.get(tensor.data_type, "int32_data"))
    if len(values) != count:
        raise UserError(
            f"{what} of dimensions {tuple(tensor.dims)} needs {count} elements, got {len(values)}"
        )
    if tensor.data_type in _BITS:
        bits = np.asarray(values, np.int64)
        if bits.size and (bits.min() < 0 or bits.max() > 0xFFFF):
            raise UserError(f"{what}: an element does not fit in 16 bits")
        return bits.astype(np.uint16).view(_BITS[tensor.data_type])
    array = np.asarray(values) if count else np.zeros(0, dtype)
    if dtype.kind in "iu" and count:
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise UserError(f"{what}: an element does not fit in {dtype}")
    return array.astype(dtype)


def _external(tensor: onnx.TensorProto, folder: Path | None, wanted: int, what: str) -> bytes:
    about = {entry.key: entry.value for entry in tensor.external_data}
    location = about.get("location", "")
    path = _inside(folder, location, what)
    offset = _number(about.get("offset", "0"), "offset", what)
    length = _number(about.get("length", str(wanted)), "length", what)
    if length != wanted:
        raise UserError(f"{what} needs {wanted} bytes, its external data has length {length}")
    try:
        size = path.stat().st_size
        if offset + length > size:
            raise UserError(
                f"{what}: external data ends at byte {offset + length}, "
                f"but `{location}` has {size} bytes"
            )
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)
    except OSError as error:
        raise UserError(f"{what}: `{location}` cannot be read: {error.strerror}") from None


def _inside(folder: Path | None, location: str, what: str) -> Path:
    """The file that external data names, provided that it lies in the model's folder."""
    if folder is None:
        raise UserError(f"{what} is external data, but the model did not come from a file")
    parts = {*PurePosixPath(location).parts, *PureWindowsPath(location).parts}
    outside = PurePosixPath(location).is_absolute() or PureWindowsPath(location).is_absolute()
    if not location or "\0" in location or outside or ".." in parts:
        raise UserError(f"{what}: external data at `{location!r}`, expected a path in the folder")
    base = Path(os.path.realpath(folder))
    path = Path(os.path.realpath(base / location))
    if not path.is_relative_to(base):
        raise UserError(f"{what}: external data at `{location}` lies outside the model's folder")
    if not path.is_file():
        raise UserError(f"{what}: external data `{location}` is not there")
    return path


def _number(text: str, key: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise UserError(f"{what}: {key} of external data is `{text}`, expected a number of bytes")
    return int(text)
