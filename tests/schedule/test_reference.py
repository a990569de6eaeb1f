# SPDX-License-Identifier: Apache-2.0
"""The documentation of the primitives: its examples run, and the page is what they say."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import pytest

from heddle.schedule import Schedule
from heddle.schedule.primitives.base import PRIMITIVES
from heddle.schedule.reference import NAMESPACE, reference

PAGE = Path(__file__).parents[2] / "docs" / "primitives.md"


@pytest.mark.parametrize("name", PRIMITIVES)
def test_the_examples_run(name: str) -> None:
    text = inspect.getdoc(PRIMITIVES[name].call)
    test = doctest.DocTestParser().get_doctest(text, dict(NAMESPACE), name, None, 0)
    report: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert not report, "\n".join(report)


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == reference(), (
        "run `python -m heddle.schedule.reference > docs/primitives.md`"
    )


def test_every_primitive_is_a_method_and_documented() -> None:
    for name, known in PRIMITIVES.items():
        assert getattr(Schedule, name) is known.call
        assert inspect.getdoc(known.call)
