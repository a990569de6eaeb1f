# SPDX-License-Identifier: Apache-2.0
"""`CompiledPart`: an executable that takes and gives what its FX graph takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy
import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import has_free_unbacked_symbols
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils._sympy.printers import PythonPrinter

from heddle.frontend.torch.flat import Program
from heddle.frontend.torch.tensors import numpy_view, real_view, torch_view
from heddle.runtime import Executable
from heddle.support import UserError


class CompiledPart:
    """The executable of a graph, called with torch tensors and integers.

    Tensors are handed over as views of their memory, results are tensors over the memory that the
    executable gave; nothing is copied but inputs that are not contiguous. What the graph writes to
    an argument is written where the argument lies, when the executable was compiled to do so.
    """

    def __init__(
        self, graph: fx.GraphModule, program: Program, executable: Executable | None
    ) -> None:
        self.program = program
        self.executable = executable
        sizes = _Sizes([n for n in graph.graph.nodes if n.op == "placeholder"])
        output = next(n for n in graph.graph.nodes if n.op == "output")
        returned = output.args[0] if isinstance(output.args[0], (tuple, list)) else output.args
        self._results: list[Callable[[tuple[Any, ...], tuple[torch.Tensor, ...]], Any]] = [
            _reader(kind, what, sizes, _memory_order(item))
            for (kind, what), item in zip(program.results, returned, strict=True)
        ]
        self._views = [
            (position, what, [_view_step(fx_node, sizes) for fx_node in what.steps])
            for position, (kind, what) in enumerate(program.results)
            if kind == "view"
        ]
        self._complex = {
            what
            for (kind, what), item in zip(program.results, returned, strict=True)
            if kind == "tensor" and item.meta["val"].is_complex()
        }
        inputs = [n for n in graph.graph.nodes if n.op == "placeholder"]
        for write in program.writes:
            if inputs[write.position].meta["val"].is_complex():
                self._complex.add(write.result)

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        """The results of the graph for its arguments."""
        computed: tuple[torch.Tensor, ...] = ()
        if self.executable is not None:
            given = [_argument(args[position]) for position in self.program.inputs]
            found = self.executable(*given)
            tensors = found if isinstance(found, tuple) else (found,)
            computed = tuple(torch_view(tensor.numpy()) for tensor in tensors)
            computed = tuple(
                torch.view_as_complex(value) if at in self._complex else value
                for at, value in enumerate(computed)
            )
            for write in self.program.writes:
                _overwrite(args[write.position], computed[write.result])
        results = [read(args, computed) for read in self._results]
        for position, view, steps in self._views:
            value = args[view.root] if view.of_argument else results[view.root]
            for step in steps:
                value = step(value, args)
            results[position] = value
        return tuple(results)


def _overwrite(target: torch.Tensor, value: torch.Tensor) -> None:
    """Let `target` have the value, which may lie in its memory already."""
    if value.data_ptr() == target.data_ptr():
        torch.autograd.graph.increment_version(target)
    else:
        target.copy_(value)


def _argument(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        return numpy_view(real_view(value))
    return np.empty((int(value), 0), np.bool_)  # a size: see `Importer.size_parameter`


def _memory_order(item: Any) -> tuple[int, ...] | None:
    """The order in which the axes of a result lie in memory in PyTorch, outermost first; None for
    the plain order, and for tensors with gaps, which come without them."""
    example = item.meta.get("val") if isinstance(item, fx.Node) else None
    if not isinstance(example, torch.Tensor) or has_free_unbacked_symbols(example):
        return None
    if example.is_contiguous():
        return None
    order = sorted(range(example.dim()), key=lambda axis: -_hint(example.stride(axis)))
    return tuple(order) if example.permute(order).is_contiguous() else None


def _hint(stride: Any) -> int:
    return int(stride.node.hint or 0) if isinstance(stride, torch.SymInt) else int(stride)


def _in_order(tensor: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """The tensor with its axes in this order in memory: users and PyTorch may read strides."""
    inverse = [order.index(axis) for axis in range(len(order))]
    return tensor.permute(order).contiguous().permute(inverse)


def _reader(
    kind: str, what: Any, sizes: _Sizes, order: tuple[int, ...] | None
) -> Callable[..., Any]:
    """How one result is read from the arguments and from what was computed."""
    if kind == "tensor" and order is not None:
        return lambda args, computed: _in_order(computed[what], order)
    if kind == "tensor":
        return lambda args, computed: computed[what]
    if kind == "item":
        return lambda args, computed: int(computed[what])
    if kind == "float":
        return lambda args, computed: float(computed[what])
    if kind == "argument":
        return lambda args, computed: args[what]
    if kind == "size":
        return sizes.reader(what)
    return lambda args, computed: None


def _view_step(fx_node: fx.Node, sizes: _Sizes) -> Callable[[Any, Any], Any]:
    """One operator of a view, as a function of its tensor and the arguments of the graph."""
    call: Any = fx_node.target
    if call in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
        call = torch.ops.aten.reshape.default  # what is here without gaps may have some there

    def reader(item: Any) -> Any:
        if isinstance(item, fx.Node):
            return sizes.reader(item.meta["val"].node.expr)
        return lambda args, computed: item

    leaves, spec = tree_flatten((fx_node.args[1:], fx_node.kwargs))
    readers = [reader(leaf) for leaf in leaves]

    def step(value: Any, args: Any) -> Any:
        rest, named = tree_unflatten([read(args, ()) for read in readers], spec)
        return call(value, *rest, **named)

    return step


class _Sizes:
    """Where the symbols of a graph are to be read from its arguments."""

    def __init__(self, placeholders: list[fx.Node]) -> None:
        self._homes: dict[sympy.Basic, sympy.Symbol] = {}
        for position, fx_node in enumerate(placeholders):
            example = fx_node.meta.get("val")
            if isinstance(example, torch.SymInt):
                self._note(example, f"args[{position}]")
            elif isinstance(example, torch.Tensor):
                for axis, dim in enumerate(example.shape):
                    self._note(dim, f"args[{position}].shape[{axis}]")

    def _note(self, size: Any, place: str) -> None:
        if isinstance(size, torch.SymInt):
            self._homes.setdefault(size.node.expr, sympy.Symbol(place))

    def reader(self, size: Any) -> Callable[..., Any]:
        """A function that computes a size from the arguments."""
        if isinstance(size, (int, float, bool)):
            return lambda args, computed: size
        found = size.xreplace(self._homes)
        lost = found.free_symbols - set(self._homes.values())
        if lost:
            raise UserError(f"the size `{size}` does not follow from those of the arguments")
        text = PythonPrinter().doprint(found)
        return eval(f"lambda args, computed: {text}", {"math": __import__("math")})  # type: ignore[no-any-return]
