# SPDX-License-Identifier: Apache-2.0
"""The graph level: nodes, the builder, the verifier."""

from heddle.graph.builder import GraphBuilder, is_atom
from heddle.graph.data import data_type
from heddle.graph.nodes import (
    Arm,
    BindDim,
    Binding,
    Branch,
    Call,
    CallDPS,
    Closure,
    Constant,
    Construct,
    Function,
    GraphExpr,
    If,
    Loop,
    Match,
    Scalar,
    Tuple,
    TupleGetItem,
    Var,
)
from heddle.graph.registry import resolve_op, set_op_resolver
from heddle.graph.verify import verify, verify_module

__all__ = [
    "Arm",
    "BindDim",
    "Binding",
    "Branch",
    "Call",
    "CallDPS",
    "Closure",
    "Constant",
    "Construct",
    "Function",
    "GraphBuilder",
    "GraphExpr",
    "If",
    "Loop",
    "Match",
    "Scalar",
    "Tuple",
    "TupleGetItem",
    "Var",
    "data_type",
    "is_atom",
    "resolve_op",
    "set_op_resolver",
    "verify",
    "verify_module",
]
