# SPDX-License-Identifier: Apache-2.0
"""Loops whose carried values change their shape: tokens that are appended.

Such a value is carried as a flat tensor of the largest size that it can have, and its dimensions
that change as scalars beside it. The body makes dimensions of the scalars (`graph.BindDim`), which
fails at run time where a size is larger than was planned for.

A value that each iteration appends a fixed number of rows to, as decoders do with their caches of
keys and values, is carried as a tensor with room for all rows, and the rows are written into it:

    past (n rows)                                room, n
    present = concat(past, new)        ->        room = index_copy(room, n, new)
                                                 present = prefix(room, n + 1)

Then nothing is copied: the room is written in place (`passes/graph/lifetimes.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heddle import op
from heddle.arith import Analyzer
from heddle.frontend.onnx.node import Node
from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.sizes import dimensions_as_scalars, product
from heddle.frontend.onnx.values import Value, tensor_type
from heddle.graph import Call, Constant, GraphBuilder, GraphExpr, Var
from heddle.graph.dims import same_dim, show_type
from heddle.ir import TensorType
from heddle.ir.expr import Expr, as_int, const
from heddle.passes.graph.anf import op_name

Body = Callable[[Var, list[Any]], list[Value]]


@dataclass(frozen=True, slots=True)
class Rows:
    """What an iteration appends to a carried value: `count` rows along `axis`."""

    axis: int
    count: int


class ShapesChange(Exception):
    """An iteration changes the shapes of carried values: the types before and after it, and what is
    appended to each; None where that is not all that happens."""

    def __init__(
        self,
        before: Sequence[TensorType],
        after: Sequence[TensorType],
        appended: Sequence[Rows | None],
    ) -> None:
        super().__init__("shapes of carried values change")
        self.before = before
        self.after = after
        self.appended = appended


def appended_rows(builder: GraphBuilder, before: Var, after: GraphExpr) -> Rows | None:
    """The rows that a value is made of in the body of a loop: those of before, and more."""
    call = _concatenation(builder, after)
    if call is None or call.args[0] is not before:
        return None
    axis: Any = call.attrs["axis"]
    counts = [as_int(tensor_type(item).shape[axis]) for item in call.args[1:]]
    if before in call.args[1:] or any(count is None for count in counts):
        return None
    return Rows(axis, sum(count for count in counts if count is not None))


def _concatenation(builder: GraphBuilder, value: GraphExpr) -> Call | None:
    found = next((b.value for b in builder.bindings if b.var is value), None)
    return found if isinstance(found, Call) and op_name(found) == "concat" else None


class SizesDiffer(Exception):
    """Dimensions that grow alike in a first iteration do not in general."""


@dataclass(frozen=True, slots=True)
class _Size:
    """A dimension that changes: before the loop, by how much (None where that differs from one
    iteration to the next), and the most that it can become."""

    start: Expr
    step: int | None
    room: Expr

    def is_like(self, other: _Size) -> bool:
        same = self.step is not None and self.step == other.step
        return same and same_dim(self.start, other.start) and same_dim(self.room, other.room)


class Growth:
    """How carried values are packed, and unpacked in the body and behind the loop.

    change: what a first iteration does to their types. trips: the most iterations that there can
    be, an error when nothing bounds them. together: dimensions that are equal before the loop and
    after a first iteration are one.
    """

    def __init__(
        self, node: Node, change: ShapesChange, trips: Callable[[], Expr], *, together: bool
    ) -> None:
        self.node = node
        self.types = change.before
        self.appended = list(change.appended)
        self.sizes: list[_Size] = []
        self.axes: list[dict[int, int]] = []  # of each value, which of the sizes its axes have
        for at, (old, new) in enumerate(zip(self.types, change.after, strict=True)):
            pairs = enumerate(zip(old.shape, new.shape, strict=True))
            axes = [axis for axis, (a, b) in pairs if not same_dim(a, b)]
            sizes = [self._size(at, axis, old, new, trips) for axis in axes]
            places = [self._place(size, together=together) for size in sizes]
            self.axes.append(dict(zip(axes, places, strict=True)))
            rows = self.appended[at]
            if rows is None or axes != [rows.axis]:
                self.appended[at] = None

    def _place(self, size: _Size, *, together: bool) -> int:
        for place, other in enumerate(self.sizes):
            if together and size.is_like(other):
                return place
        self.sizes.append(size)
        return len(self.sizes) - 1

    def _size(
        self, at: int, axis: int, old: TensorType, new: TensorType, trips: Callable[[], Expr]
    ) -> _Size:
        name = self.node.outputs[at] if at < len(self.node.outputs) else ""
        given = self.node.importer.bounds.get(name)
        start = old.shape[axis]
        step = as_int(Analyzer().simplify(new.shape[axis] - start))
        if given is not None:
            return _Size(start, step, const(given))
        if step is None:
            raise Unsupported(
                f"carried value {at} is {show_type(old)} before the loop and {show_type(new)} "
                f"after an iteration: how large it gets must be given (`bounds` of `{name}`)"
            )
        return _Size(start, step, start + trips() * const(max(0, step)))

    def packed(
        self, values: Sequence[GraphExpr], rooms: Mapping[int, GraphExpr] | None = None
    ) -> list[GraphExpr]:
        """What is carried for these values: tensors with room for all that they become, and behind
        them the sizes. rooms: those that there are already, by the value's position."""
        node = self.node
        found: list[GraphExpr] = []
        sizes: list[Expr | None] = [None] * len(self.sizes)
        for at, (value, axes) in enumerate(zip(values, self.axes, strict=True)):
            if not axes:
                found.append(value)
                continue
            (value,) = (x for x in node.flush([value]) if isinstance(x, GraphExpr))
            own = tensor_type(value).shape
            for axis, place in axes.items():
                known = sizes[place]
                if known is not None and not same_dim(known, own[axis]):
                    raise SizesDiffer
                sizes[place] = own[axis]
            room = (rooms or {}).get(at)
            if room is None:
                flat = value
                if self.appended[at] is None:
                    flat = node.reshape(value, (_plain(product(own)),))
                room = node.op.extend(flat, shape=self._room_shape(at))
            found.append(room)
        return [*found, *dimensions_as_scalars(node, sizes)]

    def _room_shape(self, at: int) -> tuple[int | Expr, ...]:
        """Of the tensor that is carried for a value. Rows are appended to one that may be full,
        which is an error later on only, so there is room behind the end."""
        rows, room = self.appended[at], list(self.types[at].shape)
        for axis, place in self.axes[at].items():
            room[axis] = self.sizes[place].room
        if rows is None:
            return (_plain(product(room)),)
        room[rows.axis] = room[rows.axis] + rows.count
        return tuple(map(_plain, room))

    def unpacked(self, values: Sequence[GraphExpr]) -> tuple[GraphExpr, ...]:
        """The values that were packed, and what else is behind them."""
        node, total = self.node, len(self.types)
        ends = values[total : total + len(self.sizes)]
        bound = [node.bind_dim(end, size.room) for end, size in zip(ends, self.sizes, strict=True)]
        found = []
        for at, (value, axes) in enumerate(zip(values, self.axes, strict=False)):
            dims = [_plain(dim) for dim in self.types[at].shape]
            for axis, place in axes.items():
                dims[axis] = _plain(bound[place])
            if axes and self.appended[at] is not None:
                value = node.op.prefix(value, shape=tuple(dims))
            elif axes:
                flat = node.op.prefix(value, shape=(_plain(product(dims)),))
                value = node.reshape(flat, dims)
            found.append(value)
        return (*found, *values[total + len(ends) :])

    def around(self, body: Body) -> Body:
        """The body with packed values in and out."""

        def run(iteration: Var, own: list[Any]) -> list[Value]:
            values = self.node.flush(self.unpacked(own))
            going, *results = body(iteration, values)
            tensors = [self.node.as_tensor(value) for value in results]
            total = len(self.types)
            for at, (value, type_) in enumerate(zip(tensors, self.types, strict=False)):
                self._check(at, tensor_type(value), type_)
            rooms = {
                at: self._written(at, own, tensors[at])
                for at, rows in enumerate(self.appended)
                if rows is not None and self._still(at, values[at], tensors[at])
            }
            return [going, *self.packed(tensors[:total], rooms), *tensors[total:]]

        return run

    def _still(self, at: int, before: Value, after: GraphExpr) -> bool:
        """Whether what the first iteration appends does not depend on how many rows there are."""
        builder = self.node.importer.builder
        return (
            isinstance(before, Var) and appended_rows(builder, before, after) == self.appended[at]
        )

    def _written(self, at: int, own: Sequence[Any], value: GraphExpr) -> GraphExpr:
        """Make the value that rows are appended to a part of the tensor that is carried for it,
        into which the rows are written; that tensor."""
        builder, rows = self.node.importer.builder, self.appended[at]
        call = _concatenation(builder, value)
        assert call is not None
        assert rows is not None
        assert isinstance(value, Var)
        size = own[len(self.types) + self.axes[at][rows.axis]]
        room: list[GraphExpr] = []

        def write() -> GraphExpr:
            given = call.args[1:]
            new = given[0] if len(given) == 1 else op.concat(*given, axis=rows.axis)
            first = op.reshape(size, shape=(1,))
            places = op.add(first, Constant(np.arange(rows.count))) if rows.count > 1 else first
            written = builder.emit(op.index_copy(own[at], places, new, axis=rows.axis))
            room.append(written)
            shape = tuple(map(_plain, tensor_type(value).shape))
            return op.prefix(written, shape=shape)  # type: ignore[no-any-return]

        builder.rebind(value, write)
        return room[0]

    def _check(self, at: int, found: TensorType, type_: TensorType) -> None:
        same = all(
            axis in self.axes[at] or same_dim(a, b)
            for axis, (a, b) in enumerate(zip(found.shape, type_.shape, strict=True))
        )
        if not same:
            raise Unsupported(
                f"carried value {at} is {show_type(type_)} before the loop and {show_type(found)} "
                "after an iteration, in dimensions that the first iteration leaves as they are"
            )


def _plain(value: Expr) -> int | Expr:
    known = as_int(value)
    return value if known is None else known
