# SPDX-License-Identifier: Apache-2.0
"""Rows of tables by their number, and sums of bags of them; what depends on one element."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from heddle.frontend.torch.node import Node, dtype, shape
from heddle.frontend.torch.ops.indexing import index_of
from heddle.frontend.torch.registry import converts
from heddle.frontend.torch.report import Unsupported
from heddle.graph import GraphExpr
from heddle.passes.graph.host_plan import SYMBOL_MAX


@converts("aten.embedding.default")
def _embedding(
    node: Node, weight: GraphExpr, indices: GraphExpr, *_args: Any, **_kwargs: Any
) -> Any:
    return node.op.gather(weight, index_of(node, indices), axis=0)


@converts("aten._embedding_bag.default", "aten._embedding_bag_forward_only.default")
def _embedding_bag(
    node: Node,
    weight: GraphExpr,
    indices: GraphExpr,
    offsets: GraphExpr,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: GraphExpr | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> Any:
    """Sums (mode 0), means (1) or largest elements (2) of the rows in each bag: bag b is made of
    indices[offsets[b]:offsets[b + 1]], without those that are `padding_idx`. An empty bag gives
    zeros. Only the first of the four results; the others serve PyTorch's gradient."""
    if any(node.uses(position) for position in (1, 2, 3)):
        raise Unsupported("the gradient of an embedding bag")
    index = index_of(node, indices)
    bags = node.shape[0]
    place = node.op.range(count=shape(indices)[0], dtype=dtype(offsets))
    begun = node.op.less_equal(offsets, node.op.unsqueeze(place, axes=(1,)))  # [indices, bags]
    # With the end of the last bag among the offsets, what lies behind it is in a bag that is not.
    bag = node.op.sub(node.op.sum(node.cast(begun, "int64"), axes=(1,)), 1)
    if padding_idx >= 0:  # a bag that there is not: nothing is written to it
        bag = node.op.where(node.op.equal(index, padding_idx), node.scalar(_NOWHERE, bag), bag)
    rows = node.op.gather(weight, index, axis=0)
    if per_sample_weights is not None:
        rows = node.op.mul(rows, node.op.unsqueeze(per_sample_weights, axes=(1,)))
    wide = node.cast(rows, "float32") if dtype(rows).bits == 16 else rows
    at = node.op.unsqueeze(bag, axes=(1,))
    size = shape(weight)[1]

    def gathered(start: float, values: GraphExpr, how: str) -> GraphExpr:
        empty = node.full((bags, *shape(values)[1:]), start, dtype(values))
        found: GraphExpr = node.op.scatter_nd(empty, at, values, reduction=how)
        return found

    if mode == 0:
        return gathered(0.0, wide, "add"), None, None, None
    ones = node.full((shape(indices)[0], 1), 1.0, dtype(wide))
    count = gathered(0.0, ones, "add")
    if mode == 1:
        mean = node.op.div(gathered(0.0, wide, "add"), node.op.maximum(count, 1.0))
        return mean, None, None, None
    largest = gathered(-math.inf, wide, "max")
    some = node.expand(node.op.greater(count, 0.0), (bags, size))
    return node.op.where(some, largest, node.scalar(0.0, largest)), None, None, None


_NOWHERE = np.iinfo(np.int64).max


@converts("aten._local_scalar_dense.default")
def _item(node: Node, x: GraphExpr) -> Any:
    """The one element. An integer whose range is known may be the size of something; any other
    stays a tensor without dimensions."""
    scalar = node.reshape(x, ())
    if not isinstance(node.result, torch.SymInt):
        return scalar
    bounds = node.result.node.shape_env.bound_sympy(node.result.node.expr)
    known = bounds.lower >= 0 and bounds.upper.is_Integer and bounds.upper <= SYMBOL_MAX
    if not known:
        return scalar
    return node.bind_dim(node.cast(scalar, "int64"), int(bounds.upper), node.result)
