# SPDX-License-Identifier: Apache-2.0
"""Seeded random matrix products and convolutions, each as an ONNX model of one operator."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

MOST_FLOPS = 6e8
MOST_BYTES = 48e6


@dataclass(frozen=True)
class Product:
    """A (batch, m, k) times a (k, n), or a (batch, k, n) where both operands are inputs.

    Without a batch (0) the left operand is (m, k). `transposed`: the right operand lies as (n, k).
    `constant`: the right operand is known when the model is compiled, as weights are.
    """

    kind: str
    batch: int
    m: int
    k: int
    n: int
    transposed: bool
    constant: bool

    def __str__(self) -> str:
        batch = f"{self.batch} x " if self.batch else ""
        marks = ("T" if self.transposed else "") + (" constant" if self.constant else "")
        return f"{self.kind} {batch}{self.m}x{self.k} @ {self.k}x{self.n}{marks}"

    @property
    def flops(self) -> float:
        return 2.0 * max(self.batch, 1) * self.m * self.k * self.n

    @property
    def left(self) -> tuple[int, ...]:
        """The shape of the left operand."""
        return (*self._batch, self.m, self.k)

    @property
    def right(self) -> tuple[int, ...]:
        """The shape of the right operand as it lies."""
        matrix = (self.n, self.k) if self.transposed else (self.k, self.n)
        return matrix if self.constant else (*self._batch, *matrix)

    @property
    def result(self) -> tuple[int, ...]:
        return (*self._batch, self.m, self.n)

    @property
    def _batch(self) -> tuple[int, ...]:
        return (self.batch,) if self.batch else ()

    def weights(self, rng: np.random.Generator) -> list[np.ndarray]:
        """The constants, here none or the right operand."""
        return [_normal(rng, self.right)] if self.constant else []

    def inputs(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Values for the inputs."""
        shapes = [self.left] if self.constant else [self.left, self.right]
        return [_normal(rng, shape) for shape in shapes]

    def nodes(self) -> list[Any]:
        """The operator, on `x0` and `w0` or `x0` and `x1`, to `y`."""
        from onnx import helper

        right = "w0" if self.constant else "x1"
        if not self.transposed:
            return [helper.make_node("MatMul", ["x0", right], ["y"])]
        if not self.batch:
            return [helper.make_node("Gemm", ["x0", right], ["y"], transB=1)]
        axes = (1, 0) if self.constant else (0, 2, 1)
        turned = helper.make_node("Transpose", [right], ["turned"], perm=axes)
        return [turned, helper.make_node("MatMul", ["x0", "turned"], ["y"])]


@dataclass(frozen=True)
class Convolution:
    """A convolution of a (1, inputs, *size) image with constant weights and a bias; `size` and all
    that follows have one or two dimensions."""

    kind: str
    channels: int
    outputs: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int
    padding: tuple[int, ...]
    dilation: int
    groups: int

    def __str__(self) -> str:
        size, kernel = ("x".join(map(str, dims)) for dims in (self.size, self.kernel))
        extras = {"/": self.stride, " d": self.dilation, " g": self.groups}
        marks = "".join(f"{mark}{value}" for mark, value in extras.items() if value > 1)
        pad = f" p{'x'.join(map(str, self.padding))}" if any(self.padding) else ""
        return f"{self.kind} {self.channels}->{self.outputs} @{size} k{kernel}{marks}{pad}"

    @property
    def flops(self) -> float:
        taps = self.channels // self.groups * math.prod(self.kernel)
        return 2.0 * taps * math.prod(self.result)

    @property
    def left(self) -> tuple[int, ...]:
        """The shape of the image."""
        return (1, self.channels, *self.size)

    @property
    def right(self) -> tuple[int, ...]:
        """The shape of the weights."""
        return (self.outputs, self.channels // self.groups, *self.kernel)

    @property
    def result(self) -> tuple[int, ...]:
        spans = [
            (size + 2 * pad - self.dilation * (kernel - 1) - 1) // self.stride + 1
            for size, kernel, pad in zip(self.size, self.kernel, self.padding, strict=True)
        ]
        return (1, self.outputs, *spans)

    def weights(self, rng: np.random.Generator) -> list[np.ndarray]:
        """The kernel and the bias."""
        return [_normal(rng, self.right), _normal(rng, (self.outputs,))]

    def inputs(self, rng: np.random.Generator) -> list[np.ndarray]:
        """A value for the image."""
        return [_normal(rng, self.left)]

    def nodes(self) -> list[Any]:
        """The operator, on `x0`, `w0` and `w1`, to `y`."""
        from onnx import helper

        rank = len(self.size)
        attributes = {
            "strides": [self.stride] * rank,
            "dilations": [self.dilation] * rank,
            "pads": [*self.padding, *self.padding],
            "group": self.groups,
        }
        return [helper.make_node("Conv", ["x0", "w0", "w1"], ["y"], **attributes)]


Case: TypeAlias = Product | Convolution


def moved_bytes(case: Case) -> float:
    """Bytes of the operands and the result, each once."""
    return 4.0 * sum(map(math.prod, (case.left, case.right, case.result)))


def onnx_model(case: Case, weights: list[np.ndarray]) -> Any:
    """The ONNX model of a case: inputs `x0` and perhaps `x1`, output `y`."""
    from onnx import TensorProto, helper, numpy_helper

    def declare(name: str, shape: tuple[int, ...]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    inputs = [declare("x0", case.left)]
    if isinstance(case, Product) and not case.constant:
        inputs.append(declare("x1", case.right))
    constants = [numpy_helper.from_array(w, f"w{at}") for at, w in enumerate(weights)]
    graph = helper.make_graph(
        case.nodes(), "case", inputs, [declare("y", case.result)], initializer=constants
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def random_cases(count: int, seed: int) -> Iterator[Case]:
    """`count` cases drawn from `seed`, products and convolutions in turns."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        while True:
            case = _convolution(rng) if index % 2 else _product(rng, constant=index % 4 == 0)
            known = min(case.result) > 0 and case.flops <= MOST_FLOPS
            if known and moved_bytes(case) <= MOST_BYTES:
                break
        yield case


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def _between(rng: np.random.Generator, low: int, high: int) -> int:
    """Log-uniform; every second one is a multiple of eight where that is in range."""
    value = round(math.exp(rng.uniform(math.log(low), math.log(high))))
    even = max(8, value // 8 * 8)
    return even if rng.random() < 0.5 and low <= even <= high else value


_PRODUCTS = {
    # kind: ranges of the batch, m, k and n
    "square": ((0, 0), (64, 768), (64, 768), (64, 768)),
    "odd": ((0, 0), (3, 500), (3, 500), (3, 500)),
    "tall": ((0, 0), (512, 8192), (8, 256), (8, 128)),
    "wide": ((0, 0), (2, 64), (64, 1024), (512, 4096)),
    "deep": ((0, 0), (4, 64), (1024, 8192), (4, 64)),
    "small": ((0, 0), (2, 64), (2, 64), (2, 64)),
    "vector": ((0, 0), (1, 1), (64, 2048), (64, 4096)),
    "batched": ((2, 48), (8, 200), (8, 200), (8, 200)),
}


def _product(rng: np.random.Generator, *, constant: bool) -> Product:
    kind = str(rng.choice(list(_PRODUCTS)))
    ranges = _PRODUCTS[kind]
    batch, m, k, n = (_between(rng, low, high) if high else 0 for low, high in ranges)
    if kind == "odd":
        m, k, n = m | 1, k | 1, n | 1
    return Product(kind, batch, m, k, n, bool(rng.random() < 0.35), constant)


_KERNELS = ((3, 3), (3, 3), (5, 5), (7, 7), (2, 2), (1, 7), (7, 1), (4, 4))
_CONVOLUTIONS = ("pointwise", "window", "window", "depthwise", "grouped", "stem", "line")


def _convolution(rng: np.random.Generator) -> Convolution:
    kind = str(rng.choice(_CONVOLUTIONS))
    rank = 1 if kind == "line" else 2
    kernel = tuple(int(k) for k in rng.choice(_KERNELS))[:rank]
    size = tuple(_between(rng, 7, 112) for _ in range(rank))
    inputs, outputs, groups = _between(rng, 8, 512), _between(rng, 8, 512), 1
    if kind == "line":
        size = (_between(rng, 32, 8192),)
        kernel = (int(rng.choice((1, 2, 3, 5, 10))),)
    elif kind == "pointwise":
        kernel = (1, 1)
    elif kind == "depthwise":
        outputs = groups = inputs
    elif kind == "grouped":
        groups = int(rng.choice((2, 4, 8, 32)))
        inputs, outputs = (groups * _between(rng, 2, 24) for _ in range(2))
    elif kind == "stem":
        inputs, size = int(rng.choice((1, 3, 4))), tuple(_between(rng, 96, 320) for _ in range(2))
        outputs = _between(rng, 8, 96)
    dilation = int(rng.choice((1, 1, 1, 1, 2, 4)))
    stride = int(rng.choice((1, 1, 1, 2, 2, 3)))
    padded = rng.random() < 0.7
    padding = tuple(dilation * (k // 2) if padded else 0 for k in kernel)
    return Convolution(kind, inputs, outputs, size, kernel, stride, padding, dilation, groups)
