# SPDX-License-Identifier: Apache-2.0
"""Weights in the order in which kernels read them; what is missing to a full block is zero."""

from __future__ import annotations

import numpy as np


def _padded(data: np.ndarray, axis: int, multiple: int) -> np.ndarray:
    """`data` with zeros at the end of `axis`, up to a multiple."""
    missing = -data.shape[axis] % multiple
    if not missing:
        return data
    widths = [(0, missing if at == axis else 0) for at in range(data.ndim)]
    return np.pad(data, widths)


def block_channels(data: np.ndarray, block: int) -> np.ndarray:
    """[N, C, H, W] -> [N, C / block, H, W, block]"""
    n, _, h, w = data.shape
    full = _padded(data, 1, block)
    return np.ascontiguousarray(full.reshape(n, -1, block, h, w).transpose(0, 1, 3, 4, 2))


def pack_convolution(weight: np.ndarray, inner: int, outer: int) -> np.ndarray:
    """[O, I, KH, KW] -> [O / outer, I / inner, KH, KW, inner, outer]"""
    full = _padded(_padded(weight, 0, outer), 1, inner)
    o, i, kh, kw = full.shape
    split = full.reshape(o // outer, outer, i // inner, inner, kh, kw)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 5, 3, 1))


def pack_dot_convolution(weight: np.ndarray, inner: int, outer: int, depth: int) -> np.ndarray:
    """[O, I, KH, KW] -> [O / outer, I / inner, KH, KW, inner / depth, outer, depth]"""
    packed = pack_convolution(weight, inner, outer)
    split = packed.reshape(*packed.shape[:4], inner // depth, depth, outer)
    return np.ascontiguousarray(split.swapaxes(-1, -2))


def taps_as_channels(weight: np.ndarray, channels: int, block: int) -> np.ndarray:
    """[O, I, KH, KW] -> [O, block, KH, 1]: element k * channels + i is tap k of channel i, as
    `op.row_taps` orders them."""
    full = _padded(weight, 1, channels).transpose(0, 3, 1, 2)
    taps = full.reshape(full.shape[0], -1, full.shape[3], 1)
    return _padded(taps, 1, block)


def merge_groups(weight: np.ndarray, groups: int, merged: int) -> np.ndarray:
    """The weights [O, I, KH, KW] of a convolution of `groups` groups as those of one with every
    `merged` neighbouring groups in one: [O, merged * I, KH, KW], zero from one to another."""
    o, i, kh, kw = weight.shape
    split = weight.reshape(groups // merged, merged, o // groups, i, kh, kw)
    wide = np.zeros((groups // merged, merged, o // groups, merged, i, kh, kw), weight.dtype)
    for at in range(merged):
        wide[:, at, :, at] = split[:, at]
    return wide.reshape(o, merged * i, kh, kw)


def pad_each(array: np.ndarray, groups: int, block: int) -> np.ndarray:
    """The channels [groups * C, ...] of each group with zeros after them, up to whole blocks."""
    each = array.shape[0] // groups
    split = array.reshape(groups, each, *array.shape[1:])
    full = _padded(split, 1, block)
    return full.reshape(groups * full.shape[1], *array.shape[1:])


def pack_depthwise(weight: np.ndarray, block: int) -> np.ndarray:
    """[C, 1, KH, KW] -> [C / block, 1, KH, KW, 1, block]"""
    full = _padded(weight, 0, block)
    c, _, kh, kw = full.shape
    split = full.reshape(c // block, block, kh, kw).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(split[:, None, :, :, None, :])


def pack_bias(bias: np.ndarray, block: int) -> np.ndarray:
    """[O] -> [O / block, block]"""
    return np.ascontiguousarray(_padded(bias, 0, block).reshape(-1, block))


def pack_panels(matrix: np.ndarray, width: int) -> np.ndarray:
    """[K, N] -> [N / width, K, width]"""
    depth, columns = matrix.shape
    panels = -(-columns // width)
    packed = np.zeros((panels, depth, width), matrix.dtype)
    whole = columns // width
    split = matrix[:, : whole * width].reshape(depth, whole, width)
    packed[:whole] = split.transpose(1, 0, 2)
    if whole < panels:
        packed[whole, :, : columns - whole * width] = matrix[:, whole * width :]
    return packed


def spread_transposed(weight: np.ndarray) -> np.ndarray:
    """The weights [I, O, KH, KW] of a transposed convolution whose tiles do not overlap, as those
    of a 1x1 convolution to tile position and channel: [KH * KW * O, I, 1, 1]."""
    i, o, kh, kw = weight.shape
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0).reshape(kh * kw * o, i, 1, 1))


def repeat(bias: np.ndarray, times: int) -> np.ndarray:
    """[O] -> [times * O], the whole repeated."""
    return np.tile(bias, times)
