# SPDX-License-Identifier: Apache-2.0
"""Identities of elementwise operators and of data movement."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from heddle import op
from heddle.graph.nodes import Call, Constant, GraphExpr, TupleGetItem
from heddle.ir.expr import as_int
from heddle.passes.graph.anf import (
    Rewriter,
    dims_attribute,
    op_name,
    same_type,
    scalar_value,
    shape_of,
    tensor_type,
)
from heddle.passes.graph.rule_table import RuleTable

RULES: Final = RuleTable()


@RULES.add("identity", "dropout")
def identity(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """identity(x)  ->  x"""
    return call.args[0] if same_type(call, call.args[0]) else None


@RULES.add("cast", "broadcast_to", "reshape")
def no_change(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """cast(x), broadcast_to(x), reshape(x) to x's own type  ->  x"""
    return call.args[0] if same_type(call, call.args[0]) else None


@RULES.add("concat")
def concat_of_one(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """concat(x)  ->  x"""
    return call.args[0] if len(call.args) == 1 else None


@RULES.add("matmul")
def product_of_transposed(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """matmul(a, transpose(b))  ->  matmul(a, b, transpose_b=True), of matrices b"""
    turned = rewriter.defining_call(call.args[1], "transpose")
    if turned is None or not _swaps_last(_permutation(turned)):
        return None
    attrs = {**call.attrs, "transpose_b": not call.attrs["transpose_b"]}
    return op.matmul(call.args[0], turned.args[0], **attrs)


def _swaps_last(permutation: tuple[int, ...]) -> bool:
    """Whether a permutation exchanges the last two axes and moves no other."""
    count = len(permutation)
    return count > 1 and permutation == (*range(count - 2), count - 1, count - 2)


# -- elementwise ----------------------------------------------------------------------------------


def _is_float(value: GraphExpr) -> bool:
    kind = tensor_type(value)
    return kind is not None and kind.dtype.is_float


def _number(value: float, like: GraphExpr) -> Constant:
    kind = tensor_type(like)
    assert kind is not None
    return Constant(np.asarray(value).astype(kind.dtype.numpy))


@RULES.add("mul", "add", "sub", "div")
def neutral_element(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """x * 1, x / 1, x - 0  ->  x, and for integers x + 0  ->  x"""
    name, (a, b) = op_name(call), call.args
    number = scalar_value(b)
    neutral = {"mul": 1, "div": 1, "sub": 0, "add": 0}[name]
    if number is None and name in ("mul", "add"):
        a, number = b, scalar_value(a)
    # -0.0 + 0.0 is 0.0, so floats keep their additions of zero.
    if number is None or number != neutral or (name == "add" and _is_float(a)):
        return None
    if name == "sub" and _is_float(a) and math.copysign(1.0, float(number)) < 0:
        return None
    return a if same_type(a, call) else None


@RULES.add("mul", "add")
def constant_last(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """c * x  ->  x * c, c + x  ->  x + c"""
    a, b = call.args
    if isinstance(a, Constant) and not isinstance(b, Constant):
        return call.callee(b, a)  # type: ignore[no-any-return]
    return None


@RULES.add("mul", "add")
def scalar_chain(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """(x * c1) * c2  ->  x * (c1 * c2), (x + c1) + c2  ->  x + (c1 + c2)"""
    x, outer = call.args
    inner = rewriter.defining_call(x, op_name(call))
    if inner is None or not _is_float(call):
        return None
    first, second = scalar_value(inner.args[1]), scalar_value(outer)
    if first is None or second is None or not same_type(inner, call):
        return None
    merged = first * second if op_name(call) == "mul" else first + second
    if not math.isfinite(merged):
        return None
    return call.callee(inner.args[0], _number(merged, call))  # type: ignore[no-any-return]


@RULES.add("div")
def division_by_power_of_two(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """x / 2^k  ->  x * 2^-k, which is exact"""
    number = scalar_value(call.args[1])
    if number is None or not _is_float(call):
        return None
    mantissa, exponent = math.frexp(number)
    if abs(mantissa) != 0.5 or not -60 < exponent < 60:
        return None
    kind = tensor_type(call)
    if kind is not None and kind.dtype.bits < 32 and not -12 < exponent < 12:
        return None
    constant = call.args[1]
    assert isinstance(constant, Constant)
    inverse = np.full(constant.data.shape, 1.0 / number).astype(constant.data.dtype)
    return op.mul(call.args[0], Constant(inverse))


@RULES.add("pow")
def small_powers(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """pow(x, 1)  ->  x, pow(x, 2)  ->  x * x, pow(x, 3)  ->  x * x * x, pow(x, 0.5)  ->  sqrt(x)"""
    x, number = call.args[0], scalar_value(call.args[1])
    if not same_type(x, call):
        return None
    if number == 1:
        return x
    if number == 2:
        return op.mul(x, x)
    if number == 3:
        return op.mul(rewriter.emit(op.mul(x, x), name="square"), x)
    # sqrt(-inf) is NaN where pow(-inf, 0.5) is inf, and sqrt(-0.0) is -0.0: only a value that is
    # known not to be negative may take this way.
    if number == 0.5 and _is_float(call) and _not_negative(rewriter, x):
        return op.sqrt(x)
    return None


def _not_negative(rewriter: Rewriter, value: GraphExpr) -> bool:
    """Whether a value is a sum of squares, or that plus a positive constant."""
    found = rewriter.definition(value)
    if not isinstance(found, Call):
        return False
    name = op_name(found)
    if name in ("sum_square", "relu", "abs", "exp", "sigmoid"):
        return True
    if name == "mul":
        return found.args[0] is found.args[1]
    if name in ("mean", "sum"):
        return _not_negative(rewriter, found.args[0])
    if name == "add":
        number = scalar_value(found.args[1])
        return number is not None and number > 0 and _not_negative(rewriter, found.args[0])
    return False


# -- data movement --------------------------------------------------------------------------------


@RULES.add("squeeze", "unsqueeze", "flatten")
def as_reshape(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """squeeze, unsqueeze, flatten  ->  reshape"""
    return op.reshape(call.args[0], shape=dims_attribute(shape_of(call)))


@RULES.add("reshape")
def reshape_of_reshape(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """reshape(reshape(x))  ->  reshape(x)"""
    inner = rewriter.defining_call(call.args[0], "reshape", single_use=False)
    if inner is None:
        return None
    return op.reshape(inner.args[0], shape=dims_attribute(shape_of(call)))


@RULES.add("transpose")
def transpose_of_transpose(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """transpose(transpose(x))  ->  transpose(x) with the axes composed, or x"""
    axes = _permutation(call)
    inner = rewriter.defining_call(call.args[0], "transpose", single_use=False)
    source = call.args[0]
    if inner is not None:
        first = _permutation(inner)
        axes = tuple(first[axis] for axis in axes)
        source = inner.args[0]
    if axes == tuple(range(len(axes))):
        return source
    return None if inner is None else op.transpose(source, permutation=axes)


def _permutation(call: Call) -> tuple[int, ...]:
    axes = call.attrs["permutation"]
    assert isinstance(axes, tuple)
    return axes


@RULES.add("transpose")
def transpose_of_ones(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """A transpose that moves only axes of size 1  ->  reshape"""
    shape = shape_of(call.args[0])
    kept = [axis for axis in _permutation(call) if as_int(shape[axis]) != 1]
    if kept != sorted(kept):
        return None
    return op.reshape(call.args[0], shape=dims_attribute(shape_of(call)))


@RULES.add("slice")
def slice_of_everything(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """A slice that keeps everything in order  ->  x"""
    if not same_type(call, call.args[0]):
        return None
    steps = call.attrs.get("steps") or ()
    assert isinstance(steps, tuple)
    return call.args[0] if all(step > 0 for step in steps) else None


def part_of_split(rewriter: Rewriter, value: TupleGetItem) -> GraphExpr | None:
    """split(x)[i]  ->  slice(x): every part becomes a kernel with what consumes it"""
    call = rewriter.definition(value.value)
    if not isinstance(call, Call) or op_name(call) != "split":
        return None
    axis, types = call.attrs["axis"], getattr(call.type, "fields", ())
    assert isinstance(axis, int)
    sizes = [as_int(item.shape[axis]) for item in types]
    if any(size is None for size in sizes):
        return None
    begin = sum(size for size in sizes[: value.index] if size is not None)
    end = begin + (sizes[value.index] or 0)
    return op.slice(call.args[0], starts=(begin,), ends=(end,), axes=(axis,))


_UNARY_SAFE: Final = frozenset(
    {"relu", "gelu", "silu", "sigmoid", "tanh", "exp", "sqrt", "erf", "clip", "negative", "cast"}
)


@RULES.add(*sorted(_UNARY_SAFE))
def reshape_after_elementwise(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """relu(reshape(x))  ->  reshape(relu(x)): the work joins the kernel that makes x"""
    inner = rewriter.defining_call(call.args[0], "reshape")
    if inner is None or len(call.args) != 1 or rewriter.definition(inner.args[0]) is None:
        return None
    early = call.callee(inner.args[0], **call.attrs)
    return op.reshape(rewriter.emit(rewriter.simplify(early)), shape=dims_attribute(shape_of(call)))


@RULES.add("mul", "add", "sub", "div")
def reshape_after_scalar(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """reshape(x) * c  ->  reshape(x * c), c a scalar"""
    inner = rewriter.defining_call(call.args[0], "reshape")
    if inner is None or scalar_value(call.args[1]) is None:
        return None
    if rewriter.definition(inner.args[0]) is None or not same_type(call, call.args[0]):
        return None
    scalar = call.args[1]
    assert isinstance(scalar, Constant)
    early = call.callee(inner.args[0], Constant(scalar.data.reshape(-1)[:1].reshape(())))
    return op.reshape(rewriter.emit(rewriter.simplify(early)), shape=dims_attribute(shape_of(call)))
