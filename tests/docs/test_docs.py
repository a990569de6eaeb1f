# SPDX-License-Identifier: Apache-2.0
"""The code in the documentation runs, prints what the page says, and links lead somewhere.

In the tutorials, blocks run page by page and in order, in a folder of their own:

    ```python                 runs; the blocks of a page share their variables
    ```python no-run          only has to be Python
    ```text printed           lines that the block before printed
    ```bash runs              runs, with `heddle` on the path
    ```c file=main.c          is written to that file
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from heddle.op import registry

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "benchmarks" / "README.md"])
TUTORIALS = sorted([DOCS / "getting-started.md", *(DOCS / "tutorials").glob("*.md")])


class Block(NamedTuple):
    """One fenced block: its line in the page, its info string, its text."""

    line: int
    info: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found: list[Block] = []
    start, info, lines = 0, "", None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("```"):
            if lines is not None:
                lines.append(line)
        elif lines is None:
            start, info, lines = number, line[3:].strip(), []
        else:
            found.append(Block(start, info, "\n".join(lines) + "\n"))
            lines = None
    assert lines is None, f"{page}:{start}: the block has no end"
    return found


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("#"):
            path = page.parent / target.partition("#")[0]
            assert path.exists(), f"{name(page)}: {target} leads nowhere"


def _links(page: Path) -> set[Path]:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return {(page.parent / target.partition("#")[0]).resolve() for target in targets}


def test_every_page_is_in_the_index() -> None:
    index = DOCS / "README.md"
    listed = _links(index) | _links(DOCS / "design" / "README.md") | {index.resolve()}
    missing = [name(page) for page in sorted(DOCS.rglob("*.md")) if page.resolve() not in listed]
    assert not missing, f"pages that docs/README.md does not list: {missing}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_is_python(page: Path) -> None:
    for block in blocks(page):
        if block.info.split(" ")[0] == "python":
            ast.parse(block.text, f"{name(page)}:{block.line}")


def _run_python(page: Path, block: Block, variables: dict[str, Any]) -> str:
    printed = io.StringIO()
    text = "\n" * block.line + block.text  # so that a traceback points into the page
    with contextlib.redirect_stdout(printed):
        exec(compile(text, str(page), "exec", dont_inherit=True), variables)
    return printed.getvalue()


def _run_bash(page: Path, block: Block, tools: Path) -> str:
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    library_path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, "PYTHONPATH": library_path},
    )
    assert done.returncode == 0, f"{page}:{block.line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", TUTORIALS, ids=name)
def test_tutorial_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx", reason="the tutorials write ONNX files")
    if page.stem == "pytorch":
        pytest.importorskip("torch", reason="the page is about PyTorch")
    tools, work = tmp_path / "tools", tmp_path / "work"
    tools.mkdir()
    work.mkdir()
    for command, arguments in (("heddle", "-m heddle.cli"), ("python", "")):
        (tools / command).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (tools / command).chmod(0o755)
    monkeypatch.chdir(work)
    operators = dict(registry._REGISTRY)  # what a page declares is gone after it
    monkeypatch.setattr(registry, "_REGISTRY", operators)
    variables: dict[str, Any] = {"__name__": "__tutorial__"}
    printed, ran = "", 0
    for block in blocks(page):
        kind, _, option = block.info.partition(" ")
        if kind == "python" and not option:
            printed = _run_python(page, block, variables)
            ran += 1
        elif block.info == "bash runs":
            printed = _run_bash(page, block, tools)
            ran += 1
        elif option.startswith("file="):
            Path(option.removeprefix("file=")).write_text(block.text)
        elif block.info == "text printed":
            for line in filter(None, map(str.strip, block.text.splitlines())):
                assert line in printed, f"{page}:{block.line}: not printed: {line}\n{printed}"
    assert ran, "a tutorial without anything that runs"
