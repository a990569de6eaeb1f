# SPDX-License-Identifier: Apache-2.0
"""The exceptions of Heddle: the user's mistakes and ours are different classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heddle.support.diagnostics import Span


class HeddleError(Exception):
    """Base of every exception that Heddle raises on purpose.

    `span`, when known, is the place in the user's source that the error is about; the message
    then ends in the source line with a caret below it. `callers` are the places from which that one
    was reached, the nearest first, each with words that say how (a macro and its call).
    """

    def __init__(
        self,
        message: str,
        *,
        span: Span | None = None,
        callers: Sequence[tuple[str, Span]] = (),
    ) -> None:
        self.message = message
        self.span = span
        self.callers = tuple(callers)
        parts = [message] if span is None else [message, span.render()]
        parts += [f"{how}\n{place.render()}" for how, place in self.callers]
        super().__init__("\n".join(parts))


class UserError(HeddleError):
    """Something the user gave cannot work; the message says what, where, got and expected."""


class InternalError(HeddleError):
    """An invariant of the compiler does not hold: a bug in Heddle, never the user's fault."""

    def __init__(self, message: str, *, span: Span | None = None) -> None:
        super().__init__(f"{message} (this is a bug in Heddle; please report it)", span=span)
