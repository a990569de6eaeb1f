# SPDX-License-Identifier: Apache-2.0
"""Matrix products, plain and with packed weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import DType, TensorType
from heddle.ir.expr import Expr, as_expr, as_int, cast, const, if_then_else
from heddle.op.adjoint import cast_like, dims_of, ndim_of, reshape_like, sum_to
from heddle.op.attribute import Dim
from heddle.op.common import (
    accumulator_dtype,
    broadcast_load,
    broadcast_shapes,
    cast_tensor,
    ceil_div,
    plain_dims,
    require_ndim,
    require_product_dtypes,
    require_same_dtype,
    same_dim,
    show_dim,
)
from heddle.op.registry import operator, ops
from heddle.op.sample import case, floats, ints
from heddle.support import UserError


@operator("matmul", kind="contraction", dtypes="number")
def matmul(
    a: TensorType,
    b: TensorType,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    out_dtype: DType | None = None,
) -> TensorType:
    """Matrix product of the last two axes; leading axes broadcast, a vector is a row on the left
    and a column on the right (as numpy.matmul). `transpose_*` swaps the last two axes first.
    Half precision accumulates in float32; `out_dtype` is the dtype to accumulate and return
    (int32 for int8), and with it integers may differ in dtype."""
    require_product_dtypes(a, b, out_dtype)
    require_ndim(a, "a", 1)
    require_ndim(b, "b", 1)
    rows, depth = _matrix_dims(a.shape, transposed=transpose_a, left=True)
    depth_b, columns = _matrix_dims(b.shape, transposed=transpose_b, left=False)
    if not same_dim(depth, depth_b):
        raise UserError(
            f"the inner dimensions differ: `a` has {show_dim(depth)}, `b` has {show_dim(depth_b)}"
        )
    batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
    tail = [dim for dim in (rows, columns) if dim is not None]
    return TensorType((*batch, *tail), out_dtype or a.dtype)


def _matrix_dims(shape: Sequence[Expr], *, transposed: bool, left: bool) -> Any:
    if len(shape) == 1:
        return (None, shape[0]) if left else (shape[0], None)
    return (shape[-1], shape[-2]) if transposed else (shape[-2], shape[-1])


@matmul.rule("compute")
def _(
    a: te.Tensor, b: te.Tensor, *, transpose_a: bool, transpose_b: bool, out_dtype: DType | None
) -> te.Tensor:
    rows, depth = _matrix_dims(a.shape, transposed=transpose_a, left=True)
    _, columns = _matrix_dims(b.shape, transposed=transpose_b, left=False)
    batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
    dtype = out_dtype or accumulator_dtype(a.dtype)
    k = te.reduce_axis(depth, "k")

    def body(*i: Expr) -> Expr:
        lead, rest = i[: len(batch)], list(i[len(batch) :])
        row = None if rows is None else rest.pop(0)
        column = None if columns is None else rest.pop(0)
        left = _matrix_load(a, lead, row, k.var, transposed=transpose_a)
        right = _matrix_load(b, lead, k.var, column, transposed=transpose_b)
        return te.sum(cast(left, dtype) * cast(right, dtype), axis=[k])

    tail = [dim for dim in (rows, columns) if dim is not None]
    result = te.compute((*batch, *tail), body, name="matmul")
    return cast_tensor(result, out_dtype or a.dtype)


def _matrix_load(
    x: te.Tensor, lead: Sequence[Expr], row: Expr | None, column: Expr | None, *, transposed: bool
) -> Expr:
    tail = [index for index in (row, column) if index is not None]
    if x.ndim == 1:
        return x[tuple(tail)]
    if transposed:
        tail.reverse()
    return broadcast_load(x, (*lead, *tail))


@matmul.rule("numpy")
def _(
    a: np.ndarray,
    b: np.ndarray,
    *,
    transpose_a: bool,
    transpose_b: bool,
    out_dtype: DType | None,
) -> np.ndarray:
    if out_dtype is not None:
        a, b = a.astype(out_dtype.numpy), b.astype(out_dtype.numpy)
    left = np.swapaxes(a, -1, -2) if transpose_a and a.ndim > 1 else a
    right = np.swapaxes(b, -1, -2) if transpose_b and b.ndim > 1 else b
    return np.matmul(left, right)  # type: ignore[no-any-return]


@matmul.rule("grad")
def _(
    a: GraphExpr,
    b: GraphExpr,
    *,
    dout: GraphExpr,
    out: GraphExpr,
    transpose_a: bool,
    transpose_b: bool,
    out_dtype: DType | None,
) -> tuple[GraphExpr, ...]:
    """d A = d C @ B^T and d B = A^T @ d C, summed over the batch axes that were repeated."""
    left, right, d = cast_like(a, dout), cast_like(b, dout), dout
    if ndim_of(a) == 1:
        left, d = (
            ops.unsqueeze(left, axes=(0,)),
            ops.unsqueeze(d, axes=(-1 if ndim_of(b) == 1 else -2,)),
        )
    if ndim_of(b) == 1:
        right, d = ops.unsqueeze(right, axes=(1,)), ops.unsqueeze(d, axes=(-1,))
    transpose_a, transpose_b = transpose_a and ndim_of(a) > 1, transpose_b and ndim_of(b) > 1
    if transpose_a:
        d_left = ops.matmul(right, _swapped(d), transpose_a=transpose_b)
    else:
        d_left = ops.matmul(d, right if transpose_b else _swapped(right))
    if ndim_of(right) == 2 and ndim_of(left) > 2 and not transpose_a:
        # One matrix for the whole batch: its gradient is one product of all rows, not a sum.
        left, d = _rows(left), _rows(d)
    if transpose_b:
        d_right = ops.matmul(d, _swapped(left) if transpose_a else left, transpose_a=True)
    else:
        d_right = ops.matmul(left, d, transpose_a=not transpose_a)
    return _gradient_of(a, d_left), _gradient_of(b, d_right)


def _swapped(x: GraphExpr) -> GraphExpr:
    """The last two axes exchanged, as a copy: on the right of a product its rows are read along,
    which a strided read of every tile would cost several times."""
    rank = ndim_of(x)
    return ops.transpose(x, permutation=(*range(rank - 2), rank - 1, rank - 2))


def _rows(x: GraphExpr) -> GraphExpr:
    """The leading axes of a stack of matrices merged with their rows."""
    return ops.reshape(x, shape=(-1, *plain_dims(dims_of(x)[-1:])))


def _gradient_of(x: GraphExpr, d: GraphExpr) -> GraphExpr:
    """From a gradient with batch axes repeated and vectors as matrices to one of x's type."""
    if ndim_of(x) == 1:
        d = reshape_like(ops.sum(d, axes=tuple(range(ndim_of(d) - 2))), x)
    return cast_like(sum_to(d, x), x)


matmul.samples(
    case(floats(3, 4), floats(4, 5)),
    case(floats(2, 3, 4), floats(4, 5)),
    case(floats(2, 1, 3, 4), floats(5, 4, 2)),
    case(floats(4), floats(4, 5)),
    case(floats(2, 3, 4), floats(4)),
    case(floats(4), floats(4)),
    case(floats(2, 4, 3), floats(2, 5, 4), transpose_a=True, transpose_b=True),
    case(floats(3, 4, dtype="float16"), floats(4, 5, dtype="float16")),
    case(ints(3, 4, low=-100, high=100, dtype="int8"), ints(4, 2, dtype="int8"), out_dtype="int32"),
    case(ints(3, 4, high=255, dtype="uint8"), ints(4, 2, low=-9, dtype="int8"), out_dtype="int32"),
)


@operator("pack_panels", kind="injective", dtypes="number")
def pack_panels(w: TensorType, *, width: int, transposed: bool = False) -> TensorType:
    """w[K, N] (w[N, K] when transposed) as panels [ceil(N / width), K, width]: element [p, k, j]
    is w[k, p * width + j], zero beyond N."""
    require_ndim(w, "w", 2, 2)
    if width < 1:
        raise UserError(f"width must be positive, got {width}")
    columns, depth = w.shape if transposed else (w.shape[1], w.shape[0])
    return TensorType((ceil_div(columns, width), depth, const(width)), w.dtype)


@pack_panels.rule("compute")
def _(w: te.Tensor, *, width: int, transposed: bool) -> te.Tensor:
    columns, depth = w.shape if transposed else (w.shape[1], w.shape[0])
    known = as_int(columns)
    padded = known is None or known % width != 0

    def body(p: Expr, k: Expr, j: Expr) -> Expr:
        column = p * width + j
        value = w[column, k] if transposed else w[k, column]
        return if_then_else(column < columns, value, const(0, w.dtype)) if padded else value

    return te.compute((ceil_div(columns, width), depth, const(width)), body, name="pack_panels")


@pack_panels.rule("numpy")
def _(w: np.ndarray, *, width: int, transposed: bool) -> np.ndarray:
    matrix = w.T if transposed else w
    panels = -(-matrix.shape[1] // width)
    padded = np.pad(matrix, ((0, 0), (0, panels * width - matrix.shape[1])))
    return padded.reshape(matrix.shape[0], panels, width).transpose(1, 0, 2)


@pack_panels.rule("grad")
def _(w: GraphExpr, *, dout: GraphExpr, out: GraphExpr, width: int, transposed: bool) -> GraphExpr:
    columns = plain_dims(dims_of(w))[0 if transposed else 1]
    return _unpacked(dout, columns, transposed=transposed)


def _unpacked(panels: GraphExpr, n: Dim, *, transposed: bool = False) -> GraphExpr:
    """The matrix of n columns that `pack_panels` packed."""
    order = (0, 2, 1) if transposed else (1, 0, 2)
    depth = plain_dims(dims_of(panels))[1]
    flat = (-1, depth) if transposed else (depth, -1)
    matrix = ops.reshape(ops.transpose(panels, permutation=order), shape=flat)
    return ops.slice(matrix, starts=(0,), ends=(n,), axes=(0 if transposed else 1,))


pack_panels.samples(
    case(floats(3, 8), width=4),
    case(floats(3, 7), width=4),
    case(floats(7, 3), width=4, transposed=True),
)


@operator("packed_matmul", kind="contraction", dtypes="number")
def packed_matmul(x: TensorType, w: TensorType, *, n: Dim) -> TensorType:
    """x[..., M, K] times a matrix of n columns packed by `pack_panels` as w[P, K, width]:
    [..., M, n]. Half precision accumulates in float32."""
    require_same_dtype(x, w)
    require_ndim(x, "x", 1)
    require_ndim(w, "w", 3, 3)
    if not same_dim(x.shape[-1], w.shape[1]):
        raise UserError(
            f"the inner dimensions differ: `x` has {show_dim(x.shape[-1])}, "
            f"`w` has {show_dim(w.shape[1])}"
        )
    panels, width, columns = as_int(w.shape[0]), as_int(w.shape[2]), as_int(n)
    if panels is not None and width is not None and columns is not None:
        if not (panels - 1) * width < columns <= panels * width:
            raise UserError(f"{panels} panels of {width} columns do not hold n = {columns} columns")
    return TensorType((*x.shape[:-1], as_expr(n)), x.dtype)


@packed_matmul.rule("compute")
def _(x: te.Tensor, w: te.Tensor, *, n: Dim) -> te.Tensor:
    dtype = accumulator_dtype(x.dtype)
    width = w.shape[2]
    k = te.reduce_axis(x.shape[-1], "k")

    def body(*i: Expr) -> Expr:
        left = cast(x[(*i[:-1], k)], dtype)
        right = cast(w[i[-1] // width, k, i[-1] % width], dtype)
        return te.sum(left * right, axis=[k])

    result = te.compute((*x.shape[:-1], as_expr(n)), body, name="packed_matmul")
    return cast_tensor(result, x.dtype)


@packed_matmul.rule("numpy")
def _(x: np.ndarray, w: np.ndarray, *, n: int) -> np.ndarray:
    matrix = w.transpose(1, 0, 2).reshape(w.shape[1], -1)[:, :n]
    return np.matmul(x, matrix)  # type: ignore[no-any-return]


@packed_matmul.rule("grad")
def _(
    x: GraphExpr, w: GraphExpr, *, dout: GraphExpr, out: GraphExpr, n: Dim
) -> tuple[GraphExpr, ...]:
    width = as_int(dims_of(w)[2])
    assert width is not None
    d_x = ops.matmul(dout, _unpacked(w, n), transpose_b=True)
    d_w = ops.matmul(_rows(x), _rows(dout), transpose_a=True)
    return d_x, ops.pack_panels(d_w, width=width)


packed_matmul.samples(
    case(floats(3, 5), floats(2, 5, 4), n=7),
    case(floats(2, 3, 5), floats(2, 5, 4), n=8),
)
