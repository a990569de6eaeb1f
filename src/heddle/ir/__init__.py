# SPDX-License-Identifier: Apache-2.0
"""The IR that both levels share: nodes, types, expressions, modules, walks, equality."""

from heddle.ir.dtype import BOOL, FLOAT32, FLOAT64, HANDLE, INT32, INT64, DType
from heddle.ir.module import BaseFunc, ExternFunc, GlobalVar, IRModule
from heddle.ir.node import Node, binder, derived, field, ignored, node, refers
from heddle.ir.structural import Mismatch, first_mismatch, structural_equal, structural_hash
from heddle.ir.types import (
    Constructor,
    DataType,
    FunctionType,
    SelfType,
    TensorType,
    TupleType,
    Type,
)
from heddle.ir.walk import free_vars, post_order, pre_order, rewrite, substitute, uses_var

__all__ = [
    "BOOL",
    "FLOAT32",
    "FLOAT64",
    "HANDLE",
    "INT32",
    "INT64",
    "BaseFunc",
    "DType",
    "ExternFunc",
    "Constructor",
    "DataType",
    "FunctionType",
    "SelfType",
    "GlobalVar",
    "IRModule",
    "Mismatch",
    "Node",
    "TensorType",
    "TupleType",
    "Type",
    "binder",
    "derived",
    "field",
    "first_mismatch",
    "free_vars",
    "ignored",
    "node",
    "post_order",
    "pre_order",
    "refers",
    "rewrite",
    "structural_equal",
    "structural_hash",
    "substitute",
    "uses_var",
]
