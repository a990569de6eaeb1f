# SPDX-License-Identifier: Apache-2.0
"""Tensors from nothing but attributes, and triangles of matrices."""

from __future__ import annotations

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import DType, TensorType
from heddle.ir.expr import EQ, Expr, as_expr, cast, compare, const, if_then_else
from heddle.op.attribute import Dim, Dims, Ints, Scalar
from heddle.op.common import as_dims, require_ndim
from heddle.op.registry import operator, ops
from heddle.op.sample import case, floats, ints
from heddle.support import UserError

_CONSTANT = "it depends on no tensor"


@operator("full", kind="injective")
def full(*, shape: Dims, value: float = 0.0, dtype: DType) -> TensorType:
    """A tensor of `shape` that is `value` everywhere."""
    return TensorType(as_dims(shape), dtype)


@full.rule("compute")
def _(*, shape: Dims, value: float, dtype: DType) -> te.Tensor:
    return te.compute(as_dims(shape), lambda *i: const(_typed(value, dtype), dtype), name="full")


def _typed(value: float, dtype: DType) -> float | int | bool:
    return value if dtype.is_float else bool(value) if dtype.is_bool else int(value)


@full.rule("numpy")
def _(*, shape: Ints, value: float, dtype: DType) -> np.ndarray:
    return np.full(shape, value, dtype=dtype.numpy)


full.not_differentiable(_CONSTANT)
full.samples(
    case(shape=(2, 3), value=1.5, dtype="float32"), case(shape=(2,), value=7, dtype="int64")
)


@operator("range", kind="injective")
def range_(*, count: Dim, start: Scalar = 0, step: Scalar = 1, dtype: DType) -> TensorType:
    """start, start + step, ...: `count` numbers (of integers, `start` and `step` are whole)."""
    if dtype.is_bool:
        raise UserError("a range has no dtype bool")
    return TensorType((as_expr(count),), dtype)


@range_.rule("compute")
def _(*, count: Dim, start: Scalar, step: Scalar, dtype: DType) -> te.Tensor:
    # Exact until the last step, which rounds (floats) or wraps (integers) to the dtype.
    exact = "float64" if dtype.is_float else "int64"
    first, distance = const(start, exact), const(step, exact)

    def body(i: Expr) -> Expr:
        return cast(cast(i, exact) * distance + first, dtype)

    return te.compute((as_expr(count),), body, name="range")


@range_.rule("numpy")
def _(*, count: int, start: float, step: float, dtype: DType) -> np.ndarray:
    if dtype.is_float:
        return start + np.arange(count) * step
    return int(start) + np.arange(count, dtype=np.int64) * int(step)


range_.not_differentiable(_CONSTANT)
range_.samples(
    case(count=5, dtype="int64"),
    case(count=4, start=10, step=-3, dtype="int32"),
    case(count=4, start=0.5, step=0.25, dtype="float32"),
)


@operator("eye", kind="injective")
def eye(*, shape: Dims, offset: int = 0, dtype: DType) -> TensorType:
    """A matrix with ones on the diagonal that is `offset` above the main one, zeros elsewhere."""
    if len(shape) != 2:
        raise UserError(f"attribute `shape` is {shape}, expected two dimensions")
    return TensorType(as_dims(shape), dtype)


@eye.rule("compute")
def _(*, shape: Dims, offset: int, dtype: DType) -> te.Tensor:
    return te.compute(
        as_dims(shape), lambda i, j: cast(compare(EQ, i + offset, j), dtype), name="eye"
    )


@eye.rule("numpy")
def _(*, shape: Ints, offset: int, dtype: DType) -> np.ndarray:
    return np.eye(*shape, k=offset)  # type: ignore[call-overload, no-any-return]


eye.not_differentiable(_CONSTANT)
eye.samples(case(shape=(3, 4), dtype="float32"), case(shape=(4, 3), offset=-1, dtype="int32"))


@operator("trilu", kind="injective")
def trilu(x: TensorType, *, upper: bool = True, offset: int = 0) -> TensorType:
    """The upper (or lower) triangle of the last two axes, from the diagonal that is `offset`
    above the main one; zeros elsewhere."""
    require_ndim(x, "x", 2)
    return x


@trilu.rule("compute")
def _(x: te.Tensor, *, upper: bool, offset: int) -> te.Tensor:
    def body(*i: Expr) -> Expr:
        diagonal = i[-2] + offset
        kept = i[-1] >= diagonal if upper else i[-1] <= diagonal
        return if_then_else(kept, x[i], const(0, x.dtype))

    return te.compute(x.shape, body, name="trilu")


@trilu.rule("numpy")
def _(x: np.ndarray, *, upper: bool, offset: int) -> np.ndarray:
    return np.triu(x, offset) if upper else np.tril(x, offset)


@trilu.rule("grad")
def _(x: GraphExpr, *, dout: GraphExpr, out: GraphExpr, upper: bool, offset: int) -> GraphExpr:
    return ops.trilu(dout, upper=upper, offset=offset)


trilu.samples(
    case(floats(3, 4)),
    case(floats(2, 4, 3), upper=False, offset=-1),
    case(ints(3, 3), offset=2),
    case(ints(3, 3), upper=False, offset=1),
)
