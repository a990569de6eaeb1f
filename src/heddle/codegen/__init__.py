# SPDX-License-Identifier: Apache-2.0
"""Code generators: loop functions to native code."""

from heddle.codegen.build import Kernel, asm, build_kernel, llvm_ir

__all__ = ["Kernel", "asm", "build_kernel", "llvm_ir"]
