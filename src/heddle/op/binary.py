# SPDX-License-Identifier: Apache-2.0
"""Operators of two tensors that broadcast as numpy does, and `where`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import DType, TensorType
from heddle.ir.expr import (
    EQ,
    GE,
    GT,
    LE,
    LT,
    NE,
    CompareExpr,
    Expr,
    add,
    cast,
    compare,
    const,
    div,
    logical_and,
    logical_not,
    logical_or,
    maximum,
    minimum,
    mul,
    select,
    sub,
    truncdiv,
    truncmod,
)
from heddle.op.adjoint import is_number, sum_to
from heddle.op.common import broadcast_load, broadcast_shapes, require_same_dtype, wide
from heddle.op.registry import Op, operator, ops
from heddle.op.sample import Sample, bools, case, floats, ints, values
from heddle.tir import intrin

Pullback = Callable[[GraphExpr, GraphExpr, GraphExpr, GraphExpr], Any]
BOOL: Final = DType.of("bool")
_TRUTH: Final = "the result is a truth value"
_BITS: Final = "the result is bits"
_FLOATS: Final = (
    case(floats(3, 4), floats(3, 4)),
    case(floats(2, 3, 4), floats(3, 1)),
    case(floats(4), floats()),
)
_INTS: Final = case(
    ints(3, 4, low=-7, high=7, dtype="int32"), ints(4, low=1, high=5, dtype="int32")
)
_NAN: Final = case(values([np.nan, 1.0, np.inf, -1.0]), values([1.0, np.nan, 2.0, -np.inf]))


def binary(
    name: str,
    doc: str,
    compute: Callable[[Expr, Expr], Expr],
    numpy: Callable[[Any, Any], Any],
    *samples: Sample,
    grad: Pullback | str,
    dtypes: str = "number",
    result: str = "same",
) -> Op:
    """Declare a function of two tensors of one dtype; `result` is "same" or "bool".

    grad: from the gradient `d` of the result y, a, b and y, the gradients of a and b before the
    sums over axes along which they were repeated (None: zero); or the reason why there are none.
    """

    def infer(a: TensorType, b: TensorType) -> TensorType:
        require_same_dtype(a, b)
        return TensorType(broadcast_shapes(a.shape, b.shape), a.dtype if result == "same" else BOOL)

    infer.__doc__ = doc
    op = operator(name, kind="broadcast", dtypes=dtypes)(infer)

    @op.rule("compute")
    def _(a: te.Tensor, b: te.Tensor) -> te.Tensor:
        def body(*i: Expr) -> Expr:
            value = compute(wide(broadcast_load(a, i)), wide(broadcast_load(b, i)))
            return cast(value, a.dtype) if result == "same" else value

        return te.compute(broadcast_shapes(a.shape, b.shape), body, name=name)

    op.rule("numpy")(numpy)
    if isinstance(grad, str):
        op.not_differentiable(grad)
    else:
        op.rule("grad")(_unbroadcast(grad))
    op.samples(*samples)
    return op


def _unbroadcast(grad: Pullback) -> Callable[..., Any]:
    def rule(a: GraphExpr, b: GraphExpr, *, dout: GraphExpr, out: GraphExpr) -> Any:
        pairs = zip((a, b), grad(dout, a, b, out), strict=True)
        return tuple(None if value is None else sum_to(value, like) for like, value in pairs)

    return rule


# -- arithmetic ------------------------------------------------------------------------------

add_ = binary(
    "add",
    "a + b; integers wrap.",
    add,
    np.add,
    *_FLOATS,
    _INTS,
    grad=lambda d, a, b, y: (d, d),
)
sub_ = binary(
    "sub",
    "a - b; integers wrap.",
    sub,
    np.subtract,
    *_FLOATS,
    _INTS,
    grad=lambda d, a, b, y: (d, -d),
)
mul_ = binary(
    "mul",
    "a * b; integers wrap.",
    mul,
    np.multiply,
    *_FLOATS,
    _INTS,
    grad=lambda d, a, b, y: (d * b, d * a),
)


def _guarded(function: Callable[[Expr, Expr], Expr], at_minus_one: Callable[[Expr], Expr]) -> Any:
    """Integer division made total: a zero divisor gives 0, and -1, which overflows for the least
    integer, is computed apart (both trap on common processors)."""

    def total(a: Expr, b: Expr) -> Expr:
        zero, one = const(0, a.dtype), const(1, a.dtype)
        is_zero = compare(EQ, b, zero)
        if not a.dtype.is_signed:
            return select(is_zero, zero, function(a, select(is_zero, one, b)))
        is_minus = compare(EQ, b, const(-1, a.dtype))
        quotient = function(a, select(logical_or(is_zero, is_minus), one, b))
        return select(is_minus, at_minus_one(a), select(is_zero, zero, quotient))

    return total


_truncated_quotient = _guarded(truncdiv, lambda a: const(0, a.dtype) - a)
_truncated_rest = _guarded(truncmod, lambda a: const(0, a.dtype))


def _divide(a: Expr, b: Expr) -> Expr:
    return div(a, b) if a.dtype.is_float else _truncated_quotient(a, b)


def _divide_reference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if np.issubdtype(a.dtype, np.floating):
        return a / b  # type: ignore[no-any-return]
    quotient = a // np.where(b == 0, 1, b)
    inexact = quotient * b != a
    return np.where(b == 0, 0, quotient + (inexact & ((a < 0) != (b < 0))))


_SIGNED: Final = case(
    values([7, -7, 7, -7, 5, -(2**31)], "int32"), values([2, 2, -2, -2, 0, -1], "int32")
)
div_ = binary(
    "div",
    "a / b; integers truncate towards zero (a zero divisor gives 0).",
    _divide,
    _divide_reference,
    case(floats(3, 4), floats(3, 4, low=0.5)),
    _INTS,
    _SIGNED,
    grad=lambda d, a, b, y: (d / b, -(d * y / b)),
)


def _fmod(a: Expr, b: Expr) -> Expr:
    return intrin.fmod(a, b) if a.dtype.is_float else _truncated_rest(a, b)


def _floor_mod(a: Expr, b: Expr) -> Expr:
    rest = _fmod(a, b)
    if not a.dtype.is_signed:
        return rest
    zero = const(0, a.dtype)
    differs = logical_and(compare(NE, rest, zero), compare(NE, rest < zero, b < zero))
    return select(differs, rest + b, rest)


def _integers_total(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def total(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if np.issubdtype(a.dtype, np.floating):
            return function(a, b)  # type: ignore[no-any-return]
        return np.where(b == 0, 0, function(a, np.where(b == 0, 1, b)))

    return total


fmod = binary(
    "fmod",
    "Remainder with the sign of a (a zero integer divisor gives 0).",
    _fmod,
    _integers_total(np.fmod),
    case(floats(3, 4), floats(3, 4, low=0.5)),
    _SIGNED,
    grad=lambda d, a, b, y: (d, -(d * ops.trunc(a / b))),
)
floor_mod = binary(
    "floor_mod",
    "Remainder with the sign of b (a zero integer divisor gives 0).",
    _floor_mod,
    _integers_total(np.mod),
    case(floats(3, 4), floats(3, 4, low=0.5)),
    case(floats(3, 4), floats(3, 4, low=-2, high=-0.5)),
    _SIGNED,
    grad=lambda d, a, b, y: (d, -(d * ops.floor(a / b))),
)


def _integer_power(a: Expr, b: Expr) -> Expr:
    """By squaring: exact, wrapping. A negative power is 0 but for bases 1 and -1."""
    one, zero = const(1, a.dtype), const(0, a.dtype)
    power, square = one, a
    odd = compare(NE, intrin.bitwise_and(b, one), zero)
    for bit in range(min(6, b.dtype.bits - 1)):
        is_set = compare(NE, intrin.bitwise_and(b, const(1 << bit, b.dtype)), zero)
        power, square = power * select(is_set, square, one), square * square
    if not a.dtype.is_signed:
        return power
    minus = select(odd, const(-1, a.dtype), one)
    inverse = select(compare(EQ, a, const(-1, a.dtype)), minus, zero)
    return select(b < zero, select(compare(EQ, a, one), one, inverse), power)


def _power(a: Expr, b: Expr) -> Expr:
    return intrin.pow(a, b) if a.dtype.is_float else _integer_power(a, b)


def _power_reference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if np.issubdtype(a.dtype, np.floating):
        return np.power(a, b)  # type: ignore[no-any-return]
    inverse = np.where(a == 1, 1, np.where(a == -1, np.where(b % 2 == 0, 1, -1), 0))
    return np.where(b < 0, inverse, np.power(a, np.maximum(b, 0)))


def _power_grad(d: GraphExpr, a: GraphExpr, b: GraphExpr, y: GraphExpr) -> Any:
    """b * a^(b - 1) and a^b * log(a); for an exponent of 0 the first is 0, and for a base that is
    not positive, whose power is defined at single exponents only, the second is 0."""
    by_base = d * ops.where(ops.equal(b, 0.0), 0.0, b * ops.pow(a, b - 1.0))
    if is_number(b):
        return by_base, None
    positive = ops.greater(a, 0.0)
    return by_base, d * y * ops.where(positive, ops.log(ops.where(positive, a, 1.0)), 0.0)


pow_ = binary(
    "pow",
    "a to the power b; integers wrap, with exponents below 64.",
    _power,
    _power_reference,
    case(floats(3, 4, low=0.1), floats(3, 4)),
    case(floats(3, 4), values(2.0)),
    case(ints(6, low=-4, high=4), ints(6, low=-3, high=7)),
    grad=_power_grad,
)


def _chosen(compared: Callable[[GraphExpr, GraphExpr], GraphExpr]) -> Pullback:
    """The gradient goes to the argument that is the result; of equals, half to each."""

    def grad(d: GraphExpr, a: GraphExpr, b: GraphExpr, y: GraphExpr) -> Any:
        tied = ops.where(ops.equal(a, b), d * 0.5, 0.0)
        return ops.where(compared(a, b), d, tied), ops.where(compared(b, a), d, tied)

    return grad


minimum_ = binary(
    "minimum",
    "The smaller of a and b; NaN if either is.",
    minimum,
    np.minimum,
    *_FLOATS,
    _INTS,
    _NAN,
    grad=_chosen(lambda a, b: ops.less(a, b)),
)
maximum_ = binary(
    "maximum",
    "The larger of a and b; NaN if either is.",
    maximum,
    np.maximum,
    *_FLOATS,
    _INTS,
    _NAN,
    grad=_chosen(lambda a, b: ops.greater(a, b)),
)


def _prelu_grad(d: GraphExpr, a: GraphExpr, b: GraphExpr, y: GraphExpr) -> Any:
    negative = ops.less(a, 0.0)
    return ops.where(negative, d * b, d), ops.where(negative, d * a, 0.0)


prelu = binary(
    "prelu",
    "a where a >= 0, else b * a.",
    lambda a, b: select(a < const(0, a.dtype), a * b, a),
    lambda a, b: np.where(a < 0, a * b, a),
    case(floats(2, 3, 4), floats(3, 1)),
    grad=_prelu_grad,
)

# -- comparisons and logic -------------------------------------------------------------------


def comparison(
    name: str, sign: str, kind: type[CompareExpr], numpy: Any, dtypes: str = "number"
) -> Op:
    """Declare `a <sign> b`."""
    logic = (case(bools(3, 4), bools(4)),) if dtypes == "any" else ()
    samples = (case(ints(3, 4, high=2), ints(3, 4, high=2)), *_FLOATS[:2], _NAN, *logic)
    return binary(
        name,
        f"Whether a {sign} b.",
        lambda a, b: compare(kind, a, b),
        numpy,
        *samples,
        grad=_TRUTH,
        dtypes=dtypes,
        result="bool",
    )


equal = comparison("equal", "==", EQ, np.equal, "any")
not_equal = comparison("not_equal", "!=", NE, np.not_equal, "any")
less = comparison("less", "<", LT, np.less)
less_equal = comparison("less_equal", "<=", LE, np.less_equal)
greater = comparison("greater", ">", GT, np.greater)
greater_equal = comparison("greater_equal", ">=", GE, np.greater_equal)

_BOOLS: Final = (case(bools(3, 4), bools(3, 4)), case(bools(3, 4), bools(3, 1)))
logical_and_ = binary(
    "logical_and", "a and b.", logical_and, np.logical_and, *_BOOLS, grad=_TRUTH, dtypes="bool"
)
logical_or_ = binary(
    "logical_or", "a or b.", logical_or, np.logical_or, *_BOOLS, grad=_TRUTH, dtypes="bool"
)
logical_xor = binary(
    "logical_xor",
    "Whether a and b differ.",
    lambda a, b: logical_or(logical_and(a, logical_not(b)), logical_and(logical_not(a), b)),
    np.logical_xor,
    *_BOOLS,
    grad=_TRUTH,
    dtypes="bool",
)
bitwise_and = binary(
    "bitwise_and",
    "Bits set in both.",
    intrin.bitwise_and,
    np.bitwise_and,
    _INTS,
    grad=_BITS,
    dtypes="int",
)
bitwise_or = binary(
    "bitwise_or",
    "Bits set in either.",
    intrin.bitwise_or,
    np.bitwise_or,
    _INTS,
    grad=_BITS,
    dtypes="int",
)
bitwise_xor = binary(
    "bitwise_xor",
    "Bits set in one.",
    intrin.bitwise_xor,
    np.bitwise_xor,
    _INTS,
    grad=_BITS,
    dtypes="int",
)


def _shift(function: Callable[[Expr, Expr], Expr], *, keeps_sign: bool) -> Any:
    """A shift made total: `bits` or more (or less than 0) shifts everything out."""

    def total(a: Expr, b: Expr) -> Expr:
        zero = const(0, a.dtype)
        legal = logical_and(b >= zero, b < const(a.dtype.bits, b.dtype))
        shifted = function(a, select(legal, b, zero))
        emptied = (
            select(a < zero, const(-1, a.dtype), zero) if keeps_sign and a.dtype.is_signed else zero
        )
        return select(legal, shifted, emptied)

    return total


_SHIFTS: Final = case(ints(3, 4, dtype="uint32"), ints(3, 4, high=5, dtype="uint32"))
shift_left = binary(
    "shift_left",
    "a * 2**b.",
    _shift(intrin.shift_left, keeps_sign=False),
    np.left_shift,
    _SHIFTS,
    grad=_BITS,
    dtypes="int",
)
shift_right = binary(
    "shift_right",
    "floor(a / 2**b).",
    _shift(intrin.shift_right, keeps_sign=True),
    np.right_shift,
    _SHIFTS,
    case(ints(4, low=-9, dtype="int32"), ints(4, high=3, dtype="int32")),
    grad=_BITS,
    dtypes="int",
)


@operator("where", kind="broadcast", dtypes={"condition": "bool"})
def where(condition: TensorType, a: TensorType, b: TensorType) -> TensorType:
    """a where the condition holds, else b."""
    require_same_dtype(a, b)
    return TensorType(broadcast_shapes(condition.shape, a.shape, b.shape), a.dtype)


@where.rule("compute")
def _(condition: te.Tensor, a: te.Tensor, b: te.Tensor) -> te.Tensor:
    return te.compute(
        broadcast_shapes(condition.shape, a.shape, b.shape),
        lambda *i: select(broadcast_load(condition, i), broadcast_load(a, i), broadcast_load(b, i)),
        name="where",
    )


@where.rule("numpy")
def _(condition: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(condition, a, b)


@where.rule("grad")
def _(
    condition: GraphExpr, a: GraphExpr, b: GraphExpr, *, dout: GraphExpr, out: GraphExpr
) -> tuple[GraphExpr | None, ...]:
    first, second = ops.where(condition, dout, 0.0), ops.where(condition, 0.0, dout)
    return None, sum_to(first, a), sum_to(second, b)


where.samples(
    case(bools(3, 4), floats(3, 4), floats(3, 4)),
    case(bools(2, 1, 4), floats(), floats(3, 1)),
    case(bools(3), bools(3), bools(3)),
)
