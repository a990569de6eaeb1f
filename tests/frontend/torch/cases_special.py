# SPDX-License-Identifier: Apache-2.0
"""Special functions, whole numbers and bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from tests.frontend.torch.case import ALL_FLOATS, FLOATS, Case, Spec, b, f, i


def _functions() -> list[Case]:
    cases = [
        Case(name, function, (f(3, 7, low=low, high=high),), ALL_FLOATS)
        for name, function, low, high in (
            ("lgamma", torch.lgamma, 0.05, 12.0),
            ("digamma", torch.digamma, 0.2, 12.0),
            ("trigamma", lambda x: torch.polygamma(1, x), 0.3, 12.0),
            ("polygamma 0", lambda x: torch.polygamma(0, x), 0.3, 12.0),
            ("polygamma 3", lambda x: torch.polygamma(3, x), 0.4, 12.0),
            ("erfinv", torch.erfinv, -0.99, 0.99),
        )
    ]
    cases += [
        Case(f"{n} below zero", g, (f(5, low=-3.9, high=-3.1),), (torch.float32, torch.float64))
        for n, g in (("lgamma", torch.lgamma), ("digamma", torch.digamma))
    ]
    cases += [
        Case("lgamma of integers", torch.lgamma, (i(5, low=1, high=9),)),
        Case("mvlgamma", lambda x: torch.mvlgamma(x, 3), (f(5, low=2.0, high=9.0),)),
        Case("multigammaln", lambda x: torch.special.multigammaln(x, 2), (f(4, low=2.0, high=5),)),
    ]
    return cases


def _frequencies(n: int) -> Callable[..., Any]:
    return lambda x: (x * torch.fft.fftfreq(n, 0.5), x * torch.fft.rfftfreq(n))


def _average(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, divisor_override=5)


def _integers() -> list[Case]:
    cases = []
    for kind in (torch.int64, torch.int32, torch.int16, torch.uint8):
        both = (i(4, 5, low=-60, high=60, dtype=kind), i(5, low=-60, high=60, dtype=kind))
        cases += [
            Case(f"{name} {kind}", function, both)
            for name, function in (("gcd", torch.gcd), ("lcm", torch.lcm))
        ]
    cases += [
        Case("fmax", lambda x, y: torch.fmax(x.log(), y.log()), (f(4, 5), f(5))),
        Case("fmin", lambda x, y: torch.fmin(x.log(), y.log()), (f(4, 5), f(5))),
        Case("fmax of integers", torch.fmax, (i(4), i(4))),
        Case("masked scatter broadcast", torch.masked_scatter, (f(5), b(4, 5), f(20))),
        *(Case(f"fftfreq {n}", _frequencies(n), (f(1),)) for n in (1, 5, 8)),
        Case("round decimals", lambda x: (x * 99).round(decimals=2), (f(4, 5),), FLOATS),
        Case("round tens", lambda x: (x * 99).round(decimals=-1), (f(4, 5),)),
        Case("angle of real", lambda x: torch.angle(x.log().nan_to_num(-1.0)), (f(4, 5),)),
        Case("shifted one", lambda x: 1 << x, (i(4, 5),)),
        Case("truth added", lambda x, m: x.index_put((m,), ~x[:1], True), (b(4), b(4))),
        Case("norm 0 0-d", lambda x: torch.linalg.vector_norm(x, 0), (f(),)),
        Case("dist", torch.dist, (f(4, 5), f(5))),
        Case("dist 1", lambda x, y: torch.dist(x, y, 1.0), (f(4, 5), f(4, 5))),
        Case("copy of a permutation", lambda x: torch.permute_copy(x, (1, 0)), (f(4, 5),)),
        Case("average with divisor", _average, (f(1, 2, 7, 8),)),
        Case("gcd of zeros", torch.gcd, (i(3, high=0), i(3, high=0))),
        Case("lcm of zeros", torch.lcm, (i(3, high=1), i(3, high=0))),
        Case("gcd of two dtypes", torch.gcd, (i(3, 1, high=60, dtype=torch.int32), i(4, high=60))),
    ]
    return cases


def _bits() -> list[Case]:
    def view(kind: torch.dtype) -> object:
        return lambda x: x.view(kind)

    kinds = (
        (torch.float32, torch.int32),
        (torch.float32, torch.int16),
        (torch.float32, torch.uint8),
        (torch.float32, torch.bfloat16),
        (torch.float64, torch.int32),
        (torch.bfloat16, torch.int16),
        (torch.float16, torch.bfloat16),
        (torch.int64, torch.int8),
        (torch.int64, torch.int32),
        (torch.int32, torch.int64),
        (torch.int16, torch.int32),
        (torch.uint8, torch.int64),
        (torch.bool, torch.uint8),
    )
    cases = [
        Case(f"bits of {a} as {c}", view(c), (Spec((3, 8), a, -90, 90),))  # type: ignore[arg-type]
        for a, c in kinds
    ]
    cases += [
        Case("bits there and back", lambda x: (x.view(torch.int32) + 1).view(x.dtype), (f(3, 4),)),
        Case("bytes there and back", lambda x: x.view(torch.uint8).view(torch.float32), (f(5),)),
        Case("exponent", lambda x: (x.view(torch.int32) >> 23) & 0xFF, (f(9),)),
        Case("a bit", lambda x: x.view(torch.int32).bitwise_and(1), (f(),)),
    ]
    return cases


CASES = (*_functions(), *_integers(), *_bits())
