# SPDX-License-Identifier: Apache-2.0
"""Recognise attention that exporters spell out.

    a = matmul(q, transpose(k))
    b = softmax(a * scale + mask)     ->     c = attention(q, k, v, mask, scale=scale)
    c = matmul(b, v)

The scale may stand before or after the first product, as factor or divisor; masks may be added or
chosen by `where`; transposes from and to heads become layouts of the operands, and an expansion of
the heads of keys and values disappears.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from heddle import op
from heddle.graph.dims import same_dim, same_shape
from heddle.graph.nodes import Call, Constant, GraphExpr
from heddle.ir.expr import Expr, as_expr, as_int
from heddle.passes.graph.anf import (
    Rewriter,
    dims_attribute,
    op_name,
    scalar_value,
    shape_of,
    tensor_type,
)
from heddle.passes.graph.rule_table import RuleTable
from heddle.support import UserError

RULES: Final = RuleTable()

_HIDDEN: Final = -1e38
"""A float32 score that this is added to is lost in its rounding, and its weight is zero."""


@dataclass(frozen=True, slots=True)
class _Operand:
    """A value whose axes are `layout` (N, H, S, D), to be multiplied by `factor`."""

    value: GraphExpr
    layout: str
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class _Scores:
    """scale * left right + mask: the product and what happens to it before the softmax."""

    product: Call
    scale: float = 1.0
    mask: GraphExpr | None = None


@RULES.add("matmul")
def attention(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """matmul(softmax(matmul(q, k^T) * scale + mask), v)  ->  attention(q, k, v, mask)"""
    softmax = rewriter.defining_call(call.args[0], "softmax")
    kind = tensor_type(call)
    if softmax is None or kind is None or not _plain_product(call) or kind.ndim not in (3, 4):
        return None
    if softmax.attrs["axis"] not in (-1, kind.ndim - 1) or call.attrs["transpose_a"]:
        return None
    found = _scores(rewriter, softmax.args[0])
    if found is None or found.product.attrs["transpose_a"]:
        return None
    if any(tensor_type(item).ndim != kind.ndim for item in (*found.product.args, *call.args)):  # type: ignore[union-attr]
        return None
    left, right = found.product.args
    q = _operand(rewriter, left, "NHSD")
    k = _operand(rewriter, right, "NHSD" if found.product.attrs["transpose_b"] else "NHDS")
    v = _operand(rewriter, call.args[1], "NHDS" if call.attrs["transpose_b"] else "NHSD")
    if v.factor != 1.0:
        return None
    found = replace(found, scale=found.scale * q.factor * k.factor)
    try:
        made = _call(rewriter, found, q, k, v)
    except UserError:
        return None  # a product broadcasts where attention does not
    if same_shape(shape_of(made), kind.shape):
        return made
    return op.reshape(rewriter.emit(made, name="attention"), shape=dims_attribute(kind.shape))


@RULES.add("transpose")
def attention_layout(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """transpose(attention(...))  ->  attention(...) that writes the other layout"""
    made = rewriter.defining_call(call.args[0], "attention")
    if made is None:
        return None
    layout = "".join(str(made.attrs["out_layout"])[axis] for axis in _permutation(call))
    if not layout.endswith("D"):
        return None
    attrs: dict[str, Any] = {**made.attrs, "out_layout": layout}
    return op.attention(*made.args, **attrs)


@RULES.add("attention")
def attention_operands(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """attention(transpose(q), k, v)  ->  attention(q, k, v) that reads the other layout"""
    names = ("q", "k", "v")
    layouts = [str(call.attrs[f"{name}_layout"]) for name in names]
    q, k, v = (
        _operand(rewriter, value, layout)
        for value, layout in zip(call.args[:3], layouts, strict=True)
    )
    if v.factor != 1.0:
        return None
    attrs = {**call.attrs, "scale": call.attrs["scale"] * q.factor * k.factor}  # type: ignore[operator]
    attrs.update({f"{name}_layout": x.layout for name, x in zip(names, (q, k, v), strict=True)})
    mask = given = call.args[3] if len(call.args) > 3 else None
    if mask is not None and not attrs["partial"] and attrs["mask_layout"] == "NHST":
        mask, attrs["causal"], attrs["mask_layout"] = _read_mask(rewriter, mask, call)
    if not attrs["partial"]:
        k, v, mask, attrs["partial"] = _filled_part(rewriter, k, v, mask, attrs)
    same = all(x.value is before for x, before in zip((q, k, v), call.args, strict=False))
    if same and mask is given and attrs == dict(call.attrs):
        return None
    return op.attention(q.value, k.value, v.value, mask, **attrs)


def _filled_part(
    rewriter: Rewriter, k: _Operand, v: _Operand, mask: GraphExpr | None, attrs: dict[str, Any]
) -> tuple[_Operand, _Operand, GraphExpr | None, bool]:
    """attention(prefix(k), prefix(v), mask)  ->  attention(k, v, mask, partial), which reads the
    filled part of a cache where it lies. A mask that does not tell how many keys there are gets
    their number, and so does one that is not there."""
    parts = [_first_rows(rewriter, x.value, x.layout) for x in (k, v)]
    if parts[0] is None or parts[1] is None or attrs["causal"]:
        return k, v, mask, False
    count = shape_of(k.value)[k.layout.index("S")]
    axis = str(attrs["mask_layout"]).index("T")
    if mask is None or as_int(shape_of(mask)[axis]) == 1:
        shape = [1, 1, 1, 1] if mask is None else list(dims_attribute(shape_of(mask)))
        shape[axis] = dims_attribute([count])[0]  # type: ignore[call-overload]
        if mask is None:
            mask = rewriter.emit(op.full(shape=tuple(shape), value=True, dtype="bool"), name="keys")
        else:
            mask = rewriter.emit(op.broadcast_to(mask, shape=tuple(shape)), name="mask")
    return replace(k, value=parts[0]), replace(v, value=parts[1]), mask, True


def _first_rows(rewriter: Rewriter, value: GraphExpr, layout: str) -> GraphExpr | None:
    """x, where a value is the first rows of x along the axis of keys: how many is known at run time
    only (a constant number is left to be cut)."""
    call = rewriter.definition(value)
    if not isinstance(call, Call) or op_name(call) not in ("prefix", "slice"):
        return None
    if op_name(call) == "slice":
        starts, steps = call.attrs["starts"], call.attrs["steps"]
        if any(as_int(as_expr(start)) != 0 for start in starts) or any(s != 1 for s in steps):  # type: ignore[attr-defined]
            return None
    axis = layout.index("S")
    pairs = list(zip(shape_of(call), shape_of(call.args[0]), strict=True))
    cut = [at for at, (dim, whole) in enumerate(pairs) if not same_dim(dim, whole)]
    return call.args[0] if cut == [axis] and as_int(pairs[axis][0]) is None else None


def _read_mask(
    rewriter: Rewriter, mask: GraphExpr, call: Call
) -> tuple[GraphExpr | None, bool, str]:
    """The mask of an attention, whether the call is causal, and the layout of the mask."""
    causal = bool(call.attrs["causal"])
    queries, keys = (
        shape_of(call.args[at])[str(call.attrs[f"{name}_layout"]).index("S")]
        for at, name in enumerate("qk")
    )
    if isinstance(mask, Constant) and mask.data.dtype == bool and mask.data.all():
        return None, causal, "NHST"
    if not causal and isinstance(mask, Constant) and _is_causal(mask.data, (queries, keys)):
        return None, True, "NHST"
    if any(as_int(dim) == 1 for dim in shape_of(mask)[2:]):
        return mask, causal, "NHST"
    turned = rewriter.simplify(op.transpose(mask, permutation=(0, 1, 3, 2)))
    return rewriter.emit(turned, name="mask"), causal, "NHTS"


@RULES.add("where")
def always(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """where(True, a, b)  ->  a"""
    condition, chosen, _ = call.args
    if not isinstance(condition, Constant) or not condition.data.all():
        return None
    kind = tensor_type(call)
    if kind is None or not same_shape(shape_of(chosen), kind.shape):
        return None
    return chosen


@RULES.add("transpose")
def transposed_choice(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    """transpose(where(c, attention(...), 0))  ->  where(transpose(c), transpose(attention), 0)"""
    made = rewriter.defining_call(call.args[0], "where")
    if made is None or rewriter.defining_call(made.args[1], "attention") is None:
        return None
    condition, chosen, other = made.args
    order = _permutation(call)
    if len(shape_of(condition)) != len(order) or len(shape_of(other)) != 0:
        return None
    turned = rewriter.simplify(op.transpose(condition, permutation=order))
    moved = rewriter.simplify(op.transpose(chosen, permutation=order))
    return op.where(
        rewriter.emit(turned, name="kept"), rewriter.emit(moved, name="attention"), other
    )


def _permutation(call: Call) -> tuple[int, ...]:
    return call.attrs["permutation"]  # type: ignore[return-value]


def _plain_product(call: Call) -> bool:
    kind = tensor_type(call)
    return call.attrs.get("out_dtype") is None and kind is not None and kind.dtype.is_float


# -- scores ---------------------------------------------------------------------------------------


def _scores(rewriter: Rewriter, value: GraphExpr) -> _Scores | None:
    """What the softmax is of, if it is a scaled and masked product that nothing else uses."""
    call = rewriter.definition(value)
    if not isinstance(call, Call) or rewriter.counts[value] != 1:  # type: ignore[index]
        return None
    name = op_name(call)
    if name == "matmul":
        return _Scores(call) if _plain_product(call) else None
    handler = {"mul": _scaled, "div": _scaled, "add": _added, "where": _chosen}.get(name)
    return None if handler is None else handler(rewriter, call)


def _scaled(rewriter: Rewriter, call: Call) -> _Scores | None:
    factor, rest = _factor(call)
    found = None if rest is None else _scores(rewriter, rest)
    if found is None or found.mask is not None:
        return None
    return replace(found, scale=found.scale * factor)


def _factor(call: Call) -> tuple[float, GraphExpr | None]:
    """(c, x) where the call is x * c or x / c by a scalar constant."""
    number = scalar_value(call.args[1])
    if op_name(call) == "div":
        return (1.0 / float(number), call.args[0]) if number else (1.0, None)
    if number is not None:
        return float(number), call.args[0]
    number = scalar_value(call.args[0])
    return (1.0, None) if number is None else (float(number), call.args[1])


def _added(rewriter: Rewriter, call: Call) -> _Scores | None:
    for at in (0, 1):
        found, mask = _scores(rewriter, call.args[at]), call.args[1 - at]
        if found is None or not _same_size(call.args[at], call):
            continue
        if found.mask is None:
            return replace(found, mask=mask)
        if tensor_type(found.mask).dtype.is_float:  # type: ignore[union-attr]
            return replace(found, mask=rewriter.emit(op.add(found.mask, mask), name="mask"))
    return None


def _chosen(rewriter: Rewriter, call: Call) -> _Scores | None:
    condition = call.args[0]
    for at in (1, 2):
        hidden = scalar_value(call.args[3 - at])
        found = _scores(rewriter, call.args[at])
        if found is None or found.mask is not None or hidden is None or hidden > _HIDDEN:
            continue
        if not _same_size(call.args[at], call):
            continue
        kept = condition if at == 1 else rewriter.emit(op.logical_not(condition), name="kept")
        if hidden == -np.inf:
            return replace(found, mask=kept)
        dtype = tensor_type(call).dtype.numpy  # type: ignore[union-attr]
        chosen = op.where(kept, Constant(np.zeros((), dtype)), Constant(np.asarray(hidden, dtype)))
        return replace(found, mask=rewriter.emit(chosen, name="mask"))
    return None


def _same_size(value: GraphExpr, whole: GraphExpr) -> bool:
    """Whether a mask does not make the scores larger."""
    return same_shape(shape_of(value), shape_of(whole))


# -- operands -------------------------------------------------------------------------------------


def _operand(rewriter: Rewriter, value: GraphExpr, layout: str) -> _Operand:
    """The value that `value` is a transposed, scaled or expanded form of."""
    factor = 1.0
    kind = tensor_type(value)
    if kind is not None and kind.ndim == 3:
        layout = layout.replace("H", "")
    while True:
        call = rewriter.definition(value)
        if not isinstance(call, Call):
            break
        if op_name(call) == "transpose":
            letters = dict(zip(_permutation(call), layout, strict=True))
            value, layout = call.args[0], "".join(letters[axis] for axis in range(len(layout)))
            continue
        source = _unexpanded(rewriter, call, layout)
        if source is None and op_name(call) in ("mul", "div"):
            number, source = _factor(call)
            if source is None or not _same_size(source, call):
                break
            factor *= number
        if source is None:
            break
        value = source
    if len(layout) == 3:
        shape = (*dims_attribute(shape_of(value)), 1)
        return _Operand(rewriter.emit(op.reshape(value, shape=shape)), layout + "H", factor)
    return _Operand(value, layout, factor)


def _unexpanded(rewriter: Rewriter, call: Call, layout: str) -> GraphExpr | None:
    """The keys or values with fewer heads of which `call` repeats each head in place."""
    if op_name(call) != "reshape" or len(layout) != 4 or layout.startswith("H"):
        return None
    wide = rewriter.definition(call.args[0])
    heads = layout.index("H")
    if not isinstance(wide, Call) or op_name(wide) != "broadcast_to":
        return None
    narrow, dims = shape_of(wide.args[0]), shape_of(wide)
    if len(dims) != 5 or len(narrow) != 5 or as_int(narrow[heads + 1]) != 1:
        return None
    kept = (*dims[: heads + 1], *dims[heads + 2 :])
    if not same_shape((*narrow[: heads + 1], *narrow[heads + 2 :]), kept):
        return None
    merged = (*dims[:heads], dims[heads] * dims[heads + 1], *dims[heads + 2 :])
    if not same_shape(merged, shape_of(call)):
        return None
    inner = rewriter.definition(wide.args[0])
    if isinstance(inner, Call) and op_name(inner) in ("reshape", "unsqueeze"):
        if same_shape(shape_of(inner.args[0]), kept):
            return inner.args[0]
    return rewriter.emit(op.reshape(wide.args[0], shape=dims_attribute(kept)), name="heads")


# -- the call -------------------------------------------------------------------------------------


def _call(rewriter: Rewriter, found: _Scores, q: _Operand, k: _Operand, v: _Operand) -> Call:
    mask, causal, mask_layout = found.mask, False, "NHST"
    if mask is not None:
        mask, causal = _plain_mask(rewriter, mask, found.product)
    if mask is not None and all(as_int(dim) != 1 for dim in shape_of(mask)[2:]):
        # Scores are computed with the keys first; one transposed mask serves all heads and layers.
        turned = rewriter.simplify(op.transpose(mask, permutation=(0, 1, 3, 2)))
        mask, mask_layout = rewriter.emit(turned, name="mask"), "NHTS"
    made: Call = op.attention(
        *(q.value, k.value, v.value, mask),
        scale=found.scale,
        causal=causal,
        q_layout=q.layout,
        k_layout=k.layout,
        v_layout=v.layout,
        mask_layout=mask_layout,
    )
    return made


def _plain_mask(rewriter: Rewriter, mask: GraphExpr, scores: Call) -> tuple[GraphExpr | None, bool]:
    """The mask with four axes, None where it masks nothing or only what `causal` does; and that."""
    if isinstance(mask, Constant):
        if mask.data.dtype != bool and not mask.data.any():
            return None, False
        if _is_causal(mask.data, shape_of(scores)):
            return None, True
    shape: list[int | Expr] = list(dims_attribute(shape_of(mask)))
    if len(shape) == 4:
        return mask, False
    if len(shape_of(scores)) == 3 and len(shape) == 3:
        shape.insert(1, 1)  # [N, S, T]: there is no axis of heads
    shape = [*[1] * (4 - len(shape)), *shape]
    reshaped = rewriter.simplify(op.reshape(mask, shape=tuple(shape)))
    return rewriter.emit(reshaped, name="mask"), False


def _is_causal(data: np.ndarray, scores: tuple[Expr, ...]) -> bool:
    """Whether a constant mask keeps, unchanged, what `causal` keeps, and hides all else."""
    if data.ndim < 2 or data.size != data.shape[-1] * data.shape[-2]:
        return False
    rows, columns = data.shape[-2:]
    if (as_int(scores[-2]), as_int(scores[-1])) != (rows, columns) or rows > columns:
        return False
    kept = np.tril(np.ones((rows, columns), bool), columns - rows)
    matrix = data.reshape(rows, columns)
    if matrix.dtype == bool:
        return bool((matrix == kept).all())
    return bool((matrix[kept] == 0).all() and (matrix[~kept] <= _HIDDEN).all())
