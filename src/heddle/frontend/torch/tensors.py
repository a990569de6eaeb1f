# SPDX-License-Identifier: Apache-2.0
"""Between torch and numpy: dtypes, and views of the same memory."""

from __future__ import annotations

from typing import Final

import ml_dtypes
import numpy as np
import torch

from heddle.frontend.torch.report import Unsupported
from heddle.ir import DType

_DTYPES: Final = {
    getattr(torch, name): DType.of(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "bfloat16"),
    )
}

COMPONENTS: Final = {
    torch.complex32: DType.of("float16"),
    torch.complex64: DType.of("float32"),
    torch.complex128: DType.of("float64"),
}
"""The dtypes of the two parts of complex numbers."""


def dtype_of(dtype: torch.dtype) -> DType:
    """The dtype of Heddle for one of torch; `Unsupported` when there is none."""
    found = _DTYPES.get(dtype)
    if found is None:
        raise Unsupported(f"dtype {str(dtype).removeprefix('torch.')}")
    return found


def numpy_view(tensor: torch.Tensor) -> np.ndarray:
    """The memory of a tensor on the CPU as a numpy array, without a copy where it is dense.

    `Unsupported` for tensors that are not plain memory (sparse, quantised, on another device).
    """
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise Unsupported(f"a tensor of layout {tensor.layout}")
    if tensor.device.type != "cpu":
        raise Unsupported(f"a tensor on the device `{tensor.device}`")
    dtype_of(tensor.dtype)
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if plain.dtype is torch.bfloat16:
        return plain.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return plain.numpy()


def real_view(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of complex numbers as one of real ones with a last axis of two; others as they
    are."""
    if not tensor.is_complex():
        return tensor
    return torch.view_as_real(tensor.detach().resolve_conj())


def torch_view(array: np.ndarray) -> torch.Tensor:
    """The memory of a numpy array as a tensor, without a copy."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
