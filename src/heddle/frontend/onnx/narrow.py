# SPDX-License-Identifier: Apache-2.0
"""Element types of eight bits and fewer that Heddle has no dtype for.

A tensor of such a type is a `Narrow` value: float formats as their codes in uint8, integers of
four and two bits one to a byte, as int8 or uint8. Operators that only move elements take the bytes;
conversions and quantisation know what they stand for; others do not take them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import ml_dtypes
import numpy as np
import onnx

from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.values import Narrow, Value
from heddle.graph import Constant, GraphExpr
from heddle.ir import DType
from heddle.op.narrow import LAYOUTS
from heddle.support import UserError

if TYPE_CHECKING:
    from heddle.frontend.onnx.node import Node

# Numbers are spelled out: a model may be older or newer than the `onnx` that is installed.
KINDS: Final[dict[int, str]] = {
    17: "float8e4m3fn",
    18: "float8e4m3fnuz",
    19: "float8e5m2",
    20: "float8e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4e2m1",
    24: "float8e8m0",
    25: "uint2",
    26: "int2",
    27: "float6e2m3",
    28: "float6e3m2",
}
_BITS: Final = {"uint4": 4, "int4": 4, "float4e2m1": 4, "uint2": 2, "int2": 2}
_INTEGERS: Final = {"uint4": (0, 15), "int4": (-8, 7), "uint2": (0, 3), "int2": (-2, 1)}
_NUMPY: Final[dict[str, Any]] = {
    **{name: layout.numpy for name, layout in LAYOUTS.items()},
    "float8e8m0": ml_dtypes.float8_e8m0fnu,
    **{name: getattr(ml_dtypes, name) for name in _INTEGERS},
}
# Operators that move elements without looking at them; all their tensors of the type, and all
# results, have the same type.
MOVES: Final = frozenset(
    "Concat DepthToSpace Expand Flatten Gather GatherElements GatherND Identity Reshape Slice "
    "SpaceToDepth Split Squeeze Tile Transpose Unsqueeze".split()
)
_SHAPES: Final = frozenset(("Shape", "Size"))


def kind_of(number: int) -> str | None:
    """The name of a narrow element type, None when `number` is another."""
    return KINDS.get(number)


def number_of(kind: str) -> int:
    """The ONNX number of a narrow element type."""
    return next(number for number, name in KINDS.items() if name == kind)


def storage(kind: str) -> DType:
    """The dtype of the bytes that hold elements of a narrow type."""
    return DType.of("int8" if kind in ("int4", "int2") else "uint8")


def numpy_dtype(kind: str) -> np.dtype:
    """The dtype of `ml_dtypes` that numpy arrays of the type have."""
    return np.dtype(_NUMPY[kind])


def kind_of_dtype(dtype: np.dtype) -> str | None:
    """The narrow type of a dtype of `ml_dtypes`, None for all others."""
    return next((kind for kind in _NUMPY if np.dtype(_NUMPY[kind]) == dtype), None)


def output_kinds(model: onnx.ModelProto) -> list[str | None]:
    """For each output of a model its narrow type, None where it is an ordinary one."""
    return [kind_of(value.type.tensor_type.elem_type) for value in model.graph.output]


def to_bytes(array: np.ndarray, kind: str) -> np.ndarray:
    """An array of the dtype of `ml_dtypes` as the bytes that Heddle takes."""
    return array.astype(storage(kind).numpy) if kind in _INTEGERS else array.view(np.uint8)


def from_bytes(array: np.ndarray, kind: str) -> np.ndarray:
    """The inverse of `to_bytes`."""
    return array.astype(_NUMPY[kind]) if kind in _INTEGERS else array.view(_NUMPY[kind])


def stored_bytes(kind: str, count: int) -> int:
    """How many bytes a file needs for `count` elements: types of four and two bits are packed."""
    return -(-count * _BITS.get(kind, 8) // 8)


def unpack(raw: bytes, kind: str, count: int) -> np.ndarray:
    """Elements, one to a byte, of `raw` as files hold them: the first in the lowest bits."""
    packed = np.frombuffer(raw, np.uint8)
    bits = _BITS.get(kind, 8)
    if bits < 8:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        packed = ((packed[:, None] >> shifts) & ((1 << bits) - 1)).ravel()[:count]
    if kind in ("int4", "int2"):
        half = 1 << (bits - 1)
        return ((packed.astype(np.int16) ^ half) - half).astype(np.int8)
    return packed


# -- conversions -----------------------------------------------------------------------------


def widened(node: Node, value: Value) -> GraphExpr:
    """A tensor as one that Heddle computes with: numbers for codes, integers as they are."""
    if not isinstance(value, Narrow):
        return node.as_tensor(value)
    if value.kind in _INTEGERS:
        return value.bytes
    return node.op.narrow_decode(value.bytes, format=value.kind)  # type: ignore[no-any-return]


def narrowed(
    node: Node, x: GraphExpr, kind: str, *, saturate: bool = True, round_mode: str = "up"
) -> Narrow:
    """`x` converted to a narrow type. Integers keep their lowest bits, as casts of integers do."""
    if kind in _INTEGERS:
        low, high = _INTEGERS[kind]
        whole = node.cast(x, "int32")
        moved = node.op.sub(whole, low) if low else whole
        bits = node.op.bitwise_and(moved, high - low)
        back = node.op.add(bits, low) if low else bits
        return Narrow(node.cast(back, storage(kind)), kind)
    if x.type.dtype.bits > 32 and x.type.dtype.is_float:  # type: ignore[union-attr]
        raise Unsupported(f"a conversion from float64 to {kind}, which would round twice")
    mode = round_mode if kind == "float8e8m0" else "nearest"
    if mode not in ("up", "down", "nearest"):
        raise UserError(f"attribute `round_mode` is `{mode}`, expected up, down or nearest")
    number = x if x.type.dtype.is_float else node.cast(x, "float32")  # type: ignore[union-attr]
    codes = node.op.narrow_encode(number, format=kind, saturate=saturate, round_mode=mode)
    return Narrow(codes, kind)


def saturated(node: Node, x: GraphExpr, kind: str) -> Narrow:
    """An int8 or uint8 tensor limited to the range of a narrow integer type."""
    low, high = _INTEGERS[kind]
    return Narrow(node.op.clip(x, min=low, max=high), kind)


def is_integer(kind: str) -> bool:
    """Whether the elements are integers."""
    return kind in _INTEGERS


# -- operators that move elements ------------------------------------------------------------


def opened(node: Node) -> str | None:
    """For an operator that moves elements: put bytes for its narrow inputs, and return the type
    that its results have; None when there is no such input, or the operator asks for it."""
    kinds = {value.kind for value in node.inputs if isinstance(value, Narrow)}
    if not kinds or node.proto.domain not in ("", "ai.onnx"):
        return None
    if node.op_type not in MOVES | _SHAPES:
        return None
    if len(kinds) > 1:
        raise UserError(f"inputs have element types {' and '.join(sorted(kinds))}")
    node.inputs = [v.bytes if isinstance(v, Narrow) else v for v in node.inputs]
    return None if node.op_type in _SHAPES else kinds.pop()


def closed(results: Sequence[Value], kind: str | None) -> list[Value]:
    """The results of an operator that moves elements of the narrow type `kind`."""
    if kind is None:
        return list(results)
    return [Narrow(value, kind) if isinstance(value, GraphExpr) else value for value in results]


def constant(array: np.ndarray, kind: str | None) -> Value:
    """A constant of a dtype, or of a narrow type when `kind` names one."""
    return Constant(array) if kind is None else Narrow(Constant(array), kind)
