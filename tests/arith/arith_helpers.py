# SPDX-License-Identifier: Apache-2.0
"""An evaluator of integer expressions over Python integers, and a printer for failures."""

from __future__ import annotations

from collections.abc import Mapping

from heddle.ir import Node, post_order
from heddle.ir import expr as ir
from heddle.ir.expr import Expr, Var


def _truncdiv(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


_BINARY = {
    ir.Add: lambda a, b: a + b,
    ir.Sub: lambda a, b: a - b,
    ir.Mul: lambda a, b: a * b,
    ir.FloorDiv: lambda a, b: a // b,
    ir.FloorMod: lambda a, b: a % b,
    ir.TruncDiv: _truncdiv,
    ir.TruncMod: lambda a, b: a - _truncdiv(a, b) * b,
    ir.Min: min,
    ir.Max: max,
    ir.EQ: lambda a, b: int(a == b),
    ir.NE: lambda a, b: int(a != b),
    ir.LT: lambda a, b: int(a < b),
    ir.LE: lambda a, b: int(a <= b),
    ir.GT: lambda a, b: int(a > b),
    ir.GE: lambda a, b: int(a >= b),
    ir.And: lambda a, b: a & b,
    ir.Or: lambda a, b: a | b,
}
_SIGNS = {
    "Add": "+", "Sub": "-", "Mul": "*", "FloorDiv": "//", "FloorMod": "%", "LT": "<",
    "LE": "<=", "GT": ">", "GE": ">=", "EQ": "==", "NE": "!=", "And": "&", "Or": "|",
}  # fmt: skip


def evaluate(root: Expr, values: Mapping[Var, int]) -> int:
    """The value of an expression. Raises ZeroDivisionError as Python does."""
    done: dict[Node, int] = {}
    for n in post_order(root):
        kind = type(n)
        if kind is Var:
            done[n] = values[n]
        elif kind is ir.IntImm:
            done[n] = n.value
        elif kind in _BINARY:
            done[n] = _BINARY[kind](done[n.a], done[n.b])
        elif kind is ir.Not:
            done[n] = 1 - done[n.a]
        else:
            condition, a, b = n.children()
            done[n] = done[a] if done[condition] else done[b]
    return done[root]


def text(e: Expr) -> str:
    """A short rendering, for messages of failing tests."""
    kind = type(e).__name__
    if kind == "Var":
        return e.name
    if kind in ("IntImm", "FloatImm"):
        return str(e.value)
    if kind in _SIGNS:
        return f"({text(e.a)} {_SIGNS[kind]} {text(e.b)})"
    return f"{kind}({', '.join(text(child) for child in e.children())})"
