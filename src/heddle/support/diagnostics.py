# SPDX-License-Identifier: Apache-2.0
"""Source positions and their rendering with a caret."""

from __future__ import annotations

import linecache
from typing import Final

_CONTEXT_LIMIT: Final = 160


class Span:
    """A half-open range of one source text: lines from 1, columns from 0 (as `ast` counts).

    `text` is the source line itself when it does not live in a file (a parsed string, a model
    file); otherwise the line is read from `file` when the span is rendered.

    >>> print(Span("model.py", 3, 4, end_column=7, text="    foo(x)").render())
      --> model.py:3:5
      3 |     foo(x)
        |     ^^^
    """

    __slots__ = ("column", "end_column", "end_line", "file", "line", "text")

    def __init__(
        self,
        file: str,
        line: int,
        column: int = 0,
        *,
        end_line: int | None = None,
        end_column: int | None = None,
        text: str | None = None,
    ) -> None:
        self.file = file
        self.line = line
        self.column = column
        self.end_line = line if end_line is None else end_line
        self.end_column = column + 1 if end_column is None else end_column
        self.text = text

    def __repr__(self) -> str:
        return f"{self.file}:{self.line}:{self.column + 1}"

    def source_line(self) -> str:
        """The first line that the span covers, or an empty string when it is not to be had."""
        text = linecache.getline(self.file, self.line) if self.text is None else self.text
        return text.rstrip("\n")

    def render(self) -> str:
        """`--> file:line:column`, and below it the source line with a caret."""
        head = f"  --> {self!r}"
        line = self.source_line()
        if not line or len(line) > _CONTEXT_LIMIT:
            return head
        end = self.end_column if self.end_line == self.line else len(line)
        gutter = str(self.line)
        blank = " " * len(gutter)
        carets = " " * self.column + "^" * max(1, end - self.column)
        return f"{head}\n  {gutter} | {line}\n  {blank} | {carets}"
