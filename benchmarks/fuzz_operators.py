# SPDX-License-Identifier: Apache-2.0
"""For each ONNX operator a generator of valid nodes: inputs of the graph or of earlier nodes, and
attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.fuzz_graphs import (
    FLOATS,
    INTEGERS,
    NUMBER_OF,
    Graph,
    Unfit,
    Value,
)

Generator = Callable[[Graph, str], Any]
GENERATORS: dict[str, Generator] = {}
NUMBERS = ("float32", "float32", "float64", "int32", "int64")
ANY = (*NUMBERS, "bool", "int8", "uint8")


def generates(*names: str) -> Callable[[Generator], Generator]:
    """Declare the generator of some operators."""

    def declare(function: Generator) -> Generator:
        GENERATORS.update(dict.fromkeys(names, function))
        return function

    return declare


def axis_of(g: Graph, value: Value) -> int:
    """An axis of a tensor, counted from either end."""
    if not value.shape:
        raise Unfit
    return g.number(-len(value.shape), len(value.shape) - 1)


def ints(g: Graph, *items: int) -> Value:
    """A constant vector of int64."""
    return g.constant(np.asarray(items, np.int64))


# -- elementwise -----------------------------------------------------------------------------

SMOOTH = """Acos Asin Asinh Atan Cos Cosh Elu Erf Exp HardSigmoid HardSwish LeakyRelu Mish Relu
Selu Sigmoid Sin Sinh Softplus Softsign Tanh ThresholdedRelu Celu Identity Neg Abs Ceil Floor Round
Sign Reciprocal Sqrt Log IsNaN IsInf Shrink Gelu""".split()


@generates(*SMOOTH)
def _unary(g: Graph, kind: str) -> None:
    attrs: dict[str, Any] = {}
    if kind in ("Elu", "LeakyRelu", "ThresholdedRelu", "Celu") and g.chance(0.5):
        attrs["alpha"] = float(g.one([0.5, 1.0, 2.0]))
    dtypes = FLOATS if kind not in ("Relu", "Neg", "Abs", "Sign", "Identity") else NUMBERS
    if kind in ("Erf", "Gelu"):  # that of ONNX Runtime is no better than 1e-8
        dtypes = ("float32",)
    g.emit(kind, g.tensor(dtypes), **attrs)


@generates("Not")
def _not(g: Graph, kind: str) -> None:
    g.emit(kind, g.tensor(("bool",)))


@generates("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Mod")
def _binary(g: Graph, kind: str) -> None:
    a = g.tensor(NUMBERS if kind not in ("Pow", "Div") else FLOATS)
    attrs = {}
    b = g.broadcast(a)
    if kind == "Mod":
        if np.dtype(a.dtype).kind == "f":
            attrs["fmod"] = 1
        divisor = g.array(b.shape, a.dtype)
        b = g.constant(np.where(divisor == 0, 1, divisor).astype(a.dtype))
    if kind == "Pow":
        a = g.emit("Abs", a)[0]
    g.emit(kind, *((a, b) if g.chance(0.5) or kind in ("Mod", "Pow") else (b, a)), **attrs)


@generates("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")
def _compare(g: Graph, kind: str) -> None:
    a = g.tensor(NUMBERS)
    g.emit(kind, a, g.broadcast(a))


@generates("And", "Or", "Xor")
def _logical(g: Graph, kind: str) -> None:
    a = g.tensor(("bool",))
    g.emit(kind, a, g.broadcast(a))


@generates("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "BitShift")
def _bits(g: Graph, kind: str) -> None:
    if kind == "BitShift":
        a = g.fresh(g.shape(), g.one(["uint8", "uint32", "uint64"]))
        amount = g.rng.integers(0, 8, a.shape).astype(a.dtype)
        g.emit(kind, a, g.constant(amount), direction=g.one(["LEFT", "RIGHT"]))
        return
    a = g.tensor(INTEGERS)
    g.emit(kind, *([a] if kind == "BitwiseNot" else [a, g.broadcast(a)]))


@generates("Sum", "Mean")
def _variadic(g: Graph, kind: str) -> None:
    a = g.tensor(FLOATS)
    g.emit(kind, a, *(g.broadcast(a) for _ in range(g.number(0, 2))))


@generates("Where")
def _where(g: Graph, kind: str) -> None:
    a = g.tensor(NUMBERS)
    g.emit(kind, g.like(Value("", "bool", a.shape)), a, g.broadcast(a))


@generates("Clip")
def _clip(g: Graph, kind: str) -> None:
    a = g.tensor(NUMBERS)
    limits = sorted(g.array((2,), a.dtype).tolist())
    g.emit(kind, a, *(g.constant(np.asarray(x, a.dtype)) for x in limits))


@generates("PRelu")
def _prelu(g: Graph, kind: str) -> None:
    a = g.tensor(FLOATS)
    g.emit(kind, a, g.like(a, [1 if g.chance(0.4) else dim for dim in a.shape]))


@generates("Cast")
def _cast(g: Graph, kind: str) -> None:
    a = g.tensor(ANY)
    to = g.one(["float32", "float64", "int32", "int64", "bool"])
    if np.dtype(a.dtype).kind == "f" and to.startswith("int"):
        a = g.emit("Clip", a, *(g.constant(np.asarray(x, a.dtype)) for x in (-99, 99)))[0]
    g.emit(kind, a, to=NUMBER_OF[to])


# -- reductions ------------------------------------------------------------------------------

REDUCTIONS = """ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum
ReduceLogSumExp ReduceSumSquare""".split()


@generates(*REDUCTIONS)
def _reduce(g: Graph, kind: str) -> None:
    a = g.tensor(
        FLOATS if g.chance(0.8) or "Log" in kind or "Prod" in kind else ("int32", "int64"),
        empty=False,
    )
    if not a.dtype.startswith("float"):  # where sums overflow, anything is right
        a = g.emit("Clip", a, *(g.constant(np.asarray(x, a.dtype)) for x in (-9, 9)))[0]
    if kind == "ReduceLogSum":
        a = g.emit("Abs", a)[0]
    axes = [axis for axis in range(len(a.shape)) if g.chance(0.5)]
    axes = [axis - len(a.shape) if g.chance(0.3) else axis for axis in axes]
    attrs: dict[str, Any] = {"keepdims": g.number(0, 1)}
    if not axes:
        g.emit(kind, a, **attrs)
    elif g.opset >= 18 or kind == "ReduceSum":
        g.emit(kind, a, ints(g, *axes), **attrs)
    else:
        g.emit(kind, a, axes=axes, **attrs)


@generates("ArgMax", "ArgMin")
def _arg(g: Graph, kind: str) -> None:
    a = g.tensor(("float32", "float64", "int32"), 1, empty=False)
    last = g.number(0, 1)
    g.emit(kind, a, axis=axis_of(g, a), keepdims=g.number(0, 1), select_last_index=last)


@generates("Softmax", "LogSoftmax", "Hardmax")
def _softmax(g: Graph, kind: str) -> None:
    # The reference implementation knows their meaning from opset 13 on only.
    a = g.tensor(FLOATS if g.opset >= 13 else ("float32",), 1, empty=False)
    g.emit(kind, a, axis=axis_of(g, a))


@generates("CumSum")
def _cumsum(g: Graph, kind: str) -> None:
    a = g.tensor(NUMBERS, 1)
    axis = g.constant(np.asarray(axis_of(g, a), np.int64))
    g.emit(kind, a, axis, exclusive=g.number(0, 1), reverse=g.number(0, 1))


@generates("TopK")
def _topk(g: Graph, kind: str) -> None:
    a = g.tensor(("float32", "int64"), 1, empty=False)
    axis = axis_of(g, a)
    count = g.number(1, a.shape[axis])
    # Equal elements may come in any order: make all of them different.
    data = g.rng.permutation(int(np.prod(a.shape))).reshape(a.shape).astype(a.dtype)
    g.emit(kind, g.constant(data), ints(g, count), axis=axis, largest=g.number(0, 1), outputs=2)


# -- shapes ----------------------------------------------------------------------------------


@generates("Reshape")
def _reshape(g: Graph, kind: str) -> None:
    a = g.tensor(ANY)
    total = int(np.prod(a.shape))
    if 0 in a.shape:
        g.emit(kind, a, ints(g, 0, *a.shape[1:]))
        return
    first = g.one([d for d in range(1, total + 1) if total % d == 0][-6:])
    options = [(-1,), (first, total // first), (first, -1), (1, total), (*a.shape, 1)]
    g.emit(kind, a, ints(g, *g.one(options)))


@generates("Transpose")
def _transpose(g: Graph, kind: str) -> None:
    a = g.tensor(ANY, 1)
    g.emit(kind, a, perm=[int(axis) for axis in g.rng.permutation(len(a.shape))])


@generates("Flatten")
def _flatten(g: Graph, kind: str) -> None:
    a = g.tensor(ANY)
    g.emit(kind, a, axis=g.number(-len(a.shape), len(a.shape)))


@generates("Squeeze")
def _squeeze(g: Graph, kind: str) -> None:
    a = g.tensor(ANY)
    axes = [axis for axis, dim in enumerate(a.shape) if dim == 1 and g.chance(0.7)]
    g.emit(kind, a, *([ints(g, *axes)] if axes else []))


@generates("Unsqueeze")
def _unsqueeze(g: Graph, kind: str) -> None:
    a = g.tensor(ANY, 0, 4)
    g.emit(kind, a, ints(g, g.number(-len(a.shape) - 1, len(a.shape))))


@generates("Expand")
def _expand(g: Graph, kind: str) -> None:
    a = g.tensor(ANY, 0, 4)
    wanted = [g.one([1, 2, 3]) if dim == 1 else dim for dim in a.shape]
    if g.chance(0.3):
        wanted = [2, *wanted]
    g.emit(kind, a, ints(g, *wanted))


@generates("Tile")
def _tile(g: Graph, kind: str) -> None:
    a = g.tensor(ANY, 1, 4)
    g.emit(kind, a, ints(g, *(g.number(1, 3) for _ in a.shape)))


@generates("Concat")
def _concat(g: Graph, kind: str) -> None:
    a = g.tensor(ANY, 1)
    axis = axis_of(g, a)
    parts = [a]
    for _ in range(g.number(1, 2)):
        dims = list(a.shape)
        dims[axis] = g.one(SHORT)
        parts.append(g.like(a, dims))
    g.emit(kind, *parts, axis=axis)


SHORT = (1, 2, 3, 5)


@generates("Split")
def _split(g: Graph, kind: str) -> None:
    a = g.tensor(ANY, 1, fits=lambda v: max(v.shape, default=0) > 1, empty=False)
    axis = int(np.argmax(a.shape))
    first = g.number(1, a.shape[axis] - 1)
    sizes = ints(g, first, a.shape[axis] - first)
    g.emit(kind, a, sizes, axis=axis, outputs=2)


@generates("Slice")
def _slice(g: Graph, kind: str) -> None:
    a = g.tensor(ANY, 1)
    axes = [axis for axis in range(len(a.shape)) if g.chance(0.6)] or [0]
    starts, ends, steps = [], [], []
    for axis in axes:
        size = a.shape[axis]
        starts.append(g.number(-size - 1, size + 1))
        steps.append(g.one([1, 1, 2, 3, -1, -2]))
        to_the_end = 2**31 - 1 if steps[-1] > 0 else -(2**31)
        ends.append(g.one([to_the_end, to_the_end, g.number(-size - 1, size + 1)]))
    g.emit(kind, a, ints(g, *starts), ints(g, *ends), ints(g, *axes), ints(g, *steps))


@generates("Pad")
def _pad(g: Graph, kind: str) -> None:
    a = g.tensor(NUMBERS, 1, empty=False)
    mode = g.one(["constant", "constant", "edge", "reflect"])
    least = min(a.shape) - 1
    most = min(2, least) if mode == "reflect" else 3
    pads = [g.number(0, most) for _ in range(2 * len(a.shape))]
    if mode == "constant" and g.chance(0.2) and min(a.shape) > 1:
        pads[0] = -1
    value = [g.constant(g.array((), a.dtype))] if mode == "constant" else []
    g.emit(kind, a, ints(g, *pads), *value, mode=mode)


@generates("Gather")
def _gather(g: Graph, kind: str) -> None:
    a = g.tensor(ANY, 1, 4, empty=False)
    axis = axis_of(g, a)
    index = g.rng.integers(-a.shape[axis], a.shape[axis], g.shape(0, 2))
    g.emit(kind, a, g.constant(index.astype(g.one(["int64", "int32"]))), axis=axis)


@generates("GatherElements", "ScatterElements")
def _elements(g: Graph, kind: str) -> None:
    a = g.tensor(NUMBERS, 1, 4, empty=False)
    axis = axis_of(g, a)
    dims = [g.number(1, dim) for dim in a.shape]
    count = a.shape[axis]
    if kind == "GatherElements":
        index = g.rng.integers(-count, count, dims)
        g.emit(kind, a, g.constant(index.astype(np.int64)), axis=axis)
        return
    # An element must not be written twice: along the axis, each row is a permutation.
    order = np.argsort(
        g.rng.random([count if d == axis % len(dims) else n for d, n in enumerate(dims)]), axis=axis
    )
    index = np.take(order, range(dims[axis]), axis=axis)
    updates = g.like(a, dims)
    g.emit(kind, a, g.constant(np.ascontiguousarray(index)), updates, axis=axis)


@generates("GatherND")
def _gather_nd(g: Graph, kind: str) -> None:
    a = g.tensor(NUMBERS, 1, 4, empty=False)
    depth = g.number(1, len(a.shape))
    count = g.number(1, 5)
    index = np.stack([g.rng.integers(-n, n, count) for n in a.shape[:depth]], axis=-1)
    g.emit(kind, a, g.constant(index.astype(np.int64)))


@generates("ScatterND")
def _scatter_nd(g: Graph, kind: str) -> None:
    a = g.tensor(NUMBERS, 1, 4, empty=False)
    rows = g.rng.permutation(a.shape[0])[: g.number(1, a.shape[0])]
    updates = g.like(a, (len(rows), *a.shape[1:]))
    g.emit(kind, a, g.constant(rows.reshape(-1, 1).astype(np.int64)), updates)


@generates("OneHot")
def _one_hot(g: Graph, kind: str) -> None:
    depth = g.number(1, 6)
    index = g.rng.integers(-depth - 1, depth + 1, g.shape(0, 2)).astype(np.int64)
    g.emit(
        kind,
        g.constant(index),
        g.constant(np.asarray(depth, np.int64)),
        g.constant(np.asarray([0, 1], np.float32)),
        axis=g.number(-index.ndim - 1, index.ndim),
    )


@generates("Trilu")
def _trilu(g: Graph, kind: str) -> None:
    a = g.tensor(("float32", "float64", "int64"), 2)
    k = g.constant(np.asarray(g.number(-3, 3), np.int64))
    g.emit(kind, a, k, upper=g.number(0, 1))


@generates("DepthToSpace", "SpaceToDepth")
def _depth(g: Graph, kind: str) -> None:
    n, c, h, w = (g.one(SHORT) for _ in range(4))
    if kind == "DepthToSpace":
        a = g.fresh((n, c * 4, h, w), "float32")
        g.emit(kind, a, blocksize=2, mode=g.one(["DCR", "CRD"]))
    else:
        g.emit(kind, g.fresh((n, c, 2 * h, 2 * w), "float32"), blocksize=2)


@generates("Shape", "Size")
def _shape(g: Graph, kind: str) -> None:
    g.emit(kind, g.tensor(ANY))


@generates("EyeLike")
def _eye(g: Graph, kind: str) -> None:
    g.emit(kind, g.tensor(("float32", "int64"), 2, 2), k=g.number(-2, 2))


@generates("ReverseSequence")
def _reverse(g: Graph, kind: str) -> None:
    a = g.tensor(("float32", "int64"), 2, 4, empty=False)
    time = g.number(0, 1)
    lengths = g.rng.integers(1, a.shape[time] + 1, a.shape[1 - time]).astype(np.int64)
    g.emit(kind, a, g.constant(lengths), time_axis=time, batch_axis=1 - time)


# -- products --------------------------------------------------------------------------------


@generates("MatMul")
def _matmul(g: Graph, kind: str) -> None:
    a = g.tensor(FLOATS, 1, 4, empty=False)
    inner = a.shape[-1]
    batch = [1 if g.chance(0.3) else dim for dim in a.shape[:-2]]
    options = [(inner,), (inner, g.one(SHORT)), (*batch, inner, g.one([1, 4, 9, 17]))]
    g.emit(kind, a, g.like(a, g.one(options)))


@generates("Gemm")
def _gemm(g: Graph, kind: str) -> None:
    a = g.tensor(("float32", "float64"), 2, 2, empty=False)
    left, right = g.number(0, 1), g.number(0, 1)
    rows, inner = a.shape if not left else a.shape[::-1]
    columns = g.one([1, 3, 8, 17])
    b = g.like(a, (columns, inner) if right else (inner, columns))
    c = g.one([None, (columns,), (rows, 1), (1,), (), (rows, columns)])
    bias = [] if c is None else [g.like(a, c)]
    g.emit(kind, a, b, *bias, transA=left, transB=right, alpha=g.one([1.0, 0.5]), beta=0.25)


@generates("Einsum")
def _einsum(g: Graph, kind: str) -> None:
    sizes = {letter: g.one(SHORT) for letter in "bijk"}
    equation = g.one(["ij,jk->ik", "bij,bjk->bik", "ij,ij->i", "i,j->ij", "bij->bji", "bij,jk->bk"])
    terms = equation.split("->")[0].split(",")
    parts = [g.fresh([sizes[letter] for letter in term], "float32") for term in terms]
    g.emit(kind, *parts, equation=equation)


def image(g: Graph, ndim: int | None = None) -> Value:
    """A batch of small images (or signals, or volumes) with channels."""
    ndim = ndim or g.one([1, 2, 2, 2, 3])
    sizes = [g.number(3, {1: 20, 2: 12, 3: 6}[ndim]) for _ in range(ndim)]
    return g.fresh((g.number(1, 3), g.one([1, 2, 3, 4, 6, 8, 17]), *sizes), "float32")


def window(g: Graph, x: Value) -> dict[str, Any]:
    """Attributes of a convolution or pooling of x."""
    ndim = len(x.shape) - 2
    kernel = [g.number(1, 3) for _ in range(ndim)]
    attrs: dict[str, Any] = {"kernel_shape": kernel}
    if g.chance(0.6):
        attrs["strides"] = [g.number(1, 3) for _ in range(ndim)]
    if g.chance(0.5):
        attrs["pads"] = [g.number(0, kernel[at % ndim] - 1) for at in range(2 * ndim)]
    elif g.chance(0.3):
        attrs["auto_pad"] = g.one(["SAME_UPPER", "SAME_LOWER", "VALID"])
    return attrs


@generates("Conv")
def _conv(g: Graph, kind: str) -> None:
    x = image(g)
    attrs = window(g, x)
    group = g.one([d for d in range(1, x.shape[1] + 1) if x.shape[1] % d == 0])
    outputs = group * g.one([1, 2, 3, 5])
    if "auto_pad" not in attrs and g.chance(0.3):
        attrs["dilations"] = [g.number(1, 2) for _ in x.shape[2:]]
        if any(2 * k - 1 > n for k, n in zip(attrs["kernel_shape"], x.shape[2:], strict=True)):
            raise Unfit
    w = g.like(x, (outputs, x.shape[1] // group, *attrs["kernel_shape"]))
    bias = [g.like(x, (outputs,))] if g.chance(0.5) else []
    g.emit(kind, x, w, *bias, group=group, **attrs)


@generates("ConvTranspose")
def _conv_transpose(g: Graph, kind: str) -> None:
    x = image(g, g.one([1, 2]))
    attrs = window(g, x)
    attrs.pop("auto_pad", None)
    w = g.like(x, (x.shape[1], g.one(SHORT), *attrs["kernel_shape"]))
    g.emit(kind, x, w, **attrs)


@generates("MaxPool", "AveragePool")
def _pool(g: Graph, kind: str) -> None:
    x = image(g)
    attrs = window(g, x)
    if "auto_pad" not in attrs:
        attrs["ceil_mode"] = g.number(0, 1)
    if kind == "AveragePool":
        attrs["count_include_pad"] = g.number(0, 1)
        if attrs.get("ceil_mode"):  # ONNX Runtime changed its mind about such windows
            attrs["ceil_mode"] = 0
    outputs = 2 if kind == "MaxPool" and g.chance(0.3) and "auto_pad" not in attrs else 1
    g.emit(kind, x, outputs=outputs, **attrs)


@generates("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(g: Graph, kind: str) -> None:
    g.emit(kind, image(g))


# -- normalisations and others ---------------------------------------------------------------


@generates("BatchNormalization")
def _batch_norm(g: Graph, kind: str) -> None:
    x = image(g)
    parts = [g.like(x, (x.shape[1],)) for _ in range(3)]
    variance = np.abs(g.array((x.shape[1],), "float32")) + np.float32(0.1)
    g.emit(kind, x, *parts, g.constant(variance))


@generates("InstanceNormalization")
def _instance_norm(g: Graph, kind: str) -> None:
    x = image(g)
    g.emit(kind, x, g.like(x, (x.shape[1],)), g.like(x, (x.shape[1],)))


@generates("LayerNormalization")
def _layer_norm(g: Graph, kind: str) -> None:
    x = g.tensor(("float32",), 1, empty=False, fits=lambda v: v.shape[-1:] > (1,))
    axis = axis_of(g, x)
    tail = x.shape[axis:]
    g.emit(
        kind,
        x,
        g.like(x, tail),
        *([g.like(x, tail)] if g.chance(0.5) else []),
        axis=axis,
        epsilon=0.01,
    )


@generates("LRN")
def _lrn(g: Graph, kind: str) -> None:
    g.emit(kind, image(g, 2), size=g.one([1, 3, 5]), alpha=0.05)


@generates("LpNormalization")
def _lp(g: Graph, kind: str) -> None:
    a = g.tensor(("float32",), 1, empty=False)
    g.emit(kind, a, axis=axis_of(g, a), p=g.number(1, 2))


@generates("Resize")
def _resize(g: Graph, kind: str) -> None:
    x = image(g, 2)
    mode = g.one(["nearest", "linear", "cubic"])
    place = g.one(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
    attrs = {"mode": mode, "coordinate_transformation_mode": place}
    if mode == "nearest":
        attrs["nearest_mode"] = g.one(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
    sizes = ints(g, *x.shape[:2], *(g.number(1, 2 * dim) for dim in x.shape[2:]))
    g.emit(kind, x, None, None, sizes, **attrs)


@generates("GridSample")
def _grid(g: Graph, kind: str) -> None:
    x = image(g, 2)
    grid = g.rng.uniform(-1.2, 1.2, (x.shape[0], g.number(1, 5), g.number(1, 5), 2))
    mode = g.one(["linear", "nearest"] if g.opset >= 20 else ["bilinear", "nearest"])
    padding = g.one(["zeros", "border", "reflection"])
    corners = g.number(0, 1)
    place = g.constant(grid.astype(np.float32))
    g.emit(kind, x, place, mode=mode, padding_mode=padding, align_corners=corners)


@generates("LSTM", "GRU", "RNN")
def _recurrent(g: Graph, kind: str) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    steps, batch, width, hidden = g.number(1, 4), g.number(1, 3), g.one(SHORT), g.one(SHORT)
    direction = g.one(["forward", "reverse", "bidirectional"])
    ways = 2 if direction == "bidirectional" else 1
    x = g.fresh((steps, batch, width), "float32")
    w = g.like(x, (ways, gates * hidden, width))
    r = g.like(x, (ways, gates * hidden, hidden))
    inputs: list[Value | None] = [x, w, r]
    if g.chance(0.5):
        inputs.append(g.like(x, (ways, 2 * gates * hidden)))
    attrs = {"linear_before_reset": g.number(0, 1)} if kind == "GRU" else {}
    outputs = 3 if kind == "LSTM" else 2
    g.emit(kind, *inputs, outputs=outputs, hidden_size=hidden, direction=direction, **attrs)
