# SPDX-License-Identifier: Apache-2.0
"""What a step of a schedule changed, as a diff of scripts."""

from __future__ import annotations

import difflib
import sys
from typing import TYPE_CHECKING, Final, TextIO

from heddle.script import to_text
from heddle.support import UserError
from heddle.tir.nodes import PrimFunc

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule

_SINCE: Final = ("show", "step", "start")
_COLOURS: Final = {"+": "\x1b[32m", "-": "\x1b[31m", "@": "\x1b[36m"}
_PLAIN: Final = "\x1b[0m"


def script_diff(
    before: PrimFunc,
    after: PrimFunc,
    *,
    context: int | None = None,
    names: tuple[str, str] = ("before", "after"),
) -> str:
    """The unified diff of two functions' scripts; empty when they print alike.

    context: lines around each change; None shows the whole script.
    """
    old, new = to_text(before).splitlines(), to_text(after).splitlines()
    lines = max(len(old), len(new)) if context is None else context
    return "\n".join(difflib.unified_diff(old, new, *names, n=lines, lineterm=""))


def show(
    sch: Schedule,
    *,
    since: str = "show",
    context: int | None = None,
    colour: bool | None = None,
    file: TextIO | None = None,
) -> None:
    """Print the script, its changes marked and coloured: `+` what is new, `-` what went.

    since: "show" (what the last `show` printed; the first prints the script alone), "step" (the
    last primitive) or "start" (the function that the schedule was made from). context: lines
    around each change; None prints the whole script. colour: by default where `file` (standard
    output) is a terminal. Raises `UserError` for another `since`.

    >>> sch.show()                                       # doctest: +SKIP
    >>> sch.parallel(i)                                  # doctest: +SKIP
    >>> sch.show()                                       # doctest: +SKIP
    -    for i in T.serial(128):
    +    for i in T.parallel(128):
    """
    if since not in _SINCE:
        raise UserError(f"show: `since` must be one of {', '.join(_SINCE)}, got {since!r}")
    file = sys.stdout if file is None else file
    colour = file.isatty() if colour is None else colour
    before = {"show": sch.shown, "step": sch.before_step, "start": sch.original}[since]
    sch.shown = sch.func
    if before is None:
        print(to_text(sch.func), file=file)
        return
    text = script_diff(before, sch.func, context=context, names=(since, "now"))
    if not text:
        print(f"# nothing changed since the last {since}", file=file)
        return
    for line in text.splitlines():
        code = _COLOURS.get(line[:1], "") if colour else ""
        print(f"{code}{line}{_PLAIN}" if code else line, file=file)
