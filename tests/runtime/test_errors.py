# SPDX-License-Identifier: Apache-2.0
"""Every check of a call, and its message."""

from __future__ import annotations

import ctypes
import platform
import re
from pathlib import Path

import numpy as np
import pytest

from heddle.runtime import Executable, load
from heddle.runtime.abi import DLTensor, describe
from heddle.runtime.toolchain import link_shared
from heddle.support.errors import UserError

from .conftest import CONSTANTS, check, compile_model, random_inputs

X, Y = random_inputs(6)


def misaligned() -> np.ndarray:
    raw = np.zeros(6 * 16 + 1, np.uint8)[1:]
    return raw.view(np.float32).reshape(6, 4)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((X, Y), "fake: missing input `scale`, expected `x: float32[n, 4]`"),
        ((X, Y, 1, 2), "fake: got 4 inputs, expected 3"),
        ((X.astype(np.float64), Y, 1), "fake: input `x`: dtype is float64, expected float32"),
        ((X.astype(">f4"), Y, 1), "fake: input `x`: dtype is DLPack type (code 3"),
        ((X > 0, Y, 1), "fake: input `x`: dtype is bool, expected float32"),
        ((X[0], Y, 1), "fake: input `x`: has 1 dimensions, expected 2"),
        ((X[:, :3].copy(), Y, 1), "fake: input `x`: dimension 1 is 3, expected 4"),
        ((X, Y[:5], 1), "input `y`: dimension 0 is 5, expected 6 (`n`, from input `x`)"),
        ((X[::2], Y[::2], 1), "input `x`: is not contiguous: the stride of dimension 0 is 8"),
        ((np.asfortranarray(X), Y, 1), "input `x`: is not contiguous"),
        ((misaligned(), Y, 1), "is not a multiple of the element size, 4 bytes"),
        ((X, Y, 1.5), "input `scale`: got float, expected int64"),
        ((X, Y, True), "input `scale`: got bool, expected int64"),
        ((X, Y, 1 << 70), "input `scale`: got int, expected int64"),
        ((X, Y, "one"), "input `scale`: got str, expected int64"),
        (([[1.0]], Y, 1), "input `x`: got list, expected float32 as a numpy array"),
        ((None, Y, 1), "input `x`: got NoneType"),
    ],
)
def test_bad_inputs(exe: Executable, args: tuple, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        exe(*args)
    check(exe(X, Y, 2), X, Y, 2)  # and the next call works


def test_names(exe: Executable) -> None:
    with pytest.raises(UserError, match="unknown input `w`"):
        exe(X, Y, w=1)
    with pytest.raises(UserError, match="input `x` is given by position and by name"):
        exe(X, Y, 1, x=X)


def test_symbol_range(exe: Executable) -> None:
    big = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (100001, 4), (16, 4))
    message = "input `x`: dimension 0 is 100001, expected `n` from 0 to 100000"
    with pytest.raises(UserError, match=message):
        exe(big, big, 1)


def test_other_devices(exe: Executable) -> None:
    class Elsewhere:
        def __dlpack_device__(self) -> tuple[int, int]:
            return (2, 0)

        def __dlpack__(self) -> object:
            raise AssertionError("not reached")

    with pytest.raises(UserError, match="input `y`: is on DLPack device type 2, expected CPU"):
        exe(X, Elsewhere(), 1)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((np.empty((6, 4), "f4"),), "got 1 outputs, expected 2"),
        ((np.empty((5, 4), "f4"), np.empty((), "f4")), "output `z`: dimension 0 is 5, expected 6"),
        ((np.empty((6, 4), "f8"), np.empty((), "f4")), "output `z`: dtype is float64"),
        ((X, np.empty((), "f4")), "output `z`: shares memory with input `x`"),
        ((np.empty((6, 8), "f4")[:, ::2], np.empty((), "f4")), "output `z`: is not contiguous"),
    ],
)
def test_bad_outputs(exe: Executable, outputs: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        exe.call_into((X, Y, 1), outputs)


def test_outputs_that_overlap_or_are_read_only(exe: Executable) -> None:
    z = np.empty((6, 4), np.float32)
    with pytest.raises(UserError, match="output `total`: shares memory with output `z`"):
        exe.call_into((X, Y, 1), (z, z[2, 1:2].reshape(())))
    exe.call_into((X, Y, 1), (z, np.empty((), np.float32)))
    z.flags.writeable = False
    with pytest.raises(UserError, match="output `z`: is read-only"):
        exe.call_into((X, Y, 1), (z, np.empty((), np.float32)))


def raw_call(exe: Executable, inputs: list, outputs: list) -> str:
    """The message of heddle_run for raw DLTensors; "" when it succeeds."""
    pointer = ctypes.POINTER(DLTensor)

    def array(tensors: list) -> ctypes.Array:
        return (pointer * len(tensors))(
            *(pointer() if tensor is None else ctypes.pointer(tensor) for tensor in tensors)
        )

    run = exe._library.heddle_run
    ins, outs = array(inputs), array(outputs)
    status = run(ctypes.cast(ins, ctypes.c_void_p), len(inputs), outs, len(outputs))
    return exe._library.heddle_last_error().decode() if status else ""


def test_hostile_tensors(exe: Executable) -> None:
    scale, total = np.array(1), np.empty((), np.float32)
    z = np.empty((6, 4), np.float32)
    good = [X, Y, scale]

    def attempt(change: object, index: int = 0) -> str:
        tensors = [describe(array) for array in good]
        change(tensors[index])
        return raw_call(exe, tensors, [describe(z), describe(total)])

    def put(**fields: object) -> object:
        return lambda tensor: [setattr(tensor, name, value) for name, value in fields.items()]

    def dims(*values: int) -> object:
        return put(shape=(ctypes.c_int64 * len(values))(*values))

    assert attempt(put()) == ""
    null = ctypes.POINTER(ctypes.c_int64)()
    assert attempt(put(strides=null)) == ""
    assert attempt(put(shape=null)) == "fake: input `x`: shape is NULL"
    assert attempt(put(data=None)) == "fake: input `x`: data is NULL, expected 96 bytes"
    assert attempt(put(device_type=2)).startswith("fake: input `x`: is on DLPack device type 2")
    assert attempt(put(lanes=4)) == "fake: input `x`: dtype is float32x4, expected float32"
    assert attempt(put(ndim=-1)) == "fake: input `x`: has -1 dimensions, expected 2"
    assert attempt(dims(-5, 4)) == "fake: input `x`: dimension 0 is negative: -5"
    assert "expected `n` from 0 to 100000" in attempt(dims(1 << 62, 4))
    assert attempt(put(byte_offset=2)).endswith("is not a multiple of the element size, 4 bytes")
    assert raw_call(exe, [None] * 3, []) == "fake: input `x`: is NULL, expected a tensor"
    assert raw_call(exe, [], []) == "fake: got 0 inputs, expected 3"
    status = exe._library.heddle_run(None, 3, None, 2)
    assert status
    assert exe._library.heddle_last_error() == b"fake: the array of inputs is NULL"
    empty = [describe(np.empty((0, 4), np.float32)) for _ in range(3)]
    for tensor in empty:
        tensor.data = None
    tensors = [empty[0], empty[1], describe(scale)]
    assert raw_call(exe, tensors, [empty[2], describe(total)]) == ""
    assert total == 0


def test_error_of_a_worker_reaches_the_caller(exe: Executable) -> None:
    x, y = random_inputs(50000)
    x[49999, 3] = 12345
    with pytest.raises(UserError, match="row 49999 is unlucky"):
        exe(x, y, 1)


def test_constants(model_object: Path, tmp_path: Path) -> None:
    path = link_shared([model_object], tmp_path / "bare.so")
    with pytest.raises(UserError, match="has no constants; call heddle_set_constants"):
        load(path)(X, Y, 1)
    with pytest.raises(UserError, match="got 12 bytes of constants, expected 16"):
        Executable.from_library(path, constants=CONSTANTS[:3])


def test_threads(exe: Executable) -> None:
    before = exe.num_threads
    for count in (0, -1, 100000):
        with pytest.raises(UserError, match="number of threads must be from 1 to"):
            exe.set_num_threads(count)
    exe.set_num_threads(3)
    assert exe.num_threads == 3
    exe.set_num_threads(before)


def test_files_that_cannot_be_loaded(exported: Path, tmp_path: Path) -> None:
    def refused(content: bytes | None, message: str) -> None:
        path = tmp_path / "bad.so"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            load(path)

    whole = exported.read_bytes()
    refused(None, "no such file")
    refused(b"", "not a model library")
    refused(b"hello" * 100, "not a model library")
    for part in (30, 64, 200, 4096, len(whole) // 2):
        refused(whole[:part], "truncated")
    machine = 183 if platform.machine() == "x86_64" else 62
    refused(whole[:18] + bytes([machine, 0]) + whole[20:], "built for .*, this machine is")
    with pytest.raises(UserError, match="not a file"):
        load(tmp_path)
    with pytest.raises(UserError, match="not a model library"):
        load(next(Path("/lib").glob("*/libm.so.6")))


def test_another_version(tmp_path: Path) -> None:
    made = compile_model(tmp_path / "old.o", "-DABI=77")
    with pytest.raises(UserError, match="built for runtime interface 77, this Heddle has 4"):
        load(link_shared([made], tmp_path / "old.so", constants=CONSTANTS))
