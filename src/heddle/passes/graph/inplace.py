# SPDX-License-Identifier: Apache-2.0
"""Which inputs of a kernel may share memory with its output."""

from __future__ import annotations

from heddle.ir.expr import Expr, as_int
from heddle.ir.structural import structural_equal
from heddle.ir.walk import post_order
from heddle.tir.nodes import Block, Buffer, BufferLoad, BufferStore, IterKind, PrimFunc


def inplace_pairs(func: PrimFunc, num_inputs: int) -> tuple[tuple[int, int], ...]:
    """Pairs (input, output) of parameter positions of an unscheduled kernel that may be one
    memory: every block is elementwise, and reads the input and intermediate values only at the
    element that it writes. That stays true however the blocks are scheduled.

    `C[i] = A[i] + B[0]` gives `((0, 2),)`.
    """
    blocks = [found for found in post_order(func.body) if isinstance(found, Block) and found.iters]
    if not blocks or len(func.params) != num_inputs + 1:
        return ()
    aligned: set[Buffer] = set()
    elsewhere: set[Buffer] = set()
    for block in blocks:
        written = _written_indices(block)
        if written is None:
            return ()
        for found in post_order(block.body):
            if isinstance(found, BufferLoad):
                (aligned if _at(found, written) else elsewhere).add(found.buffer)
    inputs = func.params[:num_inputs]
    if any(buffer not in inputs and buffer.shape for buffer in elsewhere):
        return ()
    output = func.params[num_inputs]
    return tuple(
        (position, num_inputs)
        for position, param in enumerate(inputs)
        if param in aligned and param not in elsewhere and _same_layout(param, output)
    )


def _written_indices(block: Block) -> tuple[Expr, ...] | None:
    """The indices that an elementwise block writes: all its variables in order; else None."""
    store = block.body
    if not isinstance(store, BufferStore) or block.init is not None:
        return None
    if any(axis.kind is not IterKind.SPATIAL for axis in block.iters):
        return None
    variables = tuple(axis.var for axis in block.iters)
    if len(variables) != len(store.indices):
        return None
    same = all(a is b for a, b in zip(variables, store.indices, strict=True))
    return store.indices if same else None


def _at(found: BufferLoad, written: tuple[Expr, ...]) -> bool:
    """Whether a load reads the element that is written; in a dimension of 1 that is index 0."""
    if len(found.indices) != len(written):
        return False
    return all(
        index is variable or (as_int(index) == 0 and as_int(dim) == 1)
        for index, variable, dim in zip(found.indices, written, found.buffer.shape, strict=True)
    )


def _same_layout(left: object, right: object) -> bool:
    if not isinstance(left, Buffer) or not isinstance(right, Buffer):
        return False
    return left.dtype is right.dtype and structural_equal(left.shape, right.shape)
