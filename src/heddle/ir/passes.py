# SPDX-License-Identifier: Apache-2.0
"""Passes and pipelines: a compiler is a flat list of named steps from module to module.

    pipeline = Pipeline([Pass("fold_constants", fold_constants), Pass("fuse", fuse)])
    pipeline = pipeline.before("fuse", Pass("mine", my_rewrite))
    module = pipeline.run(module, instruments=[timer := Timer()])
    print(timer.table())

Instruments look on: they are told of every pass before and after it ran. `Timer` adds up seconds,
`Dump` writes the module before and after each pass to files, `Verify` checks it after each pass.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from heddle.ir.module import IRModule
from heddle.support import HeddleError, InternalError, UserError
from heddle.support.env import HEDDLE_DUMP

# Compiling makes millions of small objects that live long: the collector would visit them all
# again and again and find nothing.
_GC_THRESHOLD: Final = (200_000, 20, 100)


@dataclass(frozen=True, slots=True)
class Pass:
    """One step: `run` takes a module and gives the module after it. Options of a pass are bound
    into `run` (a pass with options is a callable dataclass). `doc` defaults to the first line
    of the docstring of `run`."""

    name: str
    run: Callable[[IRModule], IRModule]
    doc: str = ""

    def summary(self) -> str:
        """One line that says what the pass does."""
        text = self.doc or self.run.__doc__ or ""
        return text.strip().split("\n", 1)[0]


class Instrument(Protocol):
    """What a pipeline tells of each pass it runs."""

    def before(self, step: Pass, module: IRModule) -> None:
        """`step` is about to run on `module`."""

    def after(self, step: Pass, module: IRModule, seconds: float) -> None:
        """`step` gave `module` after `seconds`."""


@dataclass(slots=True)
class Timer:
    """Instrument that adds up the seconds of each pass."""

    seconds: dict[str, float] = field(default_factory=dict)

    def before(self, step: Pass, module: IRModule) -> None:
        """Nothing to do."""

    def after(self, step: Pass, module: IRModule, seconds: float) -> None:
        """Add to the pass's account."""
        self.seconds[step.name] = self.seconds.get(step.name, 0.0) + seconds

    @property
    def total(self) -> float:
        """Seconds of all passes together."""
        return sum(self.seconds.values())

    def table(self) -> str:
        """Lines of pass name and milliseconds, in the order in which they first ran."""
        width = max((len(name) for name in self.seconds), default=0)
        lines = [f"{name:<{width}}  {s * 1e3:9.2f} ms" for name, s in self.seconds.items()]
        return "\n".join([*lines, f"{'total':<{width}}  {self.total * 1e3:9.2f} ms"])


@dataclass(slots=True)
class Dump:
    """Instrument that writes the module before the first pass and after each pass to `folder`
    (made if need be), as `00_input.py`, `01_fold_constants.py`, ...

    only: names of the passes to dump; all when empty. text: how to print a module.
    """

    folder: Path
    only: frozenset[str] = frozenset()
    text: Callable[[IRModule], str] = str
    count: int = 0

    def before(self, step: Pass, module: IRModule) -> None:
        """Write what the first pass starts from, or what a chosen pass starts from."""
        if self.count == 0 or step.name in self.only:
            name = f"before_{step.name}" if step.name in self.only else "input"
            self._write(name, module)
        self.count += 1

    def after(self, step: Pass, module: IRModule, seconds: float) -> None:
        """Write what the pass gave."""
        if not self.only or step.name in self.only:
            self._write(step.name, module)

    def _write(self, name: str, module: IRModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self.count:02d}_{name}.py"
        path.write_text(self.text(module) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Verify:
    """Instrument that runs `check` on the module after each pass. An error it raises becomes an
    `InternalError` that names the pass: a pass must never break a module."""

    check: Callable[[IRModule], object]

    def before(self, step: Pass, module: IRModule) -> None:
        """Nothing to do."""

    def after(self, step: Pass, module: IRModule, seconds: float) -> None:
        """Check what the pass gave."""
        try:
            self.check(module)
        except HeddleError as error:
            text = error.message.removesuffix(" (this is a bug in Heddle; please report it)")
            raise InternalError(
                f"the module is not well-formed after pass `{step.name}`: {text}", span=error.span
            ) from error


@contextlib.contextmanager
def relaxed_gc() -> Iterator[None]:
    """Within, the garbage collector runs rarely; the old thresholds come back on leaving."""
    old = gc.get_threshold()
    if 0 < old[0] < _GC_THRESHOLD[0]:
        gc.set_threshold(*_GC_THRESHOLD)
    try:
        yield
    finally:
        gc.set_threshold(*old)


class Pipeline:
    """An immutable list of passes with unique names."""

    __slots__ = ("passes",)

    passes: tuple[Pass, ...]

    def __init__(self, passes: Iterable[Pass] = ()) -> None:
        self.passes = tuple(passes)
        seen: set[str] = set()
        for step in self.passes:
            if step.name in seen:
                raise UserError(f"pipeline: two passes are named `{step.name}`")
            seen.add(step.name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the passes in order."""
        return tuple(step.name for step in self.passes)

    def __repr__(self) -> str:
        return f"Pipeline({' -> '.join(self.names)})"

    def index(self, name: str) -> int:
        """The position of a pass; `UserError` when there is none of this name."""
        if name not in self.names:
            known = ", ".join(self.names) or "none"
            raise UserError(f"pipeline: there is no pass `{name}`; the passes are: {known}")
        return self.names.index(name)

    def before(self, name: str, *passes: Pass) -> Pipeline:
        """This pipeline with `passes` right before the pass `name`."""
        at = self.index(name)
        return Pipeline((*self.passes[:at], *passes, *self.passes[at:]))

    def after(self, name: str, *passes: Pass) -> Pipeline:
        """This pipeline with `passes` right after the pass `name`."""
        at = self.index(name) + 1
        return Pipeline((*self.passes[:at], *passes, *self.passes[at:]))

    def without(self, *names: str) -> Pipeline:
        """This pipeline less the passes `names`."""
        drop = {self.index(name) for name in names}
        return Pipeline(step for at, step in enumerate(self.passes) if at not in drop)

    def replaced(self, name: str, step: Pass) -> Pipeline:
        """This pipeline with `step` where the pass `name` is."""
        at = self.index(name)
        return Pipeline((*self.passes[:at], step, *self.passes[at + 1 :]))

    def __add__(self, other: Pipeline) -> Pipeline:
        return Pipeline((*self.passes, *other.passes))

    def run(
        self,
        module: IRModule,
        *,
        instruments: Sequence[Instrument] = (),
        stop_after: str | None = None,
    ) -> IRModule:
        """The module after all passes, or after the pass `stop_after`.

        The environment variable HEDDLE_DUMP names a folder to dump to.
        """
        folder = HEDDLE_DUMP.get()
        if folder is not None:
            instruments = [*instruments, Dump(folder)]
        end = len(self.passes) if stop_after is None else self.index(stop_after) + 1
        with relaxed_gc():
            for step in self.passes[:end]:
                for instrument in instruments:
                    instrument.before(step, module)
                start = time.perf_counter()
                module = step.run(module)
                seconds = time.perf_counter() - start
                for instrument in instruments:
                    instrument.after(step, module, seconds)
        return module
