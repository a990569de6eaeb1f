# SPDX-License-Identifier: Apache-2.0
"""Operators that ONNX Runtime's optimiser puts into models (domain com.microsoft): activations,
normalisations, products and convolutions with what follows them. Attention is in its own file."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from heddle.frontend.onnx.narrow import unpack
from heddle.frontend.onnx.node import Node, dtype, normal_axis, rank, shape
from heddle.frontend.onnx.ops.nn import conv_attrs
from heddle.frontend.onnx.ops.random import dropped
from heddle.frontend.onnx.ops.window import channels_first, channels_last
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.values import Narrow
from heddle.graph import Constant, GraphExpr
from heddle.support import UserError

MICROSOFT: Final = "com.microsoft"

# -- activations -----------------------------------------------------------------------------


@converts("Gelu", "BiasGelu", domain=MICROSOFT)
def _gelu(node: Node) -> Any:
    x = node.tensor(0)
    return node.op.gelu(node.op.add(x, node.tensor(1)) if node.has(1) else x)


@converts("FastGelu", domain=MICROSOFT)
def _fast_gelu(node: Node) -> Any:
    x = node.tensor(0)
    return node.op.gelu(node.op.add(x, node.tensor(1)) if node.has(1) else x, approximate="tanh")


@converts("QuickGelu", domain=MICROSOFT)
def _quick_gelu(node: Node) -> Any:
    x, alpha = node.tensor(0), node.attr.float("alpha", 1.702)
    return node.op.mul(x, node.op.sigmoid(node.op.mul(x, alpha)))


@converts("BiasAdd", domain=MICROSOFT)
def _bias_add(node: Node) -> Any:
    return node.op.add(node.op.add(node.tensor(0), node.tensor(1)), node.tensor(2))


@converts("BiasSoftmax", domain=MICROSOFT)
def _bias_softmax(node: Node) -> Any:
    x, bias = node.tensor(0), node.tensor(1)
    axis = normal_axis(node.attr.int("axis", 1), rank(x))
    if axis != rank(x) - 1:
        raise Unsupported("BiasSoftmax over several axes")
    if not node.attr.flag("is_inner_broadcast") and rank(bias) != rank(x):
        raise Unsupported("BiasSoftmax with a bias repeated along outer axes")
    return node.op.softmax(node.op.add(x, bias), axis=axis)


@converts("BiasDropout", domain=MICROSOFT)
def _bias_dropout(node: Node) -> Any:
    x = node.op.add(node.tensor(0), node.tensor(1))
    ratio = float(node.constant(3, "ratio").ravel()[0]) if node.has(3) else 0.5
    training = node.has(4) and bool(node.constant(4, "training_mode").all())
    kept: Any = Constant(np.ones((), bool))
    if training and ratio:
        x, kept = dropped(node, x, ratio)
    if node.has(2):
        x = node.op.add(x, node.tensor(2))
    if len(node.outputs) == 1:
        return x
    return x, node.op.broadcast_to(kept, shape=shape(x))


_ACTIVATIONS: Final = {
    "Relu": "relu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Gelu": "gelu",
}


def activated(node: Node, x: GraphExpr, params: tuple[float, ...]) -> GraphExpr:
    """The activation that the attribute `activation` names, of x."""
    name = node.attr.string("activation", "")
    if not name:
        return x
    if name in _ACTIVATIONS:
        return node.call(_ACTIVATIONS[name], x)  # type: ignore[no-any-return]
    if name == "LeakyRelu":
        return node.op.leaky_relu(x, alpha=params[0] if params else 0.01)  # type: ignore[no-any-return]
    if name == "Clip":
        low, high = params if len(params) == 2 else (None, None)
        return node.op.clip(x, min=low, max=high)  # type: ignore[no-any-return]
    if name == "HardSigmoid":
        alpha, beta = params if len(params) == 2 else (0.2, 0.5)
        return node.op.hard_sigmoid(x, alpha=alpha, beta=beta)  # type: ignore[no-any-return]
    raise Unsupported(f"activation {name}")


# -- normalisations --------------------------------------------------------------------------


@converts("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def _skip_layer_norm(node: Node) -> Any:
    simplified = node.op_type == "SkipSimplifiedLayerNormalization"
    total = node.op.add(node.tensor(0), node.tensor(1))
    bias = node.optional(3 if simplified else 4)
    if bias is not None:
        total = node.op.add(total, bias)
    last, epsilon = rank(total) - 1, node.attr.float("epsilon", 1e-12 if not simplified else 1e-6)
    if simplified:
        result = node.op.rms_norm(total, node.tensor(2), axis=last, epsilon=epsilon)
    else:
        result = node.op.layer_norm(
            total, node.tensor(2), node.optional(3), axis=last, epsilon=epsilon
        )
    if any(node.outputs[1:3]):
        raise Unsupported("mean and deviation of a normalisation as outputs")
    return (result, None, None, total)[: len(node.outputs)]


@converts("EmbedLayerNormalization", domain=MICROSOFT)
def _embed_layer_norm(node: Node) -> Any:
    ids = node.tensor(0)
    length = shape(ids)[1]
    words = node.op.gather(node.tensor(2), ids, axis=0)
    places = node.optional(8)
    if places is None and isinstance(length, int):
        table = node.op.slice(node.tensor(3), starts=(0,), ends=(length,), axes=(0,))
    elif places is None:
        steps = node.op.range(count=length, dtype="int64")
        table = node.op.gather(node.tensor(3), steps, axis=0)
    else:
        table = node.op.gather(node.tensor(3), places, axis=0)
    total = node.op.add(words, table)
    if node.has(1) and node.has(4):
        total = node.op.add(total, node.op.gather(node.tensor(4), node.tensor(1), axis=0))
    result = node.op.layer_norm(
        total, node.tensor(5), node.tensor(6), axis=2, epsilon=node.attr.float("epsilon", 1e-12)
    )
    if node.has(7):
        mask_index = node.op.sum(node.cast(node.tensor(7), "int32"), axes=(1,))
    else:
        zero = Constant(np.zeros((), np.int32))
        mask_index = node.op.broadcast_to(zero, shape=shape(ids)[:1])
    return (result, mask_index, total)[: len(node.outputs)]


@converts("GroupNorm", "SkipGroupNorm", domain=MICROSOFT)
def _group_norm(node: Node) -> Any:
    """SkipGroupNorm is that of the sum of x, what skips a layer ([N, ..., C] or [N, C], which every
    place gets) and a bias of the channels; the sum is the second result."""
    x = node.tensor(0)
    if node.op_type == "SkipGroupNorm":
        x = node.op.add(x, _of_places(node, node.tensor(3), rank(x)))
        if node.has(4):
            x = node.op.add(x, _of_places(node, node.tensor(4), rank(x)))
    total = x
    last = node.attr.flag("channels_last", True)
    if last:
        x = channels_first(node, x)
    result = node.op.group_norm(
        x,
        node.cast(node.tensor(1), dtype(x)),
        node.cast(node.tensor(2), dtype(x)),
        num_groups=node.attr.int("groups"),
        epsilon=node.attr.float("epsilon", 1e-5),
    )
    if node.attr.int("activation") == 1:
        result = node.op.silu(result)
    normal = channels_last(node, result) if last else result
    return (normal, total)[: len(node.outputs)]


def _of_places(node: Node, x: GraphExpr, ndim: int) -> GraphExpr:
    """[C] or [N, C] as something that is added to [N, ..., C] or [N, C, ...]."""
    if rank(x) in (1, 2):
        dims = shape(x)
        ones = [1] * (ndim - 2)
        front = [*dims[:-1]] if rank(x) == 2 else [1]
        last = node.attr.flag("channels_last", True)
        return node.reshape(x, [*front, *ones, dims[-1]] if last else [*front, dims[-1], *ones])
    return x


# -- products --------------------------------------------------------------------------------


@converts("FusedMatMul", "TransposeMatMul", "FusedMatMulActivation", domain=MICROSOFT)
def _fused_matmul(node: Node) -> Any:
    sides = []
    for position, side in ((0, "A"), (1, "B")):
        x = node.tensor(position)
        if node.attr.flag(f"transBatch{side}"):
            # The first axis moves behind the other batch axes: [M, batch, K] is [batch, M, K].
            order = (*range(1, rank(x) - 1), 0, rank(x) - 1)
            x = node.op.transpose(x, permutation=order)
        sides.append(x)
    transposed = [node.attr.flag(f"trans{side}") for side in "AB"]
    pairs = zip(sides, transposed, strict=True)
    flags = [flag and rank(x) > 1 for x, flag in pairs]
    product = node.op.matmul(*sides, transpose_a=flags[0], transpose_b=flags[1])
    alpha = node.attr.float("alpha", 1.0)
    if alpha != 1.0:
        product = node.op.mul(product, node.scalar(alpha, product))
    names = ("activation_alpha", "activation_beta")
    params = tuple(node.attr.float(name) for name in names if name in node.attr)
    return activated(node, product, params)


@converts("FusedGemm", domain=MICROSOFT)
def _fused_gemm(node: Node) -> Any:
    result = node.op.matmul(
        node.tensor(0),
        node.tensor(1),
        transpose_a=node.attr.flag("transA"),
        transpose_b=node.attr.flag("transB"),
    )
    alpha, beta = node.attr.float("alpha", 1.0), node.attr.float("beta", 1.0)
    if alpha != 1.0:
        result = node.op.mul(result, node.scalar(alpha, result))
    if node.has(2) and beta != 0.0:
        c = node.tensor(2)
        result = node.op.add(result, c if beta == 1.0 else node.op.mul(c, node.scalar(beta, c)))
    names = ("activation_alpha", "activation_beta")
    return activated(node, result, tuple(node.attr.float(n) for n in names if n in node.attr))


@converts("FusedConv", "NhwcConv", "NhwcFusedConv", domain=MICROSOFT)
def _fused_conv(node: Node) -> Any:
    last = node.op_type.startswith("Nhwc")
    x, w = node.tensor(0), node.tensor(1)
    if last:
        x = channels_first(node, x)
    result = node.op.conv(x, w, node.optional(2), **conv_attrs(node, x, w))
    if node.has(3):
        other = node.tensor(3)
        result = node.op.add(result, channels_first(node, other) if last else other)
    result = activated(node, result, node.attr.floats("activation_params", ()))
    return channels_last(node, result) if last else result


@converts("MatMulNBits", domain=MICROSOFT)
def _matmul_n_bits(node: Node) -> Any:
    """A product with weights in blocks along K: B[N, blocks, bytes], scales[N, blocks]."""
    a = node.tensor(0)
    rows, depth = node.attr.int("N"), node.attr.int("K")
    bits, size = node.attr.int("bits", 4), node.attr.int("block_size")
    if bits not in (2, 4, 8) or size < 1:
        raise Unsupported(f"weights of {bits} bits in blocks of {size}")
    matrix = _block_weights(node, (rows, depth), bits, size)
    result = node.op.matmul(a, node.cast(matrix, dtype(a)), transpose_b=True)
    return node.op.add(result, node.tensor(5)) if node.has(5) else result


def _block_weights(node: Node, dims: tuple[int, int], bits: int, size: int) -> GraphExpr:
    """The weights, [N, K], in the dtype of the scales."""
    rows, depth = dims
    blocks = -(-depth // size)
    codes = _codes(node.constant(1, "B"), bits, rows * blocks * size).reshape(rows, blocks, size)
    scales = node.reshape(node.tensor(2), (rows, blocks))
    zeros = _zero_points(node, bits, rows, blocks)
    if node.has(4):
        # Which block each position along K belongs to: GPTQ's order by activations.
        order = node.constant(4, "g_idx").ravel()[:depth]
        if len(order) < depth or order.min(initial=0) < 0 or order.max(initial=0) >= blocks:
            raise UserError(f"`g_idx` must hold {depth} numbers of the {blocks} blocks")
        codes = codes.reshape(rows, blocks * size)[:, :depth]
        places = Constant(order.astype(np.int64))
        scales, zeros = (node.op.gather(part, places, axis=1) for part in (scales, zeros))
    else:
        scales, zeros = (node.op.unsqueeze(part, axes=(2,)) for part in (scales, zeros))
    if dtype(zeros).is_float:
        plain = node.cast(Constant(codes), dtype(scales))
        weights = node.op.mul(node.op.sub(plain, zeros), scales)
    else:
        weights = node.op.dequantize(Constant(codes), scales, zeros)
    if not node.has(4):
        weights = node.reshape(weights, (rows, blocks * size))
        if blocks * size != depth:
            weights = node.op.slice(weights, starts=(0,), ends=(depth,), axes=(1,))
    return weights  # type: ignore[no-any-return]


def _zero_points(node: Node, bits: int, rows: int, blocks: int) -> GraphExpr:
    """[N, blocks]: floats, or integers, in the middle of their range where none are given."""
    if not node.has(3):
        return Constant(np.full((rows, blocks), 1 << (bits - 1), np.uint8))
    if dtype(node.tensor(3)).is_float:
        return node.reshape(node.tensor(3), (rows, blocks))
    packed = node.constant(3, "zero_points").reshape(rows, -1)
    return Constant(np.stack([_codes(row, bits, blocks) for row in packed]))


def _codes(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Unsigned integers of a few bits, one to a byte."""
    raw = np.ascontiguousarray(packed).view(np.uint8).tobytes()
    if len(raw) * 8 < count * bits:
        raise UserError(f"{len(raw)} bytes of quantised weights, expected {count * bits // 8}")
    return unpack(raw, {2: "uint2", 4: "uint4", 8: "uint8"}[bits], count)[:count]


@converts("GatherBlockQuantized", domain=MICROSOFT)
def _gather_block_quantized(node: Node) -> Any:
    """Rows of a table that is quantised in blocks along its last axis."""
    data = node.value(0)
    if not isinstance(data, Narrow):
        raise Unsupported("a table that is not of int4 or uint4")
    ndim = rank(data.bytes)
    gathered = normal_axis(node.attr.int("gather_axis", 0), ndim)
    quantised = normal_axis(node.attr.int("quantize_axis", 1), ndim)
    if gathered != 0 or quantised != ndim - 1 or ndim < 2:
        raise Unsupported("blocks that are not along the last axis, or rows not along the first")
    index, size = node.tensor(1), node.attr.int("block_size", 128)
    codes = node.op.gather(data.bytes, index, axis=0)
    scales = node.op.gather(node.tensor(2), index, axis=0)
    parts = [codes, scales]
    if node.has(3):
        zero = node.value(3)
        parts.append(node.op.gather(_bytes_of(zero), index, axis=0))
    width, blocks = node.static_dim(codes, -1, "data"), node.static_dim(scales, -1, "scales")
    if blocks * size != width:
        raise Unsupported(f"{width} elements in {blocks} blocks of {size}")
    head = shape(codes)[:-1]
    split = [node.reshape(codes, (*head, blocks, size))]
    split += [node.op.unsqueeze(part, axes=(rank(part),)) for part in parts[1:]]
    return node.reshape(node.op.dequantize(*split), (*head, width))


def _bytes_of(value: Any) -> GraphExpr:
    if not isinstance(value, Narrow):
        raise Unsupported("zero points of another type than the table")
    return value.bytes


@converts("CDist", domain=MICROSOFT)
def _cdist(node: Node) -> Any:
    a, b = (node.op.unsqueeze(node.tensor(at), axes=(1 - at,)) for at in range(2))
    distance = node.op.sub(a, b)
    squares = node.op.sum(node.op.mul(distance, distance), axes=(2,))
    return (
        node.op.sqrt(squares)
        if node.attr.string("metric", "sqeuclidean") == "euclidean"
        else (squares)
    )
