# SPDX-License-Identifier: Apache-2.0
"""Complex numbers: pairs of real and imaginary parts (`Complex`)."""

from __future__ import annotations

from typing import Any, Final

import torch

from heddle.frontend.torch.node import Node, dtype, rank
from heddle.frontend.torch.ops.pointwise import angle_of
from heddle.frontend.torch.parts import (
    Complex,
    added,
    as_complex,
    component,
    conjugate,
    imaginary_of,
    magnitude,
    product,
    quotient,
    stacked,
    subtracted,
    unstacked,
)
from heddle.frontend.torch.registry import converts_complex, find_converter
from heddle.frontend.torch.report import Unsupported
from heddle.graph import GraphExpr
from heddle.ir import DType


def _kind(node: Node) -> DType:
    """The dtype of the parts of the (first) result; of operands where that is no complex one."""
    first = node.result[0] if isinstance(node.result, (tuple, list)) else node.result
    if first.is_complex():
        return component(first.dtype)
    given = [x for x in node.operands[:2] if not isinstance(x, (torch.SymInt, torch.SymFloat))]
    return component(torch.result_type(given[0], given[-1]))


def _values(node: Node, *values: Any) -> list[Complex]:
    return [as_complex(node, value, _kind(node)) for value in values]


# -- what is done to each part by itself -------------------------------------------------------

_LINEAR: Final = (
    *("alias.default", "clone.default", "contiguous.default", "detach.default"),
    *("lift_fresh_copy.default", "neg.default", "view.default", "_unsafe_view.default"),
    *("reshape.default", "flatten.using_ints", "unflatten.int", "view_copy.default"),
    *("squeeze.default", "squeeze.dim", "squeeze.dims", "unsqueeze.default", "permute.default"),
    *("transpose.int", "t.default", "expand.default", "broadcast_to.default", "repeat.default"),
    *("repeat_interleave.self_int", "cat.default", "stack.default", "split.Tensor"),
    *("split_with_sizes.default", "slice.Tensor", "select.int", "narrow.default", "flip.default"),
    *("roll.default", "unfold.default", "as_strided.default"),
    *("diagonal.default", "diag_embed.default", "tril.default", "triu.default", "unbind.int"),
    *("index.Tensor", "_unsafe_index.Tensor", "index_select.default", "gather.default"),
    *("index_put.default", "_unsafe_index_put.default", "slice_scatter.default"),
    *("select_scatter.default", "as_strided_scatter.default", "diagonal_scatter.default"),
    *("scatter.src", "scatter_add.default", "sum.dim_IntList", "sum.default", "mean.dim"),
    *("mean.default", "cumsum.default", "where.self", "copy.default", "movedim.int"),
)


def _declare_linear(name: str) -> None:
    @converts_complex(f"aten.{name}")
    def _(node: Node, *args: Any, **kwargs: Any) -> Any:
        rule = find_converter(node.target)
        if rule is None:
            raise Unsupported("Heddle has no rule for this operator")
        real, imaginary = (
            rule(node.part(), *_taken(node, args, at), **_taken(node, kwargs, at))
            for at in range(2)
        )
        if isinstance(real, (tuple, list)):
            return tuple(Complex(a, b) for a, b in zip(real, imaginary, strict=True))
        return Complex(real, imaginary)


def _taken(node: Node, tree: Any, at: int) -> Any:
    """Arguments with one part in place of complex values. Beside these, real floats are complex as
    well; integers and truth values are indices and masks."""
    if isinstance(tree, dict):
        return {key: _taken(node, value, at) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return [_taken(node, item, at) for item in tree]
    if isinstance(tree, complex):
        return (tree.real, tree.imag)[at]
    if isinstance(tree, Complex):
        return imaginary_of(node, tree) if at else tree.real
    if at and isinstance(tree, GraphExpr) and dtype(tree).is_float:
        return imaginary_of(node, Complex(tree, None))
    return tree


for _name in _LINEAR:
    _declare_linear(_name)


# -- making and taking apart -------------------------------------------------------------------


@converts_complex("aten.complex.default")
def _complex(node: Node, real: GraphExpr, imaginary: GraphExpr) -> Any:
    return Complex(real, imaginary)


@converts_complex("aten.polar.default")
def _polar(node: Node, size: GraphExpr, angle: GraphExpr) -> Any:
    return Complex(node.op.mul(size, node.op.cos(angle)), node.op.mul(size, node.op.sin(angle)))


@converts_complex("aten.view_as_complex.default")
def _view_as_complex(node: Node, x: GraphExpr) -> Any:
    return unstacked(node, x)


@converts_complex("aten.view_as_real.default")
def _view_as_real(node: Node, x: Complex) -> Any:
    return stacked(node, x)


@converts_complex("aten.real.default")
def _real(node: Node, x: Complex) -> Any:
    return x.real


@converts_complex("aten.imag.default")
def _imag(node: Node, x: Complex) -> Any:
    return imaginary_of(node, x)


@converts_complex(
    "aten._conj.default",
    "aten.conj.default",
    "aten._conj_physical.default",
    "aten.conj_physical.default",
    "aten._conj_copy.default",
)
def _conj(node: Node, x: Complex) -> Any:
    return conjugate(node, x)


@converts_complex("aten.resolve_conj.default", "aten.resolve_neg.default")
def _resolved(node: Node, x: Complex) -> Any:
    return x


@converts_complex("aten._to_copy.default", "prims.convert_element_type.default", "aten.to.dtype")
def _convert(node: Node, x: Any, *_args: Any, **_kwargs: Any) -> Any:
    if node.result.is_complex():
        return as_complex(node, x, _kind(node))
    if node.dtype.is_bool:
        return _nonzero(node, x)
    return x.real


@converts_complex(
    *(f"aten.{name}.default" for name in ("full", "full_like", "new_full", "scalar_tensor")),
)
def _full(node: Node, *args: Any, **_kwargs: Any) -> Any:
    numbers = {"aten.scalar_tensor.default": 0, "aten.new_full.default": 2}
    if not node.result.is_complex():  # like a complex tensor in shape only
        return node.expand(node.tensor(args[numbers.get(node.target, 1)], node.dtype), node.shape)
    return as_complex(node, args[numbers.get(node.target, 1)], _kind(node))


@converts_complex("aten.constant_pad_nd.default")
def _pad(node: Node, x: Complex, pad: Any, value: Any = 0.0) -> Any:
    """What is put around is a number: its parts go to the parts."""
    rule = find_converter(node.target)
    assert rule is not None
    number = complex(value)
    imaginary = imaginary_of(node, x)
    return Complex(
        rule(node.part(), x.real, pad, number.real), rule(node.part(), imaginary, pad, number.imag)
    )


@converts_complex(
    "aten.zeros.default",
    "aten.zeros_like.default",
    "aten.new_zeros.default",
    "aten.ones.default",
    "aten.ones_like.default",
    "aten.new_ones.default",
    "aten.empty.memory_format",
    "aten.empty_like.default",
    "aten.new_empty.default",
)
def _filled(node: Node, *_args: Any, **_kwargs: Any) -> Any:
    value = 1.0 if "ones" in node.target else 0.0
    if not node.result.is_complex():  # like a complex tensor in shape only
        return node.full(node.shape, value, node.dtype)
    return as_complex(node, value, _kind(node))


# -- arithmetic --------------------------------------------------------------------------------


def _scaled(node: Node, x: Complex, alpha: Any) -> Complex:
    return x if alpha == 1 else product(node, x, as_complex(node, alpha, _kind(node)))


@converts_complex("aten.add.Tensor", "aten.add.Scalar")
def _add(node: Node, a: Any, b: Any, alpha: Any = 1) -> Any:
    x, y = _values(node, a, b)
    y = _scaled(node, y, alpha)
    return Complex(node.op.add(x.real, y.real), added(node, x.imaginary, y.imaginary))


@converts_complex("aten.sub.Tensor", "aten.sub.Scalar")
def _sub(node: Node, a: Any, b: Any, alpha: Any = 1) -> Any:
    x, y = _values(node, a, b)
    y = _scaled(node, y, alpha)
    return Complex(node.op.sub(x.real, y.real), subtracted(node, x.imaginary, y.imaginary))


@converts_complex("aten.rsub.Tensor", "aten.rsub.Scalar")
def _rsub(node: Node, a: Any, b: Any, alpha: Any = 1) -> Any:
    return _sub(node, b, a, alpha)


@converts_complex("aten.mul.Tensor", "aten.mul.Scalar", "aten.square.default")
def _mul(node: Node, a: Any, b: Any = None) -> Any:
    return product(node, *_values(node, a, a if b is None else b))


@converts_complex("aten.div.Tensor", "aten.div.Scalar", "aten.true_divide.Tensor")
def _div(node: Node, a: Any, b: Any) -> Any:
    return quotient(node, *_values(node, a, b))


@converts_complex("aten.reciprocal.default")
def _reciprocal(node: Node, x: Complex) -> Any:
    return quotient(node, *_values(node, 1.0, x))


@converts_complex(
    "aten.mm.default",
    "aten.bmm.default",
    "aten.matmul.default",
    "aten.mv.default",
    "aten.dot.default",
)
def _matmul(node: Node, a: Any, b: Any) -> Any:
    return product(node, *_values(node, a, b), multiply=node.op.matmul)


@converts_complex("aten.vdot.default")
def _vdot(node: Node, a: Any, b: Any) -> Any:
    x, y = _values(node, a, b)
    return product(node, conjugate(node, x), y, multiply=node.op.matmul)


@converts_complex("aten.addmm.default", "aten.baddbmm.default", "aten.addmv.default")
def _addmm(node: Node, c: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    found = _scaled(node, _matmul(node, a, b), alpha)
    if beta == 0:
        return found
    rest = _scaled(node, as_complex(node, c, _kind(node)), beta)
    return Complex(node.op.add(rest.real, found.real), added(node, rest.imaginary, found.imaginary))


@converts_complex("aten.linear.default")
def _linear(node: Node, x: Any, weight: Any, bias: Any = None) -> Any:
    def times(a: GraphExpr, b: GraphExpr) -> Any:
        return node.op.matmul(a, b, transpose_b=True) if rank(b) > 1 else node.op.matmul(a, b)

    found = product(node, *_values(node, x, weight), multiply=times)
    if bias is None:
        return found
    add = as_complex(node, bias, _kind(node))
    return Complex(node.op.add(found.real, add.real), added(node, found.imaginary, add.imaginary))


# -- size and direction ------------------------------------------------------------------------


@converts_complex("aten.abs.default")
def _abs(node: Node, x: Complex) -> Any:
    return magnitude(node, x)


@converts_complex("aten.angle.default")
def _angle(node: Node, x: Complex) -> Any:
    return angle_of(node, imaginary_of(node, x), x.real)


@converts_complex("aten.sgn.default")
def _sgn(node: Node, x: Complex) -> Any:
    size = magnitude(node, x)
    unit = node.op.where(node.op.equal(size, 0.0), node.scalar(1.0, size), size)
    return quotient(node, x, Complex(unit, None))


def _same(node: Node, a: Any, b: Any) -> GraphExpr:
    x, y = _values(node, a, b)
    real = node.op.equal(x.real, y.real)
    other = node.op.equal(imaginary_of(node, x), imaginary_of(node, y))
    return node.op.logical_and(real, other)  # type: ignore[no-any-return]


@converts_complex("aten.eq.Tensor", "aten.eq.Scalar")
def _eq(node: Node, a: Any, b: Any) -> Any:
    return _same(node, a, b)


@converts_complex("aten.ne.Tensor", "aten.ne.Scalar")
def _ne(node: Node, a: Any, b: Any) -> Any:
    return node.op.logical_not(_same(node, a, b))


def _nonzero(node: Node, x: Complex) -> GraphExpr:
    found = [node.cast(part, "bool") for part in (x.real, imaginary_of(node, x))]
    return node.op.logical_or(*found)  # type: ignore[no-any-return]


@converts_complex("aten.isnan.default", "aten.isinf.default")
def _is_special(node: Node, x: Complex) -> Any:
    name = "isnan" if "isnan" in node.target else "isinf"
    return node.op.logical_or(*(node.call(name, p) for p in (x.real, imaginary_of(node, x))))


# -- functions ---------------------------------------------------------------------------------


@converts_complex("aten.exp.default")
def _exp(node: Node, x: Complex) -> Any:
    return _polar(node, node.op.exp(x.real), imaginary_of(node, x))


@converts_complex("aten.log.default")
def _log(node: Node, x: Complex) -> Any:
    return Complex(node.op.log(magnitude(node, x)), _angle(node, x))


@converts_complex("aten.sin.default", "aten.cos.default")
def _sin_cos(node: Node, x: Complex) -> Any:
    """sin(a + ib) = sin a cosh b + i cos a sinh b, and cos = cos a cosh b - i sin a sinh b."""
    a, b = x.real, imaginary_of(node, x)
    real, other = node.op.sin(a), node.op.cos(a)
    if ".cos." in node.target:
        real, other = other, node.op.negative(real)
    return Complex(node.op.mul(real, node.op.cosh(b)), node.op.mul(other, node.op.sinh(b)))


@converts_complex("aten.pow.Tensor_Scalar")
def _pow(node: Node, x: Complex, exponent: Any) -> Any:
    """Whole exponents by multiplication, others by the logarithm."""
    if isinstance(exponent, (int, float)) and 1 <= exponent <= 8 and exponent == int(exponent):
        found = x
        for _ in range(int(exponent) - 1):
            found = product(node, found, x)
        return found
    raise Unsupported(f"a complex number to the power of {exponent}")
