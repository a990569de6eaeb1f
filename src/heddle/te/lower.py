# SPDX-License-Identifier: Apache-2.0
"""From tensor expressions to a `PrimFunc`: one block per compute."""

from __future__ import annotations

from collections.abc import Sequence

from heddle.ir.dtype import DType
from heddle.ir.expr import Expr, Var, add, const, maximum, minimum, mul
from heddle.support import UserError
from heddle.te.blocks import read_regions, sources_of, to_loads
from heddle.te.tensor import Reduce, ReduceAxis, Tensor
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
from heddle.tir.nodes import Buffer, PrimFunc, Stmt

_COMBINE = {"sum": add, "prod": mul, "max": maximum, "min": minimum}


def identity_element(combiner: str, dtype: DType) -> Expr:
    """The neutral element of "sum", "prod", "max" or "min" in `dtype`."""
    if combiner in ("sum", "prod"):
        return const(0 if combiner == "sum" else 1, dtype)
    if dtype.is_float:
        return const(float("-inf") if combiner == "max" else float("inf"), dtype)
    return const(dtype.min_value if combiner == "max" else dtype.max_value, dtype)


def combined(combiner: str, buffer: Buffer, at: Sequence[Expr], value: Expr) -> Expr:
    """`buffer[at]` combined with one more value."""
    return _COMBINE[combiner](load(buffer, at), value)


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
        if tensor.is_placeholder and tensor not in tensors:
            raise UserError(f"placeholder `{tensor.name}` is used but not among the parameters")
    computes = [tensor for tensor in order if not tensor.is_placeholder]
    stmts = []
    for tensor in computes:
        if tensor.group is None:
            stmts.append(_lower_compute(tensor, buffers))
        elif tensor.group.tensors[0] is tensor:
            stmts.append(tensor.group.lower(buffers))
    return prim_func(
        [buffers[tensor] for tensor in tensors],
        seq(*stmts),
        name=name,
        alloc_buffers=[buffers[tensor] for tensor in computes if tensor not in tensors],
    )


def _topological(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Everything that `tensors` need, sources first; the tensors of a group together."""
    order: dict[Tensor, None] = {}
    stack: list[tuple[Tensor, bool]] = [(tensor, False) for tensor in reversed(tensors)]
    while stack:
        tensor, expanded = stack.pop()
        if tensor in order:
            continue
        if expanded or tensor.is_placeholder:
            members = (tensor,) if tensor.group is None else tensor.group.tensors
            order.update((member, None) for member in members)
            continue
        stack.append((tensor, True))
        if tensor.group is not None:
            sources = tensor.group.sources()
        else:
            assert tensor.body is not None
            sources = sources_of([tensor.body])
        stack.extend((source, False) for source in reversed(sources))
    return list(order)


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

    value = to_loads(source, buffers, values, tensor.name)
    target = [axis.var for axis in iters[: tensor.ndim]]
    init = None
    if isinstance(tensor.body, Reduce):
        combiner = tensor.body.combiner
        init = store(buffer, identity_element(combiner, buffer.dtype), target)
        value = combined(combiner, buffer, target, value)
    block = make_block(
        buffer.name,
        iters,
        store(buffer, value, target),
        reads=read_regions([value], [buffer]),
        writes=[point(buffer, target)],
        init=init,
    )
    return for_nest([*loops, *reduce_loops], block)
