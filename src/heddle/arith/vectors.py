# SPDX-License-Identifier: Apache-2.0
"""Vectors of int64: a binary node of ramps and broadcasts becomes a ramp or broadcast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heddle.ir import expr as ir
from heddle.ir.dtype import INT64
from heddle.ir.expr import Add, Broadcast, Expr, IntImm, Mul, Ramp, Sub

if TYPE_CHECKING:
    from heddle.arith.simplify import Simplifier


def simplify(s: Simplifier, kind: type, a: Expr, b: Expr) -> Expr | None:
    """The ramp or broadcast that `kind` of two vectors is; None when it is neither."""
    lanes = a.dtype.lanes
    if isinstance(a, Broadcast) and isinstance(b, Broadcast):
        return s.intern(Broadcast(s.make(kind, a.value, b.value), lanes))  # type: ignore[no-any-return]
    if a.dtype.element is not INT64:
        return None
    left, right = _as_ramp(s, a), _as_ramp(s, b)
    if left is None or right is None:
        return None
    if kind in (Add, Sub):
        return _ramp(s, s.make(kind, left[0], right[0]), s.make(kind, left[1], right[1]), lanes)
    if kind is Mul and isinstance(b, Broadcast):
        return _ramp(s, s.make(Mul, left[0], b.value), s.make(Mul, left[1], b.value), lanes)
    if kind is Mul and isinstance(a, Broadcast):
        return _ramp(s, s.make(Mul, right[0], a.value), s.make(Mul, right[1], a.value), lanes)
    if kind in (ir.FloorDiv, ir.FloorMod) and isinstance(b, Broadcast):
        return _divide(s, kind, left, b.value, lanes)
    return None


def _as_ramp(s: Simplifier, value: Expr) -> tuple[Expr, Expr] | None:
    if isinstance(value, Ramp):
        return value.base, value.stride
    return (value.value, s.integer(0)) if isinstance(value, Broadcast) else None


def _ramp(s: Simplifier, base: Expr, stride: Expr, lanes: int) -> Expr:
    if isinstance(stride, IntImm) and stride.value == 0:
        return s.intern(Broadcast(base, lanes))  # type: ignore[no-any-return]
    return s.intern(Ramp(base, stride, lanes))  # type: ignore[no-any-return]


def _divide(
    s: Simplifier, kind: type, ramp: tuple[Expr, Expr], divisor: Expr, lanes: int
) -> Expr | None:
    """All lanes in one bucket: `ramp(4 * i, 1, 4) // 4` is `broadcast(i)`."""
    base, stride = ramp
    if not isinstance(divisor, IntImm) or not isinstance(stride, IntImm) or divisor.value <= 0:
        return None
    reach = stride.value * (lanes - 1)
    last = s.make(Add, base, s.integer(reach))
    quotient = s.make(ir.FloorDiv, base, divisor)
    if s.make(ir.FloorDiv, last, divisor) is quotient:  # monotonic in between
        if kind is ir.FloorDiv:
            return s.intern(Broadcast(quotient, lanes))  # type: ignore[no-any-return]
        return _ramp(s, s.make(ir.FloorMod, base, divisor), stride, lanes)
    if stride.value % divisor.value == 0:
        if kind is ir.FloorMod:
            return s.intern(Broadcast(s.make(ir.FloorMod, base, divisor), lanes))  # type: ignore[no-any-return]
        return _ramp(s, quotient, s.integer(stride.value // divisor.value), lanes)
    return None
