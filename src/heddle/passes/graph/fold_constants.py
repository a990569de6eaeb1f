# SPDX-License-Identifier: Apache-2.0
"""Evaluate calls whose arguments are all constants.

    w1 = transpose(w, axes=(1, 0))           # w is a constant
    y = matmul(x, w1)                ->      y = matmul(x, <constant>)

The operators' "numpy" rules compute the values, in the dtype of the operator. A result that is much
larger than what it is made of (a broadcast, a range) is left to run time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from heddle.graph.nodes import Call, Constant, Function, GraphExpr, Tuple, TupleGetItem
from heddle.ir.expr import Expr, as_int
from heddle.ir.module import IRModule
from heddle.ir.types import TensorType, TupleType
from heddle.passes.graph.anf import Rewriter, map_functions, op_name

REARRANGING: Final = frozenset(
    {
        "reshape",
        "transpose",
        "layout_transform",
        "pack_panels",
        "pad",
        "cast",
        "concat",
        "dequantize",
        "pack_dot",
    }
)
"""Operators that may be folded at any size: they move data, and grow it by padding at most."""


@dataclass(frozen=True, slots=True)
class FoldConstants:
    """The pass. A result of more than `max_bytes` bytes is made only if it is no more than twice
    the size of the arguments. Operators of `kept` are left alone."""

    max_bytes: int = 1 << 16
    kept: frozenset[str] = frozenset()

    def __call__(self, module: IRModule) -> IRModule:
        """Evaluate calls whose arguments are all constants."""
        return map_functions(module, self.rewrite)

    def rewrite(self, function: Function) -> Function:
        """Fold in one function."""
        rewriter = Rewriter(function)
        for binding in function.bindings:
            folded = self.fold(rewriter.resolve(binding.value))
            if folded is None:
                rewriter.copy_binding(binding)
            else:
                rewriter.alias(binding.var, folded)
        return rewriter.finish()

    def fold(self, value: GraphExpr) -> GraphExpr | None:
        """The constant (or tuple of constants) that `value` is, if it may be evaluated now."""
        if isinstance(value, TupleGetItem) and isinstance(value.value, Tuple):
            return value.value.fields[value.index]
        if not isinstance(value, Call) or not op_name(value) or not self._may_fold(value):
            return None
        arrays = [item.data for item in value.args if isinstance(item, Constant)]
        result = value.callee.evaluate(arrays, value.attrs)
        if isinstance(result, tuple):
            return Tuple(tuple(Constant(item) for item in result))
        return Constant(result)

    def _may_fold(self, call: Call) -> bool:
        if not all(isinstance(item, Constant) for item in call.args):
            return False
        if not call.callee.has_rule("numpy") or op_name(call) in self.kept:
            return False
        if any(map(_is_symbolic, call.attrs.values())):
            return False
        types = call.type.fields if isinstance(call.type, TupleType) else (call.type,)
        total = 0
        for item in types:
            if not isinstance(item, TensorType) or item.static_shape is None:
                return False
            total += int(np.prod(item.static_shape, dtype=np.int64)) * item.dtype.nbytes
        given = sum(item.data.nbytes for item in call.args if isinstance(item, Constant))
        return total <= self.max_bytes or total <= 2 * given or op_name(call) in REARRANGING


def _is_symbolic(attribute: object) -> bool:
    """Whether an attribute depends on the size of an input."""
    if isinstance(attribute, tuple):
        return any(map(_is_symbolic, attribute))
    return isinstance(attribute, Expr) and as_int(attribute) is None


QUANTISED: Final = frozenset({"dequantize"})
"""What stays in sight until quantised weights have met their integer operators."""

fold_constants: Final = FoldConstants(kept=QUANTISED)
