# SPDX-License-Identifier: Apache-2.0
"""Conditions under which blocks run."""

from __future__ import annotations

from heddle.ir.expr import And, Expr, all_of, as_int
from heddle.ir.walk import pre_order
from heddle.tir.nodes import BufferLoad


def conjuncts(condition: Expr) -> list[Expr]:
    """The conditions that hold together when `condition` does, from left to right; none when it
    is constantly true."""
    stack, found = [condition], []
    while stack:
        current = stack.pop()
        if type(current) is And:
            stack.extend((current.b, current.a))
        elif as_int(current) != 1:
            found.append(current)
    return found


def guards(condition: Expr) -> list[Expr]:
    """`condition` as one or two conditions, the second to be looked at where the first holds: what
    reads memory may be in bounds only where the rest of a predicate says so."""
    parts: tuple[list[Expr], list[Expr]] = ([], [])
    for part in conjuncts(condition):
        reads = any(isinstance(found, BufferLoad) for found in pre_order(part))
        parts[reads].append(part)
    return [all_of(*group) for group in parts if group]
