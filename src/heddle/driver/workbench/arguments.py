# SPDX-License-Identifier: Apache-2.0
"""Arguments for a loop function: those that were given, and random ones for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from heddle.ir.dtype import DType
from heddle.ir.expr import Expr, Var, as_int
from heddle.ir.walk import free_vars, post_order
from heddle.support import UserError
from heddle.tir.build import shape_symbols
from heddle.tir.interp import evaluate
from heddle.tir.nodes import Buffer, BufferLoad, BufferStore, PrimFunc

_ALIGNMENT: Final = 64
_SIZES: Final = (13, 7, 11, 5)
"""What symbolic dimensions are when nobody says: sizes that no vector divides."""


def arguments_of(
    func: PrimFunc,
    inputs: Sequence[Any] | Mapping[str, Any] | None,
    *,
    seed: int,
    sizes: Mapping[str, int] | None,
) -> list[Any]:
    """One argument per parameter of `func`, in order; arrays are aligned copies.

    Raises `UserError` for inputs that do not fit the parameters.
    """
    given = _by_name(func, inputs)
    dims = _dimensions(func, given, sizes)
    rng = np.random.default_rng(seed)
    limits = _index_limits(func)
    return [
        _argument(param, given.get(param.name), dims, rng, limits)  # type: ignore[attr-defined]
        for param in func.params
    ]


def _by_name(func: PrimFunc, inputs: Sequence[Any] | Mapping[str, Any] | None) -> dict[str, Any]:
    names = [param.name for param in func.params]  # type: ignore[attr-defined]
    if inputs is None:
        return {}
    if isinstance(inputs, Mapping):
        unknown = [name for name in inputs if name not in names]
        if unknown:
            raise UserError(f"inputs: there is no parameter {unknown}; there are {names}")
        return dict(inputs)
    if len(inputs) > len(names):
        raise UserError(f"inputs: {len(inputs)} given, the function has the parameters {names}")
    return dict(zip(names, inputs, strict=False))


def _dimensions(
    func: PrimFunc, given: Mapping[str, Any], sizes: Mapping[str, int] | None
) -> dict[Var, int]:
    symbols = shape_symbols(func)
    known = {var.name for var in symbols}
    for name in sizes or {}:
        if name not in known:
            text = ", ".join(sorted(known)) or "none"
            raise UserError(f"sizes: `{name}` is no symbolic dimension; there are {text}")
    dims = {
        var: (sizes or {}).get(var.name, _SIZES[number % len(_SIZES)])
        for number, var in enumerate(symbols)
    }
    for param in func.params:
        if isinstance(param, Buffer) and param.name in given:
            shape = np.shape(given[param.name])
            dims.update(
                (dim, size)
                for dim, size in zip(param.shape, shape, strict=False)
                if isinstance(dim, Var)
            )
    return dims


def _size(value: Expr, dims: Mapping[Var, int]) -> int:
    found = as_int(value)
    if found is None:
        found = int(evaluate(value)({var: dims[var] for var in free_vars(value)}))
    return found


def _index_limits(func: PrimFunc) -> dict[Buffer, int | None]:
    """Parameters that are read as indices, with the least size of what they index."""
    limits: dict[Buffer, int | None] = {}
    for access in post_order(func.body):
        if not isinstance(access, (BufferLoad, BufferStore)):
            continue
        for dim, index in zip(access.buffer.shape, access.indices, strict=False):
            for load in post_order(index):
                if isinstance(load, BufferLoad):
                    sizes = [limits.get(load.buffer), as_int(dim)]
                    limits[load.buffer] = min((s for s in sizes if s is not None), default=1)
    return limits


def _argument(
    param: Any,
    value: Any,
    dims: Mapping[Var, int],
    rng: np.random.Generator,
    limits: Mapping[Buffer, int | None],
) -> Any:
    if not isinstance(param, Buffer):
        return 1 if value is None else value
    shape = tuple(_size(dim, dims) for dim in param.shape)
    if value is None:
        value = _random(param.dtype, shape, rng, limits.get(param))
    else:
        value = np.asarray(value)
        if DType.of(value.dtype) is not param.dtype or value.shape != shape:
            raise UserError(
                f"input `{param.name}`: expected {param.dtype} of shape {shape}, "
                f"got {value.dtype} of shape {value.shape}"
            )
    return aligned_copy(value)


def _random(
    dtype: DType, shape: tuple[int, ...], rng: np.random.Generator, limit: int | None
) -> np.ndarray:
    if dtype.is_bool:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.is_float:
        return rng.standard_normal(shape).astype(dtype.numpy)
    if limit is not None:
        return rng.integers(0, limit, shape).astype(dtype.numpy)
    low = 0 if dtype.name.startswith("uint") else -7
    return rng.integers(low, 8, shape).astype(dtype.numpy)


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """A contiguous copy whose data lies on a cache line, as compiled models have theirs."""
    memory = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    result = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    result[...] = array
    return result
