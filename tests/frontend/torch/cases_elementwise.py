# SPDX-License-Identifier: Apache-2.0
"""Elementwise operators, activations and reductions."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from tests.frontend.torch.case import ALL_FLOATS, FLOATS, INTS, NUMBERS, Case, Spec, b, f, i

_UNARY = (
    *("abs", "ceil", "floor", "neg", "round", "sign", "trunc", "square", "frac", "sgn"),
    *("cos", "cosh", "erf", "exp", "sigmoid", "sin", "sinh", "tan", "tanh", "atan", "asinh"),
    *("expm1", "exp2", "isnan", "isinf", "isfinite", "relu", "signbit"),
)
_POSITIVE = ("log", "log2", "log10", "log1p", "rsqrt", "sqrt", "reciprocal", "acosh")
_BINARY = ("add", "sub", "mul", "maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge")


def _pointwise() -> list[Case]:
    cases = [Case(n, getattr(torch, n), (f(3, 4),), FLOATS) for n in _UNARY]
    cases += [
        Case(f"{n} every float", getattr(torch, n), (f(9),), ALL_FLOATS) for n in ("exp", "erf")
    ]
    cases += [Case(n, getattr(torch, n), (f(3, 4, low=1.1, high=3.0),), FLOATS) for n in _POSITIVE]
    cases += [
        Case(n, getattr(torch, n), (f(7, low=-0.99, high=0.99),), FLOATS)
        for n in ("acos", "asin", "atanh", "log1p", "expm1")
    ]
    cases += [
        Case(f"{n} of integers", getattr(torch, n), (f(5, low=1, high=4),), INTS)
        for n in ("exp", "sqrt", "sigmoid", "reciprocal")
    ]
    cases += [
        Case(f"{n} of integers", getattr(torch, n), (f(5),), (torch.int64, torch.uint8))
        for n in ("abs", "neg", "sign", "floor", "square", "isnan", "isinf", "isfinite")
    ]
    for n in _BINARY:
        function = getattr(torch, n)
        cases += [
            Case(n, function, (f(3, 4), f(3, 4)), NUMBERS),
            Case(f"{n} broadcast", function, (f(3, 1), f(2, 1, 4))),
            Case(f"{n} 0-d", function, (f(), f(2))),
            Case(f"{n} empty", function, (f(0, 3), f(3))),
        ]
    mixed = [
        ("int and float", i(3, high=9), f(3)),
        ("int32 and int64", i(3, dtype=torch.int32), i(3)),
        ("uint8 and int8", i(3, dtype=torch.uint8), i(3, low=-3, dtype=torch.int8)),
        ("bool and int", b(3), i(3)),
        ("0-d double and float", Spec((), torch.float64), f(3)),
        ("0-d int and half", i(), Spec((3,), torch.float16)),
        ("half and float", Spec((3,), torch.float16), f(3)),
        ("bfloat16 and half", Spec((3,), torch.bfloat16), Spec((3,), torch.float16)),
        ("bools", b(4), b(4)),
    ]
    for text, left, right in mixed:
        cases.append(Case(f"mul {text}", torch.mul, (left, right)))
        cases.append(Case(f"add {text}", torch.add, (left, right)))
        cases.append(Case(f"lt {text}", torch.lt, (left, right)))
    return cases


def _with_numbers() -> list[Case]:
    rows: list[tuple[str, Callable[..., Any]]] = [
        ("x + 1", lambda x: x + 1),
        ("x + 1.5", lambda x: x + 1.5),
        ("2 - x", lambda x: 2 - x),
        ("x * 0.1", lambda x: x * 0.1),
        ("x * True", lambda x: x * True),
        ("x / 3", lambda x: x / 3),
        ("1 / (x + 7)", lambda x: 1 / (x + 7)),
        ("x // 2", lambda x: x // 2),
        ("x % 3", lambda x: x % 3),
        ("x > 0.5", lambda x: x > 0.5),
        ("x == 1", lambda x: x == 1),
        ("x ** 2", lambda x: x**2),
        ("x ** 3", lambda x: x**3),
        ("2 ** x", lambda x: 2**x),
        ("clamp", lambda x: torch.clamp(x, 0, 1)),
        ("clamp min", lambda x: torch.clamp(x, min=1)),
        ("clamp max float", lambda x: torch.clamp(x, max=0.5)),
        ("add alpha", lambda x: torch.add(x, x, alpha=2)),
        ("rsub", lambda x: torch.rsub(x, 3)),
        ("where number", lambda x: torch.where(x > 0, x, 0)),
        ("masked_fill", lambda x: x.masked_fill(x > 0, 1)),
        ("fmod", lambda x: torch.fmod(x, 2)),
        ("full_like", lambda x: torch.full_like(x, 3)),
        ("zeros_like", torch.zeros_like),
        ("to float", lambda x: x.float()),
        ("to int", lambda x: x.int()),
        ("to bool", lambda x: x.bool()),
        ("to double", lambda x: x.double()),
    ]
    cases = [Case(n, g, (f(3, 4),), NUMBERS) for n, g in rows]
    floats: list[tuple[str, Callable[..., Any]]] = [
        ("x ** 0.5", lambda x: (x + 3) ** 0.5),
        ("x ** -0.5", lambda x: (x + 3) ** -0.5),
        ("x ** -1", lambda x: (x + 3) ** -1),
        ("x ** 2.5", lambda x: (x + 3) ** 2.5),
        ("floor_divide", lambda x: torch.floor_divide(x, 0.3)),
        ("div floor", lambda x: torch.div(x, 0.7, rounding_mode="floor")),
        ("div trunc", lambda x: torch.div(x, 0.7, rounding_mode="trunc")),
    ]
    cases += [Case(n, g, (f(3, 4),), (torch.float32, torch.bfloat16)) for n, g in floats]
    ints: list[tuple[str, Callable[..., Any]]] = [
        ("floor_divide ints", lambda x: torch.floor_divide(x, -3)),
        ("remainder ints", lambda x: torch.remainder(x, -3)),
        ("div trunc ints", lambda x: torch.div(x, 3, rounding_mode="trunc")),
        ("shift left", lambda x: x << 2),
        ("shift right", lambda x: x >> 1),
        ("and", lambda x: x & 6),
        ("or", lambda x: x | 1),
        ("xor", lambda x: x ^ 5),
        ("invert", lambda x: ~x),
        ("logical_not", torch.logical_not),
    ]
    cases += [Case(n, g, (i(6, low=-9, high=9),)) for n, g in ints]
    return cases


def _activations() -> list[Case]:
    rows: list[tuple[str, Callable[..., Any]]] = [
        ("gelu", F.gelu),
        ("gelu tanh", lambda x: F.gelu(x, approximate="tanh")),
        ("silu", F.silu),
        ("mish", F.mish),
        ("elu", lambda x: F.elu(x, 1.5)),
        ("selu", F.selu),
        ("celu", lambda x: F.celu(x, 0.7)),
        ("leaky_relu", lambda x: F.leaky_relu(x, 0.2)),
        ("relu6", lambda x: F.relu6(x * 5)),
        ("hardtanh", F.hardtanh),
        ("hardsigmoid", lambda x: F.hardsigmoid(x * 3)),
        ("hardswish", lambda x: F.hardswish(x * 3)),
        ("softplus", F.softplus),
        ("softplus beta", lambda x: F.softplus(x, beta=2.0, threshold=1.0)),
        ("logsigmoid", F.logsigmoid),
        ("softshrink", F.softshrink),
        ("hardshrink", F.hardshrink),
        ("tanhshrink", F.tanhshrink),
        ("threshold", lambda x: F.threshold(x, 0.1, 7.0)),
        ("softsign", F.softsign),
        ("glu", lambda x: F.glu(x, -1)),
        ("softmax", lambda x: F.softmax(x, -1)),
        ("softmax first", lambda x: F.softmax(x, 0)),
        ("log_softmax", lambda x: F.log_softmax(x, 1)),
        ("normalize", lambda x: F.normalize(x, dim=1)),
    ]
    cases = [Case(n, g, (f(3, 4),), FLOATS) for n, g in rows]
    cases += [
        Case("prelu", F.prelu, (f(2, 3, 4), f(3))),
        Case("prelu one", F.prelu, (f(2, 3), f(1))),
        Case("atan2", torch.atan2, (f(20), f(20))),
        Case("copysign", torch.copysign, (f(5), f(5))),
        Case("hypot", torch.hypot, (f(5), f(5))),
        Case("lerp", lambda a, c: torch.lerp(a, c, 0.3), (f(5), f(5))),
        Case("addcmul", lambda a, c, d: torch.addcmul(a, c, d, value=0.5), (f(5), f(5), f(5))),
        Case("addcdiv", lambda a, c, d: torch.addcdiv(a, c, d + 4), (f(5), f(5), f(5))),
        Case("where", torch.where, (b(3, 1), f(3, 4), f(4))),
        Case("where promotes", torch.where, (b(3), i(3), f(3))),
        Case("logical_and", torch.logical_and, (i(6), f(6))),
        Case("logical_xor", torch.logical_xor, (b(6), b(6))),
        Case(
            "softmax of half in float",
            lambda x: F.softmax(x, -1, dtype=torch.float32),
            (Spec((3, 4), torch.float16),),
        ),
        Case("softmax 0-d", lambda x: F.softmax(x, 0), (f(),)),
    ]
    return cases


def _reductions() -> list[Case]:
    rows: list[tuple[str, Callable[..., Any]]] = [
        ("sum", torch.sum),
        ("sum dim", lambda x: x.sum(1)),
        ("sum keepdim", lambda x: x.sum((0, -1), keepdim=True)),
        ("sum dtype", lambda x: x.sum(0, dtype=torch.float64)),
        ("prod", torch.prod),
        ("prod dim", lambda x: x.prod(-1)),
        ("amax", lambda x: x.amax(-1)),
        ("amin", lambda x: x.amin((0, 1), keepdim=True)),
        ("max", torch.max),
        ("min", torch.min),
        ("max dim", lambda x: tuple(torch.max(x, 1))),
        ("min dim", lambda x: tuple(torch.min(x, 0, keepdim=True))),
        ("argmax", torch.argmax),
        ("argmax dim", lambda x: x.argmax(-1)),
        ("argmin dim", lambda x: x.argmin(0, keepdim=True)),
        ("any", torch.any),
        ("all dim", lambda x: x.all(1)),
        ("cumsum", lambda x: x.cumsum(1)),
        ("cumprod", lambda x: x.cumprod(0)),
        ("topk", lambda x: torch.topk(x, 2)[0]),
        ("sort", lambda x: torch.sort(x, dim=0)[0]),
        ("sort descending", lambda x: torch.sort(x, descending=True)[0]),
    ]
    dtypes = (torch.float32, torch.bfloat16, torch.int32, torch.bool)
    cases = [
        Case(n, g, (f(2, 3, 4),), dtypes[:3] if "topk" in n or "arg" in n else dtypes)
        for n, g in rows
    ]
    floats: list[tuple[str, Callable[..., Any]]] = [
        ("mean", torch.mean),
        ("mean dim", lambda x: x.mean((1, -1))),
        ("var", torch.var),
        ("var dim", lambda x: x.var(1, correction=0)),
        ("std keepdim", lambda x: x.std(-1, keepdim=True)),
        ("var_mean", lambda x: torch.var_mean(x, (0, 2))),
        ("logsumexp", lambda x: torch.logsumexp(x, 1)),
        ("norm", torch.linalg.vector_norm),
        ("norm 1", lambda x: torch.linalg.vector_norm(x, 1, dim=1)),
        ("norm 3", lambda x: torch.linalg.vector_norm(x, 3, dim=(0, 1), keepdim=True)),
        ("norm inf", lambda x: torch.linalg.vector_norm(x, float("inf"), dim=1)),
        ("norm 0", lambda x: torch.linalg.vector_norm(x, 0, dim=1)),
        ("logcumsumexp by hand", lambda x: x.exp().cumsum(-1).log()),
    ]
    cases += [Case(n, g, (f(2, 3, 4),), FLOATS) for n, g in floats]
    cases += [
        Case("sum 0-d", torch.sum, (f(),)),
        Case("sum empty", lambda x: x.sum(0), (f(0, 3),)),
        Case("mean 0-d", torch.mean, (f(),)),
        Case("max 0-d", torch.max, (f(),)),
        Case("cumsum 0-d", lambda x: x.cumsum(0), (f(),)),
        Case("argsort", lambda x: torch.argsort(x, -1), (f(3, 7),)),
        Case("topk indices", lambda x: torch.topk(x, 3, dim=0)[1], (f(7, 3),)),
        Case("topk smallest", lambda x: torch.topk(x, 3, largest=False)[0], (f(7),)),
    ]
    return cases


CASES = (*_pointwise(), *_with_numbers(), *_activations(), *_reductions())
