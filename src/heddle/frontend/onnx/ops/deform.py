# SPDX-License-Identifier: Apache-2.0
"""Convolutions at places that the model computes, and words by their n-grams."""

from __future__ import annotations

from typing import Any

import numpy as np

from heddle.frontend.onnx.node import Node, dtype, rank, shape
from heddle.frontend.onnx.ops.window import spatial_ints
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.text import as_text, lookup
from heddle.frontend.onnx.values import tensor_type
from heddle.graph import GraphExpr
from heddle.support import UserError


@converts("DeformConv")
def _deform_conv(node: Node) -> Any:
    """Every tap is read between elements at its own offset, then one product with the weights."""
    x, w, offset = node.tensor(0), node.tensor(1), node.tensor(2)
    if rank(x) != 4:
        raise Unsupported(f"deformable convolution of {rank(x) - 2} axes")
    n, channels, high, wide = node.static_shape(x, "X")
    outputs, per_group, *kernel = node.static_shape(w, "W")
    rows, columns = node.static_shape(offset, "offset")[2:]
    groups, regions = node.attr.int("group", 1), node.attr.int("offset_group", 1)
    taps, places = kernel[0] * kernel[1], rows * columns
    if channels != per_group * groups or channels % regions or outputs % groups:
        raise UserError(f"{channels} channels, W for {per_group}, group {groups} and {regions}")
    moves = node.reshape(offset, (n, regions, taps, 2, places))
    shifts = spatial_ints(node, "strides", 2), spatial_ints(node, "dilations", 2)
    pads = node.attr.ints("pads", (0, 0, 0, 0))
    grid = np.indices((*kernel, rows, columns)).reshape(4, taps, places)
    ends = []
    for axis, size in ((0, high), (1, wide)):
        start = grid[2 + axis] * shifts[0][axis] + grid[axis] * shifts[1][axis] - pads[axis]
        cut = node.op.slice(moves, starts=(axis,), ends=(axis + 1,), axes=(3,))
        place = node.op.add(node.op.squeeze(cut, axes=(3,)), start.astype(dtype(x).numpy))
        ends.append(_neighbours(node, place, size))
    part = node.reshape(x, (n * regions, channels // regions, high * wide))
    total: GraphExpr | None = None
    for row, row_weight in ends[0]:
        for column, column_weight in ends[1]:
            flat = node.op.add(node.op.mul(row, wide), column)
            index = node.reshape(flat, (n * regions, 1, taps * places))
            spread = (n * regions, channels // regions, taps * places)
            read = node.op.gather_elements(part, node.op.broadcast_to(index, shape=spread), axis=2)
            weight = node.reshape(
                node.op.mul(row_weight, column_weight), (n * regions, 1, taps * places)
            )
            term = node.op.mul(read, weight)
            total = term if total is None else node.op.add(total, term)
    sampled = node.reshape(total, (n, regions, channels // regions, taps, places))  # type: ignore[arg-type]
    if node.has(4):
        mask = node.reshape(node.tensor(4), (n, regions, 1, taps, places))
        sampled = node.op.mul(sampled, mask)
    matrix = node.reshape(sampled, (n, groups, per_group * taps, places))
    weights = node.reshape(w, (1, groups, outputs // groups, per_group * taps))
    result = node.reshape(node.op.matmul(weights, matrix), (n, outputs, rows, columns))
    if node.has(3):
        result = node.op.add(result, node.reshape(node.tensor(3), (outputs, 1, 1)))
    return result


def _neighbours(node: Node, place: GraphExpr, size: int) -> list[tuple[GraphExpr, GraphExpr]]:
    """The elements before and after each place and their weights, 0 outside of the tensor."""
    before = node.op.floor(place)
    ratio = node.op.sub(place, before)
    found = []
    for step, weight in ((0.0, node.op.sub(node.scalar(1, ratio), ratio)), (1.0, ratio)):
        at = node.op.add(before, step) if step else before
        inside = node.op.logical_and(
            node.op.greater_equal(at, 0.0), node.op.less_equal(at, float(size - 1))
        )
        kept = node.cast(node.op.clip(at, min=0.0, max=float(size - 1)), "int64")
        found.append((kept, node.op.where(inside, weight, node.scalar(0, weight))))
    return found


def max_pool_positions(node: Node, x: GraphExpr, attrs: dict[str, Any]) -> tuple[Any, Any]:
    """Maxima of windows and their positions in the flattened tensor, int64: of equals the first."""
    n, channels, *sizes = node.static_shape(x, "X")
    sizes_out = node.static_shape(node.op.max_pool(x, **attrs), "Y")[2:]
    count, kernel = len(sizes), attrs["kernel"]
    strides, pads, dilations = attrs["strides"], attrs["pads"], attrs["dilations"]
    needed = [
        (sizes_out[a] - 1) * strides[a] + (kernel[a] - 1) * dilations[a] + 1 for a in range(count)
    ]
    after = [max(0, needed[a] - sizes[a] - pads[a]) for a in range(count)]
    lowest = -np.inf if dtype(x).is_float else dtype(x).min_value
    full = node.op.pad(x, pads=(0, 0, *pads[:count], 0, 0, *after), value=lowest)
    windows, positions = [], []
    steps = np.asarray([int(np.prod(sizes[a + 1 :])) for a in range(count)])
    if node.attr.int("storage_order", 0) == 1:
        steps = np.asarray([int(np.prod(sizes[:a])) for a in range(count)])
    out = np.indices(sizes_out)
    for tap in np.ndindex(*kernel):
        starts = [tap[a] * dilations[a] for a in range(count)]
        cut = node.op.slice(
            full,
            starts=tuple(starts),
            ends=tuple(starts[a] + (sizes_out[a] - 1) * strides[a] + 1 for a in range(count)),
            axes=tuple(range(2, 2 + count)),
            steps=tuple(strides),
        )
        windows.append(node.op.unsqueeze(cut, axes=(0,)))
        places = [out[a] * strides[a] + starts[a] - pads[a] for a in range(count)]
        positions.append(sum(place * step for place, step in zip(places, steps, strict=True)))
    stacked = node.op.concat(*windows, axis=0)
    best = node.op.argmax(stacked, axis=0)
    area = int(np.prod(sizes_out))
    table = np.asarray(positions, np.int64).reshape(len(positions), area)
    flat = node.op.gather_elements(table, node.reshape(best, (n * channels, area)), axis=0)
    first = np.arange(n * channels, dtype=np.int64).reshape(-1, 1) * int(np.prod(sizes))
    index = node.reshape(node.op.add(flat, first), (n, channels, *sizes_out))
    return node.op.max(stacked, axes=(0,)), index


# -- n-grams ---------------------------------------------------------------------------------


@converts("TfIdfVectorizer")
def _tfidf(node: Node) -> Any:
    """How often each n-gram of the pool occurs, by comparison of all windows with all of them."""
    x, pool = _words(node)
    if rank(x) > 2:
        raise UserError(f"the input has {rank(x)} dimensions, expected 1 or 2")
    rows = x if rank(x) == 2 else node.op.unsqueeze(x, axes=(0,))
    rows = node.cast(rows, "int64")
    width = node.static_dim(rows, 1, "X")
    counts, columns = node.attr.ints("ngram_counts"), node.attr.ints("ngram_indexes")
    total: Any = None
    seen = 0
    for size, start in enumerate(counts, 1):
        end = counts[size] if size < len(counts) else len(pool)
        grams = pool[start:end].reshape(-1, size)
        wanted = node.attr.int("min_gram_length") <= size <= node.attr.int("max_gram_length")
        to_column = np.zeros((len(grams), max(columns) + 1), np.float32)
        to_column[np.arange(len(grams)), columns[seen : seen + len(grams)]] = 1
        seen += len(grams)
        if not wanted or not len(grams):
            continue
        found = _occurrences(node, rows, width, grams)
        part = node.op.matmul(found, to_column)
        total = part if total is None else node.op.add(total, part)
    if total is None:
        raise Unsupported("a pool without n-grams of the lengths that are asked for")
    result = _weighted(node, total, columns)
    return result if rank(x) == 2 else node.op.squeeze(result, axes=(0,))


def _words(node: Node) -> tuple[GraphExpr, np.ndarray]:
    """The elements and the pool of n-grams as integers; strings are numbered, those that the pool
    does not have -1."""
    if "pool_strings" not in node.attr:
        return node.tensor(0), np.asarray(node.attr.ints("pool_int64s"), np.int64)
    pool = node.attr.strings("pool_strings")
    number = {word: at for at, word in enumerate(pool)}
    text = as_text(node.value(0))
    found = lookup(node, text, np.asarray([number.get(t, -1) for t in text.table], np.int64))
    return found, np.asarray([number[word] for word in pool], np.int64)


def _occurrences(node: Node, rows: GraphExpr, width: int, grams: np.ndarray) -> GraphExpr:
    """float32[rows, grams]"""
    size = grams.shape[1]
    skips = range(node.attr.int("max_skip_count") + 1) if size > 1 else range(1)
    starts = [
        [at + step * (skip + 1) for step in range(size)]
        for skip in skips
        for at in range(width - (size - 1) * (skip + 1))
    ]
    batch = tensor_type(rows).shape[0]
    if not starts:
        empty = node.op.full(shape=(batch, len(grams)), value=0.0, dtype="float32")
        return empty  # type: ignore[no-any-return]
    windows = node.op.gather(rows, np.asarray(starts, np.int64), axis=1)  # [rows, windows, size]
    same = node.op.equal(node.op.unsqueeze(windows, axes=(2,)), grams)
    matches = node.op.sum(node.cast(same, "int32"), axes=(3,))
    whole = node.cast(node.op.equal(matches, np.int32(size)), "float32")
    return node.op.sum(whole, axes=(1,))  # type: ignore[no-any-return]


def _weighted(node: Node, counts: GraphExpr, columns: tuple[int, ...]) -> GraphExpr:
    mode = node.attr.string("mode")
    if mode not in ("TF", "IDF", "TFIDF"):
        raise UserError(f"attribute `mode` is `{mode}`, expected TF, IDF or TFIDF")
    weights = np.ones(shape(counts)[1], np.float32)
    given = node.attr.floats("weights", None)
    if given is not None:
        weights[list(columns)] = given
    if mode == "TF":
        return counts
    if mode == "IDF":
        counts = node.cast(node.op.greater(counts, 0.0), "float32")
    return node.op.mul(counts, weights)  # type: ignore[no-any-return]
