# SPDX-License-Identifier: Apache-2.0
"""The graph level: nodes, the builder, the verifier."""

from heddle.graph.builder import GraphBuilder, is_atom
from heddle.graph.nodes import (
    BindDim,
    Binding,
    Branch,
    Call,
    CallDPS,
    Constant,
    Function,
    GraphExpr,
    If,
    Loop,
    Scalar,
    Tuple,
    TupleGetItem,
    Var,
)
from heddle.graph.registry import resolve_op, set_op_resolver
from heddle.graph.verify import verify, verify_module

__all__ = [
    "BindDim",
    "Binding",
    "Branch",
    "Call",
    "CallDPS",
    "Constant",
    "Function",
    "GraphBuilder",
    "GraphExpr",
    "If",
    "Loop",
    "Scalar",
    "Tuple",
    "TupleGetItem",
    "Var",
    "is_atom",
    "resolve_op",
    "set_op_resolver",
    "verify",
    "verify_module",
]
