# SPDX-License-Identifier: Apache-2.0
"""Complex numbers and Fourier transforms. Inputs and results are real: pairs of parts."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.frontend.torch.case import Case, f, i

DOUBLES = (torch.float32, torch.float64)


def _real(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The parts of a complex result, side by side."""
    return lambda *xs: torch.view_as_real(function(*xs))


def _of_pairs(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A function of complex numbers as one of pairs."""

    def pairs(*xs: torch.Tensor) -> torch.Tensor:
        result = function(*(torch.view_as_complex(x) for x in xs))
        return torch.view_as_real(result) if result.is_complex() else result

    return pairs


def _transforms() -> list[Case]:
    fft = torch.fft
    rows: list[tuple[str, Callable[..., torch.Tensor], tuple[int, ...]]] = [
        ("rfft", _real(fft.rfft), (3, 8)),
        ("rfft odd", _real(fft.rfft), (3, 7)),
        ("rfft one", _real(fft.rfft), (3, 1)),
        ("rfft of another axis", _real(lambda x: fft.rfft(x, dim=0)), (6, 3)),
        ("rfft padded", _real(lambda x: fft.rfft(x, n=12)), (3, 8)),
        ("rfft cut", _real(lambda x: fft.rfft(x, n=5)), (3, 8)),
        ("rfft long", _real(fft.rfft), (2, 360)),
        ("rfft prime", _real(fft.rfft), (2, 257)),
        ("fft", _real(fft.fft), (3, 8)),
        ("fft long", _real(fft.fft), (2, 135)),
        ("ifft", _real(lambda x: fft.ifft(fft.fft(x) * 1j)), (3, 9)),
        ("fft2 ortho", _real(lambda x: fft.fft2(x, norm="ortho")), (2, 4, 6)),
        ("fftn forward", _real(lambda x: fft.fftn(x, norm="forward")), (3, 4, 5)),
        ("rfftn", _real(fft.rfftn), (3, 4, 5)),
        ("irfft", lambda x: fft.irfft(fft.rfft(x)), (3, 8)),
        ("irfft odd", lambda x: fft.irfft(fft.rfft(x), n=7), (3, 7)),
        ("irfft long", lambda x: fft.irfft(fft.rfft(x) * 2, n=300), (2, 300)),
        ("irfft2", lambda x: fft.irfft2(fft.rfft2(x), s=(4, 6)), (2, 4, 6)),
        ("hfft", lambda x: fft.hfft(fft.fft(x)), (3, 5)),
        ("fftshift", lambda x: fft.fftshift(fft.fft(x)).abs(), (3, 8)),
        ("convolution", lambda x: fft.irfft2(fft.rfft2(x) * fft.rfft2(x[:1])), (2, 4, 8)),
    ]
    return [Case(name, function, (f(*shape),), DOUBLES) for name, function, shape in rows]


def _frames(x: torch.Tensor) -> torch.Tensor:
    return torch.stft(x, 16, 4, window=torch.hann_window(16), return_complex=True)


def _signals() -> list[Case]:
    def back(x: torch.Tensor) -> torch.Tensor:
        return torch.istft(_frames(x), 16, 4, window=torch.hann_window(16))

    def one_sided_off(x: torch.Tensor) -> torch.Tensor:
        window = torch.ones(8)
        return torch.stft(x, 8, window=window, onesided=False, center=False, return_complex=True)

    return [
        Case("stft", _real(_frames), (f(2, 64),)),
        Case("stft power", lambda x: _frames(x).abs() ** 2, (f(2, 64),)),
        Case("stft whole", _real(one_sided_off), (f(40),)),
        Case("istft", back, (f(2, 64),)),
    ]


def _arithmetic() -> list[Case]:
    a, b = f(3, 4, 2), f(4, 2, low=0.5)
    functions: list[tuple[str, Callable[..., torch.Tensor], tuple[object, ...]]] = [
        ("add", lambda x, y: torch.add(x, y, alpha=2), (a, b)),
        ("sub", lambda x, y: x - y, (a, b)),
        ("mul", lambda x, y: x * y, (a, b)),
        ("div", lambda x, y: x / y, (a, b)),
        ("numbers", lambda x: (2 - x * 3j) / (1 + 2j), (a,)),
        ("reciprocal", torch.reciprocal, (b,)),
        ("matmul", lambda x, y: x @ y.conj(), (a, b)),
        ("vdot", torch.vdot, (b, b)),
        ("abs", torch.abs, (a,)),
        ("angle", torch.angle, (a,)),
        ("sgn", torch.sgn, (a,)),
        ("exp", torch.exp, (a,)),
        ("log", torch.log, (b,)),
        ("sin", torch.sin, (a,)),
        ("cos", torch.cos, (a,)),
        ("power", lambda x: x**3, (a,)),
        ("sum", lambda x: x.sum(0), (a,)),
        ("mean", lambda x: x.mean(), (a,)),
        ("view", lambda x: x.reshape(2, 6).T.flip(0)[1:, None], (a,)),
        ("cat", lambda x, y: torch.cat([x, y[None], torch.ones(1, 4)]), (a, b)),
        ("where", lambda x, y: torch.where(x.real > 0, x, y), (a, b)),
        ("eq", lambda x, y: x == y, (a, b)),
        ("to real", lambda x: x.real * x.imag, (a,)),
        ("resolved", lambda x: x.conj().resolve_conj().clone(), (a,)),
    ]
    cases = [Case(f"complex {n}", _of_pairs(g), inputs) for n, g, inputs in functions]  # type: ignore[arg-type]
    index = _of_pairs(lambda x: x[torch.tensor([2, 0])])
    return [
        *cases,
        Case("complex index", index, (a,)),
        Case("complex of two", _real(torch.complex), (f(5), f(5))),
        Case("complex polar", _real(lambda x: torch.polar(x.abs(), x)), (f(5),)),
        Case("complex of integers", _real(lambda x: x * (1 + 2j)), (i(5),)),
        Case("complex rotation", _rotation, (f(2, 5, 8), f(5, 4))),
    ]


def _rotation(x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Rotary positions as Llama's reference code has them."""
    pairs = torch.view_as_complex(x.reshape(2, 5, 4, 2))
    turned = pairs * torch.polar(torch.ones_like(angle), angle)
    return torch.view_as_real(turned).flatten(2)


CASES = (*_transforms(), *_signals(), *_arithmetic())
