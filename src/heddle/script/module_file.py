# SPDX-License-Identifier: Apache-2.0
"""A module on disk: `module.py`, its script, and `weights.safetensors`, its constants.

The script is what `to_text` prints, to be read and changed by hand; constants of more than 16
elements are named in it and lie in the other file, in the format of the package `safetensors`: the
length of a header (8 bytes, little-endian), the header (JSON: dtype, shape and place by name), the
data.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np

from heddle.ir import IRModule
from heddle.script.parser import parse
from heddle.script.printer import to_text
from heddle.support import UserError

SCRIPT: Final = "module.py"
WEIGHTS: Final = "weights.safetensors"
_HEADER: Final = (
    "# A module of Heddle: heddle.load_module reads it, with the constants beside it.\n"
    "from heddle.script import G, I, T\n\n"
)
_NAMES: Final[dict[str, Any]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_HEADER_LIMIT: Final = 100 << 20


def save_module(module: IRModule, folder: str | os.PathLike[str]) -> None:
    """Write `module` into `folder` (made when it is not there) as script and weights.

    >>> heddle.save_module(module, "model")       # doctest: +SKIP
    >>> heddle.load_module("model")               # doctest: +SKIP
    """
    if not isinstance(module, IRModule):
        raise UserError(f"save_module takes an IRModule, got {type(module).__name__}")
    constants: dict[str, np.ndarray] = {}
    text = to_text(module, constants=constants)
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / SCRIPT).write_text(_HEADER + text + "\n", encoding="utf-8")
        write_tensors(path / WEIGHTS, constants)
    except OSError as error:
        raise UserError(f"`{folder}` cannot be written: {error.strerror}") from None


def load_module(folder: str | os.PathLike[str]) -> IRModule:
    """The module that `save_module` wrote into `folder`.

    `UserError` when a file is missing, damaged or no such script; nothing in it is executed.
    """
    path = Path(folder)
    try:
        text = (path / SCRIPT).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"`{path / SCRIPT}` cannot be read: {error}") from None
    constants = read_tensors(path / WEIGHTS)
    found = parse(text, constants=constants, file=str(path / SCRIPT))
    return found if isinstance(found, IRModule) else IRModule({"main": found})


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """A safetensors file; `UserError` for a dtype that the format does not have."""
    header: dict[str, Any] = {}
    parts, place = [], 0
    for name, array in tensors.items():
        kind = next((k for k, dtype in _NAMES.items() if array.dtype == np.dtype(dtype)), None)
        if kind is None:
            raise UserError(f"constant `{name}` has dtype {array.dtype}, which safetensors has not")
        data = np.ascontiguousarray(array)
        header[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [place, place + data.nbytes],
        }
        parts.append(data)
        place += data.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for data in parts:
            file.write(data.tobytes())


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file; `UserError` when it is damaged."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"`{path}` cannot be read: {error.strerror}") from None
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or length > min(len(raw) - 8, _HEADER_LIMIT):
        raise UserError(f"`{path}` is no safetensors file: its header does not fit")
    try:
        header = json.loads(raw[8 : 8 + length], object_pairs_hook=_table)
    except (ValueError, RecursionError):
        raise UserError(f"`{path}` is no safetensors file: its header is not JSON") from None
    except _Repeated as error:
        raise UserError(f"`{path}` is damaged: its header has {error} twice") from None
    if not isinstance(header, dict):
        raise UserError(f"`{path}` is no safetensors file: its header is no table")
    data = memoryview(raw)[8 + length :]
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    return {name: _tensor(path, name, entry, data) for name, entry in entries.items()}


class _Repeated(Exception):
    """A name that a header has twice."""


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise _Repeated(f"`{name}`")
        table[name] = value
    return table


def _tensor(path: Path, name: str, entry: Any, data: memoryview) -> np.ndarray:
    try:
        dtype = np.dtype(_NAMES[entry["dtype"]])
        shape = tuple(entry["shape"])
        start, end = entry["data_offsets"]
        count = math.prod(shape)
        # Not isinstance: true and false are no sizes.
        whole = all(type(item) is int and item >= 0 for item in (*shape, start, end))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"`{path}`: the entry of tensor `{name}` is damaged") from None
    if not whole or end > len(data) or end - start != count * dtype.itemsize:
        raise UserError(
            f"`{path}`: tensor `{name}` of shape {shape} and dtype {dtype} needs "
            f"{count * dtype.itemsize} bytes, its place is {start} to {end} of {len(data)}"
        )
    if dtype.kind == "b" and np.frombuffer(data[start:end], np.uint8).max(initial=0) > 1:
        raise UserError(f"`{path}`: tensor `{name}` of dtype bool has bytes other than 0 and 1")
    try:
        return np.frombuffer(data[start:end], dtype).reshape(shape).copy()
    except ValueError as error:  # a shape beyond numpy's limits, with no elements in it
        raise UserError(f"`{path}`: tensor `{name}` of shape {shape}: {error}") from None
