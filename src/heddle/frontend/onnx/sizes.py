# SPDX-License-Identifier: Apache-2.0
"""Dimensions that a model computes from its data: `Reshape` to a shape that is an input.

An element of an integer tensor is followed back through the nodes that only move it (`item`), so
that one number is one dimension wherever it is used, and what is known stays known. Memory needs a
largest size: `largest` finds one from the arithmetic that made the number, starting with what the
user says in `bounds`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.values import Symbolic, Value, of_dims, tensor_type
from heddle.graph import BindDim, Call, Constant, GraphExpr, Var
from heddle.ir.expr import (
    Add,
    Expr,
    FloorDiv,
    Max,
    Min,
    Mul,
    as_expr,
    as_int,
    const,
    maximum,
    minimum,
)
from heddle.ir.walk import free_vars

if TYPE_CHECKING:
    from heddle.frontend.onnx.node import Node

Place: TypeAlias = tuple[Var, int]
"""An element of a tensor, by its position in row-major order."""
Item: TypeAlias = "int | Expr | Place"
_SAME: Final = frozenset(("identity", "reshape", "squeeze", "unsqueeze", "flatten"))


def item(node: Node, value: Value, at: int) -> Item:
    """Element `at` of a tensor of integers: a number, a dimension, or where it is computed."""
    if isinstance(value, Symbolic):
        return value.data.ravel()[at]  # type: ignore[no-any-return]
    if isinstance(value, Constant):
        return int(value.data.ravel()[at])
    assert isinstance(value, Var)
    made = node.importer.made.get(value)
    if isinstance(made, BindDim):
        return made.symbol
    if isinstance(made, Call):
        found = _moved(node, made, at)
        if found is not None:
            return found
    return value, at


def _moved(node: Node, call: Call, at: int) -> Item | None:
    """Element `at` of the result of a call that only moves elements."""
    name, args, attrs = call.callee.name, call.args, call.attrs
    if name in _SAME or (name == "cast" and _integers(call) and _integers(args[0])):
        return item(node, args[0], at)
    if name == "shape_of":
        dim = tensor_type(args[0]).shape[at]
        return dim if as_int(dim) is None else as_int(dim)
    if name == "concat" and tensor_type(call).ndim == 1:
        for part in args:
            size = tensor_type(part).static_shape
            if size is None:
                return None
            if at < size[0]:
                return item(node, part, at)
            at -= size[0]
    if name == "slice" and tensor_type(args[0]).ndim == 1 and attrs["steps"] in (None, (1,)):
        start, size = as_int(as_expr(attrs["starts"][0])), tensor_type(args[0]).static_shape
        if start is not None and size is not None:
            first = max(0, start + size[0]) if start < 0 else start
            return item(node, args[0], first + at)
    if name == "gather" and isinstance(args[1], Constant) and tensor_type(args[0]).ndim == 1:
        index, size = int(args[1].data.ravel()[at]), tensor_type(args[0]).static_shape
        if size is not None:
            return item(node, args[0], index % size[0])
    return None


def _integers(value: Any) -> bool:
    return tensor_type(value).dtype.is_int


def largest(node: Node, value: Value, at: int | None) -> Expr | None:
    """The most that element `at` (None: any element) can be, None when nothing says so. Of sums
    and products it is that of numbers that are not negative, as sizes are: what is larger after
    all is an error at run time."""
    if isinstance(value, Constant):
        whole = value.data.ravel() if at is None else value.data.ravel()[at : at + 1]
        return const(int(np.ceil(whole.max()))) if len(whole) else None
    if isinstance(value, Symbolic) or (at is not None and _integers(value)):
        found = item(node, value, at or 0)
        if not isinstance(found, tuple):
            return as_expr(found)
        value, at = found
    assert isinstance(value, Var)
    given = node.importer.bounds.get(value.name)
    if given is not None:
        return const(given)
    made = node.importer.made.get(value)
    return _computed(node, made, at) if isinstance(made, Call) else None


def _computed(node: Node, call: Call, at: int | None) -> Expr | None:
    name = call.callee.name
    if name in ("argmax", "argmin"):
        return tensor_type(call.args[0]).shape[call.attrs["axis"]] - 1  # type: ignore[index]
    ends = [largest(node, arg, _same_place(call, arg, at)) for arg in call.args]
    known = [end for end in ends if end is not None]
    if name == "minimum" and known:
        return known[0] if len(known) == 1 else minimum(*known)
    if name == "clip" and call.attrs["max"] is not None:
        return const(int(call.attrs["max"]))  # type: ignore[call-overload,no-any-return]
    if name == "sub" and isinstance(call.args[1], Constant) and known and ends[0] is not None:
        return ends[0] - const(int(np.floor(call.args[1].data.min())))
    if name in ("sub", "div", "floor_mod", "max") and known and ends[0] is not None:
        return ends[0]
    if name in ("cast", "floor", "ceil", "round", "broadcast_to", "slice", "gather", "abs"):
        return ends[0]
    if len(known) < len(ends):
        return None
    if name == "where":
        return maximum(*known[1:])
    if name in ("maximum", "concat"):
        total = known[0]
        for end in known[1:]:
            total = maximum(total, end)
        return total
    if name in ("add", "mul"):
        return known[0] + known[1] if name == "add" else known[0] * known[1]
    return None


def _same_place(call: Call, arg: GraphExpr, at: int | None) -> int | None:
    mine, theirs = tensor_type(call).static_shape, tensor_type(arg).static_shape
    if at is None or mine is None or theirs is None:
        return None
    if all(size == 1 for size in theirs):
        return 0
    return at if mine == theirs else None


# -- dimensions ------------------------------------------------------------------------------


def scalar(node: Node, value: Value, at: int) -> GraphExpr:
    """Element `at` of a tensor as an int64 scalar."""
    tensor = node.cast(node.as_tensor(value), "int64")
    flat = node.reshape(tensor, (-1,))
    return node.reshape(node.op.slice(flat, starts=(at,), ends=(at + 1,), axes=(0,)), ())


def size_of(node: Node, value: Value, at: int, what: str) -> Any:
    """Element `at` of `what` as a dimension. `Unsupported` when it is computed and nothing says
    how large it can be."""
    found = item(node, value, at)
    if not isinstance(found, tuple):
        known = as_int(as_expr(found))
        return found if known is None else known
    scope = node.scope
    while scope is not None:
        if found in scope.sizes:
            return scope.sizes[found]
        scope = scope.parent  # type: ignore[assignment]
    symbol = node.bind_dim(scalar(node, value, at), bound_of(node, value, at, what))
    node.scope.sizes[found] = symbol
    return symbol


def sizes_of(node: Node, position: int, what: str) -> tuple[Any, ...]:
    """The elements of a vector that is input `position` as dimensions."""
    value = node.value(position)
    if isinstance(value, (Constant, Symbolic)):
        return node.dims(position, what)
    count = length_of(node, value, what)
    return tuple(size_of(node, value, at, what) for at in range(count))


def length_of(node: Node, value: Value, what: str) -> int:
    """The number of elements of a vector."""
    if isinstance(value, Symbolic):
        return value.data.size
    return node.static_shape(node.as_tensor(value), what)[0]


def bound_of(node: Node, value: Value, at: int | None, what: str) -> Expr:
    """The most that an element can be; `Unsupported` when nothing says so."""
    bound = largest(node, value, at)
    if bound is None:
        assert isinstance(value, GraphExpr)
        sources = node.importer.sources_of(value)
        names = ", ".join(f"`{name}`" for name in sorted(sources))
        raise Unsupported(
            f"`{what}` is computed from the model's inputs, and nothing says how large it can be: "
            f"give a largest value (`bounds`) or the value (`values`) of {names}",
            inputs=sources,
        )
    return bound


def product(dims: Sequence[Any]) -> Expr:
    """The number of elements of a tensor of these dimensions."""
    total: Expr = const(1)
    for dim in dims:
        total = total * as_expr(dim)
    return total


_GROWING: Final = (Add, Mul, Max, Min, FloorDiv)


def at_most(dim: Expr, rooms: Mapping[Expr, Expr]) -> Expr:
    """The most that a dimension can be which depends on others, of which `rooms` has the most."""
    if dim in rooms:
        return at_most(rooms[dim], rooms)
    if isinstance(dim, _GROWING):
        a, b = at_most(dim.a, rooms), at_most(dim.b, rooms)
        fixed = not isinstance(dim, FloorDiv) or b is dim.b
        if fixed and not any((as_int(side) or 0) < 0 for side in (a, b)):
            return type(dim)(a, b) if a is not dim.a or b is not dim.b else dim
    if any(symbol in rooms for symbol in free_vars(dim)):
        raise Unsupported(f"a dimension {dim} of a size that is computed")
    return dim


def dimension_as_scalar(node: Node, dim: Any) -> GraphExpr:
    """A dimension as an int64 scalar."""
    return node.reshape(node.as_tensor(of_dims([dim])), ())


def dimensions_as_scalars(node: Node, dims: Sequence[Any]) -> list[GraphExpr]:
    """Dimensions as int64 scalars, bound already."""
    data = np.empty(len(dims), object)
    data[:] = list(dims)
    whole = node.as_tensor(Symbolic(data))
    cuts = [
        node.op.slice(whole, starts=(at,), ends=(at + 1,), axes=(0,)) for at in range(len(dims))
    ]
    made = node.flush([node.reshape(cut, ()) for cut in cuts])
    return [value for value in made if isinstance(value, GraphExpr)]
