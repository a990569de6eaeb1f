# SPDX-License-Identifier: Apache-2.0
"""`T`, `G`, `I`: the namespaces of scripts inside Python files, and their decorators.

    from __future__ import annotations  # shapes may then name symbols that Python does not know
    from heddle.script import G, I, T

    @T.prim_func
    def double(A: T.Buffer((n,), "float32"), B: T.Buffer((n,), "float32")):
        for i in T.serial(n):
            with T.block("double"):
                vi = T.axis.spatial(n, i)
                B[vi] = A[vi] * 2.0

A decorator reads the source of what it decorates and gives the IR; Python never runs the body.
Integers, floats, strings, dtypes and macros of the surrounding code may be used in it by name.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from heddle.graph.nodes import Function
from heddle.ir import IRModule
from heddle.script.parse_base import Context, Macro, Source
from heddle.script.parser import guarded, parse_function, parse_module, syntax_tree
from heddle.support import UserError
from heddle.tir.nodes import PrimFunc

# What Python itself evaluates where a script stands in a file: annotations and class bodies.
_INERT = frozenset(
    "Buffer Tensor Tuple Func Data Self var extern same module_attrs bool handle bfloat16 float16 "
    "float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64".split()
)


class _Inert:
    """Stands for a form of the script language where Python evaluates it: it does nothing."""

    def __call__(self, *args: Any, **options: Any) -> _Inert:
        return self


class Namespace:
    """A namespace of the script language; its names have a meaning inside scripts only."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name in _INERT:
            return _Inert()
        raise AttributeError(
            f"{self._name}.{name} has a meaning only inside a function with a script decorator"
        )


def parse_here(target: Any, frame: Any, parse: Callable[[Context, Any], Any]) -> Any:
    """Parse the source of a decorated function or class, with the names around it."""
    try:
        lines, first = inspect.getsourcelines(target)
        file = inspect.getsourcefile(target) or "<unknown>"
    except (OSError, TypeError):
        raise UserError(
            f"the source of `{target.__name__}` is not available; use heddle.script.parse(text)"
        ) from None
    text = "".join(lines)
    dedented = textwrap.dedent(text)
    column = len(lines[0]) - len(lines[0].lstrip())
    source = Source(dedented, file, line=max(first, 1) - 1, column=column, in_file=True)
    outer: Mapping[str, Any] = {**frame.f_globals, **_closure(target), **frame.f_locals}
    context = Context(source, outer)
    node = syntax_tree(source, dedented).body[0]
    return guarded(context, lambda: parse(context, node))


def _closure(target: Any) -> dict[str, Any]:
    if not inspect.isfunction(target) or target.__closure__ is None:
        return {}
    cells = zip(target.__code__.co_freevars, target.__closure__, strict=True)
    return {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _is_member(target: Any) -> bool:
    """Whether a function stands in a class: the class's decorator parses it."""
    parent = target.__qualname__.split(".")[-2:-1]
    return bool(parent) and parent[0] != "<locals>"


class _LoopNamespace(Namespace):
    """`T`: loop-level forms."""

    def prim_func(self, func: Any = None, **options: Any) -> Any:
        """Decorator: the function's source as a `PrimFunc`. `name` is its symbol if it differs."""
        frame = sys._getframe(1)

        def decorate(target: Any) -> PrimFunc:
            if _is_member(target):
                return target  # type: ignore[no-any-return]
            result: PrimFunc = parse_here(target, frame, parse_function)
            return result

        return decorate if func is None else decorate(func)

    def macro(self, target: Any) -> Macro:
        """Decorator: the body of the function takes the place of its calls in scripts.

        Parameters stand for the expressions and buffers of the call. A body that is one `return`
        makes an expression, any other body statements.

            @T.macro
            def relu(x):
                return T.max(x, 0.0)
        """
        macro: Macro = parse_here(target, sys._getframe(1), lambda c, node: Macro(node, c))
        return macro


class _GraphNamespace(Namespace):
    """`G`: graph-level forms."""

    def function(self, func: Any = None, **options: Any) -> Any:
        """Decorator: the function's source as a graph `Function`."""
        frame = sys._getframe(1)

        def decorate(target: Any) -> Function:
            if _is_member(target):
                return target  # type: ignore[no-any-return]
            result: Function = parse_here(target, frame, parse_function)
            return result

        return decorate if func is None else decorate(func)


class _ModuleNamespace(Namespace):
    """`I`: modules."""

    def ir_module(self, target: Any) -> IRModule:
        """Decorator: the class's source as an `IRModule`."""
        module: IRModule = parse_here(target, sys._getframe(1), parse_module)
        return module


T: Any = _LoopNamespace("T")
G: Any = _GraphNamespace("G")
I: Any = _ModuleNamespace("I")  # noqa: E741
