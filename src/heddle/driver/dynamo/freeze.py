# SPDX-License-Identifier: Apache-2.0
"""Weights as constants of the compiled code, for as long as they do not change.

torch.compile(model, backend="heddle", options={"freeze": True})
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import fx

from heddle.frontend.torch.flat import is_write

_CHANGES: Final = 3
"""So often weights may change before they are taken as arguments for good."""


class Frozen:
    """The callable of a graph whose weights are constants, compiled when it is first called.

    Before each call the weights are compared with those that were compiled: the same tensors, in
    the same memory, not written to since (PyTorch counts writes, but for those through `.data`).
    When they differ, code for the new ones is compiled; after `_CHANGES` times, code that takes
    them as arguments.
    """

    def __init__(
        self, graph: fx.GraphModule, compile_graph: Callable[[fx.GraphModule], Callable[..., Any]]
    ) -> None:
        self._graph = graph
        self._written = written_arguments(graph)
        self._compile = compile_graph
        self._run: Callable[..., Any] | None = None
        self._weights: list[tuple[int, torch.Tensor, int, int]] = []
        self._changes = 0

    def __call__(self, *args: Any) -> Any:
        """The results of the graph for its arguments."""
        if self._run is None or not self._current(args):
            self._renew(args)
        assert self._run is not None
        return self._run(*args)

    def _current(self, args: Sequence[Any]) -> bool:
        return all(
            args[position] is tensor and tensor._version == version and tensor.data_ptr() == address
            for position, tensor, version, address in self._weights
        )

    def _renew(self, args: Sequence[Any]) -> None:
        self._weights = []
        graph = self._graph
        if self._changes < _CHANGES:
            positions = [
                at for at, x in enumerate(args) if is_weight(x) and at not in self._written
            ]
            self._weights = [
                (at, args[at], args[at]._version, args[at].data_ptr()) for at in positions
            ]
            graph = with_constants(graph, {at: args[at] for at in positions})
        self._changes += 1
        self._run = self._compile(graph)


def written_arguments(graph: fx.GraphModule) -> frozenset[int]:
    """The positions of the arguments that a graph writes to."""
    placeholders = [n for n in graph.graph.nodes if n.op == "placeholder"]
    return frozenset(placeholders.index(n.args[0]) for n in graph.graph.nodes if is_write(n))


def is_weight(value: Any) -> bool:
    """Whether an argument is a parameter of a module."""
    return isinstance(value, torch.nn.Parameter)


def with_constants(graph: fx.GraphModule, values: dict[int, torch.Tensor]) -> fx.GraphModule:
    """The graph with some of its arguments, by position, read from the tensors instead. It still
    takes them."""
    root = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    placeholders = [n for n in root.graph.nodes if n.op == "placeholder"]
    for position, tensor in values.items():
        placeholder = placeholders[position]
        name = f"frozen_{position}"
        root.register_buffer(name, tensor.detach())
        with root.graph.inserting_after(placeholders[-1]):
            constant = root.graph.get_attr(name)
        constant.meta = dict(placeholder.meta)
        returned = [user for user in placeholder.users if user.op == "output"]
        placeholder.replace_all_uses_with(
            constant, delete_user_cb=functools.partial(_is_other, returned)
        )
    root.recompile()
    return root


def _is_other(kept: Sequence[fx.Node], user: fx.Node) -> bool:
    return user not in kept
