# SPDX-License-Identifier: Apache-2.0
"""What an import could not do, and the one error that says all of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from heddle.support import UserError

_SHOWN = 3
"""So many layers are named for each operator that cannot be imported."""


class Unsupported(Exception):
    """Raised inside a converter: this node cannot be imported, and why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ImportFailure(UserError):
    """The program has operators that cannot be imported; the message lists every one of them."""


@dataclass(slots=True)
class Report:
    """Collects nodes that cannot be imported; the same trouble of several nodes is one line."""

    _nodes: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, operator: str, label: str, problem: Unsupported) -> None:
        """Note that the node called `label` cannot be imported."""
        self._nodes.setdefault((operator, problem.reason), []).append(label)

    def __bool__(self) -> bool:
        return bool(self._nodes)

    def raise_if_any(self, program: str) -> None:
        """`ImportFailure` when anything was noted."""
        if not self._nodes:
            return
        lines = []
        for (operator, reason), labels in self._nodes.items():
            places = ", ".join(f"`{label}`" for label in labels[:_SHOWN])
            more = len(labels) - _SHOWN
            places += f" and {more} more" if more > 0 else ""
            lines.append(f"  {operator} at {places}: {reason}")
        total = sum(len(labels) for labels in self._nodes.values())
        what = "1 node" if total == 1 else f"{total} nodes"
        raise ImportFailure(f"program `{program}`: {what} cannot be imported\n" + "\n".join(lines))
