# SPDX-License-Identifier: Apache-2.0
"""Random nonsense: a primitive that refuses says so by `ScheduleError`, and changes nothing.

Each sequence mixes a few legal steps with calls of any primitive on arguments of the right and of
the wrong kind: stale handles, loops of other blocks, names that do not exist, factors that are
negative, huge or text. `HEDDLE_TEST_ILLEGAL=n` tries n sequences instead of a few hundred, and
`HEDDLE_TEST_FIRST_ILLEGAL=s` begins with seed s.
"""

from __future__ import annotations

import inspect
import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from heddle.schedule import BlockRef, LoopRef, Schedule, ScheduleError
from heddle.schedule.primitives.base import PRIMITIVES
from heddle.tir.verify import verify
from tests.schedule.test_random import ACTIONS
from tests.schedule.workloads import WORKLOADS, check_results, random_inputs, results

COUNT = int(os.environ.get("HEDDLE_TEST_ILLEGAL", "320"))
FIRST = int(os.environ.get("HEDDLE_TEST_FIRST_ILLEGAL", "0"))
CHUNK = 20
"""Sequences in one test."""

CALLS = 12
"""Calls in one sequence."""

NUMBERS = (None, True, -1, 0, 1, 2, 3, 7, 10**6, 2**40, 2**70, -(2**40), 1.5, float("nan"))
TEXTS = (
    *("", "C", "no such block", "local", "global", "shared", "i", "read", "x" * 999, "blockIdx.x"),
    *("lambda", "lambda i: (j,)", "lambda i, j: (i // 0, j)", "lambda i: (i * i,)"),
    *("lambda v0, v1: (v1, v0,)", "x86.vpdpbusd.512"),
)
LISTS = ([], [None], [None, None], [0], [2, None], [-3, 2], ["a"], [1.5, 2], [3, 3, None], [[]])
OBJECTS = (*({}, {"a": 1}, object(), b"bytes", (4, None), lambda i: i, 2 + 3j, float("inf")),)
NONSENSE: tuple[Any, ...] = (*NUMBERS, *TEXTS, *LISTS, *OBJECTS)


def _argument(rng: random.Random, sch: Schedule, stale: list[LoopRef], kind: str) -> Any:
    """An argument for a parameter annotated `kind`: of that kind more often than not."""
    if rng.random() < 0.2:
        return rng.choice(NONSENSE)
    loops = [LoopRef(var) for var in sch.state.loop_links]
    blocks = [block.name for block in sch.get_blocks()]
    loop = rng.choice([*loops, *stale]) if loops or stale else None
    choices: dict[str, Callable[[], Any]] = {
        "LoopRef": lambda: loop,
        "BlockLike": lambda: rng.choice([*blocks, "root", BlockRef(rng.choice(blocks))]),
        "LoopRef | BlockLike": lambda: rng.choice([loop, *blocks]),
        "int": lambda: rng.choice([-1, 0, 0, 1, 2, 3, 4, 16, 1000]),
        "Sequence[int | None]": lambda: rng.choice([[None, 2], [3, None], [2, 2], [None], [0, 4]]),
        "Sequence[int]": lambda: [rng.choice([-1, 0, 1, 2, 4]) for _ in range(rng.randrange(5))],
        "str": lambda: rng.choice(TEXTS),
        "bool": lambda: rng.random() < 0.5,
    }
    make = choices.get(kind)
    return rng.choice(NONSENSE) if make is None else make()


def _call(rng: random.Random, sch: Schedule, stale: list[LoopRef]) -> tuple[str, list[Any]]:
    """A primitive and arguments for it, now and then too few or too many."""
    name = rng.choice(sorted(PRIMITIVES))
    parameters = list(inspect.signature(PRIMITIVES[name].call).parameters.values())[1:]
    args: list[Any] = []
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY:
            continue
        kind = str(parameter.annotation)
        count = rng.randrange(4) if parameter.kind is parameter.VAR_POSITIONAL else 1
        args += [_argument(rng, sch, stale, kind) for _ in range(count)]
    if rng.random() < 0.05:
        args = args[:-1] if rng.random() < 0.5 else [*args, rng.choice(NONSENSE)]
    return name, args


def _sequence(seed: int) -> None:
    rng = random.Random(f"illegal {seed}")
    original = WORKLOADS[rng.choice(sorted(WORKLOADS))]()
    sch = Schedule(original)
    stale: list[LoopRef] = []
    for _ in range(CALLS):
        before, trace = sch.func, str(sch.trace)
        loops = [LoopRef(var) for var in sch.state.loop_links]
        if rng.random() < 0.2:
            name, args = rng.choice(sorted(ACTIONS)), None
        else:
            name, args = _call(rng, sch, stale)
        refusal = ""
        try:
            if args is None:
                ACTIONS[name][0](rng, sch)
            else:
                getattr(sch, name)(*args)
        except ScheduleError as error:
            refusal = str(error)
        if refusal:
            assert sch.func is before, f"{name} failed but changed the function"
        if refusal and args is not None:
            assert str(sch.trace) == trace, f"{name} failed but left a trace"
            assert 0 < len(refusal.splitlines()[0]) < 2000, f"{name}: {refusal}"
        stale += [loop for loop in loops if loop.var not in sch.state.loop_links]
    verify(sch.func)
    inputs = random_inputs(original, seed)
    check_results(results(sch.func, inputs), results(original, inputs))


@pytest.mark.parametrize("chunk", range(FIRST, FIRST + COUNT, CHUNK))
def test_nonsense_is_refused(chunk: int) -> None:
    for seed in range(chunk, chunk + CHUNK):
        try:
            _sequence(seed)
        except Exception as error:
            raise AssertionError(f"sequence {seed}: {type(error).__name__}: {error}") from error
