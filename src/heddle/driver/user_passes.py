# SPDX-License-Identifier: Apache-2.0
"""Passes that a user puts into the pipeline, by the name of the pass they stand beside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from heddle.ir.module import IRModule
from heddle.ir.passes import Pass, Pipeline
from heddle.support import UserError

Insertion: TypeAlias = "tuple[str, str, Pass | Callable[[IRModule], IRModule]]"
"""("after" or "before" or "replace", name of a pass, the pass: a function from module to module)"""

_PLACES: Final = {"before": "before", "after": "after", "replace": "replaced"}


def with_passes(pipeline: Pipeline, insertions: Sequence[Insertion]) -> Pipeline:
    """`pipeline` with the user's passes in it, in the order given: a later one may stand beside an
    earlier one. A function becomes a pass of its name.

    Raises `UserError` for a place, a name or a pass that is none.
    """
    for number, insertion in enumerate(insertions):
        where = f"passes[{number}]"
        if not isinstance(insertion, (tuple, list)) or len(insertion) != 3:
            raise UserError(f'{where} must be like ("after", "fuse", my_pass), got {insertion!r}')
        place, beside, step = insertion
        if place not in _PLACES:
            raise UserError(f"{where}: {place!r} is no place; there are {', '.join(_PLACES)}")
        made = _as_pass(step, where)
        pipeline = getattr(pipeline, _PLACES[place])(beside, made)
    return pipeline


def _as_pass(step: object, where: str) -> Pass:
    if isinstance(step, Pass):
        return Pass(step.name, _Checked(step.name, step.run), step.summary())
    if not callable(step):
        raise UserError(f"{where}: expected a function of a module, got {type(step).__name__}")
    name = getattr(step, "__name__", type(step).__name__)
    return Pass(name, _Checked(name, step), (step.__doc__ or "").strip().split("\n", 1)[0])


class _Checked:
    """A user's pass that says so when it forgets to give a module."""

    def __init__(self, name: str, run: Callable[[IRModule], IRModule]) -> None:
        self.name = name
        self.run = run

    def __call__(self, module: IRModule) -> IRModule:
        result: object = self.run(module)
        if not isinstance(result, IRModule):
            kind = type(result).__name__
            raise UserError(f"pass `{self.name}` must give an IRModule, it gave {kind}")
        return result
