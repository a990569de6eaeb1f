# SPDX-License-Identifier: Apache-2.0
"""The environment variables that Heddle reads: one typed registry.

    HEDDLE_NUM_THREADS.get()      # int or None

A name that starts with HEDDLE_ and is not listed here is probably misspelt: the first time any
variable is read, one warning lists such names and what may have been meant.
"""

from __future__ import annotations

import difflib
import functools
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Generic, TypeVar

from heddle.support.errors import UserError

T = TypeVar("T")
_PREFIX: Final = "HEDDLE_"
_IGNORED_PREFIX: Final = "HEDDLE_TEST_"
_REGISTRY: Final[dict[str, EnvVar[object]]] = {}


class EnvVar(Generic[T]):
    """One variable: `name`, how its text is read, the value when it is not set, and what it does.

    An empty variable counts as not set.
    """

    def __init__(
        self, name: str, parse: Callable[[str], T], default: T, doc: str, *, kind: str
    ) -> None:
        self.name = name
        self.parse = parse
        self.default = default
        self.doc = doc
        self.kind = kind
        _REGISTRY[name] = self  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{self.name} ({self.kind}, default {self.default!r}): {self.doc}"

    @property
    def is_set(self) -> bool:
        """Whether the environment gives it a value."""
        return bool(os.environ.get(self.name))

    def get(self) -> T:
        """The value now. Raises `UserError` when the text is not of the expected kind."""
        warn_unknown()
        text = os.environ.get(self.name)
        if not text:
            return self.default
        try:
            return self.parse(text)
        except ValueError:
            raise UserError(f"{self.name}={text}: expected {self.kind}") from None


def _flag(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    raise ValueError(text)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def registered() -> Iterator[EnvVar[object]]:
    """Every known variable, by name."""
    return (_REGISTRY[name] for name in sorted(_REGISTRY))


def unknown_variables() -> dict[str, list[str]]:
    """Variables that look like ours and are not, with the known names that are near."""
    found = {}
    for name in sorted(os.environ):
        if not name.startswith(_PREFIX) or name.startswith(_IGNORED_PREFIX):
            continue
        if name not in _REGISTRY:
            found[name] = difflib.get_close_matches(name, _REGISTRY, n=2, cutoff=0.6)
    return found


@functools.cache
def warn_unknown() -> None:
    """Warn about misspelt variables, once in a process."""
    lines = [_describe(name, near) for name, near in unknown_variables().items()]
    if lines:
        warnings.warn(f"unknown environment variables: {'; '.join(lines)}", stacklevel=3)


def _describe(name: str, near: list[str]) -> str:
    return f"{name} (did you mean {' or '.join(near)}?)" if near else name


HEDDLE_CACHE_DIR: Final = EnvVar[Path | None](
    "HEDDLE_CACHE_DIR", Path, None, "where compiled kernels and models are kept", kind="a directory"
)
HEDDLE_CACHE_SIZE: Final = EnvVar[int](
    "HEDDLE_CACHE_SIZE", _positive, 4096, "MiB that each kind of cached thing may take",
    kind="a positive number of MiB",
)  # fmt: skip
HEDDLE_NUM_THREADS: Final = EnvVar[int | None](
    "HEDDLE_NUM_THREADS", _positive, None,
    "threads of the pool; by default the cores this process may use", kind="a positive integer",
)  # fmt: skip
HEDDLE_CC: Final = EnvVar[str | None](
    "HEDDLE_CC", str, None, "the C compiler that links libraries", kind="a command"
)
HEDDLE_DEBUG: Final = EnvVar[bool](
    "HEDDLE_DEBUG", _flag, False, "the command line shows Python tracebacks", kind="0 or 1"
)
HEDDLE_DUMP: Final = EnvVar[Path | None](
    "HEDDLE_DUMP", Path, None, "write the module as text after every pass", kind="a directory"
)
HEDDLE_FREEZE_NODES: Final = EnvVar[bool](
    "HEDDLE_FREEZE_NODES", _flag, False, "assigning a field of an IR node is an error",
    kind="0 or 1",
)  # fmt: skip
HEDDLE_PYTHON: Final = EnvVar[str | None](
    "HEDDLE_PYTHON", str, None, "the Python that the scripts of the repository use",
    kind="a command",
)  # fmt: skip
HEDDLE_ZOO: Final = EnvVar[Path | None](
    "HEDDLE_ZOO", Path, None, "where the networks of the benchmarks are kept", kind="a directory"
)
