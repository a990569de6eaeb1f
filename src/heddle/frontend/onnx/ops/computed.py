# SPDX-License-Identifier: Apache-2.0
"""Operators whose results have shapes that are computed at run time (see `sizes.py`)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from heddle.frontend.onnx.node import Node, dtype, normal_axis, rank, shape
from heddle.frontend.onnx.ops.axes import axes_of
from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.sizes import (
    bound_of,
    dimension_as_scalar,
    item,
    largest,
    length_of,
    product,
    scalar,
    size_of,
    sizes_of,
)
from heddle.frontend.onnx.values import Value
from heddle.graph import Constant, GraphExpr
from heddle.graph.dims import same_dim, simplify_dim
from heddle.ir import DType
from heddle.ir.expr import Expr, as_expr, as_int, const, floordiv, maximum, minimum
from heddle.support import UserError


def is_computed(value: Value) -> bool:
    """Whether a value is known at run time only."""
    return isinstance(value, GraphExpr) and not isinstance(value, Constant)


def _whole(value: int) -> Constant:
    return Constant(np.asarray(value, np.int64))


def range_of(node: Node) -> Any:
    """start, start + delta, ... before limit: as many numbers as the three give at run time."""
    start, limit, delta = (node.reshape(node.as_tensor(node.value(at)), ()) for at in range(3))
    if isinstance(delta, Constant) and not delta.data.item():
        raise UserError("`delta` is 0")
    kind = dtype(start)
    wide = "float64" if kind.is_float else "int64"
    first, last, step = (node.cast(x, wide) for x in (start, limit, delta))
    if kind.is_float:
        ratio = node.op.ceil(node.op.div(node.op.sub(last, first), step))
        # What is no number of elements becomes one that does not fit.
        fits = node.op.less(node.op.abs(ratio), node.scalar(2.0**62, ratio))
        count = node.cast(node.op.where(fits, ratio, node.scalar(2.0**62, ratio)), "int64")
    else:
        zero = node.op.equal(step, _whole(0))
        safe = node.op.where(zero, _whole(1), step)
        span = node.op.sub(last, first)
        # Towards plus infinity; where the step is 0 what does not fit.
        down = node.op.div(span, safe)
        rest = node.op.sub(span, node.op.mul(down, safe))
        same = node.op.equal(node.op.less(rest, _whole(0)), node.op.less(safe, _whole(0)))
        above = node.op.logical_and(node.op.not_equal(rest, _whole(0)), same)
        up = node.op.add(down, node.cast(above, "int64"))
        count = node.op.where(zero, _whole(1 << 62), up)
    size = node.bind_dim(node.op.maximum(count, _whole(0)), _longest(node))
    steps = node.op.range(count=size, dtype=wide)
    return node.cast(node.op.add(node.op.mul(steps, step), first), kind)


def _longest(node: Node) -> Expr:
    """The most elements that a range can have."""
    step = node.value(2).data.item() if isinstance(node.value(2), Constant) else None
    backwards = step is not None and step < 0
    low, high = (1, 0) if backwards else (0, 1)
    most = bound_of(node, node.value(high), None, ("start", "limit")[high])
    if step is None:  # in either direction
        most = maximum(most, bound_of(node, node.value(low), None, "start"))
    floor = node.value(low)
    if step is not None and isinstance(floor, Constant):
        most = most - const(int(np.floor(floor.data.item())))
    if step is not None and abs(step) > 1:
        most = floordiv(most + const(int(abs(step)) - 1), const(int(abs(step))))
    elif step is not None and abs(step) < 1:
        most = most * const(int(np.ceil(1 / abs(step))))
    return maximum(most, const(0))


def reshape_of(node: Node, x: GraphExpr) -> Any:
    """In any of the dimensions the shape may have -1 or 0, as it turns out at run time."""
    wanted = node.value(1)
    count = length_of(node, wanted, "shape")
    items = [item(node, wanted, at) for at in range(count)]
    total = product(shape(x))
    fixed: list[Any] = []
    sizes: list[GraphExpr] = []
    for at, found in enumerate(items):
        size = scalar(node, wanted, at)
        if not node.attr.flag("allowzero") and at < rank(x):
            own = dimension_as_scalar(node, shape(x)[at])
            size = node.op.where(node.op.equal(size, _whole(0)), own, size)
        sizes.append(size)
        static = found if isinstance(found, Expr) else None
        if isinstance(found, int):
            zero = found == 0 and not node.attr.flag("allowzero") and at < rank(x)
            static = shape(x)[at] if zero else found if found >= 0 else None
        fixed.append(static)
    known = product([dim for dim in fixed if dim is not None])
    if as_int(known) == 0 or as_int(total) == 0:
        raise Unsupported(
            "a computed `shape` of no elements", inputs=node.importer.sources_of(node.tensor(1))
        )
    elements = dimension_as_scalar(node, total)
    sizes = _filled(node, sizes, elements)
    least = floordiv(total, known)
    dims: list[Any] = []
    for size, static in zip(sizes, fixed, strict=True):
        dims.append(node.bind_dim(size, as_expr(least)) if static is None else static)
    flat = node.op.prefix(node.reshape(x, (-1,)), shape=(_plain(product(dims)),))
    return node.reshape(flat, dims)


def _filled(node: Node, sizes: list[GraphExpr], elements: GraphExpr) -> list[GraphExpr]:
    """-1 replaced by what is left; all -1, which no dimension can be, where the number of elements
    does not come out."""
    missing = [node.op.equal(size, _whole(-1)) for size in sizes]
    others: GraphExpr = _whole(1)
    for size, where in zip(sizes, missing, strict=True):
        others = node.op.mul(others, node.op.where(where, _whole(1), size))
    rest = node.op.div(elements, node.op.maximum(others, _whole(1)))
    full = [node.op.where(where, rest, size) for size, where in zip(sizes, missing, strict=True)]
    exact: GraphExpr = _whole(1)
    rough: GraphExpr = Constant(np.asarray(1.0))
    free: GraphExpr = _whole(0)
    for size, where in zip(full, missing, strict=True):
        exact = node.op.mul(exact, size)
        rough = node.op.mul(rough, node.cast(size, "float64"))
        free = node.op.add(free, node.cast(where, "int64"))
    # A product that wraps around may come out right: the rough one says that it did not.
    limit = node.op.add(node.op.mul(node.cast(elements, "float64"), 2.0), 1.0)
    right = node.op.logical_and(node.op.equal(exact, elements), node.op.less(rough, limit))
    right = node.op.logical_and(right, node.op.less(free, _whole(2)))
    return [node.op.where(right, size, _whole(-1)) for size in full]


def _plain(value: Any) -> Any:
    known = as_int(as_expr(value))
    return value if known is None else known


def expand_of(node: Node, x: GraphExpr) -> Any:
    """Broadcast to sizes that are computed, where x has 1; others are 1 or that of x."""
    wanted = node.value(1)
    count = length_of(node, wanted, "shape")
    have = [1] * (count - rank(x)) + list(shape(x))
    dims: list[Any] = list(have)
    for at in range(count):
        axis = len(have) - count + at
        found, own = item(node, wanted, at), have[axis]
        if not isinstance(found, tuple):
            dims[axis] = own if found == 1 else _plain(found)
        elif own == 1:
            dims[axis] = size_of(node, wanted, at, "shape")
        elif as_int(as_expr(own)) is None and largest(node, wanted, at) is not None:
            dims[axis], x = _spread_axis(node, x, axis - len(have) + rank(x), at)
            have[axis] = dims[axis]
        else:
            size, same = scalar(node, wanted, at), dimension_as_scalar(node, own)
            fits = node.op.logical_or(node.op.equal(size, _whole(1)), node.op.equal(size, same))
            dims[axis] = node.bind_dim(node.op.where(fits, same, _whole(-1)), as_expr(own))
            front = [d if a != axis else dims[axis] for a, d in enumerate(have)]
            x = node.op.prefix(x, shape=tuple(front[len(have) - rank(x) :]))
            have[axis] = dims[axis]
    return node.op.broadcast_to(x, shape=tuple(dims))


def _spread_axis(node: Node, x: GraphExpr, axis: int, at: int) -> tuple[Expr, GraphExpr]:
    """An axis that may have 1 element, as it turns out at run time, in the size that element `at`
    of input 1 says."""
    own = shape(x)[axis]
    size, have = scalar(node, node.value(1), at), dimension_as_scalar(node, own)
    single = node.op.equal(have, _whole(1))
    fits = node.op.logical_or(node.op.equal(size, _whole(1)), node.op.equal(size, have))
    wanted = node.op.where(single, size, node.op.where(fits, have, _whole(-1)))
    room = maximum(as_expr(own), bound_of(node, node.value(1), at, "shape"))
    dim = node.bind_dim(wanted, room)
    places = node.op.range(count=dim, dtype="int64")
    places = node.op.minimum(places, node.op.maximum(node.op.sub(have, _whole(1)), _whole(0)))
    return dim, node.op.gather(x, places, axis=axis)


def tile_of(node: Node, x: GraphExpr) -> Any:
    """[x0, x1] to [r0, x0, r1, x1] to [r0 * x0, r1 * x1]."""
    repeats = sizes_of(node, 1, "repeats")
    if len(repeats) != rank(x):
        raise UserError(f"`repeats` has {len(repeats)} elements for {rank(x)} dimensions")
    dims = list(zip(repeats, shape(x), strict=True))
    apart = node.reshape(x, [size for _, dim in dims for size in (1, dim)])
    spread = node.op.broadcast_to(apart, shape=tuple(size for pair in dims for size in pair))
    return node.reshape(spread, [_plain(as_expr(count) * dim) for count, dim in dims])


def pad_of(node: Node, x: GraphExpr, mode: str) -> Any:
    """Axis by axis: the place in x of each element of the result, and what is outside of x."""
    if mode not in ("constant", "edge", "reflect", "wrap"):
        raise UserError(f"attribute `mode` is `{mode}`, expected constant, edge, reflect or wrap")
    value: GraphExpr = node.scalar(0, x)
    if node.has(2):
        value = node.reshape(node.cast(node.tensor(2), dtype(x)), ())
    for axis, before, after, more in _paddings(node, x):
        dim = shape(x)[axis]
        own = dimension_as_scalar(node, dim)
        total = node.op.add(node.op.add(own, before), after)
        size = node.bind_dim(node.op.maximum(total, _whole(0)), as_expr(dim) + more)
        cut, behind = (
            node.op.maximum(node.op.negative(side), _whole(0)) for side in (before, after)
        )
        own = node.op.sub(own, node.op.add(cut, behind))  # what is cut off goes first
        front = node.op.maximum(before, _whole(0))
        places = node.op.sub(node.op.range(count=size, dtype="int64"), front)
        x = filled_axis(node, x, axis, places, own, mode, value, cut)
    return node.op.identity(x)


def _paddings(node: Node, x: GraphExpr) -> list[tuple[int, GraphExpr, GraphExpr, Expr]]:
    """Each axis that is padded, by how much before and behind, and the most that this can be."""
    pads, ndim = node.value(1), rank(x)
    if node.has(3) and not isinstance(node.value(3), Constant):
        axes = axes_of(node, node.value(3), ndim)
        count = length_of(node, pads, "pads") // 2
        whole = node.as_tensor(pads)
        halves = (
            node.op.slice(whole, starts=(start,), ends=(start + count,), axes=(0,))
            for start in (0, count)
        )
        before, after = (axes.spread(node, half, 0) for half in halves)
        rooms = [bound_of(node, pads, place, "pads") for place in range(2 * count)]
        most = const(0)
        for at in range(count):
            most = maximum(most, rooms[at] + rooms[at + count])
        return [(axis, before[axis], after[axis], most) for axis in range(ndim)]
    given = node.ints(3, "axes") if node.has(3) else range(ndim)
    count = len(given)
    found = []
    for at, axis in enumerate(given):
        ends = [item(node, pads, place) for place in (at, at + count)]
        if ends == [0, 0]:
            continue
        before, after = (scalar(node, pads, place) for place in (at, at + count))
        room = bound_of(node, pads, at, "pads") + bound_of(node, pads, at + count, "pads")
        found.append((normal_axis(axis, ndim), before, after, room))
    return found


def filled_axis(
    node: Node,
    x: GraphExpr,
    axis: int,
    places: GraphExpr,
    own: GraphExpr,
    mode: str,
    value: GraphExpr,
    cut: GraphExpr,
) -> GraphExpr:
    """What is at `places` of an axis without its first `cut` elements, of which `own` are there."""
    last = node.op.sub(own, _whole(1))
    if mode == "wrap":
        kept = node.op.floor_mod(places, node.op.maximum(own, _whole(1)))
    elif mode == "reflect":
        # A triangle of period 2 * (own - 1).
        period = node.op.maximum(node.op.mul(last, _whole(2)), _whole(1))
        around = node.op.floor_mod(places, period)
        kept = node.op.minimum(around, node.op.sub(period, around))
        kept = node.op.minimum(kept, node.op.maximum(last, _whole(0)))
    else:
        kept = node.op.minimum(node.op.maximum(places, _whole(0)), last)
    if mode != "constant":
        return node.op.gather(x, node.op.add(kept, cut), axis=axis)  # type: ignore[no-any-return]
    # One more row, of what is outside: there may be no other.
    pads = [0] * (2 * rank(x))
    pads[axis + rank(x)] = 1
    longer = node.op.pad(x, pads=tuple(pads))
    kept = node.op.add(node.op.maximum(kept, _whole(0)), cut)
    found = node.op.gather(longer, kept, axis=axis)
    inside = node.op.logical_and(
        node.op.greater_equal(places, _whole(0)), node.op.less(places, own)
    )
    wide = [1] * rank(x)
    wide[axis] = shape(places)[0]
    return node.op.where(node.reshape(inside, wide), found, value)  # type: ignore[no-any-return]


def center_of(node: Node, x: GraphExpr, axes: list[int]) -> Any:
    """The middle of x, or x in the middle of zeros, in sizes that are computed."""
    count = length_of(node, node.value(1), "shape")
    if len(axes) != count:
        raise UserError(f"`shape` has {count} elements for {len(axes)} axes")
    nothing = _whole(0)
    for at, axis in enumerate(axes):
        own = dimension_as_scalar(node, shape(x)[axis])
        size = size_of(node, node.value(1), at, "shape")
        more = node.op.sub(dimension_as_scalar(node, size), own)
        # Half of what is cut off or put around, rounded down, is at the front.
        half = node.op.div(more, _whole(2))  # towards zero
        places = node.op.sub(node.op.range(count=size, dtype="int64"), half)
        x = filled_axis(node, x, axis, places, own, "constant", node.scalar(0, x), nothing)
    return node.op.identity(x)


def eye_of(node: Node, x: GraphExpr, offset: int, kind: DType) -> Any:
    """Ones on a diagonal of a matrix of symbolic size."""
    if rank(x) != 2:
        raise UserError(f"the input has {rank(x)} dimensions, expected 2")
    rows, columns = shape(x)
    row = node.reshape(node.op.range(count=rows, start=offset, dtype="int64"), [rows, 1])
    return node.cast(node.op.equal(node.op.range(count=columns, dtype="int64"), row), kind)


def constant_of_shape(node: Node, value: np.ndarray) -> Any:
    """A tensor of one value, of a computed shape."""
    return node.op.broadcast_to(Constant(value), shape=sizes_of(node, 0, "input"))


def split_of(node: Node, x: GraphExpr, axis: int) -> Any:
    """Parts whose sizes are computed; together they must be the whole, else a size is -1. Sizes
    that are dimensions already, and certainly the whole, stay these dimensions."""
    held = node.value(1)
    total = shape(x)[axis]
    count = length_of(node, held, "split")
    found = [item(node, held, at) for at in range(count)]
    known = [as_expr(size) for size in found if not isinstance(size, tuple)]
    if len(known) == count and same_dim(_sum(known), as_expr(total)):
        return _parts(node, x, axis, known)
    given = [scalar(node, held, at) for at in range(count)]
    whole: GraphExpr = _whole(0)
    for size in given:
        whole = node.op.add(whole, size)
    right = node.op.equal(whole, dimension_as_scalar(node, total))
    bound = (node.op.where(right, size, _whole(-1)) for size in given)
    return _parts(node, x, axis, [node.bind_dim(size, as_expr(total)) for size in bound])


def _sum(sizes: Sequence[Expr]) -> Expr:
    total: Expr = const(0)
    for size in sizes:
        total = total + size
    return total


def _parts(node: Node, x: GraphExpr, axis: int, sizes: Sequence[Expr]) -> tuple[GraphExpr, ...]:
    """Parts of these sizes, one after the other."""
    dims = [as_expr(dim) for dim in shape(x)]
    if as_int(dims[axis]) == 0:  # there is nothing to gather from
        shapes = ([*dims[:axis], size, *dims[axis + 1 :]] for size in sizes)
        return tuple(node.op.prefix(x, shape=tuple(map(_plain, part))) for part in shapes)
    parts = []
    for at, size in enumerate(sizes):
        places = node.op.range(count=_plain(size), dtype="int64")
        start = dimension_as_scalar(node, _plain(_sum(sizes[:at])))
        parts.append(node.op.gather(x, node.op.add(places, start), axis=axis))
    return tuple(parts)


def even_split_of(node: Node, x: GraphExpr, axis: int, count: int) -> Any:
    """A symbolic dimension in parts of one size; the last ones have what is left."""
    total = as_expr(shape(x)[axis])
    step = floordiv(total + const(count - 1), const(count))
    ends = [const(0), step, *(minimum(step * const(at), total) for at in range(2, count)), total]
    if count == 1:
        ends = [const(0), total]
    sizes = [simplify_dim(end - start) for start, end in itertools.pairwise(ends)]
    return _parts(node, x, axis, sizes)


def one_hot_of(node: Node, indices: GraphExpr, axis: int) -> tuple[GraphExpr, GraphExpr]:
    """Where the elements are on an axis of a computed depth, and whether they are there."""
    depth = size_of(node, node.value(1), 0, "depth")
    places = node.op.range(count=depth, dtype="int64")
    hot = node.op.unsqueeze(node.cast(indices, "int64"), axes=(axis,))
    front = node.op.add(hot, dimension_as_scalar(node, depth))
    hot = node.op.where(node.op.less(hot, _whole(0)), front, hot)
    return hot, node.reshape(places, [depth, *[1] * (rank(indices) - axis)])


def trilu_of(node: Node, x: GraphExpr, *, upper: bool) -> Any:
    """A triangle from a diagonal that is computed."""
    rows, columns = shape(x)[-2:]
    place = node.op.sub(
        node.op.range(count=columns, dtype="int64"),
        node.reshape(node.op.range(count=rows, dtype="int64"), [rows, 1]),
    )
    compare = node.op.greater_equal if upper else node.op.less_equal
    return node.op.where(compare(place, scalar(node, node.value(1), 0)), x, node.scalar(0, x))


# -- Unique ----------------------------------------------------------------------------------


def unique_of(node: Node, x: GraphExpr) -> Any:
    """Elements, or slices along an axis, in order, of which the first of each run of equals stay:
    values, the position of the first of each, for each which it is, and how many are equal."""
    axis = node.attr.int("axis", None)
    if axis is None:
        x, axis = node.reshape(x, (-1,)), 0
    axis = normal_axis(axis, rank(x))
    if shape(x)[axis] == 0:
        nothing = Constant(np.zeros(0, np.int64))
        return (node.op.identity(x), nothing, nothing, nothing)[: max(1, len(node.outputs))]
    narrow = node.cast(x, "uint8") if dtype(x).is_bool else x
    starts, order = _runs(node, narrow) if rank(x) == 1 else _runs_of_slices(node, narrow, axis)
    count = shape(x)[axis]
    found, number = node.op.nonzero(starts)
    size = node.bind_dim(number, as_expr(count))
    first = node.reshape(node.op.prefix(found, shape=(1, size)), (size,))
    group = node.op.sub(node.op.cumsum(node.cast(starts, "int64"), axis=0), _whole(1))
    _, back = node.op.topk(order, k=count, axis=0, largest=False)
    inverse = node.op.gather(group, back, axis=0)
    ends = node.op.concat(first, node.reshape(dimension_as_scalar(node, count), (1,)), axis=0)
    after = node.op.add(node.op.range(count=size, dtype="int64"), _whole(1))
    counts = node.op.sub(node.op.gather(ends, after, axis=0), first)
    where = node.op.gather(order, first, axis=0)
    if not node.attr.flag("sorted", True):
        _, rows = node.op.topk(where, k=size, axis=0, largest=False)
        _, rank_of = node.op.topk(rows, k=size, axis=0, largest=False)
        where, counts = (node.op.gather(item_, rows, axis=0) for item_ in (where, counts))
        inverse = node.op.gather(rank_of, inverse, axis=0)
    unique = node.op.gather(x, where, axis=axis)
    return (unique, where, inverse, counts)[: max(1, len(node.outputs))]


def _runs(node: Node, x: GraphExpr) -> tuple[GraphExpr, GraphExpr]:
    """Of the elements of a vector in order: whether each differs from the one before, and which
    it is."""
    values, order = node.op.topk(x, k=shape(x)[0], axis=0, largest=False)
    differs, place = _differs_from_previous(node, values)
    return node.op.logical_or(differs, node.op.equal(place, _whole(0))), order


def _runs_of_slices(node: Node, x: GraphExpr, axis: int) -> tuple[GraphExpr, GraphExpr]:
    """The same of slices along an axis, in lexicographic order of their elements."""
    others = [at for at in range(rank(x)) if at != axis]
    moved = node.op.transpose(x, permutation=(axis, *others))
    width = product([shape(x)[at] for at in others])
    rows = node.reshape(moved, (shape(x)[axis], _plain(width)))
    order = node.op.sort_rows(rows)
    differs, place = _differs_from_previous(node, node.op.gather(rows, order, axis=0))
    differs = node.op.any(differs, axes=(1,))
    return node.op.logical_or(differs, node.op.equal(place, _whole(0))), order


def _differs_from_previous(node: Node, values: GraphExpr) -> tuple[GraphExpr, GraphExpr]:
    """Of each element whether it differs from that before along axis 0 (the first: from itself),
    and the positions on that axis."""
    place = node.op.range(count=shape(values)[0], dtype="int64")
    before = node.op.maximum(node.op.sub(place, _whole(1)), _whole(0))
    return node.op.not_equal(values, node.op.gather(values, before, axis=0)), place
