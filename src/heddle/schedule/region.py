# SPDX-License-Identifier: Apache-2.0
"""Which elements a block touches, as seen from the loops around it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from heddle.ir.expr import Call, Expr, IntImm, Var
from heddle.ir.node import Node
from heddle.ir.walk import post_order
from heddle.tir.build import point
from heddle.tir.nodes import Block, Buffer, BufferLoad, BufferRegion, BufferStore, For


def expr_key(value: Any) -> Any:
    """A hashable key that equal (small) expressions over the same variables share."""
    kind = type(value)
    if kind is Var:
        return value
    if kind is IntImm:
        return value.value
    parts = tuple(map(expr_key, value.children()))
    if kind is BufferLoad:
        return kind, value.buffer, parts
    if kind is Call:
        return kind, value.name, parts
    return kind, str(value.dtype), getattr(value, "value", None) if not parts else None, parts


def has_loops(block: Block) -> bool:
    """Whether the body of a block holds loops: its accesses are then boxes, not points."""
    return any(type(found) is For for found in post_order(block.body))


def point_reads(nodes: Iterable[Node | None], written: Iterable[Buffer]) -> list[BufferRegion]:
    """The elements read by nodes without loops, each once; `written` buffers (accumulators)
    do not count."""
    skip = set(written)
    found: dict[Any, BufferRegion] = {}
    for node in nodes:
        if node is None:
            continue
        for load in post_order(node):
            if type(load) is BufferLoad and load.buffer not in skip:
                key = (load.buffer, tuple(map(expr_key, load.indices)))
                if key not in found:
                    found[key] = point(load.buffer, load.indices)
    return list(found.values())


def all_reads(block: Block) -> tuple[BufferRegion, ...]:
    """The regions that a block reads, and the elements that its bindings and its predicate load:
    those are told by the loops around it."""
    around = [b.binding for b in block.iters if type(b.binding) is not Var]
    return (*block.reads, *point_reads([*around, block.predicate], ()))


def stores_of(stmt: Node) -> list[BufferStore]:
    """The stores below a statement."""
    return [found for found in post_order(stmt) if type(found) is BufferStore]


def index_vars(indices: Iterable[Expr]) -> list[Var]:
    """The indices that are plain variables."""
    return [index for index in indices if type(index) is Var]
