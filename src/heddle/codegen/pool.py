# SPDX-License-Identifier: Apache-2.0
"""A small pool of worker processes, started when first needed."""

from __future__ import annotations

import atexit
import os
import queue
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from heddle.codegen.llvm.optimize import Compiled
from heddle.codegen.worker import Reply, Request, read_message, write_message
from heddle.support import InternalError
from heddle.target import host_cores


class _Job(NamedTuple):
    name: str
    request: Request
    future: Future[Compiled]


class _Worker:
    """One process, and the end of what it printed."""

    def __init__(self) -> None:
        self.log = tempfile.TemporaryFile()
        package_root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH", "")]))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "heddle.codegen.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env={**os.environ, "PYTHONPATH": path},
        )

    def ask(self, request: Request) -> Reply | None:
        """The reply, or None when the process died over the request."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            write_message(self.process.stdin, request)
            reply: Reply | None = read_message(self.process.stdout)
        except (OSError, EOFError):
            return None
        return reply

    def last_words(self) -> str:
        """What a dead process said, and how it ended."""
        status = self.process.wait()
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        telling = [line for line in lines if "error" in line.lower() or "Assertion" in line]
        said = (telling or lines or ["no message"])[0]
        return f"{said} (exit status {status})"

    def close(self) -> None:
        if self.process.stdin is not None:
            try:
                self.process.stdin.close()
            except OSError:
                pass  # it died with a request half written
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.log.close()


class WorkerPool:
    """Compiles modules in up to `size` processes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pid = os.getpid()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._waiting = 0  # jobs submitted and not finished
        self._workers: set[_Worker] = set()

    def submit(self, name: str, request: Request) -> Future[Compiled]:
        """Compile in the background; `name` is what error messages call the kernel."""
        future: Future[Compiled] = Future()
        with self._lock:
            self._waiting += 1
            if self._waiting > len(self._threads) and len(self._threads) < self.size:
                thread = threading.Thread(target=self._run, daemon=True, name="heddle-codegen")
                self._threads.append(thread)
                thread.start()
        self._jobs.put(_Job(name, request, future))
        return future

    def _run(self) -> None:
        worker: _Worker | None = None
        while (job := self._jobs.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                with self._lock:
                    self._waiting -= 1
                continue
            try:
                if worker is None:
                    worker = _Worker()
                    with self._lock:
                        self._workers.add(worker)
                reply = worker.ask(job.request)
            except BaseException as failure:  # no process could be started, for one
                self._finish(job, None, failure)
                continue
            if reply is None:
                error = InternalError(f"kernel `{job.name}`: LLVM died: {worker.last_words()}")
                self._discard(worker)
                worker = None
                self._finish(job, None, error)
                continue
            made, refusal = reply
            if made is None:
                error = InternalError(f"kernel `{job.name}`: LLVM refused it: {refusal}")
                self._finish(job, None, error)
            else:
                self._finish(job, Compiled(*made), None)

    def _finish(self, job: _Job, made: Compiled | None, error: BaseException | None) -> None:
        with self._lock:
            self._waiting -= 1
        if error is not None:
            job.future.set_exception(error)
        elif made is not None:
            job.future.set_result(made)

    def _discard(self, worker: _Worker) -> None:
        with self._lock:
            self._workers.discard(worker)
        worker.close()

    def close(self) -> None:
        """End all workers."""
        with self._lock:
            workers, self._workers = self._workers, set()
        for _ in self._threads:
            self._jobs.put(None)
        for worker in workers:
            worker.close()


_pool: WorkerPool | None = None
_pool_lock = threading.Lock()


def worker_pool() -> WorkerPool:
    """The pool of this process (a forked child gets its own)."""
    global _pool
    with _pool_lock:
        if _pool is None or _pool.pid != os.getpid():
            _pool = WorkerPool(max(1, host_cores()))
            atexit.register(_close, _pool)
        return _pool


def _close(pool: Any) -> None:
    if pool.pid == os.getpid():
        pool.close()
