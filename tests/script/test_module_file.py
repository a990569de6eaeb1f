# SPDX-License-Identifier: Apache-2.0
"""Modules on disk: round trips, and files that are damaged."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import heddle
from heddle import op
from heddle.graph import Constant, GraphBuilder
from heddle.ir import IRModule, TensorType, pre_order, structural_equal
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
        ((15).to_bytes(8, "little") + b'{"w":{},"w":{}}', "its header has `w` twice"),
    ],
)
def test_damaged(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_tensors(tmp_path / "t")


def with_entry(path: Path, shape: list[int], *, end: int = 8, dtype: str = "F32") -> Path:
    """A file of 8 bytes of data, for one tensor."""
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}
    header = json.dumps({"w": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\1\2\3" * 2)
    return path


@pytest.mark.parametrize("shape", [[2**60], [-1], [3], [True, 2], [2.0]])
def test_places_outside(tmp_path: Path, shape: list[int]) -> None:
    with pytest.raises(UserError, match="tensor `w`"):
        read_tensors(with_entry(tmp_path / "t", shape))


def test_what_numpy_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tensor `w` of shape .* dimension"):
        read_tensors(with_entry(tmp_path / "t", [0, 2**70], end=0))
    with pytest.raises(UserError, match=r"tensor `w` of shape .* dimension"):
        read_tensors(with_entry(tmp_path / "t", [2] + [1] * 70))
    with pytest.raises(UserError, match="bytes other than 0 and 1"):
        read_tensors(with_entry(tmp_path / "t", [8], dtype="BOOL"))


@pytest.mark.parametrize("count", [3, 40])  # printed in the script, and in the other file
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", ml_dtypes.bfloat16])
def test_bits_that_are_no_numbers(tmp_path: Path, dtype: str, count: int) -> None:
    """A signalling NaN with a payload, -0, infinity and subnormals come back bit by bit."""
    size = np.dtype(dtype).itemsize
    ones = np.arange(1, count + 1).astype(f"u{size}")
    ones[:3] = np.asarray([np.inf, -0.0, np.inf], dtype).view(ones.dtype)
    ones[0] += 5
    array = ones.view(dtype)
    builder = GraphBuilder("main")
    x = builder.param("x", TensorType.of((count,), array.dtype))
    saved = IRModule({"main": builder.finish(builder.emit(op.add(x, array), name="y"))})
    heddle.save_module(saved, tmp_path)
    loaded = heddle.load_module(tmp_path)
    assert structural_equal(saved, loaded)
    (found,) = (node.data for node in pre_order(loaded["main"]) if isinstance(node, Constant))
    assert found.dtype == array.dtype
    assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize("seed", range(3))
def test_damage_anywhere(tmp_path: Path, seed: int, rng: np.random.Generator) -> None:
    """Bytes that change, go or come, in either file: an error of the user's, or a module."""
    heddle.save_module(module(rng), tmp_path)
    rng = np.random.default_rng(seed)
    for name in (SCRIPT, WEIGHTS):
        whole = (tmp_path / name).read_bytes()
        for _ in range(20):
            data = bytearray(whole)
            at, kind = int(rng.integers(min(len(data), 400))), rng.integers(3)
            span = int(rng.integers(1, 30))
            data[at : at + (0, 1, span)[kind]] = rng.bytes((span, 1, 0)[kind])
            (tmp_path / name).write_bytes(data)
            with contextlib.suppress(UserError):
                assert isinstance(heddle.load_module(tmp_path), IRModule)
        (tmp_path / name).write_bytes(whole)


def test_weights_of_another_module(tmp_path: Path, rng: np.random.Generator) -> None:
    heddle.save_module(module(rng), tmp_path)
    write_tensors(tmp_path / WEIGHTS, {"other": np.ones((8, 5), np.float32)})
    with pytest.raises(UserError, match="c0"):
        heddle.load_module(tmp_path)
    write_tensors(tmp_path / WEIGHTS, {"c0": np.ones((7, 5), np.float32)})
    with pytest.raises(UserError, match=r"module\.py"):
        heddle.load_module(tmp_path)


def test_missing(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        heddle.load_module(tmp_path)
    heddle.save_module(module(rng), tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(UserError, match="cannot be read"):
        heddle.load_module(tmp_path)
    with pytest.raises(UserError, match="takes an IRModule, got str"):
        heddle.save_module("model.onnx", tmp_path)  # type: ignore[arg-type]
