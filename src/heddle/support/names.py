# SPDX-License-Identifier: Apache-2.0
"""Names that nothing else has."""

from __future__ import annotations

from collections.abc import Mapping


def fresh_name(stem: str, taken: Mapping[str, object] | set[str]) -> str:
    """`stem`, `stem_1`, `stem_2`, ...: the first that is not taken."""
    name, count = stem, 0
    while name in taken:
        count += 1
        name = f"{stem}_{count}"
    return name
