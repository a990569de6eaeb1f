# SPDX-License-Identifier: Apache-2.0
"""Calls in destination-passing style: which argument is for which parameter of a loop function.

    f: PrimFunc(A, alpha, B)          y = call_dps(f, (x, 0.5), out=type)

The outputs are the last buffers among the parameters; the arguments are for the others, in order. A
scalar parameter takes a `Scalar`, a constant or a value of the graph without dimensions.
"""

from __future__ import annotations

from typing import TypeAlias

from heddle.graph.nodes import CallDPS, Constant, GraphExpr, Scalar
from heddle.ir import TensorType, TupleType, Type
from heddle.ir.expr import Expr, Var, const
from heddle.tir.build import buffer_params, row_major_strides
from heddle.tir.nodes import Buffer, PrimFunc

Given: TypeAlias = "GraphExpr | Type"


def output_types(call: CallDPS) -> tuple[Type, ...]:
    """The types of the outputs of a call."""
    return call.type.fields if isinstance(call.type, TupleType) else (call.type,)


def arguments_of(call: CallDPS, func: PrimFunc) -> list[tuple[Buffer | Var, Given]] | None:
    """Each parameter of `func` with the argument of `call` for it, or with the type of the output;
    None when there are too many or too few."""
    outputs, buffers = output_types(call), buffer_params(func)
    written = buffers[len(buffers) - len(outputs) :]
    others = [param for param in func.params if param not in written]
    if len(buffers) < len(outputs) or len(others) != len(call.args):
        return None
    given: dict[object, Given] = dict(zip(others, call.args, strict=True))
    given.update(zip(written, outputs, strict=True))
    return [(param, given[param]) for param in func.params]  # type: ignore[misc]


def scalar_of(value: Given) -> Expr | None:
    """The number that a `Scalar` or a constant without dimensions is; None for other arguments."""
    if isinstance(value, Scalar):
        return value.value
    if isinstance(value, Constant) and value.data.ndim == 0:
        return const(value.data.item(), value.type.dtype)  # type: ignore[attr-defined]
    return None


def dense_layout(buffer: Buffer, type_: TensorType) -> tuple[Expr, ...]:
    """What the expressions of `buffer.layout` are for a dense tensor: values of the graph have
    neither gaps nor offsets."""
    strides = () if buffer.strides is None else row_major_strides(type_.shape)
    offset = () if buffer.elem_offset is None else (const(0),)
    return (*type_.shape, *strides, *offset)
