# SPDX-License-Identifier: Apache-2.0
"""Fold what surrounds convolutions and matrix products into their weights.

Constants are combined in float64 and rounded to the weights' dtype once.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from heddle import op
from heddle.graph.nodes import Call, Constant, GraphExpr
from heddle.ir.expr import as_int
from heddle.passes.graph.anf import (
    Rewriter,
    dims_attribute,
    op_name,
    scalar_value,
    shape_of,
    static_shape,
    tensor_type,
    value_name,
)
from heddle.passes.graph.rule_table import RuleTable

RULES: Final = RuleTable()
_CONVOLUTIONS: Final = ("conv", "conv_transpose")


def _wide(constant: Constant) -> np.ndarray:
    return constant.data.astype(np.float64)


def _like(value: np.ndarray, constant: Constant) -> Constant:
    return Constant(np.ascontiguousarray(value.astype(constant.data.dtype)))


def _plain_attrs(call: Call) -> dict[str, Any]:
    return {name: value for name, value in call.attrs.items() if name != "absent"}


@RULES.add("batch_norm")
def batch_norm(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """batch_norm(x, ...)  ->  x * scale' + shift', which conv then takes into its weights"""
    x, *parameters = call.args
    kind = tensor_type(x)
    if kind is None or not all(isinstance(item, Constant) for item in parameters):
        return None
    scale, bias, mean, variance = (_wide(item) for item in parameters if isinstance(item, Constant))
    epsilon = call.attrs["epsilon"]
    assert isinstance(epsilon, float)
    factor = scale / np.sqrt(variance + epsilon)
    shift = bias - mean * factor
    shape = (-1, *(1,) * (kind.ndim - 2))
    like = parameters[0]
    assert isinstance(like, Constant)
    product = rewriter.simplify(op.mul(x, _like(factor.reshape(shape), like)))
    return op.add(rewriter.emit(product, name=value_name(x)), _like(shift.reshape(shape), like))


def _per_channel(value: GraphExpr, channels: int, ndim: int) -> np.ndarray | None:
    """A constant that differs along axis 1 of `ndim` axes only, as float64[channels]."""
    if not isinstance(value, Constant) or value.data.ndim > ndim:
        return None
    shape = (1,) * (ndim - value.data.ndim) + value.data.shape
    if any(size != 1 for axis, size in enumerate(shape) if axis != 1) or ndim < 2:
        return None
    if shape[1] not in (1, channels):
        return None
    return np.broadcast_to(_wide(value).reshape(-1), (channels,))


def _operands(call: Call) -> list[tuple[GraphExpr, GraphExpr]]:
    a, b = call.args
    return [(a, b), (b, a)]


def _convolution(rewriter: Rewriter, value: GraphExpr) -> tuple[Call, Constant] | None:
    """The float convolution that only `value`'s user reads, and its constant weights."""
    for name in _CONVOLUTIONS:
        found = rewriter.defining_call(value, name)
        if found is None or found.attrs.get("out_dtype") is not None:
            continue
        weight = found.args[1]
        if not isinstance(weight, Constant) or weight.data.dtype.kind != "f":
            return None
        bias = found.args[2] if len(found.args) > 2 else None
        return (found, weight) if bias is None or isinstance(bias, Constant) else None
    return None


def _channels(call: Call) -> int | None:
    shape = static_shape(call)
    if shape is not None:
        return shape[1]
    kind = tensor_type(call)
    return None if kind is None else getattr(kind.shape[1], "value", None)


@RULES.add("mul")
def convolution_scale(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """conv(x, w, b) * s[channel]  ->  conv(x, w * s, b * s)"""
    for value, factor in _operands(call):
        found = _convolution(rewriter, value)
        channels = None if found is None else _channels(found[0])
        if found is None or channels is None:
            continue
        conv, weight = found
        scale = _per_channel(factor, channels, len(weight.data.shape))
        if scale is None:
            continue
        ones = (1,) * (weight.data.ndim - 2)
        if op_name(conv) == "conv":
            scaled = _wide(weight) * scale.reshape(-1, 1, *ones)
        elif conv.attrs["groups"] == 1:
            scaled = _wide(weight) * scale.reshape(1, -1, *ones)
        else:
            continue
        args: list[GraphExpr] = [conv.args[0], _like(scaled, weight)]
        if len(conv.args) > 2 and isinstance(conv.args[2], Constant):
            args.append(_like(_wide(conv.args[2]) * scale, weight))
        return conv.callee(*args, **_plain_attrs(conv))  # type: ignore[no-any-return]
    return None


@RULES.add("add")
def convolution_bias(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """conv(x, w, b) + c[channel]  ->  conv(x, w, b + c)"""
    for value, term in _operands(call):
        found = _convolution(rewriter, value)
        channels = None if found is None else _channels(found[0])
        if found is None or channels is None:
            continue
        conv, weight = found
        bias = _per_channel(term, channels, weight.data.ndim)
        if bias is None:
            continue
        if len(conv.args) > 2 and isinstance(conv.args[2], Constant):
            bias = bias + _wide(conv.args[2])
        return conv.callee(  # type: ignore[no-any-return]
            conv.args[0], weight, _like(bias, weight), **_plain_attrs(conv)
        )
    return None


@RULES.add("conv")
def convolution_of_pad(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """conv(pad(x, zeros), w)  ->  conv(x, w) with larger pads"""
    padded = rewriter.defining_call(call.args[0], "pad", single_use=False)
    if padded is None or padded.attrs.get("mode", "constant") != "constant":
        return None
    pads = padded.attrs.get("pads")
    old = call.attrs["pads"]
    if not isinstance(pads, tuple) or not isinstance(old, tuple):
        return None
    if not all(isinstance(item, int) and item >= 0 for item in pads):
        return None
    value = padded.attrs.get("value", 0)
    if len(padded.args) > 1:
        value = scalar_value(padded.args[1])
    rank = len(pads) // 2
    if value != 0 or any(pads[axis] or pads[rank + axis] for axis in (0, 1)):
        return None
    spatial = (*pads[2:rank], *pads[rank + 2 :])
    merged = tuple(a + b for a, b in zip(old, spatial, strict=True))
    attrs = {**_plain_attrs(call), "pads": merged}
    return call.callee(padded.args[0], *call.args[1:], **attrs)  # type: ignore[no-any-return]


# -- matrix products ------------------------------------------------------------------------------


def _columns(weight: Constant, call: Call) -> int:
    return int(weight.data.shape[0 if call.attrs.get("transpose_b") else 1])


def _along_columns(value: GraphExpr, columns: int) -> np.ndarray | None:
    """A constant that differs along the last axis only, as float64[columns]."""
    if not isinstance(value, Constant) or value.data.size != columns or value.data.ndim < 1:
        return None
    if value.data.shape[-1] != columns:
        return None
    return _wide(value).reshape(-1)


@RULES.add("mul")
def product_scale(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """(x @ w) * s[column]  ->  x @ (w * s), and (x @ w + b) * s  ->  x @ (w * s) + b * s"""
    for value, factor in _operands(call):
        total = rewriter.defining_call(value, "add")
        inner, bias = value, None
        if total is not None and isinstance(total.args[1], Constant):
            inner, bias = total.args[0], total.args[1]
        product = rewriter.defining_call(inner, "matmul")
        weight = None if product is None else product.args[1]
        if product is None or not isinstance(weight, Constant) or weight.data.ndim != 2:
            continue
        if weight.data.dtype.kind != "f" or product.attrs.get("out_dtype") is not None:
            continue
        columns = _columns(weight, product)
        scale = _along_columns(factor, columns)
        if scale is None or (kind := tensor_type(call)) is None or kind.ndim < 2:
            continue
        if bias is not None and _along_columns(bias, columns) is None:
            continue
        turned = scale.reshape(-1, 1) if product.attrs.get("transpose_b") else scale
        scaled = op.matmul(
            product.args[0], _like(_wide(weight) * turned, weight), **_plain_attrs(product)
        )
        if bias is None:
            return scaled
        new_bias = _like((_wide(bias).reshape(-1) * scale), weight)
        return op.add(rewriter.emit(scaled, name=value_name(inner)), new_bias)
    return None


@RULES.add("add")
def product_bias(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """(x @ w + b) + c  ->  x @ w + (b + c), b and c one number per column"""
    for value, term in _operands(call):
        total = rewriter.defining_call(value, "add")
        if total is None or not isinstance(total.args[1], Constant):
            continue
        product = rewriter.defining_call(total.args[0], "matmul")
        weight = None if product is None else product.args[1]
        if product is None or not isinstance(weight, Constant) or weight.data.ndim != 2:
            continue
        columns = _columns(weight, product)
        first, second = _along_columns(total.args[1], columns), _along_columns(term, columns)
        if first is None or second is None or weight.data.dtype.kind != "f":
            continue
        return op.add(total.args[0], _like(first + second, weight))
    return None


@RULES.add("reshape")
def product_of_rows(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """reshape(x @ w [+ b]) that keeps the columns  ->  reshape(x) @ w [+ b]

    Work that follows on the reshaped result then joins the kernel of the product.
    """
    total = rewriter.defining_call(call.args[0], "add")
    inner, bias = call.args[0], None
    if total is not None and isinstance(total.args[1], Constant):
        inner, bias = total.args[0], total.args[1]
    product = rewriter.defining_call(inner, "matmul")
    if product is None or product.attrs.get("transpose_a"):
        return None
    x, weight = product.args
    if not isinstance(weight, Constant) or weight.data.ndim != 2 or len(shape_of(x)) < 2:
        return None
    columns = _columns(weight, product)
    leading, last = shape_of(call)[:-1], as_int(shape_of(call)[-1]) if shape_of(call) else None
    if last != columns or not leading:
        return None
    if bias is not None and _along_columns(bias, columns) is None:
        return None
    depth = weight.data.shape[1 if product.attrs.get("transpose_b") else 0]
    rows = rewriter.simplify(op.reshape(x, shape=(*dims_attribute(leading), depth)))
    name = value_name(inner)
    rows = rewriter.emit(rows, name=f"{name}_rows")
    result = op.matmul(rows, weight, **_plain_attrs(product))
    if bias is None:
        return result
    flat = Constant(np.ascontiguousarray(bias.data.reshape(-1)))
    return op.add(rewriter.emit(result, name=name), flat)
