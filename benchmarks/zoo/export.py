# SPDX-License-Identifier: Apache-2.0
"""A zoo entry to an ONNX file, through torch's exporters."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import tempfile
import warnings
import zlib
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.zoo.registry import Model, Variant
from benchmarks.zoo.weights import randomise

OPSET = 18


def _tensors(variant: Variant) -> tuple[Tensor, ...]:
    rng = np.random.default_rng(0)
    return tuple(torch.from_numpy(value.sample(rng)) for value in variant.inputs)


def build_module(model: Model, *, small: bool = False) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The torch module with its seeded weights, in inference mode, and example inputs."""
    variant = model.small if small else model.full
    builder = getattr(importlib.import_module(f"benchmarks.zoo.{model.module}"), model.builder)
    inputs = _tensors(variant)
    module = builder(**variant.options)
    return randomise(module, inputs, seed=zlib.crc32(model.name.encode())), inputs


@contextlib.contextmanager
def _quiet() -> object:
    """Exporters print progress and warn about themselves: neither is news to the user."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def count_flops(module: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Floating-point operations of products and convolutions in one call, an FMA counted as two."""
    with _quiet(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        with torch.backends.mkldnn.flags(enabled=False):  # its LSTM is one call: not counted
            module(*inputs)
    return int(counter.get_total_flops())


def _write(
    model: Model, variant: Variant, module: nn.Module, inputs: tuple[Tensor, ...], path: Path
) -> None:
    names = {
        "input_names": [value.name for value in variant.inputs],
        "output_names": list(variant.outputs),
        "opset_version": OPSET,
    }
    with _quiet(), torch.no_grad():
        if model.exporter == "script":
            # PRESERVE: with EVAL this exporter folds batch normalisation into convolutions.
            mode = torch.onnx.TrainingMode.PRESERVE
            torch.onnx.export(module, inputs, path, dynamo=False, training=mode, **names)
        else:
            torch.onnx.export(module, inputs, path, dynamo=True, external_data=False, **names)


def export(model: Model, path: Path, *, small: bool = False) -> dict[str, object]:
    """Write `model` to `path` (atomically) and return what is known of it.

    The dict has `flops` (int) and `operators` (operator type to count).
    """
    module, inputs = build_module(model, small=small)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(suffix=".onnx.part", dir=path.parent)
    os.close(handle)
    try:
        variant = model.small if small else model.full
        _write(model, variant, module, inputs, Path(name))
        operators = histogram(Path(name))
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return {"flops": count_flops(module, inputs), "operators": operators}


def histogram(path: Path) -> dict[str, int]:
    """Operator type to number of nodes in an ONNX file, the most frequent first."""
    counts: dict[str, int] = {}
    for node in onnx.load(path, load_external_data=False).graph.node:
        kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
        counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
