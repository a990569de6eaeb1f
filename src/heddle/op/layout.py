# SPDX-License-Identifier: Apache-2.0
"""Blocked layouts for CPUs, and the operators that work on them.

A layout is written as the axes in order, outermost first: upper-case letters are whole axes or
counts of blocks, `16c` a block of 16 along axis `C`. In `NCHW16c` element (n, c, h, w) is at
[n, c / 16, h, w, c % 16]; a last block that is not full is padded with zeros.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import DType, TensorType
from heddle.ir.expr import Expr, all_of, as_int, cast, const, if_then_else
from heddle.op.adjoint import dims_of
from heddle.op.attribute import Dims, Ints
from heddle.op.common import (
    accumulator_dtype,
    as_dims,
    cast_tensor,
    ceil_div,
    plain_dims,
    require_ndim,
    require_product_dtypes,
    require_shape,
    same_dim,
    show_dim,
    show_shape,
    simplify_dim,
    sum_over,
)
from heddle.op.convolution import conv, reference_conv
from heddle.op.pooling import (
    average,
    canonical_pool,
    infer_pool,
    make_window,
    reference_average,
    reference_max,
    window_reduce,
)
from heddle.op.registry import Op, get, operator, ops
from heddle.op.sample import case, floats, ints
from heddle.op.window import Window, canonical_window, pad_tensor
from heddle.support import UserError
from heddle.te import identity_element


@dataclass(frozen=True, slots=True)
class Layout:
    """A parsed layout: its parts in order, each (axis letter, block size or 0 for the axis)."""

    text: str
    parts: tuple[tuple[str, int], ...]

    @staticmethod
    def parse(text: str) -> Layout:
        """`NCHW16c` -> parts ((N, 0), (C, 0), (H, 0), (W, 0), (C, 16))."""
        parts = tuple(
            (axis.upper(), int(size or 0)) for size, axis in re.findall(r"(\d*)([A-Za-z])", text)
        )
        spelled = "".join(f"{size}{a.lower()}" if size else a for a, size in parts)
        whole = [axis for axis, size in parts if not size]
        blocked = [axis for axis, size in parts if size]
        if spelled != text or len(set(whole)) != len(whole) or not set(blocked) <= set(whole):
            raise UserError(f"`{text}` is not a layout; one is written like NCHW or NCHW16c")
        if len(set(blocked)) != len(blocked):
            raise UserError(f"layout `{text}` blocks an axis twice")
        return Layout(text, parts)

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(axis for axis, size in self.parts if not size)

    @property
    def blocks(self) -> Mapping[str, int]:
        """Block size by axis."""
        return {axis: size for axis, size in self.parts if size}

    def extents(self, shape: Sequence[Expr]) -> dict[str, Expr]:
        """The size of each whole axis, of a tensor of this layout (blocks counted full)."""
        if len(shape) != len(self.parts):
            raise UserError(f"shape {show_shape(shape)} has not the axes of layout {self.text}")
        sizes = {}
        for (axis, block), dim in zip(self.parts, shape, strict=True):
            if block:
                if as_int(dim) != block:
                    raise UserError(
                        f"shape {show_shape(shape)} is not {self.text}: the block of axis {axis} "
                        f"is {show_dim(dim)}"
                    )
            else:
                sizes[axis] = dim * self.blocks.get(axis, 1)
        return sizes

    def shape(self, extents: Mapping[str, Expr]) -> tuple[Expr, ...]:
        """The shape of a tensor whose whole axes have these sizes."""
        blocks = self.blocks
        return tuple(
            const(block) if block else simplify_dim(ceil_div(extents[axis], blocks.get(axis, 1)))
            for axis, block in self.parts
        )


def _plan(x: Any, source: str, target: str, shape: Dims | None) -> tuple[Layout, Layout, Any, Any]:
    """Both layouts, the sizes of the source's axes and those of the target's."""
    old, new = Layout.parse(source), Layout.parse(target)
    if sorted(old.axes) != sorted(new.axes):
        raise UserError(f"layouts {source} and {target} have different axes")
    held = old.extents(x.shape)
    wanted = dict(held)
    if shape is not None:
        if len(shape) != len(new.axes):
            raise UserError(
                f"attribute `shape` is {show_shape(shape)}, expected {len(new.axes)} dims"
            )
        wanted = dict(zip(new.axes, as_dims(shape), strict=True))
    for axis in old.axes:
        least, most = as_int(wanted[axis]), as_int(held[axis])
        slack = old.blocks.get(axis, 1)
        if least is not None and most is not None and not most - slack < least <= most:
            raise UserError(f"axis {axis} of size {least} does not fill the blocks of {most}")
        if slack == 1 and not same_dim(wanted[axis], held[axis]):
            raise UserError(
                f"axis {axis} has size {show_dim(held[axis])}, attribute `shape` says "
                f"{show_dim(wanted[axis])}"
            )
    return old, new, held, wanted


@operator("layout_transform", kind="injective")
def layout_transform(
    x: TensorType, *, source: str, target: str, shape: Dims | None = None
) -> TensorType:
    """x of layout `source` in layout `target`. Blocks that are not full are padded with zeros;
    `shape` says the true sizes of the axes (in the order of `target`) when x has such blocks, and
    elements beyond are dropped (default: all blocks of x are full)."""
    _, new, _, wanted = _plan(x, source, target, shape)
    return TensorType(new.shape(wanted), x.dtype)


@layout_transform.rule("compute")
def _(x: te.Tensor, *, source: str, target: str, shape: Dims | None) -> te.Tensor:
    old, new, _, wanted = _plan(x, source, target, shape)
    new_shape = new.shape(wanted)
    full = new.extents(new_shape)

    def body(*i: Expr) -> Expr:
        position: dict[str, Expr] = {axis: const(0) for axis in new.axes}
        for (axis, block), index in zip(new.parts, i, strict=True):
            scale = 1 if block else new.blocks.get(axis, 1)
            position[axis] = position[axis] + index * scale
        inside = [
            position[axis] < wanted[axis]
            for axis in new.axes
            if not same_dim(full[axis], wanted[axis])
        ]
        source_index = []
        for axis, block in old.parts:
            whole = old.blocks.get(axis, 1)
            source_index.append(position[axis] % block if block else position[axis] // whole)
        return if_then_else(all_of(*inside), x[tuple(source_index)], const(0, x.dtype))

    return te.compute(new_shape, body, name="layout_transform")


def to_plain(x: np.ndarray, layout: Layout) -> np.ndarray:
    """Reference: the array with its blocks merged into the whole axes, in the layout's order."""
    order: list[int] = []
    sizes: list[int] = []
    for at, (axis, block) in enumerate(layout.parts):
        if block:
            continue
        inner = [p for p, part in enumerate(layout.parts) if part[0] == axis and part[1]]
        order += [at, *inner]
        sizes.append(x.shape[at] * int(np.prod([x.shape[p] for p in inner])))
    return x.transpose(order).reshape(sizes)


def to_blocked(x: np.ndarray, layout: Layout) -> np.ndarray:
    """Reference: an array of the layout's whole axes cut into blocks, padded with zeros."""
    pads, split = [], []
    names: list[tuple[str, int]] = []
    for axis, size in zip(layout.axes, x.shape, strict=True):
        block = layout.blocks.get(axis, 1)
        count = -(-size // block)
        pads.append((0, count * block - size))
        split += [count, block] if axis in layout.blocks else [size]
        names += [(axis, 0), (axis, block)] if axis in layout.blocks else [(axis, 0)]
    cut = np.pad(x, pads).reshape(split)
    return cut.transpose([names.index(part) for part in layout.parts])


@layout_transform.rule("numpy")
def _(x: np.ndarray, *, source: str, target: str, shape: Ints | None) -> np.ndarray:
    old, new = Layout.parse(source), Layout.parse(target)
    plain = to_plain(x, old).transpose([old.axes.index(axis) for axis in new.axes])
    if shape is not None:
        plain = plain[tuple(slice(size) for size in shape)]
    return to_blocked(plain, new)


@layout_transform.rule("grad")
def _(
    x: GraphExpr,
    *,
    dout: GraphExpr,
    out: GraphExpr,
    source: str,
    target: str,
    shape: Dims | None,
) -> GraphExpr:
    """The way back; what was dropped or padded is zero."""
    old, _, _, wanted = _plan(x.type, source, target, shape)
    sizes = plain_dims(wanted[axis] for axis in old.axes)
    return ops.layout_transform(dout, source=target, target=source, shape=sizes)


layout_transform.samples(
    case(floats(1, 8, 2, 3), source="NCHW", target="NCHW4c"),
    case(floats(1, 6, 2, 3), source="NCHW", target="NCHW4c"),
    case(floats(1, 2, 2, 3, 4), source="NCHW4c", target="NCHW", shape=(1, 6, 2, 3)),
    case(floats(1, 2, 2, 3, 4), source="NCHW4c", target="NHWC"),
    case(floats(1, 2, 2, 2, 4), source="NCHW4c", target="NCHW8c"),
    case(floats(6, 3, 2, 2), source="OIHW", target="OIHW3i4o"),
    case(floats(6), source="C", target="C4c"),
)


# -- convolution -----------------------------------------------------------------------------


def _is_depthwise(x: Any, w: Any) -> bool:
    return as_int(w.shape[4]) == 1 and as_int(x.shape[4]) != 1


@operator("conv2d_nchwc", kind="contraction", dtypes="number")
def conv2d_nchwc(
    x: TensorType,
    w: TensorType,
    bias: TensorType | None = None,
    *,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
    out_dtype: DType | None = None,
    pad_value: int = 0,
) -> TensorType:
    """`conv` on x[N, Cb, H, W, ci] with w[Ob, Ib, KH, KW, ci, co] and bias[Ob, co]: a result
    [N, Ob, H', W', co]. With groups, Ib is the number of input blocks in a group. Depthwise is
    w[Cb, 1, KH, KW, 1, c] with x[N, Cb, H, W, c] (and groups = the number of channels)."""
    assert strides is not None
    assert pads is not None
    assert dilations is not None
    require_product_dtypes(x, w, out_dtype)
    require_ndim(x, "x", 5, 5)
    require_ndim(w, "w", 6, 6)
    if _is_depthwise(x, w):
        wanted = (x.shape[1], const(1), *w.shape[2:4], const(1), x.shape[4])
        require_shape(w, "w", wanted)
    else:
        blocks = as_int(w.shape[0])
        if groups < 1 or (blocks is not None and blocks % groups):
            raise UserError(f"{blocks} blocks of outputs do not divide into {groups} groups")
        if not same_dim(x.shape[1], w.shape[1] * groups) or not same_dim(x.shape[4], w.shape[4]):
            raise UserError(
                f"`x` of shape {show_shape(x.shape)} has not the channels that `w` of shape "
                f"{show_shape(w.shape)} takes in {groups} groups"
            )
    if bias is not None:
        require_shape(bias, "bias", [w.shape[0], w.shape[5]])
    window = Window.of(w.shape[2:4], strides, pads, dilations)
    spatial = window.output(x.shape[2:4])
    return TensorType((x.shape[0], w.shape[0], *spatial, w.shape[5]), out_dtype or x.dtype)


@conv2d_nchwc.rule("normalise")
def _(x: TensorType, w: TensorType, bias: TensorType | None, **attrs: Any) -> dict[str, Any]:
    return canonical_window(2, attrs["strides"], attrs["pads"], attrs["dilations"])


@conv2d_nchwc.rule("compute")
def _(
    x: te.Tensor,
    w: te.Tensor,
    bias: te.Tensor | None,
    *,
    strides: Ints,
    pads: Ints,
    dilations: Ints,
    groups: int,
    out_dtype: DType | None,
    pad_value: int,
) -> te.Tensor:
    dtype = out_dtype or accumulator_dtype(x.dtype)
    window = Window.of(w.shape[2:4], strides, pads, dilations)
    padded = pad_tensor(x, window.pads, const(pad_value, x.dtype), first=2)
    kh, kw = te.reduce_axis(w.shape[2], "kh"), te.reduce_axis(w.shape[3], "kw")
    icb, ici = te.reduce_axis(w.shape[1], "icb"), te.reduce_axis(w.shape[4], "ici")
    depthwise = _is_depthwise(x, w)
    out_group = w.shape[0] // groups

    def dense(n: Expr, ob: Expr, h: Expr, v: Expr, oc: Expr) -> Expr:
        block = icb.var if groups == 1 else ob // out_group * w.shape[1] + icb.var
        data = padded[n, block, window.at(0, h, kh), window.at(1, v, kw), ici]
        weight = w[ob, icb, kh, kw, ici, oc]
        return sum_over(cast(data, dtype) * cast(weight, dtype), [icb, kh, kw, ici])

    def per_lane(n: Expr, ob: Expr, h: Expr, v: Expr, oc: Expr) -> Expr:
        data = padded[n, ob, window.at(0, h, kh), window.at(1, v, kw), oc]
        weight = w[ob, 0, kh, kw, 0, oc]
        return sum_over(cast(data, dtype) * cast(weight, dtype), [kh, kw])

    shape = (x.shape[0], w.shape[0], *window.output(x.shape[2:4]), w.shape[5])
    result = te.compute(shape, per_lane if depthwise else dense, name="conv2d_nchwc")
    if bias is not None:
        product = result
        result = te.compute(
            shape,
            lambda n, ob, h, v, oc: product[n, ob, h, v, oc] + cast(bias[ob, oc], dtype),
            name="conv2d_nchwc_bias",
        )
    return cast_tensor(result, out_dtype or x.dtype)


@conv2d_nchwc.rule("numpy")
def _(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    *,
    strides: Ints,
    pads: Ints,
    dilations: Ints,
    groups: int,
    out_dtype: DType | None,
    pad_value: int,
) -> np.ndarray:
    depthwise = w.shape[4] == 1 and x.shape[4] != 1
    data = to_plain(x, Layout("", (("N", 0), ("C", 0), ("H", 0), ("W", 0), ("C", 1))))
    plain = Layout("", (("O", 0), ("I", 0), ("H", 0), ("W", 0), ("I", 1), ("O", 1)))
    weight = to_plain(w, plain)
    window = Window.of([const(k) for k in w.shape[2:4]], strides, pads, dilations)
    lanes = data.shape[1] if depthwise else groups
    dtype = out_dtype.numpy if out_dtype else x.dtype
    result = reference_conv(data, weight, window, lanes, dtype, fill=pad_value)
    if bias is not None:
        result = result + bias.reshape(1, -1, 1, 1)
    n, _c, h, v = result.shape
    return result.reshape(n, w.shape[0], w.shape[5], h, v).transpose(0, 1, 3, 4, 2)


def _blocked_spelling(x: GraphExpr, plain: str, inner: str) -> str:
    """The layout of x: the axes `plain`, then blocks of `inner`."""
    sizes = plain_dims(dims_of(x)[len(plain) :])
    return plain + "".join(f"{size}{axis}" for size, axis in zip(sizes, inner, strict=True))


def _plain(x: GraphExpr, plain: str = "NCHW", inner: str = "c") -> GraphExpr:
    """A blocked x without its blocks."""
    source = _blocked_spelling(x, plain, inner)
    return ops.layout_transform(x, source=source, target=plain)


def _blocked_like(d: GraphExpr, x: GraphExpr, plain: str = "NCHW", inner: str = "c") -> GraphExpr:
    """A plain d in the blocks of x."""
    target = _blocked_spelling(x, plain, inner)
    return ops.layout_transform(d, source=plain, target=target)


@conv2d_nchwc.rule("grad")
def _(
    x: GraphExpr,
    w: GraphExpr,
    bias: GraphExpr | None,
    *,
    dout: GraphExpr,
    out: GraphExpr,
    groups: int,
    **attrs: Any,
) -> tuple[GraphExpr | None, ...]:
    """By way of the plain layout."""
    depthwise = _is_depthwise(x.type, w.type)
    data, d = _plain(x), _plain(dout)
    kernel = _plain(w, "OIHW", "io")
    lanes = as_int(dims_of(data)[1]) if depthwise else groups
    rule = conv.get_rule("grad")
    d_x, d_w, _ = rule(data, kernel, None, dout=d, out=d, groups=lanes, **attrs)
    d_bias = None if bias is None else ops.sum(dout, axes=(0, 2, 3))
    return _blocked_like(d_x, x), _blocked_like(d_w, w, "OIHW", "io"), d_bias


conv2d_nchwc.samples(
    case(floats(1, 2, 4, 4, 3), floats(2, 2, 3, 3, 3, 4), pads=(1, 1, 1, 1)),
    case(floats(1, 1, 5, 4, 3), floats(2, 1, 3, 2, 3, 4), floats(2, 4), strides=(2, 2)),
    case(floats(1, 2, 4, 4, 4), floats(2, 1, 3, 3, 1, 4), floats(2, 4), groups=8),
    case(floats(1, 4, 4, 4, 2), floats(2, 2, 2, 2, 2, 4), groups=2, dilations=(2, 1)),
    case(
        ints(1, 2, 4, 4, 4, high=255, dtype="uint8"),
        ints(2, 1, 3, 3, 1, 4, low=-128, high=127, dtype="int8"),
        pads=(1, 1, 1, 1),
        groups=8,
        out_dtype="int32",
        pad_value=9,
    ),
)


# -- pooling ---------------------------------------------------------------------------------


@operator("max_pool2d_nchwc", kind="reduction", dtypes="number")
def max_pool2d_nchwc(
    x: TensorType,
    *,
    kernel: Ints,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    ceil_mode: bool = False,
) -> TensorType:
    """`max_pool` on x[N, Cb, H, W, c]."""
    return infer_pool(x, {k: v for k, v in locals().items() if k != "x"})


@max_pool2d_nchwc.rule("compute")
def _(x: te.Tensor, **attrs: Any) -> te.Tensor:
    lowest = identity_element("max", x.dtype)
    return window_reduce(x, make_window(attrs), te.max, lambda v: v, lowest, "max_pool2d_nchwc")


def _channels_apart(x: np.ndarray) -> np.ndarray:
    """[N, Cb, H, W, c] as [N, Cb * c, H, W]."""
    n, cb, h, w, c = x.shape
    return x.transpose(0, 1, 4, 2, 3).reshape(n, cb * c, h, w)


def _channels_blocked(x: np.ndarray, blocks: int) -> np.ndarray:
    n, c, h, w = x.shape
    return x.reshape(n, blocks, c // blocks, h, w).transpose(0, 1, 3, 4, 2)


@max_pool2d_nchwc.rule("numpy")
def _(x: np.ndarray, **attrs: Any) -> np.ndarray:
    return _channels_blocked(reference_max(_channels_apart(x), attrs), x.shape[1])


@operator("avg_pool2d_nchwc", kind="reduction", dtypes="float")
def avg_pool2d_nchwc(
    x: TensorType,
    *,
    kernel: Ints,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> TensorType:
    """`avg_pool` on x[N, Cb, H, W, c]."""
    return infer_pool(x, {k: v for k, v in locals().items() if k != "x"})


@avg_pool2d_nchwc.rule("compute")
def _(x: te.Tensor, *, count_include_pad: bool, **attrs: Any) -> te.Tensor:
    return average(x, attrs, count_include_pad=count_include_pad, name="avg_pool2d_nchwc")


@avg_pool2d_nchwc.rule("numpy")
def _(x: np.ndarray, *, count_include_pad: bool, **attrs: Any) -> np.ndarray:
    plain = reference_average(_channels_apart(x), attrs, count_include_pad=count_include_pad)
    return _channels_blocked(plain, x.shape[1])


def _finish_pool(op: Op) -> None:
    @op.rule("normalise")
    def _(x: TensorType, **attrs: Any) -> dict[str, Any]:
        require_ndim(x, "x", 5, 5)
        return canonical_pool(2, attrs)

    plain = get(op.name.removesuffix("2d_nchwc"))

    @op.rule("grad")
    def _(x: GraphExpr, *, dout: GraphExpr, out: GraphExpr, **attrs: Any) -> GraphExpr:
        """By way of the plain layout."""
        rule = plain.get_rule("grad")
        found = rule(_plain(x), dout=_plain(dout), out=_plain(out), **attrs)
        return _blocked_like(found, x)

    op.samples(
        case(floats(1, 2, 5, 5, 4), kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
        case(floats(1, 1, 5, 6, 4), kernel=(2, 2), strides=(2, 2), ceil_mode=True),
    )


_finish_pool(max_pool2d_nchwc)
_finish_pool(avg_pool2d_nchwc)
