# SPDX-License-Identifier: Apache-2.0
"""Handles to the loops and blocks of a schedule. They stay valid while what they name exists."""

from __future__ import annotations

from dataclasses import dataclass
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
    """A loop, by the identity of its variable."""

    var: Var

    @property
    def name(self) -> str:
        """The name of the loop's variable."""
        return self.var.name

    def __repr__(self) -> str:
        return f"loop `{self.var.name}`"


BlockLike: TypeAlias = BlockRef | str
"""How a block may be given to a primitive: its handle or its name."""
