# SPDX-License-Identifier: Apache-2.0
"""Products of matrices and tensors."""

from __future__ import annotations

from typing import Any

from heddle.frontend.torch.node import Node, dtype, rank, shape
from heddle.frontend.torch.registry import converts
from heddle.frontend.torch.report import Unsupported
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


@converts("aten.addbmm.default")
def _addbmm(
    node: Node, c: GraphExpr, a: GraphExpr, b: GraphExpr, *, beta: Any = 1, alpha: Any = 1
) -> Any:
    product = _scaled(node, node.op.sum(node.op.matmul(a, b), axes=(0,)), alpha)
    return product if beta == 0 else node.op.add(product, _scaled(node, c, beta))


@converts("aten._int_mm.default")
def _int_mm(node: Node, a: GraphExpr, b: GraphExpr) -> Any:
    return node.op.matmul(a, b, out_dtype="int32")


@converts("aten._trilinear.default")
def _trilinear(
    node: Node,
    a: GraphExpr,
    b: GraphExpr,
    c: GraphExpr,
    expand1: list[int],
    expand2: list[int],
    expand3: list[int],
    sumdim: list[int],
    unroll_dim: int = 1,
) -> Any:
    """The product of three tensors with axes put in, summed over `sumdim`: nn.Bilinear."""
    pairs = ((a, expand1), (b, expand2), (c, expand3))
    x, y, z = (node.op.unsqueeze(v, axes=tuple(axes)) if axes else v for v, axes in pairs)
    product = node.op.mul(node.op.mul(x, y), z)
    return node.op.sum(product, axes=tuple(sumdim)) if sumdim else product


@converts("aten._grouped_mm.default")
def _grouped_mm(
    node: Node,
    a: GraphExpr,
    b: GraphExpr,
    offs: GraphExpr | None = None,
    bias: GraphExpr | None = None,
    out_dtype: Any = None,
) -> Any:
    """Products of groups of rows with a matrix each: [m, k] x [groups, k, n], group g ending before
    row offs[g]. Rows are spread over as many columns as groups have, zero but for their own, and
    one product adds up all groups: exact, at `groups` times the arithmetic. Rows behind the last
    group are zero."""
    if bias is not None:
        raise Unsupported("a grouped product with a bias")
    if offs is None:
        return node.op.matmul(a, b)
    if rank(a) != 2 or rank(b) != 3:
        raise Unsupported("a grouped product whose groups are not of rows of the left operand")
    (rows, depth), (groups, _, columns) = shape(a), shape(b)
    position = node.op.range(count=rows, dtype=dtype(offs))
    before = node.op.less(node.op.unsqueeze(position, axes=(1,)), offs)  # [m, groups]
    earlier = node.op.cumsum(node.cast(before, "int32"), axis=1)
    own = node.op.logical_and(before, node.op.equal(earlier, 1))
    mask = node.op.unsqueeze(own, axes=(2,))
    spread = node.op.where(mask, node.op.unsqueeze(a, axes=(1,)), node.scalar(0, a))
    left = node.reshape(spread, (rows, groups * depth))
    return node.op.matmul(left, node.reshape(b, (groups * depth, columns)))


@converts("aten.einsum.default")
def _einsum(node: Node, equation: str, tensors: list[GraphExpr], *, path: Any = None) -> Any:
    return node.op.einsum(*tensors, equation=equation.replace(" ", ""))
