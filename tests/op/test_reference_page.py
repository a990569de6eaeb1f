# SPDX-License-Identifier: Apache-2.0
"""docs/operators.md says what the declarations say."""

from __future__ import annotations

from pathlib import Path

from heddle.op.reference import reference_page

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"


def test_page_is_current() -> None:
    assert PAGE.read_text() == reference_page(), (
        "run: python -m heddle.op.reference > docs/operators.md"
    )
