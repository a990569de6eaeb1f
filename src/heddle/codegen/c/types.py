# SPDX-License-Identifier: Apache-2.0
"""C types and constants as text.

An element has one type in memory and one while computing: 16-bit floats are computed with as
`float` and rounded where they are stored or cast, booleans are a byte in memory.
"""

from __future__ import annotations

import math

import numpy as np

from heddle.ir.dtype import DType
from heddle.support import UserError


def scalar(dtype: DType) -> DType:
    """`dtype`, which must not be a vector."""
    if dtype.lanes != 1:
        raise UserError(f"the C target has no vectors, got {dtype}; use a vectorized loop")
    return dtype


def value_type(dtype: DType) -> str:
    """The C type of a value while computing."""
    scalar(dtype)
    if dtype.is_float:
        return "double" if dtype.bits == 64 else "float"
    if dtype.is_int:
        return f"{dtype.name}_t"
    return "bool" if dtype.is_bool else "void *"


def memory_type(dtype: DType) -> str:
    """The C type of an element in memory."""
    if dtype.is_bool:
        return "uint8_t"
    return "uint16_t" if is_short_float(dtype) else value_type(dtype)


def is_short_float(dtype: DType) -> bool:
    """float16 or bfloat16."""
    return dtype.is_float and dtype.bits == 16


def short_name(dtype: DType) -> str:
    """The word of a 16-bit float in the names of helpers."""
    return "half" if dtype.kind == "float" else "bfloat16"


def compute_dtype(dtype: DType) -> DType:
    """The dtype that values of `dtype` are computed with."""
    return DType.of("float32") if is_short_float(dtype) else dtype


def int_literal(value: int, dtype: DType) -> str:
    """An integer constant of `dtype`."""
    if dtype.is_bool:
        return "true" if value else "false"
    if dtype.kind == "int" and value == dtype.min_value and dtype.bits >= 32:
        return f"INT{dtype.bits}_MIN"
    if dtype.kind == "uint" and dtype.bits >= 32:
        return f"{value}u" if dtype.bits == 32 else f"UINT64_C({value})"
    return str(value) if -(1 << 31) < value < 1 << 31 else f"INT64_C({value})"


def float_literal(value: float, dtype: DType) -> str:
    """A float constant of `dtype`, with as few digits as it takes."""
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    if dtype.bits == 64:
        return repr(float(value))
    text = str(np.float32(value))
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"
