# SPDX-License-Identifier: Apache-2.0
"""Operators that write where a tensor of indices says. Indices outside are ignored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
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
    maximum,
    minimum,
    mul,
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
from heddle.op.index import INDEXED, canonical_axis, clamped, tuple_length
from heddle.op.registry import operator, ops
from heddle.op.sample import case, floats, ints
from heddle.tir.build import for_nest, load, seq, store
from heddle.tir.nodes import Buffer, IfThenElse, Stmt

Reduction = Literal["none", "add", "mul", "min", "max"]

_MERGE: Final[dict[str, Callable[[Expr, Expr], Expr]]] = {
    "none": lambda _old, new: new,
    "add": add,
    "mul": mul,
    "min": minimum,
    "max": maximum,
}

Place = Callable[[Buffer, Sequence[Expr]], tuple[list[Expr], list[Expr]]]
"""From the indices and the position of an update: conditions for writing it, and where to."""


def _write(
    data: te.Tensor,
    indices: te.Tensor,
    updates: te.Tensor,
    place: Place,
    reduction: str,
    name: str,
    *,
    outer: int,
    copy: bool,
) -> te.Tensor:
    """`updates` written one after the other, so that the last one wins. With `copy` into a copy of
    data, so that the cost is the sum of the sizes; without into the result as it is found, which
    then holds data already: the memory planner calls that form where data is needed no more.

    outer: the number of axes of `updates`, from the first on, that decide whether to write."""
    merge = _MERGE[reduction]

    def body(ins: list[Buffer], outs: list[Buffer]) -> Stmt:
        old, where, new = ins
        result = outs[0]
        loops = [(Symbol(f"r{axis}"), dim) for axis, dim in enumerate(updates.shape)]
        legal, at = place(where, [var for var, _ in loops])
        value = merge(load(result, at), load(new, [var for var, _ in loops]))
        row = for_nest(loops[outer:], store(result, value, at))
        write = for_nest(loops[:outer], IfThenElse(all_of(*legal), row))
        if not copy:
            return write
        everywhere = [(Symbol(f"i{axis}"), dim) for axis, dim in enumerate(data.shape)]
        here = [var for var, _ in everywhere]
        return seq(for_nest(everywhere, store(result, load(old, here), here)), write)

    inputs = [data, indices, updates]
    result: te.Tensor = te.extern(data.shape, inputs, body, data.dtype, name=name)
    return result


def _bounded(index: Expr, size: Expr) -> tuple[list[Expr], Expr]:
    """The conditions for an index to be in an axis of `size`, and the place that it names."""
    index = cast(index, "int64")
    return [index >= -size, index < size], clamped(index, size)


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


def _write_elements(
    data: te.Tensor,
    indices: te.Tensor,
    updates: te.Tensor,
    *,
    axis: int,
    reduction: str,
    copy: bool,
) -> te.Tensor:
    def place(where: Buffer, i: Sequence[Expr]) -> tuple[list[Expr], list[Expr]]:
        legal, at = _bounded(load(where, i), data.shape[axis])
        # Other axes of the indices may be longer than those of data; what is beyond is ignored.
        legal += [
            i[a] < data.shape[a]
            for a, dim in enumerate(indices.shape)
            if a != axis and not same_dim(dim, data.shape[a])
        ]
        return legal, [*i[:axis], at, *i[axis + 1 :]]

    return _write(
        data, indices, updates, place, reduction, "scatter_elements", outer=data.ndim, copy=copy
    )


scatter_elements.rule("compute")(partial(_write_elements, copy=True))
scatter_elements.rule("update")(partial(_write_elements, copy=False))


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


def _write_slices(
    data: te.Tensor, indices: te.Tensor, updates: te.Tensor, *, reduction: str, copy: bool
) -> te.Tensor:
    depth = tuple_length(data, indices)
    lead = indices.ndim - 1

    def place(where: Buffer, i: Sequence[Expr]) -> tuple[list[Expr], list[Expr]]:
        legal: list[Expr] = []
        at: list[Expr] = []
        for k in range(depth):
            conditions, index = _bounded(load(where, (*i[:lead], const(k))), data.shape[k])
            legal += conditions
            at.append(index)
        return legal, [*at, *i[lead:]]

    return _write(data, indices, updates, place, reduction, "scatter_nd", outer=lead, copy=copy)


scatter_nd.rule("compute")(partial(_write_slices, copy=True))
scatter_nd.rule("update")(partial(_write_slices, copy=False))


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


@operator("index_copy", kind="opaque", dtypes=INDEXED)
def index_copy(
    data: TensorType,
    indices: TensorType,
    updates: TensorType,
    *,
    axis: int = 0,
    reduction: Literal["none", "add", "mul", "min", "max"] = "none",
) -> TensorType:
    """data with the slices that `indices`, a vector, names along `axis` replaced by those of
    `updates`, or combined with them: data[:, indices, :] = updates where axis is 1.

    What a step of a decoder writes into its cache of keys and values:

        keys = op.index_copy(keys, position, key, axis=2)
    """
    require_same_dtype(data, updates)
    require_ndim(indices, "indices", 1, 1)
    wanted = (*data.shape[:axis], indices.shape[0], *data.shape[axis + 1 :])
    require_shape(updates, "updates", wanted)
    return data


index_copy.rule("normalise")(canonical_axis)


def _copy_slices(
    data: te.Tensor,
    indices: te.Tensor,
    updates: te.Tensor,
    *,
    axis: int,
    reduction: str,
    copy: bool,
) -> te.Tensor:
    def place(where: Buffer, i: Sequence[Expr]) -> tuple[list[Expr], list[Expr]]:
        legal, at = _bounded(load(where, [i[axis]]), data.shape[axis])
        return legal, [*i[:axis], at, *i[axis + 1 :]]

    return _write(data, indices, updates, place, reduction, "index_copy", outer=axis + 1, copy=copy)


index_copy.rule("compute")(partial(_copy_slices, copy=True))
index_copy.rule("update")(partial(_copy_slices, copy=False))


@index_copy.rule("numpy")
def _(
    data: np.ndarray, indices: np.ndarray, updates: np.ndarray, *, axis: int, reduction: str
) -> np.ndarray:
    result = data.copy()
    size = data.shape[axis]
    rows, new = np.moveaxis(result, axis, 0), np.moveaxis(updates, axis, 0)
    for position, index in enumerate(indices.astype(np.int64)):
        if -size <= index < size:
            rows[index] = _REFERENCE[reduction](rows[index], new[position])
    return result


@index_copy.rule("grad")
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
    def write(start: GraphExpr, values: GraphExpr, how: str) -> GraphExpr:
        return ops.index_copy(start, indices, values, axis=axis, reduction=how)

    def read(values: GraphExpr) -> GraphExpr:
        return ops.gather(values, indices, axis=axis)

    d_data, d_updates = _scatter_grad((data, updates), dout, out, reduction, write, read)
    legal = _legal(indices, count_value(data, (axis,), dtype_of(indices)))
    behind = tuple(range(1, ndim_of(data) - axis))
    legal = ops.unsqueeze(legal, axes=behind) if behind else legal
    return d_data, None, ops.where(legal, d_updates, 0.0)


index_copy.samples(
    case(floats(4, 3), ints(2, low=-4, high=4), floats(2, 3)),
    case(floats(2, 3, 6, 4), ints(1, high=5), floats(2, 3, 1, 4), axis=2),
    case(floats(3, 4), ints(6, low=-5, high=4), floats(3, 6), axis=-1, reduction="add"),
    case(floats(4, 2), ints(5, high=3), floats(5, 2), reduction="max"),
)
