# SPDX-License-Identifier: Apache-2.0
"""What a model says about itself: inputs, outputs, symbols, kernels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from heddle.runtime.abi import ArgDesc, Model, numpy_dtype


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output. A dimension is a number, or the name of a symbol."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    donated: bool = False
    """An input whose memory a call writes to."""
    lies_in: int | None = None
    """The input in whose memory an output lies."""

    @property
    def is_static(self) -> bool:
        """Whether every dimension is a number."""
        return all(isinstance(dim, int) for dim in self.shape)

    def __str__(self) -> str:
        text = f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"
        return f"{text} (donated)" if self.donated else text


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Everything a library declares."""

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    symbols: dict[str, tuple[int, int]]
    """The range of each symbol, both ends included."""
    late_symbols: tuple[str, ...]
    """Dimensions of outputs that a call computes on the way."""
    kernels: tuple[str, ...]
    constants_size: int
    metadata: dict[str, Any]


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def _tensor_info(desc: ArgDesc, symbols: list[str], role: str) -> TensorInfo:
    dtype = numpy_dtype(desc.code, desc.bits, desc.lanes)
    shape: list[int | str] = []
    for axis in range(desc.ndim):
        dim = desc.dims[axis]
        known = dim >= 0 or -1 - dim < len(symbols)
        shape.append(dim if dim >= 0 else symbols[-1 - dim] if known else "?")
    name = np.dtype(dtype).name if dtype is not None else f"code{desc.code}_{desc.bits}"
    if role == "input":
        return TensorInfo(_text(desc.name), name, tuple(shape), donated=bool(desc.memory))
    home = desc.memory - 1
    return TensorInfo(_text(desc.name), name, tuple(shape), lies_in=home if home >= 0 else None)


def read_model(model: Model) -> ModelInfo:
    """Copies a model's description out of its library."""
    late = range(model.num_symbols, model.num_symbols + model.num_late_symbols)
    symbols = [_text(model.symbol_names[k]) for k in range(late.stop)]
    metadata = json.loads(_text(model.metadata_json) or "{}")
    return ModelInfo(
        name=_text(model.name),
        inputs=tuple(
            _tensor_info(model.inputs[i], symbols, "input") for i in range(model.num_inputs)
        ),
        outputs=tuple(
            _tensor_info(model.outputs[i], symbols, "output") for i in range(model.num_outputs)
        ),
        symbols={symbols[k]: (model.symbol_min[k], model.symbol_max[k]) for k in range(late.start)},
        late_symbols=tuple(symbols[k] for k in late),
        kernels=tuple(_text(model.kernel_names[k]) for k in range(model.num_kernels)),
        constants_size=model.constants_size,
        metadata=metadata if isinstance(metadata, dict) else {},
    )
