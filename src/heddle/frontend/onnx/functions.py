# SPDX-License-Identifier: Apache-2.0
"""Operators that ONNX defines by other operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import defs

from heddle.frontend.onnx.narrow import number_of
from heddle.frontend.onnx.tensors import onnx_type
from heddle.frontend.onnx.values import Narrow, Optional_, Sequence_, Symbolic, Text, Value
from heddle.graph import GraphExpr
from heddle.ir import FLOAT32, TensorType
from heddle.ir.expr import as_int


def find_function(
    node: onnx.NodeProto, version: int, inputs: Sequence[Value]
) -> onnx.FunctionProto | None:
    """The body by which ONNX defines the operator of `node`, or None when it is primitive."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        schema: Any = defs.get_schema(node.op_type, version, domain)
    except defs.SchemaError:
        return None
    text = b""
    if schema.has_function:
        fitting = [v for v in schema.function_opset_versions if v <= version]
        if fitting:
            text = schema.get_function_with_opset_version(max(fitting))
    if not text and schema.has_context_dependent_function:
        fitting = [v for v in schema.context_dependent_function_opset_versions if v <= version]
        if fitting:
            types = [_type_proto(value).SerializeToString() for value in inputs]
            text = schema.get_context_dependent_function_with_opset_version(
                max(fitting), node.SerializeToString(), types
            )
    if not text:
        return None
    function = onnx.FunctionProto()
    function.ParseFromString(text)
    return function


def has_function(node: onnx.NodeProto, version: int) -> bool:
    """Whether ONNX defines the operator of `node` by others, for whatever inputs."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        schema: Any = defs.get_schema(node.op_type, version, domain)
    except defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def _type_proto(value: Value) -> onnx.TypeProto:
    made = onnx.TypeProto()
    if isinstance(value, Sequence_):
        # `onnx` reads the element type without looking whether there is one.
        inner = made.sequence_type.elem_type.tensor_type
        kinds = [item.type.dtype for item in value.items if isinstance(item.type, TensorType)]
        inner.elem_type = onnx_type(value.dtype or (kinds[0] if kinds else FLOAT32))
        return made
    if isinstance(value, Optional_):
        made.optional_type.elem_type.CopyFrom(_type_proto(value.value))
        return made
    if isinstance(value, Symbolic):
        made.tensor_type.elem_type = onnx_type(value.dtype)
        for dim in value.data.shape:
            made.tensor_type.shape.dim.add().dim_value = dim
        return made
    number = None
    if isinstance(value, Narrow):
        number, value = number_of(value.kind), value.bytes
    if isinstance(value, Text):
        number, value = onnx.TensorProto.STRING, value.codes
    if isinstance(value, GraphExpr) and isinstance(value.type, TensorType):
        made.tensor_type.elem_type = number or onnx_type(value.type.dtype)
        made.tensor_type.shape.SetInParent()
        for dim in value.type.shape:
            entry = made.tensor_type.shape.dim.add()
            known = as_int(dim)
            if known is not None:
                entry.dim_value = known
    return made
