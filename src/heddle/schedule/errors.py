# SPDX-License-Identifier: Apache-2.0
"""What a schedule primitive raises when it cannot do what was asked."""

from __future__ import annotations

from heddle.support import Span, UserError
from heddle.tir.nodes import PrimFunc


class ScheduleError(UserError):
    """A primitive whose precondition does not hold; the function is left as it was.

    The message names the primitive, the block or loop, what breaks the precondition and what
    would make it hold. `func` is the function at that moment; `str()` of the error ends in its
    script, which is rendered only when somebody looks, so that raising (and catching) is cheap.
    """

    def __init__(
        self, message: str, *, func: PrimFunc | None = None, span: Span | None = None
    ) -> None:
        super().__init__(message, span=span)
        self.func = func

    def __str__(self) -> str:
        text = str(self.args[0])
        if self.func is None:
            return text
        # The printer is needed only here, and not at start-up.
        from heddle.script import to_text

        return f"{text}\n\nThe function at this point:\n{to_text(self.func)}"
