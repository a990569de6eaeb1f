# SPDX-License-Identifier: Apache-2.0
"""`from_exported_program`: a `torch.export.ExportedProgram` as an `IRModule`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ConstantArgument,
    InputKind,
    OutputKind,
    SymIntArgument,
    TensorArgument,
)

from heddle.frontend.torch.decompose import export_decompositions
from heddle.frontend.torch.importer import Importer, Poison, Token, bind_bare_symbols
from heddle.frontend.torch.report import Unsupported
from heddle.frontend.torch.symbols import Symbols
from heddle.graph import Function, GraphExpr
from heddle.ir import IRModule
from heddle.support import UserError

LIFTED = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_RETURNED = (OutputKind.USER_OUTPUT, OutputKind.LOSS_OUTPUT)
_MUTATED = (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION)


def from_exported_program(
    program: ExportedProgram,
    *,
    name: str = "main",
    symbol_names: Mapping[str, str] | None = None,
    mutated_buffers: bool = False,
    random_key: bool = False,
) -> IRModule:
    """Import an exported program as a module with one graph function, `main`.

    The tensors among the inputs are its parameters, under the names that the export gives them
    (those of the arguments of `forward`); a symbolic integer among them is a tensor of shape
    (size, 0), and a complex tensor one of real numbers with a last axis of two
    (`torch.view_as_real`); so are complex results. Parameters and buffers of the module become
    constants that share its memory. Symbolic dimensions stay symbolic within the range of the
    export (attribute "symbol_ranges"); `symbol_names` renames those of torch, as in
    {"s77": "batch"}. "output_names" lists the names of the results.

    mutated_buffers: return the new values of buffers and parameters that the program updates, after
        its results, in the order of "output_names". Without it such a program is refused.
    random_key: take the key of random numbers as one more input, `random_key`: two uint32. A key
        gives the same numbers on every target; other calls want other keys. Without it a program
        that is random is refused.

    Raises `ImportFailure` (a `UserError`) that lists all operators without a rule, with layers.

    >>> program = torch.export.export(model, (image,))      # doctest: +SKIP
    >>> exe = heddle.compile(from_exported_program(program))     # doctest: +SKIP
    """
    program = decomposed(program)
    importer = Importer(name, Symbols(symbol_names))
    main = import_program(program, importer, mutated_buffers=mutated_buffers, random_key=random_key)
    return IRModule({"main": main, **importer.bodies})


def decomposed(program: ExportedProgram) -> ExportedProgram:
    """The program in the operators that the importer knows."""
    if not isinstance(program, ExportedProgram):
        raise UserError(f"expected an ExportedProgram, got {type(program).__name__}")
    with warnings.catch_warnings():  # torch deprecates what it calls itself
        warnings.simplefilter("ignore", FutureWarning)
        try:
            return program.run_decompositions(export_decompositions())
        except Exception as error:  # whatever a graph of the program runs into
            raise UserError(
                "the program was exported, but PyTorch cannot decompose it: "
                f"{type(error).__name__}: {error}"
            ) from error


def import_program(
    program: ExportedProgram,
    importer: Importer,
    *,
    mutated_buffers: bool = False,
    random_key: bool = False,
) -> Function:
    """The function of a program that is `decomposed`; `importer` knows its values then, and the
    functions that it calls (`bodies`)."""
    with torch.no_grad():
        _add_inputs(program, importer)
        if random_key:
            importer.take_random_key()
        for fx_node in program.graph.nodes:
            if fx_node.op in ("call_function", "get_attr"):
                importer.run_node(fx_node, program.graph_module)
    results, names = _outputs(program, importer, mutated_buffers)
    return importer.finish(results, {"output_names": tuple(names)})


def _add_inputs(program: ExportedProgram, importer: Importer) -> None:
    placeholders = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    bind_bare_symbols(importer.symbols, placeholders.values())
    for spec in program.graph_signature.input_specs:
        fx_node = placeholders[spec.arg.name]
        example = fx_node.meta.get("val")
        try:
            if spec.kind in LIFTED:
                importer.values[fx_node] = importer.constant(lifted_tensor(program, spec))
            elif isinstance(spec.arg, TensorArgument):
                importer.values[fx_node] = importer.parameter(fx_node.name, example)
            elif isinstance(spec.arg, SymIntArgument):
                importer.size_parameter(fx_node.name, example)
                importer.values[fx_node] = importer.symbols.dim(example)
            elif spec.kind is InputKind.TOKEN:
                importer.values[fx_node] = Token()
            elif isinstance(spec.arg, ConstantArgument):
                importer.values[fx_node] = spec.arg.value
            else:
                raise Unsupported(f"an input that is a {type(spec.arg).__name__}")
        except Unsupported as problem:
            importer.report.add("input", fx_node.name, problem)
            importer.values[fx_node] = Poison()


def lifted_tensor(program: ExportedProgram, spec: Any) -> torch.Tensor:
    """The tensor of the program that one of its inputs stands for; `Unsupported` without one."""
    name = spec.target
    found = program.state_dict.get(name)
    found = program.constants.get(name) if found is None else found
    if not isinstance(found, torch.Tensor):
        raise Unsupported(f"the program has no tensor `{name}`")
    return found


def _outputs(
    program: ExportedProgram, importer: Importer, mutated_buffers: bool
) -> tuple[list[GraphExpr | None], list[str]]:
    output = next(n for n in program.graph.nodes if n.op == "output")
    results: list[GraphExpr | None] = []
    names: list[str] = []
    late: list[tuple[Any, str]] = []
    refused: list[str] = []
    for spec, given in zip(program.graph_signature.output_specs, output.args[0], strict=True):
        value = importer.values[given] if isinstance(given, torch.fx.Node) else given
        if spec.kind is OutputKind.TOKEN:  # orders what has effects; there is nothing to return
            continue
        if spec.kind in _MUTATED:
            refused.append(f"`{spec.target}`")
            late.append((value, str(spec.target)))
        elif spec.kind not in _RETURNED:
            raise UserError(
                f"program `{importer.name}` changes its input `{spec.target}` in place; "
                "return the new value instead"
            )
        elif value is not None:
            name = getattr(spec.arg, "name", "") or f"output_{len(names)}"
            results.append(importer.output(value, name))
            names.append(name)
    if refused and not mutated_buffers:
        raise UserError(
            f"program `{importer.name}` updates its buffers {', '.join(refused)}; call "
            "model.eval() before the export, or have the new values returned: mutated_buffers=True"
        )
    for value, name in late:
        results.append(importer.output(value, name))
        names.append(name)
    return results, names
