# SPDX-License-Identifier: Apache-2.0
"""Repetitions, counts and reductions of segments, whose lengths are data."""

from __future__ import annotations

import math
from typing import Any

from heddle.frontend.torch.node import Node, dtype, rank, shape
from heddle.frontend.torch.ops.indexing import index_of
from heddle.frontend.torch.registry import converts
from heddle.frontend.torch.report import Unsupported
from heddle.graph import GraphExpr
from heddle.passes.graph.host_plan import SYMBOL_MAX


def largest_known(size: Any) -> int:
    """The largest value that a size can have; of one without a bound the largest there is."""
    if isinstance(size, int):
        return size
    bounds = size.node.shape_env.bound_sympy(size.node.expr)
    return int(bounds.upper) if bounds.upper.is_Integer else SYMBOL_MAX


def largest_size(size: Any) -> int:
    """The upper bound that a program gives for a size that depends on data."""
    most = largest_known(size)
    if most >= SYMBOL_MAX:
        raise Unsupported(
            "the size of the result depends on data and has no upper bound; "
            "`torch._check(y.shape[0] <= 1000)` says one"
        )
    return most


def _size(node: Node, count: GraphExpr) -> Any:
    """The size of the result's first axis, which is `count` where it depends on data."""
    size = node.result.shape[0]
    known = isinstance(size, int) or node.importer.symbols.knows(size)
    return node.shape[0] if known else node.bind_dim(count, largest_size(size), size)


def numbered(node: Node, starts: GraphExpr, count: Any) -> GraphExpr:
    """For each of `count` positions how many of `starts`, which ascend, are at or before it."""
    marks = node.full((count,), 0, dtype(node.tensor(0)))
    at = node.op.unsqueeze(starts, axes=(1,))
    ones = node.full(shape(starts), 1, dtype(marks))
    # A start behind the last position is written nowhere.
    return node.op.cumsum(node.op.scatter_nd(marks, at, ones, reduction="add"), axis=0)  # type: ignore[no-any-return]


@converts("aten.repeat_interleave.Tensor")
def _repeat_interleave(node: Node, repeats: GraphExpr, *, output_size: Any = None) -> Any:
    """Each position as often as `repeats` says."""
    counts = node.cast(repeats, "int64")
    count = _size(node, node.op.sum(counts, axes=(0,)))
    return numbered(node, node.op.cumsum(counts, axis=0), count)


@converts("aten.bincount.default")
def _bincount(
    node: Node, x: GraphExpr, weights: GraphExpr | None = None, minlength: Any = 0
) -> Any:
    values = node.cast(x, "int64")
    most = node.op.add(node.op.max(values, axes=(0,)), 1)
    count = _size(node, node.op.maximum(most, node.tensor(minlength, "int64")))
    start = node.full((count,), 0, node.dtype)
    ones = node.full(shape(values), 1, node.dtype)
    added = ones if weights is None else node.cast(weights, node.dtype)
    at = node.op.unsqueeze(values, axes=(1,))
    return node.op.scatter_nd(start, at, added, reduction="add")


# -- segments --------------------------------------------------------------------------------

_START = {"sum": 0.0, "mean": 0.0, "prod": 1.0, "max": -math.inf, "min": math.inf}
_COMBINE = {"sum": "add", "mean": "add", "prod": "mul", "max": "max", "min": "min"}


class _Segments:
    """Which segment each row is in, and how many rows a segment has. A row behind the last segment
    is in one that there is not."""

    def __init__(
        self,
        node: Node,
        data: GraphExpr,
        lengths: GraphExpr | None,
        offsets: GraphExpr | None,
        axis: int,
    ) -> None:
        given = lengths if lengths is not None else offsets
        if given is None or rank(given) != 1 or axis:
            raise Unsupported("segments along another axis than the first")
        self.node = node
        rows = shape(data)[0]
        if lengths is not None:
            self.sizes = index_of(node, lengths)
            ends = node.op.cumsum(self.sizes, axis=0)
            self.of_row = numbered(node, ends, rows)
        else:
            borders = index_of(node, given)
            count = shape(borders)[0] - 1
            first = node.op.slice(borders, starts=(0,), ends=(count,), axes=(0,))
            last = node.op.slice(borders, starts=(1,), ends=(count + 1,), axes=(0,))
            self.sizes = node.op.sub(last, first)
            self.of_row = node.op.sub(numbered(node, borders, rows), 1)
        self.count = shape(self.sizes)[0]

    def reduced(self, values: GraphExpr, start: float, how: str) -> GraphExpr:
        """The rows of each segment combined, from `start` on."""
        dims = (self.count, *shape(values)[1:])
        node = self.node
        empty = node.full(dims, start, dtype(values))
        at = node.op.unsqueeze(self.of_row, axes=(1,))
        return node.op.scatter_nd(empty, at, values, reduction=how)  # type: ignore[no-any-return]

    def spread(self, values: GraphExpr) -> GraphExpr:
        """For each row what `values` has for its segment."""
        return self.node.op.gather(values, self.of_row, axis=0)  # type: ignore[no-any-return]

    def inside(self, like: GraphExpr) -> GraphExpr:
        """Whether a row is in a segment at all, with as many axes as `like`."""
        held = self.node.op.less(self.of_row, self.node.tensor(self.count, "int64"))
        return _column(self.node, held, like)


def _column(node: Node, values: GraphExpr, like: GraphExpr) -> GraphExpr:
    """One value a row, with as many axes as `like`."""
    axes = tuple(range(1, rank(like)))
    return node.op.unsqueeze(values, axes=axes) if axes else values


@converts("aten.segment_reduce.default")
def _segment_reduce(
    node: Node,
    data: GraphExpr,
    reduce: str,
    *,
    lengths: GraphExpr | None = None,
    indices: GraphExpr | None = None,
    offsets: GraphExpr | None = None,
    axis: int = 0,
    unsafe: bool = False,
    initial: Any = None,
) -> Any:
    wide = node.cast(data, "float32") if dtype(data).bits == 16 else data
    segments = _Segments(node, wide, lengths, offsets, axis)
    start = _START[reduce] if initial is None else float(initial)
    found = segments.reduced(wide, start, _COMBINE[reduce])
    if reduce != "mean":
        return found
    size = _column(node, node.cast(segments.sizes, dtype(wide)), found)
    empty = node.scalar(math.nan if initial is None else start, found)
    some = node.op.greater(size, 0.0)
    mean = node.op.div(found, node.op.maximum(size, 1.0))
    return node.op.where(some, mean, empty)


@converts("aten._segment_reduce_backward.default")
def _segment_reduce_backward(
    node: Node,
    grad: GraphExpr,
    output: GraphExpr,
    data: GraphExpr,
    reduce: str,
    *,
    lengths: GraphExpr | None = None,
    offsets: GraphExpr | None = None,
    axis: int = 0,
    initial: Any = None,
) -> Any:
    segments = _Segments(node, data, lengths, offsets, axis)
    if reduce == "mean":
        size = _column(node, node.cast(segments.sizes, dtype(grad)), grad)
        grad = node.op.div(grad, node.op.maximum(size, 1.0))
    share = segments.spread(grad)
    if reduce in ("max", "min"):
        # Those that attain the extreme share its gradient.
        same = node.op.equal(data, segments.spread(output))
        chosen = node.op.logical_or(same, node.op.isnan(data))
        number = segments.reduced(node.cast(chosen, dtype(grad)), 0.0, "add")
        share = segments.spread(node.op.div(grad, node.op.maximum(number, 1.0)))
        share = node.op.where(chosen, share, node.scalar(0.0, share))
    if reduce == "prod":
        start = 1.0 if initial is None else float(initial)
        share = node.op.mul(share, _others(node, segments, data, start))
    return node.op.where(segments.inside(share), share, node.scalar(0.0, share))


def _others(node: Node, segments: _Segments, data: GraphExpr, start: float) -> GraphExpr:
    """The product of the other rows of a row's segment, and of `start`; also beside zeros."""
    is_zero = node.op.equal(data, 0.0)
    filled = node.op.where(is_zero, node.scalar(1.0, data), data)
    product = segments.spread(segments.reduced(filled, start, "mul"))
    zeros = segments.spread(segments.reduced(node.cast(is_zero, dtype(data)), 0.0, "add"))
    others = node.op.sub(zeros, node.cast(is_zero, dtype(data)))
    none = node.op.equal(others, 0.0)
    return node.op.where(none, node.op.div(product, filled), node.scalar(0.0, data))  # type: ignore[no-any-return]
