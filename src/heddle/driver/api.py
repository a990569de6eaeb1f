# SPDX-License-Identifier: Apache-2.0
"""`heddle.compile`: a model in, a callable native library out."""

from __future__ import annotations

import mmap
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from heddle.codegen import CompiledKernel
from heddle.driver.model_cache import ModelCache, content_key, open_entry, target_key
from heddle.driver.pipeline import compile_kernels, emit, graph_pipeline
from heddle.driver.report import CompileReport
from heddle.driver.user_passes import Insertion, with_passes
from heddle.driver.validate import ValueValidator
from heddle.graph import Function
from heddle.ir.module import IRModule
from heddle.ir.passes import Instrument, Timer
from heddle.ir.structural import structural_hash
from heddle.passes.graph.host_plan import HostPlan
from heddle.passes.graph.winograd import DEFAULT_ERROR
from heddle.runtime.module import Executable
from heddle.runtime.toolchain import cache_directory
from heddle.support import UserError
from heddle.target import Target, parse

GeneratedCode: TypeAlias = tuple[IRModule, HostPlan, dict[str, CompiledKernel]]
Model: TypeAlias = Any
"""A path of an ONNX file, an `onnx.ModelProto`, a `torch.nn.Module` or `ExportedProgram`, or an
`IRModule` with a graph function `main`."""


def compile(
    model: Model,
    target: str | Target = "native",
    *,
    name: str | None = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    num_threads: int | None = None,
    precision: str = "float32",
    winograd_error: float = DEFAULT_ERROR,
    cache: bool = True,
    report: CompileReport | None = None,
    passes: Sequence[Insertion] = (),
    validate: str | ValueValidator | None = None,
    example_inputs: Any = None,
    dynamic_shapes: Any = None,
    donate: Sequence[str] = (),
) -> Executable:
    """Compile a model for `target` and load it.

    model: the path of an ONNX file, an `onnx.ModelProto`, a `torch.nn.Module`, a
        `torch.export.ExportedProgram`, or an `IRModule`.
    target: "native", or e.g. "llvm -mcpu=haswell"; see `heddle targets`.
    name: the name of the model, and the prefix of its C functions; the file's name by default.
    shapes: dimensions of inputs by name, where the file leaves them open or they should differ.
    num_threads: the number of cores to schedule for; the cores of the target by default.
    precision: "float32", or "bf16": operands of matrix products and convolutions are rounded to
        bfloat16, products are added up in float32 and all else is float32. What a quantised model
        says of integers holds with either.
    winograd_error: how much a convolution may round, relative to its largest output, for the sake
        of fewer multiplications (see docs/design/winograd.md); 0: direct convolutions only.
    cache: whether to look for, and keep, the result in the cache directory.
    report: filled with what the compilation did.
    example_inputs: what a `torch.nn.Module` is exported with: a tuple of arguments, or a dictionary
        of keyword arguments.
    dynamic_shapes: its dimensions that stay open, as `torch.export.export` takes them.
    donate: inputs, by name, that a call may write to: their memory is used for results, and what is
        an update of one (the cache of a decoder) is written in place. They have to be writeable.
    passes: of your own, as in [("after", "canonicalise", my_pass)]: a function from `IRModule` to
        `IRModule`, "before", "after" or instead of ("replace") a pass of the pipeline.
    validate: "values" runs the module in the reference interpreter before and after each pass and
        raises a `UserError` that names the first pass that changed a value (for small models).

    With passes or validation nothing is looked for, or kept, in the cache of models.

    Raises `UserError` when the model cannot be compiled, and says why.

    >>> exe = heddle.compile("resnet50.onnx")                    # doctest: +SKIP
    >>> y = exe(np.zeros((1, 3, 224, 224), np.float32))          # doctest: +SKIP
    """
    report = report if report is not None else CompileReport()
    device = _device(target, num_threads)
    graph = graph_pipeline(device, precision=precision, winograd_error=winograd_error)
    if _is_torch(model) or example_inputs is not None or dynamic_shapes is not None:
        with report.stage("import"):  # what it computes is its identity, so that comes first
            model = _import_torch(model, name, shapes, example_inputs, dynamic_shapes)
    if donate:  # part of the function, as its parameters are
        with report.stage("import"):
            model = _donating(import_model(model, name=name, shapes=shapes), donate)
    if not cache or passes or validate is not None:
        run = with_passes(graph, passes).run
        watch = _validators(validate)
        code = _generate(
            model, device, name, shapes, report, run, use_cache=cache, instruments=watch
        )
        return _keep_temporarily(code, device, report)
    with report.stage("look in the cache"):
        key = _key(model, device, name, shapes, precision, float(winograd_error))
        store = ModelCache(cache_directory())
        found = store.find(key)
    if found is not None:
        report.from_cache = True
        return found
    code = _generate(model, device, name, shapes, report, graph.run)
    try:
        with store.writing(key) as directory, report.stage("link"):
            emit(*code, device, directory)
        found = store.find(key)
    except (OSError, UserError):  # no room, or not ours to write
        found = None
    return _keep_temporarily(code, device, report) if found is None else found


def optimize(
    model: Model,
    target: str | Target = "native",
    *,
    stop_after: str | None = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    precision: str = "float32",
    winograd_error: float = DEFAULT_ERROR,
    instruments: Sequence[Instrument] = (),
    passes: Sequence[Insertion] = (),
    validate: str | ValueValidator | None = None,
) -> IRModule:
    """The module of a model after the pipeline, or after its pass `stop_after`. `precision`,
    `winograd_error`, `passes` and `validate` are as in `compile`."""
    device = _device(target, None)
    graph = graph_pipeline(device, precision=precision, winograd_error=winograd_error)
    pipeline = with_passes(graph, passes)
    if stop_after is not None:
        pipeline.index(stop_after)  # a wrong name is told before the import
    module = import_model(model, shapes=shapes)
    instruments = [*instruments, *_validators(validate)]
    return pipeline.run(module, stop_after=stop_after, instruments=instruments)


def _donating(module: IRModule, names: Sequence[str]) -> IRModule:
    """The module with the attribute "donate" of `main`: the inputs that a call may write to."""
    if isinstance(names, str):
        raise UserError(f'donate is a list of inputs, as in ["{names}"]; got a str')
    main = module["main"]
    assert isinstance(main, Function)
    known = [param.name for param in main.params]
    for item in names:
        if item not in known:
            listed = ", ".join(f"`{name}`" for name in known) or "none"
            raise UserError(f"donate: there is no input `{item}`; the inputs are {listed}")
    attrs = {**main.attrs, "donate": tuple(names)}
    return module.with_functions({"main": main.replace(attrs=attrs)})


def _validators(validate: str | ValueValidator | None) -> list[Instrument]:
    if validate is None or isinstance(validate, ValueValidator):
        return [] if validate is None else [validate]
    if validate != "values":
        raise UserError(f'validate must be "values" or a ValueValidator, got {validate!r}')
    return [ValueValidator()]


def import_model(
    model: Model,
    *,
    name: str | None = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    example_inputs: Any = None,
    dynamic_shapes: Any = None,
) -> IRModule:
    """The `IRModule` of a model. Raises `UserError` for what is no model."""
    if _is_torch(model) or example_inputs is not None or dynamic_shapes is not None:
        return _import_torch(model, name, shapes, example_inputs, dynamic_shapes)
    if isinstance(model, IRModule):
        if "main" not in model:
            raise UserError("the module has no graph function `main` to compile")
        return model
    try:
        from heddle.frontend.onnx import from_onnx  # needs the extra `onnx`
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "onnx":
            raise
        raise UserError("ONNX models need the package onnx: pip install 'heddle[onnx]'") from error
    return from_onnx(model, name=name, shapes=shapes)


def _is_torch(model: Model) -> bool:
    """Whether a model is of PyTorch, which is not imported to find out."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    return isinstance(model, torch.nn.Module) or type(model).__name__ == "ExportedProgram"


def _import_torch(
    model: Model, name: str | None, shapes: Any, example_inputs: Any, dynamic_shapes: Any
) -> IRModule:
    kind = type(model).__name__
    if not _is_torch(model):
        raise UserError(f"example_inputs and dynamic_shapes are for a torch.nn.Module, got {kind}")
    if shapes is not None:
        raise UserError(f"{kind}: shapes is for ONNX models; use dynamic_shapes")
    from heddle.frontend.torch import from_exported_program, from_module  # needs the extra `torch`

    if kind != "ExportedProgram":
        return from_module(model, example_inputs, dynamic_shapes=dynamic_shapes, name=name)
    if example_inputs is not None or dynamic_shapes is not None:
        raise UserError("an ExportedProgram has its inputs already: pass no example_inputs")
    return from_exported_program(model, name=name or "main")


def _device(target: str | Target, num_threads: int | None) -> Target:
    device = parse(target)
    if device.kind != "llvm":
        raise UserError(f"target `{target}`: models are compiled for LLVM; heddle.build gives C")
    if num_threads is None:
        return device
    if num_threads < 1:
        raise UserError(f"num_threads must be at least 1, got {num_threads}")
    return device.with_cores(num_threads)


def _key(
    model: Model, device: Target, name: str | None, shapes: Any, *generation: str | float
) -> str:
    options = (target_key(device), name, sorted((shapes or {}).items()), *generation)
    if isinstance(model, IRModule):
        return content_key(structural_hash(model), *options)
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        if not path.is_file():
            raise UserError(f"{path}: there is no such file")
        return content_key(path, path.name, _external_files(path), *options)
    if hasattr(model, "SerializeToString"):
        return content_key(model.SerializeToString(), *options)
    kind = type(model).__name__
    raise UserError(
        "expected the path of an ONNX file, a ModelProto, a torch.nn.Module or an IRModule, "
        f"got {kind}"
    )


def _external_files(path: Path) -> list[tuple[str, int, int]]:
    """The files beside a model in which its tensors may lie (name, size, time of last change):
    when the model names locations, they belong to its identity."""
    beside = sorted(
        (file.name, file.stat().st_size, file.stat().st_mtime_ns)
        for file in path.parent.iterdir()
        if file.is_file() and file.suffix not in (".onnx", ".so", ".h")
    )
    if not beside or not path.stat().st_size:
        return []
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return beside if data.find(b"location") >= 0 else []


def _generate(
    model: Model,
    device: Target,
    name: str | None,
    shapes: Any,
    report: CompileReport,
    run: Callable[..., IRModule],
    *,
    use_cache: bool = True,
    instruments: Sequence[Instrument] = (),
) -> GeneratedCode:
    """What `emit` writes: the module, its memory plan and its kernels."""
    with report.stage("import"):
        module = import_model(model, name=name, shapes=shapes)
    with report.stage("graph"):
        timer = Timer(report.passes)
        module = run(module, instruments=[timer, *instruments])
    with report.stage("kernels"):
        plan, kernels = compile_kernels(module, device, report, use_cache=use_cache)
    return module, plan, kernels


def _keep_temporarily(code: GeneratedCode, device: Target, report: CompileReport) -> Executable:
    """The executable, from files that live as long as it does."""
    try:
        directory = Path(tempfile.mkdtemp(prefix="heddle-"))
    except OSError as error:
        raise UserError(f"cannot make a temporary directory: {error}") from error
    try:
        with report.stage("link"):
            emit(*code, device, directory)
        executable = open_entry(directory)
    except BaseException as error:
        shutil.rmtree(directory, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"cannot write the compiled model: {error}") from error
        raise
    weakref.finalize(executable, shutil.rmtree, directory, ignore_errors=True)
    return executable


__all__ = ["compile", "import_model", "optimize"]
