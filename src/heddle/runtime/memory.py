# SPDX-License-Identifier: Apache-2.0
"""Aligned memory for results."""

from __future__ import annotations

import threading
from collections import defaultdict
from ctypes import addressof, c_char
from typing import Any

import numpy as np

ALIGNMENT = 64
POOLED_FROM = 256 << 10
"""Results of this many bytes come from a pool, and go back to it."""

_KEPT_PER_SIZE = 2


_view = c_char.from_buffer


def data_address(array: np.ndarray) -> int:
    """Where the elements of an array begin.

    The buffer protocol tells in a quarter of the time of `__array_interface__`, but for read-only
    and empty arrays, and dtypes that it does not know.
    """
    try:
        return addressof(_view(array))
    except (TypeError, ValueError, BufferError):
        return array.__array_interface__["data"][0]  # type: ignore[no-any-return]


def aligned_bytes(size: int) -> np.ndarray:
    """An uninitialised uint8 array of `size` elements that starts at a multiple of 64 bytes."""
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -data_address(raw) % ALIGNMENT
    return raw[start : start + size]


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised contiguous array that starts at a multiple of 64 bytes."""
    count = 1
    for dim in shape:
        count *= dim
    return aligned_bytes(count * dtype.itemsize).view(dtype).reshape(shape)


class _Lease:
    """Memory lent by a pool; numpy arrays over it keep it alive, and it goes back with the last."""

    __slots__ = ("__array_interface__", "memory", "pool")

    def __init__(self, memory: np.ndarray, pool: ResultPool) -> None:
        self.memory = memory
        self.pool = pool
        self.__array_interface__: dict[str, Any] = memory.__array_interface__

    def __del__(self) -> None:
        self.pool.give_back(self.memory)


class ResultPool:
    """Hands out memory for results and takes large pieces back when nobody looks at them any more.

    The first touch of fresh pages costs about as much as computing 25 MB of logits takes to copy;
    a caller that drops its results gets the same pages again. At most two idle pieces of each size
    are kept. Thread-safe.
    """

    def __init__(self) -> None:
        self._idle: defaultdict[int, list[np.ndarray]] = defaultdict(list)
        self._lock = threading.RLock()  # __del__ may run while this thread holds it

    def empty(self, shape: tuple[int, ...], dtype: np.dtype, size: int) -> np.ndarray:
        """An uninitialised array; `size` is its size in bytes."""
        if size < POOLED_FROM:
            raw = np.empty(size + ALIGNMENT, np.uint8)
            start = -data_address(raw) % ALIGNMENT
            return np.ndarray(shape, dtype, raw, start)
        with self._lock:
            idle = self._idle[size]
            memory = idle.pop() if idle else None
        if memory is None:
            memory = aligned_bytes(size)
        return np.asarray(_Lease(memory, self)).view(dtype).reshape(shape)

    def give_back(self, memory: np.ndarray) -> None:
        """Called by a lease that ends."""
        with self._lock:
            idle = self._idle[memory.nbytes]
            if len(idle) < _KEPT_PER_SIZE:
                idle.append(memory)
