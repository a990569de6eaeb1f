# SPDX-License-Identifier: Apache-2.0
"""A disk cache of byte strings: safe with many processes, damaged files, full and read-only disks.

An entry is a file named after the hash of its key, in one of 256 folders. It starts with a
checksum of the rest, and is written beside its place and then renamed, so that a reader sees a
whole entry or none. What cannot be written is not kept: one warning says so, nothing fails.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from heddle.support.env import HEDDLE_CACHE_DIR, HEDDLE_CACHE_SIZE

_CHECKSUM_BYTES: Final = 16
_PRUNE_EVERY: Final = 64
_PRUNE_TO: Final = 0.75


def cache_dir() -> Path:
    """$HEDDLE_CACHE_DIR, else `heddle` in $XDG_CACHE_HOME or ~/.cache. It need not exist."""
    chosen = HEDDLE_CACHE_DIR.get()
    if chosen is not None:
        return chosen.expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "heddle"


class DiskCache:
    """Byte strings by key, below `cache_dir()/name` (or `directory`).

    `max_bytes` bounds the whole (default: $HEDDLE_CACHE_SIZE MiB); when it is exceeded, the
    entries that were not used for longest go.

    >>> cache = DiskCache("kernels")
    >>> cache.put("key", b"object")
    >>> cache.get("key")
    b'object'
    """

    def __init__(
        self, name: str, *, directory: Path | None = None, max_bytes: int | None = None
    ) -> None:
        self.directory = (cache_dir() if directory is None else directory) / name
        self.max_bytes = HEDDLE_CACHE_SIZE.get() << 20 if max_bytes is None else max_bytes
        self._writes = 0

    def path_of(self, key: str) -> Path:
        """The file that holds the entry of a key."""
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self.directory / digest[:2] / digest[2:]

    def get(self, key: str) -> bytes | None:
        """The bytes kept under `key`, or None. A damaged entry is dropped."""
        path = self.path_of(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        data = content[_CHECKSUM_BYTES:]
        if content[:_CHECKSUM_BYTES] != _checksum(data):
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the order of last use decides what is pruned
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`, replacing what was there. Never raises for a disk problem."""
        path = self.path_of(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(path, _checksum(data) + data)
        except OSError as error:
            _warn_not_kept(str(self.directory), _reason(error))
            return
        self._writes += 1
        if self._writes % _PRUNE_EVERY == 1:
            self.prune()

    def prune(self) -> None:
        """Drop the least recently used entries when the whole is too large."""
        entries = []
        total = 0
        for path in self._files():
            with contextlib.suppress(OSError):  # another process may have dropped it
                status = path.stat()
                entries.append((status.st_mtime_ns, status.st_size, path))
                total += status.st_size
        if total <= self.max_bytes:
            return
        for _, size, path in sorted(entries, key=lambda entry: entry[:2]):
            if total <= self.max_bytes * _PRUNE_TO:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size

    def clear(self) -> None:
        """Drop every entry."""
        for path in self._files():
            with contextlib.suppress(OSError):
                path.unlink()

    def _files(self) -> Iterator[Path]:
        with contextlib.suppress(OSError):
            for folder in list(self.directory.iterdir()):
                with contextlib.suppress(OSError):
                    yield from list(folder.iterdir())


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_CHECKSUM_BYTES).digest()


def _write_whole(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    return error.strerror or str(error)


@functools.cache
def _warn_not_kept(directory: str, reason: str) -> None:
    warnings.warn(
        f"cannot write the cache {directory}: {reason}; compiled code is not kept "
        "(set HEDDLE_CACHE_DIR to a writable directory)",
        stacklevel=3,
    )
