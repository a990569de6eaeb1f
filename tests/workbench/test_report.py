# SPDX-License-Identifier: Apache-2.0
"""The page of one kernel: complete, in one file, and nothing in it runs from elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import heddle
from heddle.driver.workbench.report import report_page
from heddle.driver.workbench.roofline_plot import roofline_svg
from heddle.passes.tir.lower import LOWERING
from heddle.schedule import Schedule
from heddle.schedule.rules import default_schedule
from heddle.schedule.workbench.roofline import Machine
from heddle.target import native, parse
from tests.workbench.kernels import product, rows_taken, tiled

VOID = {"meta", "br", "circle", "line"}


class Page(HTMLParser):
    """Checks that tags close in order; collects tabs, panels and their text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tabs: list[str] = []
        self.panels: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if found.get("role") == "tab":
            self.tabs.append(found["aria-controls"])
        if found.get("role") == "tabpanel":
            self.panels.append(found["id"])
        self.links += [found[name] for name in ("href", "src") if name in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_page_is_complete():
    text = report_page(default_schedule(product(), native()), measure=False)
    page = Page(text)
    assert page.open == []
    assert page.links == []
    assert not re.search(r"https?://|url\(|@import", text)
    names = [name.removeprefix("panel-") for name in page.panels]
    passes = [name for name, _step, _verify in LOWERING]
    code = ["LLVM-IR", "optimised-IR", "assembly"]
    assert names == ["overview", "script", "schedule", "scheduled", *passes, *code]
    assert page.tabs == page.panels
    assert text.count('class="hot"') > 8
    assert '<span class="added">' in text
    assert "product</h1>" in text


def test_names_are_escaped():
    func = product()
    text = report_page(Schedule(func.replace(attrs={"name": "a<b>"})), measure=False)
    assert "a&lt;b&gt;" in text
    assert "a<b>" not in text


def test_another_target_and_symbolic_sizes():
    target = parse("llvm -mcpu=haswell")
    text = report_page(tiled(), target=target)
    assert "haswell" in text
    assert "There is no roofline" in text or target.cpu == native().cpu
    text = report_page(Schedule(rows_taken()), measure=False)
    assert "? float operations" in text


def points(svg: str, kind: str) -> list[tuple[float, float]]:
    found = re.findall(rf'<circle class="{kind}" cx="([\d.]+)" cy="([\d.]+)"', svg)
    return [(float(x), float(y)) for x, y in found]


def test_roofs_that_coincide_share_a_label():
    machine = Machine(100.0, {"L1": 400.0, "L2": 150.0, "L3": 15.0, "memory": 14.0})
    svg = roofline_svg(machine, intensity=2.0, source="L3", reached=None)
    labels = re.findall(r">([^<]*GB/s)<", svg)
    assert labels == ["L1 400 GB/s", "L2 150 GB/s", "L3 15, memory 14 GB/s"]
    assert svg.count('class="thin"') == 3


def test_the_roofline_plot():
    machine = Machine(500.0, {"L1": 1000.0, "memory": 40.0})
    svg = roofline_svg(machine, intensity=2.0, source="memory", reached=20.0)
    Page(svg)
    ((x, limit),) = points(svg, "limit")
    ((below, reached),) = points(svg, "reached")
    assert below == x
    assert reached > limit  # further down: a quarter of its roof
    assert "20 GFLOP/s, 25% of its roof" in svg
    high = roofline_svg(machine, intensity=2.0, source="L1", reached=None)
    assert points(high, "limit")[0][1] < limit
    assert points(high, "reached") == []


def test_the_measured_page(tmp_path: Path):
    path = tmp_path / "kernel.html"
    tiled(32).report(path)
    text = path.read_text(encoding="utf-8")
    assert "median" in text
    assert "<svg" in text


KEYS = """
<script>
for (const key of ["ArrowDown", "ArrowDown", "ArrowDown", "d"])
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const panel = document.querySelector("[role=tabpanel]:not([hidden])");
document.title = panel.id + " " + panel.querySelector("pre:not([hidden])").dataset.view;
</script>
"""
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium to try the page in")
def test_keys_move_through_the_page(tmp_path: Path):
    text = report_page(tiled(32), measure=False)
    path = tmp_path / "page.html"
    path.write_text(text.replace("</body>", f"{KEYS}</body>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/user"]
    command = [BROWSER, *options, "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "<title>panel-scheduled whole</title>" in done.stdout


def test_the_command(tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[8,4] x) => (float[8,4] y) '
    model = onnx.parser.parse_model(text + "{ a = Exp(x)  y = Relu(a) }")
    onnx.save(model, tmp_path / "m.onnx")
    env = {**os.environ, "PYTHONPATH": str(Path(heddle.__file__).parents[1])}
    command = [sys.executable, "-m", "heddle.cli", "inspect", "m.onnx", "--html", "k.html"]
    done = subprocess.run(
        [*command, "--json"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    kernel = json.loads(done.stdout)["kernel"]
    assert f"{kernel}</h1>" in (tmp_path / "k.html").read_text(encoding="utf-8")
    wrong = [*command, "--kernel", "nothing"]
    done = subprocess.run(wrong, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"there is no kernel `nothing`; the kernels of the model: `{kernel}`" in done.stderr
