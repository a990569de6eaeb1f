# SPDX-License-Identifier: Apache-2.0
"""All kernels of a model to object code: in parallel, each distinct one once, from the cache when
it was compiled before.

>>> compiled = compile_kernels(funcs, target)     # doctest: +SKIP
>>> compiled["conv2d_relu"].object_code           # defines compiled["conv2d_relu"].symbol
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from heddle.codegen.llvm.kernel import kernel_ir, uses_vectors
from heddle.codegen.llvm.optimize import Compiled
from heddle.codegen.machine import machine_of
from heddle.codegen.pool import worker_pool
from heddle.codegen.worker import Request
from heddle.ir.structural import structural_hash
from heddle.passes.tir.lower import lower
from heddle.support.cache import DiskCache
from heddle.support.version import build_id
from heddle.target import Target
from heddle.tir.nodes import PrimFunc

CACHE_NAME: Final = "objects"


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """One kernel: the name it has in the module, the symbol that its object defines, the object,
    whether the object came from the cache, and what it cost: seconds of lowering it to LLVM IR and
    seconds of LLVM, zero where another kernel's object serves."""

    name: str
    symbol: str
    object_code: bytes
    cached: bool = False
    lowering_seconds: float = 0.0
    llvm_seconds: float = 0.0


def kernel_digest(func: PrimFunc) -> str:
    """A digest that functions share when they compute the same in the same way; names of
    functions, buffers and variables do not count."""
    attrs = {key: value for key, value in func.attrs.items() if key != "name"}
    return structural_hash(func.replace(attrs=attrs))


@functools.cache
def _compiler_version() -> str:
    return f"{build_id()} llvmlite {importlib.metadata.version('llvmlite')}"


def cache_key(digest: str, target: Target) -> str:
    """The key of an object in the disk cache."""
    machine = machine_of(target)
    text = f"{digest} {target.vector_bits} {target.vector_registers} {machine}"
    text = f"{text} {_compiler_version()}"
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


class KernelCompiler:
    """Compiles kernels in the background: `add` them one by one, then `finish`.

    Lowering happens in `add`, in this process; LLVM runs in the workers meanwhile.
    """

    def __init__(self, target: Target, *, use_cache: bool = True) -> None:
        self.target = target
        self._cache = DiskCache(CACHE_NAME) if use_cache else None
        self._machine = machine_of(target)
        self._names: dict[str, str] = {}  # kernel name -> digest
        self._objects: dict[str, bytes] = {}  # by digest
        self._cached: set[str] = set()
        self._futures: dict[str, Future[Compiled]] = {}
        self._lowering: dict[str, float] = {}  # seconds by name of the kernel that caused them
        self._llvm: dict[str, float] = {}  # seconds by digest

    def add(self, func: PrimFunc) -> None:
        """Start on one scheduled function. Its name must be new."""
        name = str(func.attrs.get("name", "kernel"))
        digest = kernel_digest(func)
        self._names[name] = digest
        if digest in self._objects or digest in self._futures:
            return
        key = cache_key(digest, self.target)
        found = None if self._cache is None else self._cache.get(key)
        if found is not None:
            self._objects[digest] = found
            self._cached.add(digest)
            return
        start = time.perf_counter()
        lowered = lower(func, self.target)
        text = kernel_ir(lowered, symbol_of(digest), self.target)
        self._lowering[name] = time.perf_counter() - start
        request = Request(text, self._machine, not uses_vectors(lowered), False)
        self._futures[digest] = worker_pool().submit(name, request)

    def finish(
        self, *, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, CompiledKernel]:
        """Wait for all of them. `progress(done, total)` is called after each.

        Raises `InternalError`, naming the kernel, when LLVM fails.
        """
        total = len(self._objects) + len(self._futures)
        try:
            for digest, future in self._futures.items():
                made = future.result()
                self._objects[digest] = made.object_code
                self._llvm[digest] = made.seconds
                if self._cache is not None:
                    self._cache.put(cache_key(digest, self.target), made.object_code)
                if progress is not None:
                    progress(len(self._objects), total)
        finally:
            for future in self._futures.values():
                future.cancel()
            self._futures = {}
        return {
            name: CompiledKernel(
                name,
                symbol_of(digest),
                self._objects[digest],
                digest in self._cached,
                self._lowering.get(name, 0.0),
                self._llvm[digest] if name in self._lowering else 0.0,
            )
            for name, digest in self._names.items()
        }


def symbol_of(digest: str) -> str:
    """The symbol of the kernel with a digest."""
    return f"kernel_{digest[:24]}"


def compile_kernels(
    funcs: Iterable[PrimFunc],
    target: Target,
    *,
    use_cache: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, CompiledKernel]:
    """Compile scheduled functions; the result is keyed by their names.

    Functions that are structurally equal share one symbol and one object: link each object once.
    """
    compiler = KernelCompiler(target, use_cache=use_cache)
    for func in funcs:
        compiler.add(func)
    return compiler.finish(progress=progress)


def compile_text(name: str, text: str, target: Target, *, assembly: bool = False) -> Compiled:
    """Compile one module of LLVM IR in a worker. Raises `InternalError` when LLVM fails."""
    request = Request(text, machine_of(target), False, assembly)
    return worker_pool().submit(name, request).result()
