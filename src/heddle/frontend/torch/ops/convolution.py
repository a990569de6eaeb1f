# SPDX-License-Identifier: Apache-2.0
"""Convolutions and resampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from heddle import op
from heddle.frontend.torch.node import Node, dtype, rank, shape
from heddle.frontend.torch.registry import converts
from heddle.frontend.torch.report import Unsupported
from heddle.graph import GraphExpr
from heddle.ir.expr import Expr


def per_axis(value: Any, count: int) -> tuple[int, ...]:
    """One integer per spatial axis; a single one counts for all."""
    items = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    items = items * count if len(items) == 1 else items
    if any(isinstance(item, Expr) for item in items):
        raise Unsupported("a window whose size is symbolic")
    return tuple(int(item) for item in items)


@converts("aten.convolution.default")
def _convolution(
    node: Node,
    x: GraphExpr,
    weight: GraphExpr,
    bias: GraphExpr | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Any:
    call = _call(
        x, weight, bias, stride, padding, dilation, transposed, output_padding, groups, node
    )
    return node.emit(call)


def _call(
    x: GraphExpr,
    weight: GraphExpr,
    bias: GraphExpr | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    node: Node,
) -> Any:
    count = rank(x) - 2
    window = {
        "strides": per_axis(stride, count),
        "pads": per_axis(padding, count) * 2,
        "dilations": per_axis(dilation, count),
        "groups": groups,
    }
    if transposed:
        window["output_padding"] = per_axis(output_padding, count)
        return op.get("conv_transpose")(x, weight, bias, span=node.span, **window)
    return op.get("conv")(x, weight, bias, span=node.span, **window)


@converts("aten.convolution_backward.default")
def _convolution_backward(
    node: Node,
    grad: GraphExpr,
    x: GraphExpr,
    weight: GraphExpr,
    bias_sizes: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    output_mask: Sequence[bool],
) -> Any:
    call = _call(
        x, weight, None, stride, padding, dilation, transposed, output_padding, groups, node
    )
    found = call.callee.gradients(call.args, call.attrs, dout=grad, out=call)
    wanted = list(output_mask)
    bias = None
    if wanted[2]:
        bias = node.op.sum(grad, axes=(0, *range(2, rank(grad))))
    return (
        node.emit(found[0]) if wanted[0] else None,
        node.emit(found[1]) if wanted[1] else None,
        bias,
    )


# -- resampling ------------------------------------------------------------------------------


def _resize(node: Node, x: GraphExpr, scales: Any, **attrs: Any) -> Any:
    """`scales`: what the user gave for each spatial axis, None for the ratio of the sizes. Torch
    computes positions in float32 with the one or the other."""
    given = _scales_of(shape(x), node.shape, scales)
    whole = dtype(x).is_int and attrs["mode"] != "nearest"
    wide = node.cast(x, "float32") if whole else x
    found = node.op.resize(wide, shape=node.shape, scales=given, **attrs)
    return node.rounded(found, dtype(x)) if whole else found


def _scales_of(before: Any, after: Any, scales: Any) -> tuple[float, ...] | None:
    """One scale for each axis, or None for the ratios of the sizes."""
    if scales is None or all(scale is None for scale in scales):
        return None
    given = [1.0, 1.0]
    for axis, scale in enumerate(scales):
        new, old = after[2 + axis], before[2 + axis]
        if scale is None and (isinstance(new, Expr) or isinstance(old, Expr)):
            raise Unsupported("a scale that depends on a symbolic size")
        given.append(new / old if scale is None else float(scale))
    return tuple(given)


def _coordinates(align_corners: bool) -> str:
    return "align_corners" if align_corners else "half_pixel"


@converts(
    "aten.upsample_nearest1d.vec", "aten.upsample_nearest2d.vec", "aten.upsample_nearest3d.vec"
)
def _nearest(node: Node, x: GraphExpr, output_size: Any, scale_factors: Any) -> Any:
    return _resize(
        node, x, scale_factors, mode="nearest", coordinates="asymmetric", rounding="floor"
    )


@converts(
    "aten.upsample_nearest1d.default",
    "aten.upsample_nearest2d.default",
    "aten.upsample_nearest3d.default",
)
def _nearest_plain(node: Node, x: GraphExpr, output_size: Any, *scales: Any, **named: Any) -> Any:
    return _nearest(node, x, output_size, _scales(scales, named))


def _scales(given: Sequence[Any], named: dict[str, Any]) -> list[Any]:
    """scales_d, scales_h, scales_w, of which there may be fewer."""
    return [*given, *(named[key] for key in sorted(named) if key.startswith("scales"))]


@converts(
    "aten.upsample_bilinear2d.vec", "aten.upsample_trilinear3d.vec", "aten.upsample_linear1d.vec"
)
def _linear(
    node: Node, x: GraphExpr, output_size: Any, align_corners: bool, scale_factors: Any
) -> Any:
    scales = None if align_corners else scale_factors
    return _resize(node, x, scales, mode="linear", coordinates=_coordinates(align_corners))


@converts(
    "aten.upsample_bilinear2d.default",
    "aten.upsample_trilinear3d.default",
    "aten.upsample_linear1d.default",
)
def _linear_plain(
    node: Node, x: GraphExpr, output_size: Any, align_corners: bool, *scales: Any, **named: Any
) -> Any:
    return _linear(node, x, output_size, align_corners, _scales(scales, named))


@converts("aten.upsample_bicubic2d.vec")
def _cubic(
    node: Node, x: GraphExpr, output_size: Any, align_corners: bool, scale_factors: Any
) -> Any:
    scales = None if align_corners else scale_factors
    return _resize(node, x, scales, mode="cubic", coordinates=_coordinates(align_corners))


@converts("aten.upsample_bicubic2d.default")
def _cubic_plain(
    node: Node, x: GraphExpr, output_size: Any, align_corners: bool, *scales: Any, **named: Any
) -> Any:
    return _cubic(node, x, output_size, align_corners, _scales(scales, named))


@converts(
    "aten.upsample_nearest1d_backward.default",
    "aten.upsample_nearest2d_backward.default",
    "aten.upsample_nearest3d_backward.default",
)
def _nearest_backward(
    node: Node, grad: GraphExpr, output_size: Any, input_size: Any, *scales: Any, **named: Any
) -> Any:
    attrs = {"mode": "nearest", "coordinates": "asymmetric", "rounding": "floor"}
    return _resize_backward(node, grad, _scales(scales, named), attrs)


@converts(
    "aten.upsample_linear1d_backward.default",
    "aten.upsample_bilinear2d_backward.default",
    "aten.upsample_trilinear3d_backward.default",
    "aten.upsample_bicubic2d_backward.default",
)
def _linear_backward(
    node: Node,
    grad: GraphExpr,
    output_size: Any,
    input_size: Any,
    align_corners: bool,
    *scales: Any,
    **named: Any,
) -> Any:
    mode = "cubic" if "cubic" in node.target else "linear"
    attrs = {"mode": mode, "coordinates": _coordinates(align_corners)}
    given = None if align_corners else _scales(scales, named)
    return _resize_backward(node, grad, given, attrs)


def _resize_backward(node: Node, grad: GraphExpr, scales: Any, attrs: dict[str, Any]) -> Any:
    """By the operator's own rule; of the input it reads the shape only."""
    x = node.full(node.shape, 0.0, dtype(grad))
    given = _scales_of(shape(x), shape(grad), scales)
    call = op.get("resize")(x, shape=shape(grad), scales=given, **attrs)
    return node.emit(call.callee.gradients(call.args, call.attrs, dout=grad, out=call)[0])  # type: ignore[arg-type]


@converts("aten.pixel_shuffle.default")
def _pixel_shuffle(node: Node, x: GraphExpr, upscale_factor: int) -> Any:
    if rank(x) != 4:
        raise Unsupported(f"pixel_shuffle of {rank(x)} axes")
    return node.op.depth_to_space(x, block=upscale_factor, mode="CRD")


@converts("aten.pixel_unshuffle.default")
def _pixel_unshuffle(node: Node, x: GraphExpr, factor: int) -> Any:
    n, c, h, w = shape(x)
    apart = node.op.reshape(x, shape=(n, c, h // factor, factor, w // factor, factor))
    moved = node.op.transpose(apart, permutation=(0, 1, 3, 5, 2, 4))
    return node.op.reshape(moved, shape=node.shape)
