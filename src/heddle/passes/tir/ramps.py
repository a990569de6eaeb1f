# SPDX-License-Identifier: Apache-2.0
"""Expressions over vectors: scalars are broadcast, and arithmetic on ramps stays a ramp.

    x + Ramp(b, s, n)            ->  Ramp(x + b, s, n)
    Ramp(b, s, n) * c            ->  Ramp(b * c, s * c, n)
    Ramp(b, s, n) // c           ->  Broadcast(b // c, n)      when no lane crosses a multiple of c
    Ramp(b, s, n) % c            ->  Ramp(b % c, s, n)         likewise

A load or a store through a ramp of stride 1 is one vector instruction, so keeping ramps is what
makes vector code fast.
"""

from __future__ import annotations

import math
from typing import Any

from heddle.ir.expr import (
    Add,
    BinaryExpr,
    Broadcast,
    Call,
    Cast,
    Expr,
    FloorDiv,
    FloorMod,
    IntImm,
    Mul,
    Not,
    Ramp,
    Select,
    Sub,
    Var,
    as_int,
    cast,
    floordiv,
    floormod,
)
from heddle.ir.node import Node
from heddle.ir.walk import post_order


def broadcast(value: Expr, lanes: int) -> Expr:
    """`value` with `lanes` lanes."""
    return value if value.dtype.lanes == lanes else Broadcast(value, lanes)


def multiple_of(root: Expr) -> int:
    """A positive integer that divides `root` (an integer expression) always; 0 for zero."""
    known: dict[Node, int] = {}
    for value in post_order(root):
        match value:
            case IntImm():
                known[value] = abs(value.value)
            case Add() | Sub():
                known[value] = math.gcd(known[value.a], known[value.b])
            case Mul():
                known[value] = known[value.a] * known[value.b]
            case _:
                known[value] = 1
    return known[root]


def widen(found: Node) -> Any:
    """Give the operands of a rebuilt expression equal lanes; the handler of a vectorising walk.

    The operands may already be vectors while `found` still thinks that it is scalar.
    """
    if isinstance(found, BinaryExpr):
        return _binary(found)
    if isinstance(found, Cast):
        return _cast(found)
    if isinstance(found, Call):
        return _call(found)
    if isinstance(found, Select):
        lanes = max(part.dtype.lanes for part in (found.condition, found.a, found.b))
        if lanes == 1:
            return found
        return Select(*(broadcast(part, lanes) for part in (found.condition, found.a, found.b)))
    if isinstance(found, Not):
        return found if found.dtype is found.a.dtype else Not(found.a)
    return found


def _binary(found: BinaryExpr) -> Expr:
    a, b = found.a, found.b
    lanes = max(a.dtype.lanes, b.dtype.lanes)
    if lanes == 1:
        return found
    folded = _fold(type(found), a, b, lanes)
    if folded is not None:
        return folded
    if a.dtype.lanes == b.dtype.lanes:
        return found
    return type(found)(broadcast(a, lanes), broadcast(b, lanes))


def _scalar(value: Expr) -> Expr | None:
    """The scalar that all lanes share, or None."""
    if isinstance(value, Broadcast):
        return value.value
    return value if value.dtype.lanes == 1 else None


def _fold(kind: type[BinaryExpr], a: Expr, b: Expr, lanes: int) -> Expr | None:
    left, right = _scalar(a), _scalar(b)
    if left is not None and right is not None and kind in (Add, Sub, Mul):
        return Broadcast(_apply(kind, left, right), lanes)
    if isinstance(a, Ramp) and right is not None:
        return _ramp_scalar(kind, a, right)
    if isinstance(b, Ramp) and left is not None:
        if kind is Add:
            return Ramp(left + b.base, b.stride, lanes)
        if kind is Sub:
            return Ramp(left - b.base, -b.stride, lanes)
        if kind is Mul:
            return Ramp(b.base * left, b.stride * left, lanes)
    if isinstance(a, Ramp) and isinstance(b, Ramp) and kind in (Add, Sub):
        return Ramp(_apply(kind, a.base, b.base), _apply(kind, a.stride, b.stride), lanes)
    return None


def _ramp_scalar(kind: type[BinaryExpr], a: Ramp, b: Expr) -> Expr | None:
    if kind is Add or kind is Sub:
        return Ramp(_apply(kind, a.base, b), a.stride, a.lanes)
    if kind is Mul:
        return Ramp(a.base * b, a.stride * b, a.lanes)
    if kind is not FloorDiv and kind is not FloorMod:
        return None
    divisor, stride = as_int(b), as_int(a.stride)
    if divisor is None or divisor <= 0 or stride is None:
        return None
    if stride % divisor == 0:
        if kind is FloorDiv:
            return Ramp(floordiv(a.base, b), a.stride // divisor, a.lanes)
        return Broadcast(floormod(a.base, b), a.lanes)
    step = math.gcd(multiple_of(a.base), divisor)
    if stride > 0 and stride * (a.lanes - 1) < step:
        if kind is FloorDiv:
            return Broadcast(floordiv(a.base, b), a.lanes)
        return Ramp(floormod(a.base, b), a.stride, a.lanes)
    return None


def _apply(kind: type[BinaryExpr], a: Expr, b: Expr) -> Expr:
    return a + b if kind is Add else a - b if kind is Sub else a * b


def narrows_index(found: Cast) -> bool:
    """Whether a sum of loop variables becomes a narrower integer: a ramp then is one of that type,
    for integers wrap around."""
    if not found.dtype.is_int or not found.value.dtype.is_int or found.dtype.bits < 32:
        return False
    parts = post_order(found.value)
    return all(isinstance(part, (Add, Sub, Mul, Var, IntImm)) for part in parts)


def _cast(found: Cast) -> Expr:
    value, dtype = found.value, found.dtype
    lanes = value.dtype.lanes
    if lanes == dtype.lanes:
        return found
    if (
        isinstance(value, Ramp)
        and dtype.is_int
        and (dtype.bits >= 32 or dtype.bits >= value.dtype.bits)
    ):
        return Ramp(cast(value.base, dtype), cast(value.stride, dtype), lanes)
    if isinstance(value, Broadcast):
        return Broadcast(cast(value.value, dtype), lanes)
    return Cast(value, dtype.with_lanes(lanes))


def _call(found: Call) -> Expr:
    lanes = max((arg.dtype.lanes for arg in found.args), default=1)
    if lanes == 1:
        return found
    dtype = found.dtype.with_lanes(lanes)
    if found.name == "if_then_else" and found.args[0].dtype.lanes == 1:
        condition, *values = found.args  # one scalar decision for all lanes: stays a branch
        args = (condition, *(broadcast(value, lanes) for value in values))
    else:
        args = tuple(broadcast(arg, lanes) for arg in found.args)
    if dtype is found.dtype and args == found.args:
        return found
    return Call(found.name, args, dtype, found.attrs)
