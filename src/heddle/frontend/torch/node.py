# SPDX-License-Identifier: Apache-2.0
"""`Node`: what a converter sees of one node of the program, and how it emits operators."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from heddle import op
from heddle.frontend.torch.parts import Complex, as_complex, component
from heddle.frontend.torch.report import Unsupported
from heddle.frontend.torch.sizes import number_tensor, truth_tensor
from heddle.frontend.torch.symbols import Dim
from heddle.frontend.torch.tensors import dtype_of
from heddle.graph import BindDim, Call, Constant, GraphExpr, TupleGetItem
from heddle.graph.dims import same_dim, show_type
from heddle.ir import DType, TensorType, TupleType
from heddle.ir.expr import Expr, as_expr, as_int
from heddle.ir.expr import Var as Symbol
from heddle.op.common import plain_dims
from heddle.support import InternalError, Span

if TYPE_CHECKING:
    from heddle.frontend.torch.importer import Importer

_FOLD_LIMIT: Final = 1 << 16


class Operators:
    """`node.op.relu(x)` emits a call of the operator `relu` and gives its value."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return functools.partial(self._call, name)


class Node:
    """One node under conversion.

    target: the name of the operator, as in "aten.add.Tensor". label: the layer and the operator,
    as in "encoder.layer.0.add". result: what torch says of the result (a fake tensor, or a tuple).
    operands: what torch says of the arguments. op: emits operators of Heddle.
    """

    def __init__(
        self,
        importer: Importer,
        *,
        target: str,
        label: str,
        span: Span,
        result: Any,
        operands: Sequence[Any],
        used: frozenset[int] | None = None,
    ) -> None:
        self.importer = importer
        self.target = target
        self.label = label
        self.span = span
        self.result = result
        self.operands = operands
        self._used = used
        self.op = Operators(self.call)

    # -- what torch says of the result --------------------------------------------------------

    @property
    def dtype(self) -> DType:
        """The dtype of the (first) result."""
        return dtype_of(self._first.dtype)

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The shape of the (first) result."""
        return self.importer.symbols.shape(self._first.shape)

    @property
    def _first(self) -> torch.Tensor:
        first = self.result[0] if isinstance(self.result, (tuple, list)) else self.result
        if not isinstance(first, torch.Tensor):
            raise Unsupported(f"the result is a {type(first).__name__}")
        return first

    def common_dtype(self) -> DType:
        """The dtype in which torch computes the operands together, by its promotion rules: the
        dimensions count (a 0-d tensor gives way to others of its kind), and so do numbers."""
        given = [_sample_number(x) for x in self.operands[:2]]
        return dtype_of(torch.result_type(*given))

    def uses(self, position: int) -> bool:
        """Whether the program reads result `position` of several."""
        return self._used is None or position in self._used

    # -- values ------------------------------------------------------------------------------

    def tensor(self, value: Any, to: DType | str | None = None) -> GraphExpr:
        """A value as a tensor: numbers and symbolic integers become scalars. `to`: its dtype;
        None leaves tensors as they are and gives a number the default dtype of its kind."""
        if isinstance(value, GraphExpr):
            return value if to is None else self.cast(value, to)
        if isinstance(value, Expr):
            return self.cast(self._size(value), to or "int64")
        if isinstance(value, torch.SymFloat):
            return self.cast(number_tensor(self, value.node.expr), to or "float32")
        if isinstance(value, torch.SymBool):
            return self.cast(truth_tensor(self, value.node.expr), to or "bool")
        if isinstance(value, (bool, int, float)):
            kind = "bool" if isinstance(value, bool) else "int64"
            kind = "float32" if isinstance(value, float) else kind
            return Constant(_number(value, DType.of(to or kind)))
        raise Unsupported(f"a {type(value).__name__} where a tensor is expected")

    def _size(self, value: Expr) -> GraphExpr:
        """An expression of dimensions as an int64 scalar: data."""
        known = as_int(value)
        if known is not None:
            return Constant(np.asarray(known, np.int64))
        return self.importer.size_tensor(self, value)

    def scalar(self, value: float | int | bool, like: GraphExpr) -> Constant:
        """A scalar constant of the dtype of `like`."""
        return Constant(_number(value, dtype(like)))

    def cast(self, value: GraphExpr, to: str | DType) -> GraphExpr:
        """`value` converted; itself when it has that dtype already."""
        wanted = DType.of(to)
        if dtype(value) is wanted:
            return value
        if isinstance(value, Constant) and value.data.ndim == 0:
            return Constant(_number(value.data.item(), wanted))
        return self.op.cast(value, dtype=wanted)  # type: ignore[no-any-return]

    def rounded(self, value: GraphExpr, to: DType) -> GraphExpr:
        """Floats as numbers of a dtype: of one of integers the nearest that it has."""
        if not to.is_int:
            return self.cast(value, to)
        low, high = float(to.min_value), float(to.max_value)
        return self.cast(self.op.clip(self.op.round(value), min=low, max=high), to)

    def reshape(self, value: GraphExpr, dims: Sequence[Dim]) -> GraphExpr:
        """`value` in another shape; itself when it has that shape. That there are as many elements
        torch has found, where it cannot be proved."""
        if same_shape(shape(value), dims):
            return value
        open_sizes = any(isinstance(dim, Expr) for dim in (*shape(value), *dims))
        if open_sizes and not same_shape([math.prod(shape(value))], [math.prod(dims)]):
            value = self.op.reshape(value, shape=(math.prod(shape(value)),))
            value = self.op.prefix(value, shape=(math.prod(dims),))
        return self.op.reshape(value, shape=tuple(dims))  # type: ignore[no-any-return]

    def expand(self, value: GraphExpr, dims: Sequence[Dim]) -> GraphExpr:
        """`value` broadcast to a shape; itself when it has that shape."""
        if same_shape(shape(value), dims):
            return value
        return self.op.broadcast_to(value, shape=tuple(dims))  # type: ignore[no-any-return]

    def agreeing(
        self, values: Sequence[GraphExpr], dims: Sequence[Dim], *, apart: int | None = None
    ) -> list[GraphExpr]:
        """`values`, whose dimensions torch has found equal to the last of `dims` or 1, with one
        dimension in place of those that cannot be proved equal: what proves it is a condition of
        the program. apart: an axis along which they differ."""
        wanted = list(dims)
        for value in values:
            for axis, old in zip(range(-rank(value), 0), shape(value), strict=True):
                if isinstance(old, int) and old != 1:
                    wanted[axis] = old
        if apart is not None:
            wanted[apart] = 1
        return [self._fitted(value, wanted, apart) for value in values]

    def _fitted(self, value: GraphExpr, wanted: Sequence[Dim], apart: int | None) -> GraphExpr:
        found = list(shape(value))
        for axis in range(rank(value)):
            new = wanted[axis - rank(value)]
            if axis != apart and isinstance(found[axis], Expr):
                found[axis] = found[axis] if same_shape([found[axis]], [new]) else new
        if same_shape(shape(value), found):
            return value
        return self.op.prefix(value, shape=tuple(found))  # type: ignore[no-any-return]

    def full(self, dims: Sequence[Dim], value: float | int | bool, to: DType) -> GraphExpr:
        """A tensor that is `value` everywhere."""
        return self.expand(Constant(_number(value, to)), dims)

    def bind_dim(self, count: GraphExpr, bound: Expr | int, size: Any) -> Dim:
        """A dimension whose size is the int64 scalar `count`, at most `bound`; torch calls it
        `size`."""
        if isinstance(count, Constant):
            return int(count.data)
        symbol = Symbol(f"{self.label}_size")
        self.importer.note_size(symbol, self.emit(BindDim(count, as_expr(bound), symbol)))
        self.importer.symbols.define(size, symbol)
        return symbol

    def part(self) -> Node:
        """The same node for one part of complex operands and results: real ones, says torch."""
        twin = copy.copy(self)
        twin.op = Operators(twin.call)
        twin.result = _real_types(self.result)
        twin.operands = _real_types(self.operands)
        return twin

    # -- emitting ----------------------------------------------------------------------------

    def call(self, name: str, *args: Any, **attrs: Any) -> Any:
        """Emit a call of operator `name`: one value, or a tuple of them for several outputs. Small
        calls of constants are evaluated: converters look for masks that mask nothing."""
        call = op.get(name)(*args, span=self.span, **attrs)
        folded = _fold(call)
        return self.emit(call) if folded is None else folded

    def emit(self, call: GraphExpr) -> Any:
        """Bind an expression under the node's label."""
        builder = self.importer.builder
        value = builder.emit(call, name=self.label)
        if isinstance(call.type, TupleType):
            return tuple(
                builder.emit(TupleGetItem(value, index), name=self.label)
                for index in range(len(call.type.fields))
            )
        return value

    def finish(self, results: Any) -> Any:
        """The results as torch says they are: converted to its dtype, checked for their shape."""
        if isinstance(results, (tuple, list)):
            expected = self.result if isinstance(self.result, (tuple, list)) else [self.result]
            pairs = zip(results, expected, strict=True)
            return tuple(None if a is None else self._finish_one(a, b) for a, b in pairs)
        return self._finish_one(results, self.result)

    def _finish_complex(self, value: Any, expected: torch.Tensor) -> Any:
        """Both parts of a complex value in the shape and the dtype of the result."""
        kind, dims = component(expected.dtype), self.importer.symbols.shape(expected.shape)
        found = as_complex(self, value, kind)
        return Complex(*(None if p is None else self.expand(p, dims) for p in found.parts))

    def _finish_one(self, value: Any, expected: Any) -> Any:
        if isinstance(expected, (torch.SymInt, int)) and isinstance(value, GraphExpr):
            return self.cast(value, "int64")  # a number that a loop carries
        if not isinstance(expected, torch.Tensor):
            raise Unsupported(f"the result is a {type(expected).__name__}")
        if expected.is_complex():
            return self._finish_complex(value, expected)
        value = self.cast(value, dtype_of(expected.dtype))
        dims = self.importer.symbols.shape(expected.shape)
        if not may_be_same(shape(value), dims):
            raise InternalError(
                f"{self.label}: the converter of {self.target} gives {show_type(value.type)}, "
                f"torch says {dims}"
            )
        return value


def _fold(call: Call) -> Any:
    """The value of a small call of constants, else None (folding weights is for the passes)."""
    if not all(isinstance(arg, Constant) for arg in call.args) or not call.callee.has_rule("numpy"):
        return None
    fields = call.type.fields if isinstance(call.type, TupleType) else (call.type,)
    for type_ in (*fields, *(arg.type for arg in call.args)):
        dims = type_.static_shape if isinstance(type_, TensorType) else None
        if dims is None or math.prod(dims) > _FOLD_LIMIT:
            return None
    arrays = [arg.data for arg in call.args if isinstance(arg, Constant)]
    result = call.callee.evaluate(arrays, call.attrs)
    if isinstance(result, tuple):
        return tuple(Constant(item) for item in result)
    return Constant(result)


def _number(value: float | int | bool, kind: DType) -> np.ndarray:
    """A 0-d array; integers wrap as they do in torch."""
    if kind.is_int:
        whole = int(value)
        span = 1 << kind.bits
        whole = (whole - kind.min_value) % span + kind.min_value
        return np.asarray(whole, kind.numpy)
    with np.errstate(over="ignore"):
        return np.asarray(value).astype(kind.numpy)


def _real_types(tree: Any) -> Any:
    """What torch says of values, with the real parts of complex ones."""
    if isinstance(tree, (tuple, list)):
        return [_real_types(item) for item in tree]
    return tree.real if isinstance(tree, torch.Tensor) and tree.is_complex() else tree


def _sample_number(operand: Any) -> Any:
    """A number of the kind of a symbolic one; others as they are."""
    if isinstance(operand, torch.SymInt):
        return 1
    return 1.0 if isinstance(operand, torch.SymFloat) else operand


def same_shape(a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    """Whether two shapes are provably equal."""
    return len(a) == len(b) and all(
        same_dim(as_expr(x), as_expr(y)) for x, y in zip(a, b, strict=True)
    )


def may_be_same(a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    """Whether two shapes agree in rank and wherever both dimensions are known."""
    return len(a) == len(b) and all(
        x == y for x, y in zip(a, b, strict=True) if isinstance(x, int) and isinstance(y, int)
    )


def tensor_type(value: GraphExpr) -> TensorType:
    """The tensor type of a value of the graph."""
    assert isinstance(value.type, TensorType)
    return value.type


def shape(value: GraphExpr) -> tuple[Dim, ...]:
    """The shape as integers and expressions."""
    return plain_dims(tensor_type(value).shape)


def rank(value: GraphExpr) -> int:
    """The number of dimensions."""
    return tensor_type(value).ndim


def dtype(value: GraphExpr) -> DType:
    """The element type."""
    return tensor_type(value).dtype


def normal_axis(axis: int, ndim: int) -> int:
    """`axis` counted from the front (torch has checked that it is in range)."""
    return axis % max(ndim, 1)


def normal_axes(axes: Any, ndim: int) -> tuple[int, ...]:
    """Axes of a reduction counted from the front; None, and no axes at all, are all of them."""
    if axes is None or (isinstance(axes, (list, tuple)) and not axes):
        return tuple(range(ndim))
    if isinstance(axes, int):
        axes = (axes,)
    return tuple(sorted({normal_axis(axis, ndim) for axis in axes})) if ndim else ()


__all__ = [
    "Node",
    "Unsupported",
    "dtype",
    "may_be_same",
    "normal_axes",
    "normal_axis",
    "rank",
    "same_shape",
    "shape",
    "tensor_type",
]
