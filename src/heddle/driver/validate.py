# SPDX-License-Identifier: Apache-2.0
"""Which pass changed a value: the module runs before and after each pass, on random inputs.

    heddle.compile(model, validate="values")
    heddle.optimize(model, validate=ValueValidator(seed=7, folder=Path("repro")))

The module runs in the reference interpreter, loop functions included, and a million steps of these
take several seconds: this is for small modules, or with `stop_after`. A module that would take more
than `ValueValidator.limit` steps is an error, not a long wait.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from heddle.driver.workbench.values import largest_difference
from heddle.graph.nodes import Binding, Function, Var
from heddle.ir import GlobalVar, IRModule, TensorType
from heddle.ir.expr import Var as Symbol
from heddle.ir.expr import as_int
from heddle.ir.passes import Pass
from heddle.ir.walk import pre_order
from heddle.op.interp import interpret
from heddle.schedule.state import blocks_below
from heddle.script import to_text
from heddle.support import UserError
from heddle.tir.externs import Externs
from heddle.tir.nodes import PrimFunc

_TOLERANCE: Final = {"float64": 1e-7, "float32": 1e-3, "float16": 3e-2, "bfloat16": 0.2}
"""Of the largest value: passes may reorder sums."""

_SYMBOL_SIZE: Final = 3
_WINDOWS: Final = (1, 2, 4, 8)
_RUN: Final = '''\
"""Pass `{name}` changes what this function computes: {what}.

before.py is the module that the pass was given, after.py what it made of it.
"""

from pathlib import Path

import numpy as np

from heddle.op.interp import interpret
from heddle.script import parse

here = Path(__file__).parent
values = np.load(here / "values.npz")
inputs = [values[f"input {{at}}"] for at in range({inputs})]
for stage in ("before", "after"):
    prefix = f"{{stage}} "
    constants = {{k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}}
    module = parse((here / f"{{stage}}.py").read_text(), constants=constants)
    print(stage, interpret(module, inputs))
'''


@dataclass(slots=True)
class ValueValidator:
    """Instrument that compares the values of `main` before and after each pass.

    seed: of the random inputs. inputs: some of them, by name. folder: where a repro is written, in
    a folder named after the pass. limit: runs of blocks of loop functions, all together. externs:
    the C functions that the module calls (see `heddle.tir.externs`).

    After a pass that changes a value, raises `UserError` that names the pass, the largest
    difference and the repro: the smallest piece of the module that shows it, as scripts with the
    values of inputs and constants, and a program that runs both.
    """

    seed: int = 0
    inputs: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path("heddle-repro")
    limit: int = 20_000_000
    externs: Externs | None = None
    _arrays: list[np.ndarray] = field(default_factory=list, init=False)
    _values: list[np.ndarray] | None = field(default=None, init=False)
    _module: IRModule | None = field(default=None, init=False)

    def before(self, step: Pass, module: IRModule) -> None:
        """Run the module that the first pass starts from."""
        if self._values is None:
            self._arrays = random_inputs(module, self.seed, self.inputs)
            self._values = self._run(module, self._arrays)
        self._module = module

    def after(self, step: Pass, module: IRModule, seconds: float) -> None:
        """Run what the pass gave, unless it is the module it got."""
        before = self._module
        if module is before or before is None or self._values is None:
            return
        steps = _loop_steps(module)
        if steps > self.limit:
            raise UserError(
                f"validate: after pass `{step.name}` the module takes {steps} steps of loops, too "
                f"many to interpret (the limit is {self.limit}); validate a smaller model, or the "
                "passes before that with heddle.optimize(..., stop_after=...)"
            )
        what = self._difference(self._values, module, self._arrays)
        if what is None:
            self._values = self._run(module, self._arrays)
            return
        case = self._shrink(step, before, self._arrays) or (before, module, self._arrays, what)
        folder = self._write(step, *case)
        raise UserError(
            f"pass `{step.name}` changed what the model computes: {what}; "
            f"run {folder / 'run.py'} to see it on {_size(case[0])}"
        )

    def _write(
        self,
        step: Pass,
        before: IRModule,
        after: IRModule,
        inputs: list[np.ndarray],
        what: str,
    ) -> Path:
        folder = self.folder / step.name
        folder.mkdir(parents=True, exist_ok=True)
        values = {f"input {at}": array for at, array in enumerate(inputs)}
        for stage, module in (("before", before), ("after", after)):
            constants: dict[str, np.ndarray] = {}
            text = to_text(module, constants=constants)
            (folder / f"{stage}.py").write_text(text + "\n", encoding="utf-8")
            values.update({f"{stage} {name}": array for name, array in constants.items()})
        np.savez(folder / "values.npz", **values)  # type: ignore[arg-type]
        text = _RUN.format(name=step.name, what=what, inputs=len(inputs))
        (folder / "run.py").write_text(text, encoding="utf-8")
        return folder

    def _run(self, module: IRModule, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return list(_arrays_of(interpret(module, inputs, externs=self.externs)))

    def _difference(
        self, expected: list[np.ndarray], module: IRModule, inputs: list[np.ndarray]
    ) -> str | None:
        """What differs from `expected`, in words."""
        try:
            got = self._run(module, inputs)
        except Exception as error:  # whatever a broken module does
            return f"it no longer runs: {error}"
        if len(got) != len(expected):
            return f"it gives {len(got)} results instead of {len(expected)}"
        for number, (want, have) in enumerate(zip(expected, got, strict=True)):
            if want.dtype != have.dtype or want.shape != have.shape:
                return (
                    f"result {number} is {have.dtype} of shape {have.shape} instead of "
                    f"{want.dtype} of shape {want.shape}"
                )
            size, where = largest_difference(want, have)
            if not size <= _TOLERANCE.get(want.dtype.name, 0.0):
                return f"result {number} at {list(where)} is {have[where]} instead of {want[where]}"
        return None

    def _shrink(
        self, step: Pass, module: IRModule, inputs: list[np.ndarray]
    ) -> tuple[IRModule, IRModule, list[np.ndarray], str] | None:
        """The fewest neighbouring operations on which the pass still changes a value: the module
        of them, what the pass makes of it, their inputs and the difference. None: only all do."""
        values: dict[str, Any] = {}
        main = _main(module)
        variables = {param.name: array for param, array in zip(main.params, inputs, strict=True)}
        interpret(module, inputs, on_value=values.__setitem__, externs=self.externs)
        values.update(variables)
        for width in _WINDOWS:
            if width >= len(main.bindings):
                break
            for start in range(len(main.bindings) - width + 1):
                window = main.bindings[start : start + width]
                case = _window(module, window, values)
                if case is None:
                    continue
                try:
                    expected = self._run(*case)
                    after = step.run(case[0])
                except Exception:  # a piece that cannot stand alone is no repro
                    continue
                what = self._difference(expected, after, case[1])
                if what is not None:
                    return case[0], after, case[1], what
        return None


def _loop_steps(module: IRModule) -> int:
    """How often the blocks of the loop functions run, each function once."""
    return sum(
        math.prod(as_int(axis.extent) or _SYMBOL_SIZE for axis in block.iters)
        for func in module.functions.values()
        if isinstance(func, PrimFunc)
        for block in blocks_below(func.body)
    )


def _size(module: IRModule) -> str:
    count = len(_main(module).bindings)
    return f"{count} operation{'s' * (count != 1)}"


def _main(module: IRModule) -> Function:
    found = module["main"]
    if not isinstance(found, Function):
        raise UserError("validate: `main` is no graph function")
    return found


def random_inputs(module: IRModule, seed: int, given: Mapping[str, Any]) -> list[np.ndarray]:
    """An input for each parameter of `main`; symbolic dimensions are 3 where no input says."""
    params = _main(module).params
    names = [param.name for param in params]
    for name in given:
        if name not in names:
            raise UserError(f"validate: `main` has no parameter `{name}`; it has {names}")
    sizes: dict[Any, int] = {}
    for param in params:
        if param.name in given and isinstance(param.type, TensorType):
            shape = np.shape(given[param.name])
            pairs = zip(param.type.shape, shape, strict=False)
            sizes.update((dim, size) for dim, size in pairs if isinstance(dim, Symbol))
    rng = np.random.default_rng(seed)
    return [
        np.asarray(given[param.name]) if param.name in given else _random(param, sizes, rng)
        for param in params
    ]


def _random(param: Var, sizes: Mapping[Any, int], rng: np.random.Generator) -> np.ndarray:
    if not isinstance(param.type, TensorType):
        raise UserError(f"validate: parameter `{param.name}` is no tensor: give it in `inputs`")
    shape = [
        size if (size := as_int(dim)) is not None else sizes.get(dim, _SYMBOL_SIZE)
        for dim in param.type.shape
    ]
    dtype = param.type.dtype
    if dtype.is_float:
        return rng.standard_normal(shape).astype(dtype.numpy)
    return rng.integers(0, 2, shape).astype(dtype.numpy)  # valid as indices nearly everywhere


def _arrays_of(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, tuple):
        for item in value:
            yield from _arrays_of(item)
    else:
        yield np.asarray(value)


def _window(
    module: IRModule, window: tuple[Binding, ...], values: Mapping[str, Any]
) -> tuple[IRModule, list[np.ndarray]] | None:
    """A module whose `main` is these bindings alone, and its inputs."""
    bound = {binding.var for binding in window}
    free: dict[Var, None] = {}
    for binding in window:
        for found in pre_order(binding.value):
            if isinstance(found, Var) and found not in bound:
                free[found] = None
    if any(not isinstance(values.get(var.name), np.ndarray) for var in free):
        return None
    attrs = dict(_main(module).attrs)
    main = Function(tuple(free), window, window[-1].var, attrs)
    functions = {"main": main, **_called(module, main)}
    return module.replace(functions=functions), [values[var.name] for var in free]


def _called(module: IRModule, main: Function) -> dict[str, Any]:
    """The functions that `main` calls, directly or not."""
    found: dict[str, Any] = {}
    waiting: list[Any] = [main]
    while waiting:
        for node in pre_order(waiting.pop()):
            callee = getattr(node, "callee", None)
            if isinstance(callee, GlobalVar) and callee.name not in found:
                found[callee.name] = module[callee.name]
                waiting.append(found[callee.name])
    return found
