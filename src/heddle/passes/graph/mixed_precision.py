# SPDX-License-Identifier: Apache-2.0
"""Products in bfloat16, everything else in float32: only when the user asks for it.

    y = conv(x, w, b)                  xb = cast(x, bfloat16)
    z = relu(y)                        p = conv(xb, <w in bfloat16>, out_dtype=float32)
                               ->      z = relu(p + b)

The operands of matrix products and of two-dimensional convolutions are rounded to bfloat16 and
their products added up in float32. A value that a product reads is rounded where it is made, and
whatever else reads it reads the rounded one: between kernels there is one form of it, of half the
size. Depthwise and transposed convolutions, those of small groups, norms, softmax, reductions,
activations and sums are computed in float32.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from heddle import op
from heddle.graph.nodes import Call, Constant, Function, GraphExpr, Var
from heddle.ir.dtype import DType
from heddle.ir.expr import as_int
from heddle.ir.module import IRModule
from heddle.passes.graph.anf import Rewriter, dims_attribute, map_functions, op_name, shape_of
from heddle.passes.graph.anf import tensor_type as type_of

_HALF: Final = DType.of("bfloat16")
_GROUP: Final = 16
"""The inputs and the outputs of a group of a convolution must be a multiple of this."""


def mixed_precision(module: IRModule) -> IRModule:
    """Round the operands of products to bfloat16."""
    return map_functions(module, _rewrite)


def _rewrite(function: Function) -> Function:
    products = {b.var for b in function.bindings if _is_product(b.value)}
    if not products:
        return function
    operands = {
        item
        for binding in function.bindings
        if binding.var in products
        for item in binding.value.args[:2]  # type: ignore[attr-defined]
        if isinstance(item, Var)
    }
    work = _Rounding(function, operands)
    for param in function.params:
        work.round_if_operand(param, param)
    for binding in function.bindings:
        if binding.var in products:
            value = work.rewriter.resolve(binding.value)
            new = work.rewriter.emit(work.product(value), like=binding.var)
            work.rewriter.alias_new(binding.var, new)
        else:
            new = work.rewriter.copy_binding(binding)
        work.round_if_operand(binding.var, new)
    return work.rewriter.finish()


def _is_product(value: GraphExpr) -> bool:
    if not isinstance(value, Call) or op_name(value) not in ("conv", "matmul"):
        return False
    if "absent" in value.attrs or value.attrs.get("out_dtype") is not None:
        return False
    kinds = [type_of(item) for item in value.args[:2]]
    if any(kind is None or kind.dtype.name != "float32" for kind in kinds):
        return False
    if op_name(value) == "matmul":
        return all(kind is not None and kind.ndim >= 2 for kind in kinds)
    groups: Any = value.attrs["groups"]
    outputs, inputs = (as_int(dim) for dim in shape_of(value.args[1])[:2])
    if len(shape_of(value)) != 4 or outputs is None or inputs is None:
        return False
    whole = inputs % _GROUP == 0 and outputs // groups % _GROUP == 0
    return isinstance(value.args[1], Constant) and (groups == 1 or whole)


class _Rounding:
    """The rounded form of each value that a product reads."""

    def __init__(self, function: Function, operands: set[Var]) -> None:
        self.rewriter = Rewriter(function)
        self.operands = operands
        self.rounded: dict[GraphExpr, GraphExpr] = {}

    def round_if_operand(self, var: Var, value: GraphExpr) -> None:
        """Let what follows read `value`, the new form of `var`, rounded, if a product does."""
        if var not in self.operands:
            return
        half = self.rewriter.emit(op.cast(value, dtype=_HALF), name=var.name)
        wide = self.rewriter.emit(op.cast(half, dtype="float32"), name=var.name)
        self.rewriter.alias(var, wide)
        self.rounded[wide] = half

    def operand(self, value: GraphExpr) -> GraphExpr:
        """An operand of a product in bfloat16."""
        if isinstance(value, Constant):
            return Constant(np.ascontiguousarray(value.data.astype(_HALF.numpy)))
        return self.rounded[value]

    def product(self, call: Call) -> GraphExpr:
        """The product of rounded operands, and the bias of a convolution added in float32."""
        left, right = (self.operand(item) for item in call.args[:2])
        result = call.callee(left, right, **{**call.attrs, "out_dtype": "float32"})
        if len(call.args) < 3:
            return result  # type: ignore[no-any-return]
        (size,) = dims_attribute(shape_of(call.args[2]))
        shape = (1, size, *(1,) * (len(shape_of(call)) - 2))
        bias = call.args[2]
        if isinstance(bias, Constant):
            spread: GraphExpr = Constant(bias.data.reshape(tuple(int(n) for n in shape)))  # type: ignore[call-overload]
        else:
            spread = self.rewriter.emit(op.reshape(bias, shape=shape))
        return op.add(self.rewriter.emit(result, name="products"), spread)
