# SPDX-License-Identifier: Apache-2.0
"""Rules for quantised values on their way from one operator to the next.

f(dequantize(q, s, z))             ->  dequantize(f(q), s, z)       f moves data, or takes maxima
quantize(dequantize(q, s, z), s, z)  ->  q
quantize(dequantize(acc, s), sy, zy)  ->  requantize(acc, s / sy, zy)
quantize(relu(x), s, z)            ->  maximum(quantize(x, s, z), z)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from heddle import op
from heddle.graph.nodes import Call, Constant, GraphExpr
from heddle.ir.dtype import DType
from heddle.ir.expr import as_int
from heddle.passes.graph.anf import Rewriter, op_name, scalar_value, shape_of, tensor_type
from heddle.passes.graph.rule_table import RuleTable

RULES: Final = RuleTable()
MOVING: Final = (
    *("reshape", "transpose", "slice", "max_pool", "broadcast_to", "gather", "layout_transform"),
    *("squeeze", "unsqueeze", "flatten", "tile", "depth_to_space", "space_to_depth"),
)
"""Operators whose results are elements of their first argument (of a window of it, the largest)."""

_SIGNED, _UNSIGNED = DType.of("int8"), DType.of("uint8")


@dataclass(frozen=True, slots=True)
class Quantised:
    """Bytes that stand for (value - zero) * scale; scale is None where nothing is scaled."""

    value: GraphExpr
    scale: GraphExpr | None
    zero: GraphExpr

    def is_scalar(self) -> bool:
        """Whether one scale and one zero point hold for all elements."""
        parts = [self.zero] if self.scale is None else [self.zero, self.scale]
        return all(all(as_int(dim) == 1 for dim in shape_of(part)) for part in parts)

    def scale_value(self) -> GraphExpr:
        """The scale, which must be there."""
        assert self.scale is not None
        return self.scale


def _emit(rewriter: Rewriter, value: GraphExpr) -> GraphExpr:
    return rewriter.emit(rewriter.simplify(value))


def operand(
    rewriter: Rewriter, value: GraphExpr, *, scaled: bool, signed: bool
) -> Quantised | None:
    """`value`, a dequantised value (scaled) or int32 made of bytes, as bytes of the wanted sign."""
    if scaled:
        found = rewriter.defining_call(value, "dequantize", single_use=False)
        if found is None:
            return None
        data, scale = found.args[:2]
        zero = found.args[2] if len(found.args) > 2 else None
    else:
        split = _wide(rewriter, value)
        if split is None:
            return None
        data, zero = split
        scale = None
    kind = tensor_type(data)
    if kind is None or kind.dtype not in (_SIGNED, _UNSIGNED):
        return None
    point = Constant(np.zeros((), np.int32)) if zero is None else zero
    return _with_sign(rewriter, data, scale, point, signed)


def _wide(rewriter: Rewriter, value: GraphExpr) -> tuple[GraphExpr, GraphExpr | None] | None:
    """(q, zero) where `value` is int32(q) - int32(zero), or int32(q)."""
    outer = rewriter.definition(value)
    if not isinstance(outer, Call):
        return None
    if op_name(outer) == "cast":
        return outer.args[0], None
    if op_name(outer) != "sub":
        return None
    inner = rewriter.defining_call(outer.args[0], "cast", single_use=False)
    if inner is None or any(as_int(dim) != 1 for dim in shape_of(outer.args[1])):
        return None
    return inner.args[0], outer.args[1]


def _with_sign(
    rewriter: Rewriter, data: GraphExpr, scale: GraphExpr | None, zero: GraphExpr, signed: bool
) -> Quantised:
    kind = tensor_type(data)
    assert kind is not None
    if (kind.dtype is _SIGNED) == signed:
        return Quantised(data, scale, zero)
    move = -128 if signed else 128
    wide = _emit(rewriter, op.cast(zero, dtype="int32"))
    point = _emit(rewriter, op.add(wide, Constant(np.array(move, np.int32))))
    return Quantised(_turned(rewriter, data, move), scale, point)


def _turned(rewriter: Rewriter, data: GraphExpr, move: int) -> GraphExpr:
    """Bytes of the other sign: `data + move`. What made them makes the others at no cost."""
    target = _SIGNED if move < 0 else _UNSIGNED
    found = rewriter.definition(data)
    known = rewriter.notes.get(data)
    if known is not None:
        return known
    made: GraphExpr | None = None
    name = op_name(found)
    if isinstance(found, Call) and name in ("quantize", "requantize"):
        zero = _turned_zero(found.args[2] if len(found.args) > 2 else None, move, target)
        if zero is not None:
            made = found.callee(*found.args[:2], zero, dtype=target)
    elif isinstance(found, Call) and name in MOVING:
        inner = _turned(rewriter, found.args[0], move)
        attrs = {key: value for key, value in found.attrs.items() if key != "absent"}
        made = found.callee(inner, *found.args[1:], **attrs)
    elif isinstance(found, Call) and name in ("maximum", "minimum"):
        bound = _turned_zero(found.args[1], move, target)
        if bound is not None:
            made = found.callee(_turned(rewriter, found.args[0], move), bound)
    if made is None:
        wide = rewriter.emit(op.cast(data, dtype="int32"))
        moved = rewriter.emit(op.add(wide, Constant(np.array(move, np.int32))))
        made = op.cast(moved, dtype=target)
    turned = rewriter.emit(made, name=getattr(data, "name", ""))
    rewriter.notes[data] = turned
    rewriter.notes[turned] = data
    return turned


def _turned_zero(zero: GraphExpr | None, move: int, target: DType) -> Constant | None:
    if zero is None:
        return None if move < 0 else Constant(np.array(move).astype(target.numpy))
    if not isinstance(zero, Constant):
        return None
    return Constant((zero.data.astype(np.int32) + move).astype(target.numpy))


def _parts(call: Call) -> tuple[GraphExpr, GraphExpr, GraphExpr | None]:
    """(value, scale, zero) of a dequantize, quantize or requantize."""
    return call.args[0], call.args[1], call.args[2] if len(call.args) > 2 else None


def _bytes_behind(rewriter: Rewriter, value: GraphExpr) -> Call | None:
    """The `dequantize` of bytes with one scale and zero point for all that `value` is."""
    found = rewriter.defining_call(value, "dequantize", single_use=False)
    if found is None or not isinstance(found.type, type(tensor_type(found))):
        return None
    kind = tensor_type(found.args[0])
    if kind is None or kind.dtype.bits != 8 or isinstance(found.args[0], Constant):
        return None
    constant = all(isinstance(part, Constant) and part.data.size == 1 for part in found.args[1:])
    return found if constant else None


# -- rules ----------------------------------------------------------------------------------------


@RULES.add("dequantize")
def unsigned(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """dequantize(q, s, z) of int8  ->  of uint8, with z + 128"""
    q, scale, zero = _parts(call)
    kind = tensor_type(q)
    if kind is None or kind.dtype is not _SIGNED or isinstance(q, Constant):
        return None
    point = _turned_zero(zero, 128, _UNSIGNED)
    if point is None or rewriter.definition(q) is None:
        return None
    return op.dequantize(_turned(rewriter, q, 128), scale, point)


@RULES.add(*MOVING)
def movement(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """f(dequantize(q))  ->  dequantize(f(q)) for f that moves data"""
    found = _bytes_behind(rewriter, call.args[0])
    if found is None or not np.all(_data(found.args[1]) > 0):
        return None
    attrs = {key: value for key, value in call.attrs.items() if key != "absent"}
    moved = call.callee(found.args[0], *call.args[1:], **attrs)
    return op.dequantize(_emit(rewriter, moved), *_flat(found.args[1:]))


def _data(value: GraphExpr) -> Any:
    assert isinstance(value, Constant)
    return value.data


def _flat(parts: tuple[GraphExpr, ...]) -> list[GraphExpr]:
    """Constants of one element as scalars."""
    return [Constant(part.data.reshape(())) for part in parts if isinstance(part, Constant)]


@RULES.add("concat")
def concatenation(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """concat(dequantize(p), dequantize(q)), quantised alike  ->  dequantize(concat(p, q))"""
    found = [_bytes_behind(rewriter, item) for item in call.args]
    first = found[0]
    if first is None:
        return None
    for other in found[1:]:
        if other is None or not _alike(first.args[1:], other.args[1:]):
            return None
    values = [item.args[0] for item in found if item is not None]
    if len({str(tensor_type(value).dtype) for value in values}) > 1:  # type: ignore[union-attr]
        return None
    joined = _emit(rewriter, op.concat(*values, axis=call.attrs["axis"]))
    return op.dequantize(joined, *_flat(first.args[1:]))


def _alike(left: tuple[GraphExpr, ...], right: tuple[GraphExpr, ...]) -> bool:
    if len(left) != len(right):
        return False
    pairs = zip(left, right, strict=True)
    return all(
        a is b
        or (
            isinstance(a, Constant)
            and isinstance(b, Constant)
            and np.array_equal(a.data.reshape(-1), b.data.reshape(-1))
        )
        for a, b in pairs
    )


@RULES.add("quantize")
def quantised_again(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """quantize(dequantize(q, s, z), s, z)  ->  q;  of an accumulator  ->  requantize"""
    x, scale, zero = _parts(call)
    found = rewriter.defining_call(x, "dequantize", single_use=False)
    if found is None:
        return None
    q, own_scale, own_zero = _parts(found)
    kind, wanted = tensor_type(q), tensor_type(call)
    if kind is None or wanted is None:
        return None
    if kind.dtype is wanted.dtype:
        same = own_zero is zero or (
            own_zero is not None and zero is not None and _alike((own_zero,), (zero,))
        )
        return q if same and _alike((own_scale,), (scale,)) else None
    signs = {kind.dtype, wanted.dtype} == {_SIGNED, _UNSIGNED}
    if signs and _alike((own_scale,), (scale,)) and isinstance(zero, Constant):
        move = 128 if wanted.dtype is _UNSIGNED else -128
        own = 0 if own_zero is None else _data(own_zero).astype(np.int32)
        if np.array_equal(np.ravel(own + move), zero.data.astype(np.int32).ravel()):
            return _turned(rewriter, q, move)
    if kind.dtype.name != "int32" or own_zero is not None or wanted.dtype.bits > 8:
        return None
    ratio = _emit(rewriter, op.div(own_scale, scale))
    return op.requantize(q, ratio, zero, dtype=wanted.dtype)


@RULES.add("quantize")
def quantised_bound(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """quantize(relu(x))  ->  maximum(quantize(x), quantize(0)), and the same for clip"""
    x, scale, zero = _parts(call)
    wanted = tensor_type(call)
    if wanted is None or not all(isinstance(part, Constant) for part in call.args[1:]):
        return None
    if any(_data(part).size != 1 for part in call.args[1:]):
        return None
    bounds = None
    for name, limits in (("relu", ("", "")), ("clip", ("min", "max"))):
        found = rewriter.defining_call(x, name)
        if found is None:
            continue
        low: Any = 0.0 if name == "relu" else found.attrs[limits[0]]
        high: Any = None if name == "relu" else found.attrs[limits[1]]
        bounds = (found.args[0], low, high)
    if bounds is None:
        return None
    value, low, high = bounds
    made = _emit(rewriter, op.quantize(value, scale, zero, dtype=wanted.dtype))
    for limit, name in ((low, "maximum"), (high, "minimum")):
        if limit is None or math.isinf(limit):
            continue
        arrays = [
            np.float32(limit).reshape(()),
            *(_data(part).reshape(()) for part in call.args[1:]),
        ]
        bound = op.get("quantize").evaluate(arrays, {"dtype": wanted.dtype})
        edge = wanted.dtype.min_value if name == "maximum" else wanted.dtype.max_value
        if int(bound) != edge:  # type: ignore[arg-type]
            made = rewriter.emit(op.get(name)(made, Constant(np.asarray(bound))))
    return made


@RULES.add("quantize")
def quantised_mean(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """quantize(mean(dequantize(q)))  ->  requantize(sum(q) - count * zero)"""
    x, scale, zero = _parts(call)
    mean = rewriter.defining_call(x, "mean")
    found = None if mean is None else _bytes_behind(rewriter, mean.args[0])
    if mean is None or found is None:
        return None
    q, own_scale, own_zero = _parts(found)
    axes: Any = mean.attrs["axes"]
    dims = shape_of(q)
    sizes = [as_int(dims[axis]) for axis in (axes if axes is not None else range(len(dims)))]
    if any(size is None for size in sizes) or not isinstance(scale, Constant):
        return None
    count = math.prod(size for size in sizes if size is not None)
    if count == 0 or count > 1 << 20:
        return None
    wide = rewriter.emit(op.cast(q, dtype="int32"))
    attrs = {key: value for key, value in mean.attrs.items() if key != "absent"}
    total = rewriter.emit(op.sum(wide, **attrs))
    offset = 0 if own_zero is None else int(scalar_value(own_zero) or 0)
    if offset:
        total = rewriter.emit(op.add(total, Constant(np.array(-count * offset, np.int32))))
    ratio = Constant(np.asarray(_data(own_scale).reshape(()) / (scale.data * np.float32(count))))
    wanted = tensor_type(call)
    assert wanted is not None
    return op.requantize(total, ratio, zero, dtype=wanted.dtype)
