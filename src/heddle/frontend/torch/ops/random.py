# SPDX-License-Identifier: Apache-2.0
"""Random numbers: those of a key that the module takes as an input, by counter (Philox-4x32-10).

They are not the numbers of PyTorch's generator, but have the same distribution. Each operator of a
program draws from a stream of its own, so two calls with one key give the same results.
"""

from __future__ import annotations

from typing import Any

from heddle.frontend.torch.node import Node, rank, shape
from heddle.frontend.torch.registry import converts
from heddle.graph import GraphExpr
from heddle.ir import DType
from heddle.ir.expr import Expr


def _uniform(node: Node, dims: Any, kind: DType | None = None) -> GraphExpr:
    """Numbers in [0, 1)."""
    return node.op.random_uniform(  # type: ignore[no-any-return]
        *node.importer.draw(), shape=tuple(dims), dtype=node.dtype if kind is None else kind
    )


def _normal(node: Node, mean: float = 0.0, scale: float = 1.0) -> GraphExpr:
    return node.op.random_normal(  # type: ignore[no-any-return]
        *node.importer.draw(), shape=node.shape, mean=mean, scale=scale, dtype=node.dtype
    )


@converts("aten.rand.default", "aten.rand_like.default")
def _rand(node: Node, *_args: Any, **_kwargs: Any) -> Any:
    return _uniform(node, node.shape)


@converts("aten.randn.default", "aten.randn_like.default")
def _randn(node: Node, *_args: Any, **_kwargs: Any) -> Any:
    return _normal(node)


@converts("aten.uniform.default")
def _between(node: Node, x: GraphExpr, low: float = 0.0, high: float = 1.0, **_kw: Any) -> Any:
    return node.op.random_uniform(
        *node.importer.draw(), shape=node.shape, low=low, high=high, dtype=node.dtype
    )


@converts("aten.normal_functional.default")
def _normal_like(node: Node, x: GraphExpr, mean: float = 0.0, std: float = 1.0, **_kw: Any) -> Any:
    return _normal(node, mean, std)


@converts("aten.normal.float_float")
def _normal_numbers(node: Node, mean: float, std: float, *_args: Any, **_kwargs: Any) -> Any:
    return _normal(node, mean, std)


@converts("aten.normal.Tensor_Tensor", "aten.normal.Tensor_float", "aten.normal.float_Tensor")
def _normal_tensors(node: Node, mean: Any, std: Any = 1.0, **_kwargs: Any) -> Any:
    centre, width = (node.tensor(value, node.dtype) for value in (mean, std))
    return node.op.add(node.op.mul(_normal(node), width), centre)


@converts("aten.exponential.default")
def _exponential(node: Node, x: GraphExpr, lambd: float = 1.0, **_kwargs: Any) -> Any:
    rest = node.op.sub(node.scalar(1.0, x), _uniform(node, node.shape))  # in (0, 1]
    return node.op.mul(node.op.log(rest), -1.0 / lambd)


# -- whole numbers -----------------------------------------------------------------------------


@converts("aten.randint.low", "aten.randint_like.low_dtype")
def _randint(node: Node, *args: Any, **_kwargs: Any) -> Any:
    low, high = args[:2] if "like" not in node.target else args[1:3]
    return _whole(node, low, high)


@converts("aten.randint.default", "aten.randint_like.default")
def _randint_below(node: Node, *args: Any, **_kwargs: Any) -> Any:
    return _whole(node, 0, args[0] if "like" not in node.target else args[1])


def _whole(node: Node, low: Any, high: Any) -> GraphExpr:
    """Whole numbers in [low, high)."""
    if not (isinstance(low, Expr) or isinstance(high, Expr)):
        kind = node.dtype if node.dtype.is_int else DType.of("int64")
        return node.op.random_integers(  # type: ignore[no-any-return]
            *node.importer.draw(), shape=node.shape, low=low, high=high, dtype=kind
        )
    first, last = (node.tensor(value, "int64") for value in (low, high))
    share = _uniform(node, node.shape, DType.of("float64"))
    span = node.cast(node.op.sub(last, first), "float64")
    steps = node.cast(node.op.floor(node.op.mul(share, span)), "int64")
    return node.op.add(first, steps)  # type: ignore[no-any-return]


@converts("aten.randperm.default")
def _randperm(node: Node, count: Any, **_kwargs: Any) -> Any:
    """The order of random words; of equal ones, which are rare, the first comes first."""
    words = node.op.random_bits(*node.importer.draw(), shape=node.shape)
    return node.op.topk(node.cast(words, "int64"), k=node.shape[0], axis=0, largest=False)[1]


# -- chances -----------------------------------------------------------------------------------


def _happens(node: Node, dims: Any, chance: Any) -> GraphExpr:
    """Truth values that hold with this probability: half precision has too few digits for it."""
    kind = DType.of("float32")
    return node.op.less(_uniform(node, dims, kind), node.tensor(chance, kind))  # type: ignore[no-any-return]


@converts("aten.bernoulli.p", "aten.bernoulli.Tensor")
def _bernoulli_like(node: Node, x: GraphExpr, p: Any = 0.5, **_kwargs: Any) -> Any:
    return _happens(node, node.shape, p)


@converts("aten.bernoulli.default")
def _bernoulli(node: Node, p: GraphExpr, **_kwargs: Any) -> Any:
    return _happens(node, node.shape, p)


def dropped(node: Node, x: GraphExpr, p: float) -> tuple[GraphExpr, GraphExpr]:
    """x with each element zero by probability p, the others grown by 1 / (1 - p); which stay."""
    kept = _happens(node, shape(x), 1.0 - p)
    grown = node.op.mul(x, node.scalar(1.0 / (1.0 - p) if p < 1.0 else 0.0, x))
    return node.op.where(kept, grown, node.scalar(0.0, x)), kept


@converts("aten.dropout.default")
def _dropout(node: Node, x: GraphExpr, p: float, train: bool) -> Any:
    return dropped(node, x, p)[0] if train and p != 0.0 else x


@converts("aten.native_dropout.default")
def _native_dropout(node: Node, x: GraphExpr, p: float, train: bool | None) -> Any:
    if train is not False and p != 0.0:
        return dropped(node, x, p)
    return x, node.full(node.shape, True, DType.of("bool"))


@converts("aten.multinomial.default")
def _multinomial(
    node: Node, weights: GraphExpr, num_samples: Any, replacement: bool = False, **_kwargs: Any
) -> Any:
    """Places by weight. Without replacement the largest of log w - log E, E exponential (A.-P.
    Efraimidis and P. Spirakis, "Weighted random sampling with a reservoir", 2006); with it, where a
    uniform number falls among the running sums."""
    axis = rank(weights) - 1
    wide = node.cast(weights, "float32")
    if not replacement:
        kind = DType.of("float32")
        rest = node.op.sub(node.tensor(1.0, kind), _uniform(node, shape(weights), kind))
        late = node.op.log(node.op.negative(node.op.log(rest)))
        score = node.op.sub(node.op.log(wide), late)
        return node.op.topk(score, k=num_samples, axis=axis, largest=True)[1]
    sums = node.op.cumsum(wide, axis=axis)
    total = node.op.max(sums, axes=(axis,), keepdims=True)
    place = node.op.mul(_uniform(node, node.shape, DType.of("float32")), total)
    column = node.op.unsqueeze(place, axes=(axis + 1,))
    below = node.op.less_equal(node.op.unsqueeze(sums, axes=(axis,)), column)
    found = node.op.sum(node.cast(below, "int64"), axes=(axis + 1,))
    return node.op.minimum(found, node.op.sub(node.tensor(shape(weights)[axis], "int64"), 1))
