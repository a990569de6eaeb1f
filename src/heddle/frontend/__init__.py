# SPDX-License-Identifier: Apache-2.0
"""Importers: what turns a model of another framework into an `IRModule`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from heddle.support import UserError

if TYPE_CHECKING:
    from heddle.frontend.onnx import Coverage


def coverage(model: Any, **options: Any) -> Coverage:
    """What of an ONNX model can be imported, before it is compiled: an object that prints as a
    table. Options are those of `heddle.frontend.onnx.coverage`."""
    try:
        from heddle.frontend.onnx import coverage as of_onnx  # needs the extra `onnx`
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "onnx":
            raise
        raise UserError("ONNX models need the package onnx: pip install 'heddle[onnx]'") from error
    return of_onnx(model, **options)


__all__ = ["coverage"]
