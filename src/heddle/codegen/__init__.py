# SPDX-License-Identifier: Apache-2.0
"""Code generators: loop functions to native code.

Names are imported when they are first used, because worker processes start from this package and
need none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from heddle.codegen.build import Kernel, asm, build_kernel, llvm_ir
    from heddle.codegen.kernels import CompiledKernel, KernelCompiler, compile_kernels, compile_text
    from heddle.codegen.llvm.host import host_ir

_PLACES: Final = {
    "Kernel": "build",
    "asm": "build",
    "build_kernel": "build",
    "llvm_ir": "build",
    "CompiledKernel": "kernels",
    "KernelCompiler": "kernels",
    "compile_kernels": "kernels",
    "compile_text": "kernels",
    "host_ir": "llvm.host",
}

__all__ = [
    "CompiledKernel",
    "Kernel",
    "KernelCompiler",
    "asm",
    "build_kernel",
    "compile_kernels",
    "compile_text",
    "host_ir",
    "llvm_ir",
]


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"heddle.codegen.{place}"), name)
