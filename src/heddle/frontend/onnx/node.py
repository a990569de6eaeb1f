# SPDX-License-Identifier: Apache-2.0
"""`Node`: what a converter sees of one ONNX node, and how it emits operators."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx

from heddle import op
from heddle.frontend.onnx.attributes import Attributes
from heddle.frontend.onnx.materialize import materialize
from heddle.frontend.onnx.report import Consequence, Unsupported
from heddle.frontend.onnx.values import (
    Narrow,
    Optional_,
    Poison,
    Sequence_,
    Symbolic,
    Text,
    Value,
    as_dims,
    tensor_type,
)
from heddle.graph import BindDim, Call, Constant, GraphExpr, TupleGetItem, Var
from heddle.ir import DType, TensorType, TupleType
from heddle.ir.expr import Expr, as_int, const
from heddle.ir.expr import Var as Symbol
from heddle.support import Span, UserError

if TYPE_CHECKING:
    from heddle.frontend.onnx.importer import Importer, Scope

# Calls on constants are evaluated here when they are no larger: what shapes are computed from.
# Folding weights is for the graph passes.
_FOLD_LIMIT: Final = 1 << 16
_BYTES_LIMIT: Final = 1 << 46


class Operators:
    """`node.op.relu(x)` emits a call of the operator `relu` and gives its value."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return functools.partial(self._call, name)


class Node:
    """One node under conversion.

    inputs: a value per input, None where an optional one is missing. outputs: the names. attr:
    its attributes. op: emits operators. version: of the operator set of its domain.
    """

    def __init__(
        self,
        proto: onnx.NodeProto,
        attr: Attributes,
        inputs: Sequence[Value],
        *,
        version: int,
        span: Span,
        importer: Importer,
        scope: Scope,
    ) -> None:
        self.proto = proto
        self.op_type: str = proto.op_type
        self.outputs: tuple[str, ...] = tuple(proto.output)
        self.attr = attr
        self.inputs = list(inputs)
        self.version = version
        self.span = span
        self.importer = importer
        self.scope = scope
        self.op = Operators(self.call)
        self._pending: list[tuple[Var, GraphExpr]] = []
        self._bound: dict[Var, Var] = {}

    # -- inputs ------------------------------------------------------------------------------

    def has(self, position: int) -> bool:
        """Whether input `position` is given."""
        return position < len(self.inputs) and self.inputs[position] is not None

    def value(self, position: int) -> Value:
        """Input `position` as it is; `UserError` when it is missing."""
        if not self.has(position):
            raise UserError(f"input {position} is missing; got {len(self.inputs)} inputs")
        return self.inputs[position]

    def tensor(self, position: int) -> GraphExpr:
        """Input `position` as a tensor of the graph."""
        return self.as_tensor(self.value(position))

    def optional(self, position: int) -> GraphExpr | None:
        """Input `position` as a tensor, None when it is missing."""
        return self.tensor(position) if self.has(position) else None

    def tensors(self) -> list[GraphExpr]:
        """All inputs as tensors; at least one."""
        return [self.tensor(position) for position in range(max(1, len(self.inputs)))]

    def as_tensor(self, value: Value) -> GraphExpr:
        """A value as a tensor of the graph; computed shapes become data."""
        if isinstance(value, Symbolic):
            return self._materialise(value)
        if isinstance(value, Narrow):
            raise Unsupported(f"a tensor of {value.kind}, which it does not take")
        if isinstance(value, Text):
            raise Unsupported("a tensor of strings, which it does not take")
        if not isinstance(value, GraphExpr):
            raise Unsupported("a sequence or optional where a tensor is expected")
        return value

    def _materialise(self, value: Symbolic) -> GraphExpr:
        shaped = materialize(self, value.data, self.importer.params)
        return self.cast(shaped, value.dtype)

    def constant(self, position: int, what: str) -> np.ndarray:
        """The value of input `position`, which must be known now."""
        return self.known(self.value(position), what)

    def known(self, value: Value, what: str) -> np.ndarray:
        """The array of a value that must be known now."""
        if isinstance(value, Constant):
            return value.data
        if isinstance(value, Symbolic):
            raise Unsupported(f"`{what}` depends on a symbolic dimension")
        if not isinstance(value, GraphExpr):
            raise Unsupported(f"`{what}` is no tensor")
        raise Unsupported(
            f"`{what}` must be known when compiling, but is computed from the model's inputs",
            inputs=self.importer.sources_of(value),
        )

    def ints(self, position: int, what: str) -> tuple[int, ...]:
        """The integers of a known scalar or vector."""
        array = self.constant(position, what)
        if array.ndim > 1 or array.dtype.kind not in "iu":
            raise UserError(
                f"`{what}` is {array.dtype} of shape {array.shape}, expected a vector of integers"
            )
        return tuple(int(item) for item in array.ravel())

    def integer(self, position: int, what: str) -> int:
        """A known integer."""
        found = self.ints(position, what)
        if len(found) != 1:
            raise UserError(f"`{what}` has {len(found)} elements, expected one")
        return found[0]

    def dims(self, position: int, what: str) -> tuple[Any, ...]:
        """A vector of integers of which some may be symbolic."""
        value = self.value(position)
        if isinstance(value, Symbolic):
            return as_dims(value.data.ravel())
        return self.ints(position, what)

    def axes(self, position: int, since: int, name: str = "axes") -> tuple[int, ...] | None:
        """Axes: an input from opset `since` on, an attribute before; None when not given."""
        if self.version >= since:
            return self.ints(position, name) if self.has(position) else None
        return self.attr.ints(name, None)  # type: ignore[no-any-return]

    # -- emitting ----------------------------------------------------------------------------

    def call(self, name: str, *args: Any, **attrs: Any) -> Any:
        """Emit a call of operator `name`: one value, or a tuple of them for several outputs."""
        try:
            found = op.get(name)
        except UserError:
            raise Unsupported(f"the operator library has no `{name}` yet") from None
        call = found(*args, span=self.span, **attrs)
        folded = self._fold(call)
        if folded is not None:
            return folded
        value = self._bind(call)
        if isinstance(call.type, TupleType):
            count = len(call.type.fields)
            return tuple(self._bind(TupleGetItem(value, index)) for index in range(count))
        return value

    def item(self, value: GraphExpr, index: int) -> Var:
        """Emit the field of a tuple."""
        return self._bind(TupleGetItem(value, index))

    def bind_dim(self, value: GraphExpr, bound: Expr) -> Expr:
        """A dimension whose size is the int64 scalar `value`, at most `bound`: a new symbol."""
        if isinstance(value, Constant):
            return const(int(value.data))
        symbol = Symbol(f"{self.outputs[0] or self.op_type}_size")
        self.importer.late[symbol] = self._bind(BindDim(value, bound, symbol))
        return symbol

    def _bind(self, value: GraphExpr) -> Var:
        fields = value.type.fields if isinstance(value.type, TupleType) else (value.type,)
        for type_ in fields:
            check_bytes(type_)
        var = Var("", value.type, span=self.span)
        self._pending.append((var, value))
        self.importer.derive_sources(var, value)
        return var

    def _fold(self, call: Call) -> Any:
        if not all(isinstance(arg, Constant) for arg in call.args):
            return None
        fields = call.type.fields if isinstance(call.type, TupleType) else (call.type,)
        sizes = [element_count(type_) for type_ in fields]
        if any(size is None or size > _FOLD_LIMIT for size in sizes):
            return None
        if any(arg.data.size > _FOLD_LIMIT for arg in call.args if isinstance(arg, Constant)):
            return None
        if not call.callee.has_rule("numpy") or call.callee.name == "dequantize":
            return None  # quantised weights stay in sight
        arrays = [arg.data for arg in call.args if isinstance(arg, Constant)]
        result = call.callee.evaluate(arrays, call.attrs)
        if isinstance(result, tuple):
            return tuple(Constant(item) for item in result)
        return Constant(result)

    def finish(self, results: Sequence[Value]) -> list[Value]:
        """Bind what was emitted, the results under the names of the node's outputs."""
        names = {
            value: name
            for value, name in zip(map(_held, results), self.outputs, strict=False)
            if isinstance(value, Var)
        }
        current = self._emit_pending(names)
        return [self._finished(value, current) for value in results]

    def _emit_pending(self, names: Mapping[Var, str]) -> Callable[[GraphExpr], GraphExpr]:
        """Bind what is pending, and give the map from provisional to bound variables."""
        stem = next((name for name in self.outputs if name), self.op_type)

        def current(value: GraphExpr) -> GraphExpr:
            return self._bound.get(value, value) if isinstance(value, Var) else value

        for var, value in self._pending:
            name = names.get(var) or f"{stem}.{_stem(value)}"
            self._bound[var] = bound = self.importer.builder.emit(value.map(current), name=name)
            self.importer.derive_sources(bound, value)
            if isinstance(value, BindDim):
                self.importer.late[value.symbol] = bound
        self._pending.clear()
        return current

    def flush(self, values: Sequence[Value]) -> list[Value]:
        """Bind what was emitted so far, so that a subgraph may use it; `values` as bound."""
        current = self._emit_pending({})
        return [self._finished(value, current) for value in values]

    def unpoisoned(self, value: Value) -> Value:
        """A subgraph's result; a node of it that cannot be imported fails this one too."""
        if isinstance(value, Poison):
            raise Consequence
        return value

    def _finished(self, value: Value, current: Callable[[GraphExpr], GraphExpr]) -> Value:
        if isinstance(value, GraphExpr):
            return current(value)
        if isinstance(value, Narrow):
            return Narrow(current(value.bytes), value.kind)
        if isinstance(value, Text):
            return Text(current(value.codes), value.table)
        if isinstance(value, Sequence_):
            return Sequence_(tuple(current(item) for item in value.items), value.dtype)
        if isinstance(value, Optional_):
            return Optional_(self._finished(value.value, current))
        return value

    # -- shorthands --------------------------------------------------------------------------

    def scalar(self, value: float | int | bool, like: GraphExpr) -> Constant:
        """A scalar constant of the dtype of `like`."""
        return Constant(np.asarray(value, dtype=dtype(like).numpy))

    def cast(self, value: GraphExpr, to: str | DType) -> GraphExpr:
        """`value` converted; itself when it has that dtype already."""
        wanted = DType.of(to)
        if dtype(value) is wanted:
            return value
        return self.op.cast(value, dtype=wanted)  # type: ignore[no-any-return]

    def reshape(self, value: GraphExpr, dims: Sequence[Any]) -> GraphExpr:
        """`value` in another shape."""
        return self.op.reshape(value, shape=tuple(dims))  # type: ignore[no-any-return]

    def static_shape(self, value: GraphExpr, what: str) -> tuple[int, ...]:
        """The shape of a tensor, which must be static."""
        found = tensor_type(value).static_shape
        if found is None:
            raise Unsupported(f"`{what}` has a symbolic shape")
        return found

    def static_dim(self, value: GraphExpr, axis: int, what: str) -> int:
        """One dimension, which must be static."""
        dims = tensor_type(value).shape
        if not -len(dims) <= axis < len(dims):
            raise UserError(f"`{what}` has {len(dims)} dimensions, so no axis {axis}")
        known = as_int(dims[axis])
        if known is None:
            raise Unsupported(f"`{what}` has a symbolic dimension at axis {axis}")
        return known


def check_results(results: Sequence[Any], node: Node, where: str) -> None:
    """`UserError` when a converter gave what is no value, or nothing for an output that is read."""
    names = [*node.outputs, *[""] * len(results)]
    for position, (name, value) in enumerate(zip(names, results, strict=False)):
        if value is None and not name:
            continue
        if not isinstance(value, (GraphExpr, Symbolic, Narrow, Text, Poison, Sequence_, Optional_)):
            raise UserError(
                f"{where}: output {position} of its converter must be a value of the graph "
                f"(what `node.op` or `Constant` gives), got {type(value).__name__}",
                span=node.span,
            )


def _held(value: Value) -> Value:
    if isinstance(value, Text):
        return value.codes
    return value.bytes if isinstance(value, Narrow) else value


def _stem(value: GraphExpr) -> str:
    return str(value.callee.name) if isinstance(value, Call) else "item"


def shape(value: GraphExpr) -> tuple[Any, ...]:
    """The shape as integers and expressions."""
    return as_dims(tensor_type(value).shape)


def rank(value: GraphExpr) -> int:
    """The number of dimensions."""
    return tensor_type(value).ndim


def dtype(value: GraphExpr) -> DType:
    """The element type."""
    return tensor_type(value).dtype


def normal_axis(axis: int, ndim: int) -> int:
    """`axis` counted from the front; `UserError` when it is out of range."""
    if not -ndim <= axis < max(ndim, 1):
        raise UserError(f"axis {axis} is out of range for a tensor of {ndim} dimensions")
    return axis + ndim if axis < 0 else axis


def element_count(type_: Any) -> int | None:
    """The number of elements of a static tensor type, else None."""
    dims = type_.static_shape if isinstance(type_, TensorType) else None
    if dims is None:
        return None
    count = 1
    for dim in dims:
        count *= dim
    return count


def check_bytes(type_: Any) -> None:
    """`UserError` for a tensor that no memory can hold."""
    count = element_count(type_)
    if count is not None and count * type_.dtype.nbytes > _BYTES_LIMIT:
        raise UserError(
            f"a tensor of shape {type_.static_shape} and dtype {type_.dtype} would take "
            f"{count * type_.dtype.nbytes} bytes"
        )
