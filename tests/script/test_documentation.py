# SPDX-License-Identifier: Apache-2.0
"""The scripts in docs/ir.md are scripts."""

from __future__ import annotations

import re
from pathlib import Path

from heddle import op
from heddle.graph.nodes import Function
from heddle.graph.verify import verify_module
from heddle.ir import IRModule, first_mismatch
from heddle.script import parse, to_text
from heddle.tir.nodes import PrimFunc

assert op  # the example calls operators


def test_examples_parse(project_root: Path) -> None:
    text = (project_root / "docs" / "ir.md").read_text(encoding="utf-8")
    scripts = re.findall(r"```python\n(@.*?)```", text, re.DOTALL)
    parsed = [parse(script) for script in scripts]
    kinds = [PrimFunc, PrimFunc, PrimFunc, Function, IRModule]
    assert [type(item) for item in parsed] == kinds
    _, by_handle, by_annotation, _, module = parsed
    assert first_mismatch(by_handle, by_annotation) is None
    verify_module(module)
    for item in parsed:
        assert first_mismatch(item, parse(to_text(item))) is None
