# SPDX-License-Identifier: Apache-2.0
"""The error of every layer of a model, in order of computation, as one SVG picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

_WIDTH: Final = 960
_HEIGHT: Final = 360
_LEFT: Final = 60
_RIGHT: Final = 20
_TOP: Final = 44
_BOTTOM: Final = 40
_FLOOR: Final = 1e-9
"""Errors below, none included, lie on the axis."""

_STYLE: Final = (
    "text{font:12px sans-serif;fill:#333}.grid{stroke:#ddd}.limit{stroke:#c33;stroke-dasharray:5 4}"
    ".layer{fill:#27a}.beyond{fill:#c33}"
)


def divergence_svg(
    layers: Sequence[Mapping[str, Any]], *, tolerance: float, title: str, first: str | None
) -> str:
    """One dot a layer: its largest error, relative to its largest value, on a logarithmic axis.

    What is beyond `tolerance` is red; the `first` such layer and the worst one carry their names.
    """
    errors = [min(max(row["max_error"], _FLOOR), 1e9) for row in layers]
    top = max(1.0, *errors, tolerance)
    place = _Scale(len(layers), math.log10(_FLOOR), math.ceil(math.log10(top)))
    worst = max(range(len(errors)), key=errors.__getitem__)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20">{escape(title)}</text>',
        *_grid(place),
        _line("limit", place.y(max(tolerance, _FLOOR))),
        f'<text x="{_WIDTH // 2}" y="{_HEIGHT - 10}">layers, in order of computation</text>',
    ]
    for position, (row, error) in enumerate(zip(layers, errors, strict=True)):
        kind = "beyond" if row["max_error"] > tolerance else "layer"
        x, y = place.x(position), place.y(error)
        about = f"{row['name']} ({row['operator']}): {row['max_error']:.1e}"
        dot = f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">'
        parts.append(f"{dot}<title>{escape(about)}</title></circle>")
        if position == worst or row["name"] == first:
            parts.append(_label(row["name"], x, y))
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Scale:
    """Where layers and errors lie in the picture."""

    def __init__(self, count: int, low: float, high: float) -> None:
        self.count, self.low, self.high = max(count - 1, 1), low, high

    def x(self, position: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * position / self.count

    def y(self, error: float) -> float:
        share = (math.log10(error) - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share


def _grid(place: _Scale) -> list[str]:
    parts = []
    for exponent in range(math.ceil(place.low), math.floor(place.high) + 1):
        y = place.y(10.0**exponent)
        parts.append(_line("grid", y))
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">1e{exponent}</text>')
    return parts


def _line(kind: str, y: float) -> str:
    end = _WIDTH - _RIGHT
    return f'<line class="{kind}" x1="{_LEFT}" x2="{end}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _label(name: str, x: float, y: float) -> str:
    anchor = "end" if x > _WIDTH * 0.7 else "start"
    return f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="{anchor}">{escape(name)}</text>'
