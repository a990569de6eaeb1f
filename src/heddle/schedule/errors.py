# SPDX-License-Identifier: Apache-2.0
"""What a schedule primitive raises when it cannot do what was asked."""

from __future__ import annotations

from collections.abc import Sequence

from heddle.schedule.refs import BlockRef, LoopRef
from heddle.support import Span, UserError
from heddle.tir.nodes import Block, For, PrimFunc

Place = For | Block | LoopRef | BlockRef
"""A loop or block, or the handle of one."""


class ScheduleError(UserError):
    """A primitive whose precondition does not hold; the function is left as it was.

    The message names the primitive, the block or loop, what breaks the precondition and what
    would make it hold. `func` is the function at that moment and `nodes` the loops and blocks in
    it that the error is about; `str()` of the error ends in its script with these underlined. It
    is rendered only when somebody looks, so that raising (and catching) is cheap.
    """

    def __init__(
        self,
        message: str,
        *,
        func: PrimFunc | None = None,
        nodes: Sequence[Place] = (),
        span: Span | None = None,
    ) -> None:
        super().__init__(message, span=span)
        self.func = func
        self.nodes: tuple[Place, ...] = tuple(nodes)

    def __str__(self) -> str:
        text = str(self.args[0])
        if self.func is None:
            return text
        # The printer is needed only here, and not at start-up.
        from heddle.script import to_text

        nodes = [node for node in self.nodes if isinstance(node, (For, Block))]
        script = to_text(self.func, underline=nodes)
        return f"{text}\n\nThe function at this point:\n{script}"
