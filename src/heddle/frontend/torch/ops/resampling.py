# SPDX-License-Identifier: Apache-2.0
"""Images sampled at other places: grids, and resizing that averages (`antialias=True`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from heddle import op
from heddle.frontend.torch.node import Node, dtype, rank, shape
from heddle.frontend.torch.ops.pooling import mixed_along
from heddle.frontend.torch.registry import converts
from heddle.frontend.torch.report import Unsupported
from heddle.graph import Constant, GraphExpr
from heddle.ir.expr import Expr

_MARGIN: Final = 2
"""Elements that a cubic reads on either side of a place."""


@converts("aten.grid_sampler_2d.default", "aten.grid_sampler_3d.default")
def _grid_sampler(
    node: Node,
    x: GraphExpr,
    grid: GraphExpr,
    interpolation_mode: int,
    padding_mode: int,
    align_corners: bool,
) -> Any:
    mode = ("linear", "nearest", "cubic")[interpolation_mode]
    padding = ("zeros", "border", "reflection")[padding_mode]
    grid = node.cast(grid, dtype(x))
    if (mode, padding) == ("cubic", "border"):
        x, grid = _widened(node, x, grid, align_corners)
    return node.op.grid_sample(x, grid, mode=mode, padding=padding, align_corners=align_corners)


@converts("aten.grid_sampler_2d_backward.default", "aten.grid_sampler_3d_backward.default")
def _grid_sampler_backward(
    node: Node,
    grad: GraphExpr,
    x: GraphExpr,
    grid: GraphExpr,
    interpolation_mode: int,
    padding_mode: int,
    align_corners: bool,
    output_mask: Any,
) -> Any:
    mode = ("linear", "nearest", "cubic")[interpolation_mode]
    padding = ("zeros", "border", "reflection")[padding_mode]
    if (mode, padding) == ("cubic", "border"):
        raise Unsupported("the gradient of bicubic sampling with padding `border`")
    sample = op.get("grid_sample")
    call = sample(x, grid, mode=mode, padding=padding, align_corners=align_corners)
    found = sample.gradients(call.args, call.attrs, dout=grad, out=call)
    wanted = zip(found, output_mask, strict=True)
    return tuple(node.emit(part) if yes and part is not None else None for part, yes in wanted)


def _widened(
    node: Node, x: GraphExpr, grid: GraphExpr, align_corners: bool
) -> tuple[GraphExpr, GraphExpr]:
    """The same samples from a larger image, whose edge is spelled out. The operator moves a place
    that is outside to the edge, torch the elements around it: far enough out that is the same."""
    sizes = shape(x)[2:]
    if any(isinstance(size, Expr) for size in sizes):
        raise Unsupported("bicubic sampling with padding `border` of an image of symbolic size")
    count = len(sizes)
    pads = [0, 0, *[_MARGIN] * count] * 2
    wide = node.op.pad(x, pads=tuple(pads), mode="edge")
    less = 1 if align_corners else 0
    ratio = [(s - less) / (s - less + 2 * _MARGIN) for s in reversed(sizes)]  # type: ignore[operator]
    return wide, node.op.mul(grid, np.asarray(ratio, dtype(x).numpy))


# -- antialias=True ----------------------------------------------------------------------------


def _triangle(distance: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - np.abs(distance))


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -1/2."""
    d = np.abs(distance)
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return np.where(d < 1, near, np.where(d < 2, far, 0.0))


_KERNELS: Final[dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]]] = {
    "bilinear": (_triangle, 1),
    "bicubic": (_cubic, 2),
}


@converts(
    "aten._upsample_bilinear2d_aa.default",
    "aten._upsample_bilinear2d_aa.vec",
    "aten._upsample_bicubic2d_aa.default",
    "aten._upsample_bicubic2d_aa.vec",
)
def _antialiased(
    node: Node, x: GraphExpr, output_size: Any, align_corners: bool, *scales: Any
) -> Any:
    """The kernel is as wide as an output element where the image shrinks; a product per axis."""
    kernel, reach = _KERNELS["bilinear" if "bilinear" in node.target else "bicubic"]
    if len(scales) == 1:  # a list of both, or None
        scales = tuple(scales[0]) if scales[0] is not None else ()
    given = (*scales, None, None)[:2]
    whole = dtype(x)
    x = node.cast(x, "float32") if whole.is_int else x
    for at, factor in enumerate(given):
        axis = rank(x) - 2 + at
        old, new = shape(x)[axis], node.shape[axis]
        if isinstance(old, Expr) or isinstance(new, Expr):
            raise Unsupported("resizing with antialias of an image of symbolic size")
        step = 1.0 / factor if factor else old / new
        if align_corners:
            step = (old - 1) / (new - 1) if new > 1 else 0.0
        matrix = _weights(old, new, step, kernel, reach).astype(dtype(x).numpy)
        x = mixed_along(node, x, axis, Constant(matrix))
    return node.rounded(x, whole)


def _weights(
    old: int, new: int, step: float, kernel: Callable[[np.ndarray], np.ndarray], reach: int
) -> np.ndarray:
    """The matrix [old, new] whose column i has the weights of output i."""
    matrix = np.zeros((old, new))
    stretch = max(step, 1.0)
    for i in range(new):
        center = step * (i + 0.5)
        first = max(math.floor(center - reach * stretch + 0.5), 0)
        last = min(math.floor(center + reach * stretch + 0.5), old)
        weights = kernel((np.arange(first, last) - center + 0.5) / stretch)
        matrix[first:last, i] = weights / weights.sum()
    return matrix
