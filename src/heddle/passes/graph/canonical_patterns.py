# SPDX-License-Identifier: Apache-2.0
"""Recognise composite operators that exporters spell out: silu, gelu, layer and rms norm."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from heddle import op
from heddle.graph.nodes import Call, Constant, GraphExpr
from heddle.passes.graph.anf import Rewriter, op_name, scalar_value, tensor_type
from heddle.passes.graph.rule_table import RuleTable

RULES: Final = RuleTable()
_CLOSE: Final = 1e-4


def _near(value: float | int | None, wanted: float) -> bool:
    return value is not None and math.isclose(value, wanted, rel_tol=_CLOSE)


def _scalar_and_rest(call: Call) -> tuple[float, GraphExpr] | None:
    """(c, x) of a commutative call on a scalar constant c and a value x of the result's type."""
    for at in (0, 1):
        number = scalar_value(call.args[at])
        if number is not None and not isinstance(call.args[1 - at], Constant):
            return float(number), call.args[1 - at]
    return None


def _is_power(rewriter: Rewriter, value: GraphExpr, base: GraphExpr, exponent: int) -> bool:
    """Whether `value` is `base` to the power `exponent` (2 or 3), by pow or by products."""
    found = rewriter.definition(value)
    if op_name(found) == "pow":
        assert isinstance(found, Call)
        return found.args[0] is base and _near(scalar_value(found.args[1]), exponent)
    if op_name(found) != "mul":
        return False
    assert isinstance(found, Call)
    a, b = found.args
    if exponent == 2:
        return a is base and b is base
    return (b is base and _is_power(rewriter, a, base, 2)) or (
        a is base and _is_power(rewriter, b, base, 2)
    )


# -- activations ----------------------------------------------------------------------------------


@RULES.add("mul")
def silu(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """x * sigmoid(x)  ->  silu(x)"""
    for at in (0, 1):
        gate = rewriter.defining_call(call.args[at], "sigmoid", single_use=False)
        if gate is not None and gate.args[0] is call.args[1 - at]:
            return op.silu(gate.args[0])
    return None


@RULES.add("mul")
def hard_swish(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """x * hard_sigmoid(x, 1/6, 1/2)  ->  hard_swish(x)"""
    for at in (0, 1):
        gate = rewriter.defining_call(call.args[at], "hard_sigmoid", single_use=False)
        if gate is None or gate.args[0] is not call.args[1 - at]:
            continue
        if _near(gate.attrs["alpha"], 1 / 6) and _near(gate.attrs["beta"], 0.5):  # type: ignore[arg-type]
            return op.hard_swish(gate.args[0])
    return None


def _factors(rewriter: Rewriter, call: Call) -> tuple[float, list[GraphExpr]]:
    """A product as the product of its scalar constants and its other factors."""
    number, factors = 1.0, list[GraphExpr]()
    stack: list[GraphExpr] = list(reversed(call.args))
    while stack:
        item = stack.pop()
        scalar = scalar_value(item)
        inner = rewriter.defining_call(item, "mul")
        if scalar is not None:
            number *= float(scalar)
        elif inner is not None and len(factors) + len(stack) < 3:
            stack.extend(reversed(inner.args))
        else:
            halved = rewriter.defining_call(item, "div")
            divisor = scalar_value(halved.args[1]) if halved is not None else None
            if halved is not None and divisor:
                number /= float(divisor)
                item = halved.args[0]
            factors.append(item)
    return number, factors


def _one_plus(rewriter: Rewriter, value: GraphExpr, name: str) -> GraphExpr | None:
    """y where `value` is 1 + name(y)."""
    total = rewriter.defining_call(value, "add")
    split = _scalar_and_rest(total) if total is not None else None
    if split is None or not _near(split[0], 1.0):
        return None
    inner = rewriter.defining_call(split[1], name)
    return inner.args[0] if inner is not None else None


@RULES.add("mul")
def gelu(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """0.5 * x * (1 + erf(x / sqrt(2)))  ->  gelu(x), and the same with tanh"""
    found = tensor_type(call)
    if found is None or not found.dtype.is_float:
        return None
    number, factors = _factors(rewriter, call)
    if len(factors) != 2 or not _near(number, 0.5):
        return None
    for at in (0, 1):
        x, gate = factors[1 - at], factors[at]
        inside = _one_plus(rewriter, gate, "erf")
        if inside is not None and _is_scaled(rewriter, inside, x, math.sqrt(0.5)):
            return op.gelu(x)
        inside = _one_plus(rewriter, gate, "tanh")
        if inside is not None and _is_tanh_argument(rewriter, inside, x):
            return op.gelu(x, approximate="tanh")
    return None


def _is_scaled(rewriter: Rewriter, value: GraphExpr, x: GraphExpr, factor: float) -> bool:
    product = rewriter.defining_call(value, "mul")
    if product is not None:
        split = _scalar_and_rest(product)
        return split is not None and split[1] is x and _near(split[0], factor)
    quotient = rewriter.defining_call(value, "div")
    if quotient is None:
        return False
    return quotient.args[0] is x and _near(scalar_value(quotient.args[1]), 1 / factor)


def _is_tanh_argument(rewriter: Rewriter, value: GraphExpr, x: GraphExpr) -> bool:
    """Whether `value` is sqrt(2 / pi) * (x + 0.044715 * x^3)."""
    product = rewriter.defining_call(value, "mul")
    split = _scalar_and_rest(product) if product is not None else None
    if split is None or not _near(split[0], math.sqrt(2 / math.pi)):
        return False
    total = rewriter.defining_call(split[1], "add")
    if total is None or not any(item is x for item in total.args):
        return False
    cubic = total.args[1] if total.args[0] is x else total.args[0]
    term = rewriter.defining_call(cubic, "mul")
    parts = _scalar_and_rest(term) if term is not None else None
    if parts is None or not _near(parts[0], 0.044715):
        return False
    return _is_power(rewriter, parts[1], x, 3)


# -- normalisations -------------------------------------------------------------------------------


def _mean_axis(call: Call | None) -> int | None:
    """The first of the trailing axes that a mean with kept dimensions runs over."""
    if call is None or not call.attrs.get("keepdims"):
        return None
    source = tensor_type(call.args[0])
    if source is None or not source.dtype.is_float:
        return None
    axes = call.attrs.get("axes")
    if not isinstance(axes, tuple) or not axes:
        return None
    wanted = tuple(range(source.ndim - len(axes), source.ndim))
    return wanted[0] if tuple(sorted(axis % source.ndim for axis in axes)) == wanted else None


def _inverse_root(rewriter: Rewriter, value: GraphExpr) -> tuple[GraphExpr, float] | None:
    """(v, epsilon) where `value` is 1 / sqrt(v + epsilon)."""
    found = rewriter.defining_call(value, "rsqrt", single_use=False)
    if found is not None:
        return _plus_epsilon(rewriter, found.args[0])
    outer = rewriter.defining_call(value, "reciprocal", single_use=False)
    if outer is not None:
        return _root(rewriter, outer.args[0])
    quotient = rewriter.defining_call(value, "div", single_use=False)
    if quotient is not None and _near(scalar_value(quotient.args[0]), 1.0):
        return _root(rewriter, quotient.args[1])
    power = rewriter.defining_call(value, "pow", single_use=False)
    if power is not None and _near(scalar_value(power.args[1]), -0.5):
        return _plus_epsilon(rewriter, power.args[0])
    return None


def _root(rewriter: Rewriter, value: GraphExpr) -> tuple[GraphExpr, float] | None:
    """(v, epsilon) where `value` is sqrt(v + epsilon)."""
    root = rewriter.defining_call(value, "sqrt", single_use=False)
    return None if root is None else _plus_epsilon(rewriter, root.args[0])


def _plus_epsilon(rewriter: Rewriter, value: GraphExpr) -> tuple[GraphExpr, float] | None:
    total = rewriter.defining_call(value, "add", single_use=False)
    split = _scalar_and_rest(total) if total is not None else None
    return None if split is None else (split[1], split[0])


def _normalised(rewriter: Rewriter, call: Call) -> tuple[GraphExpr, GraphExpr, float] | None:
    """(x, v, epsilon) where the call is x / sqrt(v + epsilon), by division or product."""
    if op_name(call) == "div":
        found = _root(rewriter, call.args[1])
        return None if found is None else (call.args[0], *found)
    for at in (0, 1):
        found = _inverse_root(rewriter, call.args[at])
        if found is not None:
            return (call.args[1 - at], *found)
    return None


@RULES.add("mul", "div")
def normalisation(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """x / sqrt(mean(x^2) + e)  ->  rms_norm(x);  the same of x - mean(x)  ->  layer_norm(x)"""
    found = _normalised(rewriter, call)
    if found is None:
        return None
    x, variance, epsilon = found
    mean = rewriter.defining_call(variance, "mean", single_use=False)
    axis = _mean_axis(mean)
    if mean is None or axis is None or not _is_power(rewriter, mean.args[0], x, 2):
        return None
    centred = rewriter.defining_call(x, "sub", single_use=False)
    if centred is not None:
        average = rewriter.defining_call(centred.args[1], "mean", single_use=False)
        if average is not None and average.args[0] is centred.args[0]:
            if _mean_axis(average) == axis:
                return op.layer_norm(centred.args[0], axis=axis, epsilon=epsilon)
    return op.rms_norm(x, axis=axis, epsilon=epsilon)


def _norm_and_tail(rewriter: Rewriter, call: Call, *names: str) -> tuple[Call, Constant] | None:
    """The normalisation that one argument of the call is, and the constant along its axes that
    the other is."""
    for at in (0, 1):
        other = call.args[at]
        found = next(
            (
                norm
                for name in names
                if (norm := rewriter.defining_call(call.args[1 - at], name)) is not None
            ),
            None,
        )
        if found is None or not isinstance(other, Constant) or other.data.size == 1:
            continue
        whole, axis = tensor_type(found), found.attrs["axis"]
        if whole is None or not isinstance(axis, int):
            continue
        data = other.data
        while data.ndim and data.shape[0] == 1 and data.ndim > whole.ndim - axis:
            data = data[0]
        tail = tuple(getattr(dim, "value", None) for dim in whole.shape[axis:])
        if data.shape == tail and data.dtype == whole.dtype.numpy:
            return found, Constant(np.ascontiguousarray(data))
    return None


@RULES.add("mul")
def norm_scale(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """layer_norm(x) * s  ->  layer_norm(x, s);  rms_norm(x) * s  ->  rms_norm(x, s)"""
    found = _norm_and_tail(rewriter, call, "layer_norm", "rms_norm")
    if found is None or len(found[0].args) > 1:
        return None
    norm, scale = found
    return norm.callee(norm.args[0], scale, **_plain_attrs(norm))  # type: ignore[no-any-return]


@RULES.add("add")
def norm_bias(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """layer_norm(x, s) + b  ->  layer_norm(x, s, b)"""
    found = _norm_and_tail(rewriter, call, "layer_norm")
    if found is None or len(found[0].args) > 2 or "absent" in found[0].attrs:
        return None
    norm, bias = found
    scale = norm.args[1] if len(norm.args) > 1 else None
    return op.layer_norm(norm.args[0], scale, bias, **_plain_attrs(norm))


def _plain_attrs(call: Call) -> dict[str, Any]:
    return {name: value for name, value in call.attrs.items() if name != "absent"}
