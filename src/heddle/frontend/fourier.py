# SPDX-License-Identifier: Apache-2.0
"""Discrete Fourier transforms of pairs of real and imaginary parts, as products with matrices.

X[k] = sum over n of x[n] exp(-2 pi i k n / N), along the last axis. Short and prime lengths are one
product with a matrix of cosines and one of sines; N = P Q takes N (P + Q) steps in place of N^2
(Cooley and Tukey, 1965).
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np

from heddle.graph import GraphExpr
from heddle.ir import TensorType
from heddle.op.common import plain_dims

LIMIT: Final = 4096
"""The largest prime factor of a length: beyond, a product with a matrix is no longer sensible."""

_DIRECT: Final = 128
"""Up to this length a transform is one product."""

Parts = tuple[GraphExpr, GraphExpr | None]
"""Real and imaginary part; without the latter it is zero everywhere."""


class Emitter(Protocol):
    """A node of an importer: `op.add(x, y)` emits a call."""

    @property
    def op(self) -> Any: ...


def largest_factor(length: int) -> int:
    """The largest prime factor; 1 of 1."""
    found, divisor = 1, 2
    while length > 1:
        while length % divisor == 0:
            found, length = divisor, length // divisor
        divisor = divisor + 1 if divisor * divisor <= length else length
    return found


def transform(
    node: Emitter,
    x: Parts,
    length: int,
    *,
    count: int | None = None,
    inverse: bool = False,
    scale: float = 1.0,
) -> tuple[GraphExpr, GraphExpr]:
    """The first `count` (default: all) values of the transform, times `scale`, along the last
    axis. inverse: with exp(+2 pi i k n / N); the division by N is for `scale`."""
    count = length if count is None else count
    rows = _divisor(length)
    if length <= _DIRECT or rows == 1:
        angles = _angles(length, count, length)
        return _times_matrix(node, x, angles, inverse=inverse, scale=scale)
    return _first(node, _composite(node, x, rows, length // rows, inverse, scale), count)


def _divisor(length: int) -> int:
    """The largest divisor that is at most the square root."""
    return next(d for d in range(int(length**0.5), 0, -1) if length % d == 0)


def _angles(rows: int, columns: int, length: int) -> np.ndarray:
    # The product is taken modulo the length first, so that large angles lose no digits.
    return 2 * np.pi * (np.outer(np.arange(rows), np.arange(columns)) % length) / length


def _times_matrix(
    node: Emitter, x: Parts, angles: np.ndarray, *, inverse: bool, scale: float
) -> tuple[GraphExpr, GraphExpr]:
    """x times the matrix scale * exp(-+ i angles)."""
    real, imaginary = x
    kind = _type(real).dtype.numpy
    cosine = (np.cos(angles) * scale).astype(kind)
    sine = (np.sin(angles) * (scale if inverse else -scale)).astype(kind)
    first, second = node.op.matmul(real, cosine), node.op.matmul(real, sine)
    if imaginary is not None:
        first = node.op.sub(first, node.op.matmul(imaginary, sine))
        second = node.op.add(second, node.op.matmul(imaginary, cosine))
    return first, second


def _composite(
    node: Emitter, x: Parts, p: int, q: int, inverse: bool, scale: float
) -> tuple[GraphExpr, GraphExpr]:
    """The transform of P Q points. With n = Q a + b and k = c + P d,

    X[c + P d] = sum over b of w(Q)^(b d) w(P Q)^(b c) sum over a of w(P)^(a c) x[Q a + b].
    """
    lead = plain_dims(_type(x[0]).shape)[:-1]
    columns = [_swapped(node, _reshaped(node, part, (*lead, p, q))) for part in x]  # [..., b, a]
    inner = transform(node, (columns[0], columns[1]), p, inverse=inverse, scale=scale)
    turned = _turned(node, inner, _angles(q, p, p * q), inverse=inverse)  # [..., b, c]
    rows = [_swapped(node, part) for part in turned]  # [..., c, b]
    outer = transform(node, (rows[0], rows[1]), q, inverse=inverse)  # [..., c, d]
    flat = [_reshaped(node, _swapped(node, part), (*lead, p * q)) for part in outer]
    assert flat[0] is not None
    assert flat[1] is not None
    return flat[0], flat[1]


def _turned(node: Emitter, x: Parts, angles: np.ndarray, *, inverse: bool) -> Parts:
    """x times exp(-+ i angles), element by element."""
    real, imaginary = x
    kind = _type(real).dtype.numpy
    cosine = np.cos(angles).astype(kind)
    sine = (np.sin(angles) * (1 if inverse else -1)).astype(kind)
    mul = node.op.mul
    return (
        node.op.sub(mul(real, cosine), mul(imaginary, sine)),
        node.op.add(mul(real, sine), mul(imaginary, cosine)),
    )


def inverse_real(node: Emitter, x: Parts, total: int, *, scale: float) -> GraphExpr:
    """The real signal of `total` points, times `scale`, whose transform begins with the
    total // 2 + 1 values x; the others are their conjugates."""
    real, imaginary = x
    count = total // 2 + 1
    if total > _DIRECT and _divisor(total) > 1:
        return transform(node, _mirrored(node, x, total), total, inverse=True, scale=scale)[0]
    weight = np.full((count, 1), 2.0)
    weight[0] = 1.0
    if total % 2 == 0:
        weight[-1] = 1.0
    angles = _angles(count, total, total)
    kind = _type(real).dtype.numpy
    result = node.op.matmul(real, (np.cos(angles) * weight * scale).astype(kind))
    if imaginary is not None:
        sine = (np.sin(angles) * weight * scale).astype(kind)
        result = node.op.sub(result, node.op.matmul(imaginary, sine))
    return result  # type: ignore[no-any-return]


def _mirrored(node: Emitter, x: Parts, total: int) -> Parts:
    """The whole spectrum of a real signal: X[N - k] is the conjugate of X[k]. What is imaginary at
    0 and N / 2 does not count."""
    index = np.arange(total)
    source = np.minimum(index, total - index)
    sign = np.where(index <= total // 2, 1.0, -1.0)
    sign[0] = 0.0
    if total % 2 == 0:
        sign[total // 2] = 0.0
    real, imaginary = x
    axis = _type(real).ndim - 1
    whole = node.op.gather(real, source, axis=axis)
    if imaginary is None:
        return whole, None
    other = node.op.gather(imaginary, source, axis=axis)
    return whole, node.op.mul(other, sign.astype(_type(real).dtype.numpy))


def _first(
    node: Emitter, x: tuple[GraphExpr, GraphExpr], count: int
) -> tuple[GraphExpr, GraphExpr]:
    def cut(part: GraphExpr) -> GraphExpr:
        axis = _type(part).ndim - 1
        if plain_dims(_type(part).shape)[axis] == count:
            return part
        return node.op.slice(part, starts=(0,), ends=(count,), axes=(axis,))  # type: ignore[no-any-return]

    return cut(x[0]), cut(x[1])


def _swapped(node: Emitter, x: GraphExpr | None) -> GraphExpr | None:
    if x is None:
        return None
    rank = _type(x).ndim
    order = (*range(rank - 2), rank - 1, rank - 2)
    return node.op.transpose(x, permutation=order)  # type: ignore[no-any-return]


def _reshaped(node: Emitter, x: GraphExpr | None, dims: tuple[Any, ...]) -> GraphExpr | None:
    return None if x is None else node.op.reshape(x, shape=dims)


def _type(x: GraphExpr) -> TensorType:
    assert isinstance(x.type, TensorType)
    return x.type


__all__ = ["LIMIT", "Emitter", "Parts", "inverse_real", "largest_factor", "transform"]
