# SPDX-License-Identifier: Apache-2.0
"""One 3x3 convolution at a time: direct, by Winograd tiles of each size, and PyTorch's (oneDNN).

    python -m benchmarks.conv [--layers 64,64,56 512,512,14] [--threads 2]

A layer is CHANNELS,OUTPUTS,SIZE: stride one, padding one, with bias and relu, batch one. Figures:
milliseconds (medians of interleaved rounds), GFLOP/s as if all were direct convolutions (tiles can
be above the peak), the ratio to Heddle's direct kernel, and the largest error relative to the
largest output, against float64. `model` marks what `heddle.compile` would choose with no bound on
the error.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from heddle import op, te
from heddle.codegen.build import build_kernel
from heddle.codegen.services import set_num_threads
from heddle.ir.expr import const, maximum
from heddle.op.toom_cook import ERRORS
from heddle.op.winograd import transform_weights
from heddle.passes.graph import packing
from heddle.schedule.rules import default_schedule
from heddle.schedule.rules.winograd_model import ConvShape, winograd_tile
from heddle.target import Target, native

Call = Callable[[], object]
_LAYERS = ("64,64,56", "128,128,28", "256,256,14", "512,512,7", "64,64,224", "128,128,112")
_DIRECT = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "groups": 1}


class Layer:
    """Random operands of one layer, plain and blocked."""

    def __init__(self, text: str, target: Target) -> None:
        self.channels, self.outputs, self.size = (int(part) for part in text.split(","))
        self.target, self.block = target, target.vector_lanes(32)
        rng = np.random.default_rng(0)
        scale = np.float32(1 / np.sqrt(9 * self.channels))
        shape = (1, self.channels, self.size, self.size)
        self.x = rng.standard_normal(shape).astype(np.float32)
        self.weight = rng.standard_normal((self.outputs, self.channels, 3, 3)).astype(np.float32)
        self.weight *= scale
        self.bias = rng.standard_normal(self.outputs).astype(np.float32)
        self.packed = packing.pack_convolution(self.weight, self.block, self.block)
        self.kept: list[object] = []
        self.gflop = 18e-9 * self.channels * self.outputs * self.size**2

    def kernel(self, tile: int) -> tuple[Call, np.ndarray]:
        """The call of a kernel (direct for tile 0), and the blocked array that it writes."""
        name = "winograd_conv2d_nchwc" if tile else "conv2d_nchwc"
        attrs = {"tile": tile, "pads": _DIRECT["pads"]} if tile else _DIRECT
        weight = transform_weights(self.packed, tile) if tile else self.packed
        x = packing.block_channels(self.x, self.block)
        arrays = [x, weight, packing.pack_bias(self.bias, self.block)]
        params = [te.placeholder(a.shape, "float32", name=f"p{at}") for at, a in enumerate(arrays)]
        (y,) = op.get(name).compute(params, attrs)
        z = te.compute(y.shape, lambda *i: maximum(y[i], const(0, "float32")), name="relu")
        func = te.create_prim_func([*params, z], name=name)
        kernel = build_kernel(default_schedule(func, self.target).func, self.target)
        out = np.zeros(
            (1, self.outputs // self.block, self.size, self.size, self.block), np.float32
        )
        self.kept.append((kernel, arrays))  # a prepared call holds addresses only
        return kernel.prepare(*arrays, out), out

    def torch(self) -> tuple[Call, np.ndarray] | None:
        """The same in PyTorch (oneDNN, weights packed ahead); None where it is not installed."""
        try:
            import torch
        except ModuleNotFoundError:
            return None
        conv = torch.nn.Conv2d(self.channels, self.outputs, 3, padding=1)
        conv.weight.data[:] = torch.from_numpy(self.weight)
        conv.bias.data[:] = torch.from_numpy(self.bias)
        x = torch.from_numpy(self.x)
        with torch.no_grad():
            traced = torch.jit.trace(torch.nn.Sequential(conv, torch.nn.ReLU()).eval(), x)
            ready = torch.jit.optimize_for_inference(traced)
            ready(x), ready(x)  # the first calls compile
            return lambda: ready(x), packing.block_channels(ready(x).numpy(), self.block)

    def reference(self) -> np.ndarray:
        """The blocked output in float64."""
        x = packing.block_channels(self.x, self.block)
        bias = packing.pack_bias(self.bias, self.block)
        wide = [a.astype(np.float64) for a in (x, self.packed, bias)]
        result: np.ndarray = np.maximum(op.get("conv2d_nchwc").evaluate(wide, _DIRECT), 0)
        return result

    @property
    def chosen(self) -> int:
        """The tile that `heddle.compile` would take, whatever it rounds."""
        blocks = [self.channels // self.block, self.outputs // self.block]
        shape = ConvShape(3, blocks[0], self.block, blocks[1], self.block, self.size, self.size)
        return winograd_tile(shape, self.target, tiles=ERRORS)


def measure(calls: Sequence[Call], rounds: int) -> list[float]:
    """Median milliseconds of each, in interleaved rounds."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, found in zip(calls, times, strict=True):
            call()  # what another engine left in the caches is gone
            start = time.perf_counter()
            call()
            found.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(found) for found in times]


def report(layer: Layer, rounds: int) -> None:
    """Measure one layer and print its table."""
    made = {"direct": layer.kernel(0)}
    made |= {f"F({tile} x {tile}, 3 x 3)": layer.kernel(tile) for tile in ERRORS}
    other = layer.torch()
    if other is not None:
        made["PyTorch"] = other
    marks = {"direct": 0, **{f"F({tile} x {tile}, 3 x 3)": tile for tile in ERRORS}}
    times = measure([call for call, _ in made.values()], rounds)
    wanted = layer.reference()
    print(f"{layer.channels} -> {layer.outputs}, {layer.size} x {layer.size}")
    for (name, (_, out)), elapsed in zip(made.items(), times, strict=True):
        error = float(np.abs(out - wanted).max() / np.abs(wanted).max())
        model = "model" if marks.get(name) == layer.chosen else ""
        print(
            f"  {name:16s}{elapsed:9.3f} ms{1e3 * layer.gflop / elapsed:7.0f} GFLOP/s"
            f"{elapsed / times[0]:7.2f}  error {error:.1e}  {model}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the layers asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.conv",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--layers", nargs="+", default=_LAYERS, metavar="C,O,SIZE")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    target = native().with_cores(options.threads)
    set_num_threads(options.threads)
    try:
        import torch
    except ModuleNotFoundError:
        pass
    else:
        torch.set_num_threads(options.threads)
    for text in options.layers:
        report(Layer(text, target), options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
