# SPDX-License-Identifier: Apache-2.0
"""The reference of all schedule primitives as Markdown, from their docstrings.

python -m heddle.schedule.reference > docs/primitives.md
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from heddle.schedule.examples import EXAMPLES
from heddle.schedule.primitives.base import PRIMITIVES
from heddle.schedule.schedule import Schedule
from heddle.schedule.sketch import sketch

_HEAD = """\
# Schedule primitives

Made from the docstrings by `python -m heddle.schedule.reference > docs/primitives.md`.

A primitive reshapes the loops of a function and keeps its values. `sch` is a `Schedule`; loops come
from `sch.get_loops(block)`, `sch.find("for i in")` or another primitive, blocks are given by their
names. A primitive that cannot be applied raises `ScheduleError` and changes nothing. The examples
run as tests; `sketch` prints the loops and assignments of a function, and these are the functions:
"""


def reference() -> str:
    """The page."""
    lines = [_HEAD]
    for name, make in EXAMPLES.items():
        lines += [f"`{name}()`: {inspect.getdoc(make)}", "", "```python"]
        lines += [sketch(make()), "```", ""]
    lines.pop()
    for name in sorted(PRIMITIVES):
        call = PRIMITIVES[name].call
        parameters = list(inspect.signature(call).parameters.values())[1:]
        shown = inspect.Signature(parameters, return_annotation=inspect.Signature.empty)
        lines += ["", f"## {name}", "", f"`sch.{name}{_plain(str(shown))}`", ""]
        lines += _markdown(inspect.getdoc(call) or "")
    return "\n".join(lines) + "\n"


def _plain(signature: str) -> str:
    return signature.replace("'", "").replace("BlockLike", "Block").replace("LoopRef", "Loop")


def _markdown(text: str) -> Iterator[str]:
    """A docstring: sessions in fences, the rest as it stands."""
    for paragraph in text.split("\n\n"):
        rows = paragraph.splitlines()
        if rows[0].startswith(">>>"):
            yield from ("```pycon", *rows, "```")
        else:
            yield from rows
        yield ""


NAMESPACE = {**EXAMPLES, "Schedule": Schedule, "sketch": sketch}
"""The names that the examples in docstrings use."""


if __name__ == "__main__":
    print(reference(), end="")
