# SPDX-License-Identifier: Apache-2.0
"""Rows of tables by their number, and what depends on one element."""

from __future__ import annotations

from typing import Any

import torch

from heddle.frontend.torch.node import Node
from heddle.frontend.torch.ops.indexing import index_of
from heddle.frontend.torch.registry import converts
from heddle.graph import GraphExpr
from heddle.passes.graph.host_plan import SYMBOL_MAX


@converts("aten.embedding.default")
def _embedding(
    node: Node, weight: GraphExpr, indices: GraphExpr, *_args: Any, **_kwargs: Any
) -> Any:
    return node.op.gather(weight, index_of(node, indices), axis=0)


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
