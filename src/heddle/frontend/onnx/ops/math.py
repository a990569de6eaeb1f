# SPDX-License-Identifier: Apache-2.0
"""Elementwise operators."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from heddle.frontend.onnx.narrow import kind_of, narrowed, widened
from heddle.frontend.onnx.node import Node, dtype, normal_axis, rank
from heddle.frontend.onnx.ops.random import dropped, perhaps_dropped
from heddle.frontend.onnx.ops.text import from_text, to_text
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.tensors import dtype_of
from heddle.frontend.onnx.text import is_text
from heddle.frontend.onnx.values import Narrow, Optional_, Sequence_, Symbolic, Text, tensor_type
from heddle.graph import Constant, GraphExpr
from heddle.support import UserError

# -- one tensor ------------------------------------------------------------------------------

_UNARY: Final = {
    "Abs": "abs",
    "Acos": "acos",
    "Acosh": "acosh",
    "Asin": "asin",
    "Asinh": "asinh",
    "Atan": "atan",
    "Atanh": "atanh",
    "BitwiseNot": "bitwise_not",
    "Ceil": "ceil",
    "Cos": "cos",
    "Cosh": "cosh",
    "Erf": "erf",
    "Exp": "exp",
    "Floor": "floor",
    "HardSwish": "hard_swish",
    "IsNaN": "isnan",
    "Log": "log",
    "Mish": "mish",
    "Neg": "negative",
    "Not": "logical_not",
    "Reciprocal": "reciprocal",
    "Relu": "relu",
    "Round": "round",
    "Sigmoid": "sigmoid",
    "Sign": "sign",
    "Sin": "sin",
    "Sinh": "sinh",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Sqrt": "sqrt",
    "Tan": "tan",
    "Tanh": "tanh",
}


@converts(*_UNARY)
def _unary(node: Node) -> Any:
    return node.call(_UNARY[node.op_type], node.tensor(0))


_ACTIVATIONS: Final = {
    "Elu": ("elu", {"alpha": 1.0}),
    "Celu": ("celu", {"alpha": 1.0}),
    "LeakyRelu": ("leaky_relu", {"alpha": 0.01}),
    "ThresholdedRelu": ("thresholded_relu", {"alpha": 1.0}),
    "Selu": ("selu", {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}),
    "HardSigmoid": ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}),
    "Shrink": ("shrink", {"bias": 0.0, "lambd": 0.5}),
}


@converts(*_ACTIVATIONS)
def _activation(node: Node) -> Any:
    name, defaults = _ACTIVATIONS[node.op_type]
    attrs = {key: node.attr.float(key, value) for key, value in defaults.items()}
    x = node.tensor(0)
    if not dtype(x).is_float:  # Shrink takes integers
        return node.cast(node.call(name, node.cast(x, "float32"), **attrs), dtype(x))
    return node.call(name, x, **attrs)


@converts("Gelu")
def _gelu(node: Node) -> Any:
    return node.op.gelu(node.tensor(0), approximate=node.attr.string("approximate", "none"))


@converts("Swish")
def _swish(node: Node) -> Any:
    x, alpha = node.tensor(0), node.attr.float("alpha", 1.0)
    if alpha == 1.0:
        return node.op.silu(x)
    return node.op.mul(x, node.op.sigmoid(node.op.mul(x, alpha)))


@converts("IsInf")
def _isinf(node: Node) -> Any:
    return node.op.isinf(
        node.tensor(0),
        detect_negative=node.attr.flag("detect_negative", True),
        detect_positive=node.attr.flag("detect_positive", True),
    )


@converts("Identity")
def _identity(node: Node) -> Any:
    value = node.value(0)
    if isinstance(value, (Constant, Symbolic, Sequence_, Optional_)):
        return value
    return node.op.identity(node.tensor(0))


@converts("Dropout")
def _dropout(node: Node) -> Any:
    x = node.tensor(0)
    if any(node.has(at) and not isinstance(node.value(at), Constant) for at in (1, 2)):
        return perhaps_dropped(node, x)[: max(1, len(node.outputs))]
    training = node.has(2) and bool(node.constant(2, "training_mode"))
    ratio = 0.5
    if node.version >= 12:
        ratio = float(node.constant(1, "ratio")) if node.has(1) else 0.5
    if training and ratio != 0.0:
        return dropped(node, x, ratio)[: max(1, len(node.outputs))]
    mask = Constant(np.asarray(True))
    if len(node.outputs) > 1:
        mask = node.op.broadcast_to(mask, shape=_shape(x))
    return (node.op.identity(x), mask)[: max(1, len(node.outputs))]


def _shape(x: GraphExpr) -> Any:
    return tensor_type(x).shape


@converts("Cast")
def _cast(node: Node) -> Any:
    number = node.attr.int("to")
    kind = kind_of(number)
    if is_text(number):
        return to_text(node, node.value(0))
    held = node.value(0)
    if isinstance(held, Text) and kind is None:
        return from_text(node, held, dtype_of(number, "the result of Cast"))
    if kind is None:
        return node.cast(widened(node, node.value(0)), dtype_of(number, "the result of Cast"))
    return _narrow_cast(node, kind)


def _narrow_cast(node: Node, kind: str) -> Any:
    return narrowed(
        node,
        widened(node, node.value(0)),
        kind,
        saturate=node.attr.flag("saturate", True),
        round_mode=node.attr.string("round_mode", "up"),
    )


@converts("CastLike")
def _cast_like(node: Node) -> Any:
    like = node.value(1)
    if isinstance(like, Narrow):
        return _narrow_cast(node, like.kind)
    if isinstance(like, Text):
        return to_text(node, node.value(0))
    return node.cast(widened(node, node.value(0)), dtype(node.as_tensor(like)))


@converts("Clip")
def _clip(node: Node) -> Any:
    x = node.tensor(0)
    if node.version < 11:
        limits = [node.attr.float(key, None) for key in ("min", "max")]
        return node.op.clip(x, min=limits[0], max=limits[1])
    values = [node.optional(1), node.optional(2)]
    if all(value is None or _is_plain(value) for value in values):
        low, high = (None if v is None else v.data.ravel()[0].item() for v in values)  # type: ignore[attr-defined]
        return node.op.clip(x, min=low, max=high)
    for value, name in zip(values, ("maximum", "minimum"), strict=True):
        if value is not None:
            x = node.call(name, x, value)
    return x


def _is_plain(value: GraphExpr) -> bool:
    """A constant that an attribute of type float holds exactly."""
    if not isinstance(value, Constant) or value.data.size != 1:
        return False
    return value.data.dtype.itemsize < 8 or value.data.dtype.kind == "f"


# -- several tensors -------------------------------------------------------------------------

_BINARY: Final = {
    "Add": "add",
    "And": "logical_and",
    "BitwiseAnd": "bitwise_and",
    "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor",
    "Div": "div",
    "Equal": "equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Mul": "mul",
    "Or": "logical_or",
    "Sub": "sub",
    "Xor": "logical_xor",
}


@converts(*_BINARY)
def _binary(node: Node) -> Any:
    a, b = node.tensor(0), node.tensor(1)
    return node.call(_BINARY[node.op_type], a, _align(node, a, b))


def _align(node: Node, a: GraphExpr, b: GraphExpr) -> GraphExpr:
    """Before opset 7, `axis` said where the second operand starts."""
    if node.version >= 7 or "axis" not in node.attr or not node.attr.flag("broadcast"):
        return b
    axis = normal_axis(node.attr.int("axis"), rank(a))
    missing = rank(a) - axis - rank(b)
    if missing < 0:
        raise UserError(f"axis {axis} leaves no room for the {rank(b)} axes of the second operand")
    return node.reshape(b, (*_shape(b), *(1,) * missing))


@converts("Pow")
def _pow(node: Node) -> Any:
    base, power = node.tensor(0), node.tensor(1)
    kind = dtype(base)
    if isinstance(power, Constant) and power.data.size == 1 and kind.is_float:
        exponent = float(power.data.ravel()[0])
        if rank(power) <= rank(base) and exponent == 2.0:
            return node.op.mul(base, base)
        if rank(power) <= rank(base) and exponent == 0.5:
            return node.op.sqrt(base)
        if rank(power) <= rank(base) and exponent == 3.0:
            return node.op.mul(node.op.mul(base, base), base)
    if dtype(power) is kind:
        return node.op.pow(base, power)
    wide = "float64" if kind.name in ("int64", "float64") or kind.is_int else "float32"
    if kind.is_float:
        return node.op.pow(base, node.cast(power, kind))
    if dtype(power).is_float:
        return node.cast(node.op.pow(node.cast(base, wide), node.cast(power, wide)), kind)
    return node.op.pow(base, node.cast(power, kind))


@converts("Mod")
def _mod(node: Node) -> Any:
    name = "fmod" if node.attr.flag("fmod") else "floor_mod"
    return node.call(name, node.tensor(0), node.tensor(1))


@converts("BitShift")
def _shift(node: Node) -> Any:
    direction = node.attr.string("direction")
    if direction not in ("LEFT", "RIGHT"):
        raise UserError(f"attribute `direction` is `{direction}`, expected LEFT or RIGHT")
    return node.call(f"shift_{direction.lower()}", node.tensor(0), node.tensor(1))


@converts("PRelu")
def _prelu(node: Node) -> Any:
    x, slope = node.tensor(0), node.tensor(1)
    if node.version < 9 and rank(slope) == 1 and rank(x) > 2:
        slope = node.reshape(slope, (*_shape(slope), *(1,) * (rank(x) - 2)))
    return node.op.prelu(x, slope)


@converts("Where")
def _where(node: Node) -> Any:
    return node.op.where(node.tensor(0), node.tensor(1), node.tensor(2))


_VARIADIC: Final = {"Max": "maximum", "Min": "minimum", "Sum": "add", "Mean": "add"}


@converts(*_VARIADIC)
def _variadic(node: Node) -> Any:
    first, *rest = node.tensors()
    result = first if rest else node.op.identity(first)
    for item in rest:
        result = node.call(_VARIADIC[node.op_type], result, item)
    if node.op_type == "Mean":
        result = node.op.div(result, float(1 + len(rest)))
    return result
