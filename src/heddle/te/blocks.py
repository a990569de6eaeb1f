# SPDX-License-Identifier: Apache-2.0
"""What all lowerings of tensor expressions share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from heddle.ir.expr import Expr, Var
from heddle.ir.structural import structural_hash
from heddle.ir.walk import post_order, rewrite
from heddle.support import UserError
from heddle.te.tensor import Reduce, Tensor, TensorElement
from heddle.tir.build import load, point
from heddle.tir.nodes import Buffer, BufferLoad, BufferRegion


def sources_of(bodies: Iterable[Expr]) -> list[Tensor]:
    """The tensors that expressions read, in order of first use."""
    found = {
        part.tensor: None
        for body in bodies
        for part in post_order(body)
        if isinstance(part, TensorElement)
    }
    return list(found)


def to_loads(
    value: Expr, buffers: Mapping[Tensor, Buffer], values: Mapping[Var, Expr], name: str
) -> Expr:
    """`value` with elements of tensors as loads of their buffers and `values` for variables."""

    def to_load(element: TensorElement) -> Expr:
        return load(buffers[element.tensor], element.indices)

    def nested(found: Reduce) -> Expr:
        raise UserError(
            f"te.compute `{name}`: the reduction must be the outermost expression; "
            "compute it as its own tensor first",
            span=found.span,
        )

    made: Expr = rewrite(value, {TensorElement: to_load, Reduce: nested}, memo=dict(values))
    return made


def read_regions(values: Iterable[Expr], written: Collection[Buffer]) -> list[BufferRegion]:
    """One region per distinct access; the block's own accumulators do not count as read."""
    regions: dict[str, BufferRegion] = {}
    for value in values:
        for found in post_order(value):
            if isinstance(found, BufferLoad) and found.buffer not in written:
                key = f"{id(found.buffer)}{[structural_key(index) for index in found.indices]}"
                regions.setdefault(key, point(found.buffer, found.indices))
    return list(regions.values())


def structural_key(index: Expr) -> str:
    """A key that equal index expressions over the same variables share."""
    names = {id(found): None for found in post_order(index) if isinstance(found, Var)}
    return f"{structural_hash(index)}{list(names)}"
