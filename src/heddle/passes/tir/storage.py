# SPDX-License-Identifier: Apache-2.0
"""Where allocations live: small static buffers on the stack, all others in a workspace.

    Allocate(scope "global", 1 KiB)   ->  scope "local"    (stack; registers when SROA can)
    Allocate(scope "local", 64 KiB)   ->  scope "global"   (hd_alloc, freed at the end)

What may lie on the stack is limited per buffer and per function.
"""

from __future__ import annotations

from typing import Final

from heddle.ir.walk import pre_order
from heddle.tir.build import element_count, replace_buffers
from heddle.tir.nodes import Allocate, Buffer, PrimFunc

STACK_LIMIT: Final = 16 << 10
"""Largest buffer, in bytes, that is put on the stack."""

STACK_TOTAL: Final = 128 << 10
"""What all buffers of one function may take on the stack together."""


def place_storage(func: PrimFunc) -> PrimFunc:
    """`func` whose allocations say "local" for the stack and "global" for a workspace."""
    changed: dict[Buffer, Buffer] = {}
    total = 0
    for found in pre_order(func.body):
        if not isinstance(found, Allocate):
            continue
        buffer = found.buffer
        count = element_count(buffer.shape)
        size = None if count is None else count * buffer.dtype.nbytes
        on_stack = size is not None and size <= STACK_LIMIT and total + size <= STACK_TOTAL
        if on_stack and size is not None:
            total += size
        scope = "local" if on_stack else "global"
        if scope != buffer.scope:
            changed[buffer] = buffer.replace(scope=scope)
    return replace_buffers(func, changed)
