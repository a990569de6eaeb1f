# SPDX-License-Identifier: Apache-2.0
"""`BuiltFunction`: a compiled loop function as a Python callable."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from heddle.ir.dtype import DType
from heddle.ir.expr import Expr, Var, as_int
from heddle.ir.walk import pre_order
from heddle.runtime import Tensor, dlpack
from heddle.runtime.abi import numpy_dtype
from heddle.support import UserError
from heddle.tir.build import shape_symbols, written_buffers
from heddle.tir.externs import c_type
from heddle.tir.interp import evaluate
from heddle.tir.nodes import Buffer, PrimFunc


def c_signature(func: PrimFunc) -> list[Any]:
    """The ctypes of the C parameters: pointers, then scalars, then symbolic dimensions."""
    scalars = [param for param in func.params if isinstance(param, Var)]
    kinds: list[Any] = [ctypes.c_void_p] * (len(func.params) - len(scalars))
    kinds += [c_type(var.dtype) for var in scalars]
    return kinds + [ctypes.c_int64] * len(shape_symbols(func))


@dataclass(frozen=True, slots=True)
class _Memory:
    """The memory that an argument refers to; `owner` keeps it alive. `address` is that of the first
    element, `offset` how many bytes it lies behind the tensor's data pointer. Strides are in
    elements, None when the memory is dense and row-major."""

    address: int
    offset: int
    dtype: np.dtype | None
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    writable: bool
    owner: Any

    @property
    def end(self) -> int:
        """One past the last byte."""
        if 0 in self.shape or self.dtype is None:
            return self.address
        steps = _row_major(self.shape) if self.strides is None else self.strides
        last = sum((size - 1) * step for size, step in zip(self.shape, steps, strict=True))
        return self.address + (last + 1) * self.dtype.itemsize


def _memory_of(arg: Any) -> _Memory:
    """Raises `UserError` for what is no tensor in CPU memory."""
    array = arg.numpy() if type(arg) is Tensor else arg
    if isinstance(array, np.ndarray):
        size = array.itemsize
        strides = None
        if not array.flags.c_contiguous:
            # A step that is no whole number of elements fits no layout.
            strides = tuple(step // size if step % size == 0 else 0 for step in array.strides)
        where = array.__array_interface__["data"][0]
        return _Memory(where, 0, array.dtype, array.shape, strides, array.flags.writeable, array)
    if not hasattr(array, "__dlpack__"):
        raise UserError(
            f"expected a numpy array, a torch tensor or another object with __dlpack__, "
            f"got {type(arg).__name__}"
        )
    capsule, tensor = dlpack.capsule_of(array)
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    strides = None
    if tensor.strides:
        strides = tuple(tensor.strides[axis] for axis in range(tensor.ndim))
        if _is_dense(shape, strides):
            strides = None
    dtype = numpy_dtype(tensor.code, tensor.bits, tensor.lanes)
    offset = tensor.byte_offset
    where = (tensor.data or 0) + offset
    return _Memory(where, offset, dtype, shape, strides, True, (array, capsule))


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    steps, step = [], 1
    for size in reversed(shape):
        steps.append(step)
        step *= size
    return tuple(reversed(steps))


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether memory is row-major without gaps; the steps of dimensions of 1 do not matter."""
    if 0 in shape:
        return True
    wanted = zip(shape, strides, _row_major(shape), strict=True)
    return all(size == 1 or step == expected for size, step, expected in wanted)


class BuiltFunction:
    """A compiled loop function. Call it with its arguments in order or by name: numpy arrays, torch
    tensors or anything else with `__dlpack__` for buffers, numbers for scalars. It writes its
    outputs in place and returns None.

    Symbolic dimensions are bound by the shapes of the arguments. Raises `UserError`, which names
    the argument, for a wrong dtype, shape, stride, device or memory that must not be shared.
    """

    def __init__(
        self,
        func: PrimFunc,
        name: str,
        function: Callable[..., int],
        last_error: Callable[[], str],
        *,
        source: str = "",
        header: str = "",
        keep: Any = None,
    ) -> None:
        """`function` has the C signature of `func`; `keep` lives as long as it is callable."""
        self.name = name
        self.func = func
        self.params = func.params
        self.source = source
        """The C source, for a target that generates C."""
        self.header = header
        self._function = function
        self._last_error = last_error
        self._keep = keep
        self._names = [str(param.name) for param in func.params]  # type: ignore[attr-defined]
        self._symbols = shape_symbols(func)
        self._written = written_buffers(func.body)
        self._may_overlap = not func.attrs.get("noalias", True)
        self._check_symbols()

    def __repr__(self) -> str:
        return f"BuiltFunction({self.name}: {', '.join(map(self._describe, self.params))})"

    def __call__(self, *args: Any, **named: Any) -> None:
        """Run the function. Raises `UserError` for arguments that do not fit."""
        values = self._arrange(args, named)
        pointers: list[int] = []
        scalars: list[Any] = []
        memories: list[tuple[Buffer, _Memory]] = []
        sizes: dict[Any, Any] = {}
        for param, value in zip(self.params, values, strict=True):
            if isinstance(param, Buffer):
                memory = self._tensor(param, value)
                memories.append((param, memory))
                start = 0 if param.elem_offset is None else memory.offset
                pointers.append(memory.address - start)
            else:
                number = self._scalar(param, value)  # type: ignore[arg-type]
                scalars.append(number)
                sizes[param] = number
        self._check_shapes(memories, sizes)
        self._check_overlap(memories)
        flat = [*pointers, *scalars, *(sizes[symbol] for symbol in self._symbols)]
        if self._function(*flat) != 0:
            raise UserError(f"{self.name}: {self._last_error()}")

    # -- arguments ---------------------------------------------------------------------------

    def _describe(self, param: Any) -> str:
        if isinstance(param, Buffer):
            return f"{param.name}: {param.dtype}[{', '.join(map(str, param.shape))}]"
        return f"{param.name}: {param.dtype}"

    def _check_symbols(self) -> None:
        bare = {dim for param in self.params if isinstance(param, Buffer) for dim in param.layout}
        for symbol in self._symbols:
            if symbol not in bare:
                raise UserError(
                    f"{self.name}: dimension `{symbol.name}` occurs only inside expressions; some "
                    "argument must have it as a dimension of its own"
                )

    def _arrange(self, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        if len(args) == len(self.params) and not named:
            return args
        expected = ", ".join(f"`{name}`" for name in self._names) or "none"
        if len(args) + len(named) > len(self.params):
            given = len(args) + len(named)
            raise UserError(f"{self.name}: got {given} arguments, expected {expected}")
        values = dict(zip(self._names, args, strict=False))
        for name, value in named.items():
            if name not in self._names:
                raise UserError(f"{self.name}: unknown argument `{name}`, expected {expected}")
            if name in values:
                raise UserError(f"{self.name}: argument `{name}` is given twice")
            values[name] = value
        missing = [f"`{name}`" for name in self._names if name not in values]
        if missing:
            names = ", ".join(missing)
            raise UserError(f"{self.name}: missing argument {names}, expected {expected}")
        return tuple(values[name] for name in self._names)

    def _fail(self, param: Any, text: str) -> UserError:
        return UserError(f"{self.name}: argument `{param.name}`: {text}")

    def _tensor(self, param: Buffer, value: Any) -> _Memory:
        try:
            memory = _memory_of(value)
        except UserError as error:
            raise self._fail(param, error.message) from error
        if memory.dtype != param.dtype.numpy:
            raise self._fail(param, f"expected {param.dtype}, got {memory.dtype}")
        if len(memory.shape) != param.ndim:
            raise self._fail(
                param,
                f"expected {param.ndim} dimensions, got {len(memory.shape)} {memory.shape}",
            )
        if param.strides is None and memory.strides is not None:
            raise self._fail(param, f"must be contiguous, got strides {memory.strides} in elements")
        if memory.strides is not None:
            self._check_strides(param, memory)
        if memory.address % param.dtype.nbytes or memory.offset % param.dtype.nbytes:
            raise self._fail(param, f"must be aligned to {param.dtype.nbytes} bytes")
        if not memory.writable and param in self._written:
            raise self._fail(param, "is written, but the array is read-only")
        return memory

    def _check_strides(self, param: Buffer, memory: _Memory) -> None:
        """Steps forward only; what is written has a place of its own for each element."""
        assert memory.strides is not None
        for axis, (size, step) in enumerate(zip(memory.shape, memory.strides, strict=True)):
            if step < 0 and size > 1:
                raise self._fail(param, f"stride {axis} is {step}, must not be negative; copy it")
            if step == 0 and size > 1 and param in self._written:
                raise self._fail(param, f"is written, and stride {axis} is 0")

    def _scalar(self, param: Var, value: Any) -> Any:
        dtype: DType = param.dtype
        if isinstance(value, (np.generic, np.ndarray)) and np.ndim(value) == 0:
            value = value.item()
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if dtype.is_bool:
            fits = isinstance(value, bool)
        elif dtype.is_float:
            fits = number
        else:
            fits = number and isinstance(value, int)
        if not fits:
            shown = f"{value!r} ({type(value).__name__})"
            raise self._fail(param, f"expected a number of {dtype}, got {shown}")
        if dtype.is_int and not dtype.min_value <= value <= dtype.max_value:
            raise self._fail(param, f"{value} does not fit in {dtype}")
        if not dtype.is_float:
            return value
        try:
            with np.errstate(over="ignore"):  # beyond the range it is an infinity
                return float(dtype.numpy.type(float(value)))
        except OverflowError:
            raise self._fail(param, "the integer is too large for a float") from None

    def _check_shapes(self, memories: list[tuple[Buffer, _Memory]], sizes: dict[Any, Any]) -> None:
        """Bind the symbols that stand alone in a shape, then check every dimension and stride."""
        bound_by: dict[Expr, str] = {}
        places = [item for param, memory in memories for item in _places(param, memory)]
        for param, what, dim, size in places:
            if isinstance(dim, Var) and dim not in sizes:
                sizes[dim] = size
                bound_by[dim] = f"{what} of `{param.name}`"
        for param, what, dim, size in places:
            fixed = as_int(dim)
            expected = fixed if fixed is not None else int(evaluate(dim)(sizes))
            if expected == size:
                continue
            wanted = str(expected)
            if fixed is None:
                used = [v for v in pre_order(dim) if isinstance(v, Var) and v in bound_by]
                origin = ", ".join(
                    dict.fromkeys(f"`{v.name}` is {sizes[v]} by {bound_by[v]}" for v in used)
                )
                wanted = f"{dim} = {expected}" + (f" ({origin})" if origin else "")
            raise self._fail(param, f"{what} is {size}, expected {wanted}")

    def _check_overlap(self, memories: list[tuple[Buffer, _Memory]]) -> None:
        if self._may_overlap:
            return
        for param, memory in memories:
            if param not in self._written:
                continue
            for other, second in memories:
                if other is param:
                    continue
                if memory.address < second.end and second.address < memory.end:
                    raise self._fail(
                        param, f"is written, and shares memory with argument `{other.name}`"
                    )


def _places(param: Buffer, memory: _Memory) -> list[tuple[Buffer, str, Expr, int]]:
    """(buffer, what, expression, size) of each dimension, given stride and given offset."""
    found = [
        (param, f"dimension {axis}", dim, size)
        for axis, (dim, size) in enumerate(zip(param.shape, memory.shape, strict=True))
    ]
    if param.strides is not None:
        steps = _row_major(memory.shape) if memory.strides is None else memory.strides
        found += [
            (param, f"stride {axis}", step, size)
            for axis, (step, size) in enumerate(zip(param.strides, steps, strict=True))
        ]
    if param.elem_offset is not None:
        offset = memory.offset // param.dtype.nbytes
        found.append((param, "elem_offset", param.elem_offset, offset))
    return found
