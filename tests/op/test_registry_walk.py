# SPDX-License-Identifier: Apache-2.0
"""Every operator of the registry: its rules exist and agree on its samples."""

from __future__ import annotations

import dataclasses
import pickle
import zlib

import numpy as np
import pytest

from heddle import op, te
from heddle.graph import Call, Constant, Var
from heddle.ir import DType, TensorType, TupleType, structural_equal
from heddle.op.registry import KINDS
from heddle.op.sample import Sample
from heddle.tir import interp

OPS = sorted(op.all_ops())
CASES = [
    pytest.param(name, index, id=f"{name}-{index}")
    for name in OPS
    for index in range(len(op.get(name).sample_cases))
]
# Half precision results round once to 11 bits; float32 sums of a few dozen terms lose a few ulp.
TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 2e-5, "float64": 1e-12}


def _seed(name: str, index: int) -> int:
    return zlib.crc32(f"{name} {index}".encode())


def _as_tuple(value: object) -> tuple:
    return value if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize("name", OPS)
def test_declaration(name: str) -> None:
    found = op.get(name)
    assert found.kind in KINDS
    assert found.doc, "the docstring is the documentation"
    assert found.sample_cases, "samples check the rules"
    assert found.has_rule("numpy")
    assert found.has_rule("compute")
    assert not (found.has_rule("grad") and found.no_gradient)  # see test_gradients.py
    assert pickle.loads(pickle.dumps(found)) is found
    assert getattr(op, name) is found, "a submodule hides the operator"


DTYPES_OF = {
    name: frozenset.intersection(*op.get(name).dtypes.values())
    if op.get(name).dtypes
    else frozenset()
    for name in OPS
}


def _half_samples() -> list[object]:
    """The first sample of each operator of floats, in the 16-bit formats."""
    found = []
    for name in OPS:
        sample = next(iter(op.get(name).sample_cases), Sample(()))
        is_float = [a is None or a.dtype == "float32" for a in sample.args]
        admitted = DTYPES_OF[name] >= {"float16", "bfloat16"}
        if sample.args and all(is_float) and admitted:
            for dtype in ("float16", "bfloat16"):
                args = tuple(a and dataclasses.replace(a, dtype=dtype) for a in sample.args)
                found.append(pytest.param(name, Sample(args, sample.attrs), id=f"{name}-{dtype}"))
    return found


@pytest.mark.parametrize("name, sample", _half_samples())
def test_half_precision(name: str, sample: Sample) -> None:
    _check(op.get(name), sample, _seed(name, 0))


@pytest.mark.parametrize("name, index", CASES)
def test_rules_agree(name: str, index: int) -> None:
    _check(op.get(name), op.get(name).sample_cases[index], _seed(name, index))


def _check(found: op.Op, sample: Sample, seed: int) -> None:
    """The type that is inferred, the reference and the interpreted kernel agree."""
    arrays = sample.draw(seed)
    variables = [
        None if a is None else Var(f"x{i}", TensorType.of(a.shape, DType.of(a.dtype)))
        for i, a in enumerate(arrays)
    ]
    call = found(*variables, **sample.attrs)
    assert structural_equal(found.infer([a.type for a in call.args], call.attrs), call.type)
    present = [a for a in arrays if a is not None]
    types = call.type.fields if isinstance(call.type, TupleType) else (call.type,)

    expected = _as_tuple(found.evaluate(present, call.attrs))
    assert [(a.shape, DType.of(a.dtype)) for a in expected] == [
        (t.static_shape, t.dtype) for t in types
    ]

    inputs = [te.placeholder(a.type.shape, a.type.dtype, name=a.name) for a in call.args]
    outputs = found.compute(inputs, call.attrs)
    assert [(t.dtype, _static(t)) for t in outputs] == [(t.dtype, t.static_shape) for t in types]
    results = [np.empty(t.static_shape, t.dtype.numpy) for t in types]
    func = te.create_prim_func([*inputs, *outputs], name=found.name)
    interp.run(func, *present, *results)
    for got, want in zip(results, expected, strict=True):
        if want.dtype.kind in "iub":
            np.testing.assert_array_equal(got, want)
        else:
            near = TOLERANCE[want.dtype.name]
            np.testing.assert_allclose(
                got.astype(np.float64), want.astype(np.float64), rtol=near, atol=near
            )


def _static(tensor: te.Tensor) -> tuple[int, ...] | None:
    return TensorType(tensor.shape, tensor.dtype).static_shape


def test_calls_with_constants() -> None:
    x = Var("x", TensorType.of((2, 3), "float16"))
    call = op.add(x, 1.5)
    assert isinstance(call, Call)
    assert isinstance(call.args[1], Constant)
    assert call.args[1].data.dtype == np.float16
