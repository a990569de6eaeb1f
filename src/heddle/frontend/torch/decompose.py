# SPDX-License-Identifier: Apache-2.0
"""Which operators of ATen reach the importer whole, and which are decomposed by torch first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch

# Whole, because Heddle has an operator or a shorter way for them; torch would take them apart.
_KEPT: Final = (
    "_safe_softmax.default",
    "_scaled_dot_product_flash_attention_for_cpu.default",
    "baddbmm.default",
    "celu.default",
    "dropout.default",
    "elu.default",
    "glu.default",
    "hardsigmoid.default",
    "hardswish.default",
    "hardtanh.default",
    "layer_norm.default",
    "leaky_relu.default",
    "linear.default",
    "log_sigmoid_forward.default",
    "logsumexp.default",
    "matmul.default",
    "mish.default",
    "pixel_shuffle.default",
    "pixel_unshuffle.default",
    "prelu.default",
    "reflection_pad1d.default",
    "reflection_pad2d.default",
    "reflection_pad3d.default",
    "relu6.default",
    "repeat_interleave.self_int",
    "replication_pad1d.default",
    "replication_pad2d.default",
    "replication_pad3d.default",
    "rms_norm.default",
    "roll.default",
    "scaled_dot_product_attention.default",
    "select_scatter.default",
    "selu.default",
    "silu.default",
    "slice_scatter.default",
    "softplus.default",
    "softshrink.default",
    "threshold.default",
    "tril.default",
    "triu.default",
    "unfold.default",
    "upsample_bicubic2d.default",
    "upsample_bicubic2d.vec",
    "upsample_bilinear2d.default",
    "upsample_bilinear2d.vec",
    "upsample_linear1d.default",
    "upsample_linear1d.vec",
    "upsample_nearest1d.default",
    "upsample_nearest1d.vec",
    "upsample_nearest2d.default",
    "upsample_nearest2d.vec",
    "upsample_nearest3d.default",
    "upsample_nearest3d.vec",
    "upsample_trilinear3d.default",
    "upsample_trilinear3d.vec",
)


def kept_operators() -> tuple[Any, ...]:
    """The overloads that stay whole, of those that this version of torch has."""
    found = []
    for name in _KEPT:
        packet, _, overload = name.partition(".")
        operator = getattr(getattr(torch.ops.aten, packet, None), overload, None)
        if operator is not None:
            found.append(operator)
    return tuple(found)


def export_decompositions() -> Any:
    """The table for `ExportedProgram.run_decompositions`: to core ATen, but for what is kept."""
    table = torch.export.default_decompositions()
    for operator in kept_operators():
        table.pop(operator, None)
    return table


def dynamo_decompositions() -> dict[Any, Callable[..., Any]]:
    """The table for AOTAutograd: to core ATen, but for what is kept."""
    kept = set(kept_operators())
    table = torch._decomp.core_aten_decompositions()
    return {operator: rule for operator, rule in table.items() if operator not in kept}
