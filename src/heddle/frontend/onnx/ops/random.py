# SPDX-License-Identifier: Apache-2.0
"""Random operators, by the counter-based generator of `heddle.op.random`.

The key of a node is its seed: with the attribute `seed` the bits of that number (as float32),
without it a hash of the node's name (its first output, when it has none). So every run gives the
same numbers, on every machine; what differs between nodes without a seed is their names.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

import numpy as np

from heddle.frontend.onnx.node import Node, dtype, rank, shape
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.tensors import dtype_of
from heddle.graph import Constant, GraphExpr
from heddle.ir import DType
from heddle.support import UserError

# The second word of the key says which kind the first one is.
_FROM_SEED: Final = 0
_FROM_NAME: Final = 1
_CLASSES_LIMIT: Final = 1 << 24


def random_key(node: Node) -> Constant:
    """The key of a node: two words, uint32."""
    attribute = node.attr.given.get("seed")
    if attribute is None:
        name = node.proto.name or next((output for output in node.outputs if output), "")
        words = [zlib.crc32(name.encode(errors="surrogatepass")), _FROM_NAME]
    elif attribute.type == attribute.INT:  # Dropout has an integer
        seed = attribute.i
        words = [seed & 0xFFFFFFFF, _FROM_SEED | (seed >> 32 & 0xFFFFFFFF) << 1 & 0xFFFFFFFF]
    else:
        words = [int(np.float32(attribute.f).view(np.uint32)), _FROM_SEED]
    return Constant(np.asarray(words, np.uint32))


def _uniform(node: Node, dims: Any, kind: str | DType, low: float, high: float) -> Any:
    return node.op.random_uniform(random_key(node), shape=dims, low=low, high=high, dtype=kind)


def _kind(node: Node, default: DType | None) -> DType:
    number = node.attr.int("dtype", None)
    if number is None:
        return DType.of("float32") if default is None else default
    return dtype_of(number, f"the result of {node.op_type}")


@converts("RandomUniform", "RandomNormal", "RandomUniformLike", "RandomNormalLike")
def _random(node: Node) -> Any:
    if node.op_type.endswith("Like"):
        like = node.tensor(0)
        dims, default = shape(like), dtype(like)
    else:
        dims, default = node.attr.ints("shape"), None
        if any(dim < 0 for dim in dims):
            raise UserError(f"attribute `shape` is {dims}, expected sizes that are not negative")
    kind = _kind(node, default)
    if "Uniform" in node.op_type:
        low, high = node.attr.float("low", 0.0), node.attr.float("high", 1.0)
        return _uniform(node, dims, kind, low, high)
    mean, scale = node.attr.float("mean", 0.0), node.attr.float("scale", 1.0)
    key = random_key(node)
    return node.op.random_normal(key, shape=dims, mean=mean, scale=scale, dtype=kind)


@converts("Bernoulli")
def _bernoulli(node: Node) -> Any:
    x = node.tensor(0)
    drawn = _uniform(node, shape(x), "float64" if dtype(x).bits == 64 else "float32", 0.0, 1.0)
    hit = node.op.less(drawn, node.cast(x, dtype(drawn)))
    return node.cast(hit, _kind(node, dtype(x)))


@converts("Multinomial")
def _multinomial(node: Node) -> Any:
    """Of each row of logarithms of (unnormalised) probabilities, classes by the inverse of their
    distribution function."""
    x = node.tensor(0)
    if rank(x) != 2:
        raise UserError(f"the input has {rank(x)} dimensions, expected 2")
    rows, classes = shape(x)
    count = node.attr.int("sample_size", 1)
    known = isinstance(classes, int)
    if count < 0 or (known and classes * max(1, count) > _CLASSES_LIMIT):
        raise Unsupported(f"{count} samples of {classes} classes")
    wide = node.cast(x, "float32") if dtype(x).bits < 32 else x
    reached = node.op.cumsum(node.op.softmax(wide, axis=1), axis=1)
    # What rounding leaves of the last sum must not let a number pass beyond the last class.
    if known:
        below = node.op.slice(reached, starts=(0,), ends=(classes - 1,), axes=(1,))
    else:
        below = node.op.prefix(reached, shape=(rows, classes - 1))
    drawn = _uniform(node, (rows, count, 1), dtype(wide), 0.0, 1.0)
    passed = node.op.greater_equal(drawn, node.op.unsqueeze(below, axes=(1,)))
    number = node.attr.int("dtype", 6)
    return node.op.sum(node.cast(passed, dtype_of(number, "the result of Multinomial")), axes=(2,))


def dropped(node: Node, x: GraphExpr, ratio: float) -> tuple[GraphExpr, GraphExpr]:
    """Dropout in training: x / (1 - ratio) with each element 0 with probability `ratio`; the mask
    of what is kept."""
    if not 0.0 <= ratio < 1.0:
        raise UserError(f"`ratio` is {ratio}, expected a number in [0, 1)")
    drawn = _uniform(node, shape(x), "float32", 0.0, 1.0)
    kept = node.op.greater_equal(drawn, ratio)
    scaled = node.op.mul(x, node.scalar(1.0 / (1.0 - ratio), x))
    return node.op.where(kept, scaled, node.scalar(0, x)), kept


def perhaps_dropped(node: Node, x: GraphExpr) -> tuple[GraphExpr, GraphExpr]:
    """Dropout whose ratio is input 1 and whose mode, whether in training, input 2. Of a ratio that
    is not in [0, 1) everything is NaN."""
    ratio: GraphExpr = Constant(np.asarray(0.5, np.float32))
    if node.has(1):
        ratio = node.reshape(node.cast(node.tensor(1), "float32"), ())
    training: GraphExpr = Constant(np.asarray(False))
    if node.has(2):
        training = node.reshape(node.cast(node.tensor(2), "bool"), ())
    inside = node.op.logical_and(node.op.greater_equal(ratio, 0.0), node.op.less(ratio, 1.0))
    ratio = node.op.where(inside, ratio, Constant(np.asarray(np.nan, np.float32)))
    drawn = _uniform(node, shape(x), "float32", 0.0, 1.0)
    there = node.op.logical_not(node.op.less(drawn, ratio))
    kept = node.op.logical_or(there, node.op.logical_not(training))
    rest = node.op.sub(Constant(np.asarray(1.0, np.float32)), ratio)
    scale = node.op.where(training, rest, Constant(np.asarray(1.0, np.float32)))
    scaled = node.op.div(x, node.cast(scale, dtype(x)))
    return node.op.where(kept, scaled, node.scalar(0, x)), kept
