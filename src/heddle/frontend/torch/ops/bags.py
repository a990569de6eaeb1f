# SPDX-License-Identifier: Apache-2.0
"""Bags of rows of a table: their sums, means and largest elements, and the gradients of these.

Bag b is made of indices[offsets[b]:offsets[b + 1]], without those that are `padding_idx`.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from heddle.frontend.torch.node import Node, dtype, shape
from heddle.frontend.torch.ops.counting import numbered
from heddle.frontend.torch.ops.indexing import index_of
from heddle.frontend.torch.registry import converts
from heddle.frontend.torch.report import Unsupported
from heddle.graph import GraphExpr
from heddle.ir import DType

_SUM, _MEAN, _MAX = 0, 1, 2
_NOWHERE: Final = np.iinfo(np.int64).max


def _bag_of(node: Node, indices: GraphExpr, offsets: GraphExpr) -> GraphExpr:
    """The bag of each index. With the end of the last bag among the offsets, what lies behind it is
    in a bag that is not."""
    begun = numbered(node, index_of(node, offsets), shape(indices)[0])
    return node.op.sub(begun, 1)  # type: ignore[no-any-return]


def _unless_padding(
    node: Node, index: GraphExpr, padding: int, values: GraphExpr, otherwise: float
) -> GraphExpr:
    """`values`, one for each index, with another in place of those of padding."""
    if padding < 0:
        return values
    left_out = node.op.equal(index, padding)
    return node.op.where(left_out, node.scalar(otherwise, values), values)  # type: ignore[no-any-return]


def _column(node: Node, values: GraphExpr) -> GraphExpr:
    return node.op.unsqueeze(values, axes=(1,))  # type: ignore[no-any-return]


def _gathered(
    node: Node, bags: Any, at: GraphExpr, start: float, values: GraphExpr, how: str
) -> GraphExpr:
    """The rows of each bag combined, from `start` on."""
    empty = node.full((bags, *shape(values)[1:]), start, dtype(values))
    return node.op.scatter_nd(empty, _column(node, at), values, reduction=how)  # type: ignore[no-any-return]


@converts("aten._embedding_bag.default", "aten._embedding_bag_forward_only.default")
def _embedding_bag(
    node: Node,
    weight: GraphExpr,
    indices: GraphExpr,
    offsets: GraphExpr,
    scale_grad_by_freq: bool = False,
    mode: int = _SUM,
    sparse: bool = False,
    per_sample_weights: GraphExpr | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> Any:
    """The bags, of which an empty one is zero, and what the gradient reads: the bag of each index,
    the size of each bag, and the rows that the largest elements are from."""
    index = index_of(node, indices)
    bags = node.shape[0]
    everywhere = _bag_of(node, index, offsets)
    bag = _unless_padding(node, index, padding_idx, everywhere, _NOWHERE)
    rows = node.op.gather(weight, index, axis=0)
    if per_sample_weights is not None:
        rows = node.op.mul(rows, _column(node, per_sample_weights))
    wide = node.cast(rows, "float32") if dtype(rows).bits == 16 else rows
    count = _gathered(node, bags, bag, 0, node.full(shape(index), 1, DType.of("int64")), "add")
    total = _column(node, node.cast(count, dtype(wide)))
    places = None
    if mode == _MAX:
        largest = _gathered(node, bags, bag, -math.inf, wide, "max")
        some = node.expand(node.op.greater(total, 0.0), (bags, shape(weight)[1]))
        value = node.op.where(some, largest, node.scalar(0.0, largest))
        places = _rows_of_largest(node, index, bag, wide, value) if node.uses(3) else None
    else:
        value = _gathered(node, bags, bag, 0.0, wide, "add")
        value = node.op.div(value, node.op.maximum(total, 1.0)) if mode == _MEAN else value
    return value, *_for_gradient(node, everywhere, count, places)


def _for_gradient(
    node: Node, bag: GraphExpr, count: GraphExpr, places: GraphExpr | None
) -> list[GraphExpr | None]:
    """The other three results, with the shapes that torch gives them: where it keeps none, they
    have no elements."""
    found: list[GraphExpr | None] = []
    for position, value in enumerate((bag, count, places if places is not None else count), 1):
        if not node.uses(position):
            found.append(None)
            continue
        dims = node.importer.symbols.shape(node.result[position].shape)
        empty = any(isinstance(dim, int) and dim == 0 for dim in dims)
        found.append(node.full(dims, 0, dtype(value)) if empty else value)
    return found


def _rows_of_largest(
    node: Node, index: GraphExpr, bag: GraphExpr, rows: GraphExpr, largest: GraphExpr
) -> GraphExpr:
    """The row of the table that each largest element is from: the first in its bag."""
    bags, size = shape(largest)
    spread = node.op.gather(largest, bag, axis=0)
    here = node.op.range(count=shape(index)[0], dtype="int64")
    nowhere = node.tensor(shape(index)[0], "int64")
    first = node.op.where(node.op.equal(rows, spread), _column(node, here), nowhere)
    start = node.expand(nowhere, (bags, size))
    place = node.op.scatter_nd(start, _column(node, bag), first, reduction="min")
    found = node.op.gather(index, place, axis=0)
    held = node.op.less(place, nowhere)
    return node.op.where(held, found, node.scalar(0, found))  # type: ignore[no-any-return]


# -- gradients -------------------------------------------------------------------------------


@converts("aten._embedding_bag_backward.default")
def _embedding_bag_backward(
    node: Node,
    grad: GraphExpr,
    indices: GraphExpr,
    offsets: GraphExpr,
    offset2bag: GraphExpr,
    bag_size: GraphExpr,
    maximum_indices: GraphExpr,
    num_weights: Any,
    scale_grad_by_freq: bool,
    mode: int,
    sparse: bool,
    per_sample_weights: GraphExpr | None,
    padding_idx: int = -1,
) -> Any:
    if sparse:
        raise Unsupported("the sparse gradient of an embedding bag")
    if scale_grad_by_freq:  # PyTorch divides by how often another row occurs than it says
        raise Unsupported("the gradient of an embedding bag, scaled by frequency")
    wide = node.cast(grad, "float32") if dtype(grad).bits == 16 else grad
    table = node.full((num_weights, shape(grad)[1]), 0.0, dtype(wide))
    if mode == _MAX:
        some = _column(node, node.op.greater(bag_size, 0))
        wide = node.op.where(some, wide, node.scalar(0.0, wide))
        places = index_of(node, maximum_indices)
        return node.op.scatter_elements(table, places, wide, axis=0, reduction="add")
    index = index_of(node, indices)
    bag = _bag_of(node, index, offsets)
    if mode == _MEAN:
        size = node.op.maximum(node.cast(bag_size, dtype(wide)), 1.0)
        wide = node.op.div(wide, _column(node, size))
    rows = node.op.gather(wide, bag, axis=0)
    if per_sample_weights is not None:
        rows = node.op.mul(rows, _column(node, node.cast(per_sample_weights, dtype(rows))))
    inside = node.op.less(bag, node.tensor(shape(grad)[0], "int64"))
    at = node.op.where(inside, node.cast(index, "int64"), _NOWHERE)
    at = _unless_padding(node, index, padding_idx, at, _NOWHERE)
    return node.op.scatter_nd(table, _column(node, at), rows, reduction="add")


@converts("aten._embedding_bag_per_sample_weights_backward.default")
def _per_sample_weights_backward(
    node: Node,
    grad: GraphExpr,
    weight: GraphExpr,
    indices: GraphExpr,
    offsets: GraphExpr,
    offset2bag: GraphExpr,
    mode: int,
    padding_idx: int = -1,
) -> Any:
    index = index_of(node, indices)
    bag = _bag_of(node, index, offsets)
    products = node.op.mul(node.op.gather(grad, bag, axis=0), node.op.gather(weight, index, axis=0))
    wide = node.cast(products, "float32") if dtype(products).bits == 16 else products
    found = node.op.sum(wide, axes=(1,))
    inside = node.op.less(bag, node.tensor(shape(grad)[0], "int64"))
    found = node.op.where(inside, found, node.scalar(0.0, found))
    return _unless_padding(node, index, padding_idx, found, 0.0)
