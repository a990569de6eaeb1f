# SPDX-License-Identifier: Apache-2.0
"""Networks of the zoo, quantised by ONNX Runtime with random calibration data.

    path = quantised_path("resnet50", weights="s8", activations="u8", per_channel=True)

The files lie beside those of the zoo and carry what they were made of in their names.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import zoo

CALIBRATION = 2
"""Random inputs that ranges of activations are taken from."""


def quantised_path(
    name: str,
    *,
    form: str = "qdq",
    weights: str = "s8",
    activations: str = "u8",
    per_channel: bool = True,
    small: bool = False,
) -> Path:
    """The ONNX file of network `name` in 8 bits, made first when it is missing.

    form: "qdq" or "qoperator". weights, activations: "s8" or "u8".
    """
    source = zoo.onnx_path(name, small=small)
    grain = "channel" if per_channel else "tensor"
    tag = f"{form}-{activations}{weights}-{grain}"
    path = source.with_name(f"{source.stem}-{tag}.onnx")
    if not path.exists():
        _quantise(name, source, path, form, weights, activations, per_channel, small)
    return path


class _RandomInputs:
    """What the quantiser asks for calibration data."""

    def __init__(self, name: str, *, small: bool) -> None:
        self.values = iter(
            [zoo.inputs(name, seed=100 + seed, small=small) for seed in range(CALIBRATION)]
        )

    def get_next(self) -> Any:
        """The next inputs by name, None after the last."""
        return next(self.values, None)


def _quantise(
    name: str,
    source: Path,
    path: Path,
    form: str,
    weights: str,
    activations: str,
    per_channel: bool,
    small: bool,
) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    kinds = {"s8": QuantType.QInt8, "u8": QuantType.QUInt8}
    formats = {"qdq": QuantFormat.QDQ, "qoperator": QuantFormat.QOperator}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "made.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(made),
            _RandomInputs(name, small=small),
            quant_format=formats[form],
            per_channel=per_channel,
            activation_type=kinds[activations],
            weight_type=kinds[weights],
        )
        os.replace(made, path)
