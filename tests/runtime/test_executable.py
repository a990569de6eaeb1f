# SPDX-License-Identifier: Apache-2.0
"""Calls: values, argument forms, threads, memory."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from heddle.runtime import Executable, Tensor, from_dlpack, load
from heddle.support.errors import UserError

from .conftest import check, random_inputs


def test_description(exe: Executable) -> None:
    assert [str(info) for info in exe.inputs] == [
        "x: float32[n, 4]",
        "y: float32[n, 4]",
        "scale: int64[]",
    ]
    assert [str(info) for info in exe.outputs] == ["z: float32[n, 4]", "total: float32[]"]
    assert exe.info.symbols == {"n": (0, 100000)}


@pytest.mark.parametrize("rows", [0, 1, 3, 1000, 20000])
def test_values(exe: Executable, rows: int) -> None:
    x, y = random_inputs(rows)
    check(exe(x, y, 3), x, y, 3)
    check(exe(scale=np.int64(2), y=y, x=x), x, y, 2)
    assert exe.infer_shapes(x, y, 1) == ((rows, 4), ())


def test_changing_shapes_and_results_that_stay(exe: Executable) -> None:
    kept = []
    for rows in (50000, 10, 50000, 50000, 20, 50000):
        x, y = random_inputs(rows, seed=rows)
        kept.append((exe(x, y, 1), x, y))
    for results, x, y in kept:
        check(results, x, y, 1)
        assert results[0].numpy().ctypes.data % 64 == 0


def test_torch_tensors_without_a_copy(exe: Executable) -> None:
    torch = pytest.importorskip("torch")
    x, y = random_inputs(100)
    grad = torch.from_numpy(y).requires_grad_()
    results = exe(torch.from_numpy(x), grad, torch.tensor(3))
    check(results, x, y, 3)
    seen = torch.from_dlpack(results[0])
    results[0].numpy()[5, 1] = 42
    assert seen[5, 1] == 42
    out = [torch.empty(100, 4), torch.empty(())]
    exe.call_into([x, grad, 3], out)
    check(tuple(out), x, y, 3)


def test_recycled_memory_is_never_still_in_use(exe: Executable) -> None:
    x, y = random_inputs(60000)
    view = exe(x, y, 1)[0].numpy()[1:]  # only a view of a view stays
    copy = view.copy()
    for _ in range(3):
        exe(y, x, 1)
    np.testing.assert_array_equal(view, copy)
    address = exe(x, y, 1)[0].numpy().ctypes.data
    assert exe(x, y, 1)[0].numpy().ctypes.data == address


def test_many_threads_at_once(exported: Path) -> None:
    exe = load(exported)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            x, y = random_inputs(500 + seed, seed)
            for _ in range(50):
                check(exe(x, y, seed), x, y, seed)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_no_leak(exe: Executable) -> None:
    x, y = random_inputs(1000)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def run(count: int) -> None:
        for _ in range(count):
            exe(x, y, 3)
            try:
                exe(x, y[:5], 3)
            except UserError:
                pass

    run(1000)
    gc.collect()
    before = resident()
    run(10000)
    gc.collect()
    assert resident() - before < 4 << 20


def test_profile(exe: Executable) -> None:
    x, y = random_inputs(1000)
    profile = exe.profile(x, y, 3, rounds=5)
    assert [kernel.name for kernel in profile.kernels] == ["multiply_add", "sum"]
    assert all(kernel.median_ms > 0 and kernel.count == 1 for kernel in profile.kernels)
    assert sum(kernel.share for kernel in profile.kernels) == pytest.approx(1)
    first = profile.kernels[0]
    assert first.gflops == pytest.approx(8000 / first.median_ms / 1e6)
    assert first.gbps == pytest.approx(48000 / first.median_ms / 1e6)
    assert "multiply_add" in str(profile)
    assert profile.total_ms > 0


def test_tensor_bfloat16_through_dlpack() -> None:
    torch = pytest.importorskip("torch")
    tensor = Tensor.empty((2, 3), "bfloat16")
    tensor.numpy()[:] = np.arange(6).reshape(2, 3)
    seen = torch.from_dlpack(tensor)
    assert seen.dtype == torch.bfloat16
    assert seen.tolist() == [[0, 1, 2], [3, 4, 5]]
    del tensor
    gc.collect()
    assert seen.tolist() == [[0, 1, 2], [3, 4, 5]]
    back = from_dlpack(seen.t())
    assert back.dtype == "bfloat16"
    assert back.shape == (3, 2)
    del seen
    gc.collect()
    assert back.numpy().astype(np.float32).tolist() == [[0, 3], [1, 4], [2, 5]]
    unused = Tensor(np.ones(3, ml_dtypes.bfloat16)).__dlpack__()
    del unused


def test_tensor_looks_like_an_array() -> None:
    tensor = Tensor(np.arange(6, dtype=np.int32).reshape(2, 3))
    assert (tensor.shape, tensor.dtype, tensor.ndim, tensor.nbytes) == ((2, 3), "int32", 2, 24)
    assert np.asarray(tensor).base is not None or np.shares_memory(
        tensor.numpy(), np.asarray(tensor)
    )
    assert np.asarray(tensor, dtype=np.float32).dtype == np.float32
    assert np.from_dlpack(tensor).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert "int32" in repr(tensor)
    assert len(tensor) == 2
    with pytest.raises(UserError, match="no __dlpack__"):
        from_dlpack([1, 2])
    with pytest.raises(UserError, match="not supported"):
        Tensor(np.array(["text"]))
