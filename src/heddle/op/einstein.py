# SPDX-License-Identifier: Apache-2.0
"""Einstein summation as one contraction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from heddle import te
from heddle.ir import TensorType
from heddle.ir.expr import Expr, as_int, cast, const
from heddle.op.common import (
    accumulator_dtype,
    cast_tensor,
    require_same_dtype,
    same_dim,
    show_dim,
    show_shape,
)
from heddle.op.registry import operator
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


einsum.samples(
    case(floats(2, 3, 4), floats(2, 4, 5), equation="bij,bjk->bik"),
    case(floats(3, 4), equation="ij->ji"),
    case(floats(3, 4), equation="ij->i"),
    case(floats(3, 3), equation="ii"),
    case(floats(2, 3, 4), floats(4, 5), equation="...j,jk->...k"),
    case(floats(3), floats(4), equation="i,j"),
    case(ints(2, 3), ints(3), ints(2), equation="ij, j, i ->"),
)
