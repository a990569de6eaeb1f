# SPDX-License-Identifier: Apache-2.0
"""Shape arithmetic on symbolic dimensions, done at import: what reads `Shape` and feeds `Reshape`.

Values are object arrays whose items are integers and integer expressions, so that numpy moves them
about and the operators of `Expr` do the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from heddle.frontend.onnx.tensors import dtype_of
from heddle.frontend.onnx.values import Symbolic, Value, fold, same_dim_value, symbolic_array
from heddle.graph import Constant
from heddle.ir import DType
from heddle.ir.expr import Expr, as_int, maximum, minimum, truncdiv
from heddle.support import UserError

if TYPE_CHECKING:
    from heddle.frontend.onnx.node import Node

Arrays = list[np.ndarray]
_RULES: Final[dict[str, Callable[[Node, Arrays], Any]]] = {}


def _rule(*names: str) -> Callable[[Callable[[Any, Arrays], Any]], Any]:
    def declare(function: Callable[[Any, Arrays], Any]) -> Any:
        for name in names:
            _RULES[name] = function
        return function

    return declare


def evaluate_symbolic(node: Node) -> Value:
    """The value of a node that computes with symbolic dimensions, or None when it does not (or
    does something that only data can do)."""
    rule = _RULES.get(node.op_type)
    if rule is None or node.proto.domain not in ("", "ai.onnx"):
        return None
    if not any(isinstance(value, Symbolic) for value in node.inputs):
        return None
    arrays = [symbolic_array(value) for value in node.inputs]
    if any(array is None for array in arrays):
        return None
    try:
        result = rule(node, [array for array in arrays if array is not None])
    except (IndexError, ValueError, TypeError) as error:
        raise UserError(f"shape arithmetic in `{node.op_type}`: {error}") from None
    if result is None:
        return None
    data, dtype = result if isinstance(result, tuple) else (result, _dtype(node))
    boxed = np.empty(np.shape(data), dtype=object)
    boxed[...] = data
    return fold(boxed, dtype)


def _dtype(node: Node) -> DType:
    for value in node.inputs:
        if isinstance(value, Symbolic):
            return value.dtype
    return DType.of("int64")


def _int(item: Any) -> int:
    known = as_int(item) if isinstance(item, Expr) else int(item)
    if known is None:
        raise ValueError("an index is symbolic")
    return known


def _ints(array: np.ndarray) -> list[int]:
    return [_int(item) for item in array.ravel()]


def _lift(function: Callable[[Any, Any], Any]) -> Callable[[Any, Arrays], Any]:
    def apply(node: Any, arrays: Arrays) -> Any:
        result = arrays[0]
        for array in arrays[1:]:
            result = np.frompyfunc(function, 2, 1)(result, array)
        return result

    return apply


def _divide(a: Any, b: Any) -> Any:
    if _known(b) == 0:
        raise ValueError("division by zero")
    if same_dim_value(a, b):
        return 1
    if isinstance(a, Expr) or isinstance(b, Expr):
        positive = (_known(b) or 1) > 0
        return a // b if positive and isinstance(a, Expr) else truncdiv(a, b)
    return int(a / b) if abs(a) < 2**52 else -(-a // b) if (a < 0) != (b < 0) else a // b


def _known(item: Any) -> int | None:
    return as_int(item) if isinstance(item, (Expr, int)) else None


_RULES["Add"] = _lift(lambda a, b: a + b)
_RULES["Sub"] = _lift(lambda a, b: a - b)
_RULES["Mul"] = _lift(lambda a, b: a * b)
_RULES["Div"] = _lift(_divide)
_RULES["Max"] = _lift(maximum)
_RULES["Min"] = _lift(minimum)
_RULES["Mod"] = _lift(lambda a, b: a % b)


@_rule("Neg")
def _negate(node: Node, arrays: Arrays) -> Any:
    return np.frompyfunc(lambda a: 0 - a, 1, 1)(arrays[0])


@_rule("Identity")
def _identity(node: Node, arrays: Arrays) -> Any:
    return arrays[0]


@_rule("Cast")
def _cast(node: Node, arrays: Arrays) -> Any:
    dtype = dtype_of(node.attr.int("to"), "the result of Cast")
    return (arrays[0], dtype) if dtype.name in ("int32", "int64") else None


@_rule("Gather")
def _gather(node: Node, arrays: Arrays) -> Any:
    index = np.asarray(_ints(arrays[1]), dtype=np.int64).reshape(arrays[1].shape)
    return np.take(arrays[0], index, axis=node.attr.int("axis", 0))


@_rule("Concat")
def _concat(node: Node, arrays: Arrays) -> Any:
    return np.concatenate(arrays, axis=node.attr.int("axis", 0))


@_rule("Unsqueeze")
def _unsqueeze(node: Node, arrays: Arrays) -> Any:
    axes = _ints(arrays[1]) if len(arrays) > 1 else list(node.attr.ints("axes"))
    return np.expand_dims(arrays[0], tuple(axes))


@_rule("Squeeze")
def _squeeze(node: Node, arrays: Arrays) -> Any:
    axes = _ints(arrays[1]) if len(arrays) > 1 else node.attr.ints("axes", None)
    return np.squeeze(arrays[0], axis=None if axes is None else tuple(axes))


@_rule("Reshape")
def _reshape(node: Node, arrays: Arrays) -> Any:
    return arrays[0].reshape(_ints(arrays[1])) if len(arrays) > 1 else None


@_rule("Slice")
def _slice(node: Node, arrays: Arrays) -> Any:
    if len(arrays) > 1:
        starts, ends = _ints(arrays[1]), _ints(arrays[2])
        axes = _ints(arrays[3]) if len(arrays) > 3 else list(range(len(starts)))
        steps = _ints(arrays[4]) if len(arrays) > 4 else [1] * len(starts)
    else:
        starts, ends = node.attr.ints("starts"), node.attr.ints("ends")
        axes = node.attr.ints("axes", tuple(range(len(starts))))
        steps = [1] * len(starts)
    result = arrays[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cut = [slice(None)] * result.ndim
        stop = None if step < 0 and end < -result.shape[axis] else end
        cut[axis] = slice(start, stop, step)
        result = result[tuple(cut)]
    return result


@_rule("ReduceProd")
def _product(node: Node, arrays: Arrays) -> Any:
    if len(arrays) > 1 or "axes" in node.attr or arrays[0].ndim != 1:
        return None
    total: Any = 1
    for item in arrays[0]:
        total = total * item
    return np.full((1,) if node.attr.flag("keepdims", True) else (), total, dtype=object)


@_rule("Equal")
def _equal(node: Node, arrays: Arrays) -> Any:
    def same(a: Any, b: Any) -> Any:
        left, right = _known(a), _known(b)
        if left is not None and right is not None:
            return left == right
        # A dimension is never negative: the exporters' comparison with -1 is decided.
        if (left is not None and left < 0) or (right is not None and right < 0):
            return False
        return True if a is b else None

    result = np.frompyfunc(same, 2, 1)(arrays[0], arrays[1])
    if any(item is None for item in np.ravel(result)):
        return None
    return result, DType.of("bool")


@_rule("Where")
def _where(node: Node, arrays: Arrays) -> Any:
    if any(_known(item) is None for item in arrays[0].ravel()):
        return None
    if not isinstance(node.inputs[0], Constant):
        return None
    return np.where(arrays[0].astype(bool), arrays[1], arrays[2])


@_rule("Expand")
def _expand(node: Node, arrays: Arrays) -> Any:
    return np.broadcast_to(arrays[0], np.broadcast_shapes(arrays[0].shape, tuple(_ints(arrays[1]))))


@_rule("Size")
def _size(node: Node, arrays: Arrays) -> Any:
    return np.asarray(arrays[0].size, dtype=object), DType.of("int64")
