# SPDX-License-Identifier: Apache-2.0
"""Compute quantised networks in integers.

    xf = dequantize(x, sx, zx)               a = conv(x, w', out_dtype=int32, pad_value=zx)
    wf = dequantize(w, sw)             ->    b = a + c
    yf = relu(conv(xf, wf, bias))            y = requantize(b, sx * sw / sy, zy)
    y = quantize(yf, sy, zy)

A product of dequantised operands is a product of their integers, scaled. Sums of integers are
exact; what zero points add to a product, (x - zx) * (w - zw) = x * w - zx * w - ..., is a sum over
one operand, and for constant weights a constant, to which the bias is added. Accumulators become
quantised values by one multiplication in float32 and rounding to even, as ONNX Runtime does it.

Left operands of products become unsigned and right operands signed, as processors multiply them:
the same numbers with a zero point 128 further on.

What is not recognised stays as it is: float32 between `dequantize` and `quantize`, which fusion
puts into the kernels around.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from heddle import op
from heddle.graph.nodes import Call, Constant, GraphExpr
from heddle.ir.module import IRModule
from heddle.passes.graph import integer_values
from heddle.passes.graph.anf import Rewriter, op_name, scalar_value, shape_of, tensor_type
from heddle.passes.graph.canonicalise import canonicalise, rewrite_by_rules
from heddle.passes.graph.eliminate import eliminate_common_subexpressions, eliminate_dead_code
from heddle.passes.graph.fold_constants import FoldConstants
from heddle.passes.graph.integer_values import Quantised
from heddle.passes.graph.rule_table import RuleTable

RULES: Final = RuleTable()
FINAL_RULES: Final = RuleTable()


def integers(module: IRModule) -> IRModule:
    """Compute quantised networks in integers."""
    if not any(_has_integers(function) for function in module.functions.values()):
        return module
    changed = rewrite_by_rules(module, {**integer_values.RULES.by_op, **RULES.by_op})
    changed = rewrite_by_rules(eliminate_dead_code(changed), FINAL_RULES.by_op)
    changed = eliminate_dead_code(FoldConstants()(changed))
    return eliminate_common_subexpressions(canonicalise(changed))


def _has_integers(function: Any) -> bool:
    for binding in getattr(function, "bindings", ()):
        name = op_name(binding.value)
        if name in ("quantize", "dequantize", "requantize"):
            return True
        if name in ("conv", "matmul") and binding.value.attrs.get("out_dtype") is not None:
            return True
    return False


@FINAL_RULES.add("quantize")
def by_inverse(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """quantize(x, s)  ->  requantize(x, 1 / s): a division takes as long as the rest together

    The quotient may differ by its last bit, so a value half way between two integers (to the
    precision of float32) may become the other one.
    """
    scale, wanted = _constant(call.args[1]), tensor_type(call)
    if scale is None or wanted is None or wanted.dtype.bits > 8:
        return None
    with np.errstate(divide="ignore", over="ignore"):
        inverse = (1.0 / scale.astype(np.float64)).astype(np.float32)
    if not np.isfinite(inverse).all():
        return None
    zero = call.args[2] if len(call.args) > 2 else None
    return op.requantize(call.args[0], Constant(inverse), zero, dtype=wanted.dtype)


# -- operands of products -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Weights:
    """Constant weights without their zero point, as int32, and their scale (None: not scaled)."""

    data: np.ndarray
    scale: np.ndarray | None


def _constant(value: GraphExpr) -> np.ndarray | None:
    return value.data if isinstance(value, Constant) else None


def _weights(rewriter: Rewriter, value: GraphExpr) -> _Weights | None:
    """`value` as constant weights: a dequantised constant of bytes, or integers that differ by 255
    at most."""
    found = rewriter.defining_call(value, "dequantize", single_use=False)
    if found is not None:
        data, scale = _constant(found.args[0]), _constant(found.args[1])
        zero = _constant(found.args[2]) if len(found.args) > 2 else np.zeros((), np.int32)
        if data is None or scale is None or zero is None or data.dtype.itemsize > 1:
            return None
        return _Weights(data.astype(np.int32) - zero.astype(np.int32), scale.astype(np.float32))
    data = _constant(value)
    if data is None or data.dtype.kind not in "iu" or np.abs(data).max(initial=0) > 255:
        return None
    return _Weights(data.astype(np.int32), None)


def _halves(weights: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """int8 parts and factors whose sum the weights in [-255, 255] are."""
    if weights.min(initial=0) >= -128 and weights.max(initial=0) <= 127:
        return [(1, weights.astype(np.int8))]
    half = weights >> 1
    return [(2, half.astype(np.int8)), (1, (weights - 2 * half).astype(np.int8))]


def _left(rewriter: Rewriter, value: GraphExpr, *, scaled: bool) -> Quantised | None:
    """`value` as unsigned bytes."""
    return integer_values.operand(rewriter, value, scaled=scaled, signed=False)


def _int32(value: np.ndarray) -> Constant:
    return Constant(np.ascontiguousarray(value.astype(np.int32)))


def _emit(rewriter: Rewriter, value: GraphExpr, name: str = "") -> GraphExpr:
    return rewriter.emit(rewriter.simplify(value), name=name)


def _is_float(call: Call) -> bool:
    kind = tensor_type(call)
    return kind is not None and kind.dtype.is_float


def _product_kind(call: Call) -> bool | None:
    """Whether a product is of floats (True) or gives int32 (False); None for any other."""
    kind = tensor_type(call)
    if kind is None:
        return None
    if kind.dtype.name == "float32":
        return True
    raw = tensor_type(call.args[0])
    wide = raw is not None and raw.dtype.name == "int32"
    return False if kind.dtype.name == "int32" and wide else None


# -- convolutions ---------------------------------------------------------------------------------


@RULES.add("conv")
def convolution(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """conv(dequantize(x), dequantize(w), b)  ->  dequantize(conv(x, w) + b')"""
    scaled = _product_kind(call)
    if scaled is None or "absent" in call.attrs or call.attrs["pad_value"] != 0:
        return None
    weights = _weights(rewriter, call.args[1])
    x = _left(rewriter, call.args[0], scaled=scaled)
    if weights is None or x is None or (weights.scale is not None) != scaled:
        return None
    zero = scalar_value(x.zero)
    scale = None if not scaled else _channel_scale(x, weights)
    if zero is None or (scaled and scale is None):
        return None
    attrs = {**call.attrs, "out_dtype": "int32", "pad_value": int(zero)}
    total: GraphExpr | None = None
    for factor, part in _halves(weights.data):
        product = rewriter.emit(op.conv(x.value, Constant(part), **attrs), name="products")
        if factor != 1:
            product = rewriter.emit(op.mul(product, _int32(np.array(factor))))
        total = product if total is None else rewriter.emit(op.add(total, product))
    assert total is not None
    shape = (1, -1, *(1,) * (weights.data.ndim - 2))
    taps = tuple(range(1, weights.data.ndim))
    shift = -int(zero) * weights.data.sum(axis=taps, dtype=np.int64)
    bias = call.args[2] if len(call.args) > 2 else None
    exact = None if bias is None else _integer_bias(rewriter, bias, scale)
    if exact is not None:
        shift, bias = shift + exact, None
    if shift.any():
        total = rewriter.emit(op.add(total, _int32(shift.reshape(shape))), name="accumulator")
    if not scaled:
        return (
            total if bias is None else op.add(total, op.reshape(bias, shape=_static(shape, bias)))
        )
    assert scale is not None
    result = op.dequantize(total, Constant(scale.reshape(shape)))
    if bias is None:
        return result
    spread = _emit(rewriter, op.reshape(bias, shape=_static(shape, bias)))
    return op.add(_emit(rewriter, result), spread)


def _static(shape: tuple[int, ...], bias: GraphExpr) -> tuple[Any, ...]:
    """`shape` with the size of `bias` in the place of -1."""
    (size,) = shape_of(bias)
    return tuple(size if dim == -1 else dim for dim in shape)


def _channel_scale(x: Quantised, weights: _Weights) -> np.ndarray | None:
    """The scale of each output channel of a convolution."""
    left, right = scalar_value(x.scale), weights.scale
    if left is None or right is None:
        return None
    channels = weights.data.shape[0]
    if right.size not in (1, channels) or (right.size > 1 and right.shape[0] != channels):
        return None
    product: np.ndarray = np.float32(left) * right.reshape(-1)
    return np.broadcast_to(product, (channels,)).astype(np.float32)


def _integer_bias(rewriter: Rewriter, bias: GraphExpr, scale: np.ndarray | None) -> Any:
    """The bias in units of an accumulator of `scale` (None: it is an integer), as int64; None when
    it is not exact in them."""
    data = _constant(bias)
    if scale is None:
        return None if data is None or data.dtype.kind not in "iu" else data.astype(np.int64)
    found = rewriter.defining_call(bias, "dequantize", single_use=False)
    if found is None or (len(found.args) > 2 and np.any(_constant(found.args[2]) != 0)):
        return None
    data, own = _constant(found.args[0]), _constant(found.args[1])
    if data is None or own is None or not np.allclose(own.reshape(-1), scale, rtol=1e-5, atol=0):
        return None
    return data.astype(np.int64)


# -- matrix products ------------------------------------------------------------------------------


@RULES.add("matmul")
def matrix_product(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """matmul(dequantize(a), dequantize(b))  ->  dequantize(matmul(a, b) - ...)"""
    scaled = _product_kind(call)
    if scaled is None or call.attrs["transpose_a"] or len(shape_of(call.args[0])) < 2:
        return None
    if len(shape_of(call.args[1])) < 2:
        return None
    a = _left(rewriter, call.args[0], scaled=scaled)
    if a is None or not a.is_scalar():
        return None
    weights = _weights(rewriter, call.args[1])
    if weights is not None and weights.data.ndim == 2:
        return _product_with_weights(rewriter, call, a, weights, scaled)
    b = integer_values.operand(rewriter, call.args[1], scaled=scaled, signed=True)
    if b is None or not b.is_scalar():
        return None
    return _product_of_values(rewriter, call, a, b)


def _product_with_weights(
    rewriter: Rewriter, call: Call, a: Quantised, weights: _Weights, scaled: bool
) -> GraphExpr | None:
    matrix, scale = weights.data, weights.scale
    if scaled != (scale is not None):
        return None
    if call.attrs["transpose_b"]:
        matrix = matrix.T
        scale = scale.T if scale is not None and scale.ndim == 2 else scale
    if scale is not None and scale.size > 1 and scale.reshape(-1).shape != matrix.shape[1:]:
        return None
    if scale is not None and scale.ndim == 2 and scale.shape[0] != 1:
        return None
    total: GraphExpr | None = None
    for factor, part in _halves(matrix):
        packed = Constant(np.ascontiguousarray(part))
        product = rewriter.emit(op.matmul(a.value, packed, out_dtype="int32"), name="products")
        if factor != 1:
            product = rewriter.emit(op.mul(product, _int32(np.array(factor))))
        total = product if total is None else rewriter.emit(op.add(total, product))
    assert total is not None
    sums = _int32(matrix.sum(axis=0, dtype=np.int64))
    total = _minus(rewriter, total, a.zero, sums)
    if scale is None:
        return total
    factors = Constant(scale.reshape(-1).astype(np.float32))
    return op.dequantize(total, _emit(rewriter, op.mul(a.scale_value(), factors)))


def _minus(rewriter: Rewriter, total: GraphExpr, zero: GraphExpr, sums: GraphExpr) -> GraphExpr:
    """total - zero * sums"""
    if scalar_value(zero) == 0:
        return total
    wide = _emit(rewriter, op.cast(zero, dtype="int32"))
    term = _emit(rewriter, op.mul(sums, wide))
    if isinstance(term, Constant):
        return rewriter.emit(op.add(total, _int32(-term.data)), name="accumulator")
    return rewriter.emit(op.sub(total, term), name="accumulator")


def _product_of_values(
    rewriter: Rewriter, call: Call, a: Quantised, b: Quantised
) -> GraphExpr | None:
    """ab - za * sum(b) - zb * (sum(a) - K * za), sums over the reduced axis."""
    transposed = bool(call.attrs["transpose_b"])
    attrs = {"transpose_b": transposed, "out_dtype": "int32"}
    total = rewriter.emit(op.matmul(a.value, b.value, **attrs), name="products")
    if scalar_value(a.zero) != 0:
        wide = rewriter.emit(op.cast(b.value, dtype="int32"))
        columns = rewriter.emit(op.sum(wide, axes=(-1 if transposed else -2,), keepdims=True))
        if transposed:
            order = (*range(len(shape_of(columns)) - 2), -1, -2)
            order = tuple(axis % len(order) for axis in order)
            columns = rewriter.emit(op.transpose(columns, permutation=order))
        total = _minus(rewriter, total, a.zero, columns)
    if scalar_value(b.zero) != 0:
        wide = rewriter.emit(op.cast(a.value, dtype="int32"))
        zero = _emit(rewriter, op.cast(a.zero, dtype="int32"))
        centred = wide if scalar_value(zero) == 0 else rewriter.emit(op.sub(wide, zero))
        rows = rewriter.emit(op.sum(centred, axes=(-1,), keepdims=True))
        total = _minus(rewriter, total, b.zero, rows)
    if a.scale is None or b.scale is None:
        return total
    return op.dequantize(total, _emit(rewriter, op.mul(a.scale, b.scale)))


@RULES.add("add")
def bias_of_product(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """dequantize(acc, s) + dequantize(b, s), b constant  ->  dequantize(acc + b, s)"""
    for at in (0, 1):
        product = rewriter.defining_call(call.args[at], "dequantize")
        kind = None if product is None else tensor_type(product.args[0])
        if product is None or kind is None or kind.dtype.name != "int32" or len(product.args) > 2:
            continue
        scale = _constant(product.args[1])
        bias = call.args[1 - at]
        dims = shape_of(bias)
        if scale is None or isinstance(product.args[0], Constant) or len(dims) != 1:
            continue
        exact = _integer_bias(rewriter, bias, scale.reshape(-1))
        if exact is None:
            continue
        total = rewriter.emit(op.add(product.args[0], _int32(exact)), name="accumulator")
        return op.dequantize(total, product.args[1])
    return None
