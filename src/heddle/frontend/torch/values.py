# SPDX-License-Identifier: Apache-2.0
"""What PyTorch computes on the way through a program, under the names that values have here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram

from heddle.frontend.torch.exported import LIFTED, decomposed, import_program, lifted_tensor
from heddle.frontend.torch.importer import Importer
from heddle.frontend.torch.report import Unsupported
from heddle.frontend.torch.tensors import numpy_view, real_view, torch_view
from heddle.graph import Var
from heddle.ir import IRModule
from heddle.support import UserError

Arrays = Mapping[str, np.ndarray]


def import_with_values(
    program: ExportedProgram, inputs: Arrays, *, name: str = "main"
) -> tuple[IRModule, dict[str, np.ndarray]]:
    """The module of a program, and the value that PyTorch, operator by operator in eager mode, has
    for each variable of it: those of operators that became several only for their result.

    inputs: arrays by the names of the module's parameters. Raises `UserError` when PyTorch fails
    on them, and what `from_exported_program` raises.
    """
    program = decomposed(program)
    importer = Importer(name)
    main = import_program(program, importer)
    module = IRModule({"main": main, **importer.bodies})
    computed = _Recorder(program.graph_module).record(_arguments(program, inputs))
    names: dict[str, np.ndarray] = {}
    for fx_node, tensor in computed.items():
        value = importer.values.get(fx_node)
        parts = zip(value, tensor, strict=True) if isinstance(value, tuple) else ((value, tensor),)
        for part, result in parts:
            if isinstance(part, Var) and isinstance(result, torch.Tensor):
                names.setdefault(part.name, _array(result))
    return module, {name: value for name, value in names.items() if value is not None}


def example_inputs(program: ExportedProgram) -> dict[str, np.ndarray]:
    """The tensors for which a program was exported, by the names of parameters; none when it does
    not say."""
    if program.example_inputs is None:
        return {}
    leaves = torch.utils._pytree.tree_leaves(program.example_inputs)
    names = program.graph_signature.user_inputs
    pairs = zip(names, leaves, strict=False)
    return {str(name): numpy_view(real_view(x)) for name, x in pairs if isinstance(x, torch.Tensor)}


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps what its nodes give."""

    def record(self, arguments: list[Any]) -> dict[fx.Node, Any]:
        """The values of all nodes that are calls."""
        self.kept: dict[fx.Node, Any] = {}
        with torch.no_grad():
            try:
                self.run(*arguments)
            except Exception as error:  # whatever an operator says of its operands
                text = str(error).splitlines()[0] if str(error) else ""
                raise UserError(f"PyTorch fails: {type(error).__name__}: {text}") from error
        return self.kept

    def run_node(self, n: fx.Node) -> Any:
        """As the interpreter does; what is a view of memory is copied."""
        value = super().run_node(n)
        if n.op == "call_function":
            self.kept[n] = value.clone() if isinstance(value, torch.Tensor) else value
        return value


def _array(tensor: torch.Tensor) -> np.ndarray | None:
    try:
        return numpy_view(tensor)
    except Unsupported:
        return None


def _arguments(program: ExportedProgram, inputs: Arrays) -> list[Any]:
    """What the placeholders of a program stand for, in order."""
    given: list[Any] = []
    for spec in program.graph_signature.input_specs:
        name = getattr(spec.arg, "name", "")
        if spec.kind in LIFTED:
            given.append(lifted_tensor(program, spec).detach())
        elif name in inputs:
            given.append(torch_view(np.ascontiguousarray(inputs[name])))
        elif hasattr(spec.arg, "value"):
            given.append(spec.arg.value)
        else:
            raise UserError(f"there is no value for the input `{name}` of the program")
    return given
