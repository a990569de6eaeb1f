# SPDX-License-Identifier: Apache-2.0
"""Loop nests that `tensorize` has marked become the implementation of their intrinsic.

    for i in range(16):  # tensor_intrin: x86.vpdpbusd.512        C[ramp(c, 1, 16)] =
    for k in range(4):                                     ->         T.call_llvm_intrin("llvm...",
        C[c + i] += A[a + k] * B[b + i * 4 + k]                           C[ramp(c, 1, 16)], ...)

Buffers are flat by then: the accesses of the implementation are moved by the offset at which the
nest's accesses start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heddle.ir.expr import Add, Expr, Var
from heddle.ir.walk import pre_order, rewrite, substitute
from heddle.passes.tir.flatten import flatten
from heddle.passes.tir.lower_blocks import lower_blocks
from heddle.passes.tir.ramps import widen
from heddle.support import UserError
from heddle.target import Target
from heddle.tir import tensor_intrin
from heddle.tir.build import buffer_params, shape_symbols
from heddle.tir.fresh import with_fresh_vars
from heddle.tir.nodes import Buffer, BufferLoad, BufferStore, For, PrimFunc, Stmt
from heddle.tir.tensor_intrin import Difference, Match, TensorIntrin


def place_tensor_intrinsics(func: PrimFunc, target: Target) -> PrimFunc:
    """`func` (flat) with the marked loop nests replaced.

    Raises `UserError` when the target lacks a feature that an intrinsic needs, or a nest was
    changed after `tensorize` so that it is no longer what the intrinsic does.
    """
    loops = [found for found in pre_order(func.body) if isinstance(found, For)]
    if not any(tensor_intrin.NAME in loop.annotations for loop in loops):
        return func
    ranges = {loop.var: (loop.min, loop.extent) for loop in loops}

    def place(loop: For) -> Stmt:
        name = loop.annotations.get(tensor_intrin.NAME)
        if name is None:
            return loop
        intrin = tensor_intrin.get(str(name))
        missing = sorted(intrin.features - target.features)
        if missing:
            raise UserError(
                f"tensor intrinsic `{name}` needs {', '.join(missing)}, which the target `{target}`"
                " lacks; choose another intrinsic, or a target that has it"
            )
        return _placed(loop, intrin, ranges)

    placed: PrimFunc = func.replace(body=rewrite(func.body, {For: place}))
    return placed


def _placed(loop: For, intrin: TensorIntrin, ranges: Mapping[Var, tuple[Expr, Expr]]) -> Stmt:
    nest = tensor_intrin.nest_of(loop)
    try:
        if nest is None:
            raise Difference("it is no loop nest around one store any more")
        inner = set(nest.variables)
        outer = {var: bounds for var, bounds in ranges.items() if var not in inner}
        found = tensor_intrin.match(intrin, nest, outer)
    except Difference as difference:
        raise UserError(
            f"the loops around `{loop.var.name}`, tensorized with `{intrin.name}`, are no longer "
            f"what it does: {difference}"
        ) from None
    return _implementation(intrin, found)


def _implementation(intrin: TensorIntrin, found: Match) -> Stmt:
    """The implementation's statements on the buffers of the nest."""
    implementation = intrin.implementation
    symbols = dict(
        zip(shape_symbols(implementation), shape_symbols(intrin.description), strict=False)
    )
    flat = flatten(lower_blocks(implementation))
    pairs = zip(buffer_params(flat), buffer_params(intrin.description), strict=True)
    places: dict[Buffer, tuple[Buffer, Expr]] = {
        mine: found.buffers[described] for mine, described in pairs if described in found.buffers
    }

    def index(buffer: Buffer, at: Expr) -> tuple[Buffer, tuple[Expr]]:
        real, base = places[buffer]
        moved = at + base if at.dtype.lanes == 1 else widen(Add(at, base))
        return real, (moved,)

    def load(access: BufferLoad) -> Expr:
        if access.buffer not in places:
            return access
        return BufferLoad(*index(access.buffer, access.indices[0]))

    def store(access: BufferStore) -> Stmt:
        if access.buffer not in places:
            return access
        real, indices = index(access.buffer, access.indices[0])
        return BufferStore(real, access.value, indices)

    handlers: dict[type, Any] = {BufferLoad: load, BufferStore: store}
    body: Stmt = with_fresh_vars(flat.body)
    values = {
        mine: found.strides[symbol] for mine, symbol in symbols.items() if symbol in found.strides
    }
    return rewrite(substitute(body, values), handlers)  # type: ignore[no-any-return]
