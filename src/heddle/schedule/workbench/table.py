# SPDX-License-Identifier: Apache-2.0
"""Figures and rows as text for people."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows with their columns set under one another."""
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def bytes_text(size: int | None) -> str:
    """A size in bytes.

    >>> bytes_text(49152)
    '48 KiB'
    """
    if size is None:
        return "? B"
    value: float = size
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"
        value /= 1024
    return ""


def count_text(count: int | None) -> str:
    """A number of things.

    >>> count_text(2097152)
    '2.1 M'
    """
    if count is None:
        return "?"
    if count < 10_000:
        return str(count)
    value: float = count
    for unit in ("k", "M", "G", "T"):
        value /= 1000
        if value < 1000 or unit == "T":
            return f"{value:.3g} {unit}"
    return ""
