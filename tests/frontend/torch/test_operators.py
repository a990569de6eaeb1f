# SPDX-License-Identifier: Apache-2.0
"""Every row of `cases.py`: what the importer makes of it, against PyTorch itself.

Values are those of the reference interpreter; that compiled kernels agree with it is what the tests
of the operators check, and `test_architectures.py` for whole networks.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch.utils._pytree import tree_leaves

from heddle.frontend.torch.decompose import dynamo_decompositions
from heddle.frontend.torch.flat import from_graph
from heddle.frontend.torch.tensors import numpy_view
from heddle.op.interp import interpret
from tests.frontend.torch.case import Case
from tests.frontend.torch.cases import CASES

# Relative to the largest value: rounding of the dtype, times a few sums in another order. PyTorch
# itself computes functions of float32 to a few units in the last place.
TOLERANCE = {
    torch.float64: 1e-6,  # constants of attributes are float32 in places
    torch.float32: 2e-5,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
}

DECOMPOSITIONS = dynamo_decompositions()


def _params() -> list[Any]:
    found = []
    for case in CASES:
        for dtype in case.dtypes:
            label = case.name if dtype is None else f"{case.name} {str(dtype)[6:]}"
            found.append(pytest.param(case, dtype, id=label.replace(" ", "_")))
    return found


def draw(case: Case, dtype: torch.dtype | None) -> list[torch.Tensor]:
    """The inputs; floats have `dtype` when one is asked for."""
    generator = torch.Generator().manual_seed(zlib.crc32(case.name.encode()))
    specs = [
        dataclasses.replace(spec, dtype=dtype)
        if dtype is not None and spec.dtype is torch.float32
        else spec
        for spec in case.inputs
    ]
    return [spec.draw(generator) for spec in specs]


def compare(expected: torch.Tensor, found: np.ndarray) -> None:
    """Shape and dtype are equal, values within the tolerance of the dtype."""
    want = numpy_view(expected)
    assert found.shape == want.shape
    assert found.dtype == want.dtype
    if not expected.dtype.is_floating_point:
        np.testing.assert_array_equal(found, want)
        return
    a, b = found.astype(np.float64), want.astype(np.float64)
    scale = np.abs(b[np.isfinite(b)]).max(initial=1.0)
    np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE[expected.dtype] * scale)


@pytest.mark.parametrize("case, dtype", _params())
def test_operator(case: Case, dtype: torch.dtype | None) -> None:
    inputs = draw(case, dtype)
    with torch.no_grad():
        expected = case.function(*inputs)
        graph = aot_export_joint_simple(
            lambda *xs: [leaf.clone() for leaf in tree_leaves(case.function(*xs))],
            tuple(inputs),
            trace_joint=False,
            decompositions=DECOMPOSITIONS,
        )
    program = from_graph(graph)
    assert program.module is not None
    arrays = [numpy_view(inputs[position]) for position in program.inputs]
    results = interpret(program.module, arrays)
    results = results if isinstance(results, tuple) else (results,)
    for (kind, position), value in zip(program.results, tree_leaves(expected), strict=True):
        assert kind == "tensor"
        compare(value, results[position])
