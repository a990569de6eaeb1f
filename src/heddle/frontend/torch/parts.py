# SPDX-License-Identifier: Apache-2.0
"""`Complex`: a tensor of complex numbers as two tensors of real ones, and arithmetic with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from heddle.frontend.torch.report import Unsupported
from heddle.frontend.torch.tensors import COMPONENTS
from heddle.graph import GraphExpr
from heddle.ir import DType, TensorType
from heddle.op.common import plain_dims

if TYPE_CHECKING:
    from heddle.frontend.torch.node import Node

Real = GraphExpr | None
"""A part; None is zero everywhere."""


@dataclass(frozen=True, slots=True)
class Complex:
    """real + i imaginary, of one shape and dtype; without an imaginary part that is zero."""

    real: GraphExpr
    imaginary: Real

    @property
    def parts(self) -> tuple[GraphExpr, Real]:
        return self.real, self.imaginary


def has_complex(tree: Any) -> bool:
    """Whether a complex value is among arguments."""
    if isinstance(tree, (tuple, list)):
        return any(has_complex(item) for item in tree)
    if isinstance(tree, dict):
        return any(has_complex(item) for item in tree.values())
    return isinstance(tree, (Complex, complex))


def gives_complex(result: Any) -> bool:
    """Whether torch says that a result is complex."""
    if isinstance(result, (tuple, list)):
        return any(gives_complex(item) for item in result)
    return isinstance(result, torch.Tensor) and result.is_complex()


def component(kind: torch.dtype) -> DType:
    """The dtype of the parts of a complex one; of another, that itself."""
    if kind not in COMPONENTS:
        raise Unsupported(f"dtype {str(kind).removeprefix('torch.')}")
    return COMPONENTS[kind]


def as_complex(node: Node, value: Any, to: DType) -> Complex:
    """A tensor or number as a complex one whose parts are of dtype `to`."""
    if isinstance(value, Complex):
        imaginary = None if value.imaginary is None else node.cast(value.imaginary, to)
        return Complex(node.cast(value.real, to), imaginary)
    if isinstance(value, complex):
        other = node.tensor(value.imag, to) if value.imag else None
        return Complex(node.tensor(value.real, to), other)
    return Complex(node.tensor(value, to), None)


def imaginary_of(node: Node, x: Complex) -> GraphExpr:
    """The imaginary part, spelled out."""
    if x.imaginary is not None:
        return x.imaginary
    return node.full(plain_dims(_type(x.real).shape), 0, _type(x.real).dtype)


def _type(x: GraphExpr) -> TensorType:
    assert isinstance(x.type, TensorType)
    return x.type


def added(node: Node, a: Real, b: Real) -> Real:
    if a is None or b is None:
        return b if a is None else a
    return node.op.add(a, b)  # type: ignore[no-any-return]


def subtracted(node: Node, a: Real, b: Real) -> Real:
    if b is None:
        return a
    return node.op.negative(b) if a is None else node.op.sub(a, b)  # type: ignore[no-any-return]


def product(node: Node, a: Complex, b: Complex, multiply: Any = None) -> Complex:
    """a times b: of elements, or what `multiply` makes of two real tensors."""
    one = multiply or node.op.mul

    def times(x: Real, y: Real) -> Real:
        return None if x is None or y is None else one(x, y)

    real = subtracted(node, times(a.real, b.real), times(a.imaginary, b.imaginary))
    assert real is not None
    return Complex(real, added(node, times(a.real, b.imaginary), times(a.imaginary, b.real)))


def conjugate(node: Node, x: Complex) -> Complex:
    return Complex(x.real, None if x.imaginary is None else node.op.negative(x.imaginary))


def magnitude(node: Node, x: Complex) -> GraphExpr:
    """|x| without overflow of squares: m sqrt((a / m)^2 + (b / m)^2), m the larger of |a|, |b|."""
    a = node.op.abs(x.real)
    if x.imaginary is None:
        return a  # type: ignore[no-any-return]
    b = node.op.abs(x.imaginary)
    most = node.op.maximum(a, b)
    plain = node.op.logical_or(node.op.equal(most, 0.0), node.op.isinf(most))
    unit = node.op.where(plain, node.scalar(1.0, most), most)
    u, v = node.op.div(a, unit), node.op.div(b, unit)
    size = node.op.mul(unit, node.op.sqrt(node.op.add(node.op.mul(u, u), node.op.mul(v, v))))
    return node.op.where(node.op.isinf(most), most, size)  # type: ignore[no-any-return]


def quotient(node: Node, a: Complex, b: Complex) -> Complex:
    """a / b = a conj(b) / |b|^2, with b scaled by the larger of its parts."""
    if b.imaginary is None:
        other = None if a.imaginary is None else node.op.div(a.imaginary, b.real)
        return Complex(node.op.div(a.real, b.real), other)
    most = node.op.maximum(node.op.abs(b.real), node.op.abs(b.imaginary))
    c, d = node.op.div(b.real, most), node.op.div(b.imaginary, most)
    square = node.op.mul(node.op.add(node.op.mul(c, c), node.op.mul(d, d)), most)
    above = product(node, a, Complex(c, node.op.negative(d)))
    assert above.imaginary is not None
    return Complex(node.op.div(above.real, square), node.op.div(above.imaginary, square))


def stacked(node: Node, x: Complex) -> GraphExpr:
    """As real numbers with a last axis of two, as `torch.view_as_real` has them."""
    axis = _type(x.real).ndim
    pair = [node.op.unsqueeze(part, axes=(axis,)) for part in (x.real, imaginary_of(node, x))]
    return node.op.concat(*pair, axis=axis)  # type: ignore[no-any-return]


def unstacked(node: Node, x: GraphExpr) -> Complex:
    """The inverse of `stacked`."""
    axis = _type(x).ndim - 1
    halves = [node.op.slice(x, starts=(at,), ends=(at + 1,), axes=(axis,)) for at in range(2)]
    real, imaginary = (node.op.squeeze(half, axes=(axis,)) for half in halves)
    return Complex(real, imaginary)
