# SPDX-License-Identifier: Apache-2.0
"""Networks compiled once for all batches and lengths, against PyTorch and code for one shape.

    python -m benchmarks.dynamic [--models bert,llama] [--shapes 200] [--fixed 6] [--threads 2]

A network is exported by torch.export with the batch and the length left open and compiled once.
Random shapes are run and compared with PyTorch in eager mode, then run once more without PyTorch:
the memory of the process must not grow over that. For some of the shapes the
network is compiled for that shape alone as well; both take turns, and the ratio of their times is
the median over the rounds.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from typing import Any, Final

import numpy as np
import torch
from torch.export import Dim

import heddle

_MOST_BATCH: Final = 4
_MOST_LENGTH: Final = 256
_TOLERANCE: Final = 1e-4
_SIZES: Final = {
    "vocab_size": 8000,
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "max_position_embeddings": 512,
}


class _Hidden(torch.nn.Module):
    """The last hidden state of a network of the package transformers."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        found = self.network(input_ids=ids, attention_mask=mask, **self.options)
        return found.last_hidden_state

    options: dict[str, Any] = {}


def build(name: str) -> torch.nn.Module:
    """BERT, or a stack of Llama's layers, with seeded random weights."""
    import transformers

    torch.manual_seed(0)
    if name == "bert":
        network = _Hidden(transformers.BertModel(transformers.BertConfig(**_SIZES)))
    else:
        grouped = {**_SIZES, "num_key_value_heads": 4}
        network = _Hidden(transformers.LlamaModel(transformers.LlamaConfig(**grouped)))
        network.options = {"use_cache": False}
    return network.eval()


def random_shape(rng: np.random.Generator) -> tuple[int, int]:
    """Batch and length; torch.export takes sizes from 2 on."""
    return int(rng.integers(2, _MOST_BATCH + 1)), int(rng.integers(2, _MOST_LENGTH + 1))


def inputs_of(rng: np.random.Generator, batch: int, length: int) -> tuple[torch.Tensor, ...]:
    """Token ids, and a mask whose rows end in padding."""
    ids = torch.from_numpy(rng.integers(0, _SIZES["vocab_size"], (batch, length)))
    kept = torch.from_numpy(rng.integers(1, length + 1, (batch, 1)))
    return ids, (torch.arange(length)[None] < kept).to(torch.int64)


def compile_open(network: torch.nn.Module, threads: int) -> heddle.Executable:
    """The network for every batch and length in the range."""
    batch, length = Dim("batch", min=2, max=_MOST_BATCH), Dim("length", min=2, max=_MOST_LENGTH)
    dims = {0: batch, 1: length}
    example = inputs_of(np.random.default_rng(0), 2, 24)
    return heddle.compile(
        network,
        example_inputs=example,
        dynamic_shapes=(dims, dims),
        num_threads=threads,
        name="open",
    )


def largest_error(found: np.ndarray, wanted: np.ndarray, mask: np.ndarray) -> float:
    """Relative to the largest value; what belongs to padding does not count."""
    kept = mask.astype(bool)
    return float(np.abs(found - wanted)[kept].max() / np.abs(wanted[kept]).max())


def check(
    executable: heddle.Executable, network: torch.nn.Module, count: int
) -> tuple[float, float]:
    """The largest error over random shapes, and the MiB that they take when run once more."""
    rng = np.random.default_rng(1)
    worst = 0.0
    shapes = [(_MOST_BATCH, _MOST_LENGTH), *(random_shape(rng) for _ in range(count - 1))]
    for batch, length in shapes:
        ids, mask = inputs_of(rng, batch, length)
        found = executable(ids, mask).numpy()
        with torch.no_grad():
            wanted = network(ids, mask).numpy()
        worst = max(worst, largest_error(found, wanted, mask.numpy()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for batch, length in shapes:
        executable(*inputs_of(rng, batch, length))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return worst, grown / 1024


def against_fixed(
    executable: heddle.Executable, network: torch.nn.Module, count: int, threads: int
) -> list[tuple[tuple[int, int], float, float, float]]:
    """Shape, milliseconds of the open and of the fixed executable, and the ratio."""
    rng = np.random.default_rng(2)
    rows = []
    for _ in range(count):
        batch, length = random_shape(rng)
        given = inputs_of(rng, batch, length)
        fixed = heddle.compile(network, example_inputs=given, num_threads=threads, name="fixed")
        times: list[tuple[float, float]] = []
        for _ in range(7):
            times.append((_seconds(executable, given), _seconds(fixed, given)))
        ratio = statistics.median(a / b for a, b in times)
        first, second = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
        rows.append(((batch, length), first, second, ratio))
    return rows


def _seconds(executable: heddle.Executable, given: tuple[torch.Tensor, ...]) -> float:
    executable(*given)
    start, calls = time.perf_counter(), 0
    while calls < 2 or time.perf_counter() - start < 0.1:
        executable(*given)
        calls += 1
    return (time.perf_counter() - start) / calls


def main(arguments: list[str] | None = None) -> int:
    """Print what was measured; 1 when a value is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dynamic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", default="bert,llama")
    parser.add_argument("--shapes", type=int, default=200)
    parser.add_argument("--fixed", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    wrong = False
    for name in options.models.split(","):
        network = build(name)
        start = time.perf_counter()
        executable = compile_open(network, options.threads)
        print(f"{name}: compiled in {time.perf_counter() - start:.1f} s: {executable}", flush=True)
        error, grown = check(executable, network, options.shapes)
        wrong |= error > _TOLERANCE
        print(
            f"  {options.shapes} shapes: largest error {error:.1e} of PyTorch eager, memory grown "
            f"by {grown:.1f} MiB when they run again",
            flush=True,
        )
        rows = against_fixed(executable, network, options.fixed, options.threads)
        for (batch, length), first, second, ratio in rows:
            print(f"  {batch} x {length:3d}: {first:7.2f} ms, fixed {second:7.2f} ms, {ratio:.2f}")
        if rows:
            mean = statistics.geometric_mean(row[3] for row in rows)
            print(f"  open over fixed: geometric mean {mean:.2f}", flush=True)
    return int(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
