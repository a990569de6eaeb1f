# SPDX-License-Identifier: Apache-2.0
"""Where things are in a function under schedule, and how to put others in their place.

The tree is immutable. `State` indexes the statements of one `PrimFunc` (loops by variable, blocks
by name, readers and writers of each buffer) and gives a new function for each edit; whatever an
edit does not touch keeps its identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from heddle.ir.expr import Var
from heddle.schedule.region import all_reads
from heddle.support import InternalError
from heddle.support.names import fresh_name
from heddle.tir.build import seq
from heddle.tir.nodes import (
    Allocate,
    Block,
    Buffer,
    For,
    IfThenElse,
    LetStmt,
    PrimFunc,
    Seq,
    Stmt,
    While,
)

Link = tuple[Any, Stmt]
"""A path as a linked list: (the parent's link or None, the statement)."""

_NO_STMTS: Final[tuple[Stmt, ...]] = ()
_BODY: Final[Callable[[Any], tuple[Stmt, ...]]] = lambda stmt: (stmt.body,)  # noqa: E731
_CHILDREN: Final[dict[type, Callable[[Any], tuple[Stmt, ...]]]] = {
    Block: _BODY,
    For: _BODY,
    While: _BODY,
    LetStmt: _BODY,
    Allocate: _BODY,
    Seq: lambda stmt: stmt.stmts,
    IfThenElse: lambda stmt: (
        (stmt.then,) if stmt.otherwise is None else (stmt.then, stmt.otherwise)
    ),
}


def statements(stmt: Stmt) -> tuple[Stmt, ...]:
    """The statements directly below `stmt`."""
    find = _CHILDREN.get(type(stmt))
    return _NO_STMTS if find is None else find(stmt)


def walk(stmt: Stmt) -> Iterator[Stmt]:
    """Every statement below `stmt` and itself, in program order, parents first."""
    stack = [stmt]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(reversed(statements(current)))


def blocks_below(stmt: Stmt) -> list[Block]:
    """The blocks below `stmt` and itself, in program order."""
    return [found for found in walk(stmt) if type(found) is Block]


def edit(stmt: Stmt, changes: Mapping[Stmt, Stmt | None]) -> Stmt | None:
    """`stmt` with each key of `changes` replaced by its value.

    None removes the statement, and with it whatever then has an empty body. A replacement is
    taken as it is: changes inside it are not looked for.
    """
    if stmt in changes:
        return changes[stmt]
    kind = type(stmt)
    if kind is Seq:
        old: tuple[Stmt, ...] = stmt.stmts  # type: ignore[attr-defined]
        parts = [edit(child, changes) for child in old]
        if all(new is child for new, child in zip(parts, old, strict=True)):
            return stmt
        kept = [part for part in parts if part is not None]
        return seq(*kept) if kept else None
    if kind is IfThenElse:
        return _edit_branches(stmt, changes)
    if kind not in _CHILDREN:
        return stmt
    body = edit(stmt.body, changes)  # type: ignore[attr-defined]
    if body is stmt.body:  # type: ignore[attr-defined]
        return stmt
    return None if body is None else with_body(stmt, body)


def with_body(stmt: Any, body: Stmt) -> Stmt:
    """`stmt` (a loop, a block, ...) around another body."""
    result: Stmt = stmt.replace(body=body)
    return result


def _edit_branches(stmt: Any, changes: Mapping[Stmt, Stmt | None]) -> Stmt | None:
    then = edit(stmt.then, changes)
    otherwise = None if stmt.otherwise is None else edit(stmt.otherwise, changes)
    if then is stmt.then and otherwise is stmt.otherwise:
        return stmt  # type: ignore[no-any-return]
    if then is None and otherwise is None:
        return None
    result: Stmt = stmt.replace(then=Seq(()) if then is None else then, otherwise=otherwise)
    return result


class State:
    """The index of one function: build a new one after each change (it is made on demand)."""

    __slots__ = ("block_links", "func", "loop_links", "readers", "writers")

    def __init__(self, func: PrimFunc) -> None:
        self.func = func
        self.block_links: dict[str, Link] = {}
        self.loop_links: dict[Var, Link] = {}
        self.readers: dict[Buffer, list[Block]] = {}
        self.writers: dict[Buffer, list[Block]] = {}
        stack: list[Link] = [(None, func.body)]
        while stack:
            link = stack.pop()
            stmt = link[1]
            if type(stmt) is For:
                self.loop_links[stmt.var] = link
            elif type(stmt) is Block:
                self._add_block(stmt, link)
            children = statements(stmt)
            if len(children) == 1:
                stack.append((link, children[0]))
            else:
                stack.extend((link, child) for child in reversed(children))

    def _add_block(self, block: Block, link: Link) -> None:
        self.block_links[block.name] = link
        if self._is_inside_another(link):
            return  # the block around it stands for what it accesses
        for regions, users in ((all_reads(block), self.readers), (block.writes, self.writers)):
            for buffer in dict.fromkeys(region.buffer for region in regions):
                users.setdefault(buffer, []).append(block)

    def _is_inside_another(self, link: Link) -> bool:
        """Whether a block other than the root is around the statement of `link`."""
        above = link[0]
        while above is not None and type(above[1]) is not Block:
            above = above[0]
        return above is not None and above[0] is not None

    @property
    def root(self) -> Block:
        """The root block."""
        body = self.func.body
        if type(body) is not Block:
            raise InternalError(f"the body of a PrimFunc is a {type(body).__name__}, not a Block")
        return body

    def block(self, name: str) -> Block:
        """The block called `name`."""
        return self.block_links[name][1]  # type: ignore[return-value]

    def loop(self, var: Var) -> For:
        """The loop over `var`."""
        return self.loop_links[var][1]  # type: ignore[return-value]

    def link(self, stmt: For | Block) -> Link:
        """The link of a loop or block of the function."""
        if isinstance(stmt, For):
            return self.loop_links[stmt.var]
        return self.block_links[stmt.name]

    def path(self, stmt: For | Block) -> list[Stmt]:
        """The statements from the root block down to `stmt`, both included."""
        link: Link | None = self.link(stmt)
        path: list[Stmt] = []
        while link is not None:
            path.append(link[1])
            link = link[0]
        path.reverse()
        return path

    def loops(self, block: Block) -> list[For]:
        """The loops around `block`, outermost first (those inside its nearest parent block)."""
        link, found = self.block_links[block.name][0], []
        while link is not None and type(link[1]) is not Block:
            if type(link[1]) is For:
                found.append(link[1])
            link = link[0]
        found.reverse()
        return found

    def parent_block(self, stmt: For | Block) -> Block:
        """The nearest block around `stmt`."""
        link = self.link(stmt)[0]
        while type(link[1]) is not Block:
            link = link[0]
        return link[1]

    def is_parameter(self, buffer: Buffer) -> bool:
        """Whether the caller owns the buffer."""
        return buffer in self.func.params

    def edited(self, changes: Mapping[Stmt, Stmt | None]) -> PrimFunc:
        """The function after `changes` (see `edit`)."""
        body = edit(self.func.body, changes)
        if body is None:
            body = with_body(self.func.body, Seq(()))
        return self.func if body is self.func.body else self.func.replace(body=body)

    def fresh_block_name(self, stem: str) -> str:
        """`stem`, `stem_1`, ...: the first that no block has."""
        return fresh_name(stem, self.block_links)
