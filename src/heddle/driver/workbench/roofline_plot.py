# SPDX-License-Identifier: Apache-2.0
"""The roofline of a machine with a kernel under it, as SVG that lives in a page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Final

from heddle.schedule.workbench.roofline import Machine

_WIDTH: Final = 780
_HEIGHT: Final = 430
_LEFT: Final = 62
_RIGHT: Final = 20
_TOP: Final = 24
_BOTTOM: Final = 48
_APART: Final = 1.4
"""How many times as high a roof must be for its label to stand clear of the next one's."""


class _Axes:
    """Logarithmic axes: operations per byte, and GFLOP/s."""

    def __init__(self, machine: Machine, intensity: float, reached: float | None) -> None:
        low = min(0.05, intensity / 4, machine.peak_gflops / max(machine.bandwidth.values()) / 4)
        ridge = machine.peak_gflops / min(machine.bandwidth.values())
        self.x = (math.log10(low), math.log10(max(ridge * 8, intensity * 4)))
        least = min(machine.bandwidth.values()) * low
        if reached:
            least = min(least, reached / 2)
        self.y = (math.log10(least), math.log10(machine.peak_gflops * 2))

    def at(self, intensity: float, gflops: float) -> tuple[float, float]:
        """The place of a point."""
        x = (math.log10(intensity) - self.x[0]) / (self.x[1] - self.x[0])
        y = (math.log10(gflops) - self.y[0]) / (self.y[1] - self.y[0])
        return (
            _LEFT + x * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - y * (_HEIGHT - _TOP - _BOTTOM),
        )


def roofline_svg(
    machine: Machine,
    *,
    intensity: float,
    source: str,
    reached: float | None,
) -> str:
    """The roofs, the highest point that a kernel of `intensity` can reach when its data comes from
    `source`, and the GFLOP/s that it reached."""
    axes = _Axes(machine, intensity, reached)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Roofline of the kernel">',
        *_grid(axes),
        *_roofs(axes, machine, source),
    ]
    limit = machine.attainable(intensity, source)
    x, y = axes.at(intensity, limit)
    floor = _HEIGHT - _BOTTOM
    parts.append(f'<line class="drop" x1="{x:.1f}" y1="{y:.1f}" x2="{x:.1f}" y2="{floor}"/>')
    parts.append(f'<circle class="limit" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
    if reached:
        x, y = axes.at(intensity, reached)
        share = reached / limit
        parts.append(f'<circle class="reached" cx="{x:.1f}" cy="{y:.1f}" r="6"/>')
        side = x > _WIDTH * 0.7
        anchor, shift = ("end", -12) if side else ("start", 12)
        parts.append(
            f'<text x="{x + shift:.1f}" y="{y + 16:.1f}" text-anchor="{anchor}">measured: '
            f"{reached:.3g} GFLOP/s, {share:.0%} of its roof</text>"
        )
    return "\n".join([*parts, "</svg>"])


def _grid(axes: _Axes) -> list[str]:
    parts = []
    floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for power in range(math.ceil(axes.x[0]), math.floor(axes.x[1]) + 1):
        x, _ = axes.at(10.0**power, 1.0)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{floor}"/>')
        parts.append(
            f'<text class="soft" x="{x:.1f}" y="{floor + 18}" text-anchor="middle">'
            f"{10.0**power:g}</text>"
        )
    for power in range(math.ceil(axes.y[0]), math.floor(axes.y[1]) + 1):
        _, y = axes.at(1.0, 10.0**power)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="soft" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
            f"{10.0**power:g}</text>"
        )
    parts.append(
        f'<text class="soft" x="{(_LEFT + right) / 2:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">'
        "operations per byte of the parameters</text>"
    )
    parts.append(f'<text class="soft" x="8" y="{_TOP - 10}">GFLOP/s</text>')
    return parts


def _roofs(axes: _Axes, machine: Machine, source: str) -> list[str]:
    parts = []
    low, high = 10 ** axes.x[0], 10 ** axes.x[1]
    widest = max(machine.bandwidth.values())
    labels = _labels(machine.bandwidth)
    for name, bandwidth in machine.bandwidth.items():
        ridge = machine.peak_gflops / bandwidth
        x1, y1 = axes.at(low, low * bandwidth)
        x2, y2 = axes.at(ridge, machine.peak_gflops)
        kind = "roof" if name == source else "thin"
        x1, y1 = _clip(x1, y1, x2, y2)
        parts.append(
            f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
        )
        if name not in labels:
            continue
        angle = math.degrees(math.atan2(y2 - y1, x2 - x1))
        x, y = x1 + 0.42 * (x2 - x1), y1 + 0.42 * (y2 - y1)
        parts.append(
            f'<text transform="translate({x:.1f} {y - 5:.1f}) rotate({angle:.1f})">'
            f"{escape(labels[name])} GB/s</text>"
        )
    x1, y = axes.at(machine.peak_gflops / widest, machine.peak_gflops)
    x2, _ = axes.at(high, machine.peak_gflops)
    parts.append(f'<line class="roof" x1="{x1:.1f}" y1="{y:.1f}" x2="{x2:.1f}" y2="{y:.1f}"/>')
    parts.append(
        f'<text x="{x2:.1f}" y="{y - 7:.1f}" text-anchor="end">multiply-add in float32: '
        f"{machine.peak_gflops:.0f} GFLOP/s</text>"
    )
    return parts


def _labels(bandwidth: Mapping[str, float]) -> dict[str, str]:
    """The label of each roof; roofs too close for two labels share that of the highest."""
    labels: dict[str, str] = {}
    owner = ""
    for name, value in sorted(bandwidth.items(), key=lambda item: -item[1]):
        if owner and bandwidth[owner] < _APART * value:
            labels[owner] += f", {name} {value:.0f}"
        else:
            owner = name
            labels[owner] = f"{name} {value:.0f}"
    return labels


def _clip(x1: float, y1: float, x2: float, y2: float) -> tuple[float, float]:
    """The start of a rising line, moved up to where it enters the plot."""
    floor = _HEIGHT - _BOTTOM
    if y1 <= floor or y1 == y2:
        return x1, y1
    share = (y1 - floor) / (y1 - y2)
    return x1 + share * (x2 - x1), floor
