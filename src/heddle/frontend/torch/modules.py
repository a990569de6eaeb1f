# SPDX-License-Identifier: Apache-2.0
"""`from_module`: a `torch.nn.Module` with example inputs as an `IRModule`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram

from heddle.frontend.torch.exported import from_exported_program
from heddle.ir import IRModule
from heddle.support import UserError


def from_module(
    model: torch.nn.Module,
    example_inputs: Any,
    *,
    dynamic_shapes: Any = None,
    name: str | None = None,
) -> IRModule:
    """Export a module and import the program; see `from_exported_program`.

    example_inputs: a tuple of the positional arguments of `forward`, a dictionary of its keyword
        arguments, or one tensor.
    dynamic_shapes: which dimensions stay open, as `torch.export.export` takes it; a
        `torch.export.Dim` gives its name to the symbol.
    name: of the model; the name of its class by default.

    Raises `UserError` when torch cannot export the module, and `ImportFailure`.
    """
    if example_inputs is None:
        raise UserError(
            f"{type(model).__name__}: a torch module is compiled for example inputs; pass "
            "example_inputs=(x,), with dynamic_shapes where sizes are to stay open"
        )
    program = export_module(model, example_inputs, dynamic_shapes)
    args, kwargs = _arguments(example_inputs)
    names = _symbol_names(program, model, args, kwargs, dynamic_shapes)
    return from_exported_program(program, name=name or type(model).__name__, symbol_names=names)


def export_module(
    model: torch.nn.Module, example_inputs: Any, dynamic_shapes: Any = None
) -> ExportedProgram:
    """`torch.export.export`; `UserError` when it fails."""
    args, kwargs = _arguments(example_inputs)
    try:
        with torch.no_grad():
            return torch.export.export(
                model, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False
            )
    except Exception as error:  # whatever the user's forward raises, or the export itself
        raise UserError(
            f"{type(model).__name__}: torch.export failed with {type(error).__name__}: {error}"
        ) from error


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


# -- the names of dimensions -------------------------------------------------------------------


def _symbol_names(
    program: ExportedProgram,
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dynamic_shapes: Any,
) -> dict[str, str]:
    """How the symbols of torch ("s77") are called in `dynamic_shapes`."""
    if not dynamic_shapes:
        return {}
    specs = list(_specs(_bound(model, args, kwargs), dynamic_shapes))
    wanted = {spec.arg.name for spec in program.graph_signature.input_specs if _is_user(spec)}
    inputs = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in wanted]
    tensors = [n.meta["val"] for n in inputs if isinstance(n.meta.get("val"), torch.Tensor)]
    names: dict[str, str] = {}
    for tensor, spec in zip(tensors, specs, strict=False):
        for axis, dim in spec:
            size = tensor.shape[axis]
            if isinstance(size, torch.SymInt) and isinstance(dim, torch.export.Dim):
                names.setdefault(str(size.node.expr), dim.__name__)
    return names


def _is_user(spec: Any) -> bool:
    return spec.kind is torch.export.graph_signature.InputKind.USER_INPUT


def _bound(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `forward` by name."""
    return dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)


def _specs(value: Any, spec: Any) -> Iterator[list[tuple[int, Any]]]:
    """What is said of the dimensions of each tensor in a tree of arguments, in order."""
    if isinstance(value, torch.Tensor):
        yield _per_axis(spec)
    elif isinstance(value, Mapping):
        items = list(value.items())
        for position, (key, item) in enumerate(items):
            yield from _specs(item, _part(spec, key, position))
    elif isinstance(value, (tuple, list)):
        for position, item in enumerate(value):
            yield from _specs(item, _part(spec, position, position))


def _part(spec: Any, key: Any, position: int) -> Any:
    if isinstance(spec, Mapping):
        return spec.get(key)
    if isinstance(spec, Sequence) and position < len(spec):
        return spec[position]
    return None


def _per_axis(spec: Any) -> list[tuple[int, Any]]:
    if isinstance(spec, Mapping):
        return list(spec.items())
    return list(enumerate(spec)) if isinstance(spec, Sequence) else []
