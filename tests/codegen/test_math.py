# SPDX-License-Identifier: Apache-2.0
"""The stated errors of the elementary functions, over the whole range of float32."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from heddle.codegen import Kernel, build_kernel
from heddle.ir.dtype import DType
from heddle.ir.expr import Call, Var
from heddle.target import Target, parse
from heddle.tir import ForKind, decl_buffer, load, loop, make_block, prim_func, store

SIZE = 1 << 16
# Largest error in units in the last place; the table in codegen/llvm/math.py states the same.
LIMITS = {
    "exp": 1.0,
    "exp_normal": 1.0,
    "exp2": 2.0,
    "expm1": 2.0,
    "log": 1.0,
    "log2": 2.0,
    "log1p": 2.0,
    "tanh": 2.0,
    "sigmoid": 3.0,
    "erf": 2.0,
    "sin": 1.0,
    "cos": 1.0,
    "pow": 1.0,
}
FLOAT32_TINY = float(np.finfo(np.float32).tiny)
_erf = np.vectorize(math.erf, otypes=[np.float64])
REFERENCE: dict[str, Callable[..., np.ndarray]] = {
    "exp": np.exp,
    "exp_normal": lambda x: np.where(np.exp(x) < FLOAT32_TINY, 0, np.exp(x)),
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log2": np.log2,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sigmoid": lambda x: np.exp(-np.logaddexp(0.0, -x)),
    "erf": _erf,
    "sin": np.sin,
    "cos": np.cos,
    "pow": np.power,
}


def elementwise(name: str, arity: int, size: int, target: Target, dtype: str = "float32") -> Kernel:
    """`out[i] = name(a[i], ...)` as one vectorized loop inside a serial one."""
    buffers = [decl_buffer((size,), dtype, f"a{place}") for place in range(arity)]
    out = decl_buffer((size,), dtype, "out")
    outer, inner = Var("o"), Var("i")
    lanes = 64
    index = outer * lanes + inner
    args = tuple(load(buffer, index) for buffer in buffers)
    body = store(out, Call(name, args, DType.of(dtype)), index)
    nest = loop(outer, size // lanes, loop(inner, lanes, body, ForKind.VECTORIZED))
    block = make_block("b", [], nest, reads=[], writes=[])
    return build_kernel(prim_func([*buffers, out], block, name=f"k_{name}"), target)


def every_kind_of_float(rng: np.random.Generator, size: int) -> np.ndarray:
    """Floats with uniform bits (so every exponent), usual sizes, and the special values."""
    bits = rng.integers(0, 1 << 32, size, dtype=np.uint32).view(np.float32)
    usual = rng.uniform(-10, 10, size // 2).astype(np.float32)
    narrow = rng.normal(0, 0.7, size // 4).astype(np.float32)
    edge = rng.uniform(-110, 95, size // 8).astype(np.float32)
    values = bits.copy()
    values[: size // 2] = usual
    values[size // 2 : size // 2 + size // 4] = narrow
    values[-size // 8 :] = edge
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.17e-38, 3.4e38, 1.0, -1.0, 0.5]
    values[: len(special)] = np.array(special, np.float32)
    return values


def ulp_error(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distance from the exact float64 result in units in the last place of float32."""
    with np.errstate(all="ignore"):
        nearest = exact.astype(np.float32)
        spacing = np.spacing(np.minimum(np.abs(nearest), np.float32(3.4e38))).astype(np.float64)
        error = np.abs(got.astype(np.float64) - exact) / spacing
    same = (got == nearest) | (np.isnan(got) & np.isnan(nearest))
    return np.where(same, 0.0, error)


@pytest.mark.parametrize("cpu", ["native", "haswell", "x86-64"])
@pytest.mark.parametrize("name", LIMITS)
def test_error_in_ulp(name: str, cpu: str, rng: np.random.Generator) -> None:
    arity = 2 if name == "pow" else 1
    kernel = elementwise(name, arity, SIZE, parse(cpu if cpu == "native" else f"-mcpu={cpu}"))
    inputs = [every_kind_of_float(rng, SIZE) for _ in range(arity)]
    if name == "pow":
        rng.shuffle(inputs[1])
    out = np.empty(SIZE, np.float32)
    kernel(*inputs, out)
    with np.errstate(all="ignore"):
        exact = REFERENCE[name](*(value.astype(np.float64) for value in inputs))
    error = ulp_error(out, exact)
    worst = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
    allowed = LIMITS[name] + (1.0 if cpu == "x86-64" else 0.0)
    given = [float(value[worst]) for value in inputs]
    assert error[worst] <= allowed, f"{name}{given} = {out[worst]}, exact {exact[worst]}"
