# SPDX-License-Identifier: Apache-2.0
"""The short way of a call: what it takes, what it leaves to the general way, and what it keeps."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heddle.runtime import Executable, Tensor, load
from heddle.support.errors import UserError

from .conftest import check, random_inputs

SCALE = np.array(2, np.int64)


def _short_way(exe: Executable) -> Any:
    """`exe`, which raises where a call would take the general way."""
    assert exe._fast is not None, "this machine has a C compiler and CPython"

    def refuse() -> None:
        raise AssertionError("the general way")

    exe._take_frame = refuse  # type: ignore[method-assign, assignment]
    return exe


@pytest.mark.parametrize("rows", [0, 1, 7, 100_000])
def test_values_and_shapes(exported: Path, rows: int) -> None:
    exe = _short_way(load(exported))
    x, y = random_inputs(rows)
    results = exe(x, y, SCALE)
    check(results, x, y, 2)
    assert [type(item) for item in results] == [Tensor, Tensor]
    assert results[0].shape == (rows, 4)
    assert results[0].numpy().ctypes.data % 64 == 0
    assert results[0].numpy().flags.writeable
    check(exe(Tensor(x), y, SCALE), x, y, 2)
    check(exe(results[0], y, SCALE), results[0].numpy(), y, 2)
    x.flags.writeable = False
    check(exe(x, y=y, scale=SCALE), x, y, 2)


def test_what_is_left_to_the_general_way(exe: Executable) -> None:
    x, y = random_inputs(5)
    odd = np.empty(5 * 16 + 1, np.uint8)[1:].view(np.float32).reshape(5, 4)
    odd[:] = x
    others = (x.tolist(), x.astype(np.float64), x.astype(">f4"), x[::2], x.T, x[0], odd, None)
    for other in others:
        assert exe._fast is not None
        assert exe._fast((other, y, SCALE)) is NotImplemented
        assert exe._fast((x, y, other)) is NotImplemented
    check(exe(x, y, 2), x, y, 2)  # the number becomes an array


def test_errors_are_those_of_the_library(exported: Path) -> None:
    exe = _short_way(load(exported))
    x, y = random_inputs(5)
    with pytest.raises(UserError, match=r"fake: input `y`: dimension 0 is 4, expected 5 \(`n`"):
        exe(x, y[:4], SCALE)
    with pytest.raises(UserError, match="dimension 1 is 3, expected 4"):
        exe(x[:, :3].copy(), y, SCALE)
    check(exe(x, y, SCALE), x, y, 2)


@pytest.mark.parametrize("rows", [3, 60_000])
def test_nothing_is_kept_and_results_live(exported: Path, rows: int) -> None:
    exe = _short_way(load(exported))
    x, y = random_inputs(rows)
    result = exe(x, y, SCALE)[0].numpy()[1:]
    copy = result.copy()
    counts = [sys.getrefcount(item) for item in (x, y, SCALE, x.dtype, SCALE.dtype)]
    for _ in range(1000 if rows < 100 else 20):
        exe(Tensor(x), y, SCALE)
        with pytest.raises(UserError):
            exe(x, y[:2], SCALE)
        assert exe._fast is not None
        assert exe._fast((x, y, 2)) is NotImplemented
    assert [sys.getrefcount(item) for item in (x, y, SCALE, x.dtype, SCALE.dtype)] == counts
    del exe
    gc.collect()
    np.testing.assert_array_equal(result, copy)
