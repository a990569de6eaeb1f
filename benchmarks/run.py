# SPDX-License-Identifier: Apache-2.0
"""Heddle against its peers on the networks of the zoo.

    python -m benchmarks.run --models resnet50,bert_base --engines heddle,ort --threads 2
    python -m benchmarks.run --target "llvm -mcpu=haswell"

Each engine has a process of its own for each network; all of a network's engines are measured in
turns (rounds), so that a slow minute of the machine hits all of them. Every engine's outputs are
compared with ONNX Runtime's, before and after the timing, for two inputs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np

from benchmarks import zoo
from benchmarks.compare import relative_error
from benchmarks.targets import NARROW, NARROW_PEERS, is_narrow
from benchmarks.worker import EngineError, Worker

REFERENCE = "ort"
ENGINE_NAMES = ("heddle", "ort", "openvino", "inductor", "torch")
PEERS = ("ort", "openvino", "inductor")
"""Among these the fastest is the best peer: they compile, or at least optimise, the network."""
TOLERANCE = 1e-4


@dataclass
class Row:
    """What was measured of one engine on one network."""

    model: str
    engine: str
    gflop: float
    rounds_ms: list[list[float]] = field(default_factory=list)
    load_s: float = math.nan
    first_s: float = math.nan
    peak_mb: float = math.nan
    error: float = math.nan
    ratio: float = math.nan
    best_ratio: float = math.nan
    tokens: int = 0
    failure: str = ""

    @property
    def median_ms(self) -> float:
        """Median over all calls."""
        times = [value for turn in self.rounds_ms for value in turn]
        return statistics.median(times) if times else math.nan

    @property
    def spread(self) -> float:
        """Distance from the slowest to the fastest round's median, relative to the median."""
        medians = [statistics.median(turn) for turn in self.rounds_ms]
        return (max(medians) - min(medians)) / self.median_ms if medians else math.nan

    @property
    def wrong(self) -> bool:
        """Whether values are too far from the reference's."""
        return self.error > TOLERANCE

    def ratio_to(self, other: Row) -> float:
        """The median over the rounds of the ratio of this engine's time to another's."""
        pairs = list(zip(self.rounds_ms, other.rounds_ms, strict=False))
        ratios = [statistics.median(a) / statistics.median(b) for a, b in pairs]
        return statistics.median(ratios) if ratios else math.nan


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def names(known: Sequence[str]) -> object:
        def convert(text: str) -> list[str]:
            given = list(known) if text == "all" else text.split(",")
            wrong = [name for name in given if name not in known]
            if wrong:
                raise argparse.ArgumentTypeError(
                    f"unknown: {', '.join(wrong)}; known: {', '.join(known)}"
                )
            return given

        return convert

    add = parser.add_argument
    add("--models", type=names(zoo.models()), default="all", help="comma-separated; default all")
    add("--engines", type=names(ENGINE_NAMES), default="all", help="comma-separated; default all")
    add("--threads", type=int, default=2, help="threads of each engine; default 2")
    add("--rounds", type=int, default=5, help="turns of each engine; default 5")
    add("--seconds", type=float, default=0.4, help="least time of one turn; default 0.4")
    add(
        "--target", default="native", help="what Heddle compiles for; peers are kept to its vectors"
    )
    add("--small", action="store_true", help="the networks' small variants")
    add("--warm-cache", action="store_true", help="keep Heddle's cache; default: compile cold")
    add("--json", type=Path, metavar="FILE", help="write everything measured")
    add("--md", type=Path, metavar="FILE", help="write the table as Markdown")
    return parser.parse_args(arguments)


def _check(row: Row, got: list[np.ndarray], want: list[np.ndarray]) -> None:
    """Keep the largest relative error over the outputs."""
    same = len(got) == len(want)
    errors = [relative_error(a, b) for a, b in zip(got, want, strict=True)] if same else [math.inf]
    row.error = max([*errors, 0.0 if math.isnan(row.error) else row.error])


class Session:
    """All engines' workers on one network."""

    def __init__(self, model: str, options: argparse.Namespace, cache: str) -> None:
        self.options = options
        gflop = float(zoo.info(model, small=options.small)["flops"]) / 1e9
        tokens = zoo.tokens(model)
        self.rows = {name: Row(model, name, gflop, tokens=tokens) for name in options.engines}
        self.workers: dict[str, Worker] = {}
        self.references: dict[int, list[np.ndarray]] = {}
        env = {"BENCH_TARGET": options.target} | (NARROW if is_narrow(options.target) else {})
        if not options.warm_cache:
            env["HEDDLE_CACHE_DIR"] = cache
        # Heddle last: where ONNX Runtime fails, another peer is the reference.
        engines = sorted(options.engines, key=lambda name: (name == "heddle", name != REFERENCE))
        for name in engines:
            self.workers[name] = Worker(
                name, model, threads=options.threads, small=options.small, env=env
            )
            self._try(name, self._load)

    def _try(self, name: str, action: object, *arguments: object) -> None:
        """Run one step of an engine; one that fails is taken out and its row says why."""
        try:
            action(name, *arguments)
        except EngineError as error:
            self.rows[name].failure = str(error)
            self.workers.pop(name).close()

    def _load(self, name: str) -> None:
        answer = self.workers[name].ask("load")
        row = self.rows[name]
        row.load_s, row.first_s = answer["load_s"], answer["first_s"]

    def _compare(self, name: str, seed: int) -> None:
        outputs = self.workers[name].ask("outputs", seed)
        if name != "heddle":
            self.references.setdefault(seed, outputs)
        if seed in self.references:
            _check(self.rows[name], outputs, self.references[seed])

    def _turn(self, name: str) -> None:
        times = self.workers[name].ask("time", self.options.seconds, 3)
        self.rows[name].rounds_ms.append([1e3 * value for value in times])

    def _memory(self, name: str) -> None:
        self.rows[name].peak_mb = self.workers[name].ask("memory") / 1e6

    def measure(self) -> list[Row]:
        """Compare, time in rounds, compare again."""
        steps: list[tuple[object, tuple[object, ...]]] = [(self._compare, (0,))]
        steps += [(self._turn, ())] * self.options.rounds
        steps += [(self._compare, (1,)), (self._compare, (0,)), (self._memory, ())]
        for action, arguments in steps:
            for name in list(self.workers):
                self._try(name, action, *arguments)
        compare_rows(list(self.rows.values()), narrow=is_narrow(self.options.target))
        return list(self.rows.values())

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()


def compare_rows(rows: Sequence[Row], *, narrow: bool = False) -> None:
    """Fill in the ratios of one network's rows, and mark those whose values are wrong."""
    for row in rows:
        if row.wrong and not row.failure:
            row.failure = f"relative error {row.error:.1e} is above {TOLERANCE:.0e}"
    able = {row.engine: row for row in rows if row.rounds_ms and not row.failure}
    names = NARROW_PEERS if narrow else PEERS
    peers = [able[name] for name in names if name in able]
    best = min(peers, key=lambda row: row.median_ms, default=None)
    for row in rows:
        if REFERENCE in able:
            row.ratio = row.ratio_to(able[REFERENCE])
        if best is not None:
            row.best_ratio = row.ratio_to(best)


HEADER = (
    "network",
    "engine",
    "ms",
    "spread",
    "x ort",
    "x best",
    "GFLOP/s",
    "token/s",
    "load s",
    "first ms",
    "peak MB",
    "error",
)


def cells(row: Row) -> tuple[str, ...]:
    """One row of the table as text."""

    def number(value: float, form: str) -> str:
        return "-" if math.isnan(value) else format(value, form)

    return (
        row.model,
        row.engine,
        number(row.median_ms, ".2f"),
        number(row.spread, ".0%"),
        number(row.ratio, ".2f"),
        number(row.best_ratio, ".2f"),
        number(row.gflop / row.median_ms * 1e3, ".0f"),
        number(1e3 * row.tokens / row.median_ms if row.tokens else math.nan, ".1f"),
        number(row.load_s, ".2f"),
        number(1e3 * row.first_s, ".0f"),
        number(row.peak_mb, ".0f"),
        number(row.error, ".1e") + (f"  FAILED: {row.failure}" if row.failure else ""),
    )


def means(rows: Sequence[Row], field_name: str) -> dict[str, tuple[float, float, int]]:
    """Engine to (geometric mean, largest) of a ratio, and over how many networks."""
    found: dict[str, list[float]] = {}
    for row in rows:
        ratio = getattr(row, field_name)
        if not math.isnan(ratio):
            found.setdefault(row.engine, []).append(ratio)
    return {k: (statistics.geometric_mean(v), max(v), len(v)) for k, v in found.items()}


def summary(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """For each engine the means and the largest of its ratios, and over how many networks."""
    found = []
    ort, best = means(rows, "ratio"), means(rows, "best_ratio")
    missing = (math.nan, math.nan, 0)
    for engine in dict.fromkeys([*ort, *best]):
        (a, b, n), (c, d, m) = ort.get(engine, missing), best.get(engine, missing)
        found.append((engine, f"{a:.2f}", f"{b:.2f}", f"{c:.2f}", f"{d:.2f}", str(max(n, m))))
    return found


SUMMARY = ("engine", "mean x ort", "worst", "mean x best", "worst", "networks")


def markdown(rows: Sequence[Row], about: dict[str, object]) -> str:
    """The table and the means as Markdown."""

    def line(values: Sequence[str]) -> str:
        return "| " + " | ".join(values) + " |"

    lines = [f"{about['cpu']}, {about['threads']} threads, {about['date']}", ""]
    lines += [line(HEADER), "|---|---|" + "--:|" * (len(HEADER) - 2)]
    lines += [line(cells(row)) for row in rows]
    lines += ["", line(SUMMARY), "|---|" + "--:|" * (len(SUMMARY) - 1)]
    lines += [line(values) for values in summary(rows)]
    return "\n".join(lines) + "\n"


def describe(threads: int) -> dict[str, object]:
    """The machine and the versions of what is measured."""
    cpu = platform.processor() or platform.machine()
    try:
        text = Path("/proc/cpuinfo").read_text()
        cpu = next(line.split(":")[1] for line in text.splitlines() if "model name" in line).strip()
    except (OSError, StopIteration):
        pass
    versions = {}
    for name in ("heddle", "onnxruntime", "openvino", "torch", "llvmlite", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "date": time.strftime("%Y-%m-%d"),
        "load_average": os.getloadavg()[0],
        "versions": versions,
    }


def _line(values: Sequence[str]) -> str:
    widths = (15, 9, 9, 7, 6, 7, 8, 8, 7, 9, 8)
    first = [f"{value:<{width}}" for value, width in zip(values[:2], widths[:2], strict=True)]
    rest = [f"{value:>{width}}" for value, width in zip(values[2:11], widths[2:], strict=True)]
    return " ".join([*first, *rest, " " + values[11]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0 when Heddle ran and every engine that did agrees with the reference.

    A peer that cannot load or run a network is reported in its row.
    """
    options = parse_options(arguments)
    about = describe(options.threads)
    print(f"{about['cpu']}, {about['cores']} cores; {options.threads} threads an engine")
    if is_narrow(options.target):
        print(f"{options.target}; best peer among {', '.join(NARROW_PEERS)}: no other can be kept")
        print("from wider vectors than the target has")
    print(_line(HEADER), flush=True)
    rows: list[Row] = []
    for model in options.models:
        with tempfile.TemporaryDirectory(prefix="heddle-bench-") as cache:
            session = Session(model, options, cache)
            try:
                measured = session.measure()
            finally:
                session.close()
        rows += measured
        for row in measured:
            print(_line(cells(row)), flush=True)
    for engine, ort, ort_worst, best, best_worst, count in summary(rows):
        print(
            f"{engine}: {ort} x ort (worst {ort_worst}), {best} x best peer (worst {best_worst}); "
            f"geometric means of {count}"
        )
    if options.json:
        records = [asdict(row) | {"median_ms": row.median_ms} for row in rows]
        options.json.write_text(json.dumps({"machine": about, "rows": records}, indent=1) + "\n")
    if options.md:
        options.md.write_text(markdown(rows, about))
    return int(any(row.wrong or (row.failure and row.engine == "heddle") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
