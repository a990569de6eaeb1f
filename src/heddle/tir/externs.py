# SPDX-License-Identifier: Apache-2.0
"""C functions in the interpreters: Python functions that compute the same, or the compiled ones.

    run(func, a, b, externs={"my_cube": lambda x: x * x * x})
    run(func, a, b, externs=ctypes.CDLL("./helpers.so"))
    interpret(module, [x], externs=heddle.build(module, libs=["helpers.c"]).library)

Arguments are numpy arrays for buffers and addresses (a one-dimensional view of what lies behind the
address) and numbers for scalars, in the order of the C function.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from heddle.ir.dtype import DType
from heddle.support import UserError

Externs: TypeAlias = "Mapping[str, Callable[..., Any]] | ctypes.CDLL"
"""What is known of C functions: Python or ctypes functions by symbol, or a loaded library."""

_C_TYPES: Final[Mapping[str, Any]] = {
    "float64": ctypes.c_double,
    "float32": ctypes.c_float,
    "float16": ctypes.c_float,  # 16-bit floats are computed with as float32
    "bfloat16": ctypes.c_float,
    "bool": ctypes.c_bool,
    **{f"int{bits}": getattr(ctypes, f"c_int{bits}") for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": getattr(ctypes, f"c_uint{bits}") for bits in (8, 16, 32, 64)},
}
_C_FUNCTION: Final[Any] = type(ctypes.CFUNCTYPE(None)()).__mro__[1]


def c_type(dtype: DType) -> Any:
    """The ctypes type that a scalar of `dtype` has as an argument of a C function."""
    return _C_TYPES[dtype.name]


def call_c(externs: Externs | None, symbol: str, arguments: Sequence[Any], dtype: DType) -> Any:
    """The result of the C function `symbol`. Raises `UserError` when nothing says what it does."""
    function = _find(externs, symbol)
    if function is None:
        raise UserError(
            f"interp: nothing says what the C function `{symbol}` computes; pass "
            f'externs={{"{symbol}": a Python function}}, or a library that has it, such as '
            "externs=heddle.build(module, libs=[...]).library"
        )
    if not isinstance(function, _C_FUNCTION):
        return function(*arguments)
    given = [_c_argument(symbol, value) for value in arguments]
    function.argtypes = [type(value) for value in given]
    function.restype = _C_TYPES.get(dtype.name, ctypes.c_void_p)
    return function(*given)


def _find(externs: Externs | None, symbol: str) -> Any:
    if isinstance(externs, ctypes.CDLL):
        return getattr(externs, symbol, None)
    return None if externs is None else externs.get(symbol)


def _c_argument(symbol: str, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    if isinstance(value, str):
        return ctypes.c_char_p(value.encode())
    if isinstance(value, (bool, int)):
        return ctypes.c_bool(value) if isinstance(value, bool) else ctypes.c_int64(value)
    kind = _C_TYPES.get(DType.of(np.asarray(value).dtype).name)
    if kind is None:
        raise UserError(f"interp: no argument of the C function `{symbol}`: {value!r}")
    return kind(np.asarray(value).item())
