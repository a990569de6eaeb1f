# SPDX-License-Identifier: Apache-2.0
"""The default schedules on another architecture: nothing in the rules names a processor.

Kernels are scheduled from the description of an ARM machine (32 registers of 128 bits), checked
for the instructions that its multiply-add rate depends on, and run under an emulator.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from heddle import op, te
from heddle.ir import TensorType
from heddle.ir.expr import const, maximum
from heddle.op.registry import Op
from heddle.schedule.rules import default_schedule
from heddle.target import parse
from heddle.tir.intrin import exp
from heddle.tir.nodes import PrimFunc
from tests.codegen.arm import run_on_arm

ARM = parse("llvm -mtriple=aarch64-unknown-linux-gnu -mcpu=neoverse-n1").with_cores(1)


def _named(func: PrimFunc) -> PrimFunc:
    return default_schedule(func.replace(attrs={"name": "kernel"}), ARM).func


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def _hot_loop(assembly: str) -> str:
    """The innermost loop with the most multiply-adds: between a label and a branch back to it."""
    loops = re.findall(r"^(\.\w+):[^\n]*\n((?:(?!^\.\w+:).*\n)*?\s+b\.\w+\s+\1)", assembly, re.M)
    return max((body for _, body in loops), key=lambda body: body.count("fmla"))


def product(m: int, n: int, k: int) -> PrimFunc:
    """A matrix product and a ReLU."""
    a, b = te.placeholder((m, k), name="A"), te.placeholder((k, n), name="B")
    r = te.reduce_axis(k, "k")
    c = te.compute((m, n), lambda i, j: te.sum(a[i, r] * b[r, j], axis=r), name="C")
    d = te.compute((m, n), lambda i, j: maximum(c[i, j], const(0, "float32")), name="D")
    return te.create_prim_func([a, b, d])


@pytest.mark.parametrize("size", [(48, 64, 96), (13, 37, 29), (1, 50, 40)])
def test_products(size: tuple[int, int, int], tmp_path: Path) -> None:
    m, n, k = size
    a, b = _random(m, k), _random(k, n)
    out, _ = run_on_arm(_named(product(m, n, k)), [a, b], np.zeros((m, n), "f4"), ARM, tmp_path)
    # float32 sums of fewer than a hundred terms of size 1.
    np.testing.assert_allclose(out, np.maximum(a @ b, 0), rtol=1e-5, atol=1e-5)


def test_the_hot_loop_of_a_product(tmp_path: Path) -> None:
    """Register tiles: many multiply-adds a load, and no accumulator goes through memory."""
    a, b = _random(64, 256), _random(256, 96)
    func = _named(product(64, 96, 256))
    _, assembly = run_on_arm(func, [a, b], np.zeros((64, 96), "f4"), ARM, tmp_path)
    hot = _hot_loop(assembly)
    multiply_adds = len(re.findall(r"\bfmla\s", hot))
    loads = len(re.findall(r"\b(?:ld1r?|ldr|ldp|ldur)\b", hot))
    stores = len(re.findall(r"\b(?:st1|str|stp|stur)\b", hot))
    assert multiply_adds >= 16
    assert multiply_adds >= 2 * loads
    assert stores == 0


@pytest.mark.parametrize("size, stride", [(14, 1), (9, 2)])
def test_convolutions(size: int, stride: int, tmp_path: Path) -> None:
    block = ARM.vector_lanes(32)
    operator: Op = op.get("conv2d_nchwc")
    x, w = _random(1, 3, size, size, block), _random(4, 3, 3, 3, block, block)
    types = [TensorType(array.shape, "float32") for array in (x, w)]
    attrs = operator.canonical_attrs([*types, None], {"strides": (stride,) * 2, "pads": (1,) * 4})
    inputs = [te.placeholder(array.shape, name=name) for name, array in (("X", x), ("W", w))]
    made = operator.get_rule("compute")(*inputs, None, **attrs)
    want = operator.get_rule("numpy")(x, w, None, **attrs)
    func = _named(te.create_prim_func([*inputs, made]))
    out, _ = run_on_arm(func, [x, w], np.zeros(want.shape, "f4"), ARM, tmp_path)
    np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-4)


def test_softmax(tmp_path: Path) -> None:
    x = te.placeholder((7, 19), name="X")
    r, s = te.reduce_axis(19, "r"), te.reduce_axis(19, "s")
    top = te.compute((7,), lambda i: te.max(x[i, r], axis=r), name="M")
    power = te.compute((7, 19), lambda i, j: exp(x[i, j] - top[i]), name="E")
    total = te.compute((7,), lambda i: te.sum(power[i, s], axis=s), name="S")
    y = te.compute((7, 19), lambda i, j: power[i, j] / total[i], name="Y")
    values = _random(7, 19)
    func = _named(te.create_prim_func([x, y]))
    out, _ = run_on_arm(func, [values], np.zeros_like(values), ARM, tmp_path)
    powers = np.exp(values.astype(np.float64))
    np.testing.assert_allclose(out, powers / powers.sum(1, keepdims=True), rtol=1e-5)
