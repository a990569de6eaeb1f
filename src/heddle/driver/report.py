# SPDX-License-Identifier: Apache-2.0
"""What a compilation did and what it cost: filled in as it goes, told to whoever listens."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Listener = Callable[[str, float | None], None]
"""Called with the name of a stage, and the share of it that is done (None: it just began)."""


@dataclass(slots=True)
class CompileReport:
    """seconds: of each stage, in order. kernels: how many were compiled, and how many of these
    came from the cache. arena_bytes against live_bytes: the memory plan and the least possible.
    from_cache: whether the whole model was compiled before."""

    seconds: dict[str, float] = field(default_factory=dict)
    kernels: int = 0
    cached_kernels: int = 0
    arena_bytes: int = 0
    live_bytes: int = 0
    constant_bytes: int = 0
    from_cache: bool = False
    listener: Listener | None = None

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage and tells the listener that it began."""
        self.tell(name, None)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def tell(self, name: str, share: float | None) -> None:
        """Report progress within a stage."""
        if self.listener is not None:
            self.listener(name, share)
