# SPDX-License-Identifier: Apache-2.0
"""The short way of a call from Python to a model: see fastcall.c.

It serves numpy arrays and `Tensor`s of the dtype that the model takes, contiguous, for models whose
results have shapes that follow from those of the inputs. Where it cannot be had (no C compiler,
another Python than CPython with its global lock), calls take the general way.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import struct
import sys
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from heddle.runtime.abi import dlpack_code
from heddle.runtime.info import ModelInfo, TensorInfo
from heddle.runtime.tensor import Tensor
from heddle.runtime.toolchain import CRT, cache_directory, find_toolchain
from heddle.support.errors import InternalError, UserError

Caller = Callable[[tuple[Any, ...]], Any]
_SOURCE = Path(__file__).with_name("fastcall.c")
_FLAGS = ("-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", f"-I{CRT}")
_MOST_ARGUMENTS = 256
_DIGEST_BYTES = hashlib.sha256().digest_size
_HEAD = 2 * struct.calcsize("P")


def make_caller(
    library: ctypes.CDLL,
    model: ModelInfo,
    empty: Callable[[tuple[int, ...], np.dtype, int], np.ndarray],
    pooled_from: int,
) -> Caller | None:
    """A function from the tuple of the inputs to the results, or to NotImplemented.

    `empty` allocates results of at least `pooled_from` bytes.
    """
    if model.late_symbols or len(model.inputs) + len(model.outputs) > _MOST_ARGUMENTS:
        return None
    make = _native()
    if make is None:
        return None
    is_static = all(info.is_static for info in model.outputs)
    dims = [int(dim) if is_static else 0 for info in model.outputs for dim in info.shape]
    return make(  # type: ignore[no-any-return]
        (
            _numpy_api(),
            _address(library.heddle_run),
            0 if is_static else _address(library.heddle_infer_shapes),
            _address(library.heddle_last_error),
            Tensor,
            "_array",
            UserError,
            empty,
            pooled_from,
            tuple(map(_argument, model.inputs)),
            tuple(map(_argument, model.outputs)),
            tuple(dims),
        )
    )


def _argument(info: TensorInfo) -> tuple[np.dtype, int, int, int, int]:
    dtype = np.dtype(info.dtype)
    code = dlpack_code(dtype)
    if code is None:
        raise InternalError(f"a model has an argument of dtype {dtype}")
    memory = int(info.donated) if info.lies_in is None else 1 + info.lies_in
    return (dtype, *code, len(info.shape), memory)


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _numpy_api() -> int:
    """The address of numpy's table of C functions."""
    core = sys.modules.get("numpy._core.multiarray") or sys.modules["numpy.core.multiarray"]
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return get(core._ARRAY_API, None)  # type: ignore[no-any-return]


@cache
def _native() -> Callable[[tuple[Any, ...]], Caller] | None:
    """`make_caller` of fastcall.c, compiled once for this machine; None where it cannot run."""
    plain = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")
    if not plain or object.__basicsize__ != _HEAD or os.name != "posix":
        return None
    try:
        make = ctypes.PyDLL(str(_library())).make_caller
    except (OSError, UserError, InternalError):
        return None
    make.restype, make.argtypes = ctypes.py_object, [ctypes.py_object]
    return make


def _library() -> Path:
    toolchain = find_toolchain()
    digest = hashlib.sha256(_SOURCE.read_bytes())
    for part in (*toolchain.command, toolchain.version, *_FLAGS):
        digest.update(part.encode() + b"\0")
    path = cache_directory() / f"fastcall-{digest.hexdigest()[:16]}.so"
    if not _is_intact(path):
        part = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            toolchain.run([*_FLAGS, _SOURCE, "-o", part], doing="compiling the call from Python")
            content = part.read_bytes()
            part.write_bytes(content + hashlib.sha256(content).digest())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return path


def _is_intact(path: Path) -> bool:
    """Whether a library is what was once written: the file ends with the digest of the rest."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-_DIGEST_BYTES]).digest() == content[-_DIGEST_BYTES:]
