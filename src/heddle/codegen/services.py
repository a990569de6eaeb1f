# SPDX-License-Identifier: Apache-2.0
"""The runtime services that kernels call, loaded into this process for kernels built in it."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from heddle.runtime.toolchain import CRT, cache_directory, crt_objects, find_toolchain

SERVICES: Final = (
    "hd_parallel_for",
    "hd_num_threads",
    "hd_set_num_threads",
    "hd_set_error",
    "hd_get_error",
    "hd_alloc",
    "hd_free",
    "hd_use_tiles",
)
_OBJECTS: Final = ("arena", "error", "profile", "threadpool", "tiles")


def _table() -> str:
    """C source of a table with the address of every service."""
    names = ", ".join(f"(void *){name}" for name in SERVICES)
    return (
        '#include "heddle_abi.h"\n#include "internal.h"\n'
        '__attribute__((visibility("default"))) void *const heddle_services[] = '
        f"{{{names}}};\n"
    )


def _build(out: Path) -> None:
    toolchain = find_toolchain()
    objects = [path for path in crt_objects(toolchain) if path.stem in _OBJECTS]
    folder = Path(tempfile.mkdtemp(prefix="heddle-services-", dir=out.parent))
    try:
        source, linked = folder / "services.c", folder / "services.so"
        source.write_text(_table(), encoding="ascii")
        flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-shared", "-fPIC", f"-I{CRT}"]
        libraries = ["-lpthread", "-lm"]
        toolchain.run(
            [*flags, source, *objects, *libraries, "-o", linked], doing="linking the C runtime"
        )
        os.replace(linked, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _library() -> ctypes.CDLL:
    # The folder of the objects is named after their content, and so is this library.
    key = crt_objects()[0].parent.name
    out = cache_directory() / f"{key}-services-{len(SERVICES)}.so"
    if not out.is_file():
        _build(out)
    return ctypes.CDLL(str(out))


@functools.cache
def service_addresses() -> dict[str, int]:
    """The address of every service, by name. Compiles the C runtime on first use."""
    table = (ctypes.c_void_p * len(SERVICES)).in_dll(_library(), "heddle_services")
    return {name: int(table[place] or 0) for place, name in enumerate(SERVICES)}


def last_error() -> str:
    """The message of the service `hd_set_error`, of this thread."""
    function = ctypes.CFUNCTYPE(ctypes.c_char_p)(service_addresses()["hd_get_error"])
    message: bytes = function()
    return message.decode(errors="replace")


def set_num_threads(count: int) -> None:
    """How many threads the parallel loops of kernels in this process use."""
    ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int32)(service_addresses()["hd_set_num_threads"])(
        count
    )
