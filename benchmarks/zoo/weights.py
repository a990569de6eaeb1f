# SPDX-License-Identifier: Apache-2.0
"""Seeded random weights that keep activations in a sane range through a deep network.

Nothing is zero or one by default: a compiler that drops a bias or a scale gives a wrong answer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def _normal(parameter: Tensor, deviation: float, generator: torch.Generator) -> None:
    parameter.normal_(0.0, deviation, generator=generator)


def _initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Weights of one layer: variance kept (Kaiming) for products, near one for scales."""
    for name, parameter in module.named_parameters(recurse=False):
        kind = type(module).__name__
        if kind == "Embedding":
            _normal(parameter, 0.08, generator)
        elif "norm" in kind.lower() and name == "weight":
            parameter.uniform_(0.7, 1.3, generator=generator)
        elif name.endswith("bias") or parameter.ndim < 2:
            _normal(parameter, 0.1, generator)
        elif isinstance(module, nn.ConvTranspose2d):
            _normal(parameter, math.sqrt(1.0 / parameter.shape[0]), generator)
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            _normal(parameter, math.sqrt(2.0 / parameter[0].numel()), generator)
        elif kind == "Conv1D":  # transformers' name for a linear layer with (in, out) weights
            _normal(parameter, math.sqrt(1.0 / parameter.shape[0]), generator)
        elif isinstance(module, nn.Linear | nn.RNNBase):
            _normal(parameter, math.sqrt(1.0 / parameter.shape[1]), generator)
        else:  # position embeddings, class tokens
            _normal(parameter, 0.1, generator)


def _calibrate(model: nn.Module, inputs: tuple[Tensor, ...], generator: torch.Generator) -> None:
    """Running statistics as measured on one random batch, then moved by up to 20 percent.

    Statistics that have nothing to do with the activations would let a deep network's values
    vanish or explode; exact ones would hide a batch normalisation that is left out.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    batch = tuple(
        torch.randn((8, *x.shape[1:]), generator=generator) if x.is_floating_point() else x
        for x in inputs
    )
    model(*batch)
    for norm in norms:
        norm.eval()
        norm.momentum = 0.1
        deviation = norm.running_var.sqrt()
        noise = torch.empty_like(deviation).uniform_(-0.2, 0.2, generator=generator)
        norm.running_mean.add_(noise * deviation)
        noise.uniform_(0.8, 1.2, generator=generator)
        norm.running_var.mul_(noise)


def randomise(model: nn.Module, inputs: tuple[Tensor, ...], *, seed: int) -> nn.Module:
    """Give `model` random weights drawn from `seed`, in place; returns it in inference mode."""
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    with torch.no_grad():
        for module in model.modules():
            _initialise(module, generator)
        _calibrate(model, inputs, generator)
    return model
