# SPDX-License-Identifier: Apache-2.0
"""Control flow that is decided at import, sequences of known length, optionals."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from heddle.frontend.onnx.node import Node, dtype, normal_axis, rank
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.tensors import dtype_of
from heddle.frontend.onnx.values import Optional_, Sequence_, Value
from heddle.graph import Constant, GraphExpr
from heddle.support import UserError

_UNROLL_LIMIT: Final = 4096


def _body(node: Node, name: str, inputs: list[Value]) -> list[Value]:
    """The outputs of a subgraph for these inputs; what this node emitted before comes first."""
    given = node.flush(inputs)
    results = node.importer.run_graph(node.attr.graph(name), given, node.scope)
    return [node.unpoisoned(value) for value in results]


@converts("If")
def _if(node: Node) -> Any:
    condition = node.constant(0, "cond")
    if condition.size != 1 or condition.dtype != np.bool_:
        raise UserError(f"the condition is {condition.dtype} of shape {condition.shape}")
    return tuple(_body(node, "then_branch" if condition.item() else "else_branch", []))


@converts("Loop")
def _loop(node: Node) -> Any:
    """Unrolled: the trip count must be known, and the condition as well when there is one."""
    trips = node.integer(0, "M") if node.has(0) else None
    going = bool(node.constant(1, "cond").all()) if node.has(1) else True
    state: list[Value] = list(node.inputs[2:])
    kept: list[list[GraphExpr]] = []
    count = 0
    while going and (trips is None or count < trips):
        if count >= _UNROLL_LIMIT:
            raise Unsupported(f"a loop of more than {_UNROLL_LIMIT} iterations")
        first: list[Value] = [Constant(np.asarray(count)), Constant(np.asarray(True))]
        results = _body(node, "body", [*first, *state])
        going = bool(node.known(results[0], "cond of the body").all())
        state = results[1 : 1 + len(state)]
        kept.append([node.as_tensor(value) for value in results[1 + len(state) :]])
        count += 1
    scans = _stack(node, kept, len(node.outputs) - len(state))
    return (*state, *scans)


def _stack(node: Node, rows: list[list[GraphExpr]], count: int) -> list[Any]:
    if count and not rows:
        raise Unsupported("a loop without iterations that gives a scan output")
    return [
        node.op.concat(*(node.op.unsqueeze(row[at], axes=(0,)) for row in rows), axis=0)
        for at in range(count)
    ]


@converts("Scan", since=9)
def _scan(node: Node) -> Any:
    """Unrolled along the scanned axes."""
    count = node.attr.int("num_scan_inputs")
    values = node.inputs
    state: list[Value] = list(values[: len(values) - count])
    scanned = [node.as_tensor(value) for value in values[len(values) - count :]]
    axes = node.attr.ints("scan_input_axes", (0,) * count)
    backwards = node.attr.ints("scan_input_directions", (0,) * count)
    if not scanned:
        raise UserError("`num_scan_inputs` is 0")
    places = [normal_axis(axis, rank(x)) for axis, x in zip(axes, scanned, strict=True)]
    length = node.static_dim(scanned[0], places[0], "the scanned input")
    if length > _UNROLL_LIMIT:
        raise Unsupported(f"a scan of more than {_UNROLL_LIMIT} steps")
    rows: list[list[GraphExpr]] = []
    for step in range(length):
        parts: list[Value] = []
        for x, axis, back in zip(scanned, places, backwards, strict=True):
            at = length - 1 - step if back else step
            cut = node.op.slice(x, starts=(at,), ends=(at + 1,), axes=(axis,))
            parts.append(node.op.squeeze(cut, axes=(axis,)))
        results = _body(node, "body", [*state, *parts])
        state = results[: len(state)]
        rows.append([node.as_tensor(value) for value in results[len(state) :]])
    outputs = len(node.outputs) - len(state)
    out_axes = node.attr.ints("scan_output_axes", (0,) * outputs)
    reverse = node.attr.ints("scan_output_directions", (0,) * outputs)
    scans = []
    for at in range(outputs):
        row = [results[at] for results in rows]
        axis = normal_axis(out_axes[at], rank(row[0]) + 1)
        ordered = reversed(row) if reverse[at] else row
        scans.append(
            node.op.concat(*(node.op.unsqueeze(x, axes=(axis,)) for x in ordered), axis=axis)
        )
    return (*state, *scans)


# -- sequences -------------------------------------------------------------------------------


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
