# SPDX-License-Identifier: Apache-2.0
"""Linear algebra: what systems of linear equations answer. The factors that PyTorch keeps for
gradients are not computed; under `torch.compile` with gradients these operators run in PyTorch."""

from __future__ import annotations

from typing import Any

from heddle.frontend.torch.node import Node, dtype, rank, shape
from heddle.frontend.torch.registry import converts
from heddle.frontend.torch.report import Unsupported
from heddle.graph import GraphExpr


def _only(node: Node, known: int, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The results, of which only the first `known` and the last are computed."""
    if any(node.uses(at) for at in range(known, len(values)) if values[at] is None):
        raise Unsupported("the factors of a matrix")
    return values


def _eye(node: Node, a: GraphExpr) -> GraphExpr:
    one = node.op.eye(shape=shape(a)[-2:], dtype=dtype(a))
    return node.expand(one, shape(a))


@converts("aten.linalg_inv_ex.default")
def _inverse(node: Node, a: GraphExpr, *, check_errors: bool = False) -> Any:
    inverse, _, info = node.op.solve(a, _eye(node, a))
    return inverse, info


@converts("aten._linalg_det.default")
def _det(node: Node, a: GraphExpr) -> Any:
    none = node.full((*shape(a)[:-1], 0), 0.0, dtype(a))
    return _only(node, 1, (node.op.solve(a, none)[1], None, None))


@converts("aten._linalg_slogdet.default")
def _slogdet(node: Node, a: GraphExpr) -> Any:
    none = node.full((*shape(a)[:-1], 0), 0.0, dtype(a))
    det = node.op.solve(a, none)[1]
    return _only(node, 2, (node.op.sign(det), node.op.log(node.op.abs(det)), None, None))


@converts("aten._linalg_solve_ex.default")
def _solve(
    node: Node, a: GraphExpr, b: GraphExpr, *, left: bool = True, check_errors: bool = False
) -> Any:
    """a x = b; not `left`: x a = b, which is a^T x^T = b^T. b may be vectors."""
    matrix, given = (operand.shape for operand in node.operands[:2])
    vectors = rank(b) == 1 or (rank(b) == rank(a) - 1 and given == matrix[:-1])
    right = node.op.unsqueeze(b, axes=(rank(b),)) if vectors else b
    if not left and not vectors:
        a, right = _turned(node, a), _turned(node, right)
    elif not left:
        a = _turned(node, a)
    batch = node.shape[: len(node.shape) - (1 if vectors else 2)]
    a = node.expand(a, (*batch, *shape(a)[-2:]))
    right = node.expand(right, (*batch, *shape(right)[-2:]))
    x, _, info = node.op.solve(a, right)
    x = x if left or vectors else _turned(node, x)
    return _only(node, 1, (node.reshape(x, node.shape), None, None, info))


def _turned(node: Node, x: GraphExpr) -> GraphExpr:
    order = (*range(rank(x) - 2), rank(x) - 1, rank(x) - 2)
    return node.op.transpose(x, permutation=order)  # type: ignore[no-any-return]
