# SPDX-License-Identifier: Apache-2.0
"""The scripts in docs/ir.md are scripts."""

from __future__ import annotations

import re
from pathlib import Path

from heddle import op
from heddle.graph.nodes import Function
from heddle.ir import first_mismatch
from heddle.script import parse, to_text
from heddle.tir.nodes import PrimFunc

assert op  # the example calls operators


def test_examples_parse(project_root: Path) -> None:
    text = (project_root / "docs" / "ir.md").read_text(encoding="utf-8")
    scripts = re.findall(r"```python\n(@.*?)```", text, re.DOTALL)
    parsed = [parse(script) for script in scripts]
    assert [type(item) for item in parsed] == [PrimFunc, Function]
    for item in parsed:
        assert first_mismatch(item, parse(to_text(item))) is None
