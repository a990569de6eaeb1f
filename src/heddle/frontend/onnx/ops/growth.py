# SPDX-License-Identifier: Apache-2.0
"""Loops whose carried values change their shape: tokens that are appended.

Such a value is carried as a flat tensor of the largest size that it can have, and its dimensions
that change as scalars beside it. The body makes dimensions of the scalars (`graph.BindDim`), which
fails at run time where a size is larger than was planned for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from heddle.arith import Analyzer
from heddle.frontend.onnx.node import Node
from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.sizes import dimensions_as_scalars, product
from heddle.frontend.onnx.values import Value, tensor_type
from heddle.graph import GraphExpr, Var
from heddle.graph.dims import same_dim, show_type
from heddle.ir import TensorType
from heddle.ir.expr import Expr, as_int, const

Body = Callable[[Var, list[Any]], list[Value]]


class ShapesChange(Exception):
    """An iteration changes the shapes of carried values: the types before and after it."""

    def __init__(self, before: Sequence[TensorType], after: Sequence[TensorType]) -> None:
        super().__init__("shapes of carried values change")
        self.before = before
        self.after = after


class Growth:
    """How carried values are packed, and unpacked in the body and behind the loop.

    before, after: their types around a first iteration. trips: the most iterations that there can
    be, an error when nothing bounds them.
    """

    def __init__(
        self,
        node: Node,
        before: Sequence[TensorType],
        after: Sequence[TensorType],
        trips: Callable[[], Expr],
    ) -> None:
        self.node = node
        self.types = before
        self.axes: list[list[int]] = []
        self.rooms: list[list[Expr]] = []
        for at, (old, new) in enumerate(zip(before, after, strict=True)):
            pairs = list(zip(old.shape, new.shape, strict=True))
            axes = [axis for axis, (a, b) in enumerate(pairs) if not same_dim(a, b)]
            room = list(old.shape)
            for axis in axes:
                room[axis] = self._room(at, axis, old, new, trips)
            self.axes.append(axes)
            self.rooms.append(room)

    def _room(
        self, at: int, axis: int, old: TensorType, new: TensorType, trips: Callable[[], Expr]
    ) -> Expr:
        """The most that a dimension can become."""
        name = self.node.outputs[at] if at < len(self.node.outputs) else ""
        given = self.node.importer.bounds.get(name)
        if given is not None:
            return const(given)
        step = as_int(Analyzer().simplify(new.shape[axis] - old.shape[axis]))
        if step is None:
            raise Unsupported(
                f"carried value {at} is {show_type(old)} before the loop and {show_type(new)} "
                f"after an iteration: how large it gets must be given (`bounds` of `{name}`)"
            )
        return old.shape[axis] + trips() * const(max(0, step))

    def packed(self, values: Sequence[GraphExpr]) -> list[GraphExpr]:
        """What is carried for these values: flat tensors, and behind all of them the sizes."""
        node = self.node
        found: list[GraphExpr] = []
        sizes: list[GraphExpr] = []
        for value, axes, room in zip(values, self.axes, self.rooms, strict=True):
            if not axes:
                found.append(value)
                continue
            (value,) = (x for x in node.flush([value]) if isinstance(x, GraphExpr))
            own = tensor_type(value).shape
            flat = node.reshape(value, (_plain(product(own)),))
            found.append(node.op.extend(flat, shape=(_plain(product(room)),)))
            sizes += dimensions_as_scalars(node, [own[axis] for axis in axes])
        return [*found, *sizes]

    def unpacked(self, values: Sequence[GraphExpr]) -> tuple[GraphExpr, ...]:
        """The values that were packed, and what else is behind them."""
        node = self.node
        total = len(self.types)
        count = sum(map(len, self.axes))
        sizes = iter(values[total : total + count])
        found = []
        for value, axes, type_, room in zip(
            values, self.axes, self.types, self.rooms, strict=False
        ):
            dims: list[Any] = list(type_.shape)
            for axis in axes:
                dims[axis] = node.bind_dim(next(sizes), room[axis])
            if axes:
                flat = node.op.prefix(value, shape=(_plain(product(dims)),))
                value = node.reshape(flat, [_plain(dim) for dim in dims])
            found.append(value)
        return (*found, *values[total + count :])

    def around(self, body: Body) -> Body:
        """The body with packed values in and out."""

        def run(iteration: Var, own: list[Any]) -> list[Value]:
            going, *results = body(iteration, list(self.unpacked(own)))
            tensors = [self.node.as_tensor(value) for value in results]
            total = len(self.types)
            for at, (value, type_) in enumerate(zip(tensors, self.types, strict=False)):
                self._check(at, tensor_type(value), type_)
            return [going, *self.packed(tensors[:total]), *tensors[total:]]

        return run

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
