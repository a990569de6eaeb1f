# SPDX-License-Identifier: Apache-2.0
"""Greedy decoding with a cache, against torch.compile and ONNX Runtime.

    python -m benchmarks.decode [--models gpt2,llama-small] [--engines heddle,ort] [--tokens 2000]

The models are GPT-2 and Llama of transformers with random weights, in float32; each engine decodes
the same sequence from the same first token, in a process of its own, and all take turns of some
tokens. Reported are tokens per second: the median over the turns, the first and the last turn (few
and many tokens before). GB/s is the least that a step has to read (weights and the filled part of
the cache) over its time, "grown" by how many MB the memory that the process has allocated grew over
the second half of the turns, "differ" how many tokens are not those of the first engine's. "MB" is
resident memory; it includes pages of the file of weights that are mapped, which come as they are
read (rows of the table of words, with every new word) and which the system may drop.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ENGINES = ("heddle", "heddle-loop", "inductor", "ort")
PEERS = ("inductor", "ort")
MODELS = ("gpt2-small", "llama-small", "gpt2", "llama")
_TURNS = 8
_CHUNK = 32  # turns are multiples of it: what one call of heddle-loop decodes
_START = 1  # row 0 of the cache is zero, for all engines


def _serve(connection: Connection, engine: str, model: str, capacity: int, threads: int) -> None:
    """The process of one engine: answers (token, position, count) with what `_turn` measures."""
    os.dup2(2, 1)  # what exporters print is not for the table
    from benchmarks.decode_engines import load
    from benchmarks.settle import settle

    try:
        begin = time.perf_counter()
        decode = load(engine, model, capacity, threads)
        decode(1, _START, _CHUNK)  # compiles, and touches all memory; written over later
        connection.send(("ok", time.perf_counter() - begin))
        while True:
            request = connection.recv()
            begin = time.perf_counter()
            tokens = decode(*request)
            seconds = time.perf_counter() - begin
            settle()
            connection.send(("ok", (tokens, seconds, _memory("VmRSS"), _memory("RssAnon"))))
    except EOFError:
        return
    except Exception as error:
        connection.send(("error", f"{type(error).__name__}: {str(error).splitlines()[0]}"))


def _memory(kind: str) -> float:
    """Memory of this process in MB: "VmRSS" resident, "RssAnon" of that what is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith(f"{kind}:"))
    return int(found.split()[1]) * 1024 / 1e6


@dataclass
class Row:
    """What was measured of one engine with one model."""

    model: str
    engine: str
    load_s: float = math.nan
    turns: list[float] = field(default_factory=list)  # tokens per second
    resident: list[float] = field(default_factory=list)
    allocated: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    different: int = 0
    gigabytes: float = 0.0  # per second, of what has to be read
    ratio: float = math.nan
    failure: str = ""

    @property
    def rate(self) -> float:
        """Tokens per second: the median over the turns."""
        return statistics.median(self.turns) if self.turns else math.nan

    @property
    def growth(self) -> float:
        """MB that allocated memory has grown by over the second half of the turns."""
        half, found = len(self.allocated) // 2, self.allocated
        return found[-1] - found[half] if len(found) > 1 else math.nan


class _Process:
    """The runner's side of an engine."""

    def __init__(self, engine: str, model: str, capacity: int, threads: int) -> None:
        for name in ("OMP", "MKL", "OPENBLAS", "HEDDLE"):
            os.environ[f"{name}_NUM_THREADS"] = str(threads)
        self.row = Row(model, engine)
        self.connection, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        arguments = (theirs, engine, model, capacity, threads)
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def receive(self) -> Any:
        """The answer, or None when the engine has failed."""
        try:
            status, value = self.connection.recv()
        except EOFError:
            status, value = "error", "the process died"
        if status == "error":
            self.row.failure = value
            return None
        return value

    def turn(self, position: int, count: int) -> None:
        token = self.row.tokens[-1] if self.row.tokens else 1
        self.connection.send((token, position, count))
        answer = self.receive()
        if answer is not None:
            tokens, seconds, resident, allocated = answer
            self.row.tokens += tokens
            self.row.turns.append(count / seconds)
            self.row.resident.append(resident)
            self.row.allocated.append(allocated)

    def close(self) -> None:
        self.connection.close()
        self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.kill()


def measure(model: str, engines: Sequence[str], tokens: int, threads: int) -> list[Row]:
    """All engines with one model."""
    count = max(_CHUNK, tokens // _TURNS // _CHUNK * _CHUNK)
    capacity = _START + _TURNS * count + _CHUNK
    processes = []
    for engine in engines:  # one after the other: they compile with all cores
        process = _Process(engine, model, capacity, threads)
        processes.append(process)
        process.row.load_s = process.receive() or math.nan
    for turn in range(_TURNS):
        for process in processes:
            if not process.row.failure:
                process.turn(_START + turn * count, count)
    for process in processes:
        process.close()
    rows = [process.row for process in processes]
    _compare(rows, model, count)
    return rows


def _compare(rows: Sequence[Row], model: str, count: int) -> None:
    able = [row for row in rows if not row.failure]
    peers = [row for row in able if row.engine in PEERS]
    best = max(peers, key=lambda row: row.rate, default=None)
    weights, per_row = _bytes(model)
    for row in able:
        row.different = sum(a != b for a, b in zip(row.tokens, able[0].tokens, strict=True))
        filled = [per_row * (_START + (turn + 0.5) * count) for turn in range(len(row.turns))]
        read = [rate * (weights + n) for rate, n in zip(row.turns, filled, strict=True)]
        row.gigabytes = statistics.median(read) / 1e9
        if best is not None:
            ratios = [a / b for a, b in zip(row.turns, best.turns, strict=True)]
            row.ratio = statistics.median(ratios)


def _bytes(model: str) -> tuple[int, int]:
    """Bytes of the weights that a step reads, and of one row of all caches."""
    from benchmarks.decode_models import SIZES

    size = SIZES[model]
    kv, width = size.kv_heads * size.head_size, size.width
    attention = width * (2 * width + 2 * kv)
    feed = width * size.hidden * (2 if size.family == "gpt2" else 3)
    weights = size.layers * (attention + feed) + width * size.vocabulary
    return 4 * weights, 4 * 2 * size.layers * kv


_HEADER = ("model", "engine", "tok/s", "first", "last", "x best", "GB/s", "MB", "grown", "differ")


def _cells(row: Row) -> tuple[str, ...]:
    if row.failure:
        return (row.model, row.engine, f"FAILED: {row.failure}")
    return (
        row.model,
        row.engine,
        f"{row.rate:.1f}",
        f"{row.turns[0]:.1f}",
        f"{row.turns[-1]:.1f}",
        f"{row.ratio:.2f}",
        f"{row.gigabytes:.1f}",
        f"{row.resident[-1]:.0f}",
        f"{row.growth:.1f}",
        f"{row.different}",
    )


def _line(cells: Sequence[str]) -> str:
    widths = (12, 12, *[8] * 8)
    text = [
        f"{cell:<{w}}" if i < 2 else f"{cell:>{w}}"
        for i, (cell, w) in enumerate(zip(cells, widths, strict=False))
    ]
    return " ".join(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when Heddle failed or its tokens are not those of the others."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__)
    parser.add_argument("--models", default="gpt2-small,llama-small,gpt2,llama")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--tokens", type=int, help="default: 2000 for small models, 256 for others")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    models, engines = options.models.split(","), options.engines.split(",")
    for given, known in ((models, MODELS), (engines, ENGINES)):
        for name in given:
            if name not in known:
                parser.error(f"unknown: {name}; known: {', '.join(known)}")
    print(_line(_HEADER), flush=True)
    rows: list[Row] = []
    for model in models:
        tokens = options.tokens or (2000 if model.endswith("small") else 256)
        measured = measure(model, engines, tokens, options.threads)
        rows += measured
        for row in measured:
            print(_line(_cells(row)), flush=True)
    if options.json:
        records = [asdict(row) | {"rate": row.rate, "growth": row.growth} for row in rows]
        options.json.write_text(json.dumps(records, indent=1) + "\n")
    ours = [row for row in rows if row.engine.startswith("heddle")]
    return int(any(row.failure or row.different for row in ours))


if __name__ == "__main__":
    sys.exit(main())
