# SPDX-License-Identifier: Apache-2.0
"""How far compiled special functions are from the exact values, in units in the last place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from heddle import codegen, op, te
from heddle.target import native

mp = pytest.importorskip("mpmath")
COUNT = 200


def compiled(name: str, x: np.ndarray, **attrs: Any) -> np.ndarray:
    """The operator on x, as machine code."""
    given = te.placeholder(x.shape, str(x.dtype), name="x")
    (result,) = op.get(name).compute([given], attrs)
    kernel = codegen.build_kernel(te.create_prim_func([given, result], name=name), native())
    found = np.empty_like(x)
    kernel(x, found)
    return found


def worst(
    found: np.ndarray, x: np.ndarray, exact: Callable[[Any], Any], *, least: float = 0.0
) -> float:
    """The largest error, in units in the last place of the exact value, or of `least` where that
    is more."""
    largest = 0.0
    with mp.workdps(40):
        for value, argument in zip(found, x, strict=True):
            truth = mp.re(exact(mp.mpf(float(argument))))
            unit = np.spacing(found.dtype.type(max(abs(float(truth)), least)))
            largest = max(largest, float(abs(mp.mpf(float(value)) - truth) / float(unit)))
    return largest


def positive(rng: np.random.Generator, dtype: str) -> np.ndarray:
    """Positive numbers of all sizes, many of them near the zeros at 1, 1.46 and 2."""
    parts = [
        10 ** rng.uniform(-20, 20, COUNT),
        rng.uniform(0, 1, COUNT),
        rng.uniform(1, 3, COUNT),
        rng.uniform(3, 8, COUNT),
        rng.uniform(8, 40, COUNT),
        *(centre + rng.normal(0, 1e-3, COUNT) for centre in (1.0, 1.4616321, 2.0)),
    ]
    return np.concatenate(parts).astype(dtype)


def log_gamma(x: Any) -> Any:
    return mp.loggamma(x) if x > 0 else mp.log(abs(mp.gamma(x)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name, exact", [("lgamma", log_gamma), ("digamma", mp.digamma)])
def test_gamma(name: str, exact: Callable[[Any], Any], dtype: str) -> None:
    rng = np.random.default_rng(1)
    x = positive(rng, dtype)
    assert worst(compiled(name, x), x, exact) <= 4.0
    # Below zero both have zeros between all poles, beside which digits cancel.
    x = -rng.uniform(0, 30, COUNT).astype(dtype)
    assert worst(compiled(name, x), x, exact, least=1.0) <= 8.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", [1, 2, 4])
def test_polygamma(order: int, dtype: str) -> None:
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.uniform(0.01, 3, COUNT), rng.uniform(3, 300, COUNT)]).astype(dtype)
    found = compiled("polygamma", x, order=order)
    assert worst(found, x, lambda v: mp.polygamma(order, v)) <= 4 + 2 * order
    x = (-rng.integers(0, 6, COUNT) - rng.uniform(0.05, 0.95, COUNT)).astype(dtype)
    found = compiled("polygamma", x, order=order)
    scale = 2 * np.pi ** (order + 1)  # of the terms whose sum it is
    assert worst(found, x, lambda v: mp.polygamma(order, v), least=scale) <= 16 * order


@pytest.mark.parametrize("dtype, digits", [("float32", 7), ("float64", 15.5)])
def test_erfinv(dtype: str, digits: float) -> None:
    rng = np.random.default_rng(3)
    parts = [
        rng.uniform(-1, 1, COUNT),
        10 ** rng.uniform(-20, -1, COUNT),
        1 - 10 ** rng.uniform(-digits, -1, COUNT),
    ]
    x = np.concatenate(parts).astype(dtype)
    x = x[np.abs(x) < 1]
    assert worst(compiled("erfinv", x), x, mp.erfinv) <= 4.0
