# SPDX-License-Identifier: Apache-2.0
"""One graph of ATen operators as a callable: compiled as a whole, or in parts around the operators
that Heddle has no rule for, which run in PyTorch."""

from __future__ import annotations

import operator
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import fx
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx.passes.split_module import split_module

from heddle.driver.api import compile
from heddle.driver.dynamo.part import CompiledPart
from heddle.frontend.torch.flat import Program, from_graph, is_write
from heddle.frontend.torch.importer import target_name
from heddle.runtime import Executable
from heddle.support import HeddleError

_SHOWN: Final = 12
"""So many operators are named in a warning."""


class FallbackWarning(UserWarning):
    """Parts of a compiled graph run in PyTorch."""


def compile_graph(
    graph: fx.GraphModule, *, role: str, strict: bool, options: Mapping[str, Any]
) -> Callable[..., Any]:
    """The callable of a graph whose nodes carry fake tensors.

    role: "inference", "forward" or "backward", for names. Operators without a rule run in PyTorch,
    with one `FallbackWarning` for the graph; when `strict`, `ImportFailure` lists them instead.
    """
    with unset_fake_temporarily():  # constants of the graph are real
        return _compile_graph(graph, role, strict, options)


def _compile_graph(
    graph: fx.GraphModule, role: str, strict: bool, options: Mapping[str, Any]
) -> Callable[..., Any]:
    survey = from_graph(graph, name=role, survey=True)
    if not survey.unsupported:
        return _compiled(graph, role, options, strict=strict)
    if strict:
        survey.report.raise_if_any(role)
    reasons = {fx_node: problem.reason for fx_node, problem in survey.unsupported.items()}
    _warn(role, reasons)
    return _in_parts(graph, role, set(reasons), options)


def _compiled(
    graph: fx.GraphModule, role: str, options: Mapping[str, Any], *, strict: bool
) -> Callable[..., Any]:
    """The graph as one executable; in PyTorch, with a warning, when it does not compile."""
    try:
        program = from_graph(graph, name=role)
        executable = None if program.module is None else _executable(program, options)
        return CompiledPart(graph, program, executable)
    except HeddleError as error:
        if strict:
            raise
        warnings.warn(
            f"torch.compile with Heddle: the {role} graph runs in PyTorch, because it does not "
            f"compile: {error.message}",
            FallbackWarning,
            stacklevel=2,
        )
        return graph.forward


def _executable(program: Program, options: Mapping[str, Any]) -> Executable:
    """The compiled module; it writes over arguments in place where nothing else of theirs lies
    there: a result that did would change with the next write."""
    assert program.module is not None
    homes = {write.parameter: write.result for write in program.writes if write.parameter}
    while True:
        executable = compile(program.module, donate=sorted(homes), **options)
        names = [item.name for item in executable.inputs]
        taken = {
            names[item.lies_in]
            for at, item in enumerate(executable.outputs)
            if item.lies_in is not None and homes.get(names[item.lies_in]) != at
        }
        if not taken:
            return executable
        homes = {name: at for name, at in homes.items() if name not in taken}


def _warn(role: str, reasons: Mapping[fx.Node, str]) -> None:
    counts = Counter((target_name(fx_node), reason) for fx_node, reason in reasons.items())
    lines = [
        f"  {name} ({count}x): {reason}" for (name, reason), count in counts.most_common(_SHOWN)
    ]
    if len(counts) > _SHOWN:
        lines.append(f"  and {len(counts) - _SHOWN} more")
    total = sum(counts.values())
    what = "1 operator runs" if total == 1 else f"{total} operators run"
    warnings.warn(
        f"torch.compile with Heddle: {what} in PyTorch in the {role} graph "
        '(options={"strict": True} makes this an error)\n' + "\n".join(lines),
        FallbackWarning,
        stacklevel=2,
    )


def _in_parts(
    graph: fx.GraphModule, role: str, eager: set[fx.Node], options: Mapping[str, Any]
) -> Callable[..., Any]:
    """The graph split into parts that are compiled (odd numbers) and parts that are not."""
    numbers = _levels(graph, eager)
    split = split_module(graph, graph, lambda fx_node: numbers[fx_node], tuple_return=True)
    for name, part in list(split.named_children()):
        number = int(name.rpartition("_")[2])
        if number % 2 and isinstance(part, fx.GraphModule):
            call = _compiled(part, f"{role}_{number}", options, strict=False)
            delattr(split, name)
            setattr(split, name, call)
    return split.forward  # type: ignore[no-any-return]


def _levels(graph: fx.GraphModule, eager: set[fx.Node]) -> dict[fx.Node, int]:
    """The number of each node's part: no smaller than those it reads from, odd for compiled ones.
    What is random keeps its order."""
    numbers: dict[fx.Node, int] = {}
    random = 0
    for fx_node in graph.graph.nodes:
        if fx_node.op in ("placeholder", "output"):
            continue
        before = max((numbers.get(item, 0) for item in fx_node.all_input_nodes), default=0)
        if fx_node.target is operator.getitem:  # where the tuple is
            numbers[fx_node] = numbers[fx_node.args[0]]  # type: ignore[index]
            continue
        if is_write(fx_node):  # behind all that reads the argument
            last = max(numbers.values(), default=0)
            numbers[fx_node] = last + last % 2
            continue
        wanted = 0 if fx_node in eager else 1
        number = before if before % 2 == wanted else before + 1
        if wanted == 0 and _is_random(fx_node):
            random = number = max(number, random)
        numbers[fx_node] = number
    return numbers


def _is_random(fx_node: fx.Node) -> bool:
    tags = getattr(fx_node.target, "tags", ())
    return torch.Tag.nondeterministic_seeded in tags
