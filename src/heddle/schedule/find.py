# SPDX-License-Identifier: Apache-2.0
"""Finding loops and blocks by name, by pattern, or by source text."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from heddle.schedule.refs import BlockRef, LoopRef
from heddle.schedule.state import State, walk
from heddle.tir.nodes import Block, For, Stmt

_NAME = re.compile(r"[\w*?\[\]!-]+")
_LOOP = re.compile(r"for\s+([\w*?]+)(\s+in\b.*)?:?")


def find(state: State, pattern: str) -> list[LoopRef | BlockRef]:
    """The loops and blocks that `pattern` describes (see `Schedule.find`), in program order."""
    text = " ".join(pattern.split())
    loop = _LOOP.fullmatch(text)
    found: list[LoopRef | BlockRef] = []
    for stmt in walk(state.func.body):
        if type(stmt) is For and loop is not None:
            if fnmatchcase(stmt.var.name, loop[1]) and _in_header(stmt, loop[2] or ""):
                found.append(LoopRef(stmt.var))
        elif type(stmt) is For:
            if _is_name(text) and fnmatchcase(stmt.var.name, text):
                found.append(LoopRef(stmt.var))
        elif type(stmt) is Block and stmt is not state.root and loop is None:
            if _is_name(text) and fnmatchcase(stmt.name, text):
                found.append(BlockRef(stmt.name))
            elif not _is_name(text) and _in_body(stmt, text):
                found.append(BlockRef(stmt.name))
    return found


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None and "[" not in text


def _in_header(loop: For, rest: str) -> bool:
    """Whether the text after the variable, such as `in range(8)`, is that of the loop."""
    wanted = rest.removesuffix(":").strip()
    kind = "range" if loop.kind.value == "serial" else loop.kind.value
    shown = (f"in {kind}({loop.extent})", f"in T.{loop.kind.value}({loop.extent})")
    return any(text.startswith(wanted) for text in shown)


def _in_body(block: Block, text: str) -> bool:
    parts: list[Stmt] = [block.body] if block.init is None else [block.init, block.body]
    return any(text in " ".join(line.split()) for part in parts for line in str(part).splitlines())
