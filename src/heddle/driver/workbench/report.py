# SPDX-License-Identifier: Apache-2.0
"""`sch.report(path)`: one HTML page of one kernel, complete in itself."""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

from heddle.driver.workbench.assembly import Assembly, find_loops
from heddle.driver.workbench.bench import BenchResult, bench
from heddle.driver.workbench.roofline_plot import roofline_svg
from heddle.driver.workbench.stages import Stage, stages_of
from heddle.schedule.schedule import Schedule
from heddle.schedule.workbench import BlockReport, Explanation, explain, tool
from heddle.schedule.workbench.table import bytes_text, count_text
from heddle.support import UserError
from heddle.target import Target, native

_HERE: Final = Path(__file__).parent
_MOST_LINES: Final = 20_000
_GROUPS: Final = {"": "Figures", "loops": "Loops", "lowering": "Lowering", "code": "Code"}
_KEYS: Final = (
    "<p><kbd>↑</kbd> <kbd>↓</kbd> stage<br><kbd>d</kbd> changes or whole<br>"
    "<kbd>n</kbd> <kbd>p</kbd> next, previous mark</p>"
)
_TOKENS: Final[Mapping[str, re.Pattern[str]]] = {
    "python": re.compile(
        r"(?P<c>\#.*)|(?P<s>\"[^\"]*\"|'[^']*')|(?P<n>\b[TGI](?:\.\w+)+|@\w[\w.]*)"
        r"|(?P<k>\b(?:def|for|in|with|if|else|while|assert|pass|return|not|and|or)\b)"
        r"|(?P<d>(?<![\w.])\d[\w.]*)"
    ),
    "llvm": re.compile(
        r"(?P<c>;.*)|(?P<s>\"[^\"]*\")|(?P<n>[%@!][\w.]+)"
        r"|(?P<k>\b(?:define|declare|call|load|store|br|ret|phi|getelementptr|select|fmul|fadd|fsub"
        r"|icmp|add|mul|sub|fcmp|attributes)\b)|(?P<d>(?<![\w.])-?\d[\w.+]*)"
    ),
    "asm": re.compile(
        r"(?P<c>\#.*)|(?P<n>%\w+)|(?P<k>^\t[a-z]\w*)|(?P<s>^[\w.$]+:)|(?P<d>\$?-?\b0?x?\d+\b)"
    ),
}


@tool
def report(
    sch: Schedule,
    path: str | os.PathLike[str],
    *,
    target: Target | None = None,
    sizes: Mapping[str, int] | None = None,
    measure: bool = True,
) -> None:
    """See `Schedule.report`."""
    Path(path).write_text(
        report_page(sch, target=target, sizes=sizes, measure=measure), encoding="utf-8"
    )


def report_page(
    sch: Schedule,
    *,
    target: Target | None = None,
    sizes: Mapping[str, int] | None = None,
    measure: bool = True,
) -> str:
    """The page as text."""
    device = native() if target is None else target
    found = explain(sch, target=device, sizes=sizes, measure=measure)
    times = _times(sch, device, sizes) if measure else None
    stages = stages_of(sch, device)
    assembly = Assembly(stages[-1].text, find_loops(stages[-1].text))
    panels = [("overview", "", "", _overview(found, times, assembly))]
    panels += [(s.name, s.group, _amount(s), _stage(s, assembly)) for s in stages]
    return _page(found, _header(found, times, assembly), panels)


def _times(sch: Schedule, target: Target, sizes: Mapping[str, int] | None) -> BenchResult | None:
    """How fast the kernel is; None where it cannot run here."""
    here = native()
    if (target.triple, target.cpu) != (here.triple, here.cpu):
        return None
    try:
        return bench(sch, rounds=10, sizes=sizes)
    except UserError:
        return None


# -- the page ----------------------------------------------------------------------------------


def _page(found: Explanation, header: str, panels: Sequence[tuple[str, str, str, str]]) -> str:
    tabs, bodies, group = [], [], None
    for number, (name, part, note, body) in enumerate(panels):
        if part != group:
            tabs.append(f"<p>{_GROUPS[part]}</p>")
            group = part
        key = f"panel-{name.replace(' ', '-')}"
        tabs.append(
            f'<button role="tab" id="tab-{number}" aria-controls="{key}" aria-selected="false" '
            f'tabindex="-1">{escape(name)}<small>{note}</small></button>'
        )
        bodies.append(
            f'<section role="tabpanel" id="{key}" aria-labelledby="tab-{number}" tabindex="0"'
            f"{' hidden' if number else ''}>{body}</section>"
        )
    css, js = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(found.name)}: a kernel by Heddle</title>",
            f"<style>\n{css}</style></head><body>",
            header,
            '<nav role="tablist" aria-orientation="vertical" aria-label="Stages">',
            *tabs,
            _KEYS,
            "</nav>",
            "<main>",
            *bodies,
            f"</main><script>\n{js}</script></body></html>\n",
        ]
    )


def _header(found: Explanation, times: BenchResult | None, assembly: Assembly) -> str:
    figures = [("", f"{found.target}, {found.cores} core{'s' * (found.cores != 1)}")]
    if times is not None:
        figures.append((f"{times.milliseconds:.3g} ms", "median"))
        if times.gflops:
            share = f", {times.share:.0%} of the peak" if times.share is not None else ""
            figures.append((f"{times.gflops:.3g} GFLOP/s", share.lstrip(", ")))
    if found.bound is not None and found.attainable_gflops:
        figures.append(("bound by", f"{found.bound}: {found.attainable_gflops:.3g} GFLOP/s"))
    if assembly.hot is not None and assembly.hot.spills:
        figures.append(("spills", f"{assembly.hot.spills} in the hot loop"))
    spans = [
        f'<span class="figure"><b>{escape(bold)}</b> {escape(text)}</span>'
        for bold, text in figures
    ]
    return f"<header><h1>{escape(found.name)}</h1>{''.join(spans)}</header>"


# -- the overview ------------------------------------------------------------------------------


def _overview(found: Explanation, times: BenchResult | None, assembly: Assembly) -> str:
    parts = ["<h2>Overview</h2>"]
    about = f"{count_text(found.flops)} float operations, {bytes_text(found.bytes)} of parameters"
    if found.intensity is not None:
        about += f": {found.intensity:.3g} operations per byte"
    if found.source is not None:
        about += f". All that it touches fits in {found.source}"
    parts.append(f'<p class="about">{about}.</p>')
    if found.machine is not None and found.intensity and found.source is not None:
        reached = None if times is None else times.gflops
        plot = roofline_svg(
            found.machine, intensity=found.intensity, source=found.source, reached=reached
        )
        parts.append(f'<div class="plot">{plot}</div>')
    else:
        parts.append(
            '<p class="about">There is no roofline: the kernel does no float arithmetic, or its '
            "sizes or the limits of the target are not known.</p>"
        )
    if assembly.hot is not None:
        parts.append(f"<h3>Hot loop</h3><p class='about'>{escape(str(assembly.hot))}</p>")
    parts += [_block(block) for block in found.blocks]
    return "\n".join(parts)


def _block(block: BlockReport) -> str:
    counts = f"{count_text(block.instances)} instances, {count_text(block.flops)} float operations"
    facts = [
        f"{block.kind}, {counts}",
        f"loops: {', '.join(block.loops) or 'none'}",
    ]
    if block.registers is not None:
        used = block.registers
        text = f"{used.needed} of {used.available} vector registers"
        facts.append(f'<span class="warn">{text}: spills</span>' if used.spills else text)
    if block.bound is not None:
        needs = (f"{name} {1e3 * value:.3g} µs" for name, value in block.bounds.items())
        facts.append(f"needs at least: {', '.join(needs)}; bound by {block.bound}")
    accesses = [
        (
            access.kind,
            access.text,
            f"{access.pattern} {access.stride}" if access.pattern == "strided" else access.pattern,
            str(access.lanes),
            count_text(access.issued),
            "in a register" if access.resident else "",
        )
        for access in block.accesses
    ]
    levels = [
        (
            level.where if number == 0 else f"one {level.where}",
            "" if level.extent is None else str(level.extent),
            bytes_text(level.total),
            level.fits or "?",
            ", ".join(f"{name} {bytes_text(size)}" for name, size in level.bytes.items()),
        )
        for number, level in enumerate(block.levels)
    ]
    return "\n".join(
        [
            f"<h3>Block {escape(block.name)}</h3>",
            f'<p class="about">{"<br>".join(facts)}</p>',
            _table(("access", "element", "lanes lie", "lanes", "issued", ""), accesses, {3, 4}),
            "<p></p>",
            _table(("touched by", "of", "bytes", "fits", "of which"), levels, {1, 2}),
        ]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], right: set[int]) -> str:
    def cells(row: Sequence[str], kind: str) -> str:
        return "".join(
            f"<{kind}{' class=number' if at in right else ''}>{escape(text)}</{kind}>"
            for at, text in enumerate(row)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table><thead><tr>{cells(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"


# -- a stage -----------------------------------------------------------------------------------


def _amount(stage: Stage) -> str:
    """What changed, in a word."""
    if stage.before is None:
        return ""
    if stage.before == stage.text:
        return "same"
    marks = [line[:1] for line in _diff(stage)]
    return f"+{marks.count('+')} −{marks.count('-')}"


@functools.lru_cache(maxsize=64)
def _diff(stage: Stage) -> tuple[str, ...]:
    """The whole text with a mark at the start of each line."""
    before, after = (stage.before or "").splitlines(), stage.text.splitlines()
    context = max(len(before), len(after))
    lines = list(difflib.unified_diff(before, after, n=context, lineterm=""))[3:]
    return tuple(lines)


def _stage(stage: Stage, assembly: Assembly) -> str:
    parts = [f"<h2>{escape(stage.name)}</h2>"]
    about = stage.about
    hot = assembly.hot if stage.language == "asm" else None
    if hot is not None:
        about += f" The hot loop is marked: {hot}."
    if stage.before == stage.text:
        about += " It changed nothing."
    parts.append(f'<p class="about">{escape(about)}</p>')
    lines = stage.text.splitlines()
    marks = dict.fromkeys(range(hot.first, hot.last + 1), "hot") if hot is not None else {}
    whole = _code(((marks.get(n, ""), line) for n, line in enumerate(lines)), stage.language)
    if stage.before is None or stage.before == stage.text:
        goto = _views("<button>to the hot loop</button>") if marks else ""
        return "\n".join([*parts, goto, f"<pre>{whole}</pre>"])
    names = {"+": "added", "-": "gone"}
    changes = _code(((names.get(s[:1], ""), s[1:]) for s in _diff(stage)), stage.language)
    views = _views(
        '<button data-view="changes" aria-pressed="true">changes</button>',
        '<button data-view="whole" aria-pressed="false">whole</button>',
    )
    both = (
        f'<pre class="changes" data-view="changes">{changes}</pre>',
        f'<pre data-view="whole" hidden>{whole}</pre>',
    )
    return "\n".join([*parts, views, *both])


def _views(*buttons: str) -> str:
    return f'<div class="views">{"".join(buttons)}</div>'


def _code(lines: Iterator[tuple[str, str]], language: str) -> str:
    shown = []
    for number, (mark, line) in enumerate(lines):
        if number == _MOST_LINES:
            shown.append(f'<span class="cut">... only the first {_MOST_LINES} lines</span>')
            break
        kind = f' class="{mark}"' if mark else ""
        shown.append(f"<span{kind}>{_coloured(line, language) or ' '}</span>")
    return "".join(shown)


def _coloured(line: str, language: str) -> str:
    parts, at = [], 0
    for found in _TOKENS[language].finditer(line):
        parts.append(escape(line[at : found.start()]))
        parts.append(f'<i class="{found.lastgroup}">{escape(found[0])}</i>')
        at = found.end()
    return "".join([*parts, escape(line[at:])])
