# SPDX-License-Identifier: Apache-2.0
"""Handles to the loops and blocks of a schedule. They stay valid while what they name exists."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from heddle.ir.expr import Var


@dataclass(frozen=True, slots=True)
class BlockRef:
    """A block, by its name."""

    name: str

    def __repr__(self) -> str:
        return f"block `{self.name}`"


@dataclass(frozen=True, slots=True)
class LoopRef:
    """A loop, by the identity of its variable. `alias` is its name in a trace, where the step that
    gave it may give another loop in another replay."""

    var: Var
    alias: str | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The name of the loop's variable."""
        return self.var.name

    def __repr__(self) -> str:
        return f"loop `{self.var.name}`"


class Sampled(int):
    """An integer that a sampling primitive drew; `name` is what the trace calls it."""

    name: str

    @staticmethod
    def named(value: int, name: str) -> Sampled:
        """`value`, called `name`."""
        made = Sampled(value)
        made.name = name
        return made


BlockLike: TypeAlias = BlockRef | str
"""How a block may be given to a primitive: its handle or its name."""
