# SPDX-License-Identifier: Apache-2.0
"""Pipelines run their passes in order, can be edited by name, and tell instruments."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from heddle.ir import ExternFunc, IRModule
from heddle.ir.passes import Dump, Pass, Pipeline, Timer, Verify
from heddle.support import InternalError, UserError


def adds(name: str) -> Pass:
    def run(module: IRModule) -> IRModule:
        """Adds a function.

        More words.
        """
        return module.with_functions({name: ExternFunc(name)})

    return Pass(name, run)


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline([adds("a"), adds("b"), adds("c")])


def test_order_and_stop_after(pipeline: Pipeline) -> None:
    assert list(pipeline.run(IRModule({}))) == ["a", "b", "c"]
    assert list(pipeline.run(IRModule({}), stop_after="b")) == ["a", "b"]


def test_editing(pipeline: Pipeline) -> None:
    assert pipeline.before("b", adds("x"), adds("y")).names == ("a", "x", "y", "b", "c")
    assert pipeline.after("c", adds("x")).names == ("a", "b", "c", "x")
    assert pipeline.without("a", "c").names == ("b",)
    assert pipeline.replaced("b", adds("x")).names == ("a", "x", "c")
    assert (pipeline + Pipeline([adds("d")])).names == ("a", "b", "c", "d")
    assert pipeline.names == ("a", "b", "c"), "editing makes new pipelines"
    assert repr(pipeline) == "Pipeline(a -> b -> c)"


def test_unknown_and_duplicate_names(pipeline: Pipeline) -> None:
    with pytest.raises(UserError, match="no pass `z`; the passes are: a, b, c"):
        pipeline.before("z", adds("x"))
    with pytest.raises(UserError, match="no pass `z`"):
        pipeline.run(IRModule({}), stop_after="z")
    with pytest.raises(UserError, match="two passes are named `a`"):
        pipeline.before("b", adds("a"))


def test_timer(pipeline: Pipeline) -> None:
    timer = Timer()
    pipeline.run(IRModule({}), instruments=[timer])
    pipeline.run(IRModule({}), instruments=[timer])
    assert list(timer.seconds) == ["a", "b", "c"]
    assert all(seconds > 0 for seconds in timer.seconds.values())
    assert timer.table().splitlines()[-1].startswith("total")


def test_dump(pipeline: Pipeline, tmp_path: Path) -> None:
    def text(module: IRModule) -> str:
        return ",".join(module)

    pipeline.run(IRModule({}), instruments=[Dump(tmp_path / "all", text=text)])
    written = {path.name: path.read_text() for path in (tmp_path / "all").iterdir()}
    assert written == {
        "00_input.py": "\n",
        "01_a.py": "a\n",
        "02_b.py": "a,b\n",
        "03_c.py": "a,b,c\n",
    }
    only = Dump(tmp_path / "b", only=frozenset({"b"}), text=text)
    pipeline.run(IRModule({}), instruments=[only])
    kept = {p.name: p.read_text() for p in (tmp_path / "b").iterdir() if p.name != "00_input.py"}
    assert kept == {"01_before_b.py": "a\n", "02_b.py": "a,b\n"}


def test_dump_by_environment(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEDDLE_DUMP", str(tmp_path / "dump"))
    pipeline.run(IRModule({}))
    assert sorted(path.name for path in (tmp_path / "dump").iterdir()) == [
        "00_input.py",
        "01_a.py",
        "02_b.py",
        "03_c.py",
    ]


def test_verify_names_the_pass(pipeline: Pipeline) -> None:
    def check(module: IRModule) -> None:
        if "b" in module:
            raise UserError("`b` must not be")

    with pytest.raises(InternalError, match="not well-formed after pass `b`: `b` must not be"):
        pipeline.run(IRModule({}), instruments=[Verify(check)])


def test_gc_threshold_is_raised_while_running_and_restored() -> None:
    seen = []

    def look(module: IRModule) -> IRModule:
        seen.append(gc.get_threshold()[0])
        return module

    before = gc.get_threshold()
    Pipeline([Pass("look", look)]).run(IRModule({}))
    assert seen[0] > before[0]
    assert gc.get_threshold() == before


def test_summary_is_the_first_line() -> None:
    assert adds("a").summary() == "Adds a function."
    assert Pass("a", adds("a").run, "Other.").summary() == "Other."
