# SPDX-License-Identifier: Apache-2.0
"""`@primitive`: what every schedule primitive shares.

It binds and checks the arguments (and says which one is wrong), turns names into handles, makes
the call all or nothing, and records it in the trace.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from heddle.schedule.errors import Place, ScheduleError
from heddle.schedule.refs import BlockRef, LoopRef, Sampled
from heddle.schedule.state import State, blocks_below
from heddle.tir.nodes import Block, For
from heddle.tir.tensor_intrin import NAME

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Primitive:
    """A schedule primitive: its function and how its arguments print in a trace."""

    name: str
    call: Callable[..., Any]
    positional: frozenset[str]
    variadic: str | None
    returns_list: bool


PRIMITIVES: dict[str, Primitive] = {}


def fail(sch: Schedule, name: str, message: str, *nodes: Place) -> ScheduleError:
    """The error of primitive `name` on the present function; it underlines `nodes`, or else the
    loops and blocks that the primitive was given."""
    return ScheduleError(f"{name}: {message}", func=sch.func, nodes=nodes)


def _present(state: State, places: Iterable[object]) -> list[For | Block]:
    """Those of `places` that are loops or blocks, as they are in the function of `state`."""
    found: list[For | Block] = []
    for place in places:
        if isinstance(place, (For, LoopRef)) and place.var in state.loop_links:
            found.append(state.loop(place.var))
        elif isinstance(place, (Block, BlockRef)) and place.name in state.block_links:
            found.append(state.block(place.name))
    return found


def _point_at(error: ScheduleError, state: State, given: Mapping[str, Any]) -> None:
    """Let `error` show the function of `state`, as the primitive got it, and what is wrong there:
    it may have been raised half-way through the changes."""
    error.func = state.func
    values = [v for value in given.values() for v in (value if type(value) is tuple else (value,))]
    error.nodes = tuple(_present(state, error.nodes) or _present(state, values))


def primitive(function: Callable[P, R]) -> Callable[P, R]:
    """Make a schedule primitive of `function(sch, ...)`. See the module's documentation."""
    name = function.__name__
    parameters = list(inspect.signature(function).parameters.values())[1:]
    variadic = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    checks = {p.name: _check_for(name, p) for p in parameters}
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(sch: Schedule, *args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(sch, *args, **kwargs).arguments
        except TypeError as error:
            raise fail(sch, name, f"{error}; the signature is {name}{signature}") from None
        given: dict[str, Any] = {}
        before, state, mark = sch.func, sch.state, sch.trace.mark()
        try:
            for parameter, value in list(bound.items())[1:]:
                if parameter == variadic:
                    given[parameter] = tuple(checks[parameter](sch, item) for item in value)
                else:
                    given[parameter] = checks[parameter](sch, value)
            rest = {key: _plain(value) for key, value in given.items() if key != variadic}
            result = function(sch, *given.get(variadic or "", ()), **rest)  # type: ignore[arg-type]
        except Exception as error:
            sch.set_func(before)
            sch.trace.rewind(mark)  # primitives that this one called have left steps
            if isinstance(error, ScheduleError):
                _point_at(error, state, given)
            raise
        sch.before_step = before
        recorded = {k: v for k, v in given.items() if k not in defaults or v != defaults[k]}
        sch.name_loops_of(given, state)
        decision = sch.take_decision()
        if decision is not None:
            recorded["decision"] = decision
            result = _remembered(sch, result)
        sch.trace.add(name, recorded, _results_of(result))
        return result

    returns_list = str(function.__annotations__.get("return", "")).startswith("list")
    names = frozenset(p.name for p in positional if not str(p.annotation).startswith("Sequence"))
    PRIMITIVES[name] = Primitive(name, call, names, variadic, returns_list)
    return cast("Callable[P, R]", call)


def _results_of(result: Any) -> list[LoopRef | Sampled]:
    if isinstance(result, (LoopRef, Sampled)):
        return [result]
    items = result if isinstance(result, list) else []
    return [item for item in items if isinstance(item, (LoopRef, Sampled))]


def _remembered(sch: Schedule, result: Any) -> Any:
    """What a sampling primitive returned, with names for the trace."""
    if isinstance(result, list):
        return [_remembered(sch, item) for item in result]
    if isinstance(result, LoopRef):
        return LoopRef(result.var, sch.trace.fresh(result.alias or result.name))
    return Sampled.named(result, sch.trace.fresh_value())


def _plain(value: Any) -> Any:
    """An argument without the memory of where its integers come from."""
    if isinstance(value, Sampled):
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


# -- one check per kind of argument, found by its annotation ----------------------------------


def _check_for(name: str, parameter: inspect.Parameter) -> Callable[[Schedule, Any], Any]:
    where = f"argument `{parameter.name}`"
    check = _CHECKS[str(parameter.annotation)]
    return lambda sch, value: check(sch, name, where, value)


def _wrong(sch: Schedule, name: str, where: str, expected: str, value: Any) -> ScheduleError:
    return fail(sch, name, f"{where} must be {expected}, got {type(value).__name__} `{value!r}`")


def _loop(sch: Schedule, name: str, where: str, value: Any) -> LoopRef:
    if not isinstance(value, LoopRef):
        raise _wrong(sch, name, where, "a loop (from get_loops, split, ...)", value)
    if value.var not in sch.state.loop_links:
        consumer = sch.trace.consumer_of(value.var)
        why = f"`{consumer}` consumed it" if consumer else "it is not a loop of this function"
        raise fail(sch, name, f"{where}: loop `{value.name}` does not exist: {why}", value)
    around = sch.state.parent_block(sch.state.loop(value.var))
    if around is not sch.state.root:
        _check_inner_loop(sch, name, where, value, around)
    return value


def _check_inner_loop(sch: Schedule, name: str, where: str, loop: LoopRef, around: Block) -> None:
    """Raise when a primitive cannot work on a loop inside a block."""
    marked = (n for n in sch.state.path(sch.state.loop(loop.var)) if type(n) is For)
    if any(NAME in found.annotations for found in marked):
        raise fail(
            sch,
            name,
            f"{where}: loop `{loop.name}` of block `{around.name}` is done by a tensor intrinsic",
            loop,
        )
    if name not in _INSIDE_LOOPS or not blocks_below(sch.state.loop(loop.var)):
        raise fail(
            sch,
            name,
            f"{where}: loop `{loop.name}` is a part of block `{around.name}`, in which only "
            f"{', '.join(sorted(_INSIDE_LOOPS))} work, on loops around the block inside",
            loop,
        )


def _block(sch: Schedule, name: str, where: str, value: Any) -> BlockRef:
    if isinstance(value, str):
        value = BlockRef(value)
    if not isinstance(value, BlockRef):
        raise _wrong(sch, name, where, "a block or the name of one", value)
    if value.name not in sch.state.block_links or value.name == sch.state.root.name:
        known = ", ".join(f"`{key}`" for key in list(sch.state.block_links)[1:])
        raise fail(
            sch, name, f"{where}: there is no block `{value.name}`; there are {known}", value
        )
    around = sch.state.parent_block(sch.state.block(value.name))
    if around is not sch.state.root and name not in _INSIDE_BLOCKS:
        raise fail(
            sch,
            name,
            f"{where}: block `{value.name}` is a part of block `{around.name}` (blockize made it "
            "one); give that block",
            value,
        )
    return value


_INSIDE_LOOPS = frozenset(
    {"annotate", "fuse", "reorder", "serial", "split", "unannotate", "unroll", "vectorize"}
)
"""Primitives that work on a loop inside a block."""
_INSIDE_BLOCKS = frozenset({"annotate", "unannotate", "tensorize"})
"""Primitives that work on a block inside another one."""


def _loop_or_block(sch: Schedule, name: str, where: str, value: Any) -> LoopRef | BlockRef:
    return (
        _loop(sch, name, where, value)
        if isinstance(value, LoopRef)
        else _block(sch, name, where, value)
    )


def _integer(sch: Schedule, name: str, where: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise _wrong(sch, name, where, "an integer", value)
    return value if isinstance(value, Sampled) else int(value)


def _factors(sch: Schedule, name: str, where: str, value: Any) -> list[int | None]:
    if not isinstance(value, (list, tuple)) or not value:
        raise _wrong(sch, name, where, "a list of integers with at most one None", value)
    result: list[int | None] = []
    for item in value:
        if item is not None and (isinstance(item, bool) or not hasattr(item, "__index__")):
            raise _wrong(sch, name, where, "a list of integers with at most one None", value)
        result.append(item if item is None or isinstance(item, Sampled) else int(item))
    if result.count(None) > 1:
        raise _wrong(sch, name, where, "a list of integers with at most one None", value)
    for factor in result:
        if factor is not None and factor <= 0:
            raise fail(sch, name, f"{where}: a factor must be positive, got {factor}")
    return result


def _integers(sch: Schedule, name: str, where: str, value: Any) -> list[int]:
    if not isinstance(value, (list, tuple)):
        raise _wrong(sch, name, where, "a list of integers", value)
    return [_integer(sch, name, where, item) for item in value]


def _numbers(sch: Schedule, name: str, where: str, value: Any) -> list[float]:
    numbers = isinstance(value, (list, tuple)) and all(
        isinstance(item, (int, float)) and not isinstance(item, bool) for item in value
    )
    if not numbers:
        raise _wrong(sch, name, where, "a list of numbers", value)
    return [float(item) for item in value]


def _or_none(check: Callable[[Any, str, str, Any], Any]) -> Callable[[Any, str, str, Any], Any]:
    return lambda sch, name, where, value: None if value is None else check(sch, name, where, value)


def _string(sch: Schedule, name: str, where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(sch, name, where, "a string", value)
    return value


def _boolean(sch: Schedule, name: str, where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(sch, name, where, "True or False", value)
    return value


def _is_data(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_data, value))
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_data(item) for key, item in value.items())
    return value is None or isinstance(value, (bool, int, float, str))


def _data(sch: Schedule, name: str, where: str, value: Any) -> Any:
    if not _is_data(value):
        raise _wrong(sch, name, where, "plain data (numbers, strings, lists, dicts)", value)
    return list(value) if isinstance(value, tuple) else value


_CHECKS: dict[str, Callable[[Any, str, str, Any], Any]] = {
    "LoopRef": _loop,
    "BlockLike": _block,
    "LoopRef | BlockLike": _loop_or_block,
    "int": _integer,
    "Sequence[int | None]": _factors,
    "Sequence[int]": _integers,
    "Sequence[int] | None": _or_none(_integers),
    "Sequence[float]": _numbers,
    "int | None": _or_none(_integer),
    "str": _string,
    "bool": _boolean,
    "object": _data,
}
