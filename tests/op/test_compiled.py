# SPDX-License-Identifier: Apache-2.0
"""Every operator's unscheduled kernel, compiled for this machine, against its numpy reference."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from heddle import codegen, op, te
from heddle.graph import Var
from heddle.ir import DType, TensorType, TupleType
from heddle.op.sample import Sample
from heddle.target import Target, native

TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 2e-5, "float64": 1e-12}


@pytest.fixture(scope="module")
def target() -> Target:
    return native()


@pytest.mark.parametrize("name", sorted(op.all_ops()))
def test_compiled(name: str, target: Target) -> None:
    for index, sample in enumerate(op.get(name).sample_cases):
        _check(op.get(name), sample, zlib.crc32(f"{name} {index}".encode()), target)


def _check(found: op.Op, sample: Sample, seed: int, target: Target) -> None:
    arrays = sample.draw(seed)
    variables = [
        None if a is None else Var(f"x{i}", TensorType.of(a.shape, DType.of(a.dtype)))
        for i, a in enumerate(arrays)
    ]
    call = found(*variables, **sample.attrs)
    present = [a for a in arrays if a is not None]
    expected = found.evaluate(present, call.attrs)
    fields = call.type.fields if isinstance(call.type, TupleType) else (call.type,)
    inputs = [te.placeholder(a.type.shape, a.type.dtype, name=a.name) for a in call.args]
    outputs = found.compute(inputs, call.attrs)
    func = te.create_prim_func([*inputs, *outputs], name=f"op_{found.name}")
    results = [np.empty(t.static_shape, t.dtype.numpy) for t in fields]
    codegen.build_kernel(func, target)(*present, *results)
    for got, want in zip(
        results, expected if isinstance(expected, tuple) else (expected,), strict=True
    ):
        if want.dtype.kind in "iub":
            np.testing.assert_array_equal(got, want)
        else:
            near = TOLERANCE[want.dtype.name]
            np.testing.assert_allclose(
                got.astype(np.float64), want.astype(np.float64), rtol=near, atol=near
            )
