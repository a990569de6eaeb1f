# SPDX-License-Identifier: Apache-2.0
"""Sequences of known length, and optionals."""

from __future__ import annotations

from typing import Any

import numpy as np

from heddle.frontend.onnx.node import Node, dtype, normal_axis, rank
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.tensors import dtype_of
from heddle.frontend.onnx.values import Optional_, Sequence_
from heddle.graph import Constant
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
    return items[_position(node, node.integer(1, "position"), len(items))]


@converts("SequenceLength")
def _sequence_length(node: Node) -> Any:
    return Constant(np.asarray(len(_sequence(node, 0).items)))


@converts("SequenceInsert")
def _sequence_insert(node: Node) -> Any:
    sequence = _sequence(node, 0)
    items = list(sequence.items)
    at = node.integer(2, "position") if node.has(2) else len(items)
    if not -len(items) <= at <= len(items):
        raise UserError(f"position {at} is out of range for a sequence of {len(items)}")
    items.insert(at, node.tensor(1))
    return Sequence_(tuple(items), sequence.dtype)


@converts("SequenceErase")
def _sequence_erase(node: Node) -> Any:
    sequence = _sequence(node, 0)
    items = list(sequence.items)
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
