# SPDX-License-Identifier: Apache-2.0
"""Which architectures of the package transformers Heddle takes, by torch.export and torch.compile.

    python -m benchmarks.architectures                      # all of them, one line each
    python -m benchmarks.architectures bert llama --ways export
    python -m benchmarks.architectures --ways train

Every model is made from a tiny configuration with random weights; its outputs are compared with
those of PyTorch, with "train" the gradients of all parameters (dropout aside). "error" is the
largest difference in a tensor, relative to its largest value (of a gradient, to a thousandth of the
largest of all at least: some are zero but for rounding). Where gradients differ, the worst element
is computed by differences of float64 as well: PyTorch's eager mode is off for some (levit, cvt),
and then the reference is PyTorch with its operators decomposed. The last column names the operators
that torch.compile leaves to PyTorch; `torch.export` has no such way out. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

import heddle
import heddle.torch
from benchmarks.architecture_list import ARCHITECTURES, Architecture, make
from heddle.frontend.torch.decompose import dynamo_decompositions

TOLERANCE: Final = 1e-4
"""Relative to the largest value of an output: float32 sums in another order, over a few layers."""

_LIMIT: Final = 300
"""Seconds for one model in one way."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one architecture did in one way. error: None where it did not run."""

    name: str
    way: str
    seconds: float
    error: float | None
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.error is not None and self.error <= TOLERANCE

    def line(self) -> str:
        """One row of the table."""
        error = "-" if self.error is None else f"{self.error:.1e}"
        verdict = "ok" if self.passed else "FAILED"
        return (
            f"{self.name:22} {self.way:8} {verdict:7} {error:>8} {self.seconds:6.1f}  {self.note}"
        )


HEADER: Final = (
    f"{'architecture':22} {'way':8} {'':7} {'error':>8} {'s':>6}  in PyTorch, or trouble"
)


def _tensors(tree: Any) -> list[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves(tree)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def largest_error(expected: list[torch.Tensor], found: list[Any], *, floor: float = 1e-6) -> float:
    """The largest difference, relative to the largest value of each tensor, or to `floor` where
    that is more (infinities aside)."""
    if len(expected) != len(found):
        return float("inf")
    worst = 0.0
    for want, have in zip(expected, found, strict=True):
        a = want.detach().to(torch.float64).numpy()
        b = have.detach().to(torch.float64).numpy()
        if a.shape != b.shape:
            return float("inf")
        finite = np.isfinite(a)
        if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
            return float("inf")
        if finite.any():
            scale = max(floor, float(np.abs(a[finite]).max()))
            worst = max(worst, float(np.abs(a[finite] - b[finite]).max()) / scale)
    return worst


def by_export(model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[list[Any], str]:
    """The outputs of a model that went through torch.export."""
    program = torch.export.export(model, (), kwargs=inputs, strict=False)
    # The first call of some (rwkv) changes weights, whose new values come behind the outputs.
    module = heddle.torch.from_exported_program(program, mutated_buffers=True)
    executable = heddle.compile(module)
    found = executable(*_tensors(inputs))
    results = found if isinstance(found, tuple) else (found,)
    returned = [item for item in program.graph_signature.user_outputs if isinstance(item, str)]
    return [torch.from_dlpack(item) for item in results[: len(returned)]], ""


def by_compile(model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[list[Any], str]:
    """The outputs of a model under torch.compile, and what ran in PyTorch."""
    found: list[Any] = []

    def infer() -> None:
        found.extend(_tensors(torch.compile(model, backend="heddle")(**inputs)))

    return found, _noting_fallbacks(infer)


def _loss(outputs: Any) -> torch.Tensor:
    """The sum of all outputs that have gradients, weighted by the sines of their places: of plain
    squares behind a normalisation the gradient is zero but for rounding."""
    floats = [x for x in _tensors(outputs) if x.requires_grad]
    weighted = [
        (x.flatten() * torch.arange(x.numel(), dtype=torch.float64).sin().to(x.dtype)).sum()
        for x in floats
    ]
    return torch.stack(weighted).sum()


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    """The gradients of all parameters that the loss depends on."""
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def by_training(model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[list[Any], str]:
    """The gradients of a training step under torch.compile, and what ran in PyTorch."""
    found: list[Any] = []

    def step() -> None:
        compiled = torch.compile(model, backend="heddle")
        found.extend(gradients(model, _loss(compiled(**inputs))))

    return found, _noting_fallbacks(step)


def decomposed_gradients(architecture: Architecture) -> list[torch.Tensor]:
    """The gradients by PyTorch alone, from the operators that core ATen is made of."""

    def untouched(graph: Any, _inputs: Any) -> Any:
        return make_boxed_func(graph.forward)

    backend = aot_autograd(
        fw_compiler=untouched, bw_compiler=untouched, decompositions=dynamo_decompositions()
    )
    torch._dynamo.reset()
    model, inputs = make(architecture)
    return gradients(model, _loss(torch.compile(model, backend=backend)(**inputs)))


def slope(architecture: Architecture, parameter: str, place: int) -> float:
    """The derivative of the loss by one element of a parameter, by differences in float64."""
    ends = []
    for step in (1e-6, -1e-6):
        model, inputs = make(architecture)
        model = model.double()
        wide = {k: v.double() if _is_float(v) else v for k, v in inputs.items()}
        with torch.no_grad():
            dict(model.named_parameters())[parameter].view(-1)[place] += step
        ends.append(float(_loss(model(**wide)).detach()))
    return (ends[0] - ends[1]) / 2e-6


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def arbitrate(
    architecture: Architecture, expected: list[torch.Tensor], found: list[torch.Tensor]
) -> tuple[list[torch.Tensor], str]:
    """The reference for gradients that differ from those of eager mode, and what to say of it: the
    decomposed ones, when at the element that differs most the slope is on the side of `found`."""
    model, inputs = make(architecture)
    gradients(model, _loss(model(**inputs)))
    names = [name for name, p in model.named_parameters() if p.grad is not None]
    apart = [float((a - b).abs().max()) for a, b in zip(expected, found, strict=True)]
    worst = apart.index(max(apart))
    place = int((expected[worst] - found[worst]).abs().argmax())
    eager, ours = (float(x[worst].view(-1)[place]) for x in (expected, found))
    true = slope(architecture, names[worst], place)
    note = f"eager {eager:.3e}, here {ours:.3e}, by differences {true:.3e}"
    if abs(ours - true) >= 0.01 * abs(eager - true):
        return expected, note
    return decomposed_gradients(architecture), f"eager is off: {note}"


def _noting_fallbacks(call: Callable[[], None]) -> str:
    """Call, and say which operators ran in PyTorch."""
    torch._dynamo.reset()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", heddle.torch.FallbackWarning)
        call()
    fallbacks = [str(w.message) for w in caught if w.category is heddle.torch.FallbackWarning]
    return ", ".join(
        line.split(":")[0].strip()
        for text in fallbacks
        for line in (text.splitlines()[1:] or [text])
    )


WAYS: Final[dict[str, Callable[..., tuple[list[Any], str]]]] = {
    "export": by_export,
    "compile": by_compile,
    "train": by_training,
}


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def stop(*_args: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(architecture: Architecture, way: str) -> Outcome:
    """One architecture in one way, whatever happens."""
    start = time.perf_counter()
    try:
        with _limited(_LIMIT), torch.set_grad_enabled(way == "train"):
            model, inputs = make(architecture)
            outputs = model(**inputs)
            if way == "train":
                expected = gradients(model, _loss(outputs))
            else:
                expected = _tensors(outputs)
            model, inputs = make(architecture)  # some keep what they computed
            found, note = WAYS[way](model, inputs)
            floor = 1e-6
            if way == "train":  # some gradients are zero but for rounding
                floor = 1e-3 * max(float(x.abs().max()) for x in expected)
            error = largest_error(expected, found, floor=floor)
            if way == "train" and TOLERANCE < error < float("inf"):
                expected, reason = arbitrate(architecture, expected, found)
                error = largest_error(expected, found, floor=floor)
                note = "; ".join(filter(None, (note, reason)))
    except Exception as trouble:
        text = " ".join(str(trouble).split())[:300]
        seconds = time.perf_counter() - start
        return Outcome(architecture.name, way, seconds, None, f"{type(trouble).__name__}: {text}")
    return Outcome(architecture.name, way, time.perf_counter() - start, error, note)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="architectures; all by default")
    parser.add_argument("--ways", nargs="+", choices=sorted(WAYS), default=["export", "compile"])
    given = parser.parse_args()
    unknown = set(given.names) - {item.name for item in ARCHITECTURES}
    if unknown:
        parser.error(f"no architecture {', '.join(sorted(unknown))}")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    print(HEADER)
    outcomes = []
    for architecture in ARCHITECTURES:
        if not given.names or architecture.name in given.names:
            for way in given.ways:
                outcomes.append(run(architecture, way))
                print(outcomes[-1].line(), flush=True)
    for way in given.ways:
        mine = [item for item in outcomes if item.way == way]
        print(f"{way}: {sum(item.passed for item in mine)} of {len(mine)} pass")
    return 0 if all(item.passed for item in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
