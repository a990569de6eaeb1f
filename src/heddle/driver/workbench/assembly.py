# SPDX-License-Identifier: Apache-2.0
"""`sch.asm()`: the machine code of a schedule, with the loop that matters marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from heddle.codegen import asm as assembly_text
from heddle.schedule.schedule import Schedule
from heddle.schedule.state import State, blocks_below
from heddle.schedule.workbench import tool
from heddle.target import Target
from heddle.tir.nodes import Block, Buffer, PrimFunc

_LABEL: Final = re.compile(r"^([.\w$]+):")
_JUMP: Final = re.compile(r"^\s+(?:j\w+|b|b\.\w+|cbn?z|tbn?z|bn\w+|beq\w*|blt\w*|bge\w*)\s+(.*)$")
_TARGET: Final = re.compile(r"[.\w$]+$")
_VECTOR: Final = re.compile(r"%[xyz]mm\d|\b[vz]\d+\.(?:\d*[bhsd])\b|\bq\d+\b|\bv\w+\.v[vfx]")
_FMA: Final = re.compile(r"^\s+(?:v?fn?m(?:add|sub)\w*|fml[as]|vdp\w+|vpdp\w+|[su]dot)\b")
_SCALAR_FLOAT: Final = re.compile(r"^\s+v?\w+s[sd]\s")
_STACK: Final = re.compile(r"\(%rsp\)|\(%rbp\)|\[sp\b|\bsp\]")


@dataclass(frozen=True, slots=True)
class HotLoop:
    """An innermost loop: its lines in the text (from 0, the last included), and what is in it.
    spills: vector instructions that go to the stack."""

    first: int
    last: int
    instructions: int
    vector: int
    fma: int
    spills: int

    def __str__(self) -> str:
        return (
            f"{self.instructions} instructions, {self.vector} of vectors, "
            f"{self.fma} multiply-adds, {self.spills} on the stack"
        )


@dataclass(frozen=True, slots=True)
class Assembly:
    """text: as the assembler takes it. loops: innermost loops, the hottest first."""

    text: str
    loops: tuple[HotLoop, ...]

    @property
    def hot(self) -> HotLoop | None:
        """The loop with most multiply-adds, then most vector instructions."""
        return self.loops[0] if self.loops else None

    @property
    def hot_text(self) -> str:
        """The lines of the hot loop."""
        if self.hot is None:
            return ""
        return "\n".join(self.text.splitlines()[self.hot.first : self.hot.last + 1])

    def __str__(self) -> str:
        hot = self.hot
        if hot is None:
            return self.text
        lines = [
            f"> {line}" if hot.first <= number <= hot.last else f"  {line}".rstrip()
            for number, line in enumerate(self.text.splitlines())
        ]
        lines.insert(hot.first, f"> hot loop: {hot}")
        return "\n".join(lines)


@tool
def asm(sch: Schedule, block: Any = None, *, target: Target | None = None) -> Assembly:
    """See `Schedule.asm`."""
    func = sch.func if block is None else isolate(sch, block)
    text = assembly_text(func, target)
    return Assembly(text, find_loops(text))


def find_loops(text: str) -> tuple[HotLoop, ...]:
    """The innermost loops of an assembly text, the hottest first: a jump back to a label, with no
    other such jump in between."""
    lines = text.splitlines()
    labels: dict[str, int] = {}
    spans: list[tuple[int, int]] = []
    for number, line in enumerate(lines):
        if found := _LABEL.match(line):
            labels[found[1]] = number
        elif found := _JUMP.match(line):
            goal = _TARGET.search(found[1].split("#")[0].strip())
            if goal is not None and goal[0] in labels:
                spans.append((labels[goal[0]], number))
    longest = {first: max(b for a, b in spans if a == first) for first, _ in spans}
    inner = [
        (first, last)
        for first, last in longest.items()
        if not any(first < a and b <= last for a, b in longest.items())
    ]
    loops = [_describe(lines, first, last) for first, last in inner]
    loops.sort(key=lambda loop: (-loop.fma, -loop.vector, -loop.instructions, loop.first))
    return tuple(loops)


def _describe(lines: Sequence[str], first: int, last: int) -> HotLoop:
    body = [
        line
        for line in lines[first : last + 1]
        if line.startswith(("\t", " ")) and not line.lstrip().startswith((".", "#", "//"))
    ]
    vectors = [line for line in body if _VECTOR.search(line) and not _SCALAR_FLOAT.match(line)]
    return HotLoop(
        first,
        last,
        instructions=len(body),
        vector=len(vectors),
        fma=sum(bool(_FMA.match(line)) for line in vectors),
        spills=sum(bool(_STACK.search(line)) for line in vectors),
    )


def isolate(sch: Schedule, block: Any) -> PrimFunc:
    """The function with one block alone, and those that share its private buffers (what sets an
    accumulator, what writes it back). Other intermediate buffers become parameters."""
    chosen = sch.block(block)
    state = sch.state
    kept, waiting = {chosen.name}, [chosen]
    while waiting:
        for region in (*waiting[-1].reads, *waiting.pop().writes):
            if region.buffer.scope != "local" or state.is_parameter(region.buffer):
                continue
            users = (*state.readers.get(region.buffer, ()), *state.writers.get(region.buffer, ()))
            waiting += [user for user in users if user.name not in kept]
            kept.update(user.name for user in users)
    around = {
        stmt.name
        for name in kept
        for stmt in state.path(state.block(name))
        if isinstance(stmt, Block)
    }
    others = [ref for ref in sch.get_blocks() if ref.name not in around]
    inside = {found.name for name in kept for found in blocks_below(state.block(name))}
    func = state.edited({state.block(ref.name): None for ref in others if ref.name not in inside})
    return _with_open_buffers(func)


def _with_open_buffers(func: PrimFunc) -> PrimFunc:
    """Buffers of the root that are no longer both written and read become parameters."""
    state = State(func)
    root = state.root
    used = [b for b in root.alloc_buffers if b in state.readers or b in state.writers]
    opened = [b for b in used if b not in state.readers or b not in state.writers]
    kept: tuple[Buffer, ...] = tuple(b for b in used if b not in opened)
    result: PrimFunc = func.replace(
        params=(*func.params, *opened), body=root.replace(alloc_buffers=kept)
    )
    return result
