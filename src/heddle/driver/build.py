# SPDX-License-Identifier: Apache-2.0
"""`heddle.build`: loop functions and whole modules to callables, as they are scheduled.

>>> add_one = heddle.build(func)                      # doctest: +SKIP
>>> add_one(a, b)                                     # numpy, torch, DLPack; b is written
>>> module = heddle.build(ir_module, target="c", libs=["helpers.c"])      # doctest: +SKIP
>>> module.main(x), module["add_one"](a, b), module.source                # doctest: +SKIP
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from heddle.codegen import KernelCompiler, build_kernel, compile_text, host_ir
from heddle.codegen.build import kernel_name
from heddle.codegen.c import CSource, c_source
from heddle.codegen.llvm.kernel import kernel_ir
from heddle.codegen.services import last_error
from heddle.driver.function import BuiltFunction, c_signature
from heddle.driver.pipeline import graph_pipeline
from heddle.graph.nodes import Function
from heddle.graph.verify import verify_module
from heddle.ir.expr import Call
from heddle.ir.module import BaseFunc, ExternFunc, IRModule
from heddle.passes.graph.anf import is_primitive
from heddle.passes.graph.host_plan import HostPlan
from heddle.passes.graph.plan import plan_memory
from heddle.passes.tir.lower import lower
from heddle.runtime.module import Executable
from heddle.runtime.toolchain import CRT, Toolchain, crt_objects, find_toolchain, link_shared
from heddle.schedule.errors import ScheduleError
from heddle.schedule.rules import default_schedule
from heddle.support import InternalError, UserError
from heddle.support.version import VERSION
from heddle.target import Target, parse
from heddle.tir.build import collect
from heddle.tir.nodes import PrimFunc
from heddle.tir.verify import verify

Program: TypeAlias = "PrimFunc | IRModule"
Library: TypeAlias = "str | os.PathLike[str]"

_C_FLAGS: Final = ("-std=c11", "-O2", "-fPIC")
_ERROR: Final = """\
#include "internal.h"
HD_EXPORT const char *functions_last_error(void) { return hd_get_error(); }
"""
_RUNTIME: Final = ("arena", "error", "profile", "threadpool")
_UNDEFINED: Final = re.compile(r"undefined (?:reference to|symbol:?) [`'\"]?(\w+)")


def build(
    program: Program,
    target: str | Target = "native",
    *,
    libs: Sequence[Library] = (),
    schedule: bool = False,
) -> Any:
    """Callables of a loop function, or of all functions of a module.

    program: a `PrimFunc` gives a `BuiltFunction`, an `IRModule` a `BuiltModule`.
    target: "native" and other targets of LLVM that this machine runs, or "c" for C source.
    libs: where the C functions are that the program calls: C sources, objects, libraries, or
    arguments for the linker such as "-lblas".
    schedule: give each loop function its default schedule first, where the rules have one. Without,
    functions are built as they are scheduled.

    Raises `UserError` for a program that is not well formed or calls what is not there.
    """
    device = parse(target)
    if isinstance(program, PrimFunc):
        verify(program)
        if schedule:
            program = _scheduled(program, device)
        # Only the linker says which C functions are missing.
        if device.kind == "llvm" and not libs and not _calls_c(program):
            kernel = build_kernel(program, device)
            return BuiltFunction(program, kernel.name, kernel.function, last_error, keep=kernel)
        name = kernel_name(program)
        return BuiltModule(IRModule({name: program}), device, libs)[name]
    if isinstance(program, IRModule):
        verify(program)
        verify_module(program)
        if schedule:
            changes: dict[str, BaseFunc | None] = {
                name: _scheduled(func, device)
                for name, func in program.functions.items()
                if isinstance(func, PrimFunc)
            }
            program = program.with_functions(changes)
        return BuiltModule(program, device, libs)
    raise UserError(f"build: expected a PrimFunc or an IRModule, got {type(program).__name__}")


def _calls_c(func: PrimFunc) -> bool:
    return any(found.name == "call_extern" for found in collect(func.body, Call))


def _scheduled(func: PrimFunc, device: Target) -> PrimFunc:
    """The function with its default schedule; as it is where the rules do not cover its loops."""
    try:
        return default_schedule(func, device).func
    except ScheduleError:
        return func


class BuiltModule:
    """The functions of a module as attributes and items: loop functions are `BuiltFunction`s, graph
    functions `Executable`s. Functions that they call are linked in; "private" ones (attribute
    "private", or names that begin with an underscore) cannot be called from Python.

    `source` and `header` are the C code, for a target that generates C.
    """

    source: str
    header: str

    def __init__(self, module: IRModule, target: Target, libs: Sequence[Library]) -> None:
        """Use `heddle.build`."""
        self._directory = _temporary(self)
        self._functions: dict[str, Any] = {}
        self._builder = builder = _Builder(module, target, libs, self._directory)
        self.source, self.header = builder.text.source, builder.text.header
        for name, func in module.functions.items():
            if name.startswith("_") or _attrs(func).get("private"):
                continue
            if isinstance(func, PrimFunc):
                self._functions[name] = builder.loop_function(name, func, keep=self)
            elif isinstance(func, Function) and not is_primitive(func):
                self._functions[name] = builder.graph_function(name, keep=self)

    def __getitem__(self, name: str) -> Any:
        found = self._functions.get(name)
        if found is None:
            known = ", ".join(f"`{key}`" for key in self._functions) or "none"
            raise UserError(f"the built module has no function `{name}`; it has {known}")
        return found

    def __getattr__(self, name: str) -> Any:
        found = self.__dict__.get("_functions", {}).get(name)
        if found is None:
            raise AttributeError(f"the built module has no function `{name}`")
        return found

    @property
    def library(self) -> ctypes.CDLL:
        """The loop functions and `libs`, loaded: what the interpreters take as `externs`."""
        return self._builder.library()

    def __contains__(self, name: object) -> bool:
        return name in self._functions

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)

    def __repr__(self) -> str:
        return f"BuiltModule({', '.join(self._functions)})"


def _attrs(func: BaseFunc) -> Any:
    return getattr(func, "attrs", {})


def _temporary(owner: object) -> Path:
    """A directory that lives as long as `owner`."""
    try:
        directory = Path(tempfile.mkdtemp(prefix="heddle-build-"))
    except OSError as error:
        raise UserError(f"cannot make a temporary directory: {error}") from error
    weakref.finalize(owner, shutil.rmtree, directory, ignore_errors=True)
    return directory


class _Builder:
    """Compiles and links one module into `directory`."""

    def __init__(
        self, module: IRModule, target: Target, libs: Sequence[Library], directory: Path
    ) -> None:
        self.module = module
        self.target = target
        self.directory = directory
        self.toolchain: Toolchain = find_toolchain()
        self.symbols = _symbols_of(module)
        self.libs = self._libraries(libs)
        named = {
            self.symbols[name]: func
            for name, func in module.functions.items()
            if isinstance(func, PrimFunc)
        }
        self.text = CSource("", "", "", "functions_last_error")
        if target.kind == "c":
            self.text = c_source(named)
        self.object = directory / "functions.o"
        self.objects = self._loop_objects(named)
        self._library: ctypes.CDLL | None = None

    # -- objects -----------------------------------------------------------------------------

    def _libraries(self, libs: Sequence[Library]) -> list[str | Path]:
        """What is handed to the linker; C sources are compiled."""
        ready: list[str | Path] = []
        for count, item in enumerate(libs):
            if str(item).startswith("-"):
                ready.append(str(item))
                continue
            path = Path(item).absolute()
            if not path.is_file():
                raise UserError(f"build: libs: there is no file {path}")
            if path.suffix == ".c":
                out = self.directory / f"lib{count}.o"
                self._compile(path, out, who=f"build: libs: {path}")
                path = out
            ready.append(path)
        return ready

    def _compile(self, source: Path, out: Path, *flags: str, who: str) -> None:
        try:
            arguments = [*_C_FLAGS, f"-I{CRT}", *flags, "-c", source, "-o", out]
            self.toolchain.run(arguments, doing=who)
        except InternalError as error:
            raise UserError(f"{who} does not compile:\n{_output(error)}") from error

    def _loop_objects(self, named: dict[str, PrimFunc]) -> list[Path]:
        """The objects of the module's own loop functions, under their C names."""
        if not named:
            return []
        if self.target.kind == "c":
            return [self._c_object(self.text, "functions")]
        paths = []
        for symbol, func in named.items():
            text = kernel_ir(lower(func, self.target), symbol, self.target)
            paths.append(self.directory / f"{symbol}.o")
            paths[-1].write_bytes(compile_text(symbol, text, self.target).object_code)
        return paths

    def _c_object(self, text: CSource, stem: str, *flags: str) -> Path:
        source, out = self.directory / f"{stem}.c", self.directory / f"{stem}.o"
        source.write_text(text.source)
        (self.directory / text.header_name).write_text(text.header)
        try:
            self.toolchain.run(
                [*_C_FLAGS, f"-I{CRT}", *flags, "-c", source, "-o", out],
                doing="compiling generated C",
            )
        except InternalError as error:
            raise InternalError(f"generated C does not compile:\n{_output(error)}") from error
        return out

    # -- loop functions ------------------------------------------------------------------------

    def library(self) -> ctypes.CDLL:
        """The loop functions and the given libraries, linked and loaded."""
        if self._library is None:
            out = self.directory / "functions.so"
            runtime: list[Path] = []
            if self.target.kind != "c":
                runtime = [p for p in crt_objects(self.toolchain) if p.stem in _RUNTIME]
                stub, made = self.directory / "error.c", self.directory / "error.o"
                stub.write_text(_ERROR)
                self._compile(stub, made, who="the error service")
                runtime.append(made)
            parts = [str(item) for item in (*self.objects, *self.libs, *runtime)]
            self._link(
                lambda: self.toolchain.run(
                    ["-shared", "-Wl,-z,defs", *parts] + ["-lpthread", "-lm", "-o", str(out)],
                    doing="linking",
                )
            )
            self._library = ctypes.CDLL(str(out))
        return self._library

    def loop_function(self, name: str, func: PrimFunc, *, keep: Any) -> BuiltFunction:
        """One loop function of the module."""
        symbol = self.symbols[name]
        library = self.library()
        function = getattr(library, symbol)
        function.argtypes, function.restype = c_signature(func), ctypes.c_int32
        error = getattr(library, self.text.error_symbol)
        error.restype = ctypes.c_char_p

        def message() -> str:
            text: bytes = error() or b""
            return text.decode(errors="replace")

        # The library stays loaded: ctypes never unloads it. Its files must live that long.
        return BuiltFunction(
            func, name, function, message,
            source=self.text.source, header=self.text.header, keep=keep,
        )  # fmt: skip

    def _link(self, work: Callable[[], object]) -> None:
        """Run the linker; a C function that is missing is the user's mistake."""
        try:
            work()
        except InternalError as error:
            missing = sorted(set(_UNDEFINED.findall(error.message)))
            if not missing:
                raise
            names = ", ".join(f"`{name}`" for name in missing)
            raise UserError(
                f"build: the C function {names} is called but defined nowhere; name its source, "
                'object or library: libs=["helpers.c"]'
            ) from error

    # -- graph functions -----------------------------------------------------------------------

    def graph_function(self, name: str, *, keep: Any) -> Executable:
        """One graph function of the module, with everything it calls."""
        plan, module = self._plan(name)
        symbols, objects = self._kernels(plan, module)
        text = host_ir(plan, symbols, self.target, metadata=json.dumps(self._metadata(plan)))
        host = self.directory / f"{name}.host.o"
        host.write_bytes(compile_text("host", text, self.target).object_code)
        out = self.directory / f"{name}.so"
        files = [item for item in self.libs if isinstance(item, Path)]
        flags = [item for item in self.libs if isinstance(item, str)]
        own = self.objects
        if self.target.kind == "c" and own:
            own = [self._c_object(self.text, "functions.runtime", "-DHEDDLE_RUNTIME")]
        given = [host, *objects, *own, *files]
        self._link(lambda: link_shared(given, out, name=plan.name, libs=flags))
        constants = plan.constant_bytes() if plan.constants_size else None
        return Executable.from_library(out, constants=constants, objects=given, keep=keep)

    def _plan(self, name: str) -> tuple[HostPlan, IRModule]:
        """The function as `main` of a module, through the pipeline."""
        changes: dict[str, BaseFunc | None] = {
            key: func.replace(attrs={**func.attrs, "scheduled": True})
            for key, func in self.module.functions.items()
            if isinstance(func, PrimFunc)
        }
        for key, func in self.module.functions.items():
            if isinstance(func, Function) and key != name and not is_primitive(func):
                changes[key] = None
        if name != "main":
            changes |= {name: None, "main": self.module[name]}
        module = graph_pipeline(self.target).run(self.module.with_functions(changes))
        return replace(plan_memory(module), name=name), module

    def _kernels(self, plan: HostPlan, module: IRModule) -> tuple[dict[str, str], list[Path]]:
        """The C names of what the plan calls, and the objects of what is not in the module."""
        symbols: dict[str, str] = {}
        made: dict[str, PrimFunc] = {}
        for name in plan.kernels:
            func = module[name]
            if name in self.module and isinstance(func, (PrimFunc, ExternFunc)):
                symbols[name] = self.symbols[name]
            elif isinstance(func, PrimFunc):
                made[name] = func
            else:
                raise InternalError(f"build: `{name}` is called, a {type(func).__name__}")
        if not made:
            return symbols, []
        if self.target.kind == "c":
            symbols |= {name: f"{plan.name}_{name}" for name in made}
            text = c_source({symbols[name]: func for name, func in made.items()}, name=plan.name)
            return symbols, [self._c_object(text, f"{plan.name}.kernels", "-DHEDDLE_RUNTIME")]
        compiler = KernelCompiler(self.target)
        for name, func in made.items():
            compiler.add(func.replace(attrs={**func.attrs, "name": name}))
        paths = {}
        for name, kernel in compiler.finish().items():
            symbols[name] = kernel.symbol
            paths[kernel.symbol] = self.directory / f"{kernel.symbol}.o"
            paths[kernel.symbol].write_bytes(kernel.object_code)
        return symbols, list(paths.values())

    def _metadata(self, plan: HostPlan) -> dict[str, object]:
        kernels = [{"name": call.kernel, "label": call.label} for call in plan.calls]
        return {
            "heddle": VERSION,
            "target": str(self.target),
            "kernels": kernels,
            "arena": plan.report.arena,
            "live_peak": plan.report.live_peak,
        }


def _symbols_of(module: IRModule) -> dict[str, str]:
    """The C name of every function that has one; two functions never share it."""
    symbols: dict[str, str] = {}
    owners: dict[str, str] = {}
    for name, func in module.functions.items():
        if isinstance(func, ExternFunc):
            symbols[name] = func.symbol
        elif isinstance(func, PrimFunc):
            symbols[name] = symbol = kernel_name(func.replace(attrs={"name": name}))
            if owners.setdefault(symbol, name) != name:
                raise UserError(
                    f"build: functions `{owners[symbol]}` and `{name}` have one C name, `{symbol}`"
                )
    return symbols


def _output(error: InternalError) -> str:
    """What the compiler said, without our frame around it."""
    text = error.message.removesuffix(" (this is a bug in Heddle; please report it)")
    return text.split("\n", 1)[-1]
