# SPDX-License-Identifier: Apache-2.0
"""Exact folding for floats, narrow integers and casts.

Only what gives the same bits for every operand, NaN, infinity and -0.0 included: constants fold in
their dtype, `x * 1.0` and `x / 1.0` are `x`. `x + 0.0` is not `x` (-0.0), `x * 0.0` not 0 (NaN).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from heddle.ir import expr as ir
from heddle.ir.dtype import DType
from heddle.ir.expr import Cast, Expr, FloatImm, IntImm

if TYPE_CHECKING:
    from heddle.arith.simplify import Simplifier

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ir.Add: operator.add,
    ir.Sub: operator.sub,
    ir.Mul: operator.mul,
    ir.Div: operator.truediv,
    ir.Min: np.minimum,
    ir.Max: np.maximum,
}
_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ir.EQ: operator.eq,
    ir.NE: operator.ne,
    ir.LT: operator.lt,
    ir.LE: operator.le,
    ir.GT: operator.gt,
    ir.GE: operator.ge,
}


def fold(s: Simplifier, kind: type, a: Expr, b: Expr) -> Expr | None:
    """The folded value of a binary node that is not int64; None when nothing is to be done."""
    if isinstance(a, FloatImm) and isinstance(b, FloatImm):
        return _fold_floats(s, kind, a, b)
    if kind in (ir.Mul, ir.Div) and isinstance(b, FloatImm) and b.value == 1.0:
        return a
    if kind is ir.Mul and isinstance(a, FloatImm) and a.value == 1.0:
        return b
    if kind is ir.Sub and a is b and a.dtype.is_int:
        return s.intern(IntImm(0, a.dtype))  # type: ignore[no-any-return]
    if kind in _COMPARISONS and a.dtype.is_int:
        if a is b:
            return s.boolean(kind in (ir.EQ, ir.LE, ir.GE))
        return _compare_ranges(s, kind, a, b)
    return None


def _fold_floats(s: Simplifier, kind: type, a: FloatImm, b: FloatImm) -> Expr | None:
    scalar = a.dtype.numpy.type
    left, right = scalar(a.value), scalar(b.value)
    with np.errstate(all="ignore"):
        if kind in _COMPARISONS:
            return s.boolean(bool(_COMPARISONS[kind](left, right)))
        if kind in _OPERATORS:
            value = float(_OPERATORS[kind](left, right))
            return s.intern(FloatImm(value, a.dtype))  # type: ignore[no-any-return]
    return None


def _compare_ranges(s: Simplifier, kind: type, a: Expr, b: Expr) -> Expr | None:
    left, right = s.bounds.of(a), s.bounds.of(b)
    if left.hi < right.lo:
        return s.boolean(kind in (ir.LT, ir.LE, ir.NE))
    if right.hi < left.lo:
        return s.boolean(kind in (ir.GT, ir.GE, ir.NE))
    return None


def fold_cast(value: Expr, dtype: DType) -> Expr:
    """`value` converted to `dtype`, folded when it is a constant and the result is exact."""
    if isinstance(value, IntImm) and dtype.is_int and dtype.lanes == 1:
        wrapped = value.value & ((1 << dtype.bits) - 1)
        if wrapped > dtype.max_value:
            wrapped -= 1 << dtype.bits
        return IntImm(wrapped, dtype)
    folded = ir.cast(value, dtype)
    if isinstance(folded, FloatImm):
        with np.errstate(all="ignore"):
            return FloatImm(float(dtype.numpy.type(folded.value)), dtype)
    if isinstance(folded, Cast) and isinstance(value, Cast):
        inner = value.value.dtype
        # int8 -> int32 -> int64 is int8 -> int64: the middle step loses nothing.
        if inner.is_int and value.dtype.is_int and dtype.is_int and _holds(value.dtype, inner):
            return ir.cast(value.value, dtype)
    return folded


def _holds(wide: DType, narrow: DType) -> bool:
    return (
        wide.lanes == narrow.lanes
        and wide.min_value <= narrow.min_value
        and narrow.max_value <= wide.max_value
    )
