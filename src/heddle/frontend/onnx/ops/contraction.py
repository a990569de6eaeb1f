# SPDX-License-Identifier: Apache-2.0
"""Products of matrices and tensors."""

from __future__ import annotations

import string
from typing import Any

from heddle.frontend.onnx.node import Node, dtype, rank, shape
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.report import Unsupported
from heddle.graph import GraphExpr
from heddle.support import UserError


@converts("MatMul")
def _matmul(node: Node) -> Any:
    return node.op.matmul(node.tensor(0), node.tensor(1))


@converts("Gemm")
def _gemm(node: Node) -> Any:
    a, b = node.tensor(0), node.tensor(1)
    alpha, beta = node.attr.float("alpha", 1.0), node.attr.float("beta", 1.0)
    result = node.op.matmul(
        a, b, transpose_a=node.attr.flag("transA"), transpose_b=node.attr.flag("transB")
    )
    if alpha != 1.0:
        result = node.op.mul(result, node.scalar(alpha, result))
    c = node.optional(2)
    if c is None or beta == 0.0:
        return result
    if beta != 1.0:
        c = node.op.mul(c, node.scalar(beta, c))
    return node.op.add(result, c)


# -- einsum ----------------------------------------------------------------------------------


@converts("Einsum")
def _einsum(node: Node) -> Any:
    equation = node.attr.string("equation").replace(" ", "")
    operands = node.tensors()
    terms, result = _parse(equation, [rank(x) for x in operands])
    value, letters = _diagonal(node, operands[0], terms[0])
    for x, term in zip(operands[1:], terms[1:], strict=True):
        other, other_letters = _diagonal(node, x, term)
        later = set("".join(terms[terms.index(term) + 1 :])) | set(result)
        if len(operands) == 2:
            later = set(result)
        value, letters = _contract(node, value, letters, other, other_letters, later)
    gone = tuple(axis for axis, letter in enumerate(letters) if letter not in result)
    if gone:
        value = node.op.sum(value, axes=gone)
        letters = "".join(letter for letter in letters if letter in result)
    order = tuple(letters.index(letter) for letter in result)
    if order == tuple(range(len(order))):
        return value
    return node.op.transpose(value, permutation=order)


def _parse(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """Terms and result with the ellipsis replaced by capital letters that are not in use."""
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise UserError(f"equation `{equation}` has {len(terms)} terms for {len(ranks)} inputs")
    free = [letter for letter in string.ascii_letters if letter not in equation]
    widest = max(
        [
            ndim - len(t.replace("...", ""))
            for t, ndim in zip(terms, ranks, strict=True)
            if "..." in t
        ],
        default=0,
    )
    if widest < 0 or widest > len(free):
        raise UserError(f"equation `{equation}` does not fit inputs of {ranks} dimensions")
    dots = "".join(free[:widest])
    spelled = []
    for term, ndim in zip(terms, ranks, strict=True):
        covered = ndim - len(term.replace("...", ""))
        plain = term.replace("...", dots[widest - covered :] if covered else "")
        if len(plain) != ndim or not (plain.isalpha() or not plain):
            raise UserError(f"term `{term}` of `{equation}` does not fit {ndim} dimensions")
        spelled.append(plain)
    if arrow:
        return spelled, right.replace("...", dots)
    once = sorted(c for c in set("".join(terms)) - {"."} if "".join(terms).count(c) == 1)
    return spelled, dots + "".join(once)


def _diagonal(node: Node, x: GraphExpr, term: str) -> tuple[GraphExpr, str]:
    """`x` with axes of one letter reduced to their diagonal."""
    repeated = next((letter for letter in term if term.count(letter) > 1), None)
    if repeated is None:
        return x, term
    if term.count(repeated) > 2:
        raise Unsupported(f"einsum term `{term}` repeats `{repeated}` more than once")
    first, second = (axis for axis, letter in enumerate(term) if letter == repeated)
    size = node.static_dim(x, first, "input")
    rest = [axis for axis in range(rank(x)) if axis not in (first, second)]
    moved = node.op.transpose(x, permutation=(*rest, first, second))
    flat = node.reshape(moved, (*shape(moved)[:-2], size * size))
    axis = len(rest)
    picked = node.op.slice(flat, starts=(0,), ends=(size * size,), axes=(axis,), steps=(size + 1,))
    return _diagonal(node, picked, "".join(term[axis] for axis in rest) + repeated)


def _contract(
    node: Node, a: GraphExpr, left: str, b: GraphExpr, right: str, later: set[str]
) -> tuple[GraphExpr, str]:
    """Two tensors multiplied, letters that nothing needs later summed over: a batched product."""
    shared = [c for c in left if c in right and c not in later]
    batch = [c for c in left if c in right and c in later]
    rows = [c for c in left if c not in right]
    columns = [c for c in right if c not in left]
    if any(
        shape(a)[left.index(c)] != shape(b)[right.index(c)]
        for c in batch + shared
        if isinstance(shape(a)[left.index(c)], int)
    ):  # a dimension of 1 broadcasts
        return _broadcast_product(node, a, left, b, right)
    dims = {c: shape(a)[left.index(c)] for c in left}
    dims.update({c: shape(b)[right.index(c)] for c in columns})

    def matrix(x: GraphExpr, letters: str, groups: list[list[str]]) -> GraphExpr:
        order = tuple(letters.index(c) for group in groups for c in group)
        moved = node.op.transpose(x, permutation=order) if order != tuple(range(rank(x))) else x
        sizes = [dims[c] for c in groups[0]]
        for group in groups[1:]:
            size: Any = 1
            for c in group:
                size = size * dims[c]
            sizes.append(size)
        return node.reshape(moved, sizes)

    product = node.op.matmul(
        matrix(a, left, [batch, rows, shared]), matrix(b, right, [batch, shared, columns])
    )
    letters = "".join(batch + rows + columns)
    return node.reshape(product, [dims[c] for c in letters]), letters


def _broadcast_product(
    node: Node, a: GraphExpr, left: str, b: GraphExpr, right: str
) -> tuple[GraphExpr, str]:
    letters = left + "".join(c for c in right if c not in left)

    def spread(x: GraphExpr, own: str) -> GraphExpr:
        order = tuple(own.index(c) for c in letters if c in own)
        moved = node.op.transpose(x, permutation=order)
        sizes = iter(shape(moved))
        return node.reshape(moved, [next(sizes) if c in own else 1 for c in letters])

    return node.op.mul(spread(a, left), spread(b, right)), letters


# -- integers --------------------------------------------------------------------------------


def shifted(node: Node, x: GraphExpr, zero: GraphExpr | None, axis: int | None) -> GraphExpr:
    """x - zero in int32; a vector `zero` runs along `axis`."""
    wide = node.cast(x, "int32")
    if zero is None:
        return wide
    point = node.cast(zero, "int32")
    if rank(point) == 1 and axis is not None:
        tail = rank(x) - (axis % rank(x)) - 1
        point = node.reshape(point, (*shape(point), *(1,) * tail))
    return node.op.sub(wide, point)  # type: ignore[no-any-return]


@converts("MatMulInteger")
def _matmul_integer(node: Node) -> Any:
    a, b = node.tensor(0), node.tensor(1)
    left = shifted(node, a, node.optional(2), -2 if rank(a) > 1 else None)
    right = shifted(node, b, node.optional(3), -1)
    return node.op.matmul(left, right, out_dtype="int32")


@converts("Det")
def _det(node: Node) -> Any:
    x = node.tensor(0)
    size = node.static_dim(x, -1, "X")
    if size > 4 or not dtype(x).is_float:
        raise Unsupported(f"the determinant of {size} x {size} matrices")
    return _minor(node, x, tuple(range(size)), 0)


def _minor(node: Node, x: GraphExpr, columns: tuple[int, ...], row: int) -> GraphExpr:
    """The determinant of the rows from `row` on and of these columns, by expansion."""

    def at(column: int) -> GraphExpr:
        cut = node.op.slice(
            x, starts=(row, column), ends=(row + 1, column + 1), axes=(rank(x) - 2, rank(x) - 1)
        )
        return node.reshape(cut, shape(x)[:-2])

    if len(columns) == 1:
        return at(columns[0])
    total: GraphExpr | None = None
    for position, column in enumerate(columns):
        rest = columns[:position] + columns[position + 1 :]
        term = node.op.mul(at(column), _minor(node, x, rest, row + 1))
        if total is None:
            total = term
        else:
            total = node.call("sub" if position % 2 else "add", total, term)
    assert total is not None
    return total
