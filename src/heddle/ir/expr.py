# SPDX-License-Identifier: Apache-2.0
"""Scalar expressions, shared by the graph level (dimensions) and the loop level (everything).

Semantics, in short (docs/ir.md has the whole):

* integer arithmetic wraps at the width of its dtype; index arithmetic (int64) is assumed not to
  overflow, and the compiler proves what it relies on;
* `FloorDiv`/`FloorMod` round towards minus infinity, `TruncDiv`/`TruncMod` towards zero (C);
  a zero divisor is undefined, and script, frontends and operators guard against it;
* both sides of `And`, `Or`, `Select` may be evaluated; only `if_then_else` is lazy;
* float expressions may be contracted (fma) and sums reassociated; nothing assumes that NaN or
  infinity are absent.

Python operators on `Expr` build nodes and fold constants: `x + 0` is `x`, `2 * IntImm(3)` is
`IntImm(6)`. Deeper algebra belongs to `heddle.arith`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, Union

from heddle.ir.dtype import BOOL, HANDLE, INT64, DType
from heddle.ir.node import Node, binder, derived, field, node
from heddle.support import InternalError, UserError

ExprLike: TypeAlias = Union["Expr", int, float, bool]


class Expr(Node):
    """A scalar or short-vector value; every expression knows its `dtype`."""

    __slots__ = ()

    dtype: DType

    def __add__(self, other: ExprLike) -> Expr:
        return add(self, other)

    def __radd__(self, other: ExprLike) -> Expr:
        return add(other, self)

    def __sub__(self, other: ExprLike) -> Expr:
        return sub(self, other)

    def __rsub__(self, other: ExprLike) -> Expr:
        return sub(other, self)

    def __mul__(self, other: ExprLike) -> Expr:
        return mul(self, other)

    def __rmul__(self, other: ExprLike) -> Expr:
        return mul(other, self)

    def __truediv__(self, other: ExprLike) -> Expr:
        return div(self, other)

    def __rtruediv__(self, other: ExprLike) -> Expr:
        return div(other, self)

    def __floordiv__(self, other: ExprLike) -> Expr:
        return floordiv(self, other)

    def __rfloordiv__(self, other: ExprLike) -> Expr:
        return floordiv(other, self)

    def __mod__(self, other: ExprLike) -> Expr:
        return floormod(self, other)

    def __rmod__(self, other: ExprLike) -> Expr:
        return floormod(other, self)

    def __neg__(self) -> Expr:
        return sub(const(0, self.dtype), self)

    def __lt__(self, other: ExprLike) -> Expr:
        return compare(LT, self, other)

    def __le__(self, other: ExprLike) -> Expr:
        return compare(LE, self, other)

    def __gt__(self, other: ExprLike) -> Expr:
        return compare(GT, self, other)

    def __ge__(self, other: ExprLike) -> Expr:
        return compare(GE, self, other)

    def __and__(self, other: ExprLike) -> Expr:
        return logical_and(self, other)

    def __or__(self, other: ExprLike) -> Expr:
        return logical_or(self, other)

    def __invert__(self) -> Expr:
        return logical_not(self)

    def __bool__(self) -> bool:
        raise UserError(
            "a symbolic expression has no truth value in Python; "
            "use if_then_else/select for a value, or a comparison that folds to a constant"
        )

    def astype(self, dtype: str | DType) -> Expr:
        """This value converted to `dtype`."""
        return cast(self, dtype)

    def equal(self, other: ExprLike) -> Expr:
        """The comparison `self == other` as an expression (`==` on nodes is identity)."""
        return compare(EQ, self, other)

    def not_equal(self, other: ExprLike) -> Expr:
        """The comparison `self != other` as an expression."""
        return compare(NE, self, other)


@node
class Var(Expr):
    """A named value; two variables of one name are still two variables."""

    IDENTITY = True

    name: str
    dtype: DType = field(default=INT64)


@node
class IntImm(Expr):
    """An integer or boolean constant; `value` lies within the range of `dtype`."""

    value: int
    dtype: DType = field(default=INT64)


@node
class FloatImm(Expr):
    """A floating point constant (a Python float, rounded to `dtype` where it is used)."""

    value: float
    dtype: DType


@node
class StringImm(Expr):
    """A string constant: only an argument of intrinsics."""

    value: str
    dtype: DType = derived()

    def _derive(self) -> None:
        self.dtype = HANDLE


@node
class BinaryExpr(Expr):
    """Base of arithmetic on two operands of one dtype; the result has that dtype."""

    a: Expr
    b: Expr
    dtype: DType = derived()

    def _derive(self) -> None:
        self.dtype = self.a.dtype


@node
class Add(BinaryExpr):
    """`a + b`"""


@node
class Sub(BinaryExpr):
    """`a - b`"""


@node
class Mul(BinaryExpr):
    """`a * b`"""


@node
class Div(BinaryExpr):
    """`a / b` of floating point values."""


@node
class FloorDiv(BinaryExpr):
    """`a // b` of integers, rounded towards minus infinity."""


@node
class FloorMod(BinaryExpr):
    """`a % b` of integers, with the sign of `b`."""


@node
class TruncDiv(BinaryExpr):
    """Integer division rounded towards zero, as in C."""


@node
class TruncMod(BinaryExpr):
    """Remainder of `TruncDiv`, with the sign of `a`."""


@node
class Min(BinaryExpr):
    """The smaller operand; of floats, NaN if either is NaN."""


@node
class Max(BinaryExpr):
    """The larger operand; of floats, NaN if either is NaN."""


@node
class CompareExpr(BinaryExpr):
    """Base of comparisons: boolean, with as many lanes as the operands."""

    def _derive(self) -> None:
        self.dtype = BOOL.with_lanes(self.a.dtype.lanes)


@node
class EQ(CompareExpr):
    """`a == b`"""


@node
class NE(CompareExpr):
    """`a != b`"""


@node
class LT(CompareExpr):
    """`a < b`"""


@node
class LE(CompareExpr):
    """`a <= b`"""


@node
class GT(CompareExpr):
    """`a > b`"""


@node
class GE(CompareExpr):
    """`a >= b`"""


@node
class And(BinaryExpr):
    """Logical and of booleans; both sides may be evaluated."""


@node
class Or(BinaryExpr):
    """Logical or of booleans; both sides may be evaluated."""


@node
class Not(Expr):
    """Logical negation of a boolean."""

    a: Expr
    dtype: DType = derived()

    def _derive(self) -> None:
        self.dtype = self.a.dtype


@node
class Select(Expr):
    """`a` where `condition` holds, else `b`; both may be evaluated, lane by lane."""

    condition: Expr
    a: Expr
    b: Expr
    dtype: DType = derived()

    def _derive(self) -> None:
        self.dtype = self.a.dtype


@node
class Cast(Expr):
    """`value` converted to `dtype`: float to int truncates (saturating at the range, NaN to 0),
    int to int wraps, anything to bool is `!= 0`."""

    value: Expr
    dtype: DType


@node
class Call(Expr):
    """A call of an intrinsic (`"exp"`, `"if_then_else"`, ...) or of an extern C function.

    `name` is a key of `heddle.tir.intrin`, or `"call_extern"` with a `StringImm` first argument.
    """

    name: str
    args: tuple[Expr, ...]
    dtype: DType
    attrs: Mapping[str, object] | None = field(default=None)


@node
class Let(Expr):
    """`body` with `var` bound to `value`."""

    value: Expr
    var: Var = binder()
    body: Expr
    dtype: DType = derived()

    def _derive(self) -> None:
        self.dtype = self.body.dtype


@node
class Ramp(Expr):
    """The vector `base, base + stride, ..., base + (lanes - 1) * stride`."""

    base: Expr
    stride: Expr
    lanes: int
    dtype: DType = derived()

    def _derive(self) -> None:
        self.dtype = self.base.dtype.with_lanes(self.lanes)


@node
class Broadcast(Expr):
    """A scalar repeated over `lanes` lanes."""

    value: Expr
    lanes: int
    dtype: DType = derived()

    def _derive(self) -> None:
        self.dtype = self.value.dtype.with_lanes(self.lanes)


# -- builders: constants fold, trivial identities vanish -------------------------------------


def const(value: ExprLike, dtype: str | DType = INT64) -> Expr:
    """`value` as a constant of `dtype` (broadcast when `dtype` has lanes); an `Expr` is cast."""
    dtype = DType.of(dtype)
    if isinstance(value, Expr):
        return cast(value, dtype)
    if dtype.lanes > 1:
        return Broadcast(const(value, dtype.element), dtype.lanes)
    if dtype.is_float:
        return FloatImm(float(value), dtype)
    value = int(bool(value)) if dtype.is_bool else int(value)
    if not dtype.min_value <= value <= dtype.max_value:
        raise UserError(f"constant {value} does not fit in {dtype}")
    return IntImm(value, dtype)


def as_expr(value: ExprLike, dtype: DType | None = None) -> Expr:
    """`value` as an expression; Python numbers take `dtype`, else int64, float32 or bool.

    Objects that stand for an expression say so with a method `__as_expr__`.
    """
    if isinstance(value, Expr):
        return value
    if isinstance(value, bool):
        return const(value, dtype or BOOL)
    if isinstance(value, float) and (dtype is None or not dtype.is_float):
        return const(value, "float32")
    if isinstance(value, (int, float)):
        return const(value, dtype or INT64)
    other: Any = value
    if hasattr(other, "__as_expr__"):
        return as_expr(other.__as_expr__())
    if hasattr(other, "__index__"):
        return const(int(other), dtype or INT64)
    raise UserError(f"expected an expression or a number, got {type(other).__name__} `{other!r}`")


def as_int(value: ExprLike) -> int | None:
    """The Python integer of a constant, or None."""
    if isinstance(value, int):
        return int(value)
    return value.value if isinstance(value, IntImm) else None


def cast(value: ExprLike, dtype: str | DType) -> Expr:
    """`value` converted to `dtype`; constants fold, equal dtypes pass through."""
    dtype = DType.of(dtype)
    if not isinstance(value, Expr):
        return const(value, dtype)
    if value.dtype is dtype:
        return value
    if isinstance(value, IntImm) and dtype.lanes == 1:
        if dtype.is_float or dtype.is_bool or dtype.min_value <= value.value <= dtype.max_value:
            return const(value.value, dtype)
    if isinstance(value, FloatImm) and dtype.is_float and dtype.lanes == 1:
        return FloatImm(value.value, dtype)
    return Cast(value, dtype)


def _pair(a: ExprLike, b: ExprLike, what: str) -> tuple[Expr, Expr]:
    """Both operands as expressions of one dtype: numbers adapt, scalars broadcast to vectors,
    and int widths of index arithmetic widen; anything else must be cast by the user."""
    if not isinstance(a, Expr):
        b = as_expr(b)
        a = as_expr(a, b.dtype)
    else:
        b = as_expr(b, a.dtype)
    if a.dtype is b.dtype:
        return a, b
    if a.dtype.lanes == 1 and b.dtype.lanes > 1:
        a = Broadcast(a, b.dtype.lanes)
    elif b.dtype.lanes == 1 and a.dtype.lanes > 1:
        b = Broadcast(b, a.dtype.lanes)
    if a.dtype.kind == b.dtype.kind == "int":
        wide = a.dtype if a.dtype.bits >= b.dtype.bits else b.dtype
        a, b = cast(a, wide), cast(b, wide)
    if a.dtype is not b.dtype:
        raise UserError(
            f"{what} of {a.dtype} and {b.dtype}: the dtypes differ; cast one of them",
            span=a.span or b.span,
        )
    return a, b


def _wrap(value: int, dtype: DType) -> Expr:
    if dtype.is_bool:
        return IntImm(int(value != 0), dtype)
    value &= (1 << dtype.bits) - 1
    return IntImm(value - (1 << dtype.bits) if value > dtype.max_value else value, dtype)


def add(a: ExprLike, b: ExprLike) -> Expr:
    """`a + b`"""
    a, b = _pair(a, b, "sum")
    if isinstance(a, IntImm):
        if isinstance(b, IntImm):
            return _wrap(a.value + b.value, a.dtype)
        if a.value == 0:
            return b
    if isinstance(b, IntImm) and b.value == 0:
        return a
    return Add(a, b)


def sub(a: ExprLike, b: ExprLike) -> Expr:
    """`a - b`"""
    a, b = _pair(a, b, "difference")
    if isinstance(b, IntImm):
        if isinstance(a, IntImm):
            return _wrap(a.value - b.value, a.dtype)
        if b.value == 0:
            return a
    if isinstance(a, FloatImm) and isinstance(b, FloatImm) and a.value == 0.0:
        return FloatImm(-b.value, a.dtype)
    return Sub(a, b)


def mul(a: ExprLike, b: ExprLike) -> Expr:
    """`a * b`"""
    a, b = _pair(a, b, "product")
    if isinstance(a, IntImm):
        if isinstance(b, IntImm):
            return _wrap(a.value * b.value, a.dtype)
        if a.value in (0, 1):
            return b if a.value else a
    if isinstance(b, IntImm) and b.value in (0, 1):
        return a if b.value else b
    return Mul(a, b)


def div(a: ExprLike, b: ExprLike) -> Expr:
    """`a / b` of floats."""
    a, b = _pair(a, b, "quotient")
    if not a.dtype.is_float:
        raise UserError(f"`/` of {a.dtype}: use `//` (floor) or truncdiv for integers")
    return Div(a, b)


def _integer(a: ExprLike, b: ExprLike, what: str) -> tuple[Expr, Expr]:
    a, b = _pair(a, b, what)
    if not a.dtype.is_int:
        raise UserError(f"{what} needs integers, got {a.dtype}", span=a.span)
    if isinstance(b, IntImm) and b.value == 0:
        raise UserError(f"{what} by the constant zero", span=b.span or a.span)
    return a, b


def floordiv(a: ExprLike, b: ExprLike) -> Expr:
    """`a // b` rounded towards minus infinity."""
    a, b = _integer(a, b, "floor division")
    if isinstance(b, IntImm):
        if isinstance(a, IntImm):
            return _wrap(a.value // b.value, a.dtype)
        if b.value == 1:
            return a
    return FloorDiv(a, b)


def floormod(a: ExprLike, b: ExprLike) -> Expr:
    """`a % b` with the sign of `b`."""
    a, b = _integer(a, b, "floor remainder")
    if isinstance(b, IntImm):
        if isinstance(a, IntImm):
            return _wrap(a.value % b.value, a.dtype)
        if b.value == 1:
            return const(0, a.dtype)
    return FloorMod(a, b)


def truncdiv(a: ExprLike, b: ExprLike) -> Expr:
    """Integer division rounded towards zero."""
    a, b = _integer(a, b, "division")
    if isinstance(a, IntImm) and isinstance(b, IntImm):
        quotient = abs(a.value) // abs(b.value)
        return _wrap(quotient if (a.value < 0) == (b.value < 0) else -quotient, a.dtype)
    return a if as_int(b) == 1 else TruncDiv(a, b)


def truncmod(a: ExprLike, b: ExprLike) -> Expr:
    """Remainder of `truncdiv`."""
    a, b = _integer(a, b, "remainder")
    if isinstance(a, IntImm) and isinstance(b, IntImm):
        rest = abs(a.value) % abs(b.value)
        return _wrap(rest if a.value >= 0 else -rest, a.dtype)
    return TruncMod(a, b)


def minimum(a: ExprLike, b: ExprLike) -> Expr:
    """The smaller of two values."""
    a, b = _pair(a, b, "min")
    if a is b:
        return a
    if isinstance(a, IntImm) and isinstance(b, IntImm):
        return a if a.value <= b.value else b
    return Min(a, b)


def maximum(a: ExprLike, b: ExprLike) -> Expr:
    """The larger of two values."""
    a, b = _pair(a, b, "max")
    if a is b:
        return a
    if isinstance(a, IntImm) and isinstance(b, IntImm):
        return a if a.value >= b.value else b
    return Max(a, b)


_FOLD_COMPARE = {
    "EQ": int.__eq__,
    "NE": int.__ne__,
    "LT": int.__lt__,
    "LE": int.__le__,
    "GT": int.__gt__,
    "GE": int.__ge__,
}


def compare(kind: type[CompareExpr], a: ExprLike, b: ExprLike) -> Expr:
    """The comparison node `kind` (EQ, NE, LT, LE, GT, GE) of two values."""
    a, b = _pair(a, b, "comparison")
    if isinstance(a, IntImm) and isinstance(b, IntImm):
        return IntImm(int(_FOLD_COMPARE[kind.__name__](a.value, b.value)), BOOL)
    return kind(a, b)


def _boolean(value: ExprLike, what: str) -> Expr:
    value = as_expr(value)
    if not value.dtype.is_bool:
        raise UserError(f"{what} needs bool, got {value.dtype}", span=value.span)
    return value


def logical_and(a: ExprLike, b: ExprLike) -> Expr:
    """`a and b`"""
    a, b = _pair(_boolean(a, "and"), _boolean(b, "and"), "and")
    if isinstance(a, IntImm):
        return b if a.value else a
    if isinstance(b, IntImm):
        return a if b.value else b
    return And(a, b)


def logical_or(a: ExprLike, b: ExprLike) -> Expr:
    """`a or b`"""
    a, b = _pair(_boolean(a, "or"), _boolean(b, "or"), "or")
    if isinstance(a, IntImm):
        return a if a.value else b
    if isinstance(b, IntImm):
        return b if b.value else a
    return Or(a, b)


def logical_not(a: ExprLike) -> Expr:
    """`not a`"""
    a = _boolean(a, "not")
    if isinstance(a, IntImm):
        return IntImm(1 - a.value, BOOL)
    return a.a if isinstance(a, Not) else Not(a)


def select(condition: ExprLike, a: ExprLike, b: ExprLike) -> Expr:
    """`a` where `condition`, else `b`; both may be evaluated."""
    condition = _boolean(condition, "select")
    a, b = _pair(a, b, "select")
    if isinstance(condition, IntImm):
        return a if condition.value else b
    return Select(condition, a, b)


def if_then_else(condition: ExprLike, a: ExprLike, b: ExprLike) -> Expr:
    """`a` if `condition`, else `b`; only the chosen one is evaluated (so it may guard a load)."""
    condition = _boolean(condition, "if_then_else")
    a, b = _pair(a, b, "if_then_else")
    if isinstance(condition, IntImm):
        return a if condition.value else b
    return Call("if_then_else", (condition, a, b), a.dtype)


def all_of(*conditions: ExprLike) -> Expr:
    """The conjunction of all conditions; true for none."""
    result: Expr = const(True, BOOL)
    for condition in conditions:
        result = logical_and(result, condition)
    return result


def check_scalar_int(value: Expr, what: str) -> None:
    """Raise `InternalError` unless `value` is a scalar integer."""
    if not value.dtype.is_int or value.dtype.lanes != 1:
        raise InternalError(f"{what} must be a scalar integer, got {value.dtype}")
