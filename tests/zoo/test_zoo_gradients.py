# SPDX-License-Identifier: Apache-2.0
"""Gradients of whole networks by their input, compiled, against torch.autograd."""

from __future__ import annotations

import numpy as np
import pytest

import heddle
from benchmarks import zoo
from benchmarks.compare import relative_error
from heddle.driver.api import import_model
from heddle.passes.graph.gradient import results_of

torch = pytest.importorskip("torch", reason="the zoo is exported from torch")

# One of each kind: residual, depthwise and gated, skip connections over scales, attention over
# patches and windows, a recurrence, dilated convolutions in time.
NETWORKS = ["resnet18", "mobilenetv3_l", "unet", "vit_b16", "swin_t", "lstm", "tcn"]
# float32 through some hundred layers twice; a missing term is at 1e-2 or more.
TOLERANCE = 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_by_the_input(name: str) -> None:
    from benchmarks.zoo.export import build_module

    model = import_model(str(zoo.onnx_path(name, small=True)))
    main = model["main"]
    values = zoo.inputs(name, small=True)
    key = main.params[0].name
    shape = results_of(main)[0].type.static_shape
    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = heddle.compile(heddle.vjp(model, key, of=0))(**values, dout=weights)

    module, _ = build_module(zoo._model(name), small=True)
    tensors = {k: torch.tensor(v, requires_grad=k == key) for k, v in values.items()}
    results = module.eval()(*tensors.values())
    first = results[0] if isinstance(results, tuple | list) else results
    (first * torch.tensor(weights)).sum().backward()
    assert relative_error(found.numpy(), tensors[key].grad.numpy()) < TOLERANCE
