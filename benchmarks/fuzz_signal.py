# SPDX-License-Identifier: Apache-2.0
"""Generators, continued: images, signals, losses, attention, quantised products."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.fuzz_graphs import FLOATS, Graph, Unfit, Value
from benchmarks.fuzz_operators import SHORT, axis_of, generates, image, ints, window


@generates("Tan", "Atanh", "Acosh", "Swish", "RMSNormalization", "MeanVarianceNormalization")
def _more(g: Graph, kind: str) -> None:
    if kind == "RMSNormalization":
        x = g.tensor(("float32",), 1, empty=False)
        axis = axis_of(g, x)
        g.emit(kind, x, g.like(x, x.shape[axis:]), axis=axis)
    elif kind == "MeanVarianceNormalization":
        g.emit(kind, image(g, 2))
    else:
        g.emit(kind, g.tensor(("float32",)))


@generates("LpPool", "GlobalLpPool")
def _lp_pool(g: Graph, kind: str) -> None:
    x = image(g, 2)
    attrs = window(g, x) if kind == "LpPool" else {}
    g.emit(kind, x, p=g.number(1, 3), **attrs)


@generates("GroupNormalization")
def _group_norm(g: Graph, kind: str) -> None:
    x = image(g)
    groups = g.one([d for d in range(1, x.shape[1] + 1) if x.shape[1] % d == 0])
    size = x.shape[1] if g.opset >= 21 else groups
    g.emit(kind, x, g.like(x, (size,)), g.like(x, (size,)), num_groups=groups, epsilon=0.01)


@generates("CenterCropPad")
def _center(g: Graph, kind: str) -> None:
    x = g.tensor(("float32",), 1, 4, empty=False)
    axes = [axis for axis in range(len(x.shape)) if g.chance(0.5)] or [0]
    g.emit(kind, x, ints(g, *(g.number(1, 9) for _ in axes)), axes=axes)


@generates("Col2Im")
def _col2im(g: Graph, kind: str) -> None:
    size, block = g.number(3, 6), g.number(1, 2)
    positions = (size - block + 1) ** 2
    x = g.fresh((g.one(SHORT), g.one(SHORT) * block * block, positions), "float32")
    g.emit(kind, x, ints(g, size, size), ints(g, block, block))


@generates("AffineGrid")
def _affine(g: Graph, kind: str) -> None:
    n, h, w = g.number(1, 3), g.number(2, 4), g.number(2, 4)
    theta = g.fresh((n, 2, 3), "float32")
    g.emit(kind, theta, ints(g, n, 2, h, w), align_corners=g.number(0, 1))


@generates("DFT")
def _dft(g: Graph, kind: str) -> None:
    length = g.one([2, 3, 5, 8, 12])
    x = g.fresh((g.one(SHORT), length, g.number(1, 2)), "float32")
    attrs: dict[str, Any] = {}
    if x.shape[2] == 1 and g.chance(0.5):
        attrs["onesided"] = 1
    elif g.chance(0.5):
        attrs["inverse"] = 1
    if g.opset >= 20:
        g.emit(kind, x, None, g.constant(np.asarray(1, np.int64)), **attrs)
    else:
        g.emit(kind, x, axis=1, **attrs)


@generates("HannWindow", "HammingWindow", "BlackmanWindow")
def _window_of(g: Graph, kind: str) -> None:
    size = g.constant(np.asarray(g.number(2, 20), np.int64))
    g.emit(kind, size, periodic=g.number(0, 1))


@generates("Det")
def _det(g: Graph, kind: str) -> None:
    size = g.number(1, 4)
    g.emit(kind, g.fresh((*g.shape(0, 2, empty=False), size, size), "float32"))


@generates("RoiAlign")
def _roi_align(g: Graph, kind: str) -> None:
    x = image(g, 2)
    corners = np.sort(g.rng.uniform(0, 10, (3, 2, 2)), axis=1).reshape(3, 4).astype(np.float32)
    batch = g.rng.integers(0, x.shape[0], 3).astype(np.int64)
    g.emit(
        kind,
        x,
        g.constant(corners),
        g.constant(batch),
        output_height=g.number(1, 3),
        output_width=g.number(1, 3),
        sampling_ratio=g.number(1, 3),
        spatial_scale=g.one([1.0, 0.5]),
    )


@generates("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
def _loss(g: Graph, kind: str) -> None:
    batch, classes = g.number(1, 4), g.number(2, 6)
    tail = g.one([(), (3,), (2, 3)])
    labels = g.constant(g.rng.integers(0, classes, (batch, *tail)).astype(np.int64))
    x = g.fresh((batch, classes, *tail), "float32")
    weight = [g.constant(g.rng.uniform(0.1, 1, classes).astype(np.float32))]
    attrs: dict[str, Any] = {"reduction": g.one(["none", "mean", "sum"])}
    if g.chance(0.3):
        attrs["ignore_index"] = 0
    g.emit(kind, x, labels, *(weight if g.chance(0.5) else []), **attrs)


@generates("Attention")
def _attention(g: Graph, kind: str) -> None:
    batch, groups, each = g.number(1, 2), g.number(1, 2), g.number(1, 2)
    queries, keys, size = g.number(1, 5), g.number(1, 6), g.one([2, 4, 8])
    q = g.fresh((batch, groups * each, queries, size), "float32")
    k = g.fresh((batch, groups, keys, size), "float32")
    v = g.fresh((batch, groups, keys, size), "float32")
    mask: list[Value] = []
    attrs: dict[str, Any] = {}
    if g.chance(0.5):
        mask = [g.fresh((queries, keys), "float32")]
    elif g.chance(0.5) and keys >= queries:
        attrs["is_causal"] = 1
    if g.chance(0.3):
        attrs["softcap"] = 2.0
    g.emit(kind, q, k, v, *mask, **attrs)


@generates("RotaryEmbedding")
def _rotary(g: Graph, kind: str) -> None:
    batch, heads, length, half = g.number(1, 2), g.number(1, 3), g.number(1, 4), g.one([1, 2, 4])
    x = g.fresh((batch, heads, length, 2 * half), "float32")
    tables = [g.fresh((batch, length, half), "float32") for _ in range(2)]
    g.emit(kind, x, *tables, interleaved=g.number(0, 1))


@generates("QLinearMatMul", "QLinearConv")
def _qlinear(g: Graph, kind: str) -> None:
    def scale() -> Value:
        return g.constant(np.asarray(2.0 ** g.number(-6, -2), np.float32))

    def zero() -> Value:
        return g.constant(np.asarray(g.number(0, 9), np.uint8))

    if kind == "QLinearMatMul":
        a = g.fresh((g.one(SHORT), 8), "uint8")
        b = g.fresh((8, g.one(SHORT)), "uint8")
    else:
        a = g.fresh((1, g.one(SHORT), 5, 6), "uint8")
        b = g.fresh((g.one(SHORT), a.shape[1], 3, 3), "uint8")
    g.emit(kind, a, scale(), zero(), b, scale(), zero(), scale(), zero())


@generates("Range", "ConstantOfShape")
def _from_constants(g: Graph, kind: str) -> None:
    if kind == "Range":
        ends = (g.number(-5, 5), g.number(-5, 12), g.one([1, 2, 3, -1]))
        g.emit(kind, *(g.constant(np.asarray(end, np.int64)) for end in ends))
    else:
        g.emit(kind, ints(g, *g.shape(1, 3)))


@generates("CumProd")
def _cumprod(g: Graph, kind: str) -> None:
    x = g.tensor(FLOATS, 1, 3)
    axis = g.constant(np.asarray(axis_of(g, x), np.int64))
    g.emit(kind, x, axis, exclusive=g.number(0, 1), reverse=g.number(0, 1))


@generates("MaxUnpool")
def _unpool(g: Graph, kind: str) -> None:
    x = image(g, 2)
    if min(x.shape[2:]) < 4:
        raise Unfit
    attrs = {"kernel_shape": [2, 2], "strides": [2, 2]}
    pooled, index = g.emit("MaxPool", x, outputs=2, **attrs)
    sizes = [2 * dim for dim in pooled.shape[2:]]
    if sizes != list(x.shape[2:]):  # positions are those in x
        raise Unfit
    g.emit(kind, pooled, index, **attrs)


# -- quantised -------------------------------------------------------------------------------


@generates("QuantizeLinear", "DequantizeLinear")
def _quantize(g: Graph, kind: str) -> None:
    dtype = g.one(["uint8", "int8"])
    if kind == "QuantizeLinear":
        x = g.fresh(g.shape(), "float32")  # what NaN becomes is not said
    else:
        x = g.tensor((dtype,), 0, 4)
    dtype = dtype if kind == "QuantizeLinear" else x.dtype
    # A power of two, so that a quotient is as exact here as there.
    attrs: dict[str, Any] = {}
    dims: tuple[int, ...] = ()
    if len(x.shape) > 1 and g.chance(0.5):
        attrs["axis"] = g.number(0, len(x.shape) - 1)
        dims = (x.shape[attrs["axis"]],)
    scale = 2.0 ** g.rng.integers(-4, 1, dims)
    zero = g.rng.integers(0, 9, dims).astype(dtype)
    g.emit(kind, x, g.constant(np.asarray(scale, np.float32)), g.constant(zero), **attrs)


@generates("DynamicQuantizeLinear")
def _dynamic(g: Graph, kind: str) -> None:
    x = g.tensor(("float32",), 1, 3, empty=False)
    g.emit(kind, x, outputs=3)


@generates("MatMulInteger")
def _matmul_integer(g: Graph, kind: str) -> None:
    rows, inner, columns = (g.one([1, 3, 8, 17]) for _ in range(3))
    a = g.fresh((rows, inner), "uint8")
    b = g.fresh((inner, columns), g.one(["uint8", "int8"]))
    zeros = [g.constant(g.array((), v.dtype)) for v in (a, b)]
    g.emit(kind, a, b, *(zeros if g.chance(0.5) else []))


@generates("ConvInteger")
def _conv_integer(g: Graph, kind: str) -> None:
    x = g.fresh((1, g.one(SHORT), g.number(3, 8), g.number(3, 8)), "uint8")
    w = g.fresh((g.one(SHORT), x.shape[1], g.number(1, 3), g.number(1, 3)), "uint8")
    g.emit(kind, x, w, g.constant(np.asarray(g.number(0, 9), np.uint8)))


@generates("Dropout")
def _dropout(g: Graph, kind: str) -> None:
    g.emit(kind, g.tensor(FLOATS))
