# SPDX-License-Identifier: Apache-2.0
"""Symbolic dimensions: simplification, proofs of equality, matching of a callee's symbols.

A symbol stands for the size of an axis, so it is taken not to be negative.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from heddle.arith import Analyzer
from heddle.ir import (
    DataType,
    FunctionType,
    TensorType,
    TupleType,
    Type,
    free_vars,
    structural_equal,
    substitute,
)
from heddle.ir.expr import Expr, Var, as_int


def shape_analyzer(dims: Iterable[Expr]) -> Analyzer:
    """An analyzer that knows that the symbols of `dims` are sizes."""
    analyzer = Analyzer()
    for var in {var: None for dim in dims for var in free_vars(dim)}:
        analyzer.bind(var, 0)
    return analyzer


def simplify_dim(dim: Expr) -> Expr:
    """A dimension in its simplest form."""
    if as_int(dim) is not None or isinstance(dim, Var):
        return dim
    return shape_analyzer([dim]).simplify(dim)


def same_dim(a: Expr, b: Expr) -> bool:
    """Whether two dimensions are provably equal."""
    if a is b:
        return True
    left, right = as_int(a), as_int(b)
    if left is not None and right is not None:
        return left == right
    if structural_equal(a, b):
        return True
    if isinstance(a, Var) and (isinstance(b, Var) or right is not None):
        return False
    return shape_analyzer([a, b]).can_prove_equal(a, b)


def same_shape(a: Sequence[Expr], b: Sequence[Expr]) -> bool:
    """Whether two shapes are provably equal."""
    return len(a) == len(b) and all(same_dim(x, y) for x, y in zip(a, b, strict=True))


def same_type(a: Type, b: Type) -> bool:
    """Whether two types are provably equal."""
    if isinstance(a, TensorType) and isinstance(b, TensorType):
        return a.dtype is b.dtype and same_shape(a.shape, b.shape)
    if isinstance(a, TupleType) and isinstance(b, TupleType):
        return len(a.fields) == len(b.fields) and all(
            same_type(x, y) for x, y in zip(a.fields, b.fields, strict=True)
        )
    if isinstance(a, FunctionType) and isinstance(b, FunctionType):
        return len(a.params) == len(b.params) and all(
            same_type(x, y)
            for x, y in zip((*a.params, a.result), (*b.params, b.result), strict=True)
        )
    return structural_equal(a, b)


def match_symbols(
    params: Iterable[Sequence[Expr]], arguments: Iterable[Sequence[Expr]]
) -> dict[Var, Expr]:
    """What the symbols in the shapes of `params` stand for in a call with `arguments`: a dimension
    that is a bare symbol binds it where it first occurs."""
    found: dict[Var, Expr] = {}
    for param, argument in zip(params, arguments, strict=True):
        for dim, actual in zip(param, argument, strict=False):
            if isinstance(dim, Var):
                found.setdefault(dim, actual)
    return found


def shape_fits(param: Sequence[Expr], argument: Sequence[Expr], symbols: dict[Var, Expr]) -> bool:
    """Whether an argument's shape is what the callee's parameter says under `symbols`. A dimension
    with a symbol that nothing binds is checked at run time, so it fits."""
    if len(param) != len(argument):
        return False
    for dim, actual in zip(param, argument, strict=True):
        if all(var in symbols for var in free_vars(dim)):
            if not same_dim(simplify_dim(substitute(dim, symbols)), actual):
                return False
    return True


def show_dim(dim: object) -> str:
    """A dimension for messages."""
    number = as_int(dim) if isinstance(dim, Expr) else None
    if number is None and isinstance(dim, Var):
        return dim.name
    return str(dim if number is None else number)


def show_shape(shape: Sequence[object]) -> str:
    """`(1, n, 4)` for messages."""
    return f"({', '.join(show_dim(dim) for dim in shape)}{',' if len(shape) == 1 else ''})"


def show_type(type_: Type) -> str:
    """`float32 (1, n, 4)` for messages."""
    if isinstance(type_, TensorType):
        return f"{type_.dtype} {show_shape(type_.shape)}"
    if isinstance(type_, TupleType):
        return f"({', '.join(show_type(field) for field in type_.fields)})"
    if isinstance(type_, DataType):
        return type_.name
    if isinstance(type_, FunctionType):
        return f"({', '.join(map(show_type, type_.params))}) -> {show_type(type_.result)}"
    return type(type_).__name__
