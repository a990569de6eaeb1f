# SPDX-License-Identifier: Apache-2.0
"""The graph-level IR on one page.

A `Function` is a list of bindings in A-normal form: every argument of a call is a variable or a
constant, every variable is bound once, and the body is evaluated in order.

    Function ::= params Var*, bindings Binding*, result Expr
    Binding  ::= Var = Expr
    Expr     ::= Var | Constant | Scalar | Tuple | TupleGetItem | Call | CallDPS | If | Loop
               | BindDim | Match | Construct | Closure
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from heddle.graph.registry import resolve_op
from heddle.ir.dtype import DType
from heddle.ir.expr import Expr, IntImm
from heddle.ir.module import BaseFunc, GlobalVar
from heddle.ir.node import Node, binder, derived, field, node
from heddle.ir.types import TensorType, TupleType, Type

NO_ATTRS: Final[Mapping[str, object]] = {}


class GraphExpr(Node):
    """Base of graph-level expressions; every one knows its `type`.

    `a + b`, `a - b`, `a * b`, `a / b`, `a @ b`, `a**b` and `-a` are calls of the operators `add`,
    `sub`, `mul`, `div`, `matmul`, `pow` and `negative`; one side may be a number or an array.
    """

    __slots__ = ()
    __array_ufunc__ = None
    """numpy arrays on the left leave the operation to the methods below."""

    type: Type

    def __add__(self, other: Any) -> GraphExpr:
        return _call("add", self, other)

    def __radd__(self, other: Any) -> GraphExpr:
        return _call("add", other, self)

    def __sub__(self, other: Any) -> GraphExpr:
        return _call("sub", self, other)

    def __rsub__(self, other: Any) -> GraphExpr:
        return _call("sub", other, self)

    def __mul__(self, other: Any) -> GraphExpr:
        return _call("mul", self, other)

    def __rmul__(self, other: Any) -> GraphExpr:
        return _call("mul", other, self)

    def __truediv__(self, other: Any) -> GraphExpr:
        return _call("div", self, other)

    def __rtruediv__(self, other: Any) -> GraphExpr:
        return _call("div", other, self)

    def __matmul__(self, other: Any) -> GraphExpr:
        return _call("matmul", self, other)

    def __rmatmul__(self, other: Any) -> GraphExpr:
        return _call("matmul", other, self)

    def __pow__(self, other: Any) -> GraphExpr:
        return _call("pow", self, other)

    def __neg__(self) -> GraphExpr:
        return _call("negative", self)


def _call(name: str, *args: Any) -> GraphExpr:
    call: GraphExpr = resolve_op(name)(*args)
    return call


@node
class Var(GraphExpr):
    """A named value of the graph; identity is the object, not the name."""

    IDENTITY = True

    name: str
    type: Type


@node
class Constant(GraphExpr):
    """A tensor known at compile time. `data` is never written to."""

    data: np.ndarray
    type: Type = derived()

    def _derive(self) -> None:
        shape = tuple(IntImm(int(dim)) for dim in self.data.shape)
        self.type = TensorType(shape, DType.of(self.data.dtype))


@node
class Scalar(GraphExpr):
    """A number for a scalar parameter of a loop function: a constant, or an expression of symbolic
    dimensions. It is an argument of `CallDPS` and nothing else."""

    value: Expr
    type: Type = derived()

    def _derive(self) -> None:
        self.type = TensorType((), self.value.dtype)


@node
class Tuple(GraphExpr):
    """Several values as one."""

    fields: tuple[GraphExpr, ...]
    type: Type = derived()

    def _derive(self) -> None:
        self.type = TupleType(tuple(item.type for item in self.fields))


@node
class TupleGetItem(GraphExpr):
    """One field of a tuple value."""

    value: GraphExpr
    index: int
    type: Type = derived()

    def _derive(self) -> None:
        assert isinstance(self.value.type, TupleType)
        self.type = self.value.type.fields[self.index]


@node
class Call(GraphExpr):
    """A call of an operator (`heddle.op.Op`), of a graph function of the module (`GlobalVar`), or
    of a variable that holds a function.

    Tensors are `args`; everything else (axes, pads, ...) is in `attrs`, by name. Build calls with
    the operator itself (`op.relu(x)`), which infers `type`.
    """

    callee: Any
    args: tuple[GraphExpr, ...]
    attrs: Mapping[str, object]
    type: Type


@node
class CallDPS(GraphExpr):
    """A call of a loop function or extern function in destination-passing style: it is handed
    `args` and then freshly allocated outputs of `type` (a tensor type, or a tuple of them). See
    `heddle.graph.dps` for scalar parameters.
    """

    callee: GlobalVar
    args: tuple[GraphExpr, ...]
    type: Type
    attrs: Mapping[str, object] = field(default=NO_ATTRS)


@node
class Binding(Node):
    """`var = value`"""

    value: GraphExpr
    var: Var = binder()


@node
class Branch(Node):
    """One arm of an `If`: bindings, then a result."""

    bindings: tuple[Binding, ...]
    result: GraphExpr


@node
class If(GraphExpr):
    """`then` when the scalar boolean `condition` holds, else `otherwise`; types must agree."""

    condition: GraphExpr
    then: Branch
    otherwise: Branch
    type: Type


@node
class Arm(Node):
    """One arm of a `Match`: for values of `constructor`, whose fields it names, or for all that are
    left when that is "_"."""

    constructor: str
    fields: tuple[Var, ...] = binder()
    body: Branch


@node
class Match(GraphExpr):
    """The arm that fits the constructor of `value`, which has a `DataType`. Each constructor has
    one arm, or the last arm is for all others; types must agree."""

    value: GraphExpr
    arms: tuple[Arm, ...]
    type: Type


@node
class Construct(GraphExpr):
    """A new value of the data type `type`: what its constructor makes of `fields`."""

    constructor: str
    fields: tuple[GraphExpr, ...]
    type: Type


def branches_of(value: GraphExpr) -> tuple[Branch, ...]:
    """The branches of an `If` or a `Match`, none of anything else."""
    if isinstance(value, If):
        return value.then, value.otherwise
    return tuple(arm.body for arm in value.arms) if isinstance(value, Match) else ()


@node
class Closure(GraphExpr):
    """The graph function `function` as a value, with its last parameters given: those `captured`.
    It is an argument of a call of a graph function, and is gone once that is specialised."""

    function: GlobalVar
    captured: tuple[GraphExpr, ...]
    type: Type


@node
class Loop(GraphExpr):
    """Calls of the graph function `body`, one after another:

        i, going, state, rows = 0, condition, carried, []
        while going and i < limit:
            going, *results = body(i, *state, *captured)
            state, new = results[: len(state)], results[len(state) :]
            rows.append(new); i += 1
        return i, *state, *map(stack, zip(*rows))

    `i` and `limit` are scalars of int64, `condition` is a scalar bool; without a limit or condition
    there is none. The types of the carried values stay. What the body gives besides is stacked
    along a new first axis of `bound` rows, of which the first `i` are written; running more often
    than `bound` times is an error at run time. `type` is the tuple of the count (a scalar of
    int64), the carried and the stacked values.

    With `history`, the stacked values are further parameters of the body, after those captured. It
    may use the rows of earlier iterations, `[:i]`; what the others hold is not known.
    """

    body: GlobalVar
    limit: GraphExpr | None
    condition: GraphExpr | None
    carried: tuple[GraphExpr, ...]
    captured: tuple[GraphExpr, ...]
    bound: Expr
    type: Type
    history: bool = field(default=False)


@node
class BindDim(GraphExpr):
    """Gives the dimension `symbol` the value of a scalar of int64 that is computed at run time.

    It is at most `bound`, an expression of dimensions that are known before: memory is planned for
    that many. Anything else is an error at run time. The value of the expression is `value`.
    """

    value: GraphExpr
    bound: Expr
    symbol: Expr = binder()
    type: Type = derived()

    def _derive(self) -> None:
        self.type = self.value.type


@node
class Function(BaseFunc):
    """A graph-level function. Symbolic dimensions are bound by the shapes of `params`; those in
    the attribute "symbols" are handed over by the caller, those of `BindDim` computed on the way.
    """

    params: tuple[Var, ...] = binder()
    bindings: tuple[Binding, ...]
    result: GraphExpr
    attrs: Mapping[str, object] = field(default=NO_ATTRS)
