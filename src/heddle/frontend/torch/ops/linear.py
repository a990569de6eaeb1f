# SPDX-License-Identifier: Apache-2.0
"""Products of matrices and tensors."""

from __future__ import annotations

from typing import Any

from heddle.frontend.torch.node import Node, dtype, rank
from heddle.frontend.torch.registry import converts
from heddle.graph import GraphExpr


@converts(
    "aten.mm.default",
    "aten.bmm.default",
    "aten.matmul.default",
    "aten.mv.default",
    "aten.dot.default",
)
def _matmul(node: Node, a: GraphExpr, b: GraphExpr) -> Any:
    return node.op.matmul(a, b)


@converts("aten.linear.default")
def _linear(node: Node, x: GraphExpr, weight: GraphExpr, bias: GraphExpr | None = None) -> Any:
    if rank(weight) == 1:
        product = node.op.matmul(x, weight)
    else:
        product = node.op.matmul(x, weight, transpose_b=True)
    return product if bias is None else node.op.add(product, bias)


@converts("aten.addmm.default", "aten.baddbmm.default", "aten.addmv.default")
def _addmm(
    node: Node, c: GraphExpr, a: GraphExpr, b: GraphExpr, *, beta: Any = 1, alpha: Any = 1
) -> Any:
    product = _scaled(node, node.op.matmul(a, b), alpha)
    if beta == 0:  # what c holds does not count then, not even NaN
        return product
    return node.op.add(product, _scaled(node, c, beta))


def _scaled(node: Node, x: GraphExpr, factor: Any) -> GraphExpr:
    if not isinstance(factor, GraphExpr) and factor == 1:
        return x
    return node.op.mul(x, node.tensor(factor, dtype(x)))  # type: ignore[no-any-return]


@converts("aten.einsum.default")
def _einsum(node: Node, equation: str, tensors: list[GraphExpr], *, path: Any = None) -> Any:
    return node.op.einsum(*tensors, equation=equation.replace(" ", ""))
