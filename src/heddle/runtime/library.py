# SPDX-License-Identifier: Apache-2.0
"""Opens model libraries: refuses what is no such file before the system's loader sees it."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import tempfile
import threading
from pathlib import Path

from heddle.runtime.abi import ABI_VERSION, declare
from heddle.support.errors import UserError

_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
_ALIASES = {"amd64": "x86_64", "arm64": "aarch64"}
_LOAD = 1

_lock = threading.Lock()
_identities: dict[str, tuple[int, int, int]] = {}
"""Which file each path was when it was opened (device, inode, time of change)."""


def check_elf(path: Path) -> None:
    """Raises `UserError` unless `path` is a complete shared library for this machine.

    The system's loader maps segments without asking whether the file is long enough; a truncated
    file would end the process with SIGBUS.
    """
    try:
        with open(path, "rb") as file:
            header = file.read(64)
            size = os.fstat(file.fileno()).st_size
            if len(header) < 20 or header[:4] != b"\x7fELF":
                raise UserError(f"{path}: not a model library (no ELF file)")
            order = "<" if header[5] == 1 else ">"
            machine = struct.unpack_from(order + "H", header, 18)[0]
            _check_machine(path, machine)
            if header[4] != 2:
                return  # 32-bit: left to the loader
            _check_segments(path, file, header, order, size)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except struct.error as error:
        raise UserError(f"{path}: truncated") from error


def _check_machine(path: Path, machine: int) -> None:
    host = platform.machine().lower()
    host = _ALIASES.get(host, host)
    built_for = _MACHINES.get(machine, f"ELF machine {machine}")
    if host in _MACHINES.values() and built_for != host:
        raise UserError(f"{path}: built for {built_for}, this machine is {host}")


def _check_segments(path: Path, file: object, header: bytes, order: str, size: int) -> None:
    offset = struct.unpack_from(order + "Q", header, 32)[0]
    entry_size, count = struct.unpack_from(order + "HH", header, 54)
    file.seek(offset)  # type: ignore[attr-defined]
    table = file.read(entry_size * count)  # type: ignore[attr-defined]
    for index in range(count):
        kind, _flags, start, _va, _pa, length = struct.unpack_from(
            order + "IIQQQQ", table, index * entry_size
        )
        if kind == _LOAD and start + length > size:
            raise UserError(f"{path}: truncated: {size} bytes, expected at least {start + length}")


def _unambiguous(path: Path) -> tuple[Path, Path | None]:
    """The path to open, and a link to remove afterwards.

    The loader compares names first: a path whose file was replaced since it was opened would give
    the old library again. It is opened through a new name then.
    """
    status = path.stat()
    identity = (status.st_dev, status.st_ino, status.st_mtime_ns)
    if _identities.setdefault(str(path), identity) == identity:
        return path, None
    directory = Path(tempfile.mkdtemp(prefix="heddle-load-"))
    link = directory / path.name
    link.symlink_to(path)
    return link, link


def open_library(path: str | os.PathLike[str]) -> ctypes.CDLL:
    """Loads a model library and checks that it is one. Raises `UserError`."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if not path.is_file():
        raise UserError(f"{path}: not a file")
    path = path.resolve()
    if os.uname().sysname == "Linux":
        check_elf(path)
    with _lock:
        name, link = _unambiguous(path)
        try:
            library = ctypes.CDLL(str(name), mode=os.RTLD_LOCAL | os.RTLD_NOW)
        except OSError as error:
            raise UserError(f"{path}: cannot be loaded: {error}") from error
        finally:
            if link is not None:
                link.unlink()
                link.parent.rmdir()
    try:
        declare(library)
    except AttributeError as error:
        raise UserError(f"{path}: not a model library: {error}") from error
    version = library.heddle_get_model().contents.abi_version
    if version != ABI_VERSION:
        raise UserError(
            f"{path}: built for runtime interface {version}, this Heddle has {ABI_VERSION}: "
            "compile the model again"
        )
    return library
