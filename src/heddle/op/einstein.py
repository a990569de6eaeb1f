# SPDX-License-Identifier: Apache-2.0
"""Einstein summation as one contraction."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import TensorType
from heddle.ir.expr import Expr, as_int, cast, const
from heddle.op.adjoint import broadcast_like, dims_of, dtype_of, ndim_of
from heddle.op.common import (
    accumulator_dtype,
    cast_tensor,
    plain_dims,
    require_same_dtype,
    same_dim,
    show_dim,
    show_shape,
)
from heddle.op.registry import operator, ops
from heddle.op.sample import case, floats, ints
from heddle.support import UserError


def parse_equation(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """The labels of each operand's axes and of the result's. The axes of an ellipsis are labelled
    "...0" (the last), "...1" and so on."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise UserError(f"equation `{equation}` has {len(terms)} operands, got {len(ranks)}")
    operands = [_labels(term, rank, equation) for term, rank in zip(terms, ranks, strict=True)]
    hidden = sorted({x for labels in operands for x in labels if len(x) > 1}, reverse=True)
    if arrow:
        head, dots, tail = right.partition("...")
        result = [*head, *(hidden if dots else ()), *tail]
    else:
        letters = sorted(set(left) - {",", "."})
        result = [*hidden, *(x for x in letters if left.count(x) == 1)]
    known = {label for labels in operands for label in labels}
    if len(set(result)) != len(result) or not set(result) <= known:
        raise UserError(f"equation `{equation}`: the result repeats a label or has an unknown one")
    return operands, result


def _labels(term: str, rank: int, equation: str) -> list[str]:
    head, dots, tail = term.partition("...")
    hidden = rank - len(head) - len(tail)
    legal = all(x.isalpha() for x in head + tail)
    if not legal or hidden < 0 or (hidden and not dots):
        raise UserError(f"equation `{equation}`: `{term}` does not label {rank} axes")
    return [*head, *(f"...{position}" for position in reversed(range(hidden))), *tail]


def _sizes(operands: list[list[str]], shapes: Sequence[Sequence[Expr]]) -> dict[str, Expr]:
    sizes: dict[str, Expr] = {}
    for labels, shape in zip(operands, shapes, strict=True):
        for label, dim in zip(labels, shape, strict=True):
            known = sizes.get(label)
            if known is None or as_int(known) == 1:
                sizes[label] = dim
            elif as_int(dim) != 1 and not same_dim(known, dim):
                raise UserError(
                    f"label `{label}` is {show_dim(known)} and {show_dim(dim)} in shapes "
                    + " and ".join(show_shape(s) for s in shapes)
                )
    return sizes


@operator("einsum", kind="contraction", dtypes="number")
def einsum(*xs: TensorType, equation: str) -> TensorType:
    """The sum of products of elements of all tensors, over the labels that the result lacks:
    "bij,bjk->bik". An ellipsis stands for further axes, which broadcast."""
    require_same_dtype(*xs)
    operands, result = parse_equation(equation, [x.ndim for x in xs])
    sizes = _sizes(operands, [x.shape for x in xs])
    return TensorType(tuple(sizes[label] for label in result), xs[0].dtype)


@einsum.rule("compute")
def _(*xs: te.Tensor, equation: str) -> te.Tensor:
    operands, result = parse_equation(equation, [x.ndim for x in xs])
    sizes = _sizes(operands, [x.shape for x in xs])
    dtype = accumulator_dtype(xs[0].dtype)
    summed = [label for label in sizes if label not in result]
    loops = {label: te.reduce_axis(sizes[label], f"r{at}") for at, label in enumerate(summed)}

    def body(*i: Expr) -> Expr:
        index: dict[str, Any] = {**dict(zip(result, i, strict=True)), **loops}
        value: Expr | None = None
        for x, labels in zip(xs, operands, strict=True):
            at = [
                const(0) if as_int(dim) == 1 else index[label]
                for dim, label in zip(x.shape, labels, strict=True)
            ]
            factor = cast(x[tuple(at)], dtype)
            value = factor if value is None else value * factor
        assert value is not None
        return te.sum(value, axis=list(loops.values()))

    total = te.compute([sizes[label] for label in result], body, name="einsum")
    return cast_tensor(total, xs[0].dtype)


@einsum.rule("numpy")
def _(*xs: np.ndarray, equation: str) -> np.ndarray:
    return np.asarray(np.einsum(equation, *xs))


@einsum.rule("grad")
def _(*xs: GraphExpr, dout: GraphExpr, out: GraphExpr, equation: str) -> tuple[GraphExpr, ...]:
    """For each operand, the sum of products of dout and the other operands over what it lacks."""
    operands, result = parse_equation(equation, [ndim_of(x) for x in xs])
    letters = _letters(operands)
    names = [[letters[label] for label in labels] for labels in operands]
    final = [letters[label] for label in result]
    sizes = {letters[label]: dim for label, dim in _sizes(operands, [*map(dims_of, xs)]).items()}
    return tuple(_operand_grad(xs, at, names, final, sizes, dout) for at in range(len(xs)))


def _letters(operands: list[list[str]]) -> dict[str, str]:
    """One letter for each label, those of ellipses included."""
    labels = {label: None for labels in operands for label in labels}
    free = (letter for letter in string.ascii_letters if letter not in labels)
    return {label: label if len(label) == 1 else next(free) for label in labels}


def _operand_grad(
    xs: Sequence[GraphExpr],
    at: int,
    names: list[list[str]],
    final: list[str],
    sizes: dict[str, Expr],
    dout: GraphExpr,
) -> GraphExpr:
    own, x = names[at], xs[at]
    terms, factors = [final], [dout]
    for position, labels in enumerate(names):
        if position != at:
            terms.append(labels)
            factors.append(xs[position])
    spare = (c for c in string.ascii_letters if all(c not in labels for labels in names))
    wanted: list[str] = []
    for label in own:
        if label not in wanted:
            wanted.append(label)
            continue
        # A label twice is a diagonal: elements beside it have no gradient.
        wanted.append(next(spare))
        size = plain_dims([sizes[label]])[0]
        terms.append([label, wanted[-1]])
        factors.append(ops.eye(shape=(size, size), dtype=dtype_of(x)))
    known = {label for labels in terms for label in labels}
    present = [label for label in wanted if label in known]
    inputs = ",".join("".join(labels) for labels in terms)
    d = ops.einsum(*factors, equation=f"{inputs}->{''.join(present)}")
    missing = tuple(axis for axis, label in enumerate(wanted) if label not in known)
    if missing:  # summed in x alone: every element of the sum has its gradient
        d = ops.unsqueeze(d, axes=missing)
    shape = [const(1) if axis in missing else sizes[own[axis]] for axis in range(len(own))]
    units = tuple(
        axis
        for axis, (dim, mine) in enumerate(zip(shape, dims_of(x), strict=True))
        if as_int(mine) == 1 and as_int(dim) != 1
    )
    return broadcast_like(ops.sum(d, axes=units, keepdims=True) if units else d, x)


einsum.samples(
    case(floats(2, 3, 4), floats(2, 4, 5), equation="bij,bjk->bik"),
    case(floats(3, 4), equation="ij->ji"),
    case(floats(3, 4), equation="ij->i"),
    case(floats(3, 3), equation="ii"),
    case(floats(2, 3, 4), floats(4, 5), equation="...j,jk->...k"),
    case(floats(3), floats(4), equation="i,j"),
    case(floats(3, 3, 2), floats(2), equation="iij,j->i"),
    case(floats(2, 1), floats(2, 4), equation="ij,ij->j"),
    case(ints(2, 3), ints(3), ints(2), equation="ij, j, i ->"),
)
