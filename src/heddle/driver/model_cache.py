# SPDX-License-Identifier: Apache-2.0
"""Compiled models on disk, by content: compiling the same model again only opens files.

An entry is a directory `<cache>/models/<key>` with `library.so`, `constants.bin` (mapped into
memory, so that pages are read when first used) and the object files that `export_library` links.
It is written under another name and renamed, so a reader sees all of it or nothing; of two
processes that compile the same model at once, both succeed and one entry stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from heddle.runtime.module import Executable
from heddle.support.version import build_id
from heddle.target import Target

_CHUNK = 64 << 20
_MANIFEST = "complete"
_SAMPLES = 256
_SAMPLE_BYTES = 4096
_LIMIT = 8 << 30
"""Bytes that cached models may take; the least recently used go first."""


def content_key(content: Path | bytes | str, *options: object) -> str:
    """The key of a model: its bytes, the options of the compilation, the version of Heddle."""
    hasher = hashlib.blake2b(digest_size=20)
    if isinstance(content, Path):
        mapped = np.memmap(content, np.uint8, "r") if content.stat().st_size else b""
        content = memoryview(mapped)  # type: ignore[assignment]
    if isinstance(content, str):
        content = content.encode()
    view = memoryview(content)
    chunks = [view[start : start + _CHUNK] for start in range(0, len(view), _CHUNK)]
    with ThreadPoolExecutor(2) as pool:  # hashing releases the interpreter lock
        for digest in pool.map(lambda chunk: hashlib.blake2b(chunk).digest(), chunks):
            hasher.update(digest)
    hasher.update(repr((len(view), options, build_id())).encode())
    return hasher.hexdigest()


def target_key(target: Target) -> str:
    """Everything about a target that code depends on."""
    return f"{target} {sorted(target.features)} {target.vector_bits} {target.caches} {target.cores}"


class ModelCache:
    """The compiled models below one directory. Failing to write is never an error: the model then
    lives in a temporary directory as long as its executable."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "models"

    def find(self, key: str) -> Executable | None:
        """The executable of an entry, or None. A damaged entry is dropped."""
        entry = self.directory / key
        if not (entry / _MANIFEST).exists():
            return None
        try:
            if (entry / _MANIFEST).read_text() != _manifest(entry):
                raise OSError("damaged")
            executable = open_entry(entry)
        except Exception:  # any damage: compile again
            shutil.rmtree(entry, ignore_errors=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(entry)
        return executable

    @contextlib.contextmanager
    def writing(self, key: str):  # type: ignore[no-untyped-def]
        """A directory to write an entry in; it becomes the entry when the block ends well."""
        entry = self.directory / key
        self.directory.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{key[:8]}-", dir=self.directory))
        try:
            yield temporary
            (temporary / _MANIFEST).write_text(_manifest(temporary))
            try:
                temporary.rename(entry)
            except OSError:  # another process was first, or a damaged entry is in the way
                if not (entry / _MANIFEST).exists():
                    shutil.rmtree(entry, ignore_errors=True)
                    temporary.rename(entry)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self.prune()

    def prune(self) -> None:
        """Drop the least recently used entries until the rest fits."""
        entries = []
        for entry in self.directory.iterdir():
            with contextlib.suppress(OSError):
                size = sum(file.stat().st_size for file in entry.iterdir())
                entries.append((entry.stat().st_mtime, size, entry))
        total = sum(size for _, size, _ in entries)
        for _, size, entry in sorted(entries)[:-1]:
            if total <= _LIMIT:
                break
            shutil.rmtree(entry, ignore_errors=True)
            total -= size


def _manifest(entry: Path) -> str:
    """Name, size and digest of each file of an entry: the last file that is written to it."""
    return "".join(
        f"{file.name} {file.stat().st_size} {_digest(file)}\n"
        for file in sorted(entry.iterdir())
        if file.name != _MANIFEST
    )


def _digest(path: Path) -> str:
    """A digest of a file's content; of a large one, of samples all over it: what a crash or a bad
    disk leaves is missing or zero over long stretches, and reading all takes as long as loading."""
    hasher = hashlib.blake2b(digest_size=16)
    size = path.stat().st_size
    with open(path, "rb") as file:
        if size <= _SAMPLES * _SAMPLE_BYTES:
            hasher.update(file.read())
        else:
            for index in range(_SAMPLES):
                file.seek((size - _SAMPLE_BYTES) * index // (_SAMPLES - 1))
                hasher.update(file.read(_SAMPLE_BYTES))
    return hasher.hexdigest()


def open_entry(entry: Path) -> Executable:
    """The executable whose files lie in a directory."""
    constants = entry / "constants.bin"
    data = None
    if constants.exists() and constants.stat().st_size:
        data = np.memmap(constants, np.uint8, "r")
    objects = sorted(entry.glob("*.o"))
    return Executable.from_library(entry / "library.so", constants=data, objects=objects)
