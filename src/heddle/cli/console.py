# SPDX-License-Identifier: Apache-2.0
"""Where a command writes: results on stdout, everything else on stderr; and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import typer

from heddle.support import UserError
from heddle.support.env import HEDDLE_DEBUG

USER_ERROR: Final = 1
INTERNAL_ERROR: Final = 3
INTERRUPTED: Final = 130

_REPORT: Final = (
    "This is a bug in Heddle. Please report it with the command, the model if you can share it, "
    f"and the output of the same command with {HEDDLE_DEBUG.name}=1."
)


@dataclass(slots=True)
class Console:
    """How one command talks.

    quiet: nothing but results and errors. as_json: the result is one JSON value on stdout.
    """

    quiet: bool = False
    as_json: bool = False

    def note(self, text: str) -> None:
        """Tell what is going on, on stderr."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def result(self, text: str, data: Any) -> None:
        """Give the result: `text` for people, `data` for programs. Called once in a command."""
        if self.as_json:
            print(json.dumps(data, indent=2, default=str))
        elif text:
            print(text)

    def source(self, text: str, data: Any, *, language: str = "python") -> None:
        """Give a result that is source text, with colours when it goes to a terminal."""
        if self.as_json or not sys.stdout.isatty():
            self.result(text, data)
            return
        from rich.console import Console as Terminal  # only where there are colours
        from rich.syntax import Syntax

        Terminal().print(Syntax(text, language, background_color="default", word_wrap=True))

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """Shows the stages of long work on stderr: a line that changes, or lines in a log."""
        shown = Progress(live=not self.quiet and sys.stderr.isatty(), silent=self.quiet)
        try:
            yield shown
        finally:
            shown.close()


class Progress:
    """A listener of `CompileReport`."""

    def __init__(self, *, live: bool, silent: bool) -> None:
        self._silent = silent
        self._status: Any = None
        if live:
            from rich.console import Console as Terminal  # only where it is shown

            self._status = Terminal(stderr=True).status("starting")
            self._status.start()

    def __call__(self, stage: str, share: float | None) -> None:
        """A stage began (share None), or this much of it is done."""
        if self._silent:
            return
        if self._status is not None:
            self._status.update(stage if share is None else f"{stage} {share:.0%}")
        elif share is None:
            print(f"{stage} ...", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Clear the line."""
        if self._status is not None:
            self._status.stop()


@contextlib.contextmanager
def ending(console: Console) -> Iterator[None]:
    """Around the body of a command: errors become a message on stderr and an exit code."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            yield
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except UserError as error:
        _fail(console, str(error), "user", USER_ERROR, error)
    except KeyboardInterrupt:
        _fail(console, "interrupted", "interrupted", INTERRUPTED, None)
    except BrokenPipeError:  # the reader, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except MemoryError as error:
        _fail(console, f"out of memory: {error}".rstrip(": "), "user", USER_ERROR, error)
    except OSError as error:  # a full disk, no permission: nothing that a report would mend
        where = f"{error.filename}: " if error.filename else ""
        _fail(console, f"{where}{error.strerror or error}", "user", USER_ERROR, error)
    except Exception as error:  # a bug of ours: the one place that may catch everything
        text = str(error) or "no message"
        _fail(console, f"{type(error).__name__}: {text}", "internal", INTERNAL_ERROR, error)


def _fail(console: Console, text: str, kind: str, code: int, error: BaseException | None) -> None:
    if error is not None and _wants_traceback():
        traceback.print_exception(error, file=sys.stderr)
    prefix = "internal error" if kind == "internal" else "error"
    print(f"{prefix}: {text}", file=sys.stderr)
    if kind == "internal":
        print(_REPORT, file=sys.stderr)
    if console.as_json:
        print(json.dumps({"error": {"kind": kind, "message": text}}, indent=2))
    raise typer.Exit(code)


def _wants_traceback() -> bool:
    with contextlib.suppress(UserError):  # set to neither 0 nor 1
        return HEDDLE_DEBUG.get()
    return True


def _show_warning(message: Warning | str, *_: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Rows as aligned columns; the columns in `right` are set flush right."""
    if not rows:
        return ""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if k in right else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def size(count: float) -> str:
    """A number of bytes for people.

    >>> size(1536)
    '1.5 KiB'
    """
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024 or unit == "GiB":
            break
    return f"{count:.1f} {unit}"
