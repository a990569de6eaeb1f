# SPDX-License-Identifier: Apache-2.0
"""What graph passes share: rewriting functions in A-normal form, front to back.

A pass walks the bindings in order and emits new ones into a `Rewriter`, which knows how each new
variable is defined, so that a rule at a call can look back through the calls that feed it.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from heddle.graph.dims import same_shape
from heddle.graph.nodes import (
    BindDim,
    Binding,
    Branch,
    Call,
    CallDPS,
    Closure,
    Constant,
    Construct,
    Function,
    GraphExpr,
    If,
    Loop,
    Tuple,
    TupleGetItem,
    Var,
)
from heddle.ir.expr import (
    Add,
    BinaryExpr,
    Cast,
    Expr,
    FloorDiv,
    FloorMod,
    IntImm,
    Max,
    Min,
    Mul,
    Sub,
    as_int,
)
from heddle.ir.expr import Var as Symbol
from heddle.ir.module import GlobalVar, IRModule
from heddle.ir.types import TensorType
from heddle.ir.walk import post_order
from heddle.support import InternalError

NOMINAL: Final = 128
"""What a symbolic dimension counts where a heuristic needs a number."""

_ARITHMETIC: Final[Mapping[type, Callable[[int, int], int]]] = {
    Add: operator.add,
    Sub: operator.sub,
    Mul: operator.mul,
    FloorDiv: lambda a, b: a // b if b else 0,
    FloorMod: lambda a, b: a % b if b else 0,
    Min: min,
    Max: max,
}

FunctionRewrite: TypeAlias = Callable[[Function], Function]
Simplifier: TypeAlias = "Callable[[Rewriter, GraphExpr], GraphExpr]"


def is_primitive(function: object) -> bool:
    """Whether a function of the module is one kernel, made by the pass `fuse`."""
    return isinstance(function, Function) and bool(function.attrs.get("primitive"))


def is_function_call(value: object) -> bool:
    """Whether a value is a call of a graph function of the module."""
    return isinstance(value, Call) and isinstance(value.callee, GlobalVar)


def map_functions(module: IRModule, rewrite: FunctionRewrite) -> IRModule:
    """The module with `rewrite` applied to its graph functions, kernels excepted."""
    changed = {
        name: rewrite(function)
        for name, function in module.functions.items()
        if isinstance(function, Function) and not is_primitive(function)
    }
    return module.with_functions(changed)


def atoms_of(value: GraphExpr) -> Iterator[GraphExpr]:
    """The variables and constants that a bound value or a result uses directly; those of the
    branches of an `If` are included."""
    if isinstance(value, (Var, Constant)):
        yield value
    elif isinstance(value, (Call, CallDPS)):
        for item in value.args:
            yield from atoms_of(item)
    elif isinstance(value, (Tuple, Construct)):
        for item in value.fields:
            yield from atoms_of(item)
    elif isinstance(value, TupleGetItem):
        yield from atoms_of(value.value)
    elif isinstance(value, If):
        yield from atoms_of(value.condition)
        for branch in (value.then, value.otherwise):
            for binding in branch.bindings:
                yield from atoms_of(binding.value)
            yield from atoms_of(branch.result)
    elif isinstance(value, (Loop, BindDim, Closure)):
        for item in value.children():
            if isinstance(item, GraphExpr):
                yield from atoms_of(item)


def use_counts(function: Function) -> Counter[Var]:
    """How often each variable is used; the result of the function counts."""
    counts: Counter[Var] = Counter()
    for binding in function.bindings:
        counts.update(item for item in atoms_of(binding.value) if isinstance(item, Var))
    counts.update(item for item in atoms_of(function.result) if isinstance(item, Var))
    return counts


def op_name(value: object) -> str:
    """The name of the operator that an expression calls, "" for anything else."""
    if isinstance(value, Call) and not isinstance(value.callee, GlobalVar):
        return str(value.callee.name)
    return ""


def tensor_type(value: GraphExpr) -> TensorType | None:
    """The type of a tensor; None for tuples."""
    return value.type if isinstance(value.type, TensorType) else None


def shape_of(value: GraphExpr) -> tuple[Expr, ...]:
    """The dimensions of a tensor."""
    assert isinstance(value.type, TensorType)
    return value.type.shape


def static_shape(value: GraphExpr) -> tuple[int, ...] | None:
    """The dimensions of a tensor as integers, or None."""
    return value.type.static_shape if isinstance(value.type, TensorType) else None


def dims_attribute(dims: Iterable[Expr]) -> tuple[int | Expr, ...]:
    """Dimensions as an attribute holds them: integers where they are known."""
    return tuple(dim if (number := as_int(dim)) is None else number for dim in dims)


def value_name(value: GraphExpr) -> str:
    """The name of a variable, "" for anything else."""
    return value.name if isinstance(value, Var) else ""


def same_type(left: GraphExpr, right: GraphExpr) -> bool:
    """Whether two values are tensors of one shape and dtype."""
    a, b = tensor_type(left), tensor_type(right)
    if a is None or b is None:
        return False
    return a.dtype is b.dtype and same_shape(a.shape, b.shape)


def scalar_value(value: object) -> float | int | bool | None:
    """The number that a constant of one element (or one value throughout) holds, or None."""
    if not isinstance(value, Constant) or value.data.size == 0:
        return None
    data = value.data.reshape(-1)
    if data.size > 1 and (data.size > 4096 or not bool((data == data[0]).all())):
        return None
    number: float | int | bool = data[0].item() if data.dtype != object else data[0]
    return number


class Rewriter:
    """The function under construction.

    `emit(value)` binds a value and returns its variable. `definition(atom)` is the value that a
    variable of the new function is bound to. `uses(var)` is how often the function had used the
    variable that `var` stands for: a rule that swallows a definition asks for one use. `notes` is
    for the rules of a pass: what they know of values of the new function.
    """

    def __init__(self, function: Function, simplifier: Simplifier | None = None) -> None:
        self.function = function
        self._simplifier = simplifier
        self.bindings: list[Binding] = []
        self.counts = use_counts(function)
        self._definitions: dict[Var, GraphExpr] = {}
        self._values: dict[Var, GraphExpr] = {}
        self.notes: dict[GraphExpr, GraphExpr] = {}

    def emit(self, value: GraphExpr, *, like: Var | None = None, name: str = "") -> GraphExpr:
        """Bind `value` and return its variable (atoms are returned as they are).

        like: the variable of the old function that it computes; its name, span and number of uses
        carry over. name: for a new value.
        """
        if isinstance(value, (Var, Constant, Tuple)):
            return value
        stem = like.name if like is not None else name or op_name(value) or "v"
        if like is not None and like.type is value.type:
            var = like
        else:
            span = value.span if like is None else like.span or value.span
            var = Var(stem, value.type, span=span)  # type: ignore[call-arg]
        self.counts[var] = 1 if like is None else self.counts[like]
        self._definitions[var] = value
        self.bindings.append(Binding(value, var, span=value.span))  # type: ignore[call-arg]
        return var

    def simplify(self, value: GraphExpr) -> GraphExpr:
        """`value`, not yet emitted, after the rules of the pass, if it has any."""
        return value if self._simplifier is None else self._simplifier(self, value)

    def keep(self, binding: Binding) -> None:
        """Take over a binding as it is."""
        self._definitions[binding.var] = binding.value
        self.bindings.append(binding)

    def alias(self, var: Var, value: GraphExpr) -> None:
        """Let `value` take the place of the variable `var` of the old function."""
        self._values[var] = value
        if isinstance(value, Var) and value is not var:
            self.counts[value] += self.counts[var] - 1

    def resolve(self, value: Any) -> Any:
        """An expression of the old function with the variables of the new one."""
        if isinstance(value, Var):
            return self._values.get(value, value)
        if isinstance(value, If):
            return value.map(self._resolve_deep)
        return value.map(self.resolve)

    def _resolve_deep(self, child: Any) -> Any:
        if not isinstance(child, Branch):
            return self.resolve(child)
        return child.map(
            lambda item: (
                item.replace(value=self.resolve(item.value))
                if isinstance(item, Binding)
                else self.resolve(item)
            )
        )

    def definition(self, atom: object) -> GraphExpr | None:
        """What a variable of the new function is bound to; None for parameters and constants."""
        return self._definitions.get(atom) if isinstance(atom, Var) else None

    def defining_call(self, atom: object, name: str, *, single_use: bool = True) -> Call | None:
        """The call of operator `name` that defines `atom`, if that is its definition (and, with
        `single_use`, nothing else uses it)."""
        value = self.definition(atom)
        if not isinstance(value, Call) or op_name(value) != name:
            return None
        return value if not single_use or self.counts[atom] == 1 else None  # type: ignore[index]

    def finish(self) -> Function:
        """The new function; the old one when nothing changed."""
        old = self.function
        result = self.resolve(old.result)
        same = len(self.bindings) == len(old.bindings) and all(
            new is was for new, was in zip(self.bindings, old.bindings, strict=True)
        )
        if same and result is old.result:
            return old
        new: Function = old.replace(bindings=tuple(self.bindings), result=result)
        return new

    def copy_binding(self, binding: Binding) -> GraphExpr:
        """Emit a binding of the old function, its arguments resolved; returns its variable."""
        value = self.resolve(binding.value)
        if value is binding.value:
            self.keep(binding)
            return binding.var
        new = self.emit(value, like=binding.var)
        self.alias_new(binding.var, new)
        return new

    def alias_new(self, var: Var, new: GraphExpr) -> None:
        """Let `new`, emitted with `like=var`, take the place of `var`."""
        if new is not var:
            self._values[var] = new


def free_symbols(types: Iterable[TensorType]) -> list[Symbol]:
    """The symbolic dimensions in types, in order of first occurrence."""
    seen: dict[Symbol, None] = {}
    for item in types:
        for dim in item.shape:
            if as_int(dim) is None:
                seen.update(dict.fromkeys(n for n in post_order(dim) if isinstance(n, Symbol)))
    return list(seen)


def evaluate_dim(dim: Expr, symbols: Mapping[Symbol, int]) -> int:
    """The value of a dimension for values of its symbols; `KeyError` when one is missing."""
    number = as_int(dim)
    if number is not None:
        return number
    values: dict[Any, int] = {}
    for item in post_order(dim):
        if isinstance(item, IntImm):
            values[item] = item.value
        elif isinstance(item, Symbol):
            values[item] = symbols[item]
        elif isinstance(item, BinaryExpr) and type(item) in _ARITHMETIC:
            values[item] = _ARITHMETIC[type(item)](values[item.a], values[item.b])
        elif isinstance(item, Cast):
            values[item] = values[item.value]
        else:
            raise InternalError(f"{type(item).__name__} in a dimension")
    return values[dim]


class _Nominal(dict[Any, int]):
    def __missing__(self, symbol: Any) -> int:
        return NOMINAL


def nominal_value(dim: Expr) -> int:
    """The value of a dimension, where every symbol counts `NOMINAL`: only for heuristics."""
    return evaluate_dim(dim, _Nominal())


def nominal_size(dims: Iterable[Expr]) -> int:
    """The product of dimensions by `nominal_value`."""
    return math.prod(nominal_value(dim) for dim in dims)
