# SPDX-License-Identifier: Apache-2.0
"""Imports inside `src/heddle` go down: a package imports from lower floors only.

Packages on one floor may use one another in one direction (no cycle). Imports inside functions
and under TYPE_CHECKING count like any other. Nothing is imported here: the sources are parsed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1] / "src" / "heddle"

# The floor of each subpackage. Modules directly in `heddle/` are on the top floor.
FLOORS = {
    "support": 0,
    "ir": 1,
    "target": 1,
    "runtime": 1,
    "arith": 2,
    "tir": 2,
    "graph": 2,
    "script": 3,
    "te": 3,
    "op": 4,
    "passes": 5,
    "schedule": 5,
    "codegen": 6,
    "rpc": 6,
    "tune": 7,
    "frontend": 7,
    "micro": 7,
    "vta": 7,
    "driver": 8,
    "cli": 8,
}
TOP = 8

# These are shipped without the compiler, so what they may import is listed in full.
ONLY = {"runtime": {"support"}, "rpc": {"runtime", "support"}}


class Import(NamedTuple):
    """One import of a Heddle package: where it stands, from which package to which."""

    place: str
    source: str
    target: str


def _package(parts: list[str]) -> str:
    """The subpackage that a dotted name inside heddle belongs to, "" for the top modules."""
    return parts[0] if parts and parts[0] in FLOORS else ""


def _names(node: ast.AST, module: list[str]) -> Iterator[list[str]]:
    """Dotted names below `heddle` that one import statement brings in."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            first, *rest = alias.name.split(".")
            if first == "heddle":
                yield rest
    elif isinstance(node, ast.ImportFrom):
        if node.level:
            base = module[: len(module) - node.level + 1] if node.level > 1 else module
            base = base + (node.module.split(".") if node.module else [])
        else:
            first, *base = (node.module or "").split(".")
            if first != "heddle":
                return
        for alias in node.names:
            yield [*base, alias.name]
    elif isinstance(node, ast.Call):  # importlib.import_module("heddle.ir")
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        name = node.func.id if isinstance(node.func, ast.Name) else name
        if name in ("import_module", "__import__") and node.args:
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                first, *rest = argument.value.split(".")
                if first == "heddle":
                    yield rest


def find_imports(root: Path) -> list[Import]:
    """Every import of a Heddle package in the sources under `root` (the `heddle` folder)."""
    found = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        folder = list(relative.parts[:-1])  # the package that relative imports start from
        source = _package(list(relative.with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            for parts in _names(node, folder):
                place = f"{relative}:{node.lineno}"
                found.append(Import(place, source, _package(parts)))
    return found


def violations(imports: list[Import]) -> list[str]:
    """One line for each import that is not allowed."""
    bad = []
    sideways: dict[tuple[str, str], str] = {}
    for place, source, target in imports:
        if source == target:
            continue
        here, there = FLOORS.get(source, TOP), FLOORS.get(target, TOP)
        if source in ONLY and target not in ONLY[source]:
            allowed = ", ".join(sorted(ONLY[source]))
            bad.append(f"{place}: `{source}` imports `{target or 'heddle'}`; it may use: {allowed}")
        elif there > here or (there == here and target == ""):
            bad.append(
                f"{place}: `{source}` (floor {here}) imports `{target or 'heddle'}` (floor {there})"
            )
        elif there == here and source != "":
            sideways.setdefault((source, target), place)
    for (source, target), place in sideways.items():
        if (target, source) in sideways:
            bad.append(f"{place}: `{source}` and `{target}` import each other")
    return bad


def test_every_package_has_a_floor() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - set(FLOORS) == set(), "give the new package a floor in FLOORS"
    assert packages, "no package found: is the path right?"


def test_imports_go_down() -> None:
    imports = find_imports(ROOT)
    assert imports, "no import found: is the path right?"
    bad = violations(imports)
    assert not bad, "\n" + "\n".join(bad)


def test_the_check_itself(tmp_path: Path) -> None:
    """Each way to break the rule is found, and what is allowed is not."""
    sources = {
        "ir/good.py": "from heddle.support import env\nimport heddle.ir.node\nfrom . import node\n",
        "ir/up.py": "def f():\n    from heddle.tir import stmt\n",
        "ir/relative.py": "from ..graph import expr\n",
        "ir/typing_only.py": "if TYPE_CHECKING:\n    import heddle.op.registry\n",
        "ir/top.py": "from heddle import compile\n",
        "ir/dynamic.py": "importlib.import_module('heddle.codegen.llvm')\n",
        "runtime/sibling.py": "from heddle.ir import dtype\n",
        "tir/a.py": "from heddle.arith import bounds\n",
        "arith/b.py": "from heddle.tir import stmt\n",
        "cli/main.py": "from heddle.driver import compile\nfrom heddle.support import env\n",
        "api.py": "from heddle.driver import compile\n",
    }
    for name, text in sources.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    places = sorted(line.split(":")[0] for line in violations(find_imports(tmp_path)))
    assert places == [
        "arith/b.py",
        "ir/dynamic.py",
        "ir/relative.py",
        "ir/top.py",
        "ir/typing_only.py",
        "ir/up.py",
        "runtime/sibling.py",
        "tir/a.py",
    ]
