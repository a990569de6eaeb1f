# SPDX-License-Identifier: Apache-2.0
"""From tensor expressions to a `PrimFunc`: one block per compute."""

from __future__ import annotations

from collections.abc import Sequence

from heddle.ir.dtype import DType
from heddle.ir.expr import Expr, Var, add, const, maximum, minimum, mul
from heddle.ir.structural import structural_hash
from heddle.ir.walk import post_order, rewrite
from heddle.support import UserError
from heddle.te.tensor import Reduce, ReduceAxis, Tensor, TensorElement
from heddle.tir.build import (
    decl_buffer,
    for_nest,
    load,
    make_block,
    point,
    prim_func,
    reduction,
    seq,
    spatial,
    store,
)
from heddle.tir.nodes import Buffer, BufferLoad, BufferRegion, PrimFunc, Stmt

_COMBINE = {"sum": add, "prod": mul, "max": maximum, "min": minimum}


def identity_element(combiner: str, dtype: DType) -> Expr:
    """The neutral element of "sum", "prod", "max" or "min" in `dtype`."""
    if combiner in ("sum", "prod"):
        return const(0 if combiner == "sum" else 1, dtype)
    if dtype.is_float:
        return const(float("-inf") if combiner == "max" else float("inf"), dtype)
    return const(dtype.min_value if combiner == "max" else dtype.max_value, dtype)


def create_prim_func(tensors: Sequence[Tensor], *, name: str = "main") -> PrimFunc:
    """The function whose parameters are `tensors`: placeholders it reads, computes it writes.

    Computes that are needed but not listed become intermediate buffers.

    Raises `UserError` when a placeholder that is needed is not among `tensors`.
    """
    order = _topological(tensors)
    names = _unique_names([tensor.name for tensor in order])
    buffers: dict[Tensor, Buffer] = {}
    for tensor, unique in zip(order, names, strict=True):
        buffers[tensor] = decl_buffer(tensor.shape, tensor.dtype, unique)
        if tensor.body is None and tensor not in tensors:
            raise UserError(f"placeholder `{tensor.name}` is used but not among the parameters")
    computes = [tensor for tensor in order if tensor.body is not None]
    stmts = [_lower_compute(tensor, buffers) for tensor in computes]
    return prim_func(
        [buffers[tensor] for tensor in tensors],
        seq(*stmts),
        name=name,
        alloc_buffers=[buffers[tensor] for tensor in computes if tensor not in tensors],
    )


def _topological(tensors: Sequence[Tensor]) -> list[Tensor]:
    order: dict[Tensor, None] = {}
    stack: list[tuple[Tensor, bool]] = [(tensor, False) for tensor in reversed(tensors)]
    while stack:
        tensor, expanded = stack.pop()
        if tensor in order:
            continue
        if expanded or tensor.body is None:
            order[tensor] = None
            continue
        stack.append((tensor, True))
        stack.extend((source, False) for source in reversed(_sources(tensor.body)))
    return list(order)


def _sources(body: Expr) -> list[Tensor]:
    return [found.tensor for found in post_order(body) if isinstance(found, TensorElement)]


def _unique_names(names: Sequence[str]) -> list[str]:
    used: set[str] = {"root"}
    unique = []
    for name in names:
        candidate, count = name, 0
        while candidate in used:
            count += 1
            candidate = f"{name}_{count}"
        used.add(candidate)
        unique.append(candidate)
    return unique


def _lower_compute(tensor: Tensor, buffers: dict[Tensor, Buffer]) -> Stmt:
    """Loops over the axes around one block that computes one element (or one reduction step)."""
    assert tensor.body is not None
    buffer = buffers[tensor]
    axes: tuple[ReduceAxis, ...] = tensor.body.axes if isinstance(tensor.body, Reduce) else ()
    loops = [(Var(var.name), dim) for var, dim in zip(tensor.axis, tensor.shape, strict=True)]
    reduce_loops = [(Var(axis.var.name), axis.extent) for axis in axes]
    iters = [spatial(dim, var, f"v{var.name}") for var, dim in loops]
    iters += [reduction(dim, var, f"v{var.name}") for var, dim in reduce_loops]
    values: dict[Var, Expr] = {
        old: new.var
        for old, new in zip((*tensor.axis, *(axis.var for axis in axes)), iters, strict=True)
    }
    source = tensor.body.source if isinstance(tensor.body, Reduce) else tensor.body

    def to_load(element: TensorElement) -> Expr:
        return load(buffers[element.tensor], element.indices)

    def nested(found: Reduce) -> Expr:
        raise UserError(
            f"te.compute `{tensor.name}`: the reduction must be the outermost expression; "
            "compute it as its own tensor first",
            span=found.span,
        )

    value = rewrite(source, {TensorElement: to_load, Reduce: nested}, memo=dict(values))
    target = [axis.var for axis in iters[: tensor.ndim]]
    init = None
    if isinstance(tensor.body, Reduce):
        combiner = tensor.body.combiner
        init = store(buffer, identity_element(combiner, buffer.dtype), target)
        value = _COMBINE[combiner](load(buffer, target), value)
    block = make_block(
        buffer.name,
        iters,
        store(buffer, value, target),
        reads=_read_regions(value, buffer),
        writes=[point(buffer, target)],
        init=init,
    )
    return for_nest([*loops, *reduce_loops], block)


def _read_regions(value: Expr, written: Buffer) -> list[BufferRegion]:
    """One region per distinct access; the block's own accumulator does not count as read."""
    regions: dict[str, BufferRegion] = {}
    for found in post_order(value):
        if isinstance(found, BufferLoad) and found.buffer is not written:
            key = f"{id(found.buffer)}{[structural_key(index) for index in found.indices]}"
            regions.setdefault(key, point(found.buffer, found.indices))
    return list(regions.values())


def structural_key(index: Expr) -> str:
    """A key that equal index expressions over the same variables share."""
    names = {id(found): None for found in post_order(index) if isinstance(found, Var)}
    return f"{structural_hash(index)}{list(names)}"
