# SPDX-License-Identifier: Apache-2.0
"""Tensor: a shaped piece of memory that other libraries can look into without a copy."""

from __future__ import annotations

from typing import Any

import numpy as np

from heddle.runtime import dlpack
from heddle.runtime.abi import dlpack_code
from heddle.runtime.device import Device
from heddle.runtime.memory import aligned_empty
from heddle.support.errors import UserError

_CPU = Device("cpu")


class Tensor:
    """Memory on the CPU with a shape and a dtype; what a compiled model returns.

    `numpy()`, `numpy.asarray`, `torch.from_dlpack` and everything else that speaks DLPack see the
    same memory, with no copy.

    >>> Tensor.empty((2, 3), "float32").shape
    (2, 3)
    """

    __slots__ = ("_array",)

    def __init__(self, array: np.ndarray) -> None:
        """Wraps `array` without a copy.

        Raises `UserError` for a dtype that DLPack does not know.
        """
        if dlpack_code(array.dtype) is None:
            raise UserError(f"Tensor: dtype {array.dtype} is not supported")
        self._array = array

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: str) -> Tensor:
        """An uninitialised contiguous tensor, aligned to 64 bytes; dtype as in "bfloat16"."""
        return Tensor(aligned_empty(tuple(shape), np.dtype(dtype)))

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions."""
        return self._array.shape

    @property
    def dtype(self) -> str:
        """The name of the element type, as in "float32"."""
        return self._array.dtype.name

    @property
    def ndim(self) -> int:
        """How many dimensions there are."""
        return self._array.ndim

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return self._array.nbytes

    @property
    def device(self) -> Device:
        """Where the memory is."""
        return _CPU

    def numpy(self) -> np.ndarray:
        """A numpy view of the same memory (bfloat16 is the dtype of `ml_dtypes`)."""
        return self._array

    def item(self) -> Any:
        """The only element, as a Python number."""
        return self._array.item()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        wanted = self._array.dtype if dtype is None else np.dtype(dtype)
        if copy is False and wanted != self._array.dtype:
            raise ValueError(f"converting {self.dtype} to {wanted} needs a copy")
        return self._array.astype(wanted, copy=bool(copy))

    def __dlpack__(self, **options: Any) -> Any:
        if self._array.dtype.kind == "V":  # numpy does not export what it does not know
            return dlpack.to_capsule(self._array)
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU.dlpack

    def __len__(self) -> int:
        return len(self._array)

    def __repr__(self) -> str:
        return f"Tensor(shape={self.shape}, dtype={self.dtype!r})\n{self._array}"


def from_dlpack(source: Any) -> Tensor:
    """A tensor over the memory of any object with `__dlpack__`, without a copy.

    Raises `UserError` when the object has no `__dlpack__`, is not in CPU memory or has a dtype that
    numpy and ml_dtypes lack.
    """
    return Tensor(dlpack.to_numpy(source))
