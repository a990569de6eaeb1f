# SPDX-License-Identifier: Apache-2.0
"""Measuring for a target with shorter vectors than this machine has."""

from __future__ import annotations

from heddle.target import native, parse

NARROW_PEERS = ("inductor", "torch")
"""Engines that can be kept from 512-bit vectors. ONNX Runtime and OpenVINO ignore what is asked of
their libraries."""

NARROW = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}
"""The environment that does so, and that keeps numpy's OpenBLAS from them too."""


def is_narrow(target: str) -> bool:
    """Whether a target has shorter vectors than this machine."""
    return parse(target).vector_bits < native().vector_bits
