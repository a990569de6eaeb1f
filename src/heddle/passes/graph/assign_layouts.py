# SPDX-License-Identifier: Apache-2.0
"""Give convolutions blocked layouts and matrix products packed weights.

    y = conv(x, w, b)                  t = layout_transform(x, NCHW -> NCHW16c)
    z = relu(y)                ->      u = conv2d_nchwc(t, <w packed>, <b packed>)
    f = reshape(z)                     v = relu(u)
                                       z = layout_transform(v, NCHW16c -> NCHW)
                                       f = reshape(z)

The block is as many channels as a vector register holds floats. What follows a convolution stays
blocked as long as it can: elementwise work, pooling, means over space, concatenation of full
blocks.

A line [N, C, W], what a one-dimensional convolution works on, is an image of height 1.

When the channels do not fill the last block, it is padded with zeros. Padded lanes then hold
whatever the operators make of zeros; that must stay finite (a later convolution multiplies them by
zero weights), so only operators of `FINITE_OPS` keep a padded layout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from heddle import op
from heddle.graph.dims import same_dim, same_shape
from heddle.graph.nodes import Binding, Call, Constant, Function, GraphExpr
from heddle.ir.expr import Expr, as_int
from heddle.ir.module import IRModule
from heddle.ir.types import TensorType
from heddle.op.dot import DOT_DEPTH
from heddle.passes.graph import packing
from heddle.passes.graph.anf import (
    map_functions,
    op_name,
    shape_of,
    tensor_type,
)
from heddle.passes.graph.blocked import (
    NO_DOTS,
    Assignment,
    DotLayouts,
    Handler,
    LayoutOptions,
    PanelWidth,
    image_channels,
    image_shape,
    image_window,
    plain_attrs,
)
from heddle.passes.graph.blocked_convolutions import (
    blocked_convolution,
    blocked_transposed_convolution,
)
from heddle.passes.graph.pixel_convolutions import pixel_convolution
from heddle.schedule.rules.pixel_model import PixelShape
from heddle.target import Target

FINITE_OPS: Final = frozenset(
    {
        *("relu", "clip", "sigmoid", "silu", "hard_swish", "hard_sigmoid", "leaky_relu", "tanh"),
        *("gelu", "identity", "add", "sub", "mul", "minimum", "maximum", "abs", "negative", "erf"),
        *("quantize", "dequantize", "requantize"),
    }
)
"""Elementwise operators that give finite values for finite arguments (short of overflow)."""

_POOLS: Final = {"max_pool": "max_pool2d_nchwc", "avg_pool": "avg_pool2d_nchwc"}
_SPATIAL: Final = (2, 3)


@dataclass(frozen=True, slots=True)
class AssignLayouts(LayoutOptions):
    """The pass."""

    @staticmethod
    def of(
        target: Target,
        *,
        panel_width: PanelWidth | None = None,
        dots: DotLayouts = NO_DOTS,
        takes_across: Callable[[int, int, int], bool] | None = None,
        pixels: Callable[[PixelShape], bool] | None = None,
    ) -> AssignLayouts:
        """The pass for a target: blocks of one float32 vector, panels of four by default, no
        instructions for low precision, dot products of few rows only, and every image in blocks."""
        lanes = target.vector_lanes(32)

        def four_vectors(rows: int | None, columns: int, depth: int) -> int:
            return 4 * lanes

        made = AssignLayouts(lanes, panel_width or four_vectors, dots)
        choices = {"takes_across": takes_across, "pixels": pixels}
        given = {name: choice for name, choice in choices.items() if choice is not None}
        return dataclasses.replace(made, **given)

    def __call__(self, module: IRModule) -> IRModule:
        """Give convolutions blocked layouts and matrix products packed weights."""
        return map_functions(module, self._rewrite)

    def _rewrite(self, function: Function) -> Function:
        return Assignment(function, self).run(_HANDLERS)


def _convolution(work: Assignment, binding: Binding, call: Call) -> bool:
    return pixel_convolution(work, binding, call) or blocked_convolution(work, binding, call)


# -- what may stay blocked ------------------------------------------------------------------------


def _pool(work: Assignment, binding: Binding, call: Call) -> bool:
    if not work.is_blocked(call.args[0]):
        return False
    data = work.blocked[call.args[0]]  # type: ignore[index]
    attrs = image_window(plain_attrs(call), len(shape_of(call)))
    pooled = op.get(_POOLS[op_name(call)])(data.value, **attrs)
    return work.bind_blocked(binding, pooled, data.channels, data.block)


def _spatial_reduction(work: Assignment, binding: Binding, call: Call) -> bool:
    if not work.is_blocked(call.args[0]) or not call.attrs.get("keepdims"):
        return False
    axes, line = call.attrs.get("axes"), len(shape_of(call)) == 3
    if not isinstance(axes, tuple) or not set(axes) <= set(_SPATIAL[: 1 if line else 2]):
        return False
    data = work.blocked[call.args[0]]  # type: ignore[index]
    attrs = {**plain_attrs(call), "axes": _SPATIAL[1:] if line else axes}
    reduced = call.callee(data.value, **attrs)
    return work.bind_blocked(binding, reduced, data.channels, data.block)


def _concat(work: Assignment, binding: Binding, call: Call) -> bool:
    block = work.options.block
    parts = [image_channels(item) for item in call.args]
    if call.attrs["axis"] != 1 or any(part is None or part % block for part in parts):
        return False
    blocked = sum(work.is_blocked(item) for item in call.args)
    if 2 * blocked < len(call.args):
        return False
    values = [work.to_blocked(item, block).value for item in call.args]
    total = sum(part for part in parts if part is not None)
    return work.bind_blocked(binding, op.concat(*values, axis=1), total, block)


def _elementwise(work: Assignment, binding: Binding, call: Call) -> bool:
    """Elementwise work on one or more blocked values; the others must be scalars, constants per
    channel or images that can be blocked."""
    channels = image_channels(call)
    leaders = [item for item in call.args if work.is_blocked(item)]
    if channels is None or not leaders:
        return False
    block = work.blocked[leaders[0]].block  # type: ignore[index]
    kind = tensor_type(call.args[0])
    finite = op_name(call) in (*FINITE_OPS, "cast") or (kind is not None and kind.dtype.is_int)
    if channels % block and not finite:
        return False
    if any(work.blocked[item].channels != channels for item in leaders):  # type: ignore[index]
        return False
    if any(len(shape_of(item)) != len(shape_of(call)) for item in leaders):
        return False
    if not any(same_dim(a, b) for item in leaders for a, b in _dims_of(item, call)):
        return False
    args = []
    for item in call.args:
        form = _operand(work, item, len(shape_of(call)), channels, block)
        if form is None:
            return False
        args.append(form)
    values = [form() for form in args]
    return work.bind_blocked(binding, call.callee(*values, **plain_attrs(call)), channels, block)


def _dims_of(item: GraphExpr, call: Call) -> list[tuple[Expr, Expr]]:
    return list(zip(shape_of(item), shape_of(call), strict=True))


def _operand(
    work: Assignment, item: GraphExpr, rank: int, channels: int, block: int
) -> Callable[[], GraphExpr] | None:
    """How to get one operand of blocked elementwise work that gives a value of `rank` axes, or
    None when it cannot be had."""
    if isinstance(item, Constant):
        if item.data.size == 1:
            return lambda: Constant(item.data.reshape(()))
        if item.data.ndim > rank:
            return None
        full = item.data.reshape((1,) * (rank - item.data.ndim) + item.data.shape)
        data = full.reshape(image_shape(full.shape))
        if data.shape[1] != channels:
            return None
        return lambda: Constant(packing.block_channels(data, block))
    kind = item.type
    if not isinstance(kind, TensorType) or kind.ndim != rank or as_int(kind.shape[1]) != channels:
        return None
    return lambda: work.to_blocked(item, block).value


# -- matrix products ------------------------------------------------------------------------------


def _matrix_product(work: Assignment, binding: Binding, call: Call) -> bool:
    x, weight = call.args
    kind = tensor_type(x)
    if call.attrs.get("out_dtype") is not None:
        return _dot_product(work, binding, call)
    right = tensor_type(weight)
    if kind is None or kind.ndim < 2 or right is None or right.static_shape is None:
        return False
    if call.attrs.get("transpose_a") or right.ndim != 2 or right.dtype.kind != "float":
        return False
    transposed = bool(call.attrs.get("transpose_b"))
    # What is known at run time only is packed then where it lies across: the rows of the product
    # would be gathered for each of them otherwise.
    if not isinstance(weight, Constant) and not transposed:
        return False
    columns, depth = right.static_shape if transposed else right.static_shape[::-1]
    rows: int | None = 1
    for dim in kind.shape[:-1]:
        size = as_int(dim)
        rows = None if rows is None or size is None else rows * size
    if not isinstance(weight, Constant) and rows is not None:
        if work.options.takes_across(rows, depth, right.dtype.bits):
            return False
    width = work.options.panel_width(rows, columns, depth)
    packed: GraphExpr
    if isinstance(weight, Constant):
        matrix = weight.data.T if transposed else weight.data
        packed = Constant(packing.pack_panels(matrix, width))
    else:
        panels = op.pack_panels(work.to_plain(weight), width=width, transposed=True)
        packed = work.emit(panels, name="packed")
    data = work.to_plain(x)
    value = op.packed_matmul(data, packed, n=columns).replace(span=call.span)
    work.alias_new(binding.var, work.emit(value, like=binding.var))
    work.plain.add(binding.var)
    return True


def _dot_product(work: Assignment, binding: Binding, call: Call) -> bool:
    """A matrix product of low precision, where the target has an instruction for it: the right
    operand is packed, now if it is constant, else at run time."""
    x, right = call.args
    left, kind = tensor_type(x), tensor_type(right)
    if left is None or kind is None or left.ndim < 2 or call.attrs.get("transpose_a"):
        return False
    if kind.ndim != 2 and not same_shape(left.shape[:-2], kind.shape[:-2]):
        return False
    transposed = bool(call.attrs.get("transpose_b"))
    columns, depth = (as_int(dim) for dim in kind.shape[-2:][:: 1 if transposed else -1])
    each = DOT_DEPTH.get(left.dtype.name)
    if each is None or columns is None or depth is None:
        return False
    rows: int | None = 1
    for dim in left.shape[:-1] if kind.ndim == 2 else left.shape[-2:-1]:
        size = as_int(dim)
        rows = None if rows is None or size is None else rows * size
    width = work.options.dots.panel(left.dtype.name, kind.dtype.name, rows, columns, depth)
    if width is None:
        return False
    options: dict[str, Any] = {"width": width, "depth": each, "transposed": transposed}
    data = work.to_plain(x)
    if depth % each:
        after = tuple(-depth % each if at == left.ndim - 1 else 0 for at in range(left.ndim))
        data = work.emit(op.pad(data, pads=(*(0,) * left.ndim, *after)), name="padded")
    packed = op.pack_dot(work.to_plain(right), **options)
    if isinstance(right, Constant):
        value: GraphExpr = Constant(np.asarray(packed.callee.evaluate([right.data], packed.attrs)))
    else:
        value = work.emit(packed, name="packed")
    product = op.matmul_dot(data, value, n=columns).replace(span=call.span)
    work.alias_new(binding.var, work.emit(product, like=binding.var))
    work.plain.add(binding.var)
    return True


def _conversion(work: Assignment, binding: Binding, call: Call) -> bool:
    """Numbers are converted as they lie: integers are finite in every dtype, and so are floats,
    short of overflow, in another dtype of floats."""
    before, after = tensor_type(call.args[0]), tensor_type(call)
    if before is None or after is None or before.dtype.is_bool or after.dtype.is_bool:
        return False
    return (before.dtype.is_int or after.dtype.is_float) and _elementwise(work, binding, call)


_OF_THEIR_OWN: Final = frozenset({"cast", "batch_norm", "broadcast_to"})
"""Elementwise by kind, but not to be called on blocks as they are: one has a handler, one knows
channels by their axis, one has a shape for attribute."""

_HANDLERS: Final[dict[str, Handler]] = {
    "conv": _convolution,
    "conv_transpose": blocked_transposed_convolution,
    "max_pool": _pool,
    "avg_pool": _pool,
    "concat": _concat,
    "matmul": _matrix_product,
    "cast": _conversion,
    **dict.fromkeys(("mean", "sum", "max", "min"), _spatial_reduction),
    **{
        name: _elementwise
        for name, declared in op.all_ops().items()
        if declared.kind in ("elementwise", "broadcast") and name not in _OF_THEIR_OWN
    },
}
