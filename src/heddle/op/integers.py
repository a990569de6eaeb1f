# SPDX-License-Identifier: Apache-2.0
"""Operators of whole numbers and of bits."""

from __future__ import annotations

from typing import Final

import numpy as np

from heddle import te
from heddle.ir import DType, TensorType
from heddle.ir.expr import NE, Expr, as_int, compare, const, select
from heddle.op.common import broadcast_shapes, require_same_dtype
from heddle.op.registry import operator
from heddle.op.sample import case, floats, ints, values
from heddle.support import UserError
from heddle.tir import intrin
from heddle.tir.build import decl_buffer, load, seq, store
from heddle.tir.nodes import Allocate, Buffer, Stmt, While

_WHOLE: Final = "whole numbers do not change smoothly"


@operator("gcd", kind="opaque", dtypes="int")
def gcd(a: TensorType, b: TensorType) -> TensorType:
    """The greatest common divisor, not negative; of 0 and b it is the absolute value of b."""
    require_same_dtype(a, b)
    return TensorType(broadcast_shapes(a.shape, b.shape), a.dtype)


def _size(x: Expr) -> Expr:
    return select(x < const(0, x.dtype), -x, x) if x.dtype.is_signed else x


@gcd.rule("compute")
def _(a: te.Tensor, b: te.Tensor) -> te.Tensor:
    """Euclid's algorithm for each element."""
    shape = broadcast_shapes(a.shape, b.shape)
    first, zero = const(0), const(0, a.dtype)

    def body(ins: list[Buffer], outs: list[Buffer], *row: Expr) -> Stmt:
        x, y = (decl_buffer((1,), a.dtype, name, scope="local") for name in ("x", "y"))
        rest = decl_buffer((1,), a.dtype, "rest", scope="local")
        starts = (
            store(x, _size(_at(ins[0], row)), first),
            store(y, _size(_at(ins[1], row)), first),
        )
        step = seq(
            store(rest, load(y, first) % load(x, first), first),
            store(y, load(x, first), first),
            store(x, load(rest, first), first),
        )
        loop = While(compare(NE, load(x, first), zero), step)
        done = store(outs[0], load(y, first), row)
        return Allocate(x, Allocate(y, Allocate(rest, seq(*starts, loop, done))))

    result: te.Tensor = te.extern(shape, [a, b], body, a.dtype, name="gcd", rows=shape)
    return result


def _at(buffer: Buffer, row: tuple[Expr, ...]) -> Expr:
    """The element that broadcasting brings to the indices `row`."""
    own = row[len(row) - len(buffer.shape) :]
    pairs = zip(buffer.shape, own, strict=True)
    return load(buffer, tuple(const(0) if as_int(dim) == 1 else index for dim, index in pairs))


@gcd.rule("numpy")
def _(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.gcd(a, b)  # type: ignore[no-any-return]


gcd.not_differentiable(_WHOLE)
gcd.samples(
    case(ints(4, 5, low=-60, high=60), ints(4, 5, low=-60, high=60)),
    case(ints(3, 1, low=0, high=250, dtype="uint8"), ints(4, low=0, high=250, dtype="uint8")),
    case(values([0, 0, -12, 7], "int32"), values([0, -5, 0, -7], "int32")),
    case(values(6, "int16"), values(-4, "int16")),
)


# -- bits ------------------------------------------------------------------------------------


@operator("bitcast", kind="elementwise", dtypes="number")
def bitcast(x: TensorType, *, dtype: DType, source: DType | None = None) -> TensorType:
    """The bits of each element read as another dtype, which is as wide. `source` is the dtype of x,
    filled in."""
    if dtype.bits != x.dtype.bits or dtype.is_bool:
        raise UserError(f"attribute `dtype` is {dtype}, expected {x.dtype.bits} bits as {x.dtype}")
    return TensorType(x.shape, dtype)


@bitcast.rule("normalise")
def _(x: TensorType, *, dtype: DType, source: DType | None) -> dict[str, DType]:
    return {"source": x.dtype if source is None else source}


@bitcast.rule("compute")
def _(x: te.Tensor, *, dtype: DType, source: DType | None) -> te.Tensor:
    return te.compute(x.shape, lambda *i: intrin.reinterpret(x[i], dtype), name="bitcast")


@bitcast.rule("numpy")
def _(x: np.ndarray, *, dtype: DType, source: DType) -> np.ndarray:
    narrow = np.ascontiguousarray(x, dtype=source.numpy).reshape(x.shape)
    return narrow.view(dtype.numpy)


bitcast.not_differentiable("bits do not change smoothly")
bitcast.samples(
    case(ints(5, low=0, high=2**30, dtype="int32"), dtype="float32"),
    case(floats(3, 4), dtype="int32"),
    case(floats(4, dtype="float16"), dtype="uint16"),
    case(values([1.5, -3.0, 1e30], "bfloat16"), dtype="int16"),
    case(values([0, 0x3C00, 0xC000], "uint16"), dtype="float16"),
    case(floats(dtype="float64"), dtype="uint64"),
    case(ints(3, low=-9, high=9, dtype="int8"), dtype="uint8"),
)
