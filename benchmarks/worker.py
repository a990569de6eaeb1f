# SPDX-License-Identifier: Apache-2.0
"""One engine with one network in a process of its own, driven over a pipe.

Started by `Worker` below (the runner's side) as `python -m benchmarks.worker FD ENGINE MODEL ...`.
Commands are tuples: ("load",), ("outputs", seed), ("time", seconds, least calls), ("quit",).
The answer is ("ok", value) or ("error", text).
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
import traceback
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import zoo
from benchmarks.settle import settle


class EngineError(Exception):
    """The engine failed, died or did not answer in time."""


def peak_memory() -> int:
    """The most memory that this process has had resident, in bytes."""
    try:  # getrusage counts what the parent had before exec; this does not
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _Server:
    """The worker's side: keeps the loaded network between commands."""

    def __init__(self, engine: str, model: str, threads: int, small: bool) -> None:
        self.engine, self.model, self.threads, self.small = engine, model, threads, small

    def load(self) -> dict[str, float]:
        """Load (or compile) the network and call it once."""
        from benchmarks.engines import ENGINES

        values = zoo.inputs(self.model, 0, small=self.small)
        begin = time.perf_counter()
        self.loaded = ENGINES[self.engine](self.model, threads=self.threads, small=self.small)
        loaded = time.perf_counter()
        self.arguments = self.loaded.prepare(values)
        first = time.perf_counter()
        self.loaded.call(self.arguments)
        return {"load_s": loaded - begin, "first_s": time.perf_counter() - first}

    def outputs(self, seed: int) -> list[np.ndarray]:
        """The outputs for the inputs of `seed`."""
        values = zoo.inputs(self.model, seed, small=self.small)
        result = self.loaded.call(self.loaded.prepare(values))
        return [np.array(item) for item in self.loaded.fetch(result)]

    def time(self, seconds: float, least: int) -> list[float]:
        """Times of single calls in seconds: for `seconds`, and at least `least` of them."""
        call, arguments = self.loaded.call, self.arguments
        call(arguments)  # caches, and threads that sleep
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < least or time.perf_counter() < end:
            begin = time.perf_counter()
            call(arguments)
            times.append(time.perf_counter() - begin)
        return times

    def memory(self) -> int:
        return peak_memory()


class Worker:
    """The runner's side of one worker process. `env` is added to the environment."""

    def __init__(
        self, engine: str, model: str, *, threads: int, small: bool, env: dict[str, str]
    ) -> None:
        count = str(threads)
        root = Path(__file__).parents[1]
        sources = [str(root / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        names = ("OMP", "MKL", "OPENBLAS", "HEDDLE")
        environment = os.environ | {f"{name}_NUM_THREADS": count for name in names}
        environment |= {"PYTHONPATH": os.pathsep.join(sources)} | env
        self.connection, theirs = Pipe()
        with theirs:
            command = [sys.executable, "-m", "benchmarks.worker", str(theirs.fileno()), engine]
            self.process = subprocess.Popen(
                [*command, model, count, "small" if small else "full"],
                env=environment,
                cwd=root,
                pass_fds=(theirs.fileno(),),
            )

    def ask(self, *command: Any, timeout: float = 900.0) -> Any:
        """Send one command and wait for its answer; `EngineError` when there is none."""
        try:
            self.connection.send(command)
            if not self.connection.poll(timeout):
                raise EngineError(f"no answer to `{command[0]}` in {timeout:.0f} s")
            status, value = self.connection.recv()
        except (EOFError, OSError) as error:
            code = self.process.wait(timeout=30)
            raise EngineError(f"the process died in `{command[0]}` (exit status {code})") from error
        if status == "error":
            raise EngineError(value)
        return value

    def close(self) -> None:
        """End the process."""
        self.connection.close()  # the worker reads end of file and leaves
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _serve(connection: Connection, server: _Server) -> None:
    while True:
        try:
            name, *arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = getattr(server, name)(*arguments)
            settle()
            connection.send(("ok", answer))
        except Exception as error:
            if os.environ.get("HEDDLE_BENCH_TRACE"):
                traceback.print_exc()
            lines = str(error).strip().splitlines() or [""]
            connection.send(("error", f"{type(error).__name__}: {lines[0]}"))


def main() -> None:
    descriptor, engine, model, threads, size = sys.argv[1:]
    os.dup2(2, 1)  # what engines print is for the terminal, not for the table on stdout
    _serve(Connection(int(descriptor)), _Server(engine, model, int(threads), size == "small"))
    sys.stderr.flush()
    os._exit(0)  # engines' own threads and atexit handlers are of no interest


if __name__ == "__main__":
    main()
