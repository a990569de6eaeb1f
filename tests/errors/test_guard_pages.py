# SPDX-License-Identifier: Apache-2.0
"""No access outside: inputs and outputs lie right before or behind a page that may not be touched.

Each network runs in a process of its own, which a read or write beyond its tensors would kill.
"""

from __future__ import annotations

import pytest

pytest.importorskip("onnx", reason="the models are ONNX models")
pytest.importorskip("torch", reason="the zoo is exported from torch")

from benchmarks import zoo

from .models import finish, start

PROGRAM = """
import ctypes, mmap, sys
import numpy as np
import heddle
from benchmarks import zoo

libc = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE
kept = []


def guarded(shape, dtype, end):
    "An array that ends where a forbidden page begins, or begins where one ends."
    dtype = np.dtype(dtype)
    size = max(1, int(np.prod(shape))) * dtype.itemsize
    pages = -(-size // PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    kept.append(memory)
    for page in (0, pages + 1):
        assert libc.mprotect(ctypes.c_void_p(base + page * PAGE), PAGE, 0) == 0
    start = PAGE + (pages * PAGE - size if end else 0)
    flat = np.frombuffer(memory, dtype, int(np.prod(shape)), start)
    return flat.reshape(shape)


name = sys.argv[1]
executable = heddle.compile(zoo.onnx_path(name, small=True))
values = zoo.inputs(name, 5, small=True)
expected = executable(**values)
expected = expected if isinstance(expected, tuple) else (expected,)
for end in (True, False):
    inputs = []
    for info in executable.inputs:
        inputs.append(guarded(values[info.name].shape, info.dtype, end))
        inputs[-1][...] = values[info.name]
    outputs = [guarded(t.shape, t.dtype, end) for t in expected]
    executable.call_into(inputs, outputs)
    for found, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-6, atol=1e-6)
print("done", flush=True)
"""


@pytest.mark.parametrize("name", zoo.models())
def test_networks_stay_inside_their_tensors(name: str) -> None:
    assert finish(start(PROGRAM, name)) == "done\n"


def test_the_guard_works() -> None:
    """One element further, and the process is gone."""
    broken = (
        PROGRAM.split("name = sys.argv")[0]
        + "guarded((5,), 'f4', True)\n"
        + ("end = np.frombuffer(kept[0], np.float32)\nprint(end[2 * PAGE // 4])\n")
    )
    process = start(broken)
    process.communicate(timeout=60)
    assert process.returncode < 0
