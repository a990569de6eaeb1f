# SPDX-License-Identifier: Apache-2.0
"""Compiles the C runtime once and links model libraries, with whatever C compiler there is."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from heddle.support.errors import InternalError, UserError

CRT = Path(__file__).resolve().parent.parent / "crt"
_COMPILE_FLAGS = ("-std=c11", "-O2", "-fPIC", "-fvisibility=hidden", "-D_GNU_SOURCE")
_LINK_FLAGS = (
    "-shared",
    "-fPIC",
    "-O1",
    "-fvisibility=hidden",
    "-Wl,-z,noexecstack",
    "-Wl,-z,defs",
)
_DIGEST = "digest"
_LIBRARIES = ("-lpthread", "-ldl", "-lm")
# What a compiler's message says when the fault is neither its own nor ours.
_USERS_CONDITIONS = (
    *map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)),
    "File size limit exceeded",
)


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A C compiler driver: the command, and what it calls itself."""

    command: tuple[str, ...]
    version: str
    target: str | None = None
    """A triple as in "aarch64-linux-gnu"; None for the machine itself."""

    def run(self, arguments: Sequence[str | Path], *, doing: str) -> None:
        """Runs the compiler. Raises `UserError` for a full disk, else `InternalError`."""
        command = [*self.command, *map(str, arguments)]
        try:
            # C locale: messages are compared below.
            done = subprocess.run(
                command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
            )
        except OSError as error:
            raise UserError(f"{doing}: cannot run {self.command[0]}: {error.strerror}") from error
        if done.returncode == 0:
            return
        output = done.stderr.strip() or f"exit status {done.returncode}"
        for line in output.splitlines():
            if any(condition in line for condition in _USERS_CONDITIONS):
                raise UserError(f"{doing}: {line.strip()}")
        raise InternalError(f"{doing}: {shlex.join(command)}\n{output[-4000:]}")


def _candidates(target: str | None) -> Iterator[tuple[str, ...]]:
    chosen = os.environ.get("HEDDLE_CC")
    if chosen:
        yield tuple(shlex.split(chosen))
        return
    if target is None:
        yield from (("cc",), ("gcc",), ("clang",))
    else:
        yield (f"{target}-gcc",)
    if find_spec("ziglang") is not None:
        yield (sys.executable, "-m", "ziglang", "cc", *(("-target", target) if target else ()))


@lru_cache(maxsize=8)
def _find(target: str | None, chosen: str | None, path: str | None) -> Toolchain:
    for command in _candidates(target):
        if shutil.which(command[0]) is None:
            continue
        try:
            done = subprocess.run([*command, "--version"], capture_output=True, text=True)
        except OSError:
            continue
        if done.returncode == 0:
            return Toolchain(command, done.stdout.splitlines()[0] if done.stdout else "", target)
    if chosen:
        raise UserError(f"HEDDLE_CC={chosen}: not a C compiler that can be run")
    where = "" if target is None else f" for {target}"
    raise UserError(
        f"no C compiler{where} found: looked for $HEDDLE_CC, cc, gcc, clang and ziglang. "
        "Install one, as with `apt install gcc` or `pip install ziglang`"
    )


def find_toolchain(target: str | None = None) -> Toolchain:
    """The C compiler to use: $HEDDLE_CC, else cc, gcc, clang, else ziglang.

    `target` is a GNU triple to cross-compile for. Raises `UserError` when there is none.
    """
    return _find(target, os.environ.get("HEDDLE_CC"), os.environ.get("PATH"))


# ---- the cache -----------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _fallback_directory(reason: str) -> Path:
    warnings.warn(
        f"{reason}: using a temporary directory for this process; "
        "set HEDDLE_CACHE_DIR to a writable directory",
        stacklevel=4,
    )
    # Deleted by the operating system's own rules: other processes cannot find it anyway.
    return Path(tempfile.mkdtemp(prefix="heddle-cache-"))


def cache_directory() -> Path:
    """$HEDDLE_CACHE_DIR or ~/.cache/heddle, made if need be.

    When it cannot be written, a temporary directory instead, with one warning per process.
    """
    chosen = os.environ.get("HEDDLE_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    directory = Path(chosen) if chosen else Path(base) / "heddle"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        return _fallback_directory(f"cannot write the cache {directory}: {error.strerror}")
    return directory


def _crt_key(toolchain: Toolchain) -> str:
    digest = hashlib.sha256()
    for part in (*toolchain.command, toolchain.version, *_COMPILE_FLAGS):
        digest.update(part.encode() + b"\0")
    for source in sorted(CRT.glob("*.[ch]")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


@lru_cache(maxsize=16)
def _crt_sources_key(toolchain: Toolchain) -> str:
    return _crt_key(toolchain)


def _objects_in(directory: Path) -> list[Path]:
    return [directory / f"{source.stem}.o" for source in sorted(CRT.glob("*.c"))]


def _digest_of(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in _objects_in(directory):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _is_intact(directory: Path) -> bool:
    """Whether the objects in a directory are what was once written there."""
    try:
        return (directory / _DIGEST).read_text() == _digest_of(directory)
    except (OSError, ValueError):
        return False


def crt_objects(toolchain: Toolchain | None = None) -> list[Path]:
    """The objects of the C runtime, compiled on first use and then taken from the cache.

    Safe when several processes do it at once: the directory appears complete or not at all.
    """
    toolchain = toolchain or find_toolchain()
    name = f"crt-{_crt_sources_key(toolchain)}"
    try:
        return _build_crt(toolchain, cache_directory() / name)
    except (OSError, UserError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return _build_crt(toolchain, _fallback_directory(f"cannot fill the cache: {reason}") / name)


def _build_crt(toolchain: Toolchain, directory: Path) -> list[Path]:
    objects = _objects_in(directory)
    if _is_intact(directory):
        return objects
    building = Path(tempfile.mkdtemp(prefix=f"{directory.name}-", dir=directory.parent))
    try:
        for source in sorted(CRT.glob("*.c")):
            target = building / f"{source.stem}.o"
            toolchain.run(
                [*_COMPILE_FLAGS, "-c", source, "-o", target], doing="compiling the C runtime"
            )
        (building / _DIGEST).write_text(_digest_of(building))
        try:
            building.rename(directory)
        except OSError:
            # Another process was first, or a damaged directory is in the way.
            if not _is_intact(directory):
                shutil.rmtree(directory, ignore_errors=True)
                building.rename(directory)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return objects


# ---- linking -------------------------------------------------------------------------------------

# The rest is local: a library uses its own functions even if another model was loaded globally
# before. Not -Bsymbolic: LLD would bind the process's thread pool to the library as well.
_EXPORTS = """\
{{ global: heddle_*; __tvm_ffi_*; {name}_run; {name}_infer_shapes; {name}_last_error;
   hd_process_pool_v2; local: *; }};
"""

_STUB = """\
#include "check.h"
#include "internal.h"
#define EXPORT __attribute__((visibility("default")))
{wrappers}{constants}"""

# The same functions under the model's own name, so that a program can link several models.
_WRAPPERS = """\
EXPORT int32_t {name}_run(const DLTensor *const *inputs, int32_t num_inputs,
                          DLTensor *const *outputs, int32_t num_outputs) {{
  return hd_run(inputs, num_inputs, outputs, num_outputs);
}}
EXPORT int32_t {name}_infer_shapes(const DLTensor *const *inputs, int32_t num_inputs, int64_t *dims,
                                   int32_t capacity) {{
  return hd_infer_shapes(inputs, num_inputs, dims, capacity);
}}
EXPORT const char *{name}_last_error(void) {{ return hd_get_error(); }}
"""

# On x86-64 a section of the large model: it is placed last, and so the distance from code to data
# stays below 2 GiB however many constants there are.
_CONSTANTS = """\
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SECTION ".lrodata.heddle,\\"al\\",%progbits"
#else
#define SECTION ".rodata.heddle,\\"a\\",%progbits"
#endif
__asm__(".pushsection " SECTION "\\n"
        ".balign 64\\n"
        ".globl heddle_constants\\n"
        ".hidden heddle_constants\\n"
        ".type heddle_constants, %object\\n"
        "heddle_constants:\\n"
        ".incbin \\"{path}\\"\\n"
        ".size heddle_constants, {size}\\n"
        ".popsection\\n");
"""


def c_identifier(name: str) -> str:
    """`name` with everything replaced that C does not allow in an identifier."""
    text = re.sub(r"\W", "_", name, flags=re.ASCII)
    return text if text and not text[0].isdigit() else f"model_{text}"


def _escaped(text: str) -> str:
    """`text` as it stands between the quotes of a string of C or of the assembler."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _write_stub(
    directory: Path, name: str | None, constants: bytes | memoryview | None
) -> list[Path]:
    wrappers = _WRAPPERS.format(name=c_identifier(name)) if name else ""
    text = ""
    if constants is not None:
        data = directory / "constants.bin"
        with open(data, "wb") as file:
            file.write(constants)
        path = _escaped(_escaped(str(data)))  # for the assembler, within a string of C
        text = _CONSTANTS.format(path=path, size=data.stat().st_size)
    if not wrappers and not text:
        return []
    stub = directory / "stub.c"
    stub.write_text(_STUB.format(wrappers=wrappers, constants=text))
    return [stub]


@contextlib.contextmanager
def _working_directory(out: Path) -> Iterator[Path]:
    """A directory beside `out`: on the same file system, so that the last step is a rename."""
    try:
        directory = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    try:
        yield directory
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def writing_beside(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that replaces it when the block ends well.

    An error in the block, a full disk say, leaves `path` as it was. Raises `UserError`.
    """
    with _working_directory(path) as directory:
        temporary = directory / path.name
        yield temporary
        os.replace(temporary, path)


def link_shared(
    objects: Sequence[str | Path],
    out: str | Path,
    *,
    constants: object | None = None,
    name: str | None = None,
    libs: Sequence[str] = (),
    toolchain: Toolchain | None = None,
) -> Path:
    """Links generated objects and the C runtime into the shared library `out`.

    objects    object files; one of them defines `heddle_model`
    constants  anything with the buffer protocol, contiguous: embedded; None: given at run time
    name       also exports `<name>_run`, `<name>_infer_shapes` and `<name>_last_error`
    libs       further linker arguments, as in "-lblas"

    The file appears complete or not at all. Raises `UserError` when there is no compiler or `out`
    cannot be written.

    >>> link_shared(["model.o"], "model.so", constants=weights)  # doctest: +SKIP
    """
    out = Path(out)
    toolchain = toolchain or find_toolchain()
    runtime = crt_objects(toolchain)
    data = None if constants is None else memoryview(constants).cast("B")  # type: ignore[arg-type]
    if data is not None and not data.nbytes:
        data = None
    with _working_directory(out) as directory:
        stub = _write_stub(directory, name, data)
        exports = directory / "exports.map"
        exports.write_text(_EXPORTS.format(name=c_identifier(name or "heddle")))
        linked = directory / "linked.so"
        toolchain.run(
            [*_LINK_FLAGS, "-Xlinker", f"--version-script={exports}", f"-I{CRT}"]
            + [*stub, *objects, *runtime]
            + [*libs, *_LIBRARIES, "-o", linked],
            doing=f"linking {out}",
        )
        os.chmod(linked, 0o755)
        os.replace(linked, out)
    return out
