# SPDX-License-Identifier: Apache-2.0
"""Fourier transforms: what `torch.fft` and `torch.stft` are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from heddle.frontend.fourier import LIMIT, Parts, inverse_real, largest_factor, transform
from heddle.frontend.torch.node import Node, normal_axis, rank, shape
from heddle.frontend.torch.ops.views import transposed
from heddle.frontend.torch.parts import Complex, as_complex, component
from heddle.frontend.torch.registry import converts_complex
from heddle.frontend.torch.report import Unsupported
from heddle.graph import GraphExpr


def _scale(normalization: int, length: int) -> float:
    """What an axis of `length` is multiplied by: nothing, 1 / sqrt(n) or 1 / n."""
    return (1.0, 1.0 / math.sqrt(length), 1.0 / length)[normalization]


def _checked(size: Any) -> int:
    if not isinstance(size, int):
        raise Unsupported("a Fourier transform along an axis of symbolic size")
    if largest_factor(size) > LIMIT:
        raise Unsupported(f"a Fourier transform of {size} points, of a prime factor over {LIMIT}")
    return size


def _at_end(node: Node, x: Complex, axis: int) -> Parts:
    """The parts with `axis` moved to the end."""
    order = [a for a in range(rank(x.real)) if a != axis] + [axis]
    imaginary = None if x.imaginary is None else transposed(node, x.imaginary, order)
    return transposed(node, x.real, order), imaginary


def _home(node: Node, x: GraphExpr, axis: int) -> GraphExpr:
    """The last axis moved back to `axis`."""
    order = list(range(rank(x) - 1))
    order.insert(axis, rank(x) - 1)
    return transposed(node, x, order)


def _along(
    node: Node, x: Complex, axis: int, normalization: int, *, inverse: bool, half: bool = False
) -> Complex:
    """The transform along one axis; half: only the first n // 2 + 1 values."""
    length = _checked(shape(x.real)[axis])
    found = transform(
        node,
        _at_end(node, x, axis),
        length,
        count=length // 2 + 1 if half else None,
        inverse=inverse,
        scale=_scale(normalization, length),
    )
    return Complex(*(_home(node, part, axis) for part in found))


def _axes(x: Complex, dims: Sequence[int]) -> list[int]:
    return [normal_axis(axis, rank(x.real)) for axis in dims]


@converts_complex("aten._fft_c2c.default")
def _complex_to_complex(
    node: Node, x: Complex, dim: Sequence[int], normalization: int, forward: bool
) -> Any:
    for axis in _axes(x, dim):
        x = _along(node, x, axis, normalization, inverse=not forward)
    return x


@converts_complex("aten._fft_r2c.default")
def _real_to_complex(
    node: Node, x: GraphExpr, dim: Sequence[int], normalization: int, onesided: bool
) -> Any:
    value = as_complex(node, x, component(node.result.dtype))
    *others, last = _axes(value, dim)
    value = _along(node, value, last, normalization, inverse=False, half=onesided)
    for axis in others:
        value = _along(node, value, axis, normalization, inverse=False)
    return value


@converts_complex("aten._fft_c2r.default")
def _complex_to_real(
    node: Node, x: Complex, dim: Sequence[int], normalization: int, last_dim_size: Any
) -> Any:
    *others, last = _axes(x, dim)
    for axis in others:
        x = _along(node, x, axis, normalization, inverse=True)
    total = _checked(last_dim_size)
    count = shape(x.real)[last]
    if count != total // 2 + 1:
        raise Unsupported(f"{count} values of the spectrum of a signal of {total}")
    real = inverse_real(node, _at_end(node, x, last), total, scale=_scale(normalization, total))
    return _home(node, real, last)
