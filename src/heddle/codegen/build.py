# SPDX-License-Identifier: Apache-2.0
"""One loop function at a time: as LLVM IR, as assembly, as a function to call from Python.

>>> matmul = build_kernel(func, native())         # doctest: +SKIP
>>> matmul(a, b, c)                               # numpy arrays; c is written
"""

from __future__ import annotations

import ctypes
import itertools
from typing import Any, Final

import numpy as np

from heddle.codegen.llvm.intrinsics import ELEMENTARY
from heddle.codegen.llvm.kernel import kernel_ir, uses_vectors
from heddle.codegen.machine import machine_of
from heddle.codegen.pool import worker_pool
from heddle.codegen.worker import Request
from heddle.ir.dtype import DType
from heddle.ir.expr import Var, as_int
from heddle.passes.tir.lower import lower
from heddle.support import UserError
from heddle.target import Target, native
from heddle.tir.build import shape_symbols
from heddle.tir.externs import c_type
from heddle.tir.nodes import Buffer, PrimFunc

_number = itertools.count()


_C_LIBRARY: Final = frozenset(
    {
        *ELEMENTARY,
        *(f"{name}f" for name in ELEMENTARY),
        *("sqrt", "fabs", "floor", "ceil", "trunc", "round", "memcpy", "memmove", "memset"),
    }
)
"""Functions of the C library that generated code may call: no kernel may take their place."""

_C_WORDS: Final = frozenset(
    "main auto bool break case char const continue default do double else enum extern false float "
    "for goto if inline int long register restrict return short signed sizeof static struct switch "
    "true typedef union unsigned void volatile while".split()
)
"""Words that name no function of ours in C."""


def kernel_name(func: PrimFunc) -> str:
    """The name of a function, as a C symbol: `exp_` for a function `exp`, `main_` for `main`."""
    name = str(func.attrs.get("name", "kernel"))
    symbol = "".join(char if char.isascii() and char.isalnum() else "_" for char in name)
    if not symbol or symbol[0].isdigit():
        symbol = f"f{symbol}"
    return f"{symbol}_" if symbol in _C_LIBRARY or symbol in _C_WORDS else symbol


def llvm_ir(func: PrimFunc, target: Target, *, symbol: str | None = None) -> str:
    """The LLVM IR of a scheduled function, before LLVM optimises it."""
    return kernel_ir(lower(func, target), symbol or kernel_name(func), target)


def asm(func: PrimFunc, target: Target | None = None) -> str:
    """The assembly of a scheduled function. LLVM runs in a worker process, since it ends the
    process on code that a target cannot have."""
    target = native() if target is None else target
    lowered = lower(func, target)
    text = kernel_ir(lowered, kernel_name(func), target)
    request = Request(text, machine_of(target), not uses_vectors(lowered), True)
    return worker_pool().submit(kernel_name(func), request).result().assembly


def build_kernel(func: PrimFunc, target: Target | None = None) -> Kernel:
    """Compile one function into this process and return it as something to call.

    The target must be one that this machine can run, such as `native()` or, on x86-64, any
    processor with a subset of its features.
    """
    from heddle.codegen.llvm.optimize import compile_ir  # imports LLVM

    target = native() if target is None else target
    lowered = lower(func, target)
    symbol = kernel_name(func)
    text = kernel_ir(lowered, symbol, target)
    made = compile_ir(text, machine_of(target), vectorize=not uses_vectors(lowered))
    return Kernel(func, symbol, made.object_code)


class Kernel:
    """A compiled loop function: call it with numpy arrays and numbers in the order of its
    parameters; it writes its outputs in place. Symbolic dimensions follow from the arrays."""

    def __init__(self, func: PrimFunc, symbol: str, object_code: bytes) -> None:
        self.name = symbol
        self.params = func.params
        self.symbols = shape_symbols(func)
        self.object_code = object_code
        self._library, address = _load(symbol, object_code)
        scalars = [param for param in func.params if isinstance(param, Var)]
        pointers = [param for param in func.params if isinstance(param, Buffer)]
        kinds: list[Any] = [ctypes.c_void_p] * len(pointers)
        kinds += [c_type(var.dtype) for var in scalars]
        kinds += [ctypes.c_int64] * len(self.symbols)
        self.function = ctypes.CFUNCTYPE(ctypes.c_int32, *kinds)(address)

    def __call__(self, *args: Any) -> None:
        """Run the kernel. Raises `UserError` for arguments that do not fit."""
        self.prepare(*args)()

    def prepare(self, *args: Any) -> Any:
        """The call with these arguments as a function without any: for timing. The function keeps
        the arguments alive."""
        if len(args) != len(self.params):
            raise UserError(
                f"kernel `{self.name}` takes {len(self.params)} arguments, got {len(args)}"
            )
        pointers: list[int] = []
        scalars: list[Any] = []
        symbols: dict[Var, int] = {}
        for param, arg in zip(self.params, args, strict=True):
            if isinstance(param, Buffer):
                self._check(param, arg, symbols)
                pointers.append(arg.ctypes.data)
            else:
                scalars.append(arg)
        values = [symbols.get(var) for var in self.symbols]
        if None in values:
            missing = self.symbols[values.index(None)].name
            raise UserError(f"kernel `{self.name}`: no argument tells the value of `{missing}`")
        flat = [*pointers, *scalars, *values]

        def run(kept: tuple[Any, ...] = args) -> None:
            if self.function(*flat) != 0:
                from heddle.codegen.services import last_error  # compiles C on first use

                raise UserError(f"kernel `{self.name}`: {last_error()}")

        return run

    def _check(self, param: Buffer, arg: Any, symbols: dict[Var, int]) -> None:
        where = f"kernel `{self.name}`: argument `{param.name}`"
        if not isinstance(arg, np.ndarray):
            raise UserError(f"{where}: expected a numpy array, got {type(arg).__name__}")
        if DType.of(arg.dtype) is not param.dtype:
            raise UserError(f"{where}: expected {param.dtype}, got {arg.dtype}")
        if arg.ndim != param.ndim:
            raise UserError(f"{where}: expected {param.ndim} dimensions, got {arg.ndim}")
        if param.strides is None and not arg.flags.c_contiguous:
            raise UserError(f"{where}: must be contiguous")
        for axis, (dim, size) in enumerate(zip(param.shape, arg.shape, strict=True)):
            _bind_dim(f"{where}: dimension {axis}", dim, size, symbols)
        if param.strides is not None:
            for axis, (step, size) in enumerate(zip(param.strides, arg.strides, strict=True)):
                _bind_dim(f"{where}: stride {axis}", step, size // arg.itemsize, symbols)
                if size < 0:
                    raise UserError(f"{where}: stride {axis} must not be negative")
        if param.elem_offset is not None:
            _bind_dim(f"{where}: elem_offset", param.elem_offset, 0, symbols)


def _bind_dim(where: str, dim: Any, size: int, symbols: dict[Var, int]) -> None:
    expected = symbols.setdefault(dim, size) if isinstance(dim, Var) else as_int(dim)
    if expected is not None and expected != size:
        raise UserError(f"{where} is {size}, expected {expected}")


def _load(symbol: str, object_code: bytes) -> tuple[object, int]:
    """Load an object into this process: what keeps it loaded, and the address of `symbol`."""
    import llvmlite.binding as llvm  # heavy

    from heddle.codegen.services import service_addresses  # compiles C on first use

    global _jit
    if _jit is None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        _jit = llvm.create_lljit_compiler()
    builder = llvm.JITLibraryBuilder().add_object_img(object_code)
    for name, address in service_addresses().items():
        builder.import_symbol(name, address)
    builder.add_current_process().export_symbol(symbol)
    try:
        library = builder.link(_jit, f"{symbol}.{next(_number)}")
    except RuntimeError as error:  # all that the linker says is which function has a gap
        raise UserError(
            f"kernel `{symbol}` calls a C function that is not in this process; say where it is: "
            'libs=["helpers.c"]'
        ) from error
    return library, int(library[symbol])


_jit: Any = None
