# SPDX-License-Identifier: Apache-2.0
"""What an import could not do, and the one error that says all of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from heddle.support import UserError


class Unsupported(Exception):
    """Raised inside a converter: this node cannot be imported, and why.

    inputs: the graph inputs whose values would have to be known for it to work.
    """

    def __init__(self, reason: str, *, inputs: Iterable[str] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.inputs = frozenset(inputs)


class Consequence(Unsupported):
    """A node that cannot be imported because another, already noted, cannot."""

    def __init__(self) -> None:
        super().__init__("it needs what cannot be imported")


class ImportFailure(UserError):
    """The model has operators that cannot be imported; the message lists every one of them.

    needs: the graph inputs that would have to be known when compiling (pass them as `values`),
    empty when that would not help.
    """

    def __init__(self, message: str, needs: frozenset[str]) -> None:
        super().__init__(message)
        self.needs = needs


State = Literal["supported", "decomposed", "unsupported"]


@dataclass(frozen=True, slots=True)
class NodeCoverage:
    """One node: its name, operator ("domain::Name" outside of the default domain) and operator set;
    "supported" by a converter, "decomposed" by a function of the model or the standard, or
    "unsupported", and why."""

    name: str
    operator: str
    opset: int | None
    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Key:
    operator: str
    opset: str
    reason: str


@dataclass(slots=True)
class Report:
    """Collects unsupported nodes; the same trouble of several nodes is one line."""

    _nodes: dict[_Key, list[str]] = field(default_factory=dict)
    _needs: set[str] = field(default_factory=set)
    _hopeless: bool = False
    last_reason: str = ""
    """Why the node that was noted last cannot be imported."""

    def add(self, operator: str, opset: str, node: str, problem: Unsupported) -> None:
        """Note that `node` cannot be imported."""
        if isinstance(problem, Consequence):
            return
        self.last_reason = problem.reason
        self._nodes.setdefault(_Key(operator, opset, problem.reason), []).append(node)
        self._needs |= problem.inputs
        self._hopeless |= not problem.inputs

    def mark(self) -> Report:
        """What has been noted so far, for `rewind`."""
        return Report(
            {k: list(v) for k, v in self._nodes.items()}, set(self._needs), self._hopeless
        )

    def rewind(self, mark: Report) -> None:
        """Forget what was noted since `mark`: something else is tried."""
        self._nodes, self._needs = mark._nodes, mark._needs
        self._hopeless = mark._hopeless

    @property
    def count(self) -> int:
        """How many nodes were noted."""
        return sum(len(nodes) for nodes in self._nodes.values())

    def lines_of(self, *operators: str) -> tuple[str, ...]:
        """What was noted of these, a line each."""
        return tuple(
            f"{key.operator} `{node}`: {key.reason}"
            for key, nodes in self._nodes.items()
            if key.operator in operators
            for node in nodes
        )

    def raise_if_any(self, model: str) -> None:
        """`ImportFailure` when anything was noted."""
        if not self._nodes:
            return
        lines = []
        for key, nodes in self._nodes.items():
            count = f" ({len(nodes)} nodes)" if len(nodes) > 1 else ""
            lines.append(
                f"  {key.operator} ({key.opset}) at node `{nodes[0]}`{count}: {key.reason}"
            )
        total = sum(len(nodes) for nodes in self._nodes.values())
        what = "1 node" if total == 1 else f"{total} nodes"
        needs = frozenset() if self._hopeless else frozenset(self._needs)
        raise ImportFailure(
            f"model `{model}`: {what} cannot be imported\n" + "\n".join(lines), needs
        )
