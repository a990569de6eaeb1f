# SPDX-License-Identifier: Apache-2.0
"""LLVM IR from loop functions, and native code from LLVM IR."""
