# SPDX-License-Identifier: Apache-2.0
"""Operators that write where a tensor of indices says. Indices outside are ignored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import TensorType
from heddle.ir.expr import (
    Expr,
    add,
    all_of,
    as_int,
    cast,
    const,
    if_then_else,
    logical_and,
    maximum,
    minimum,
    mul,
    select,
)
from heddle.ir.expr import Var as Symbol
from heddle.op.adjoint import count_value, dims_of, dtype_of, full_like, mask, ndim_of
from heddle.op.common import (
    plain_dims,
    require_ndim,
    require_same_dtype,
    require_shape,
    same_dim,
    simplify_dim,
)
from heddle.op.index import INDEXED, canonical_axis, clamped, hit, tuple_length
from heddle.op.registry import operator, ops
from heddle.op.sample import case, floats, ints
from heddle.te import identity_element
from heddle.tir.build import for_nest, load, seq, store
from heddle.tir.nodes import Buffer, IfThenElse, Stmt

Reduction = Literal["none", "add", "mul", "min", "max"]
_COMBINE: dict[str, tuple[str, Callable[..., Expr], Callable[[Expr, Expr], Expr]]] = {
    "add": ("sum", te.sum, add),
    "mul": ("prod", te.prod, mul),
    "min": ("min", te.min, minimum),
    "max": ("max", te.max, maximum),
}


_MERGE: Final[dict[str, Callable[[Expr, Expr], Expr]]] = {
    "none": lambda _old, new: new,
    **{name: merge for name, (_, _, merge) in _COMBINE.items()},
}


def _scatter(
    data: te.Tensor,
    loops: Sequence[te.ReduceAxis],
    hits: Callable[[Sequence[Expr]], Expr],
    element: Callable[[Sequence[Expr], Sequence[Expr]], Expr],
    reduction: str,
    name: str,
) -> te.Tensor:
    """Every element of the result looks through all updates (`loops`) for those that hit it.

    Without a reduction the last update wins: its number is found first. This costs the product of
    both sizes, and needs no order and no atomic operation."""
    if reduction != "none":
        combiner, reduce, merge = _COMBINE[reduction]

        def gathered(*i: Expr) -> Expr:
            update = element(i, [loop.var for loop in loops])
            neutral = identity_element(combiner, data.dtype)
            return reduce(if_then_else(hits(i), update, neutral), axis=loops)

        found = te.compute(data.shape, gathered, name=f"{name}_updates")
        return te.compute(data.shape, lambda *i: merge(data[i], found[i]), name=name)

    def number(*i: Expr) -> Expr:
        flat: Expr = const(0)
        for loop in loops:
            flat = flat * loop.extent + loop.var
        return te.max(select(hits(i), flat, const(-1)), axis=loops)

    last = te.compute(data.shape, number, name=f"{name}_last")

    def chosen(*i: Expr) -> Expr:
        flat, at = maximum(last[i], const(0)), []
        for loop in reversed(loops):
            at.append(flat % loop.extent)
            flat = flat // loop.extent
        at.reverse()
        return if_then_else(last[i] >= 0, element(i, at), data[i])

    return te.compute(data.shape, chosen, name=name)


@operator("scatter_elements", kind="opaque", dtypes=INDEXED)
def scatter_elements(
    data: TensorType,
    indices: TensorType,
    updates: TensorType,
    *,
    axis: int = 0,
    reduction: Literal["none", "add", "mul", "min", "max"] = "none",
) -> TensorType:
    """data with the element at each position of `updates` (along `axis` where the index says)
    replaced by it, or combined with it."""
    require_same_dtype(data, updates)
    require_ndim(indices, "indices", data.ndim, data.ndim)
    require_shape(updates, "updates", indices.shape)
    return data


scatter_elements.rule("normalise")(canonical_axis)


@scatter_elements.rule("compute")
def _(
    data: te.Tensor, indices: te.Tensor, updates: te.Tensor, *, axis: int, reduction: str
) -> te.Tensor:
    loop = te.reduce_axis(indices.shape[axis], "r")

    def inside(i: Sequence[Expr]) -> Expr:
        return all_of(
            *(
                i[a] < dim
                for a, dim in enumerate(indices.shape)
                if a != axis and not same_dim(dim, data.shape[a])
            )
        )

    def position(i: Sequence[Expr], at: Expr) -> tuple[Expr, ...]:
        return (*i[:axis], at, *i[axis + 1 :])

    def hits(i: Sequence[Expr]) -> Expr:
        index = if_then_else(inside(i), indices[position(i, loop.var)], const(-1, indices.dtype))
        found = hit(index, data.shape[axis], i[axis])
        return logical_and(inside(i), found)

    def element(i: Sequence[Expr], at: Sequence[Expr]) -> Expr:
        return updates[position(i, at[0])]

    return _scatter(data, [loop], hits, element, reduction, "scatter_elements")


_REFERENCE: dict[str, Callable[[Any, Any], Any]] = {
    "none": lambda _old, new: new,
    "add": lambda old, new: old + new,
    "mul": lambda old, new: old * new,
    "min": np.minimum,
    "max": np.maximum,
}


@scatter_elements.rule("numpy")
def _(
    data: np.ndarray, indices: np.ndarray, updates: np.ndarray, *, axis: int, reduction: str
) -> np.ndarray:
    result = data.copy()
    for position in np.ndindex(*indices.shape):
        index = int(indices[position])
        index += data.shape[axis] if index < 0 else 0
        if 0 <= index < data.shape[axis]:
            at = (*position[:axis], index, *position[axis + 1 :])
            result[at] = _REFERENCE[reduction](result[at], updates[position])
    return result


@scatter_elements.rule("grad")
def _(
    data: GraphExpr,
    indices: GraphExpr,
    updates: GraphExpr,
    *,
    dout: GraphExpr,
    out: GraphExpr,
    axis: int,
    reduction: str,
) -> tuple[GraphExpr | None, ...]:
    size = count_value(data, (axis,), dtype_of(indices))

    def write(start: GraphExpr, values: GraphExpr, how: str) -> GraphExpr:
        return ops.scatter_elements(start, indices, values, axis=axis, reduction=how)

    def read(values: GraphExpr) -> GraphExpr:
        return ops.gather_elements(values, indices, axis=axis)

    d_data, d_updates = _scatter_grad((data, updates), dout, out, reduction, write, read)
    return d_data, None, ops.where(_legal(indices, size), d_updates, 0.0)


def _legal(indices: GraphExpr, size: GraphExpr) -> GraphExpr:
    """Whether indices name an element: others are not written."""
    return ops.logical_and(ops.greater_equal(indices, -size), ops.less(indices, size))


Writer = Callable[[GraphExpr, GraphExpr, str], GraphExpr]
Reader = Callable[[GraphExpr], GraphExpr]


def _scatter_grad(
    tensors: tuple[GraphExpr, GraphExpr],
    dout: GraphExpr,
    out: GraphExpr,
    reduction: str,
    write: Writer,
    read: Reader,
) -> tuple[GraphExpr, GraphExpr]:
    """The gradients of data and updates, given how to write updates and to read where they went.

    none: the last update of a place counts: they are numbered, and the numbers written, to find it.
    mul: by division, so an update of zero gives NaN. min, max: those that tie share equally."""
    data, updates = tensors
    if reduction == "add":
        return dout, read(dout)
    if reduction == "mul":
        return dout * write(full_like(data, 1.0), updates, "mul"), read(dout * out) / updates
    if reduction == "none":
        numbers = _numbers(updates)
        start = ops.full(shape=plain_dims(dims_of(data)), value=-1, dtype="int64")
        last = ops.equal(read(write(start, numbers, "none")), numbers)
        return write(dout, full_like(updates, 0.0), "none"), ops.where(last, read(dout), 0.0)
    is_data = mask(ops.equal(data, out), data)
    is_update = mask(ops.equal(updates, read(out)), updates)
    share = dout / write(is_data, is_update, "add")
    return share * is_data, read(share) * is_update


def _numbers(x: GraphExpr) -> GraphExpr:
    """0, 1, 2, ... in the shape of x."""
    count: Any = const(1)
    for dim in dims_of(x):
        count = count * dim
    line = ops.range(count=plain_dims([simplify_dim(count)])[0], dtype="int64")
    return ops.reshape(line, shape=plain_dims(dims_of(x)))


scatter_elements.samples(
    case(floats(4, 3), ints(2, 3, low=-4, high=3), floats(2, 3)),
    case(floats(3, 5), ints(2, 3, high=6), floats(2, 3), axis=1),
    case(floats(3, 4), ints(3, 6, high=3), floats(3, 6), axis=1, reduction="add"),
    case(ints(3), ints(4, high=2), ints(4), reduction="max"),
)


@operator("scatter_nd", kind="opaque", dtypes=INDEXED)
def scatter_nd(
    data: TensorType,
    indices: TensorType,
    updates: TensorType,
    *,
    reduction: Literal["none", "add", "mul", "min", "max"] = "none",
) -> TensorType:
    """data with the slices at the index tuples in the last axis of `indices` replaced by
    `updates`, or combined with them."""
    require_same_dtype(data, updates)
    depth = tuple_length(data, indices)
    require_shape(updates, "updates", (*indices.shape[:-1], *data.shape[depth:]))
    return data


@scatter_nd.rule("compute")
def _(data: te.Tensor, indices: te.Tensor, updates: te.Tensor, *, reduction: str) -> te.Tensor:
    """A copy, then the updates one after the other: the last one wins, and the cost is the sum of
    the sizes (rows of an embedding are many, and few of them are hit)."""
    depth = tuple_length(data, indices)
    merge = _MERGE[reduction]

    def body(ins: list[Buffer], outs: list[Buffer]) -> Stmt:
        old, where, new = ins
        result = outs[0]
        everywhere = [(Symbol(f"i{axis}"), dim) for axis, dim in enumerate(data.shape)]
        here = [var for var, _ in everywhere]
        lead = [(Symbol(f"r{axis}"), dim) for axis, dim in enumerate(where.shape[:-1])]
        tail = [(Symbol(f"j{axis}"), dim) for axis, dim in enumerate(data.shape[depth:])]
        rows, inner = [var for var, _ in lead], [var for var, _ in tail]
        legal: list[Expr] = []
        at: list[Expr] = []
        for k in range(depth):
            size = data.shape[k]
            index = cast(load(where, (*rows, const(k))), "int64")
            legal += [index >= -size, index < size]
            at.append(clamped(index, size))
        place = (*at, *inner)
        value = merge(load(result, place), load(new, (*rows, *inner)))
        update = for_nest(tail, store(result, value, place))
        return seq(
            for_nest(everywhere, store(result, load(old, here), here)),
            for_nest(lead, IfThenElse(all_of(*legal), update)),
        )

    inputs = [data, indices, updates]
    result: te.Tensor = te.extern(data.shape, inputs, body, data.dtype, name="scatter_nd")
    return result


@scatter_nd.rule("numpy")
def _(data: np.ndarray, indices: np.ndarray, updates: np.ndarray, *, reduction: str) -> np.ndarray:
    result = data.copy()
    sizes = np.asarray(data.shape[: indices.shape[-1]])
    for position in np.ndindex(*indices.shape[:-1]):
        at = indices[position].astype(np.int64)
        at = np.where(at < 0, at + sizes, at)
        if np.all((at >= 0) & (at < sizes)):
            where = tuple(at)
            result[where] = _REFERENCE[reduction](result[where], updates[position])
    return result


@scatter_nd.rule("grad")
def _(
    data: GraphExpr,
    indices: GraphExpr,
    updates: GraphExpr,
    *,
    dout: GraphExpr,
    out: GraphExpr,
    reduction: str,
) -> tuple[GraphExpr | None, ...]:
    last = ndim_of(indices) - 1
    depth = as_int(dims_of(indices)[-1]) or 0

    def write(start: GraphExpr, values: GraphExpr, how: str) -> GraphExpr:
        return ops.scatter_nd(start, indices, values, reduction=how)

    def read(values: GraphExpr) -> GraphExpr:
        return ops.gather_nd(values, indices)

    d_data, d_updates = _scatter_grad((data, updates), dout, out, reduction, write, read)
    behind = tuple(range(last, last + ndim_of(data) - depth))
    for k in range(depth):
        column = ops.slice(indices, starts=(k,), ends=(k + 1,), axes=(last,))
        size = count_value(data, (k,), dtype_of(indices))
        legal = ops.squeeze(_legal(column, size), axes=(last,))
        legal = ops.unsqueeze(legal, axes=behind) if behind else legal
        d_updates = ops.where(legal, d_updates, 0.0)
    return d_data, None, d_updates


scatter_nd.samples(
    case(floats(4, 3), ints(2, 1, low=-4, high=4), floats(2, 3)),
    case(floats(3, 4), ints(2, 2, 2, high=2), floats(2, 2)),
    case(floats(4, 2), ints(5, 1, high=3), floats(5, 2), reduction="mul"),
    case(floats(4, 2), ints(5, 1, low=-5, high=4), floats(5, 2), reduction="max"),
    case(floats(3), ints(5, 1, low=-4, high=3), floats(5)),
)
