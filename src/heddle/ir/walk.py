# SPDX-License-Identifier: Apache-2.0
"""Walking and rewriting IR without recursion: depth is bounded by memory, not by the stack.

Every walk memoises by identity, so shared subtrees are visited once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from heddle.ir.expr import Expr, Var
from heddle.ir.module import IRModule
from heddle.ir.node import Node
from heddle.support import InternalError

NodeT = TypeVar("NodeT", bound=Node)
Handler = Callable[[Any], Any]


def post_order(root: Node) -> Iterator[Node]:
    """Every node below `root`, children first, each object once; `root` comes last."""
    seen: set[int] = set()
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        current, expanded = stack.pop()
        if expanded:
            yield current
            continue
        if id(current) in seen:
            continue
        seen.add(id(current))
        stack.append((current, True))
        stack.extend((child, False) for child in reversed(current.children()))


def pre_order(root: Node) -> Iterator[Node]:
    """Every node below `root`, parents first, each object once."""
    seen: set[int] = set()
    stack: list[Node] = [root]
    while stack:
        current = stack.pop()
        if id(current) not in seen:
            seen.add(id(current))
            yield current
            stack.extend(reversed(current.children()))


def rewrite(
    root: NodeT,
    handlers: Mapping[type, Handler] | Handler,
    *,
    memo: dict[Any, Any] | None = None,
) -> Any:
    """Rebuild `root` bottom-up.

    `handlers` is a function, or a dict from node type (exact) to function; it is called with each
    node whose children are already rewritten, and gives the node that takes its place. Unchanged
    subtrees keep their identity. A `memo` may be passed in to share work between calls, or to
    preset replacements.
    """
    if isinstance(root, IRModule):
        raise InternalError("rewrite takes a function, not a module: use module.map_functions")
    memo = {} if memo is None else memo
    find = handlers.get if isinstance(handlers, Mapping) else lambda _type: handlers
    stack: list[Node] = [root]
    while stack:
        current = stack[-1]
        if current in memo:
            stack.pop()
            continue
        missing = [child for child in current.children() if child not in memo]
        if missing:
            stack.extend(reversed(missing))
            continue
        stack.pop()
        rebuilt = current.map(memo.__getitem__)
        handler = find(type(rebuilt))
        memo[current] = rebuilt if handler is None else handler(rebuilt)
    return memo[root]


def substitute(root: NodeT, values: Mapping[Var, Expr]) -> Any:
    """`root` with the variables of `values` replaced (also where a binder names them)."""
    if not values:
        return root
    return rewrite(root, {}, memo=dict(values))


def free_vars(root: Node) -> list[Var]:
    """The variables that occur in an expression, in order of first occurrence."""
    return [n for n in pre_order(root) if type(n) is Var]


def uses_var(root: Node, variables: Var | set[Var]) -> bool:
    """Whether any of `variables` occurs below `root`."""
    wanted = variables if isinstance(variables, set) else {variables}
    return any(type(n) is Var and n in wanted for n in pre_order(root))
