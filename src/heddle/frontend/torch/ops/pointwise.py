# SPDX-License-Identifier: Apache-2.0
"""Elementwise operators. Operands are converted to the dtype that torch computes in first."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from heddle.frontend.torch.node import Node, dtype, rank
from heddle.frontend.torch.registry import converts
from heddle.frontend.torch.report import Unsupported
from heddle.graph import GraphExpr
from heddle.ir import DType
from heddle.ir.expr import Expr

# -- one tensor ------------------------------------------------------------------------------

# Of integers these give floats of the default dtype.
_FLOATING: Final = {
    "acos": "acos",
    "acosh": "acosh",
    "asin": "asin",
    "asinh": "asinh",
    "atan": "atan",
    "atanh": "atanh",
    "cos": "cos",
    "cosh": "cosh",
    "digamma": "digamma",
    "erf": "erf",
    "erfc": "erfc",
    "erfinv": "erfinv",
    "exp": "exp",
    "lgamma": "lgamma",
    "log": "log",
    "reciprocal": "reciprocal",
    "rsqrt": "rsqrt",
    "sigmoid": "sigmoid",
    "sin": "sin",
    "sinh": "sinh",
    "sqrt": "sqrt",
    "tan": "tan",
    "tanh": "tanh",
}
_SAME: Final = {
    "abs": "abs",
    "ceil": "ceil",
    "floor": "floor",
    "mish": "mish",
    "neg": "negative",
    "relu": "relu",
    "round": "round",
    "sign": "sign",
    "silu": "silu",
    "trunc": "trunc",
}
_ROUNDING: Final = frozenset(("ceil", "floor", "round", "trunc"))


def _declare_unary(name: str, operator: str, *, floating: bool) -> None:
    @converts(f"aten.{name}.default")
    def _(node: Node, x: GraphExpr) -> Any:
        if floating:
            x = node.cast(x, node.dtype)
        if (dtype(x).is_int and name in _ROUNDING) or (dtype(x).is_bool and name == "sign"):
            return x
        return node.call(operator, x)


for _name, _operator in _FLOATING.items():
    _declare_unary(_name, _operator, floating=True)
for _name, _operator in _SAME.items():
    _declare_unary(_name, _operator, floating=False)


def _wide(node: Node, x: GraphExpr) -> GraphExpr:
    """x in the dtype that torch computes in: half precision in float32."""
    x = node.cast(x, node.dtype) if not dtype(x).is_float else x
    return node.cast(x, "float32") if dtype(x).bits == 16 else x


@converts("aten.expm1.default")
def _expm1(node: Node, x: GraphExpr) -> Any:
    # exp(x) - 1 = 2 sinh(x / 2) exp(x / 2), without cancellation near 0; far out it may overflow.
    x = _wide(node, x)
    half = node.op.mul(x, 0.5)
    near = node.op.mul(node.op.mul(node.op.sinh(half), node.op.exp(half)), 2.0)
    small = node.op.less(node.op.abs(x), 1.0)
    return node.op.where(small, near, node.op.sub(node.op.exp(x), 1.0))


@converts("aten.log1p.default")
def _log1p(node: Node, x: GraphExpr) -> Any:
    # log(u) x / (u - 1) with u = 1 + x rounded (Kahan); x where u is 1, log(u) where x is infinite.
    x = _wide(node, x)
    u = node.op.add(x, 1.0)
    less = node.op.sub(u, 1.0)
    same = node.op.equal(less, 0.0)
    ratio = node.op.div(x, node.op.where(same, node.scalar(1.0, x), less))
    corrected = node.op.mul(node.op.log(u), ratio)
    infinite = node.op.isinf(u)
    return node.op.where(same, x, node.op.where(infinite, node.op.log(u), corrected))


@converts("aten.log2.default")
def _log2(node: Node, x: GraphExpr) -> Any:
    return node.op.mul(node.op.log(_wide(node, x)), 1.0 / math.log(2.0))


@converts("aten.log10.default")
def _log10(node: Node, x: GraphExpr) -> Any:
    return node.op.mul(node.op.log(_wide(node, x)), 1.0 / math.log(10.0))


@converts("aten.exp2.default")
def _exp2(node: Node, x: GraphExpr) -> Any:
    x = _wide(node, x)
    return node.op.pow(node.scalar(2.0, x), x)


@converts("aten.square.default")
def _square(node: Node, x: GraphExpr) -> Any:
    return node.op.mul(x, x)


@converts("aten.frac.default")
def _frac(node: Node, x: GraphExpr) -> Any:
    return node.op.sub(x, node.op.trunc(x))


@converts("aten.round.decimals")
def _round_decimals(node: Node, x: GraphExpr, *, decimals: int = 0) -> Any:
    if dtype(x).is_int or decimals == 0:
        return x if dtype(x).is_int else node.op.round(x)
    wide, power = _wide(node, x), 10.0 ** abs(decimals)
    if decimals > 0:
        return node.op.div(node.op.round(node.op.mul(wide, power)), power)
    return node.op.mul(node.op.round(node.op.div(wide, power)), power)


@converts("aten.angle.default")
def _angle(node: Node, x: GraphExpr) -> Any:
    """Half a turn of what is negative, and NaN of itself."""
    x = node.cast(x, node.dtype)
    turn = node.op.where(node.op.less(x, 0.0), node.scalar(math.pi, x), node.scalar(0.0, x))
    return node.op.where(node.op.isnan(x), x, turn)


@converts("aten.sgn.default")
def _sgn(node: Node, x: GraphExpr) -> Any:
    return x if dtype(x).is_bool else node.op.sign(x)


@converts("aten.logical_not.default")
def _logical_not(node: Node, x: GraphExpr) -> Any:
    return node.op.logical_not(node.cast(x, "bool"))


@converts("aten.bitwise_not.default")
def _bitwise_not(node: Node, x: GraphExpr) -> Any:
    return node.op.logical_not(x) if dtype(x).is_bool else node.op.bitwise_not(x)


@converts("aten.isnan.default")
def _isnan(node: Node, x: GraphExpr) -> Any:
    return node.op.isnan(x) if dtype(x).is_float else node.full(node.shape, False, node.dtype)


@converts("aten.isinf.default")
def _isinf(node: Node, x: GraphExpr) -> Any:
    return node.op.isinf(x) if dtype(x).is_float else node.full(node.shape, False, node.dtype)


@converts("aten.isfinite.default")
def _isfinite(node: Node, x: GraphExpr) -> Any:
    if not dtype(x).is_float:
        return node.full(node.shape, True, node.dtype)
    return node.op.logical_not(node.op.logical_or(node.op.isnan(x), node.op.isinf(x)))


@converts(
    "aten.alias.default",
    "aten.clone.default",
    "aten.contiguous.default",
    "aten.detach.default",
    "aten.lift_fresh_copy.default",
    "prims.device_put.default",
)
def _same(node: Node, x: GraphExpr, *_args: Any, **_kwargs: Any) -> Any:
    return x


@converts("aten._to_copy.default", "prims.convert_element_type.default", "aten.to.dtype")
def _convert(node: Node, x: GraphExpr, *_args: Any, **_kwargs: Any) -> Any:
    return node.cast(x, node.dtype)


# -- activations -----------------------------------------------------------------------------


@converts("aten.gelu.default")
def _gelu(node: Node, x: GraphExpr, *, approximate: str = "none") -> Any:
    return node.op.gelu(x, approximate=approximate)


@converts("aten.leaky_relu.default")
def _leaky_relu(node: Node, x: GraphExpr, negative_slope: float = 0.01) -> Any:
    return node.op.leaky_relu(x, alpha=negative_slope)


@converts("aten.elu.default")
def _elu(
    node: Node, x: GraphExpr, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0
) -> Any:
    if input_scale == 1.0 and scale == 1.0:
        return node.op.elu(x, alpha=alpha)
    if input_scale == 1.0:
        return node.op.selu(x, alpha=alpha, gamma=scale)
    if alpha * input_scale == 1.0 or input_scale <= 0:
        raise Unsupported(f"elu with input_scale {input_scale}")
    below = node.op.mul(node.op.sub(node.op.exp(node.op.mul(x, input_scale)), 1.0), alpha * scale)
    return node.op.where(node.op.greater(x, 0.0), node.op.mul(x, scale), below)


@converts("aten.selu.default")
def _selu(node: Node, x: GraphExpr) -> Any:
    return node.op.selu(x, alpha=1.6732632423543772, gamma=1.0507009873554805)


@converts("aten.celu.default")
def _celu(node: Node, x: GraphExpr, alpha: float = 1.0) -> Any:
    return node.op.celu(x, alpha=alpha)


@converts("aten.hardtanh.default")
def _hardtanh(node: Node, x: GraphExpr, min_val: float = -1, max_val: float = 1) -> Any:
    return node.op.clip(x, min=min_val, max=max_val)


@converts("aten.relu6.default")
def _relu6(node: Node, x: GraphExpr) -> Any:
    return node.op.clip(x, min=0.0, max=6.0)


@converts("aten.hardsigmoid.default")
def _hardsigmoid(node: Node, x: GraphExpr) -> Any:
    return node.op.hard_sigmoid(x, alpha=1.0 / 6.0, beta=0.5)


@converts("aten.hardswish.default")
def _hardswish(node: Node, x: GraphExpr) -> Any:
    return node.op.hard_swish(x)


@converts("aten.softplus.default")
def _softplus(node: Node, x: GraphExpr, beta: float = 1, threshold: float = 20) -> Any:
    scaled = x if beta == 1 else node.op.mul(x, float(beta))
    smooth = node.op.softplus(scaled)
    smooth = smooth if beta == 1 else node.op.div(smooth, float(beta))
    return node.op.where(node.op.greater(scaled, float(threshold)), x, smooth)


@converts("aten.log_sigmoid_forward.default")
def _log_sigmoid(node: Node, x: GraphExpr) -> Any:
    # The second result is what the backward pass of PyTorch reads on a CPU.
    value = node.op.negative(node.op.softplus(node.op.negative(x)))
    if not node.uses(1):
        return value, None
    return value, node.op.exp(node.op.negative(node.op.abs(x)))


@converts("aten.softshrink.default")
def _softshrink(node: Node, x: GraphExpr, lambd: float = 0.5) -> Any:
    return node.op.shrink(x, bias=float(lambd), lambd=float(lambd))


@converts("aten.threshold.default")
def _threshold(node: Node, x: GraphExpr, threshold: float, value: float) -> Any:
    kept = node.op.less_equal(x, node.scalar(threshold, x))
    return node.op.where(kept, node.scalar(value, x), x)


@converts("aten.prelu.default", "aten._prelu_kernel.default")
def _prelu(node: Node, x: GraphExpr, weight: GraphExpr) -> Any:
    if rank(weight) == 1 and rank(x) > 2:
        weight = node.op.unsqueeze(weight, axes=tuple(range(1, rank(x) - 1)))
    return node.op.prelu(x, weight)


@converts("aten.glu.default")
def _glu(node: Node, x: GraphExpr, dim: int = -1) -> Any:
    axis = dim % rank(x)
    size = node.shape[axis]
    first = node.op.slice(x, starts=(0,), ends=(size,), axes=(axis,))
    second = node.op.slice(x, starts=(size,), ends=(size * 2,), axes=(axis,))
    return node.op.mul(first, node.op.sigmoid(second))


# -- two tensors, or a tensor and a number -----------------------------------------------------


def operands(node: Node, a: Any, b: Any) -> tuple[GraphExpr, GraphExpr]:
    """Both operands in the dtype that torch computes in. With a number that half precision cannot
    hold that is float32: torch rounds the result, not the number."""
    kind = node.common_dtype()
    if kind.is_bool and node.target.split(".")[1] in ("ge", "gt", "le", "lt"):
        kind = DType.of("uint8")  # false comes before true
    if kind.is_float and kind.bits == 16 and not (_holds(kind, a) and _holds(kind, b)):
        kind = DType.of("float32")
    first, second = node.tensor(a, kind), node.tensor(b, kind)
    if any(isinstance(dim, Expr) for dim in node.shape):
        first, second = node.agreeing((first, second), node.shape)
    return first, second


def _holds(kind: DType, value: Any) -> bool:
    if isinstance(value, (bool, int, float)):
        return float(np.asarray(value).astype(kind.numpy)) == value or value != value
    return not isinstance(value, Expr)


def _declare_binary(name: str, operator: str, *overloads: str) -> None:
    @converts(*(f"aten.{name}.{overload}" for overload in overloads))
    def _(node: Node, a: Any, b: Any) -> Any:
        return node.call(operator, *operands(node, a, b))


for _name, _operator in (
    ("eq", "equal"),
    ("ge", "greater_equal"),
    ("gt", "greater"),
    ("le", "less_equal"),
    ("lt", "less"),
    ("ne", "not_equal"),
):
    _declare_binary(_name, _operator, "Tensor", "Scalar")
_declare_binary("fmod", "fmod", "Tensor", "Scalar")
_declare_binary("remainder", "floor_mod", "Tensor", "Scalar", "Scalar_Tensor")
_declare_binary("bitwise_left_shift", "shift_left", "Tensor", "Tensor_Scalar", "Scalar_Tensor")
_declare_binary("bitwise_right_shift", "shift_right", "Tensor", "Tensor_Scalar", "Scalar_Tensor")
_declare_binary("__lshift__", "shift_left", "Tensor", "Scalar")
_declare_binary("__rshift__", "shift_right", "Tensor", "Scalar")


@converts("aten.maximum.default", "aten.minimum.default")
def _extreme(node: Node, a: Any, b: Any) -> Any:
    x, y = operands(node, a, b)
    return _larger(node, x, y) if "maximum" in node.target else _smaller(node, x, y)


def _larger(node: Node, a: GraphExpr, b: GraphExpr) -> GraphExpr:
    return node.call("logical_or" if dtype(a).is_bool else "maximum", a, b)  # type: ignore[no-any-return]


def _smaller(node: Node, a: GraphExpr, b: GraphExpr) -> GraphExpr:
    return node.call("logical_and" if dtype(a).is_bool else "minimum", a, b)  # type: ignore[no-any-return]


@converts("aten.fmax.default", "aten.fmin.default")
def _extreme_number(node: Node, a: Any, b: Any) -> Any:
    """What is not a number gives way to what is."""
    x, y = operands(node, a, b)
    found = _larger(node, x, y) if "fmax" in node.target else _smaller(node, x, y)
    if not dtype(x).is_float:
        return found
    return node.op.where(node.op.isnan(x), y, node.op.where(node.op.isnan(y), x, found))


@converts("aten.mul.Tensor", "aten.mul.Scalar")
def _mul(node: Node, a: Any, b: Any) -> Any:
    x, y = operands(node, a, b)
    return node.call("logical_and" if dtype(x).is_bool else "mul", x, y)


@converts("aten.add.Tensor", "aten.add.Scalar")
def _add(node: Node, a: Any, b: Any, alpha: Any = 1) -> Any:
    x, y = operands(node, a, b)
    if dtype(x).is_bool:
        return node.op.logical_or(x, y) if alpha else node.expand(x, node.shape)
    return node.op.add(x, _times(node, y, alpha))


@converts("aten.sub.Tensor", "aten.sub.Scalar")
def _sub(node: Node, a: Any, b: Any, alpha: Any = 1) -> Any:
    x, y = operands(node, a, b)
    return node.op.sub(x, _times(node, y, alpha))


@converts("aten.rsub.Tensor", "aten.rsub.Scalar")
def _rsub(node: Node, a: Any, b: Any, alpha: Any = 1) -> Any:
    x, y = operands(node, a, b)
    return node.op.sub(y, _times(node, x, alpha))


def _times(node: Node, x: GraphExpr, alpha: Any) -> GraphExpr:
    if not isinstance(alpha, Expr) and alpha == 1:
        return x
    return node.op.mul(x, node.tensor(alpha, dtype(x)))  # type: ignore[no-any-return]


@converts("aten.div.Tensor", "aten.div.Scalar", "aten.true_divide.Tensor")
def _div(node: Node, a: Any, b: Any) -> Any:
    kind = node.common_dtype()
    if not kind.is_float:
        return node.op.div(node.tensor(a, node.dtype), node.tensor(b, node.dtype))
    return node.op.div(*operands(node, a, b))


@converts("aten.div.Tensor_mode", "aten.div.Scalar_mode")
def _div_mode(node: Node, a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode is None:
        return _div(node, a, b)
    if rounding_mode == "floor":
        return _floor_divide(node, a, b)
    x, y = operands(node, a, b)
    quotient = node.op.div(x, y)
    return quotient if dtype(x).is_int else node.op.trunc(quotient)


@converts("aten.floor_divide.default", "aten.floor_divide.Scalar")
def _floor_divide(node: Node, a: Any, b: Any) -> Any:
    x, y = operands(node, a, b)
    if dtype(x).is_float:
        return _floor_divide_floats(node, x, y)
    rest = node.op.floor_mod(x, y)
    return node.op.div(node.op.sub(x, rest), y)


def _floor_divide_floats(node: Node, x: GraphExpr, y: GraphExpr) -> Any:
    """As Python does: from the remainder, so that the quotient is not rounded up first."""
    wide = node.cast(x, "float32") if dtype(x).bits == 16 else x
    y = node.cast(y, dtype(wide))
    quotient = node.op.round(node.op.div(node.op.sub(wide, node.op.floor_mod(wide, y)), y))
    return node.op.where(node.op.equal(y, 0.0), node.op.div(wide, y), quotient)


@converts("aten.pow.Tensor_Scalar", "aten.pow.Tensor_Tensor", "aten.pow.Scalar")
def _pow(node: Node, a: Any, b: Any) -> Any:
    if isinstance(b, (int, float)) and isinstance(a, GraphExpr):
        x = node.cast(a, node.dtype)
        simple = _power(node, x, float(b))
        if simple is not None:
            return simple
    return node.op.pow(*operands(node, a, b))


def _power(node: Node, x: GraphExpr, exponent: float) -> Any:
    """Exponents for which torch itself has a shorter way."""
    if exponent == 1.0:
        return x
    if exponent == 2.0:
        return node.op.mul(x, x)
    if exponent == 3.0:
        wide = node.cast(x, "float32") if dtype(x).bits == 16 and dtype(x).is_float else x
        return node.op.mul(node.op.mul(wide, wide), wide)
    if not dtype(x).is_float:
        return None
    names = {0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}
    return node.call(names[exponent], x) if exponent in names else None


@converts("aten.atan2.default")
def _atan2(node: Node, a: GraphExpr, b: GraphExpr) -> Any:
    return angle_of(node, *(_wide(node, value) for value in operands(node, a, b)))


def angle_of(node: Node, y: GraphExpr, x: GraphExpr) -> GraphExpr:
    """The angle of the point (x, y), from -pi to pi."""
    zero = node.scalar(0.0, x)
    at_origin = node.op.logical_and(node.op.equal(x, zero), node.op.equal(y, zero))
    both_infinite = node.op.logical_and(node.op.isinf(x), node.op.isinf(y))
    ratio = node.op.div(y, node.op.where(at_origin, node.scalar(1.0, x), x))
    ratio = node.op.where(both_infinite, node.op.mul(node.op.sign(x), node.op.sign(y)), ratio)
    angle = node.op.atan(ratio)
    # 1 / x tells -0 from 0: half turns are added where x is negative, in the direction of y.
    left = node.op.less(_signed(node, x), zero)
    below = node.op.less(_signed(node, y), zero)
    turn = node.op.where(below, node.scalar(-math.pi, x), node.scalar(math.pi, x))
    return node.op.where(left, node.op.add(angle, turn), angle)  # type: ignore[no-any-return]


@converts("aten.signbit.default")
def _signbit(node: Node, x: GraphExpr) -> Any:
    if not dtype(x).is_float:
        return node.op.less(x, 0) if dtype(x).is_int else node.full(node.shape, False, node.dtype)
    return node.op.less(_signed(node, x), 0.0)


def _signed(node: Node, x: GraphExpr) -> GraphExpr:
    """x, with an infinity in place of each zero that has its sign."""
    return node.op.where(node.op.equal(x, 0.0), node.op.reciprocal(x), x)  # type: ignore[no-any-return]


@converts("aten.copysign.Tensor", "aten.copysign.Scalar")
def _copysign(node: Node, a: Any, b: Any) -> Any:
    x, y = (node.tensor(v, node.dtype) for v in (a, b))
    size = node.op.abs(x)
    return node.op.where(node.op.less(_signed(node, y), 0.0), node.op.negative(size), size)


@converts("aten.hypot.default")
def _hypot(node: Node, a: GraphExpr, b: GraphExpr) -> Any:
    x, y = (node.op.abs(_wide(node, v)) for v in operands(node, a, b))
    larger, smaller = node.op.maximum(x, y), node.op.minimum(x, y)
    safe = node.op.where(node.op.equal(larger, 0.0), node.scalar(1.0, larger), larger)
    ratio = node.op.div(smaller, safe)
    return node.op.mul(larger, node.op.sqrt(node.op.add(node.op.mul(ratio, ratio), 1.0)))


for _name in ("and", "or", "xor"):

    @converts(f"aten.logical_{_name}.default")
    def _logical(node: Node, a: GraphExpr, b: GraphExpr, _name: str = _name) -> Any:
        return node.call(f"logical_{_name}", node.cast(a, "bool"), node.cast(b, "bool"))

    @converts(
        f"aten.bitwise_{_name}.Tensor",
        f"aten.bitwise_{_name}.Scalar",
        f"aten.bitwise_{_name}.Scalar_Tensor",
        f"aten.__{_name}__.Tensor",
        f"aten.__{_name}__.Scalar",
    )
    def _bitwise(node: Node, a: Any, b: Any, _name: str = _name) -> Any:
        x, y = operands(node, a, b)
        return node.call(f"{'logical' if dtype(x).is_bool else 'bitwise'}_{_name}", x, y)


# -- three and more --------------------------------------------------------------------------


@converts("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
def _where(node: Node, condition: GraphExpr, a: Any, b: Any) -> Any:
    kind = node.dtype
    return node.op.where(node.cast(condition, "bool"), node.tensor(a, kind), node.tensor(b, kind))


@converts("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def _masked_fill(node: Node, x: GraphExpr, mask: GraphExpr, value: Any) -> Any:
    return node.expand(node.op.where(mask, node.tensor(value, dtype(x)), x), node.shape)


@converts("aten.clamp.default", "aten.clamp.Tensor")
def _clamp(node: Node, x: GraphExpr, min: Any = None, max: Any = None) -> Any:
    x = node.cast(x, node.dtype)
    if not dtype(x).is_bool and all(v is None or _is_plain(v, x) for v in (min, max)):
        return node.op.clip(x, min=min, max=max)
    for extreme, value in ((_larger, min), (_smaller, max)):
        if value is not None:
            x = extreme(node, x, node.tensor(value, node.dtype))
    return x


def _is_plain(value: Any, x: GraphExpr) -> bool:
    """A number that an attribute of type float holds exactly, for this tensor."""
    return isinstance(value, (int, float)) and (dtype(x).is_float or abs(value) < 2**31)


@converts("aten.clamp_min.default", "aten.clamp_min.Tensor")
def _clamp_min(node: Node, x: GraphExpr, min: Any) -> Any:
    return _clamp(node, x, min=min)


@converts("aten.clamp_max.default", "aten.clamp_max.Tensor")
def _clamp_max(node: Node, x: GraphExpr, max: Any) -> Any:
    return _clamp(node, x, max=max)


@converts("aten.addcmul.default", "aten.addcdiv.default")
def _addc(node: Node, x: GraphExpr, a: GraphExpr, b: GraphExpr, *, value: Any = 1) -> Any:
    kind = node.dtype
    name = "mul" if "addcmul" in node.target else "div"
    part = node.call(name, node.cast(a, kind), node.cast(b, kind))
    return node.op.add(node.cast(x, kind), _times(node, part, value))


@converts("aten.lerp.Tensor", "aten.lerp.Scalar")
def _lerp(node: Node, start: GraphExpr, end: GraphExpr, weight: Any) -> Any:
    distance = node.op.sub(end, start)
    share = node.tensor(weight, dtype(start))
    near = node.op.add(start, node.op.mul(share, distance))
    far = node.op.sub(end, node.op.mul(distance, node.op.sub(node.scalar(1.0, start), share)))
    return node.op.where(node.op.less(node.op.abs(share), 0.5), near, far)
