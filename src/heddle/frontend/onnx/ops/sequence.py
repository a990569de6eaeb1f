# SPDX-License-Identifier: Apache-2.0
"""Sequences of known length, and optionals."""

from __future__ import annotations

from typing import Any

import numpy as np

from heddle.frontend.onnx.node import Node, dtype, normal_axis, rank, shape
from heddle.frontend.onnx.ops.computed import split_of
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.sizes import dimension_as_scalar, product
from heddle.frontend.onnx.tensors import dtype_of
from heddle.frontend.onnx.values import Optional_, Sequence_
from heddle.graph import Constant, GraphExpr
from heddle.graph.dims import same_dim
from heddle.ir.expr import as_expr, const, maximum
from heddle.support import UserError


def _sequence(node: Node, position: int) -> Sequence_:
    value = node.value(position)
    if not isinstance(value, Sequence_):
        raise UserError(f"input {position} is no sequence")
    return value


def _position(node: Node, value: int, count: int) -> int:
    if not -count <= value < count:
        raise UserError(f"position {value} is out of range for a sequence of {count}")
    return value % count


@converts("SequenceEmpty")
def _sequence_empty(node: Node) -> Any:
    return Sequence_((), dtype_of(node.attr.int("dtype", 1), "the sequence"))


@converts("SequenceConstruct")
def _sequence_construct(node: Node) -> Any:
    tensors = node.tensors()
    return Sequence_(tuple(tensors), dtype(tensors[0]))


@converts("SequenceAt")
def _sequence_at(node: Node) -> Any:
    items = _sequence(node, 0).items
    if not isinstance(node.value(1), Constant):
        return _chosen(node, _late_position(node, 1, len(items), len(items)), list(items))
    return items[_position(node, node.integer(1, "position"), len(items))]


@converts("SequenceLength")
def _sequence_length(node: Node) -> Any:
    return Constant(np.asarray(len(_sequence(node, 0).items)))


@converts("SequenceInsert")
def _sequence_insert(node: Node) -> Any:
    sequence = _sequence(node, 0)
    items = list(sequence.items)
    if node.has(2) and not isinstance(node.value(2), Constant):
        return Sequence_(tuple(_late_insert(node, items)), sequence.dtype)
    at = node.integer(2, "position") if node.has(2) else len(items)
    if not -len(items) <= at <= len(items):
        raise UserError(f"position {at} is out of range for a sequence of {len(items)}")
    items.insert(at, node.tensor(1))
    return Sequence_(tuple(items), sequence.dtype)


@converts("SequenceErase")
def _sequence_erase(node: Node) -> Any:
    sequence = _sequence(node, 0)
    items = list(sequence.items)
    if node.has(1) and not isinstance(node.value(1), Constant):
        return Sequence_(tuple(_late_erase(node, items)), sequence.dtype)
    at = node.integer(1, "position") if node.has(1) else -1
    del items[_position(node, at, len(items))]
    return Sequence_(tuple(items), sequence.dtype)


@converts("ConcatFromSequence")
def _concat_from_sequence(node: Node) -> Any:
    items = list(_sequence(node, 0).items)
    axis = node.attr.int("axis")
    if not items:
        raise UserError("an empty sequence cannot be concatenated")
    if node.attr.flag("new_axis"):
        axis = normal_axis(axis, rank(items[0]) + 1)
        items = [node.op.unsqueeze(item, axes=(axis,)) for item in items]
    return node.op.concat(*items, axis=axis)


@converts("SplitToSequence")
def _split_to_sequence(node: Node) -> Any:
    x = node.tensor(0)
    axis = normal_axis(node.attr.int("axis", 0), rank(x))
    late = node.has(1) and not isinstance(node.value(1), Constant)
    if late and rank(node.tensor(1)) == 1:
        return Sequence_(split_of(node, x, axis), dtype(x))
    size = node.static_dim(x, axis, "input")
    each = node.constant(1, "split") if node.has(1) else np.asarray(1)
    if each.ndim == 0:
        step = int(each)
        if step < 1:
            raise UserError(f"`split` is {step}")
        sizes = [min(step, size - at) for at in range(0, size, step)]
    else:
        sizes = [int(item) for item in each]
    parts = node.op.split(x, sizes=tuple(sizes), axis=axis) if len(sizes) > 1 else (x,)
    if not node.has(1) and not node.attr.flag("keepdims", True):
        parts = tuple(node.op.squeeze(part, axes=(axis,)) for part in parts)
    return Sequence_(tuple(parts), dtype(x))


# -- positions that are known at run time only -----------------------------------------------


def _whole(value: int) -> Constant:
    return Constant(np.asarray(value, np.int64))


def _late_position(node: Node, at: int, count: int, end: int) -> GraphExpr:
    """Input `at` from the front, in [0, end); anything else makes a dimension -1, an error."""
    given = node.reshape(node.cast(node.tensor(at), "int64"), ())
    front = node.op.add(given, _whole(count))
    place = node.op.where(node.op.less(given, _whole(0)), front, given)
    right = node.op.logical_and(
        node.op.greater_equal(place, _whole(0)), node.op.less(place, _whole(end))
    )
    one = node.bind_dim(node.op.where(right, _whole(1), _whole(-1)), const(1))
    return node.op.sum(node.op.prefix(node.reshape(place, (1,)), shape=(one,)))  # type: ignore[no-any-return]


def _chosen(node: Node, place: GraphExpr, items: list[GraphExpr]) -> GraphExpr:
    """The item at a place: of a table with a row for each, filled up where shapes differ."""
    kinds = {(dtype(item), rank(item)) for item in items}
    if len(kinds) > 1:
        raise Unsupported(
            "one of tensors of different numbers of dimensions, which is known at run time only",
            inputs=node.importer.sources_of(place),
        )
    shapes = [[as_expr(dim) for dim in shape(item)] for item in items]
    if all(same_dim(a, b) for own in shapes[1:] for a, b in zip(shapes[0], own, strict=True)):
        rows = [node.op.unsqueeze(item, axes=(0,)) for item in items]
        return node.op.gather(node.op.concat(*rows, axis=0), place, axis=0)  # type: ignore[no-any-return]
    room = product(shapes[0])
    for own in shapes[1:]:
        room = maximum(room, product(own))
    rows = []
    for item in items:
        flat = node.op.extend(node.reshape(item, (-1,)), shape=(room,))
        rows.append(node.reshape(flat, (1, room)))
    found = node.op.gather(node.op.concat(*rows, axis=0), place, axis=0)
    dims = []
    for axis, sizes in enumerate(zip(*shapes, strict=True)):
        most = sizes[0]
        for size in sizes[1:]:
            most = maximum(most, size)
        each = [node.reshape(dimension_as_scalar(node, size), (1,)) for size in sizes]
        size = node.op.gather(node.op.concat(*each, axis=0), place, axis=0)
        same = all(same_dim(size_, sizes[0]) for size_ in sizes)
        dims.append(shape(items[0])[axis] if same else node.bind_dim(size, most))
    return node.reshape(node.op.prefix(found, shape=(product(dims),)), dims)


def _late_erase(node: Node, items: list[GraphExpr]) -> list[GraphExpr]:
    """Each of the items that are left is the one at its place or the next."""
    if not items:
        raise UserError("there is nothing to erase in an empty sequence")
    place = _late_position(node, 1, len(items), len(items))
    found = []
    for at in range(len(items) - 1):
        later = node.cast(node.op.less_equal(place, _whole(at)), "int64")
        found.append(_chosen(node, later, items[at : at + 2]))
    return found


def _late_insert(node: Node, items: list[GraphExpr]) -> list[GraphExpr]:
    """Each of the items is the one at its place, the new one or that before."""
    place = _late_position(node, 2, len(items), len(items) + 1)
    new, found = node.tensor(1), []
    for at in range(len(items) + 1):
        before = items[at - 1] if at else new
        after = items[at] if at < len(items) else new
        here = node.cast(node.op.less_equal(place, _whole(at)), "int64")
        past = node.cast(node.op.less(place, _whole(at)), "int64")
        found.append(_chosen(node, node.op.add(here, past), [after, new, before]))
    return found


# -- optionals -------------------------------------------------------------------------------


@converts("Optional")
def _optional(node: Node) -> Any:
    return Optional_(node.value(0) if node.has(0) else None)


@converts("OptionalHasElement")
def _has_element(node: Node) -> Any:
    value = node.value(0) if node.has(0) else Optional_()
    empty = isinstance(value, Optional_) and value.value is None
    return Constant(np.asarray(not empty))


@converts("OptionalGetElement")
def _get_element(node: Node) -> Any:
    value = node.value(0)
    if not isinstance(value, Optional_):
        return value
    if value.value is None:
        raise UserError("the optional is empty")
    return value.value
