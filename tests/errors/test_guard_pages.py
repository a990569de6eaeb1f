# SPDX-License-Identifier: Apache-2.0
"""No access outside: inputs and outputs lie right before or behind a page that may not be touched.

Each network runs in a process of its own, which a read or write beyond its tensors would kill.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="the models are ONNX models")
pytest.importorskip("torch", reason="the zoo is exported from torch")

from onnx import helper

from benchmarks import zoo

from .models import Shape, finish, model, saved, start

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


if sys.argv[1].endswith(".onnx"):
    executable = heddle.compile(sys.argv[1])
    rng = np.random.default_rng(5)
    values = {i.name: rng.standard_normal(i.shape).astype(i.dtype) for i in executable.inputs}
else:
    executable = heddle.compile(zoo.onnx_path(sys.argv[1], small=True))
    values = zoo.inputs(sys.argv[1], 5, small=True)
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


# Made of the same layers as others of the zoo.
ALIKE = {"resnet50", "mobilenetv2", "vgg16", "distilbert", "mlp_b1", "mlp_b128"}


@pytest.mark.parametrize("name", [name for name in zoo.models() if name not in ALIKE])
def test_networks_stay_inside_their_tensors(name: str) -> None:
    assert finish(start(PROGRAM, name)) == "done\n"


# Shapes that are no multiple of any vector, tile or block.
ODD: dict[str, tuple[tuple[str, dict], list[Shape], Shape]] = {
    "product": (("MatMul", {}), [(7, 13), (13, 19)], (7, 19)),
    "vector": (("MatMul", {}), [(1, 37), (37, 1)], (1, 1)),
    "batched product": (("MatMul", {}), [(3, 5, 11), (3, 11, 17)], (3, 5, 17)),
    "transposed product": (("Gemm", {"transA": 1, "transB": 1}), [(13, 7), (19, 13)], (7, 19)),
    "convolution": (("Conv", {"pads": [1, 1, 1, 1]}), [(1, 5, 9, 7), (11, 5, 3, 3)], (1, 11, 9, 7)),
    "strided": (("Conv", {"strides": [2, 3]}), [(1, 3, 11, 13), (5, 3, 3, 2)], (1, 5, 5, 4)),
    "dilated": (("Conv", {"dilations": [2, 2]}), [(1, 3, 9, 9), (7, 3, 3, 3)], (1, 7, 5, 5)),
    "depthwise": (("Conv", {"group": 13}), [(1, 13, 9, 7), (13, 1, 3, 3)], (1, 13, 7, 5)),
    "grouped": (("Conv", {"group": 3}), [(1, 9, 5, 5), (15, 3, 1, 1)], (1, 15, 5, 5)),
    "pooling": (
        ("MaxPool", {"kernel_shape": [3, 3], "pads": [1] * 4}),
        [(1, 5, 7, 9)],
        (1, 5, 7, 9),
    ),
    "average": (("AveragePool", {"kernel_shape": [2, 3]}), [(1, 5, 7, 9)], (1, 5, 6, 7)),
    "sum": (("ReduceSum", {"keepdims": 0}), [(7, 13, 3)], ()),
    "softmax": (("Softmax", {"axis": 1}), [(5, 19)], (5, 19)),
    "softmax of columns": (("Softmax", {"axis": 0}), [(19, 5)], (19, 5)),
    "transpose": (("Transpose", {"perm": [2, 0, 1]}), [(5, 7, 19)], (19, 5, 7)),
    "broadcast": (("Add", {}), [(5, 1, 19), (7, 1)], (5, 7, 19)),
    "join": (("Concat", {"axis": 1}), [(3, 5), (3, 14)], (3, 19)),
    "one element": (("Tanh", {}), [(1,)], (1,)),
    "element-wise": (("Erf", {}), [(1021,)], (1021,)),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_shapes_stay_inside_their_tensors(case: str, tmp_path: Path) -> None:
    (operator, attributes), shapes, result = ODD[case]
    names = [f"x{k}" for k in range(len(shapes))]
    node = helper.make_node(operator, names, ["y"], **attributes)
    inputs = {name: ("float32", shape) for name, shape in zip(names, shapes, strict=True)}
    path = saved(tmp_path / "odd.onnx", model([node], inputs, {"y": ("float32", result)}))
    assert finish(start(PROGRAM, path)) == "done\n"


def test_the_guard_works() -> None:
    """One element further, and the process is gone."""
    broken = (
        PROGRAM.split("if sys.argv")[0]
        + "guarded((5,), 'f4', True)\n"
        + ("end = np.frombuffer(kept[0], np.float32)\nprint(end[2 * PAGE // 4])\n")
    )
    process = start(broken)
    process.communicate(timeout=60)
    assert process.returncode < 0
