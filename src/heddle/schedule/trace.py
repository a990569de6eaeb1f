# SPDX-License-Identifier: Apache-2.0
"""The trace of a schedule: what was done, as data that prints as Python, travels as JSON, replays.

>>> print(sch.trace)                                    # doctest: +SKIP
i, j, k = sch.get_loops("C")
i_0, i_1 = sch.split(i, factors=[None, 6])
sch.parallel(i_0)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from heddle.ir.expr import Var
from heddle.schedule.refs import BlockRef, LoopRef, Sampled
from heddle.support import UserError
from heddle.support.names import fresh_name


@dataclass(frozen=True, slots=True)
class LoopName:
    """A loop inside a trace: the name that an earlier step gave it."""

    name: str

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class ValueName:
    """A drawn integer inside a trace: the name that an earlier step gave it."""

    name: str

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Step:
    """One call: `arguments` by parameter name (loops as `LoopName`, blocks as their names), and the
    names given to the loops or drawn integers that it returned."""

    primitive: str
    arguments: Mapping[str, Any]
    results: tuple[str, ...] = ()

    def __str__(self) -> str:
        from heddle.schedule.primitives.base import PRIMITIVES  # the table imports this module

        known = PRIMITIVES.get(self.primitive)
        positional = {"block"} if known is None else known.positional
        parts: list[str] = []
        for name, value in self.arguments.items():
            if known is not None and name == known.variadic:
                parts.extend(map(repr, value))
            else:
                parts.append(_source(value) if name in positional else f"{name}={_source(value)}")
        call = f"sch.{self.primitive}({', '.join(parts)})"
        if not self.results:
            return call
        tail = "," if len(self.results) == 1 and (known is None or known.returns_list) else ""
        return f"{', '.join(self.results)}{tail} = {call}"


def _source(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_source, value))}]"
    if isinstance(value, Mapping) and value.keys() == {"map"}:
        return str(value["map"])
    return repr(value)


@dataclass(slots=True)
class Trace:
    """The steps of a schedule, in order."""

    steps: list[Step] = field(default_factory=list)
    names: dict[Var, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        return "\n".join(map(str, self.steps))

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def name_loop(self, var: Var) -> str:
        """The name of a loop in this trace; a new one the first time."""
        name = self.names.get(var)
        if name is None:
            stem = var.name if var.name.isidentifier() else "loop"
            name = self.names[var] = fresh_name(stem, self.taken)
            self.taken.add(name)
        return name

    def add(
        self, primitive: str, arguments: Mapping[str, Any], results: Sequence[LoopRef | Sampled]
    ) -> None:
        """Record a call that returned `results`."""
        encoded = {name: self._encode(value) for name, value in arguments.items()}
        names = tuple(
            found.name if isinstance(found, Sampled) else found.alias or self.name_loop(found.var)
            for found in results
        )
        self.steps.append(Step(primitive, encoded, names))

    def mark(self) -> tuple[int, int]:
        """How far the trace is, for `rewind`."""
        return len(self.steps), len(self.names)

    def rewind(self, mark: tuple[int, int]) -> None:
        """Forget the steps since `mark` and the names that they gave: a primitive was refused."""
        steps, names = mark
        del self.steps[steps:]
        for var in list(self.names)[names:]:
            self.taken.discard(self.names.pop(var))

    def fresh(self, stem: str) -> str:
        """A name that nothing has in this trace."""
        name = fresh_name(stem, self.taken)
        self.taken.add(name)
        return name

    def fresh_value(self) -> str:
        """A name for a drawn integer: v0, v1, ..."""
        number = 0
        while f"v{number}" in self.taken:
            number += 1
        return self.fresh(f"v{number}")

    def decisions(self) -> list[Any]:
        """What the sampling steps decided, in order."""
        return [step.arguments["decision"] for step in self.steps if "decision" in step.arguments]

    def with_decisions(self, decisions: Sequence[Any]) -> Trace:
        """The same steps with other decisions, one for each sampling step (None: drawn anew).

        Raises `UserError` when there are more or fewer than sampling steps.
        """
        if len(decisions) != len(self.decisions()):
            raise UserError(
                f"with_decisions: the trace has {len(self.decisions())} sampling steps, got "
                f"{len(decisions)} decisions"
            )
        rest = iter(decisions)
        steps = [
            replace(step, arguments={**step.arguments, "decision": next(rest)})
            if "decision" in step.arguments
            else step
            for step in self.steps
        ]
        return Trace(steps)

    def changed(self, step: int | str, **arguments: Any) -> Trace:
        """The same steps with other arguments of one of them, such as other tile sizes.

        step: its number, or the name of a loop that it returned.

            replay(sch.trace.changed("i_0", factors=[None, 8]), func)

        Raises `UserError` when there is no such step, or it has no such argument.
        """
        number = step if isinstance(step, int) else self._step_that_made(step)
        if not -len(self.steps) <= number < len(self.steps):
            raise UserError(f"changed: the trace has {len(self.steps)} steps, none is {number}")
        old = self.steps[number]
        for name in arguments:
            if name not in old.arguments:
                known = ", ".join(f"`{key}`" for key in old.arguments) or "none"
                raise UserError(
                    f"changed: `{old}` is given no argument `{name}`; it is given {known}"
                )
        steps = list(self.steps)
        steps[number] = replace(old, arguments={**old.arguments, **arguments})
        return Trace(steps)

    def _step_that_made(self, name: str) -> int:
        for number, step in enumerate(self.steps):
            if name in step.results and step.primitive != "get_loops":
                return number
        raise UserError(f"changed: no step of the trace made a loop `{name}`")

    def _encode(self, value: Any) -> Any:
        if isinstance(value, LoopRef):
            return LoopName(value.alias or self.names[value.var])
        if isinstance(value, Sampled):
            return ValueName(value.name)
        if isinstance(value, BlockRef):
            return value.name
        if isinstance(value, (tuple, list)):
            return type(value)(self._encode(item) for item in value)
        return value

    def consumer_of(self, var: Var) -> str | None:
        """The last step that was given the loop over `var`."""
        name = LoopName(self.names.get(var, ""))
        for step in reversed(self.steps):
            for value in step.arguments.values():
                if value == name or (isinstance(value, (tuple, list)) and name in value):
                    return step.primitive
        return None

    def to_json(self) -> str:
        """The trace as JSON text; `Trace.from_json` reads it back."""
        rows = [
            {"primitive": s.primitive, "arguments": s.arguments, "results": s.results}
            for s in self.steps
        ]
        return json.dumps(rows, default=_name_data)

    @staticmethod
    def from_json(text: str) -> Trace:
        """The trace that `to_json` wrote. Raises `UserError` when the text is no trace."""
        try:
            rows = json.loads(text)
            steps = [
                Step(
                    row["primitive"],
                    {name: _decode(value) for name, value in row["arguments"].items()},
                    tuple(row["results"]),
                )
                for row in rows
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"not a schedule trace: {error}") from error
        return Trace(steps)


def _name_data(name: LoopName | ValueName) -> dict[str, str]:
    return {"loop" if isinstance(name, LoopName) else "value": name.name}


def _decode(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"value"}:
        return ValueName(value["value"])
    if isinstance(value, dict) and value.keys() == {"loop"}:
        return LoopName(value["loop"])
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return value
