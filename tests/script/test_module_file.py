# SPDX-License-Identifier: Apache-2.0
"""Modules on disk: round trips, and files that are damaged."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import heddle
from heddle import op
from heddle.graph import GraphBuilder
from heddle.ir import IRModule, TensorType, structural_equal
from heddle.script.module_file import SCRIPT, WEIGHTS, read_tensors, write_tensors
from heddle.support import UserError

DTYPES = (
    *"float64 float32 float16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool".split(),
)


def module(rng: np.random.Generator) -> IRModule:
    builder = GraphBuilder("main")
    x = builder.param("x", TensorType.of((3, 8), "float32"))
    hidden = builder.emit(op.matmul(x, rng.standard_normal((8, 5), np.float32)), name="hidden")
    return IRModule({"main": builder.finish(builder.emit(op.relu(hidden), name="y"))})


def test_round_trip(tmp_path: Path, rng: np.random.Generator) -> None:
    saved = module(rng)
    heddle.save_module(saved, tmp_path / "a" / "b")
    loaded = heddle.load_module(tmp_path / "a" / "b")
    assert structural_equal(saved, loaded)
    assert "op.matmul" in (tmp_path / "a" / "b" / SCRIPT).read_text()


@pytest.mark.parametrize("dtype", [*DTYPES, ml_dtypes.bfloat16])
def test_tensors(tmp_path: Path, dtype: str, rng: np.random.Generator) -> None:
    tensors = {
        "a b": (rng.random((2, 3)) * 9).astype(dtype),
        "scalar": np.asarray(1, dtype),
        "empty": np.zeros((0, 4), dtype),
        "turned": np.ones((3, 2), dtype).T,
    }
    write_tensors(tmp_path / "t", tensors)
    found = read_tensors(tmp_path / "t")
    assert list(found) == list(tensors)
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_the_format(tmp_path: Path) -> None:
    """As the package safetensors specifies it, byte by byte."""
    write_tensors(tmp_path / "t", {"w": np.asarray([1, 2], np.int16)})
    raw = (tmp_path / "t").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert length % 8 == 0
    assert json.loads(raw[8 : 8 + length]) == {
        "w": {"dtype": "I16", "shape": [2], "data_offsets": [0, 4]}
    }
    assert raw[8 + length :] == b"\1\0\2\0"


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "its header does not fit"),
        (b"\xff" * 16, "its header does not fit"),
        ((2).to_bytes(8, "little") + b"[]", "its header is no table"),
        ((3).to_bytes(8, "little") + b"{,}", "its header is not JSON"),
        ((8).to_bytes(8, "little") + b'{"w":{}}', "the entry of tensor `w` is damaged"),
    ],
)
def test_damaged(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_tensors(tmp_path / "t")


@pytest.mark.parametrize("entry", [[2**60], [-1], [3]])
def test_places_outside(tmp_path: Path, entry: list[int]) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": entry, "data_offsets": [0, 8]}}).encode()
    (tmp_path / "t").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(UserError, match="tensor `w`"):
        read_tensors(tmp_path / "t")


def test_missing(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        heddle.load_module(tmp_path)
    heddle.save_module(module(rng), tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(UserError, match="cannot be read"):
        heddle.load_module(tmp_path)
    with pytest.raises(UserError, match="takes an IRModule, got str"):
        heddle.save_module("model.onnx", tmp_path)  # type: ignore[arg-type]
