# SPDX-License-Identifier: Apache-2.0
"""Orders, searches, scatters that merge, masks that write, resizing that averages."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from tests.frontend.torch.case import FLOATS, Case, Spec, b, f, i


def _holed(x: torch.Tensor) -> torch.Tensor:
    """x[3, 4] with what is not a number in one column."""
    return x * torch.tensor([1.0, 1.0, float("nan"), 1.0])


def _orders() -> list[Case]:
    few = i(3, 9, high=4)
    rows: list[tuple[str, Callable[..., Any], tuple[Spec, ...]]] = [
        ("kthvalue", lambda x: x.kthvalue(2), (f(3, 5),)),
        ("kthvalue keepdim", lambda x: x.kthvalue(3, 0, True), (f(4, 5),)),
        ("median", torch.median, (f(3, 4),)),
        ("median dim", lambda x: x.median(1), (f(3, 5),)),
        ("median hole", lambda x: _holed(x).median(1, True), (f(3, 4),)),
        ("median of integers", lambda x: x.median(0).values, (few,)),
        ("nanmedian", lambda x: _holed(x).nanmedian(), (f(3, 4),)),
        ("nanmedian dim", lambda x: _holed(x).nanmedian(1), (f(3, 4),)),
        ("mode", lambda x: x.mode(1), (few,)),
        ("cummax", lambda x: x.cummax(1), (few,)),
        ("cummin", lambda x: x.cummin(0), (f(5, 3),)),
        ("cummax hole", lambda x: _holed(x).cummax(1), (f(3, 4),)),
        ("logcumsumexp", lambda x: x.logcumsumexp(1), (f(3, 7),)),
        ("logcumsumexp nothing", lambda x: x.log().logcumsumexp(0), (i(5, high=1),)),
        ("histc", lambda x: torch.histc(x, 5, -1, 1), (f(40),)),
        ("histc of all", lambda x: torch.histc(x, 4), (f(40),)),
    ]
    borders = f(4)
    rows += [
        ("bucketize", lambda x, e: torch.bucketize(x, e.sort().values), (f(3, 5), borders)),
        (
            "bucketize right",
            lambda x: torch.bucketize(x, torch.tensor([0, 1, 1, 3]), right=True, out_int32=True),
            (i(7),),
        ),
        (
            "searchsorted rows",
            lambda e, x: torch.searchsorted(e.sort(1).values, x, side="right"),
            (f(3, 4), f(3, 5)),
        ),
        (
            "searchsorted with an order",
            lambda e, x: torch.searchsorted(e, x, sorter=e.argsort()),
            (f(6), f(2, 3)),
        ),
        ("searchsorted number", lambda e: torch.searchsorted(e.sort().values, 0.5), (f(6),)),
    ]
    return [Case(*row) for row in rows]


def _scatters() -> list[Case]:
    cases = []
    for how in ("sum", "prod", "mean", "amax", "amin"):
        for own in (True, False):

            def merge(
                x: torch.Tensor, at: torch.Tensor, s: torch.Tensor, how: str = how, own: bool = own
            ) -> torch.Tensor:
                return x.scatter_reduce(0, at, s, how, include_self=own)

            name = f"scatter_reduce {how} {'with' if own else 'without'} self"
            cases.append(Case(name, merge, (f(4, 3), i(5, 3, high=2), f(5, 3))))
            cases.append(
                Case(f"{name} int", merge, (i(4, low=-9), i(6, high=2), i(6, low=-5, high=5)))
            )

    def reduce_rows(x: torch.Tensor, at: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "index_reduce() is in beta"
            return x.index_reduce(1, at, s, "mean", include_self=False)

    return [
        *cases,
        Case("index_reduce", reduce_rows, (f(2, 4, 3), i(5, high=2), f(2, 5, 3))),
        Case("put", lambda x, at, s: x.put(at, s), (f(3, 4), Spec((0,), torch.int64), f(0))),
        Case("put added", lambda x, at, s: x.put(at, s, True), (f(3, 4), i(5, high=11), f(5))),
        Case("as_strided_scatter", _strided, (f(20), f(3, 3))),
        Case("as_strided written", _written, (f(20),)),
        Case("diagonal_scatter", lambda x, s: x.diagonal_scatter(s, 1), (f(4, 5), f(4))),
        Case(
            "diagonal_scatter of planes",
            lambda x, s: x.diagonal_scatter(s, -1, 0, 2),
            (f(4, 2, 5), f(2, 3)),
        ),
    ]


def _strided(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    return torch.as_strided_scatter(x, s, (3, 3), (4, 1), 2)


def _written(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y.as_strided((3, 3), (5, 2), 1).mul_(2.0)
    return y


def _masks() -> list[Case]:
    def some() -> torch.Tensor:
        return torch.tensor([True, False, True, True])

    def put(x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[some()] = v
        return y

    def put_columns(x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[:, some()] = v
        return y

    return [
        Case("mask put rows", put, (f(4, 5), f(3, 5))),
        Case("mask put one row", put, (f(4, 5), f(5))),
        Case("mask put one number", put, (f(4, 5), f(1))),
        Case("mask put columns", put_columns, (f(2, 4, 3), f(2, 3, 3))),
        Case("mask put one column", put_columns, (f(2, 4, 3), f(3))),
        Case(
            "mask added",
            lambda x, m, v: x.index_put((m,), v, accumulate=True),
            (f(4, 5), b(4, 5), f(1)),
        ),
        Case(
            "mask accumulated",
            lambda x, m, v: x.index_put((m,), v, accumulate=True),
            (f(4, 5), b(4), f(5)),
        ),
    ]


def _layers() -> list[Case]:
    def resized(**how: Any) -> Callable[..., torch.Tensor]:
        return lambda x: F.interpolate(x, antialias=True, **how)

    def fake(x: torch.Tensor) -> torch.Tensor:
        return torch.fake_quantize_per_tensor_affine(x, 0.03, 3, -20, 40)

    def fake_rows(x: torch.Tensor) -> torch.Tensor:
        scale, zero = torch.tensor([0.1, 0.02]), torch.tensor([0, 5], dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(x, scale, zero, 1, -20, 40)

    image = (f(1, 2, 8, 9),)
    cases = [
        Case("antialias", resized(size=(3, 4), mode="bilinear"), image),
        Case("antialias larger", resized(size=(11, 4), mode="bilinear"), image),
        Case("antialias cubic", resized(scale_factor=0.4, mode="bicubic"), image),
        Case("antialias corners", resized(size=(3, 5), mode="bicubic", align_corners=True), image),
        Case("adaptive max", lambda x: F.adaptive_max_pool2d(x, (3, 4), True), image),
        Case("adaptive max 1d", lambda x: F.adaptive_max_pool1d(x, 3, True), (f(2, 3, 8),)),
        Case("adaptive max 3d", lambda x: F.adaptive_max_pool3d(x, (2, 3, 1)), (f(1, 5, 4, 3, 2),)),
        Case("fake quantisation", fake, (f(3, 4),)),
        Case("fake quantisation of rows", fake_rows, (f(3, 2, 4),)),
        Case("bilinear", F.bilinear, (f(3, 4), f(3, 5), f(6, 4, 5), f(6))),
        Case("addbmm", lambda c, x, y: c.addbmm(x, y, beta=2), (f(3, 5), f(2, 3, 4), f(2, 4, 5))),
        Case("ldexp", lambda x, e: torch.ldexp(x, e), (f(3, 4), i(4, low=-3)), FLOATS),
        Case("rrelu", F.rrelu, (f(3, 4),)),
        Case(
            "product of int8",
            lambda x: torch._int_mm(x, x.T),
            (i(32, 32, low=-9, dtype=torch.int8),),
        ),
        Case("triangle", lambda x: x[tuple(torch.tril_indices(3, 4, -1))], (f(3, 4),)),
        Case("upper triangle", lambda x: x[tuple(torch.triu_indices(3, 4, 1))], (f(3, 4),)),
    ]
    for align in (False, True):

        def sample(x: torch.Tensor, g: torch.Tensor, align: bool = align) -> torch.Tensor:
            return F.grid_sample(x, g, mode="bicubic", padding_mode="border", align_corners=align)

        cases.append(
            Case(f"grid cubic border {align}", sample, (f(1, 2, 5, 6), f(1, 7, 7, 2, low=-1.6)))
        )
    return cases


CASES = (*_orders(), *_scatters(), *_masks(), *_layers())
