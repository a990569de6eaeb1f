# SPDX-License-Identifier: Apache-2.0
"""Reductions, running sums, positions of extremes."""

from __future__ import annotations

from typing import Any, Final

from heddle.frontend.onnx.node import Node, dtype, rank, shape
from heddle.frontend.onnx.ops.axes import axes_of, reduce_of
from heddle.frontend.onnx.ops.selection import topk_of
from heddle.frontend.onnx.registry import converts
from heddle.graph import Constant, GraphExpr
from heddle.support import UserError

_REDUCTIONS: Final = {
    "ReduceSum": ("sum", 13),
    "ReduceMean": ("mean", 18),
    "ReduceMax": ("max", 18),
    "ReduceMin": ("min", 18),
    "ReduceProd": ("prod", 18),
    "ReduceSumSquare": ("sum_square", 18),
    "ReduceL1": ("l1_norm", 18),
    "ReduceL2": ("l2_norm", 18),
    "ReduceLogSum": ("log_sum", 18),
    "ReduceLogSumExp": ("logsumexp", 18),
}
_FLOAT_ONLY: Final = ("l2_norm", "log_sum", "logsumexp")


@converts(*_REDUCTIONS)
def _reduce(node: Node) -> Any:
    name, since = _REDUCTIONS[node.op_type]
    x = node.tensor(0)
    axes: tuple[int, ...] | None = ()
    if node.version >= since and node.has(1) and not isinstance(node.value(1), Constant):
        if rank(x):
            return _reduce_late(node, name, x)
    else:
        axes = node.axes(1, since)
    if not axes:  # an empty list stands for all axes as well, unless it is asked not to
        if node.attr.flag("noop_with_empty_axes"):
            return _element(node, name, x)
        axes = None
    keepdims = node.attr.flag("keepdims", True)
    kind = dtype(x)
    if kind.is_bool:
        return node.call("any" if name == "max" else "all", x, axes=axes, keepdims=keepdims)
    if name in _FLOAT_ONLY and not kind.is_float:
        wide = node.cast(x, "float64")
        return node.cast(node.call(name, wide, axes=axes, keepdims=keepdims), kind)
    return node.call(name, x, axes=axes, keepdims=keepdims)


def _reduce_late(node: Node, name: str, x: GraphExpr) -> Any:
    """Along axes that are known at run time only."""
    kind = dtype(x)
    if kind.is_bool:
        name = "any" if name == "max" else "all"
    wide = node.cast(x, "float64") if name in _FLOAT_ONLY and not kind.is_float else x
    keepdims = node.attr.flag("keepdims", True)
    none_is_all = not node.attr.flag("noop_with_empty_axes")
    found = reduce_of(node, wide, name, keepdims=keepdims, none_is_all=none_is_all)
    return node.cast(found, kind)


def _element(node: Node, name: str, x: GraphExpr) -> Any:
    """What the reduction over no axis does to every element."""
    if name == "sum_square":
        return node.op.mul(x, x)
    if name in ("l1_norm", "l2_norm"):
        return node.op.abs(x)
    if name == "log_sum":
        return node.op.log(x)
    return node.op.identity(x)


@converts("ArgMax", "ArgMin")
def _arg(node: Node) -> Any:
    return node.call(
        node.op_type.lower(),
        node.tensor(0),
        axis=node.attr.int("axis", 0),
        keepdims=node.attr.flag("keepdims", True),
        select_last_index=node.attr.flag("select_last_index"),
    )


@converts("CumSum", "CumProd")
def _running(node: Node) -> Any:
    x = node.tensor(0)

    def along(axis: int) -> GraphExpr:
        return node.call(  # type: ignore[no-any-return]
            node.op_type.lower(),
            x,
            axis=axis,
            exclusive=node.attr.flag("exclusive"),
            reverse=node.attr.flag("reverse"),
        )

    if isinstance(node.value(1), Constant):
        return along(node.integer(1, "axis"))
    meant = axes_of(node, node.value(1), rank(x)).meant
    found = along(0)
    for axis in range(1, rank(x)):
        found = node.op.where(meant[axis], along(axis), found)
    return found


@converts("TopK", since=10)
def _topk(node: Node) -> Any:
    if not isinstance(node.value(1), Constant):
        largest = node.attr.flag("largest", True)
        return topk_of(node, node.tensor(0), node.tensor(1), node.attr.int("axis", -1), largest)
    return _topk_of(node, node.integer(1, "k"))


@converts("TopK", since=1)
def _topk_attribute(node: Node) -> Any:
    return _topk_of(node, node.attr.int("k"))


def _topk_of(node: Node, k: int) -> Any:
    return node.op.topk(
        node.tensor(0),
        k=k,
        axis=node.attr.int("axis", -1),
        largest=node.attr.flag("largest", True),
    )


@converts("MeanVarianceNormalization")
def _mean_variance(node: Node) -> Any:
    x = node.tensor(0)
    axes = node.attr.ints("axes", (0, 2, 3))
    distance = node.op.sub(x, node.op.mean(x, axes=axes, keepdims=True))
    variance = node.op.mean(node.op.mul(distance, distance), axes=axes, keepdims=True)
    deviation = node.op.sqrt(variance)
    return node.op.div(distance, node.op.add(deviation, node.scalar(1e-9, x)))


@converts("SoftmaxCrossEntropyLoss")
def _cross_entropy(node: Node) -> Any:
    x = node.tensor(0)
    logs = node.op.log_softmax(x, axis=1)
    loss = _negative_log_likelihood(node, logs)
    return (loss, logs)[: max(1, len(node.outputs))]


@converts("NegativeLogLikelihoodLoss")
def _nll(node: Node) -> Any:
    return _negative_log_likelihood(node, node.tensor(0))


def _negative_log_likelihood(node: Node, logs: GraphExpr) -> Any:
    """-sum of weight[t] * logs[n, t, ...] over the targets t, mean over the weights."""
    target = node.tensor(1)
    classes = shape(logs)[1]
    ignored = node.attr.int("ignore_index", None)
    kind = dtype(logs)
    weight = node.optional(2)
    if ignored is not None:
        valid = node.op.not_equal(target, node.scalar(ignored, target))
        target = node.op.where(valid, target, node.scalar(0, target))
    places = node.op.range(count=classes, dtype="int64")
    positions = node.reshape(places, (1, classes, *(1,) * (rank(logs) - 2)))
    picked = node.op.equal(node.op.unsqueeze(node.cast(target, "int64"), axes=(1,)), positions)
    loss = node.op.sum(
        node.op.where(picked, node.op.negative(logs), node.scalar(0, logs)), axes=(1,)
    )
    factor: GraphExpr | None = None
    if weight is not None:
        shaped = node.reshape(weight, (1, classes, *(1,) * (rank(logs) - 2)))
        factor = node.op.sum(
            node.op.where(picked, node.cast(shaped, kind), node.scalar(0, logs)), axes=(1,)
        )
    if ignored is not None:
        counted = node.cast(valid, kind)
        factor = counted if factor is None else node.op.mul(factor, counted)
    if factor is not None:
        loss = node.op.mul(loss, factor)
    mode = node.attr.string("reduction", "mean")
    if mode == "none":
        return loss
    if mode not in ("mean", "sum"):
        raise UserError(f"attribute `reduction` is `{mode}`, expected none, sum or mean")
    if mode == "sum" or factor is not None:
        total = node.op.sum(loss)
        return total if mode == "sum" or factor is None else node.op.div(total, node.op.sum(factor))
    return node.op.mean(loss)
