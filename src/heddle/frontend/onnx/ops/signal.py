# SPDX-License-Identifier: Apache-2.0
"""Sampling of images and Fourier transforms."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from heddle.frontend.fourier import LIMIT, inverse_real, largest_factor, transform
from heddle.frontend.onnx.node import Node, dtype, normal_axis, rank, shape
from heddle.frontend.onnx.ops import late_signal
from heddle.frontend.onnx.ops.axes import axes_of
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.sizes import dimension_as_scalar, size_of
from heddle.frontend.onnx.tensors import dtype_of
from heddle.graph import Constant, GraphExpr
from heddle.support import UserError

_LIMIT: Final = 1 << 20
"""Points of a transform."""


@converts("GridSample")
def _grid_sample(node: Node) -> Any:
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = node.attr.string("mode", "linear")
    return node.op.grid_sample(
        node.tensor(0),
        node.tensor(1),
        mode=names.get(mode, mode),
        padding=node.attr.string("padding_mode", "zeros"),
        align_corners=node.attr.flag("align_corners"),
    )


@converts("AffineGrid")
def _affine_grid(node: Node) -> Any:
    """theta[N, r, r + 1] applied to the places [-1, 1]^r of a grid: [N, *sizes, r]."""
    theta = node.tensor(0)
    if not isinstance(node.value(1), Constant):
        return late_signal.affine_grid(node)
    batch, _, *sizes = node.ints(1, "size")
    count = len(sizes)
    if count not in (2, 3) or any(size < 1 for size in (batch, *sizes)):
        raise UserError(f"`size` is {(batch, *sizes)}, expected batch, channels and 2 or 3 sizes")
    if int(np.prod(sizes)) > 1 << 24:
        raise Unsupported(f"a grid of {sizes}")
    axes = []
    for size in sizes:
        if node.attr.flag("align_corners"):
            # The standard leaves a single place open: the middle, as in PyTorch.
            axes.append(np.linspace(-1, 1, size) if size > 1 else np.zeros(1))
        else:
            axes.append((2 * np.arange(size) + 1) / size - 1)
    grid = np.meshgrid(*axes, indexing="ij")
    # Coordinates are told the last axis first, and 1 for the translation.
    places = np.stack([part.ravel() for part in (*grid[::-1], np.ones(sizes))], axis=-1)
    flat = node.op.matmul(places.astype(dtype(theta).numpy)[None], theta, transpose_b=True)
    return node.reshape(flat, (batch, *sizes, count))


# -- Fourier ---------------------------------------------------------------------------------


@converts("DFT")
def _dft(node: Node) -> Any:
    x = node.tensor(0)
    if node.version < 20:
        return _dft_along(node, x, node.attr.int("axis", 1))
    if not node.has(2):
        return _dft_along(node, x, -2)
    if isinstance(node.value(2), Constant):
        return _dft_along(node, x, node.integer(2, "axis"))
    if node.has(1) or node.attr.flag("onesided"):
        raise Unsupported(
            "an axis that is known at run time only, along which the size changes",
            inputs=node.importer.sources_of(node.tensor(2)),
        )
    meant = axes_of(node, node.value(2), rank(x)).meant
    found = _dft_along(node, x, 0)
    for axis in range(1, rank(x) - 1):
        found = node.op.where(meant[axis], _dft_along(node, x, axis), found)
    return found


def _dft_along(node: Node, x: GraphExpr, axis: int) -> GraphExpr:
    axis = normal_axis(axis, rank(x))
    if axis == rank(x) - 1:
        raise UserError(f"axis {axis} is that of real and imaginary parts")
    onesided, inverse = node.attr.flag("onesided"), node.attr.flag("inverse")
    late = node.has(1) and not isinstance(node.value(1), Constant)
    if late or not isinstance(shape(x)[axis], int):
        return _late_dft(node, x, axis, onesided=onesided, inverse=inverse)
    length = node.integer(1, "dft_length") if node.has(1) else None
    if onesided and inverse:
        return _inverse_real(node, x, axis, length)
    x = _resized(node, x, axis, length or node.static_dim(x, axis, "input"))
    return _transform(node, x, axis, inverse=inverse, onesided=onesided)


def _late_dft(node: Node, x: GraphExpr, axis: int, *, onesided: bool, inverse: bool) -> GraphExpr:
    """A transform of symbolic size, or of a size that is known at run time only."""
    length = shape(x)[axis]
    if node.has(1):
        length = size_of(node, node.value(1), 0, "dft_length")
    elif onesided and inverse:
        length = (length - 1) * 2
    if onesided and inverse:
        x = late_signal.resized(node, x, axis, late_signal.half(length))
        found = [late_signal.inverse_real(node, _parts(node, x, axis), length)]
    else:
        x = late_signal.resized(node, x, axis, length)
        found = late_signal.transform(
            node, _parts(node, x, axis), length, inverse=inverse, onesided=onesided
        )
    return _restored(node, found, axis)


def _resized(node: Node, x: GraphExpr, axis: int, length: int) -> GraphExpr:
    """x cut or filled with zeros to `length` along an axis."""
    size = node.static_dim(x, axis, "input")
    if not 1 <= length <= _LIMIT or largest_factor(length) > LIMIT:
        raise Unsupported(f"a transform of {length} points, expected prime factors up to {LIMIT}")
    if length < size:
        return node.op.slice(x, starts=(0,), ends=(length,), axes=(axis,))  # type: ignore[no-any-return]
    if length > size:
        pads = [0] * (2 * rank(x))
        pads[axis + rank(x)] = length - size
        return node.op.pad(x, pads=tuple(pads))  # type: ignore[no-any-return]
    return x


def _parts(node: Node, x: GraphExpr, axis: int) -> tuple[GraphExpr, GraphExpr | None]:
    """Real and imaginary part with `axis` moved to the end."""
    order = [a for a in range(rank(x) - 1) if a != axis] + [axis]
    count = node.static_dim(x, -1, "input")
    if count not in (1, 2):
        raise UserError(f"the last axis has {count} elements, expected 1 (real) or 2 (complex)")
    parts = []
    for at in range(count):
        cut = node.op.slice(x, starts=(at,), ends=(at + 1,), axes=(rank(x) - 1,))
        plain = node.op.squeeze(cut, axes=(rank(x) - 1,))
        parts.append(node.op.transpose(plain, permutation=tuple(order)))
    return parts[0], parts[1] if count == 2 else None


def _restored(node: Node, parts: list[GraphExpr], axis: int) -> GraphExpr:
    """The inverse of `_parts`."""
    order = list(range(rank(parts[0]) - 1))
    order.insert(axis, rank(parts[0]) - 1)
    wide = [
        node.op.unsqueeze(node.op.transpose(p, permutation=tuple(order)), axes=(rank(p),))
        for p in parts
    ]
    return wide[0] if len(wide) == 1 else node.op.concat(*wide, axis=rank(parts[0]))


def _transform(node: Node, x: GraphExpr, axis: int, *, inverse: bool, onesided: bool) -> GraphExpr:
    """The discrete Fourier transform along an axis."""
    length = node.static_dim(x, axis, "input")
    found = transform(
        node,
        _parts(node, x, axis),
        length,
        count=length // 2 + 1 if onesided else length,
        inverse=inverse,
        scale=1.0 / length if inverse else 1.0,
    )
    return _restored(node, list(found), axis)


def _inverse_real(node: Node, x: GraphExpr, axis: int, length: int | None) -> GraphExpr:
    """A real signal from the one half of its spectrum."""
    have = node.static_dim(x, axis, "input")
    total = length or 2 * (have - 1)
    x = _resized(node, x, axis, total // 2 + 1)
    result = inverse_real(node, _parts(node, x, axis), total, scale=1.0 / total)
    return _restored(node, [result], axis)


@converts("STFT")
def _stft(node: Node) -> Any:
    signal = node.tensor(0)
    window = node.optional(2)
    late = any(node.has(at) and not isinstance(node.value(at), Constant) for at in (1, 3))
    if late or not isinstance(shape(signal)[1], int):
        length = late_signal.frame_length(node, signal, window)
        cut = late_signal.frames(node, signal, length)
        return _spectra(node, signal, cut, window, length)
    step = node.integer(1, "frame_step")
    size = node.static_dim(signal, 1, "signal")
    if node.has(3):
        length = node.integer(3, "frame_length")
    elif window is not None:
        length = node.static_dim(window, 0, "window")
    else:
        length = size
    if step < 1 or not 1 <= length <= size:
        raise UserError(f"frames of {length} every {step} of a signal of {size}")
    frames = (size - length) // step + 1
    if frames * length > 1 << 22 or largest_factor(length) > LIMIT:
        raise Unsupported(f"{frames} frames of {length}")
    index = np.arange(frames)[:, None] * step + np.arange(length)
    cut = node.op.gather(signal, index, axis=1)  # [batch, frames, length, parts]
    return _spectra(node, signal, cut, window, length)


def _spectra(
    node: Node, signal: GraphExpr, cut: GraphExpr, window: GraphExpr | None, length: Any
) -> GraphExpr:
    """The transforms of the pieces of a signal."""
    if rank(signal) == 2:
        cut = node.op.unsqueeze(cut, axes=(3,))
    if window is not None:
        cut = node.op.mul(cut, node.reshape(node.cast(window, dtype(signal)), (length, 1)))
    onesided = node.attr.flag("onesided", True) and shape(cut)[-1] == 1
    if isinstance(length, int):
        return _transform(node, cut, 2, inverse=False, onesided=onesided)
    parts = _parts(node, cut, 2)
    found = late_signal.transform(node, parts, length, inverse=False, onesided=onesided)
    return _restored(node, found, 2)


@converts("MelWeightMatrix")
def _mel_weight_matrix(node: Node) -> Any:
    """Triangles between neighbouring bins of the mel scale, m = 2595 log10(1 + f / 700)."""
    bins, length, rate = (
        node.integer(at, name)
        for at, name in enumerate(("num_mel_bins", "dft_length", "sample_rate"))
    )
    low, high = (
        float(node.constant(at, name).ravel()[0])
        for at, name in ((3, "lower_edge_hertz"), (4, "upper_edge_hertz"))
    )
    if not 0 < bins <= LIMIT or not 0 < length <= 2 * LIMIT or rate <= 0:
        raise UserError(f"{bins} bins of a transform of {length} points at {rate} Hz")
    mel = [2595 * np.log10(1 + edge / 700) for edge in (low, high)]
    edges = mel[0] + np.arange(bins + 2) * (mel[1] - mel[0]) / (bins + 2)
    hertz = 700 * (10 ** (edges / 2595) - 1)
    places = ((length + 1) * hertz // rate).astype(np.int64)
    if places.min() < 0 or places.max() > length // 2:
        raise UserError(f"edges {low} and {high} Hz lie outside of the spectrum")
    left, center, right = (places[at : at + bins] for at in range(3))
    row = np.arange(length // 2 + 1)[:, None]
    rising = (row - left) / np.maximum(center - left, 1)
    falling = (right - row) / np.maximum(right - center, 1)
    matrix = np.where((row >= left) & (row <= center) & (left < center), rising, 0.0)
    matrix = np.where((row == center) & (left == center), 1.0, matrix)
    matrix = np.where((row >= center) & (row < right), falling, matrix)
    kind = dtype_of(node.attr.int("output_datatype", 1), "the result of MelWeightMatrix")
    return Constant(matrix.astype(kind.numpy))


# -- regions ---------------------------------------------------------------------------------


@converts("RoiAlign")
def _roi_align(node: Node) -> Any:
    """Every bin is the mean (or maximum) of samples between elements; the places are computed
    from the regions, the samples are read by `gather_nd`."""
    x, rois, batches = node.tensor(0), node.tensor(1), node.tensor(2)
    high, wide = node.attr.int("output_height", 1), node.attr.int("output_width", 1)
    each = node.attr.int("sampling_ratio", 0)
    if each <= 0:
        raise Unsupported("attribute `sampling_ratio` is 0: samples would depend on the regions")
    default = "half_pixel" if node.version >= 16 else "output_half_pixel"
    shift = (
        0.5 if node.attr.string("coordinate_transformation_mode", default) == "half_pixel" else 0.0
    )
    scale = node.attr.float("spatial_scale", 1.0)
    count = shape(rois)[0]
    edges = node.op.sub(node.op.mul(rois, scale), shift)
    axes = []
    for start, bins, axis in ((1, high, 2), (0, wide, 3)):
        low, top = _column(node, edges, start), _column(node, edges, start + 2)
        extent = node.op.sub(top, low)
        if shift == 0.0:
            extent = node.op.maximum(extent, 1.0)
        fractions = ((np.arange(bins * each) + 0.5) / (bins * each)).astype(dtype(x).numpy)
        places = node.op.add(low, node.op.mul(extent, fractions))  # [count, bins * each]
        axes.append(_taps(node, places, shape(x)[axis]))
    samples = _bilinear(node, x, batches, axes, count, (high * each, wide * each))
    channels = shape(x)[1]
    blocks = node.reshape(samples, (count, high, each, wide, each, channels))
    moved = node.op.transpose(blocks, permutation=(0, 5, 1, 3, 2, 4))
    if node.attr.string("mode", "avg") == "max":
        return node.op.max(moved, axes=(4, 5))
    return node.op.mean(moved, axes=(4, 5))


@converts("MaxRoiPool")
def _max_roi_pool(node: Node) -> Any:
    """The maximum of each bin of whole elements, along columns and then along rows; 0 where a bin
    lies outside of the image. A bin is elements floor(b * size / bins) to
    ceil((b + 1) * size / bins) of its region, whose corners are rounded and belong to it."""
    x, rois = node.tensor(0), node.tensor(1)
    bins = node.attr.ints("pooled_shape")
    if rank(x) != 4 or rank(rois) != 2 or len(bins) != 2 or min(bins) < 1:
        raise UserError(
            f"X, rois and attribute `pooled_shape` have {rank(x)}, {rank(rois)} dimensions and "
            f"are {bins}; expected 4, 2 and two positive integers"
        )
    corners = _rounded(node, node.op.mul(rois, node.attr.float("spatial_scale", 1.0)))
    images = node.cast(node.op.squeeze(_column(node, rois, 0), axes=(1,)), "int64")
    best = node.op.gather(x, images, axis=0)  # [count, channels, rows, columns]
    outside = []
    for axis in (1, 0):
        low, high = _column(node, corners, 2 - axis), _column(node, corners, 4 - axis)
        size = node.static_dim(x, 2 + axis, "X")
        begin, end = _bins(node, low, high, bins[axis])
        outside.append(
            node.op.less_equal(node.op.minimum(end, float(size)), node.op.maximum(begin, 0.0))
        )
        place = np.arange(size, dtype=dtype(rois).numpy)
        inside = node.op.logical_and(  # [count, 1, 1, bins, size]
            node.op.less_equal(node.op.unsqueeze(begin, axes=(1, 2, 4)), place),
            node.op.greater(node.op.unsqueeze(end, axes=(1, 2, 4)), place),
        )
        wide = node.op.unsqueeze(best, axes=(3,))
        best = node.op.max(node.op.where(inside, wide, node.scalar(-np.inf, x)), axes=(4,))
        best = node.op.transpose(best, permutation=(0, 1, 3, 2))
    columns, rows = outside
    empty = node.op.logical_or(
        node.op.unsqueeze(columns, axes=(1, 2)), node.op.unsqueeze(rows, axes=(1, 3))
    )
    return node.op.where(empty, node.scalar(0, x), best)


def _bins(node: Node, low: GraphExpr, high: GraphExpr, count: int) -> tuple[GraphExpr, GraphExpr]:
    """Where the bins of low .. high (both of them elements of the region) begin and end."""
    extent = node.op.maximum(node.op.add(node.op.sub(high, low), 1.0), 1.0)
    step = node.op.div(extent, float(count))
    numbers = np.arange(count + 1, dtype=dtype(low).numpy)
    begin = node.op.floor(node.op.mul(step, numbers[:-1]))
    end = node.op.ceil(node.op.mul(step, numbers[1:]))
    return node.op.add(begin, low), node.op.add(end, low)


def _rounded(node: Node, x: GraphExpr) -> GraphExpr:
    """To the nearest integer, from half-way away from 0."""
    size = node.op.abs(x)
    whole = node.op.floor(size)
    up = node.op.greater_equal(node.op.sub(size, whole), 0.5)
    one, zero = node.scalar(1, x), node.scalar(0, x)
    return node.op.mul(  # type: ignore[no-any-return]
        node.op.sign(x), node.op.add(whole, node.op.where(up, one, zero))
    )


def _column(node: Node, x: GraphExpr, at: int) -> GraphExpr:
    return node.op.slice(x, starts=(at,), ends=(at + 1,), axes=(1,))  # type: ignore[no-any-return]


def _taps(node: Node, places: GraphExpr, size: Any) -> list[tuple[GraphExpr, GraphExpr]]:
    """The two neighbours of each place and their weights; far outside both weights are 0."""
    end = node.cast(dimension_as_scalar(node, size), dtype(places))
    last = node.op.sub(end, node.scalar(1, places))
    inside = node.op.logical_and(
        node.op.greater_equal(places, -1.0), node.op.less_equal(places, end)
    )
    kept = node.op.minimum(node.op.maximum(places, node.scalar(0, places)), last)
    floor = node.op.floor(kept)
    ratio = node.op.sub(kept, floor)
    zero = node.scalar(0, places)
    low = node.cast(floor, "int64")
    high = node.op.minimum(node.op.add(low, 1), node.cast(last, "int64"))
    return [
        (low, node.op.where(inside, node.op.sub(node.scalar(1, ratio), ratio), zero)),
        (high, node.op.where(inside, ratio, zero)),
    ]


def _bilinear(
    node: Node,
    x: GraphExpr,
    batches: GraphExpr,
    axes: list[list[tuple[GraphExpr, GraphExpr]]],
    count: Any,
    grid: tuple[int, int],
) -> GraphExpr:
    """Samples [count, rows, columns, channels]."""
    mode = node.attr.string("mode", "avg")
    if mode not in ("avg", "max"):
        raise UserError(f"attribute `mode` is `{mode}`, expected avg or max")
    combine = node.op.add if mode == "avg" else node.op.maximum  # of the weighted neighbours
    last = node.op.transpose(x, permutation=(0, 2, 3, 1))
    image = node.reshape(node.cast(batches, "int64"), (count, 1, 1, 1))
    full = (count, *grid, 1)
    total: GraphExpr | None = None
    for rows, row_weight in axes[0]:
        for columns, column_weight in axes[1]:
            index = node.op.concat(
                node.op.broadcast_to(image, shape=full),
                node.op.broadcast_to(node.op.unsqueeze(rows, axes=(2, 3)), shape=full),
                node.op.broadcast_to(node.op.unsqueeze(columns, axes=(1, 3)), shape=full),
                axis=3,
            )
            weight = node.op.mul(
                node.op.unsqueeze(row_weight, axes=(2, 3)),
                node.op.unsqueeze(column_weight, axes=(1, 3)),
            )
            part = node.op.mul(node.op.gather_nd(last, index), weight)
            total = part if total is None else combine(total, part)
    assert total is not None
    return total
